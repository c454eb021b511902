//! Carries a user's push rules about a room over to the room that replaces it, when the user joins that.
//!
//! It follows the event log, so that it makes no difference how the room came to be or how the user came in: by an upgrade here or
//! elsewhere, or by hand. Rules that the user already has for the new room stay.
//!
//! Spec: Client-Server API, Room Upgrades, Server behaviour.

use std::{sync::Arc, time::Duration};

use chappe_rooms::{Event, Rooms};
use chappe_store::{Batch, CommitError, StoreError};
use ruma::{
    OwnedRoomId, OwnedUserId,
    events::{StateEventType, TimelineEventType, room::member::MembershipState},
};
use serde::Deserialize;

use super::rules::{ChangeRulesError, PushRules};
use crate::event_follower::EventFollower;

/// How many events are dealt with at once.
const EVENTS_PER_BATCH: usize = 100;

/// How long after trouble with our own store the log is looked at again.
const STORE_TROUBLE_PAUSE: Duration = Duration::from_secs(5);

#[derive(Debug, thiserror::Error)]
enum CarryError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Commit(#[from] CommitError),
    #[error(transparent)]
    Rules(#[from] ChangeRulesError),
}

/// Carries rules over.
pub struct RuleCarrier {
    rooms: Rooms,
    rules: Arc<PushRules>,
    log: EventFollower,
}

impl RuleCarrier {
    /// Goes on where it stopped.
    pub fn open(rooms: Rooms, rules: Arc<PushRules>) -> Result<Self, StoreError> {
        let log = EventFollower::open("push_rule_carrier", &rooms)?;
        Ok(Self { rooms, rules, log })
    }

    pub async fn run(mut self) {
        loop {
            if let Err(error) = self.step().await {
                tracing::warn!(%error, "push rules are not carried over yet");
                tokio::time::sleep(STORE_TROUBLE_PAUSE).await;
            }
        }
    }

    async fn step(&mut self) -> Result<(), CarryError> {
        let events = self.log.next(EVENTS_PER_BATCH).await?;
        let Some(last) = events.last().map(|(position, _)| *position) else { return Ok(()) };
        for (_, event) in events {
            let Some((user_id, predecessor)) = self.get_upgrade_of_joiner(&event)? else { continue };
            match self.rules.copy_room_rules(&user_id, &predecessor, &event.pdu.room_id).await {
                // A full ruleset is no reason to stop.
                Err(ChangeRulesError::TooLarge | ChangeRulesError::Invalid(_)) | Ok(()) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let mut batch = Batch::new();
        self.log.advance(&mut batch, last);
        self.rooms.store().commit(batch).await?;
        Ok(())
    }

    /// The local user who joins by this event, and the room that theirs replaces.
    fn get_upgrade_of_joiner(&self, event: &Event) -> Result<Option<(OwnedUserId, OwnedRoomId)>, StoreError> {
        #[derive(Deserialize)]
        struct Create {
            predecessor: Predecessor,
        }
        #[derive(Deserialize)]
        struct Predecessor {
            room_id: OwnedRoomId,
        }
        if event.pdu.kind != TimelineEventType::RoomMember || event.pdu.membership() != Some(MembershipState::Join) {
            return Ok(None);
        }
        let user_id = event.pdu.state_key().and_then(|user| OwnedUserId::try_from(user).ok());
        let Some(user_id) = user_id.filter(|user| user.server_name() == self.rooms.server_name()) else {
            return Ok(None);
        };
        let room = event.record.room;
        if let Some(root) = event.record.state_before {
            let before = self.rooms.get_from_root(room, root, &StateEventType::RoomMember, user_id.as_str())?;
            if before.is_some_and(|before| before.pdu.membership() == Some(MembershipState::Join)) {
                return Ok(None);
            }
        }
        let create: Option<Create> = self.rooms.get_state_content(room, &StateEventType::RoomCreate, "")?;
        Ok(create.map(|create| (user_id, create.predecessor.room_id)))
    }
}

#[cfg(test)]
mod tests {
    use chappe_protocol::clock::ManualClock;
    use chappe_rooms::{create::Preset, send::canonical_content};
    use chappe_store::Store;
    use ruma::{
        push::{NewPushRule, NewSimplePushRule},
        user_id,
    };
    use serde_json::json;

    use super::*;
    use crate::{push::rules::PlacedRule, test_rooms};

    #[tokio::test]
    async fn rules_follow_a_user_into_the_room_that_replaces_another() {
        let store = Store::in_memory();
        let rooms = test_rooms::rooms(&store, Arc::new(ManualClock::new(1_700_000_000_000)));
        let (alice, bob) = (user_id!("@alice:here.example"), user_id!("@bob:here.example"));
        let rules = Arc::new(PushRules::new(store.clone()));
        let old = test_rooms::create(&rooms, alice, Preset::PublicChat).await;
        let rule = NewPushRule::Room(NewSimplePushRule::new(old.clone(), vec![]));
        rules.put_rule(bob, PlacedRule { rule, before: None, after: None }).await.unwrap();

        let mut carrier = RuleCarrier::open(rooms.clone(), rules.clone()).unwrap();
        let creation = canonical_content(&json!({ "predecessor": { "room_id": old } }).to_string()).unwrap();
        let new = test_rooms::create_with(&rooms, alice, Preset::PublicChat, creation).await;
        test_rooms::join(&rooms, bob, &new).await;
        carrier.step().await.unwrap();
        assert!(rules.get_ruleset(bob).unwrap().room.contains(new.as_str()));
        assert!(rules.get_ruleset(alice).unwrap().room.is_empty());

        // What the user then decides stands, through changes of profile too.
        rules.delete_rule(bob, ruma::push::RuleKind::Room, new.as_str()).await.unwrap();
        let profile = json!({ "membership": "join", "displayname": "Bobby" });
        test_rooms::send_state(&rooms, bob, &new, "m.room.member", bob.as_str(), profile).await;
        carrier.step().await.unwrap();
        assert!(rules.get_ruleset(bob).unwrap().room.get(new.as_str()).is_none());
    }
}
