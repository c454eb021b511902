//! Push: what users have not read, and where they want to be told of it. Written and read by the services' push module only.

use ruma::{OwnedEventId, OwnedUserId};
use serde::{Deserialize, Serialize};

use crate::{
    ids::{EventNid, Position, RoomNid},
    record,
    table::Table,
};

/// An event that a user was notified of and has not read.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct UnreadEvent {
    /// Its place in the log.
    pub position: u64,
    pub nid: EventNid,
    /// The root of its thread; `None`: the main timeline.
    pub thread: Option<OwnedEventId>,
    pub is_highlight: bool,
}

/// What was unread for a user in a room when it was last written down.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct UnreadRecord {
    /// The place in the log up to which events have been looked at.
    pub counted_to: u64,
    /// The place in the log of the user's joining: the record is of this stay in the room only.
    pub joined_at: u64,
    /// When the list of ignored users that was applied was written; 0 if there was none.
    pub ignored_at: u64,
    /// The place in the log at which the counts last changed, or one shortly after it.
    pub changed_at: u64,
    /// Oldest first.
    pub unread: Vec<UnreadEvent>,
}
record!(UnreadRecord, 1);

/// User, room -> what is unread. A cache of what the timeline, the receipts and the push rules say, written when it took long to work
/// out: at most one row for each room that a user is or was in.
pub const UNREAD: Table<(OwnedUserId, RoomNid), UnreadRecord> = Table::new(150, "unread").cached();

/// Where a user wants to be told of events.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct PusherRecord {
    /// `http`, `email`, or what else a client may have named.
    pub kind: String,
    pub app_display_name: String,
    pub device_display_name: String,
    pub profile_tag: Option<String>,
    pub lang: String,
    /// A JSON object as text, with the `url` of an HTTP pusher in it.
    pub data: String,
    /// The device that set it, and with which it goes.
    pub device_id: String,
    /// In milliseconds since the Unix epoch.
    pub set_at_ms: u64,
}
record!(PusherRecord, 1);

/// User, app id, pushkey -> pusher. Bounded for each user.
pub const PUSHERS: Table<(OwnedUserId, String, String), PusherRecord> = Table::new(151, "pushers");

/// App id, pushkey, user: the rows of `pushers` by whom they reach, since a device may change hands.
pub const PUSHKEYS: Table<(String, String, OwnedUserId), ()> = Table::new(152, "pushkeys");

/// An event that a pusher is yet to be told of.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct QueuedPush {
    pub room: RoomNid,
    pub nid: EventNid,
    /// What the push rules want done: a JSON array as text.
    pub actions: String,
    /// In milliseconds since the Unix epoch.
    pub queued_at_ms: u64,
}
record!(QueuedPush, 1);

/// User, app id, pushkey, position -> an event to tell the pusher of, in order. Written by the follower of the event log, in the batch
/// that moves it on; deleted once the push gateway has it, or when it is too old. Bounded for each pusher that fails.
pub const PUSH_QUEUE: Table<(OwnedUserId, String, String, Position), QueuedPush> = Table::new(153, "push_queue");

/// How a pusher has been doing.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct PusherState {
    /// Failed requests in a row; of a pusher that writes emails, mails in a row without everything having been read.
    pub failures: u32,
    /// Not before this it is tried again, in milliseconds since the Unix epoch.
    pub retry_at_ms: u64,
    /// The unread count that it was last told.
    pub badge: u64,
}
record!(PusherState, 1);

/// (nothing) -> the secret by which links in mails name a pusher to be deleted. Made when the first such mail is written.
pub const UNSUBSCRIBE_SECRET: Table<(), Vec<u8>> = Table::new(251, "unsubscribe_secret");

/// User, app id, pushkey -> how the pusher has been doing. Goes with the pusher.
pub const PUSHER_STATES: Table<(OwnedUserId, String, String), PusherState> = Table::new(154, "pusher_states");
