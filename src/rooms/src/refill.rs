//! Filling tables that came with a newer version of the server from what older versions stored.
//!
//! Done once for each set of tables, in the background, while events keep coming: those fill the same tables themselves. Rows that are there
//! already are written again as they are. That a set is filled is kept as the place of a follower.

use std::time::Duration;

use chappe_store::{
    Batch, Direction, EventNid, Order, RoomNid,
    tables::{
        events::{BACKFILL_LOG, EVENT_ORDERS, FOLLOWERS},
        rooms::ROOMS,
        state::CURRENT_STATE,
    },
};
use ruma::events::StateEventType;

use crate::{
    RoomError, Rooms,
    relationships::put_relationship,
    staging::{put_sent_time, put_space_child},
};

/// Events by time, relationships, and the log of what was backfilled.
const OF_EVENTS: &str = "refill_of_events";
/// Children of spaces.
const OF_SPACES: &str = "refill_of_spaces";
/// How many events are dealt with in one batch.
const EVENTS_AT_ONCE: usize = 500;
/// How long after trouble it is tried again.
const TROUBLE_PAUSE: Duration = Duration::from_secs(10);

impl Rooms {
    /// Fills what is not filled yet, and ends.
    pub async fn run_refills(self) {
        while let Err(error) = self.refill().await {
            tracing::error!(%error, "new tables are not filled from older events for now");
            tokio::time::sleep(TROUBLE_PAUSE).await;
        }
    }

    pub(crate) async fn refill(&self) -> Result<(), RoomError> {
        if !self.store.contains(&FOLLOWERS, &OF_EVENTS.to_owned())? {
            self.refill_of_events().await?;
            self.note_refilled(OF_EVENTS).await?;
        }
        if !self.store.contains(&FOLLOWERS, &OF_SPACES.to_owned())? {
            self.refill_of_spaces().await?;
            self.note_refilled(OF_SPACES).await?;
        }
        Ok(())
    }

    async fn note_refilled(&self, tables: &str) -> Result<(), RoomError> {
        let mut batch = Batch::new();
        let position = batch.next_position();
        batch.put(&FOLLOWERS, &tables.to_owned(), &position);
        self.store.commit(batch).await?;
        Ok(())
    }

    async fn refill_of_events(&self) -> Result<(), RoomError> {
        let mut from = EventNid(0);
        loop {
            let rows = self.store.scan_range(&EVENT_ORDERS, &from, &EventNid(u64::MAX), Direction::Forward);
            let rows: Vec<(EventNid, Order)> = rows.take(EVENTS_AT_ONCE).collect::<Result<_, _>>()?;
            let Some((last, _)) = rows.last() else { return Ok(()) };
            from = EventNid(last.0.saturating_add(1));
            let mut batch = Batch::new();
            for (nid, order) in rows {
                let Some(event) = self.get_event_by_nid(nid)? else { continue };
                put_sent_time(&mut batch, &event, order);
                put_relationship(&mut batch, &event);
                if matches!(order, Order::Backfilled(_)) {
                    let position = batch.next_position();
                    batch.put(&BACKFILL_LOG, &position, &nid);
                }
            }
            self.store.commit(batch).await?;
        }
    }

    async fn refill_of_spaces(&self) -> Result<(), RoomError> {
        let rooms: Vec<RoomNid> = self
            .store
            .scan(&ROOMS, &(), Direction::Forward)
            .map(|row| row.map(|(room, _)| room))
            .collect::<Result<_, _>>()?;
        for room in rooms {
            let Some(room_id) = self.get_room_id(room)? else { continue };
            let _writing = self.locks.write(&room_id).await;
            let mut batch = Batch::new();
            for row in self.store.scan(&CURRENT_STATE, &(room,), Direction::Forward) {
                let ((_, key), nid) = row?;
                if let Some((StateEventType::SpaceChild, child)) =
                    self.store.interner().get_state_key_parts(&self.store, key)?.as_deref()
                {
                    put_space_child(&mut batch, room, child, Some(nid));
                }
            }
            if !batch.is_empty() {
                self.store.commit(batch).await?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use chappe_store::tables::{events::SENT_TIMES, relationships::RELATIONSHIPS, rooms::SPACE_CHILDREN};
    use ruma::RoomVersionId;
    use serde_json::json;

    use super::*;
    use crate::{
        EventDraft,
        tests::network::{Network, content, public_room, user},
    };

    #[tokio::test]
    async fn tables_are_filled_once_from_what_was_there_before_them() {
        let rooms = Network::new().add("one.example");
        let alice = user(&rooms, "alice");
        let room_id = public_room(&rooms, &alice, RoomVersionId::V11).await;
        let draft = EventDraft::message("m.room.message".into(), content(json!({ "body": "said" })));
        let said = rooms.send(&alice, &room_id, draft).await.unwrap().event_id;
        let related = content(json!({ "m.relationship": { "rel_type": "m.reference", "event_id": said } }));
        rooms.send(&alice, &room_id, EventDraft::message("m.room.message".into(), related)).await.unwrap();
        let link = EventDraft::state("m.space.child", "!child:one.example", content(json!({ "via": ["one.example"] })));
        rooms.send(&alice, &room_id, link).await.unwrap();

        let counts = || {
            let store = rooms.store();
            (
                store.scan(&SENT_TIMES, &(), Direction::Forward).count(),
                store.scan(&RELATIONSHIPS, &(), Direction::Forward).count(),
                store.scan(&SPACE_CHILDREN, &(), Direction::Forward).count(),
            )
        };
        let before = counts();
        assert_eq!((before.1, before.2), (1, 1));
        let delete = async || {
            let mut batch = Batch::new();
            batch.delete_prefix(&SENT_TIMES, &());
            batch.delete_prefix(&RELATIONSHIPS, &());
            batch.delete_prefix(&SPACE_CHILDREN, &());
            rooms.store().commit(batch).await.unwrap();
        };
        delete().await;
        rooms.refill().await.unwrap();
        assert_eq!(counts(), before);
        delete().await;
        rooms.refill().await.unwrap();
        assert_eq!(counts(), (0, 0, 0), "they are filled once");
    }
}
