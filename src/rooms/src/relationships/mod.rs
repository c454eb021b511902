//! Threads by relationship (MSC2836): which events name which others in `m.relationship`, and walks through them from one event.
//!
//! [`stage`] keeps the rows in the batch of each event, [`walk`] goes up or down for users and for servers, [`fetch`] asks other servers
//! for what is missing on the way. Relations in `m.relates_to` are [`crate::relations`]' business. No tokens to go on from are given
//! out, which the proposal leaves open; nor does the redaction of an event keep its relationship, which no room version knows: the rows
//! keep it.

use std::{collections::BTreeMap, sync::Arc};

use chappe_protocol::{client_format::Unsigned, pdu::Pdu};
use chappe_store::{
    Direction, StoreError,
    tables::relationships::{RELATIONSHIP_TARGETS, RELATIONSHIPS, TOLD_CHILDREN, ToldChildrenRecord},
};
use ruma::{
    OwnedEventId, OwnedRoomId,
    serde::{Base64, base64::Standard},
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue as RawJsonValue;
use sha2::{Digest, Sha256};

use crate::{
    Event, RoomError, Rooms,
    client_event::to_raw,
    relations::{Audience, RelatesTo, Relation, checked},
    remote::RawEvents,
};

mod fetch;
mod stage;
#[cfg(test)]
mod tests;
mod walk;

pub(crate) use stage::put_relationship;

/// Which way a walk goes.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Heading {
    /// To what events relate to.
    Up,
    /// To what relates to events.
    #[default]
    Down,
}

/// What a client or a server asks for: the body of a request.
///
/// Spec: MSC2836, Querying relationships.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RelationshipQuery {
    /// Where the walk begins.
    pub event_id: OwnedEventId,
    /// The room to ask about the event in, where it is not known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room_id: Option<OwnedRoomId>,
    /// How many hops the walk goes; negative: any number.
    #[serde(default = "max_depth_default")]
    pub max_depth: i64,
    /// How many of an event's children the walk takes in; negative: any number.
    #[serde(default = "max_breadth_default")]
    pub max_breadth: i64,
    #[serde(default = "limit_default")]
    pub limit: u64,
    #[serde(default)]
    pub depth_first: bool,
    /// Whether of an event's children the newest comes first.
    #[serde(default = "recent_first_default")]
    pub recent_first: bool,
    #[serde(default)]
    pub include_parent: bool,
    #[serde(default)]
    pub include_children: bool,
    #[serde(default)]
    pub direction: Heading,
    /// A token to go on from: this server gives out none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub batch: String,
}

fn max_depth_default() -> i64 {
    3
}

fn max_breadth_default() -> i64 {
    10
}

fn limit_default() -> u64 {
    100
}

fn recent_first_default() -> bool {
    true
}

impl RelationshipQuery {
    /// A query about an event with everything at its default.
    pub fn new(event_id: OwnedEventId) -> Self {
        Self {
            event_id,
            room_id: None,
            max_depth: max_depth_default(),
            max_breadth: max_breadth_default(),
            limit: limit_default(),
            depth_first: false,
            recent_first: recent_first_default(),
            include_parent: false,
            include_children: false,
            direction: Heading::default(),
            batch: String::new(),
        }
    }
}

/// What a walk found for a user: the event asked about, and then what is close to it.
#[derive(Debug, Default)]
pub struct RelatedEvents {
    pub events: Vec<Arc<Event>>,
    /// There are more events in the window of the walk than the answer may hold.
    pub limited: bool,
}

/// The answer to a server.
#[derive(Debug, Serialize, Deserialize)]
pub struct RelatedAnswer {
    /// With [`Children`] in `unsigned`.
    pub events: RawEvents,
    #[serde(default)]
    pub limited: bool,
    /// The auth events of the events, and theirs.
    #[serde(default)]
    pub auth_chain: RawEvents,
}

/// What relates to an event, counted.
///
/// Spec: MSC2836, Exploring dense threads.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Children {
    /// Relation type -> how many.
    pub counts: BTreeMap<String, u64>,
    /// The hash of all their ids, in order.
    pub hash: String,
}

impl Children {
    pub(crate) fn total(&self) -> u64 {
        self.counts.values().fold(0, |total, count| total.saturating_add(*count))
    }

    /// Puts them into an event's `unsigned`.
    fn put_into(self, unsigned: &mut Unsigned) {
        unsigned.children = Some(self.counts);
        unsigned.children_hash = Some(self.hash);
    }
}

impl From<ToldChildrenRecord> for Children {
    fn from(told: ToldChildrenRecord) -> Self {
        Self { counts: told.counts, hash: told.hash }
    }
}

/// What an event says it relates to in the form of MSC2836.
pub fn relationship_of(pdu: &Pdu) -> Option<Relation> {
    #[derive(Deserialize)]
    struct Content {
        #[serde(rename = "m.relationship")]
        relationship: RelatesTo,
    }
    if !pdu.content().get().contains("m.relationship") {
        return None;
    }
    checked(pdu.get_content::<Content>().ok()?.relationship)
}

impl Rooms {
    /// What relates to an event, by what is known here or, where that is more, by what other servers said.
    pub fn get_children(&self, event: &Event) -> Result<Children, StoreError> {
        let own = self.get_known_children(event)?;
        let told = self.store.get(&TOLD_CHILDREN, &(event.record.room, event.pdu.event_id.clone()))?;
        Ok(match told.map(Children::from) {
            Some(told) if told.total() > own.total() => told,
            _ => own,
        })
    }

    /// As [`Rooms::to_client_bundled`], with how many events relate to the event in `unsigned`.
    pub fn to_client_related(&self, event: &Event, audience: Audience<'_>) -> Result<Box<RawJsonValue>, RoomError> {
        let mut format = self.bundled_format(event, audience, true)?;
        self.get_children(event)?.put_into(format.unsigned.get_or_insert_default());
        to_raw(&self.show_as(event, Some(audience.viewer), format)?)
    }

    fn get_known_children(&self, event: &Event) -> Result<Children, StoreError> {
        let mut counts: BTreeMap<String, u64> = BTreeMap::new();
        let mut hash = Sha256::new();
        for row in self.store.scan(&RELATIONSHIPS, &relationships_key(event), Direction::Forward) {
            let ((.., child), record) = row?;
            *counts.entry(record.rel_type).or_default() += 1;
            hash.update(child.as_bytes());
        }
        let hash = Base64::<Standard, [u8; 32]>::new(hash.finalize().into()).encode();
        Ok(Children { counts, hash })
    }

    /// The id of the event that an event relates to.
    fn get_relationship_target(&self, event: &Event) -> Result<Option<OwnedEventId>, StoreError> {
        self.store.get(&RELATIONSHIP_TARGETS, &relationships_key(event))
    }
}

fn relationships_key(event: &Event) -> (chappe_store::RoomNid, OwnedEventId) {
    (event.record.room, event.pdu.event_id.clone())
}
