//! Keeping the lists of relations, and the counts of threads, in the batch of the event that relates.

use std::collections::HashMap;

use chappe_protocol::pdu::Pdu;
use chappe_store::{
    Direction, EventNid, Order, StoreError,
    tables::{
        events::EVENT_ORDERS,
        relations::{RELATED, ROOM_THREADS, THREADS, ThreadRecord},
    },
};
use ruma::OwnedEventId;

use super::{ANNOTATION, List, REPLACE, Relation, THREAD, relation_of};
use crate::{Event, RoomError, staging::Staging, timeline::Place};

/// The threads that a batch changes, as they are stored and as they will be. Written once, at the end.
#[derive(Default)]
pub(crate) struct ThreadStage {
    /// Events that the batch puts into the room's order.
    orders: HashMap<EventNid, Order>,
    /// Thread root and sender ("" for all) -> before and after.
    changed: HashMap<(OwnedEventId, String), (Option<ThreadRecord>, ThreadRecord)>,
}

impl Staging {
    /// Puts an event that has just got its place into the lists of what it relates to.
    pub(crate) fn put_relations(&mut self, event: &Event, order: Order) -> Result<(), RoomError> {
        if let Some(relation) = relation_of(&event.pdu) {
            self.threads.orders.insert(event.nid, order);
            for (list, rank) in lists_of(event, &relation) {
                self.batch.put(&RELATED, &(self.room.nid, relation.target.clone(), list, rank, order), &event.nid);
            }
            if relation.rel_type == THREAD {
                self.add_to_thread(event, &relation.target)?;
            }
        }
        Ok(())
    }

    /// Takes an event that is about to be redacted out of all lists.
    pub(crate) fn delete_relations(&mut self, event: &Event) -> Result<(), RoomError> {
        // What is in no timeline is in no list.
        let Some(order) = self.order_of(event.nid)? else { return Ok(()) };
        if let Some(relation) = relation_of(&event.pdu) {
            for (list, rank) in lists_of(event, &relation) {
                self.batch.delete(&RELATED, &(self.room.nid, relation.target.clone(), list, rank, order));
            }
            if relation.rel_type == THREAD {
                self.remove_from_thread(event, &relation.target)?;
            }
        }
        Ok(())
    }

    /// Writes the changed threads.
    pub(crate) fn put_threads(&mut self) -> Result<(), RoomError> {
        let room = self.room.nid;
        for ((root, sender), (before, after)) in std::mem::take(&mut self.threads.changed) {
            let row = (room, root.clone(), sender);
            if after.count == 0 {
                self.batch.delete(&THREADS, &row);
            } else {
                self.batch.put(&THREADS, &row, &after);
            }
            let place_before = self.place_of(before.and_then(|thread| thread.latest))?;
            let place_after = self.place_of(after.latest.filter(|_| after.count > 0))?;
            if place_before == place_after {
                continue;
            }
            if let Some((depth, order)) = place_before {
                self.batch.delete(&ROOM_THREADS, &(room, depth, order));
            }
            if let Some((depth, order)) = place_after {
                self.batch.put(&ROOM_THREADS, &(room, depth, order), &root);
            }
        }
        Ok(())
    }

    /// Refuses what clients must not send: a thread off an event that itself relates to one, and an annotation that is there already.
    ///
    /// Spec: Client-Server API, Validation of `m.thread` relationships; Avoiding duplicate annotations.
    pub(crate) fn check_relation(&self, pdu: &Pdu) -> Result<(), RoomError> {
        let Some(relation) = relation_of(pdu) else { return Ok(()) };
        match relation.rel_type.as_str() {
            THREAD => {
                let root = self.get_event(&relation.target)?.filter(|root| root.record.room == self.room.nid);
                if root.is_some_and(|root| relation_of(&root.pdu).is_some()) {
                    return Err(RoomError::NotThreadRoot(
                        "A thread cannot begin with an event of a relation".to_owned(),
                    ));
                }
            }
            ANNOTATION => {
                let is_repeated = |known: &Event| {
                    (&known.pdu.sender, &known.pdu.kind) == (&pdu.sender, &pdu.kind)
                        && relation_of(&known.pdu).is_some_and(|known| known == relation)
                };
                if self.new_events().any(is_repeated) {
                    return Err(RoomError::DuplicateAnnotation);
                }
                let list = List::Sender(&pdu.sender, ANNOTATION).name();
                let key = (self.room.nid, relation.target.clone(), list);
                for row in self.rooms.store.scan(&RELATED, &key, Direction::Reverse) {
                    let (_, nid) = row?;
                    if self.get_event_by_nid(nid)?.is_some_and(|known| is_repeated(&known)) {
                        return Err(RoomError::DuplicateAnnotation);
                    }
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn add_to_thread(&mut self, reply: &Event, root: &OwnedEventId) -> Result<(), RoomError> {
        let total = self.thread(root, "")?;
        let latest = match (self.place_of(total.latest)?, self.place_of(Some(reply.nid))?) {
            (Some(known), new) if new.is_none_or(|new| new < known) => total.latest,
            _ => Some(reply.nid),
        };
        self.set_thread(root, "", ThreadRecord { count: total.count + 1, latest });
        let sender = reply.pdu.sender.as_str();
        let own = self.thread(root, sender)?;
        self.set_thread(root, sender, ThreadRecord { count: own.count + 1, latest: None });
        Ok(())
    }

    fn remove_from_thread(&mut self, reply: &Event, root: &OwnedEventId) -> Result<(), RoomError> {
        let total = self.thread(root, "")?;
        let mut latest = total.latest;
        if latest == Some(reply.nid) {
            let prefix = (self.room.nid, root.clone(), List::Type(THREAD).name());
            latest = None;
            for row in self.rooms.store.scan(&RELATED, &prefix, Direction::Reverse) {
                let (_, nid) = row?;
                if nid != reply.nid {
                    latest = Some(nid);
                    break;
                }
            }
        }
        self.set_thread(root, "", ThreadRecord { count: total.count.saturating_sub(1), latest });
        let sender = reply.pdu.sender.as_str();
        let own = self.thread(root, sender)?;
        self.set_thread(root, sender, ThreadRecord { count: own.count.saturating_sub(1), latest: None });
        Ok(())
    }

    fn thread(&mut self, root: &OwnedEventId, sender: &str) -> Result<ThreadRecord, StoreError> {
        let key = (root.clone(), sender.to_owned());
        if let Some((_, now)) = self.threads.changed.get(&key) {
            return Ok(*now);
        }
        let stored = self.rooms.store.get(&THREADS, &(self.room.nid, key.0.clone(), key.1.clone()))?;
        let now = stored.unwrap_or_default();
        self.threads.changed.insert(key, (stored, now));
        Ok(now)
    }

    fn set_thread(&mut self, root: &OwnedEventId, sender: &str, thread: ThreadRecord) {
        if let Some((_, now)) = self.threads.changed.get_mut(&(root.clone(), sender.to_owned())) {
            *now = thread;
        }
    }

    fn order_of(&self, event: EventNid) -> Result<Option<Order>, StoreError> {
        match self.threads.orders.get(&event) {
            Some(order) => Ok(Some(*order)),
            None => self.rooms.store.get(&EVENT_ORDERS, &event),
        }
    }

    fn place_of(&self, event: Option<EventNid>) -> Result<Option<Place>, StoreError> {
        let Some(nid) = event else { return Ok(None) };
        let (Some(order), Some(event)) = (self.order_of(nid)?, self.get_event_by_nid(nid)?) else { return Ok(None) };
        Ok(Some((event.record.depth, order)))
    }
}

/// The lists that a relating event stands in, and its rank in each.
fn lists_of(event: &Event, relation: &Relation) -> Vec<(String, u64)> {
    let depth = event.record.depth;
    let mut lists = vec![(List::All.name(), depth), (List::Type(&relation.rel_type).name(), depth)];
    if matches!(relation.rel_type.as_str(), REPLACE | ANNOTATION) {
        let sent_at: u64 = event.pdu.origin_server_ts.0.into();
        lists.push((List::Sender(&event.pdu.sender, &relation.rel_type).name(), sent_at));
    }
    lists
}
