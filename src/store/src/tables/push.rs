//! Push: what users have not read, and where they want to be told of it. Written and read by the services' push module only.

use std::collections::BTreeMap;

use ruma::{OwnedEventId, OwnedUserId};
use serde::{Deserialize, Serialize};

use crate::{
    ids::{EventNid, Position, RoomNid},
    record,
    record::{DecodeError, Value, ValueWriter, decode_fields, split_version},
    table::Table,
};

/// What is unread of one thread, or of the main timeline: places in the log, oldest first.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct UnreadThread {
    /// Of the events that the user was notified of.
    pub notified: Vec<u64>,
    /// Of those among them that are highlighted.
    pub highlighted: Vec<u64>,
}

/// What was unread for a user in a room when it was last written down.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct UnreadRecord {
    /// The place in the log up to which events have been looked at.
    pub counted_to: u64,
    /// The place in the log of the user's joining: the record is of this stay in the room only.
    pub joined_at: u64,
    /// When the list of ignored users that was applied was written; 0 if there was none.
    pub ignored_at: u64,
    /// The place in the log at which the counts last changed, or one shortly after it.
    pub changed_at: u64,
    /// What is in no thread.
    pub main: UnreadThread,
    /// By root: the threads in which something is unread.
    pub threads: BTreeMap<OwnedEventId, UnreadThread>,
}

impl UnreadRecord {
    /// What is unread of a thread, to be added to; of the main timeline if there is no root.
    pub fn thread_mut(&mut self, root: Option<OwnedEventId>) -> &mut UnreadThread {
        match root {
            None => &mut self.main,
            Some(root) => self.threads.entry(root).or_default(),
        }
    }
}

impl Value for UnreadRecord {
    fn encode(&self, writer: &mut ValueWriter) {
        writer.record(2, self);
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        match split_version(bytes)? {
            (2, fields) => decode_fields(fields),
            (1, fields) => decode_fields::<v1::UnreadRecord>(fields).map(Self::from),
            (other, _) => {
                Err(DecodeError::new(format!("UnreadRecord has version {other}, this program knows up to 2")))
            }
        }
    }
}

mod v1 {
    use ruma::OwnedEventId;
    use serde::{Deserialize, Serialize};

    use crate::ids::EventNid;

    #[derive(Serialize, Deserialize)]
    pub(super) struct UnreadEvent {
        pub(super) position: u64,
        pub(super) nid: EventNid,
        /// The root of its thread; `None`: the main timeline.
        pub(super) thread: Option<OwnedEventId>,
        pub(super) is_highlight: bool,
    }

    #[derive(Serialize, Deserialize)]
    pub(super) struct UnreadRecord {
        pub(super) counted_to: u64,
        pub(super) joined_at: u64,
        pub(super) ignored_at: u64,
        pub(super) changed_at: u64,
        /// Oldest first.
        pub(super) unread: Vec<UnreadEvent>,
    }

    impl From<UnreadRecord> for super::UnreadRecord {
        fn from(old: UnreadRecord) -> Self {
            let UnreadRecord { counted_to, joined_at, ignored_at, changed_at, unread } = old;
            let mut record = Self { counted_to, joined_at, ignored_at, changed_at, ..Self::default() };
            for event in unread {
                let thread = record.thread_mut(event.thread);
                thread.notified.push(event.position);
                if event.is_highlight {
                    thread.highlighted.push(event.position);
                }
            }
            record
        }
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_older_version_wrote_is_read() {
        let root = OwnedEventId::try_from("$root").unwrap();
        let event = |position, thread: Option<&OwnedEventId>, is_highlight| v1::UnreadEvent {
            position,
            nid: EventNid(7),
            thread: thread.cloned(),
            is_highlight,
        };
        let unread = vec![event(3, None, false), event(4, Some(&root), true), event(5, None, true)];
        let old = v1::UnreadRecord { counted_to: 9, joined_at: 1, ignored_at: 2, changed_at: 5, unread };
        let mut writer = ValueWriter::default();
        writer.record(1, &old);
        let record = UnreadRecord::decode(&writer.bytes).unwrap();
        assert_eq!(record.main, UnreadThread { notified: vec![3, 5], highlighted: vec![5] });
        assert_eq!(record.threads[&root], UnreadThread { notified: vec![4], highlighted: vec![4] });
        assert_eq!((record.counted_to, record.joined_at, record.ignored_at, record.changed_at), (9, 1, 2, 5));

        let mut writer = ValueWriter::default();
        record.encode(&mut writer);
        assert_eq!(UnreadRecord::decode(&writer.bytes).unwrap(), record);
    }
}
