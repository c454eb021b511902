//! Threads by relationship (MSC2836). Written by the rooms crate only, in the batch of the event that relates.
//!
//! Unlike the rows of `related` these stay when an event is redacted, so that a thread does not fall apart, and they are there for events
//! that are in no timeline.

use std::collections::BTreeMap;

use ruma::OwnedEventId;
use serde::{Deserialize, Serialize};

use crate::{
    ids::{EventNid, RoomNid},
    record,
    table::Table,
};

/// An event that relates to another.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RelationshipRecord {
    pub nid: EventNid,
    pub rel_type: String,
    /// `origin_server_ts` in milliseconds.
    pub sent_at_ms: u64,
}
record!(RelationshipRecord, 1);

/// Room, event, id of an event that relates to it -> that event.
pub const RELATIONSHIPS: Table<(RoomNid, OwnedEventId, OwnedEventId), RelationshipRecord> =
    Table::new(200, "relationships");

/// Room, event -> the event that it relates to: the rows of [`RELATIONSHIPS`] from the other side.
pub const RELATIONSHIP_TARGETS: Table<(RoomNid, OwnedEventId), OwnedEventId> = Table::new(201, "relationship_targets");

/// What another server said of the events that relate to one.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct ToldChildrenRecord {
    /// Relation type -> how many. A bounded number of types.
    pub counts: BTreeMap<String, u64>,
    /// A hash over the ids of all of them, unpadded base64.
    pub hash: String,
    /// How many in all, and with which hash, there were said to be when other servers were last asked for them.
    pub explored: Option<(u64, String)>,
}
record!(ToldChildrenRecord, 1);

/// Room, event -> the most that another server said it knows of what relates to the event.
pub const TOLD_CHILDREN: Table<(RoomNid, OwnedEventId), ToldChildrenRecord> = Table::new(202, "told_children");
