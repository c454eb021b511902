//! Effective power levels: who may do what in a room.
//!
//! Built once from the create and power levels events, then asked often. These are answers for the server's
//! own decisions (may this user redact, kick, notify the room); whether an event is *authorized* is decided by
//! [`crate::auth`].

use std::collections::{BTreeMap, HashSet};

use ruma::{
    Int, OwnedUserId, UserId,
    events::{TimelineEventType, room::power_levels::UserPowerLevel},
    room_version_rules::RoomVersionRules,
    state_res::events::{RoomCreateEvent, RoomPowerLevelsEvent, RoomPowerLevelsIntField},
};

use crate::pdu::Pdu;

/// The level a creator has while a room up to version 11 has no power levels event.
const CREATOR_LEVEL: i32 = 100;

/// The create or power levels event cannot be understood.
#[derive(Debug, thiserror::Error)]
#[error("invalid power levels: {0}")]
pub struct PowerLevelsError(String);

/// The levels of a room at some state.
#[derive(Clone, Debug)]
pub struct PowerLevels {
    privileged_creators: HashSet<OwnedUserId>,
    users: BTreeMap<OwnedUserId, Int>,
    users_default: Int,
    events: BTreeMap<TimelineEventType, Int>,
    events_default: Int,
    state_default: Int,
    ban: Int,
    kick: Int,
    redact: Int,
    invite: Int,
    notifications_room: Int,
}

impl PowerLevels {
    /// Reads the levels from the room's create event and, if there is one, its power levels event.
    ///
    /// Spec: Client-Server API, `m.room.power_levels`; room version 12 for creators.
    pub fn from_events(
        rules: &RoomVersionRules,
        create: &Pdu,
        power_levels: Option<&Pdu>,
    ) -> Result<Self, PowerLevelsError> {
        let rules = &rules.authorization;
        let creators = RoomCreateEvent::new(create).creators(rules).map_err(PowerLevelsError)?;
        let (privileged_creators, plain_creators) = if rules.explicitly_privilege_room_creators {
            (creators, HashSet::new())
        } else {
            (HashSet::new(), creators)
        };
        let Some(power_levels) = power_levels else {
            let default = |field: RoomPowerLevelsIntField| field.default_value();
            return Ok(Self {
                privileged_creators,
                users: plain_creators.into_iter().map(|user| (user, CREATOR_LEVEL.into())).collect(),
                users_default: default(RoomPowerLevelsIntField::UsersDefault),
                events: BTreeMap::new(),
                events_default: default(RoomPowerLevelsIntField::EventsDefault),
                // Without the event, the rules ask the same of state events as with an empty one.
                state_default: default(RoomPowerLevelsIntField::StateDefault),
                ban: default(RoomPowerLevelsIntField::Ban),
                kick: default(RoomPowerLevelsIntField::Kick),
                redact: default(RoomPowerLevelsIntField::Redact),
                invite: default(RoomPowerLevelsIntField::Invite),
                notifications_room: 50.into(),
            });
        };
        let event = RoomPowerLevelsEvent::new(power_levels);
        let level =
            |field: RoomPowerLevelsIntField| event.get_as_int_or_default(field, rules).map_err(PowerLevelsError);
        Ok(Self {
            privileged_creators,
            users: event.users(rules).map_err(PowerLevelsError)?.cloned().unwrap_or_default(),
            users_default: level(RoomPowerLevelsIntField::UsersDefault)?,
            events: event.events(rules).map_err(PowerLevelsError)?.unwrap_or_default(),
            events_default: level(RoomPowerLevelsIntField::EventsDefault)?,
            state_default: level(RoomPowerLevelsIntField::StateDefault)?,
            ban: level(RoomPowerLevelsIntField::Ban)?,
            kick: level(RoomPowerLevelsIntField::Kick)?,
            redact: level(RoomPowerLevelsIntField::Redact)?,
            invite: level(RoomPowerLevelsIntField::Invite)?,
            // Before version 6 this map was not checked, so it may hold anything.
            notifications_room: event
                .notifications(rules)
                .ok()
                .flatten()
                .and_then(|levels| levels.get("room").copied())
                .unwrap_or_else(|| 50.into()),
        })
    }

    /// The level of a user; infinite for the creators of a version 12 room.
    pub fn user_level(&self, user: &UserId) -> UserPowerLevel {
        if self.privileged_creators.contains(user) {
            return UserPowerLevel::Infinite;
        }
        UserPowerLevel::Int(self.users.get(user).copied().unwrap_or(self.users_default))
    }

    /// The level needed to send an event of this type.
    pub fn event_level(&self, kind: &TimelineEventType, is_state: bool) -> Int {
        let default = if is_state { self.state_default } else { self.events_default };
        self.events.get(kind).copied().unwrap_or(default)
    }

    /// Whether the user's level allows sending an event of this type.
    pub fn can_send(&self, user: &UserId, kind: &TimelineEventType, is_state: bool) -> bool {
        self.user_level(user) >= self.event_level(kind, is_state)
    }

    /// Whether the user's level allows inviting.
    pub fn can_invite(&self, user: &UserId) -> bool {
        self.user_level(user) >= self.invite
    }

    /// Whether the user may kick that other user.
    pub fn can_kick(&self, user: &UserId, target: &UserId) -> bool {
        self.user_level(user) >= self.kick && self.outranks(user, target)
    }

    /// Whether the user may ban that other user.
    pub fn can_ban(&self, user: &UserId, target: &UserId) -> bool {
        self.user_level(user) >= self.ban && self.outranks(user, target)
    }

    /// Whether the user may lift the ban of that other user: the level to ban and to kick, and outranking.
    pub fn can_unban(&self, user: &UserId, target: &UserId) -> bool {
        self.user_level(user) >= self.ban && self.can_kick(user, target)
    }

    /// Whether the user may redact events of others.
    pub fn can_redact_others(&self, user: &UserId) -> bool {
        self.user_level(user) >= self.redact
    }

    /// Whether the user may redact an event of `author`: as a moderator, or, from room version 3, because both
    /// are on the same server.
    ///
    /// Spec: room version 3, Handling redactions.
    pub fn can_redact(&self, user: &UserId, author: &UserId) -> bool {
        self.can_redact_others(user) || user.server_name() == author.server_name()
    }

    /// Whether the user may notify the whole room.
    pub fn can_notify_room(&self, user: &UserId) -> bool {
        self.user_level(user) >= self.notifications_room
    }

    /// The levels users were given by name, without the creators of a version 12 room.
    pub fn users(&self) -> &BTreeMap<OwnedUserId, Int> {
        &self.users
    }

    /// The creators with infinite power: none before room version 12.
    pub fn privileged_creators(&self) -> &HashSet<OwnedUserId> {
        &self.privileged_creators
    }

    fn outranks(&self, user: &UserId, target: &UserId) -> bool {
        self.user_level(user) > self.user_level(target)
    }
}

#[cfg(test)]
mod tests {
    use ruma::RoomVersionId;
    use serde_json::json;

    use super::*;
    use crate::test_room::{ALICE, BOB, CAROL, TestRoom, key};

    fn user(id: &str) -> &UserId {
        id.try_into().unwrap()
    }

    fn levels(version: RoomVersionId, content: Option<serde_json::Value>) -> PowerLevels {
        let (mut room, mut state) = TestRoom::new(version);
        let create = room.fetch(&state[&key("m.room.create", "")]).unwrap();
        let event = content.map(|content| {
            let event_id = room.add(&mut state, "m.room.power_levels", ALICE, Some(""), content);
            room.fetch(&event_id).unwrap()
        });
        PowerLevels::from_events(&room.rules, &create, event.as_deref()).unwrap()
    }

    #[test]
    fn defaults_apply_without_the_event() {
        let levels = levels(RoomVersionId::V10, None);
        assert_eq!(levels.user_level(user(ALICE)), UserPowerLevel::Int(100.into()));
        assert_eq!(levels.user_level(user(BOB)), UserPowerLevel::Int(0.into()));
        assert!(levels.can_send(user(BOB), &"m.room.message".into(), false));
        assert!(!levels.can_send(user(BOB), &"m.room.topic".into(), true));
        assert!(levels.can_invite(user(BOB)));
        assert!(!levels.can_kick(user(BOB), user(CAROL)));
        assert!(levels.can_ban(user(ALICE), user(CAROL)));
    }

    #[test]
    fn creator_loses_the_default_level_once_there_is_an_event() {
        let levels = levels(RoomVersionId::V10, Some(json!({"users": {BOB: 60}, "users_default": 1})));
        assert_eq!(levels.user_level(user(ALICE)), UserPowerLevel::Int(1.into()));
        assert!(levels.can_ban(user(BOB), user(ALICE)));
    }

    #[test]
    fn version_12_creators_outrank_everyone() {
        let levels = levels(RoomVersionId::V12, Some(json!({"users": {BOB: 9_007_199_254_740_991i64}})));
        assert_eq!(levels.user_level(user(ALICE)), UserPowerLevel::Infinite);
        assert!(levels.can_kick(user(ALICE), user(BOB)));
        assert!(!levels.can_kick(user(BOB), user(ALICE)));
        assert!(!levels.can_kick(user(ALICE), user(ALICE)));
    }

    #[test]
    fn moderators_act_only_on_lower_levels() {
        let levels = levels(
            RoomVersionId::V10,
            Some(json!({"users": {ALICE: 100, BOB: 50, CAROL: 50}, "ban": 60, "redact": 40, "events": {"m.x": 70}})),
        );
        assert!(!levels.can_kick(user(BOB), user(CAROL)));
        assert!(levels.can_kick(user(ALICE), user(CAROL)));
        assert!(levels.can_kick(user(BOB), user("@d:d.example")));
        assert!(!levels.can_ban(user(BOB), user("@d:d.example")));
        assert!(!levels.can_unban(user(BOB), user("@d:d.example")));
        assert!(levels.can_redact_others(user(BOB)));
        assert!(!levels.can_send(user(BOB), &"m.x".into(), false));
        assert!(levels.can_send(user(ALICE), &"m.x".into(), true));
    }

    #[test]
    fn anyone_may_redact_on_their_own_server() {
        let levels = levels(RoomVersionId::V10, None);
        assert!(levels.can_redact(user(BOB), user("@other:b.example")));
        assert!(!levels.can_redact(user(BOB), user(CAROL)));
    }

    #[test]
    fn levels_as_strings_count_before_version_10_only() {
        let content = json!({"users": {ALICE: "100"}, "ban": "70", "notifications": {"room": "20"}});
        let levels = levels(RoomVersionId::V9, Some(content.clone()));
        assert_eq!(levels.user_level(user(ALICE)), UserPowerLevel::Int(100.into()));
        assert_eq!(levels.notifications_room, Int::from(20));
        let (mut room, state) = TestRoom::new(RoomVersionId::V10);
        let create = room.fetch(&state[&key("m.room.create", "")]).unwrap();
        let event = room.make(&state, "m.room.power_levels", ALICE, Some(""), content);
        assert!(PowerLevels::from_events(&room.rules, &create, Some(&event)).is_err());
    }

    #[test]
    fn notifying_the_room_takes_a_level_of_its_own() {
        let levels = levels(RoomVersionId::V10, Some(json!({"users": {BOB: 20}, "notifications": {"room": 20}})));
        assert!(levels.can_notify_room(user(BOB)));
        assert!(!levels.can_notify_room(user(CAROL)));
    }
}
