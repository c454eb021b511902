//! Events and where they stand. Written by the rooms crate only.

use ruma::OwnedEventId;
use serde::{Deserialize, Serialize};

use crate::{
    ids::{EventNid, Order, Position, RoomNid},
    record,
    record::{DecodeError, Value, ValueWriter, split_version},
    table::Table,
};

/// How an event stands with this server.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum EventStatus {
    /// Part of the room.
    Accepted,
    /// Part of the graph, but refused by the room's current state: kept from clients and from new events' `prev_events`.
    SoftFailed,
    /// Refused by the authorization rules: takes no part in state.
    Rejected,
    /// Known only as somebody's auth event or state: not in the timeline, its own place in the graph not looked at.
    Outlier,
}

/// What this server knows of an event beside its bytes.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct EventRecord {
    pub room: RoomNid,
    pub event_id: OwnedEventId,
    pub status: EventStatus,
    pub depth: u64,
    /// Redacted by an applied redaction: the bytes are already the redacted ones.
    pub redacted_because: Option<OwnedEventId>,
    /// The root of the state before this event and after it; `None` while unknown (outliers).
    pub state_before: Option<[u8; 16]>,
    pub state_after: Option<[u8; 16]>,
    /// Numbers of the auth events that are known here.
    pub auth_events: Vec<EventNid>,
    /// Why it was rejected or soft-failed.
    pub reason: Option<String>,
    /// The user and device and transaction that sent it, if it was sent here.
    pub sent_by: Option<SentBy>,
}
record!(EventRecord, 1);

#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SentBy {
    pub device_id: String,
    pub transaction_id: String,
}

/// An event that this server learnt after events that have their place behind it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LateArrival {
    /// Its own depth and order.
    pub place: (u64, Order),
    /// Depth and order of the deepest live event when it came.
    pub deepest: (u64, Order),
}

impl Value for LateArrival {
    fn encode(&self, writer: &mut ValueWriter) {
        writer.bytes(&[1]);
        for (depth, order) in [self.place, self.deepest] {
            depth.encode(writer);
            order.encode(writer);
        }
    }

    fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        let (1, fields) = split_version(bytes)? else {
            return Err(DecodeError::new("unknown version of a late arrival"));
        };
        let place = |from: usize| match (fields.get(from..from + 8), fields.get(from + 8..from + 17)) {
            (Some(depth), Some(order)) => Ok((u64::decode(depth)?, Order::decode(order)?)),
            _ => Err(DecodeError::new("late arrival is too short")),
        };
        Ok(Self { place: place(0)?, deepest: place(17)? })
    }
}

/// Number -> record.
pub const EVENTS: Table<EventNid, EventRecord> = Table::new(10, "events");

/// Number -> the event as canonical JSON text, with hashes and signatures, without `unsigned`. Replaced only by its redacted form.
pub const EVENT_JSON: Table<EventNid, String> = Table::new(11, "event_json");

/// Event id -> number.
pub const EVENT_NIDS: Table<OwnedEventId, EventNid> = Table::new(12, "event_nids");

/// Room, position -> event: the timeline as this server learnt it, accepted events only. Read by sync.
pub const TIMELINE: Table<(RoomNid, Position), EventNid> = Table::new(13, "timeline");

/// Room, position -> an event that came then, and has its place among those that were there: a live one that was not deeper than all
/// live events before it, at its position in [`TIMELINE`]; or a backfilled one that fills a gap behind the first live event. Read where a
/// position is to become a place in the topological order, and the other way round.
pub const LATE_ARRIVALS: Table<(RoomNid, Position), LateArrival> = Table::new(220, "late_arrivals");

/// Position -> event: the same events over all rooms, in order. Read by the followers of the event log.
pub const EVENT_LOG: Table<Position, EventNid> = Table::new(144, "event_log");

/// Position -> event that was backfilled, in the order in which they came: not the one in which they were sent. Read by the followers of
/// the event log that want all history.
pub const BACKFILL_LOG: Table<Position, EventNid> = Table::new(203, "backfill_log");

/// Name of a follower of the event log -> the position up to which it has done its work. Each follower writes its own row; so
/// does what fills a table from events that were there before the table.
pub const FOLLOWERS: Table<String, Position> = Table::new(145, "followers").cached();

/// Room, depth, order -> event: the room's topological order. Events that clients may see in a timeline. Read by `/messages`,
/// `/context` and backfill.
pub const TOPOLOGY: Table<(RoomNid, u64, Order), EventNid> = Table::new(14, "topology");

/// Room, `origin_server_ts` in milliseconds, depth, order -> event: the events of [`TOPOLOGY`] by the time their servers say they were
/// sent at.
pub const SENT_TIMES: Table<(RoomNid, u64, u64, Order), EventNid> = Table::new(173, "sent_times");

/// Event -> its order in [`TOPOLOGY`] (the depth is in the record). Absent for events that are in no timeline.
pub const EVENT_ORDERS: Table<EventNid, Order> = Table::new(15, "event_orders").cached();

/// Prev event id -> event that names it: the graph's edges forwards, also to events that are not known here.
pub const NEXT_EVENTS: Table<(OwnedEventId, EventNid), ()> = Table::new(16, "next_events");

/// Room, event id: a prev event of an event at the back of what is known: where backfill goes on. Value: depth of the event that names it.
pub const BACKWARD_EXTREMITIES: Table<(RoomNid, OwnedEventId), u64> = Table::new(17, "backward_extremities").listed();

/// Room -> how many events have been backfilled into it: the next [`Order::Backfilled`].
pub const BACKFILLED: Table<RoomNid, u64> = Table::new(140, "backfilled");

/// User id, device id, a scope (the room id, or the endpoint's name) and transaction id -> event id that the transaction made.
pub const TRANSACTIONS: Table<(String, String, String, String), String> = Table::new(19, "transactions");

/// Event id of a redaction's target that is not known here, redaction: applied when the target arrives.
pub const PENDING_REDACTIONS: Table<(OwnedEventId, EventNid), ()> = Table::new(142, "pending_redactions");
