//! Telling servers of the devices of a local user who has joined a room that they are in.
//!
//! From then on they are told of each change; what they have to begin with, or that they have something to fetch, they learn here. A server
//! that comes into a room itself is not told of those who are there: it asks for the devices that its users need.
//!
//! Spec: Server-Server API, Device Management.

use std::sync::Arc;

use chappe_rooms::{Event, Rooms};
use chappe_store::{
    Batch, Direction, Position, RoomNid, Store, StoreError,
    tables::{
        accounts::DEVICES,
        e2ee::{DEVICE_LIST_STREAM, JsonObject},
        rooms::{JOINED_SERVERS, SERVER_ROOMS},
    },
};
use ruma::{
    DeviceId, OwnedUserId, ServerName, UserId,
    events::{StateEventType, room::member::MembershipState},
};
use serde_json::json;

use super::{Keys, queue_edu, sharing::is_in_any};
use crate::event_follower::{Work, WorkError};

/// How many of a user's devices are told of one by one. A server that has none of them fetches the whole list anyway.
const DEVICES_TOLD_MAX: usize = 20;

/// Tells servers of the devices of local users who have just come to share a room with them.
pub struct Introductions {
    keys: Keys,
    rooms: Rooms,
}

impl Introductions {
    pub fn new(keys: Keys, rooms: Rooms) -> Self {
        Self { keys, rooms }
    }

    /// Whether a room's members were still being fetched when an event came. The servers of such a room take joins for changes of device
    /// lists themselves: one that leaves members out of its answer to a join knows that it may not be asked about them for long. What
    /// they have missed they are told once all members are known ([`Keys::run_after_resyncs`]), be this follower late or not.
    fn was_partial(&self, room: RoomNid, at: Position) -> Result<bool, StoreError> {
        let room = self.rooms.get_room_by_nid(room)?;
        room.map_or(Ok(false), |room| self.rooms.is_partial_at(&room, at))
    }
}

impl Work for Introductions {
    type Error = WorkError;

    const WHAT: &'static str = "device lists for servers that newly share a room";

    fn concerns(&self, event: &Event) -> bool {
        event.pdu.membership() == Some(MembershipState::Join)
    }

    async fn take(&mut self, events: &[(Position, Arc<Event>)], batch: &mut Batch) -> Result<(), WorkError> {
        for (position, event) in events {
            let room = event.record.room;
            if let Some(user) = newly_joined(&self.rooms, event)?
                && !self.was_partial(room, *position)?
            {
                self.keys.queue_to_newly_sharing(batch, room, &user)?;
            }
        }
        Ok(())
    }
}

impl Keys {
    /// After a join: the EDUs to the servers that come to share a room with a local user by it.
    pub(super) fn queue_to_newly_sharing(
        &self,
        batch: &mut Batch,
        room: RoomNid,
        joined: &UserId,
    ) -> Result<(), StoreError> {
        if !self.is_local(joined) {
            return Ok(());
        }
        for row in self.store.scan(&JOINED_SERVERS, &(room,), Direction::Forward) {
            let ((_, server), _) = row?;
            if server != self.server_name && !shares_another_room(&self.store, joined, &server, room)? {
                self.queue_devices_to(batch, joined, &server)?;
            }
        }
        Ok(())
    }

    /// The updates carry the number of the last change and name none before it: whoever does not have that one fetches the list.
    fn queue_devices_to(&self, batch: &mut Batch, user: &UserId, server: &ServerName) -> Result<(), StoreError> {
        let stream_id = self.store.get(&DEVICE_LIST_STREAM, &user.to_owned())?.unwrap_or_default();
        for row in self.store.scan(&DEVICES, &(user.to_owned(),), Direction::Forward).take(DEVICES_TOLD_MAX) {
            let ((_, device), record) = row?;
            let mut content = json!({ "user_id": user, "device_id": device, "stream_id": stream_id, "prev_id": [] });
            if let Some(content) = content.as_object_mut() {
                if let Some(keys) = self.get_signed_device_keys(user, &device)? {
                    content.insert("keys".to_owned(), keys.into());
                }
                if let Some(name) = record.display_name.filter(|_| self.shares_device_names) {
                    content.insert("device_display_name".to_owned(), name.into());
                }
            }
            queue_edu(batch, server, "m.device_list_update", content);
        }
        Ok(())
    }

    fn get_signed_device_keys(&self, user: &UserId, device: &DeviceId) -> Result<Option<JsonObject>, StoreError> {
        let Some(mut keys) = self.get_device_keys(user, device.as_str())? else { return Ok(None) };
        super::device_keys::add_stored_signatures(&self.store, &mut keys, user, device.as_str(), None)?;
        Ok(Some(keys))
    }
}

/// Who joined by this event, having been out of the room before.
fn newly_joined(rooms: &Rooms, event: &Event) -> Result<Option<OwnedUserId>, StoreError> {
    let Some(user) = event.pdu.state_key().and_then(|user| UserId::parse(user).ok()) else { return Ok(None) };
    let before = match event.record.state_before {
        Some(root) => rooms.get_from_root(event.record.room, root, &StateEventType::RoomMember, user.as_str())?,
        None => None,
    };
    let was_joined = before.and_then(|before| before.pdu.membership()) == Some(MembershipState::Join);
    Ok((!was_joined).then_some(user))
}

/// Whether a local user shares a room with a server beside this one.
fn shares_another_room(store: &Store, user: &UserId, server: &ServerName, room: RoomNid) -> Result<bool, StoreError> {
    for row in store.scan(&SERVER_ROOMS, &(server.to_owned(),), Direction::Forward) {
        let ((_, other), ()) = row?;
        if other != room && is_in_any(store, user, &[other])? {
            return Ok(true);
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use chappe_protocol::clock::ManualClock;
    use chappe_rooms::create::Preset;
    use chappe_store::{
        Stamped,
        tables::{
            accounts::DeviceRecord,
            outgoing::{OUTGOING, OutgoingItem},
            partial_rooms::RESYNCED_ROOMS,
        },
    };
    use ruma::{owned_server_name, user_id};
    use serde_json::Value;

    use super::*;
    use crate::{event_follower::EventFollower, keys::testing::FakeServers, test_rooms};

    /// Whose devices a server will be told of.
    fn told(store: &Store, server: &ServerName) -> Vec<String> {
        let rows = store.scan(&OUTGOING, &(server.to_owned(),), Direction::Forward);
        let edus = rows.filter_map(|row| match row.unwrap().1 {
            OutgoingItem::Edu(edu) => serde_json::from_str::<Value>(&edu).ok(),
            _ => None,
        });
        edus.map(|edu| edu["content"]["user_id"].as_str().unwrap().to_owned()).collect()
    }

    #[tokio::test]
    async fn who_joined_before_all_members_were_known_is_not_introduced_even_if_they_are_known_by_now() {
        let store = Store::in_memory();
        let rooms = test_rooms::rooms(&store, Arc::new(ManualClock::new(1_700_000_000_000)));
        let keys = Keys::new(store.clone(), owned_server_name!("here.example"), Arc::new(FakeServers::default()));
        let there = owned_server_name!("there.example");
        let (alice, bob) = (user_id!("@alice:here.example"), user_id!("@bob:here.example"));
        let carol = user_id!("@carol:here.example");
        let room_id = test_rooms::create(&rooms, alice, Preset::PublicChat).await;
        let room = rooms.get_room_nid(&room_id).unwrap().unwrap();
        let mut batch = Batch::new();
        batch.put(&JOINED_SERVERS, &(room, there.clone()), &1);
        batch.put(&SERVER_ROOMS, &(there.clone(), room), &());
        for user in [bob, carol] {
            let device = DeviceRecord { display_name: None, created_at_ms: 0 };
            batch.put(&DEVICES, &(user.to_owned(), "DEVICE".into()), &device);
        }
        store.commit(batch).await.unwrap();

        let mut follower = EventFollower::open("devices_of_newly_sharing", &rooms).unwrap();
        test_rooms::join(&rooms, bob, &room_id).await;
        let mut batch = Batch::new();
        let position = batch.next_position();
        batch.put(&RESYNCED_ROOMS, &room, &Stamped { position, value: Position::ZERO });
        store.commit(batch).await.unwrap();
        test_rooms::join(&rooms, carol, &room_id).await;
        follower.step(&mut Introductions::new(keys, rooms)).await.unwrap();
        assert_eq!(told(&store, &there), [carol.as_str()]);
    }
}
