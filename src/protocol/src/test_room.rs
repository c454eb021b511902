//! A room built event by event for the tests: hashed for real, unsigned, with auth events chosen by the rules.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use ruma::{
    CanonicalJsonObject, EventId, OwnedEventId, RoomVersionId, UserId,
    events::{StateEventType, TimelineEventType},
    room_version_rules::{EventsReferenceFormatVersion, RoomVersionRules},
};
use serde_json::{Value as JsonValue, json};

use crate::{auth, json::parse_strict, pdu::Pdu, room_version, state_res::StateMap};

pub(crate) const ALICE: &str = "@alice:a.example";
pub(crate) const BOB: &str = "@bob:b.example";
pub(crate) const CAROL: &str = "@carol:c.example";

pub(crate) struct TestRoom {
    pub(crate) rules: RoomVersionRules,
    pub(crate) room_id: String,
    pub(crate) events: HashMap<OwnedEventId, Arc<Pdu>>,
    now_ms: u64,
}

pub(crate) type State = StateMap<OwnedEventId>;

impl TestRoom {
    /// A room with its create event, sent by Alice, and the state after it.
    pub(crate) fn new(version: RoomVersionId) -> (Self, State) {
        Self::with_create(version.clone(), json!({ "creator": ALICE, "room_version": version }))
    }

    pub(crate) fn with_create(version: RoomVersionId, content: JsonValue) -> (Self, State) {
        let rules = room_version::rules(&version).unwrap();
        let mut room = Self { rules, room_id: "!room:a.example".to_owned(), events: HashMap::new(), now_ms: 1_000 };
        let mut state = State::new();
        let create = room.add(&mut state, "m.room.create", ALICE, Some(""), content);
        room.room_id = room.events[&create].room_id.to_string();
        (room, state)
    }

    /// A public room with Alice (level 100), Bob (50) and Carol (0) joined.
    pub(crate) fn populated(version: RoomVersionId) -> (Self, State) {
        let (mut room, mut state) = Self::new(version);
        room.add(&mut state, "m.room.member", ALICE, Some(ALICE), json!({"membership": "join"}));
        let users = if room.rules.authorization.explicitly_privilege_room_creators {
            json!({BOB: 50})
        } else {
            json!({ALICE: 100, BOB: 50})
        };
        room.add(&mut state, "m.room.power_levels", ALICE, Some(""), json!({ "users": users }));
        room.add(&mut state, "m.room.join_rules", ALICE, Some(""), json!({"join_rule": "public"}));
        room.add(&mut state, "m.room.member", BOB, Some(BOB), json!({"membership": "join"}));
        room.add(&mut state, "m.room.member", CAROL, Some(CAROL), json!({"membership": "join"}));
        (room, state)
    }

    /// Makes an event on top of `state`, and puts it in the room and, if it is a state event, in `state`.
    pub(crate) fn add(
        &mut self,
        state: &mut State,
        kind: &str,
        sender: &str,
        state_key: Option<&str>,
        content: JsonValue,
    ) -> OwnedEventId {
        let pdu = self.make(state, kind, sender, state_key, content);
        if let Some((kind, state_key)) = pdu.state_tuple() {
            state.insert((kind, state_key.to_owned()), pdu.event_id.clone());
        }
        self.events.insert(pdu.event_id.clone(), pdu.clone());
        pdu.event_id.clone()
    }

    /// Makes an event on top of `state` without keeping it.
    pub(crate) fn make(
        &mut self,
        state: &State,
        kind: &str,
        sender: &str,
        state_key: Option<&str>,
        content: JsonValue,
    ) -> Arc<Pdu> {
        Arc::new(Pdu::from_object(self.object(state, kind, sender, state_key, content), &self.rules).unwrap())
    }

    pub(crate) fn object(
        &mut self,
        state: &State,
        kind: &str,
        sender: &str,
        state_key: Option<&str>,
        content: JsonValue,
    ) -> CanonicalJsonObject {
        self.now_ms += 1;
        let auth_types = auth::auth_types_for_event(
            &self.rules,
            &TimelineEventType::from(kind),
            <&UserId>::try_from(sender).unwrap(),
            state_key,
            &serde_json::value::to_raw_value(&content).unwrap(),
        )
        .unwrap();
        let reference = |event_id: &OwnedEventId| match self.rules.events_reference_format {
            EventsReferenceFormatVersion::V1 => json!([event_id, {"sha256": "x"}]),
            _ => json!(event_id),
        };
        let auth_events: Vec<_> = auth_types.iter().filter_map(|key| state.get(key)).map(reference).collect();
        let prev_events: Vec<_> = self.events.keys().take(1).map(reference).collect();
        let mut event = json!({
            "type": kind,
            "sender": sender,
            "content": content,
            "auth_events": auth_events,
            "prev_events": prev_events,
            "depth": self.now_ms - 1_000,
            "origin_server_ts": self.now_ms,
            "hashes": {"sha256": "not checked here"},
            "signatures": {},
        });
        if kind != "m.room.create" || self.rules.event_format.require_room_create_room_id {
            event["room_id"] = self.room_id.as_str().into();
        }
        if self.rules.event_format.require_event_id {
            event["event_id"] = format!("$e{}:a.example", self.now_ms).into();
        }
        if let Some(state_key) = state_key {
            event["state_key"] = state_key.into();
        }
        parse_strict(&event.to_string()).unwrap()
    }

    pub(crate) fn fetch(&self, event_id: &EventId) -> Option<Arc<Pdu>> {
        self.events.get(event_id).cloned()
    }

    pub(crate) fn check(&self, pdu: &Pdu, state: &State) -> Result<(), auth::Rejection> {
        auth::check_state_independent(&self.rules, pdu, |event_id| self.fetch(event_id))?;
        auth::check_state_dependent(&self.rules, pdu, |kind, state_key| {
            self.fetch(state.get(&(kind.clone(), state_key.to_owned()))?)
        })
    }

    pub(crate) fn auth_chain(&self, state: &State) -> HashSet<OwnedEventId> {
        crate::state_res::auth_chain(state.values(), |event_id| self.fetch(event_id))
    }
}

pub(crate) fn key(kind: &str, state_key: &str) -> (StateEventType, String) {
    (StateEventType::from(kind), state_key.to_owned())
}

/// A redaction by Bob that names targets in one place or both, and the rules of its room.
pub(crate) fn redaction(
    version: RoomVersionId,
    top_level: Option<&str>,
    content: JsonValue,
) -> (Pdu, RoomVersionRules) {
    let (mut room, state) = TestRoom::populated(version);
    let mut object = room.object(&state, "m.room.redaction", BOB, None, content);
    if let Some(target) = top_level {
        object.insert("redacts".to_owned(), target.to_owned().into());
    }
    (Pdu::from_object(object, &room.rules).unwrap(), room.rules)
}
