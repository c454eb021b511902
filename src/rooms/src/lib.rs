//! Rooms: the event graph, state, membership. The only writer of events.
//!
//! What comes from clients enters by [`send`], [`create`] and [`membership`]; what comes from other servers by [`ingest`] and
//! [`handshake`]. Both end in [`staging`], where one batch takes form: event, state, indexes, extremities, outgoing rows. Readers
//! use [`read`], [`timeline`] and [`visibility`]. What must be fetched from elsewhere is asked of [`remote::Remote`].
//!
//! Nothing here knows HTTP, clients' tokens or sync: those follow the log.

pub mod aliases;
pub mod auth_chain;
pub mod backfill;
pub mod by_time;
mod catch_up;
pub mod client_event;
pub mod create;
pub mod erasure;
pub mod error;
pub mod event;
mod event_log;
mod extremities;
pub mod fsck;
pub mod handshake;
mod heads;
pub mod ingest;
pub mod invite;
pub mod join;
mod left_out;
pub mod locks;
pub mod membership;
pub mod paging;
pub mod partial;
mod permits;
pub mod policy_server;
pub mod read;
mod refill;
pub mod relations;
pub mod relationships;
pub mod remote;
pub mod resolve;
pub mod send;
mod send_queue;
mod spool;
pub mod staging;
pub mod state;
pub mod state_view;
mod stripped;
pub mod third_party;
pub mod timeline;
pub mod told;
pub mod upgrade;
pub mod visibility;

#[cfg(test)]
mod tests;

use std::{ops::Deref, path::PathBuf, sync::Arc};

use chappe_protocol::{clock::Clock, sign::ServerSigner};
use chappe_store::Store;
use ruma::{OwnedServerName, RoomVersionId, ServerName};

pub use error::RoomError;
pub use event::Event;
pub use read::Room;
pub use remote::{Remote, RemoteError};
pub use send::{EventDraft, Sent};

use crate::{
    auth_chain::AuthChains,
    event::EventCache,
    event_log::EndOfLog,
    heads::Heads,
    locks::{OfRooms, RoomLocks},
    membership::LocalProfiles,
    partial::PartialRooms,
    permits::Permits,
    remote::{AllInvites, FederationGate, InviteGate},
    send_queue::SendQueue,
    state::StateTrees,
};

/// How rooms behave on this server.
#[derive(Clone, Debug)]
pub struct RoomsConfig {
    /// The version of rooms whose creator names none.
    pub default_version: RoomVersionId,
    /// Which new rooms are encrypted when their creator says nothing.
    pub default_encryption: DefaultEncryption,
    /// State tree nodes kept in memory.
    pub state_cache_nodes: usize,
    /// What events that are kept in memory, parsed, may take.
    pub event_cache_bytes: usize,
    /// Where large answers of other servers are put aside; the system's directory for temporary files if not said.
    pub spool_dir: Option<PathBuf>,
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum DefaultEncryption {
    Off,
    /// Rooms made with an invite-only preset.
    Invite,
    All,
}

impl Default for RoomsConfig {
    fn default() -> Self {
        Self {
            default_version: RoomVersionId::V12,
            default_encryption: DefaultEncryption::Off,
            state_cache_nodes: 50_000,
            event_cache_bytes: 24 << 20,
            spool_dir: None,
        }
    }
}

/// All rooms of this server. Cheap to clone.
#[derive(Clone)]
pub struct Rooms(Arc<Parts>);

/// What rooms work with.
#[derive(Clone)]
pub struct Parts {
    pub(crate) store: Store,
    pub(crate) trees: StateTrees,
    pub(crate) chains: Arc<AuthChains>,
    pub(crate) cache: Arc<EventCache>,
    pub(crate) heads: Arc<Heads>,
    pub(crate) permits: Arc<Permits>,
    pub(crate) end_of_log: Arc<EndOfLog>,
    pub(crate) locks: Arc<RoomLocks>,
    pub(crate) send_queues: Arc<OfRooms<SendQueue>>,
    pub(crate) partial: Arc<PartialRooms>,
    pub(crate) signer: Arc<ServerSigner>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) remote: Arc<dyn Remote>,
    pub(crate) gate: Arc<dyn FederationGate>,
    pub(crate) invites: Arc<dyn InviteGate>,
    pub(crate) profiles: Arc<dyn LocalProfiles>,
    pub(crate) config: Arc<RoomsConfig>,
    pub(crate) server_name: OwnedServerName,
}

/// Does what may take long beside the threads that serve requests.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, RoomError> + Send + 'static,
) -> Result<T, RoomError> {
    tokio::task::spawn_blocking(work).await.map_err(|error| RoomError::broken(error.to_string()))?
}

impl Deref for Rooms {
    type Target = Parts;

    fn deref(&self) -> &Parts {
        &self.0
    }
}

impl Rooms {
    pub fn new(
        store: Store,
        signer: Arc<ServerSigner>,
        clock: Arc<dyn Clock>,
        remote: Arc<dyn Remote>,
        gate: Arc<dyn FederationGate>,
        profiles: Arc<dyn LocalProfiles>,
        config: RoomsConfig,
    ) -> Self {
        Self(Arc::new(Parts {
            trees: StateTrees::new(store.clone(), config.state_cache_nodes),
            chains: Arc::new(AuthChains::new(store.clone())),
            cache: Arc::new(EventCache::new(config.event_cache_bytes)),
            heads: Arc::default(),
            permits: Arc::default(),
            end_of_log: Arc::default(),
            locks: Arc::default(),
            send_queues: Arc::default(),
            partial: Arc::new(PartialRooms::default()),
            server_name: signer.server_name().to_owned(),
            store,
            signer,
            clock,
            remote,
            gate,
            invites: Arc::new(AllInvites),
            profiles,
            config: Arc::new(config),
        }))
    }

    /// These rooms, whose local members are invited only as `invites` lets them be.
    pub fn with_invite_gate(self, invites: Arc<dyn InviteGate>) -> Self {
        Self(Arc::new(Parts { invites, ..Parts::clone(&self) }))
    }

    pub fn server_name(&self) -> &ServerName {
        &self.server_name
    }

    /// What time it is, in milliseconds since the epoch.
    pub fn now_ms(&self) -> u64 {
        self.clock.now_ms()
    }

    pub fn store(&self) -> &Store {
        &self.store
    }

    pub fn config(&self) -> &RoomsConfig {
        &self.config
    }
}
