//! Asking other servers for events of a thread that are missing here, and taking them in.
//!
//! They are kept as outliers, without a place in the room's timeline: what a user is shown of them [`crate::visibility`] decides by the
//! room's state of now.

use chappe_store::{Batch, tables::relationships::TOLD_CHILDREN};
use ruma::{EventId, ServerName};

use super::{Children, Heading, RelatedAnswer, RelationshipQuery, relationships_key, stage::told_children};
use crate::{Event, Room, RoomError, Rooms, staging::Staging};

/// How many hops other servers are asked to go, how many children of an event to take in, and how many events to send.
const DEPTH_ASKED: i64 = 10;
const BREADTH_ASKED: i64 = 50;
const EVENTS_ASKED: u64 = 100;
/// How many events of an answer's auth chain are looked at.
const AUTH_CHAIN_MAX: usize = 2_000;

impl Rooms {
    /// Asks the servers of a room about an event, until one has answered with it.
    ///
    /// That nobody does is no error.
    pub(super) async fn fetch_related(
        &self,
        room: &Room,
        event_id: &EventId,
        heading: Heading,
    ) -> Result<(), RoomError> {
        if !self.is_server_joined(room.nid, &self.server_name)? {
            return Ok(());
        }
        let query = RelationshipQuery {
            room_id: Some(room.id.clone()),
            max_depth: DEPTH_ASKED,
            max_breadth: BREADTH_ASKED,
            limit: EVENTS_ASKED,
            include_parent: true,
            include_children: true,
            direction: heading,
            ..RelationshipQuery::new(event_id.to_owned())
        };
        for server in self.servers_with_history(room)? {
            match self.remote.fetch_related(&server, &query).await {
                Ok(answer) => {
                    if self.take_in_related(&server, room, event_id, answer).await? {
                        return Ok(());
                    }
                }
                Err(error) => {
                    tracing::info!(%error, event.id = %event_id, server = %server, "no relationships from this server");
                }
            }
        }
        Ok(())
    }

    /// Whether an event was in the answer.
    async fn take_in_related(
        &self,
        server: &ServerName,
        room: &Room,
        wanted: &EventId,
        answer: RelatedAnswer,
    ) -> Result<bool, RoomError> {
        let (mut found, mut told) = (Vec::new(), Vec::new());
        for raw in answer.events.into_iter().take(usize::try_from(EVENTS_ASKED).unwrap_or(usize::MAX)) {
            match self.check_pdu(room, &raw).await {
                Ok(pdu) => {
                    told.extend(told_children(&raw).map(|children| (pdu.event_id.clone(), children)));
                    found.push(pdu);
                }
                Err(error) => tracing::info!(%error, room.id = %room.id, server = %server, "related event is bad"),
            }
        }
        let has_wanted = found.iter().any(|pdu| pdu.event_id == wanted);
        let auth_events: Vec<_> = found.iter().flat_map(|pdu| pdu.auth_events.iter().cloned()).collect();
        if !self.unknown_of(&auth_events)?.is_empty() {
            for raw in answer.auth_chain.into_iter().take(AUTH_CHAIN_MAX) {
                match self.check_pdu(room, &raw).await {
                    Ok(pdu) => found.push(pdu),
                    Err(error) => tracing::info!(%error, room.id = %room.id, server = %server, "auth event is bad"),
                }
            }
        }
        let _queue = self.locks.ingest(&room.id).await;
        let _writing = self.locks.write(&room.id).await;
        let mut staging = Staging::begin(self, self.require_room(&room.id)?)?;
        staging.put_outliers(found)?;
        for (event_id, children) in told {
            staging.put_told_children(&event_id, children)?;
        }
        let ticket = staging.enqueue()?;
        drop(_writing);
        ticket.durable().await?;
        Ok(has_wanted)
    }

    /// Whether another server knows more of what relates to an event, and was not asked for it yet.
    pub(super) fn has_unexplored_children(&self, event: &Event) -> Result<bool, RoomError> {
        let Some(told) = self.store.get(&TOLD_CHILDREN, &relationships_key(event))? else { return Ok(false) };
        let explored = told.explored.clone();
        let (told, known) = (Children::from(told), self.get_known_children(event)?);
        let (total, known_total) = (told.total(), known.total());
        let differs = total > known_total || (total == known_total && told.hash != known.hash);
        Ok(differs && explored.is_none_or(|explored| explored != (total, told.hash)))
    }

    /// Notes that other servers have been asked for what relates to an event, whatever came of it.
    pub(super) async fn note_explored(&self, room: &Room, event: &Event) -> Result<(), RoomError> {
        let _writing = self.locks.write(&room.id).await;
        let key = relationships_key(event);
        let Some(mut record) = self.store.get(&TOLD_CHILDREN, &key)? else { return Ok(()) };
        let told = Children::from(record.clone());
        record.explored = Some((told.total(), told.hash));
        let mut batch = Batch::new();
        batch.put(&TOLD_CHILDREN, &key, &record);
        // Lost with the process, it is found out again.
        let _later = self.store.enqueue(batch)?;
        Ok(())
    }
}
