//! Whom threads notify: subscriptions of local users. Written by the services' `thread_subscriptions` module only.

use ruma::{OwnedEventId, OwnedUserId};
use serde::{Deserialize, Serialize};

use crate::{
    ids::{Position, RoomNid},
    record,
    record::Stamped,
    table::Table,
};

/// How a user stands to a thread.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum ThreadSubscriptionRecord {
    Subscribed {
        /// By the client's own decision, not by the user's.
        automatic: bool,
    },
    /// The user was subscribed, and wants to be no longer: automatic subscriptions for what came before do not count.
    Unsubscribed,
}
record!(ThreadSubscriptionRecord, 1);

/// User, room, thread root -> subscription, stamped with the position it changed at.
pub const THREAD_SUBSCRIPTIONS: Table<(OwnedUserId, RoomNid, OwnedEventId), Stamped<ThreadSubscriptionRecord>> =
    Table::new(161, "thread_subscriptions");

/// A thread.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ThreadKey {
    pub room: RoomNid,
    pub root: OwnedEventId,
}
record!(ThreadKey, 1);

/// User, position -> the thread whose subscription changed then: only the latest change of each has a row. Read by sync.
pub const THREAD_SUBSCRIPTION_LOG: Table<(OwnedUserId, Position), ThreadKey> =
    Table::new(162, "thread_subscription_log");
