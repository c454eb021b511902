//! Every table of the store, one file a noun. `docs/STORAGE.md` lists them.
//!
//! Table ids are never reused. Ranges: 1-9 the store itself, 10-39 rooms, 40-59 accounts, 60-79 end-to-end encryption,
//! 80-99 federation, 100-109 media, 110-139 what sync reads beside rooms, 140-160 rooms again, 161-169
//! what sync reads again, 188-197 application services, mail and previews, 200-210 rooms once more. 18 was a former table of relations.

pub mod account_data;
pub mod accounts;
pub mod app_services;
pub mod auth_chain;
pub mod catch_up;
pub mod delayed_events;
pub mod deliveries;
pub mod destinations;
pub mod domains;
pub mod e2ee;
pub mod emails;
pub mod events;
pub mod interned;
pub mod key_backup;
pub mod left_out;
pub mod media;
pub mod moderation;
pub mod outgoing;
pub mod partial_rooms;
pub mod presence;
pub mod push;
pub mod receipts;
pub mod relations;
pub mod relationships;
pub mod rooms;
pub mod server_keys;
pub mod sliding_sync;
pub mod state;
pub mod thread_subscriptions;
pub mod to_device;
pub mod user_directory;
