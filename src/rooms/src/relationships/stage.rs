//! Keeping the rows of relationships in the batch of the event that relates, and of what another server said of them.

use std::collections::BTreeMap;

use chappe_protocol::pdu::Pdu;
use chappe_store::{
    Batch,
    tables::{
        events::EventStatus,
        relationships::{RELATIONSHIP_TARGETS, RELATIONSHIPS, RelationshipRecord, TOLD_CHILDREN, ToldChildrenRecord},
    },
};
use ruma::OwnedEventId;
use serde::Deserialize;
use serde_json::value::RawValue as RawJsonValue;

use super::{Children, relationship_of, relationships_key};
use crate::{Event, RoomError, staging::Staging};

/// How many relation types another server's counts may have.
const TYPES_MAX: usize = 32;
/// Longest name of one, and longest hash, in bytes.
const TEXT_BYTES_MAX: usize = 255;

impl Staging {
    /// Notes how many children another server knows of an event, if nobody knew of that many.
    pub(super) fn put_told_children(&mut self, event_id: &OwnedEventId, told: Children) -> Result<(), RoomError> {
        let Some(event) = self.get_event(event_id)?.filter(|event| event.record.room == self.room.nid) else {
            return Ok(());
        };
        let key = relationships_key(&event);
        let before = self.rooms.store.get(&TOLD_CHILDREN, &key)?.unwrap_or_default();
        let explored = before.explored.clone();
        if told.total() > Children::from(before).total() {
            let Children { counts, hash } = told;
            self.batch.put(&TOLD_CHILDREN, &key, &ToldChildrenRecord { counts, hash, explored });
        }
        Ok(())
    }

    /// Refuses what clients must not send: a relationship to an event that is not known, or of another room.
    ///
    /// Spec: MSC2836, Making relationships.
    pub(crate) fn check_relationship(&self, pdu: &Pdu) -> Result<(), RoomError> {
        let Some(relation) = relationship_of(pdu) else { return Ok(()) };
        let target = self.get_event(&relation.target)?;
        if target.is_none_or(|target| target.record.room != self.room.nid || target.is_rejected()) {
            return Err(RoomError::Invalid("The event of the relationship is not known in this room".to_owned()));
        }
        Ok(())
    }
}

/// Puts the rows of an event's relationship into a batch, or takes them out if the event was refused.
pub(crate) fn put_relationship(batch: &mut Batch, event: &Event) {
    let Some(relation) = relationship_of(&event.pdu) else { return };
    let key = (event.record.room, relation.target.clone(), event.pdu.event_id.clone());
    if matches!(event.record.status, EventStatus::Accepted | EventStatus::Outlier) {
        let sent_at_ms = event.pdu.origin_server_ts.get().into();
        let record = RelationshipRecord { nid: event.nid, rel_type: relation.rel_type, sent_at_ms };
        batch.put(&RELATIONSHIPS, &key, &record);
        batch.put(&RELATIONSHIP_TARGETS, &relationships_key(event), &relation.target);
    } else {
        batch.delete(&RELATIONSHIPS, &key);
        batch.delete(&RELATIONSHIP_TARGETS, &relationships_key(event));
    }
}

/// What a server says in `unsigned` of an event's children; `None` if it says nothing of use.
pub(super) fn told_children(raw: &RawJsonValue) -> Option<Children> {
    #[derive(Deserialize)]
    struct Told {
        unsigned: Unsigned,
    }
    #[derive(Deserialize)]
    struct Unsigned {
        children: BTreeMap<String, u64>,
        children_hash: String,
    }
    let Told { unsigned: Unsigned { children, children_hash } } = serde_json::from_str(raw.get()).ok()?;
    let is_sound = !children.is_empty()
        && children.len() <= TYPES_MAX
        && children.keys().all(|rel_type| rel_type.len() <= TEXT_BYTES_MAX)
        && children_hash.len() <= TEXT_BYTES_MAX;
    is_sound.then(|| Children { counts: children, hash: children_hash.trim_end_matches('=').to_owned() })
}
