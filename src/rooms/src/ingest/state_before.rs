//! The state before an event: from its prev events, or, where those are not known, as another server tells it.

use chappe_protocol::pdu::Pdu;
use ruma::{EventId, ServerName};

use super::SINGLE_FETCHES_MAX;
use crate::{
    Room, RoomError, Rooms, blocking,
    staging::Staging,
    state::{StateRoot, TreeBatch},
};

/// How many nodes of state trees go into one batch, if they go by themselves: up to 300 bytes each.
const NODES_MAX: usize = 1_000;

impl Rooms {
    pub(super) async fn state_before(
        &self,
        origin: &ServerName,
        room: &Room,
        pdu: &Pdu,
    ) -> Result<StateRoot, RoomError> {
        let mut roots = Vec::new();
        for prev in &pdu.prev_events {
            let known = match self.get_event(prev)?.and_then(|event| event.record.state_after) {
                Some(root) => Some(root),
                None => self.get_fetched_state(room.nid, prev)?,
            };
            roots.push(match known {
                Some(root) => root,
                None => {
                    let root = self.fetch_state_after(origin, room, prev).await?;
                    self.note_fetched_state(room.nid, prev, root)?;
                    root
                }
            });
        }
        roots.sort_unstable();
        roots.dedup();
        if let [root] = roots.as_slice() {
            return Ok(*root);
        }
        let (rooms, room) = (self.clone(), room.clone());
        let resolve = move || {
            let mut staging = Staging::begin(&rooms, room)?;
            let root = staging.resolve(roots)?;
            rooms.store_trees(staging.trees)?;
            Ok(root)
        };
        blocking(resolve).await
    }

    /// Stores new state tree nodes by themselves: they are content-addressed, and harmless where nothing comes to name them.
    pub(crate) fn store_trees(&self, trees: TreeBatch) -> Result<(), RoomError> {
        for batch in trees.into_batches(NODES_MAX) {
            let _later = self.store.enqueue(batch)?;
        }
        Ok(())
    }

    /// The state after an event that is not known here, as another server tells it.
    async fn fetch_state_after(
        &self,
        origin: &ServerName,
        room: &Room,
        event_id: &EventId,
    ) -> Result<StateRoot, RoomError> {
        let (state, auth_chain) = self.remote.fetch_state_ids(origin, &room.id, event_id).await?;
        let mut wanted: Vec<_> = state.clone();
        wanted.push(event_id.to_owned());
        wanted.extend(auth_chain);
        let missing = self.unknown_of(&wanted)?;
        if missing.len() > SINGLE_FETCHES_MAX {
            self.fetch_and_store_state(origin, room, event_id).await?;
            self.fetch_single_events(origin, room, vec![event_id.to_owned()]).await?;
        } else {
            self.fetch_single_events(origin, room, missing).await?;
        }
        let mut trees = self.trees.begin(room.nid);
        let mut entries = Vec::new();
        let ids = state.iter().map(|id| &**id).chain([event_id]);
        for id in ids {
            let Some(event) = self.get_event(id)? else {
                if id == event_id && !self.is_of_denied_server(origin, room, id).await? {
                    return Err(RoomError::Invalid(format!("Event {id} could not be had")));
                }
                continue;
            };
            if event.is_rejected() || event.record.room != room.nid {
                continue;
            }
            entries.extend(self.state_entry(&event)?);
        }
        let root = trees.build(entries)?;
        self.store_trees(trees)?;
        Ok(root)
    }
}
