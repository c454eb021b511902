//! Guests in rooms: where a room stops letting guests in, this server's guests leave it (client-server API, "Guest Access").
//!
//! That guests do not join such rooms is seen to when they join.

use std::sync::Arc;

use chappe_rooms::{Event, Rooms};
use chappe_store::{Batch, Position, StoreError};
use ruma::events::StateEventType;
use serde::Deserialize;

use crate::{
    accounts::{AccountKind, Accounts},
    event_follower::{Work, WorkError},
};

pub struct Guests {
    accounts: Arc<Accounts>,
    rooms: Rooms,
}

impl Guests {
    pub fn new(accounts: Arc<Accounts>, rooms: Rooms) -> Self {
        Self { accounts, rooms }
    }

    /// Whether a room lets guests in, as far as this server knows it.
    pub fn may_join(rooms: &Rooms, room: chappe_store::RoomNid) -> Result<bool, StoreError> {
        #[derive(Deserialize)]
        struct Content {
            guest_access: String,
        }
        let content = rooms.get_state_content::<Content>(room, &StateEventType::RoomGuestAccess, "")?;
        Ok(content.is_some_and(|content| content.guest_access == "can_join"))
    }

    async fn remove_guests(&self, room: chappe_store::RoomNid) -> Result<(), StoreError> {
        let Some(room_id) = self.rooms.get_room_id(room)? else { return Ok(()) };
        let members: Vec<_> = self.rooms.scan_members(room).collect::<Result<_, _>>()?;
        for (user, member) in members {
            if member.value.membership != "join" || !self.accounts.is_local(&user) {
                continue;
            }
            if self.accounts.get_account(&user)?.is_none_or(|account| account.kind != AccountKind::Guest) {
                continue;
            }
            if let Err(error) = self.rooms.leave(&user, &room_id, None).await {
                tracing::warn!(%error, user.id = %user, room.id = %room_id, "a guest could not leave a room");
            }
        }
        Ok(())
    }
}

impl Work for Guests {
    type Error = WorkError;

    const WHAT: &'static str = "guests in rooms that stop letting them in";
    const ACTS_AT_ONCE: bool = true;

    fn concerns(&self, event: &Event) -> bool {
        event.pdu.state_tuple().is_some_and(|(kind, _)| kind == StateEventType::RoomGuestAccess)
    }

    async fn take(&mut self, events: &[(Position, Arc<Event>)], _: &mut Batch) -> Result<(), WorkError> {
        for (_, event) in events {
            if !Self::may_join(&self.rooms, event.record.room)? {
                self.remove_guests(event.record.room).await?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use chappe_protocol::clock::ManualClock;
    use chappe_rooms::create::Preset;
    use chappe_store::Store;
    use ruma::{owned_server_name, user_id};
    use serde_json::json;

    use super::*;
    use crate::{accounts::AccountsConfig, event_follower::EventFollower, test_rooms};

    #[tokio::test]
    async fn guests_leave_a_room_that_stops_letting_them_in() {
        let store = Store::in_memory();
        let clock = Arc::new(ManualClock::new(1_700_000_000_000));
        let rooms = test_rooms::rooms(&store, clock.clone());
        let mut config = AccountsConfig::new(owned_server_name!("here.example"));
        config.registration.allow_guests = true;
        let accounts = Arc::new(Accounts::new(store.clone(), clock, config).unwrap());
        let (alice, bob) = (user_id!("@alice:here.example"), user_id!("@bob:here.example"));
        let room = test_rooms::create(&rooms, alice, Preset::PublicChat).await;
        let access = |access: &str| json!({ "guest_access": access });
        test_rooms::send_state(&rooms, alice, &room, "m.room.guest_access", "", access("can_join")).await;
        let guest = accounts.register_guest(None, false).await.unwrap().user_id;
        for user in [bob, &guest] {
            test_rooms::join(&rooms, user, &room).await;
        }
        let mut guests = Guests::new(accounts, rooms.clone());
        let mut follower = EventFollower::open("guests", &rooms).unwrap();
        test_rooms::send_state(&rooms, alice, &room, "m.room.guest_access", "", access("forbidden")).await;
        follower.step(&mut guests).await.unwrap();
        let nid = rooms.get_room_nid(&room).unwrap().unwrap();
        assert!(!rooms.is_joined(nid, &guest).unwrap());
        assert!(rooms.is_joined(nid, bob).unwrap(), "he is no guest of this server");
    }
}
