//! What the tests of typing, receipts and presence share: rooms with members, and an outbox that remembers.

use chappe_store::{
    Batch, EventNid, RoomNid, Stamped, Store,
    tables::rooms::{JOINED_SERVERS, MEMBERS, MemberRecord, SERVER_ROOMS, USER_ROOMS},
};
use parking_lot::Mutex;
use ruma::{OwnedServerName, RoomId, ServerName, UserId, api::federation::transactions::edu::Edu, event_id};

use crate::edu::VolatileEdus;

/// Makes a room in which these users are joined.
pub(crate) async fn join(store: &Store, room_id: &RoomId, users: &[&UserId]) -> RoomNid {
    let room = store.interner().intern_room(store, room_id).unwrap();
    let mut batch = Batch::new();
    for user_id in users {
        let position = batch.next_position();
        let value = MemberRecord {
            membership: "join".to_owned(),
            event: Some(EventNid(1)),
            event_id: event_id!("$join").to_owned(),
            sender: (*user_id).to_owned(),
            display_name: None,
            avatar_url: None,
        };
        batch.put(&MEMBERS, &(room, (*user_id).to_owned()), &Stamped { position, value: value.clone() });
        batch.put(&USER_ROOMS, &((*user_id).to_owned(), room), &Stamped { position, value });
        batch.put(&JOINED_SERVERS, &(room, user_id.server_name().to_owned()), &1);
        batch.put(&SERVER_ROOMS, &(user_id.server_name().to_owned(), room), &());
    }
    store.commit(batch).await.unwrap();
    room
}

#[derive(Default)]
pub(crate) struct SentEdus(Mutex<Vec<(OwnedServerName, serde_json::Value)>>);

impl SentEdus {
    pub(crate) fn take(&self) -> Vec<(OwnedServerName, serde_json::Value)> {
        std::mem::take(&mut self.0.lock())
    }
}

impl VolatileEdus for SentEdus {
    fn send_edu_volatile(&self, destination: &ServerName, edu: &Edu) {
        self.0.lock().push((destination.to_owned(), serde_json::to_value(edu).unwrap()));
    }
}
