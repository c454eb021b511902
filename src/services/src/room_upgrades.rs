//! Carries what a user keeps about a room over to the room that replaces it, when the user joins that: tags, push rules, and that the
//! room is a direct chat.
//!
//! It follows the event log, so that it makes no difference how the room came to be or how the user came in: by an upgrade here or
//! elsewhere, or by hand. What the user already keeps about the new room stays.
//!
//! Spec: Client-Server API, Room upgrades, Server behaviour.

use std::sync::Arc;

use chappe_rooms::{Event, Rooms};
use chappe_store::{Batch, CommitError, Domain, Position, StoreError};
use ruma::{
    OwnedRoomId, OwnedUserId, RoomId, UserId,
    events::{StateEventType, room::member::MembershipState},
};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::{
    account_data::{AccountData, queue_put},
    event_follower::Work,
    guarded::commit_guarded,
    push::rules::{ChangeRulesError, PushRules},
    tags::get_tags,
};

const DIRECT: &str = "m.direct";

/// Settings that could not be carried over.
#[derive(Debug, thiserror::Error)]
pub enum CarryError {
    #[error(transparent)]
    Read(#[from] StoreError),
    #[error(transparent)]
    Write(#[from] CommitError),
    #[error(transparent)]
    Rules(#[from] ChangeRulesError),
}

/// Carries room settings over.
pub struct RoomUpgrades {
    rooms: Rooms,
    data: Arc<AccountData>,
    rules: Arc<PushRules>,
}

impl RoomUpgrades {
    pub fn new(rooms: Rooms, data: Arc<AccountData>, rules: Arc<PushRules>) -> Self {
        Self { rooms, data, rules }
    }

    /// The local user who joins by this event, and the room that this one replaces.
    fn get_upgrade(&self, event: &Event) -> Result<Option<(OwnedUserId, OwnedRoomId)>, StoreError> {
        #[derive(Deserialize)]
        struct Creation {
            predecessor: Predecessor,
        }
        #[derive(Deserialize)]
        struct Predecessor {
            room_id: OwnedRoomId,
        }
        let Some((StateEventType::RoomMember, user)) = event.pdu.state_tuple() else { return Ok(None) };
        let Ok(user) = UserId::parse(user) else { return Ok(None) };
        if user.server_name() != self.rooms.server_name() {
            return Ok(None);
        }
        if let Some(root) = event.record.state_before {
            let before =
                self.rooms.get_from_root(event.record.room, root, &StateEventType::RoomMember, user.as_str())?;
            if before.is_some_and(|before| before.pdu.membership() == Some(MembershipState::Join)) {
                return Ok(None);
            }
        }
        let creation: Option<Creation> =
            self.rooms.get_state_content(event.record.room, &StateEventType::RoomCreate, "")?;
        let Some(Creation { predecessor }) = creation else { return Ok(None) };
        // Whoever writes a room's first event may name any room as the one before: only one that the user was in counts.
        let was_in = match self.rooms.get_room_nid(&predecessor.room_id)? {
            Some(old) => self.rooms.get_user_room(&user, old)?.is_some(),
            None => false,
        };
        Ok(was_in.then_some((user, predecessor.room_id)))
    }

    async fn carry(&self, user: &UserId, old: &RoomId, new: &RoomId) -> Result<(), CarryError> {
        commit_guarded(self.rooms.store(), Domain::Account(user.to_owned()), |batch| {
            let tags = get_tags(&self.data, user, old)?;
            if !tags.is_empty() && get_tags(&self.data, user, new)?.is_empty() {
                let content = json!({ "tags": tags }).to_string();
                queue_put(self.rooms.store(), batch, user, Some(new), "m.tag", &content)?;
            }
            let direct = self.data.get(user, None, DIRECT)?;
            let direct = direct.and_then(|direct| serde_json::from_str(&direct).ok());
            if let Some(direct) = direct.and_then(|direct| with_replacement(direct, old, new)) {
                queue_put(self.rooms.store(), batch, user, None, DIRECT, &direct.to_string())?;
            }
            Ok::<_, CarryError>(())
        })
        .await?;
        match self.rules.copy_room_rules(user, old, new).await {
            // A full ruleset is no reason to stop.
            Err(ChangeRulesError::TooLarge | ChangeRulesError::Invalid(_)) | Ok(()) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl Work for RoomUpgrades {
    type Error = CarryError;

    const WHAT: &'static str = "room settings on their way to upgraded rooms";
    const ACTS_AT_ONCE: bool = true;

    fn concerns(&self, event: &Event) -> bool {
        event.pdu.membership() == Some(MembershipState::Join)
    }

    async fn take(&mut self, events: &[(Position, Arc<Event>)], _: &mut Batch) -> Result<(), CarryError> {
        for (_, event) in events {
            if let Some((user, old)) = self.get_upgrade(event)? {
                self.carry(&user, &old, &event.pdu.room_id).await?;
            }
        }
        Ok(())
    }
}

/// The list of direct chats with the new room beside the old one; `None` where the old one is not in it, or the new one already is.
fn with_replacement(mut direct: Value, old: &RoomId, new: &RoomId) -> Option<Value> {
    let is = |room: &Value, id: &RoomId| room.as_str() == Some(id.as_str());
    let mut is_changed = false;
    for rooms in direct.as_object_mut()?.values_mut().filter_map(Value::as_array_mut) {
        if rooms.iter().any(|room| is(room, old)) && !rooms.iter().any(|room| is(room, new)) {
            rooms.push(new.as_str().into());
            is_changed = true;
        }
    }
    is_changed.then_some(direct)
}

#[cfg(test)]
mod tests {
    use chappe_protocol::clock::ManualClock;
    use chappe_rooms::{create::Preset, membership::MemberProfile, upgrade::UpgradeRoom};
    use chappe_store::Store;
    use ruma::{
        RoomVersionId,
        push::{NewPushRule, NewSimplePushRule, RuleKind},
        room_id, user_id,
    };
    use serde_json::value::to_raw_value;

    use super::*;
    use crate::{event_follower::EventFollower, push::rules::PlacedRule, tags::set_tag, test_rooms};

    #[tokio::test]
    async fn tags_direct_chats_and_push_rules_follow_whoever_joins_the_replacement() {
        let store = Store::in_memory();
        let rooms = test_rooms::rooms(&store, Arc::new(ManualClock::new(1_700_000_000_000)));
        let (alice, bob) = (user_id!("@alice:here.example"), user_id!("@bob:here.example"));
        let data = Arc::new(AccountData::new(store.clone()));
        let old = test_rooms::create(&rooms, alice, Preset::PublicChat).await;
        test_rooms::join(&rooms, bob, &old).await;
        for user in [alice, bob] {
            set_tag(&data, user, &old, "m.favourite", json!({ "order": 0.5 })).await.unwrap();
        }
        let other = room_id!("!other:here.example");
        let direct = to_raw_value(&json!({ "@alice:here.example": [old, other] })).unwrap();
        data.put(bob, None, DIRECT, &direct).await.unwrap();
        let rules = Arc::new(PushRules::new(store.clone()));
        let rule = NewPushRule::Room(NewSimplePushRule::new(old.clone(), vec![]));
        rules.put_rule(bob, PlacedRule { rule, before: None, after: None }).await.unwrap();

        let mut upgrades = RoomUpgrades::new(rooms.clone(), data.clone(), rules.clone());
        let mut follower = EventFollower::open("room_upgrades", &rooms).unwrap();
        let request = UpgradeRoom {
            version: RoomVersionId::V12,
            additional_creators: Vec::new(),
            profile: MemberProfile::default(),
        };
        let new = rooms.upgrade_room(alice, &old, request).await.unwrap();
        set_tag(&data, bob, &new, "u.own", json!({})).await.unwrap();
        test_rooms::join(&rooms, bob, &new).await;
        follower.step(&mut upgrades).await.unwrap();

        assert_eq!(Value::Object(get_tags(&data, alice, &new).unwrap()), json!({ "m.favourite": { "order": 0.5 } }));
        assert_eq!(Value::Object(get_tags(&data, bob, &new).unwrap()), json!({ "u.own": {} }), "what is there stays");
        let direct: Value = serde_json::from_str(&data.get(bob, None, DIRECT).unwrap().unwrap()).unwrap();
        assert_eq!(direct, json!({ "@alice:here.example": [old, other, new] }));
        assert_eq!(data.get(alice, None, DIRECT).unwrap(), None);
        assert!(rules.get_ruleset(bob).unwrap().room.contains(new.as_str()));
        assert!(rules.get_ruleset(alice).unwrap().room.is_empty());

        // What the user then decides stands, through changes of profile too.
        rules.delete_rule(bob, RuleKind::Room, new.as_str()).await.unwrap();
        let profile = json!({ "membership": "join", "displayname": "Bobby" });
        test_rooms::send_state(&rooms, bob, &new, "m.room.member", bob.as_str(), profile).await;
        follower.step(&mut upgrades).await.unwrap();
        assert!(rules.get_ruleset(bob).unwrap().room.get(new.as_str()).is_none());
    }
}
