//! What the server does beside writing events: accounts, devices, profiles and account data here, and one module for each
//! further noun.
//!
//! Services own their rules and their tables; they know nothing of HTTP servers, configuration files or RocksDB.

pub mod account_data;
pub mod accounts;
pub mod app_services;
pub mod connector;
pub mod delayed_events;
pub mod deliveries;
pub mod delivery_health;
pub mod devices;
pub mod directory;
pub mod edu;
pub mod emails;
pub mod event_follower;
pub mod explain_delivery;
pub mod federation;
pub mod filters;
pub mod fsck;
mod guarded;
pub mod guests;
pub mod invite_filter;
pub mod key_backup;
pub mod keys;
pub mod mail;
pub mod media;
pub mod policy;
pub mod presence;
pub mod previews;
pub mod profile;
pub mod push;
pub mod readers;
pub mod receipts;
pub mod registration;
pub mod reports;
pub mod room_summary;
pub mod room_upgrades;
pub mod search;
pub mod secret;
pub mod server_notices;
pub mod sliding_sync;
pub mod spaces;
pub mod sync;
pub mod tags;
pub mod thread_subscriptions;
pub mod to_device;
pub mod turn;
pub mod typing;
pub mod uia;
pub mod user_directory;
mod words;

pub use chappe_store::{CommitError, StoreError};

#[cfg(test)]
mod ephemeral_tests;
#[cfg(test)]
mod test_accounts;
#[cfg(test)]
mod test_rooms;

// The name by which files for tests that other crates take in too know this one.
#[cfg(test)]
extern crate self as chappe_services;
