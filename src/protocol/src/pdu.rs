//! [`Pdu`], the one event type of the server: an event that passed the format check, with its id.
//!
//! It keeps the canonical text it arrived as, without `unsigned`, because that text is what is stored, signed
//! and forwarded; the fields beside it are read from it once. It says nothing about authorization beyond the
//! `rejected` flag its keeper sets.

use std::{fmt, sync::Arc};

use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId,
    OwnedUserId, RoomId, UserId,
    events::{StateEventType, TimelineEventType, room::member::MembershipState},
    room_version_rules::{EventIdFormatVersion, RoomVersionRules},
    signatures::reference_hash,
    state_res,
};
use serde::{
    Deserialize,
    de::{DeserializeOwned, Deserializer, IgnoredAny, SeqAccess, Visitor},
};
use serde_json::value::RawValue as RawJsonValue;
use yoke::Yoke;

use crate::{
    format::{self, FormatError},
    json,
};

/// An event in federation format. Share it as `Arc<Pdu>`.
#[derive(Clone, Debug)]
pub struct Pdu {
    /// The event id: computed from the event from room version 3, named by it before.
    pub event_id: OwnedEventId,
    /// The room, derived from the event id for a version 12 create event.
    pub room_id: OwnedRoomId,
    /// Who sent it.
    pub sender: OwnedUserId,
    /// Its `type`.
    pub kind: TimelineEventType,
    /// Present, possibly empty, for state events only.
    pub state_key: Option<Box<str>>,
    /// When its server says it was made.
    pub origin_server_ts: MilliSecondsSinceUnixEpoch,
    /// The events it follows.
    pub prev_events: Vec<OwnedEventId>,
    /// The events that authorize it.
    pub auth_events: Vec<OwnedEventId>,
    /// Its claimed distance from the create event.
    pub depth: u64,
    /// Whether it failed the authorization rules against its auth events or the state before it.
    pub rejected: bool,
    text: Text,
    redacts: Option<Box<Redacts>>,
    membership: Option<MembershipState>,
    room_id_is_derived: bool,
}

/// The canonical text of an event, and the part of it that is its `content`.
type Text = Yoke<&'static RawJsonValue, Arc<str>>;

/// The targets that a redaction names.
#[derive(Clone, Debug, Default)]
struct Redacts {
    top_level: Option<OwnedEventId>,
    in_content: Option<OwnedEventId>,
}

impl Pdu {
    /// Checks the format of an event, computes its id and reads its fields. `unsigned` is dropped.
    ///
    /// The event is not rejected, and nothing is known about its signatures.
    pub fn from_object(mut object: CanonicalJsonObject, rules: &RoomVersionRules) -> Result<Self, FormatError> {
        object.remove("unsigned");
        Self::from_signed(&object, rules)
    }

    /// As [`Pdu::from_object`], of an event from which `unsigned` has been taken already.
    pub fn from_signed(object: &CanonicalJsonObject, rules: &RoomVersionRules) -> Result<Self, FormatError> {
        format::check_fields(object, rules)?;
        let json = json::canonical(object)?;
        format::check_size(&json)?;
        let event_id = event_id(object, rules)?;
        Self::read(event_id, json.into(), false, None)
    }

    /// Reads an event this server stored: no format check, no hashing.
    ///
    /// `json` is what [`Pdu::json`] returned.
    pub fn from_stored(
        event_id: impl Into<OwnedEventId>,
        json: &str,
        rejected: bool,
        room_id: impl Into<OwnedRoomId>,
    ) -> Result<Self, FormatError> {
        Self::read(event_id.into(), json.into(), rejected, Some(room_id.into()))
    }

    fn read(
        event_id: OwnedEventId,
        json: Arc<str>,
        rejected: bool,
        room_id: Option<OwnedRoomId>,
    ) -> Result<Self, FormatError> {
        let mut fields = None;
        let text: Text = Yoke::try_attach_to_cart(json, |json| {
            let (content, rest) = serde_json::from_str::<Fields<&RawJsonValue>>(json)?.split_content();
            fields = Some(rest);
            Ok::<_, serde_json::Error>(content)
        })?;
        let content: &RawJsonValue = text.get();
        let mut fields = fields.ok_or(FormatError::Missing("content"))?;
        let room_id_is_derived = fields.room_id.is_none();
        let room_id = match room_id.or(fields.room_id) {
            Some(room_id) => room_id,
            None => room_id_of_create(&event_id)?,
        };
        let redacts = (fields.kind == TimelineEventType::RoomRedaction).then(|| {
            let in_content =
                serde_json::from_str::<RedactsField>(content.get()).ok().and_then(|content| content.redacts);
            Box::new(Redacts {
                top_level: fields.redacts.as_deref().and_then(as_event_id),
                in_content: in_content.as_deref().and_then(as_event_id),
            })
        });
        let membership = (fields.kind == TimelineEventType::RoomMember && fields.state_key.is_some())
            .then(|| serde_json::from_str::<MembershipField>(content.get()).ok())
            .flatten()
            .map(|content| content.membership);
        fields.prev_events.shrink_to_fit();
        fields.auth_events.shrink_to_fit();
        Ok(Self {
            event_id,
            room_id,
            sender: fields.sender,
            kind: fields.kind,
            state_key: fields.state_key,
            origin_server_ts: fields.origin_server_ts,
            prev_events: fields.prev_events.into_iter().map(|reference| reference.0).collect(),
            auth_events: fields.auth_events.into_iter().map(|reference| reference.0).collect(),
            depth: fields.depth,
            rejected,
            text,
            redacts,
            membership,
            room_id_is_derived,
        })
    }

    /// Takes the ids of its auth events from where they are in memory already: every event of a room names the same few.
    pub fn share_auth_ids(&mut self, known: impl IntoIterator<Item = OwnedEventId>) {
        for known in known {
            if let Some(own) = self.auth_events.iter_mut().find(|own| **own == known) {
                *own = known;
            }
        }
    }

    /// The canonical text of the event, with hashes and signatures and without `unsigned`: what is stored, and
    /// what is sent to other servers.
    pub fn json(&self) -> &str {
        self.text.backing_cart()
    }

    /// The same text, shared.
    pub fn json_arc(&self) -> Arc<str> {
        self.text.backing_cart().clone()
    }

    /// Its `content`, as canonical text.
    pub fn content(&self) -> &RawJsonValue {
        self.text.get()
    }

    /// The event in federation format, ready to be put in a request or response.
    pub fn to_federation_raw(&self) -> Result<Box<RawJsonValue>, FormatError> {
        Ok(RawJsonValue::from_string(self.json().to_owned())?)
    }

    /// The event as a canonical JSON object. Errors only if what was stored is damaged.
    pub fn object(&self) -> Result<CanonicalJsonObject, FormatError> {
        Ok(serde_json::from_str(self.json())?)
    }

    /// Reads the content as `T`.
    pub fn get_content<T: DeserializeOwned>(&self) -> Result<T, serde_json::Error> {
        serde_json::from_str(self.content().get())
    }

    /// Whether this is a state event.
    pub fn is_state(&self) -> bool {
        self.state_key.is_some()
    }

    /// The state key of a state event.
    pub fn state_key(&self) -> Option<&str> {
        self.state_key.as_deref()
    }

    /// Where a state event stands in the room's state.
    pub fn state_tuple(&self) -> Option<(StateEventType, &str)> {
        Some((StateEventType::from(self.kind.to_string()), self.state_key()?))
    }

    /// Whether this state event has that type and state key.
    pub fn is_state_event(&self, kind: &TimelineEventType, state_key: &str) -> bool {
        self.kind == *kind && self.state_key() == Some(state_key)
    }

    /// The membership set by an `m.room.member` state event.
    pub fn membership(&self) -> Option<MembershipState> {
        self.membership.clone()
    }

    /// The event a redaction wants redacted: named in `content` from room version 11, at the top level before.
    ///
    /// The other place is ignored even when filled in, hence the rules.
    pub fn redaction_target(&self, rules: &RoomVersionRules) -> Option<&OwnedEventId> {
        let redacts = self.redacts.as_ref()?;
        if rules.redaction.content_field_redacts { redacts.in_content.as_ref() } else { redacts.top_level.as_ref() }
    }

    /// The redacted form of this event, under the same id.
    pub fn redacted(&self, rules: &RoomVersionRules) -> Result<Self, FormatError> {
        let object = crate::redact::redact_object(self.object()?, rules)
            .map_err(|error| FormatError::Invalid { field: "type", reason: error.to_string() })?;
        let json = json::canonical(&object)?;
        Self::read(self.event_id.clone(), json.into(), self.rejected, Some(self.room_id.clone()))
    }

    /// The target shown to clients, which needs no rules as long as the event does not name two.
    ///
    /// Where it does, nothing is added: the place that counts is there already, and copying the other one would
    /// have clients redact an event this server did not.
    pub(crate) fn redacts_for_clients(&self) -> Option<&OwnedEventId> {
        match &**self.redacts.as_ref()? {
            Redacts { top_level: Some(top_level), in_content: Some(content) } => {
                (top_level == content).then_some(top_level)
            }
            Redacts { top_level, in_content } => top_level.as_ref().or(in_content.as_ref()),
        }
    }
}

/// The id of an event that passed the format check.
///
/// Spec: room versions, Event IDs.
pub fn event_id(object: &CanonicalJsonObject, rules: &RoomVersionRules) -> Result<OwnedEventId, FormatError> {
    let text = match rules.event_id_format {
        EventIdFormatVersion::V1 => match object.get("event_id") {
            Some(CanonicalJsonValue::String(event_id)) => event_id.clone(),
            _ => return Err(FormatError::Missing("event_id")),
        },
        _ => format!("${}", reference_hash(object, rules)?),
    };
    EventId::parse(text).map_err(|error| FormatError::Invalid { field: "event_id", reason: error.to_string() })
}

/// The room a version 12 create event opens: its own id, under the room sigil.
fn room_id_of_create(event_id: &EventId) -> Result<OwnedRoomId, FormatError> {
    RoomId::parse(format!("!{}", event_id.as_str().strip_prefix('$').unwrap_or_default()))
        .map_err(|error| FormatError::Invalid { field: "event_id", reason: error.to_string() })
}

fn as_event_id(raw: &RawJsonValue) -> Option<OwnedEventId> {
    serde_json::from_str(raw.get()).ok()
}

#[derive(Deserialize)]
struct MembershipField {
    membership: MembershipState,
}

#[derive(Deserialize)]
struct RedactsField {
    redacts: Option<Box<RawJsonValue>>,
}

#[derive(Deserialize)]
struct Fields<C> {
    room_id: Option<OwnedRoomId>,
    sender: OwnedUserId,
    #[serde(rename = "type")]
    kind: TimelineEventType,
    state_key: Option<Box<str>>,
    content: C,
    origin_server_ts: MilliSecondsSinceUnixEpoch,
    prev_events: Vec<Reference>,
    auth_events: Vec<Reference>,
    depth: u64,
    redacts: Option<Box<RawJsonValue>>,
}

impl<C> Fields<C> {
    fn split_content(self) -> (C, Fields<()>) {
        let Self {
            room_id,
            sender,
            kind,
            state_key,
            content,
            origin_server_ts,
            prev_events,
            auth_events,
            depth,
            redacts,
        } = self;
        let rest = Fields {
            room_id,
            sender,
            kind,
            state_key,
            content: (),
            origin_server_ts,
            prev_events,
            auth_events,
            depth,
            redacts,
        };
        (content, rest)
    }
}

/// An entry of `prev_events`: an event id, in a pair with hashes in the first two room versions.
struct Reference(OwnedEventId);

impl<'de> Deserialize<'de> for Reference {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ReferenceVisitor;

        impl<'de> Visitor<'de> for ReferenceVisitor {
            type Value = Reference;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an event id, or a pair of one and its hashes")
            }

            fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Reference, E> {
                EventId::parse(value).map(Reference).map_err(E::custom)
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Reference, A::Error> {
                let event_id = seq.next_element()?.ok_or_else(|| serde::de::Error::invalid_length(0, &self))?;
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                Ok(Reference(event_id))
            }
        }

        deserializer.deserialize_any(ReferenceVisitor)
    }
}

impl state_res::Event for Pdu {
    type Id = OwnedEventId;

    fn event_id(&self) -> &OwnedEventId {
        &self.event_id
    }

    /// The `room_id` field of the event: absent from version 12 create events, and the rules check that it is.
    fn room_id(&self) -> Option<&RoomId> {
        (!self.room_id_is_derived).then_some(&*self.room_id)
    }

    fn sender(&self) -> &UserId {
        &self.sender
    }

    fn origin_server_ts(&self) -> MilliSecondsSinceUnixEpoch {
        self.origin_server_ts
    }

    fn event_type(&self) -> &TimelineEventType {
        &self.kind
    }

    fn content(&self) -> &RawJsonValue {
        self.text.get()
    }

    fn state_key(&self) -> Option<&str> {
        self.state_key.as_deref()
    }

    fn prev_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Box::new(self.prev_events.iter())
    }

    fn auth_events(&self) -> Box<dyn DoubleEndedIterator<Item = &OwnedEventId> + '_> {
        Box::new(self.auth_events.iter())
    }

    /// Asked only under the rules of versions 1 and 2, where the field is at the top level.
    fn redacts(&self) -> Option<&OwnedEventId> {
        self.redacts.as_ref()?.top_level.as_ref()
    }

    fn rejected(&self) -> bool {
        self.rejected
    }
}

#[cfg(test)]
mod tests {
    use base64::{
        Engine,
        engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
    };
    use ruma::RoomVersionId;
    use serde_json::json;
    use sha2::{Digest, Sha256};

    use super::*;
    use crate::test_room::{BOB, TestRoom, redaction};

    const VERSIONS: [RoomVersionId; 6] = [
        RoomVersionId::V2,
        RoomVersionId::V3,
        RoomVersionId::V4,
        RoomVersionId::V6,
        RoomVersionId::V11,
        RoomVersionId::V12,
    ];

    #[test]
    fn event_id_is_the_hash_of_the_redacted_event() {
        // Redacted and canonical, written by hand: the message body and `unsigned` are gone, `hashes` stays.
        let covered = r#"{"auth_events":["$a"],"content":{},"depth":7,"hashes":{"sha256":"h"},"origin_server_ts":5,"prev_events":["$p"],"room_id":"!r:x","sender":"@a:x","type":"m.room.message"}"#;
        let hash = Sha256::digest(covered.as_bytes());
        let raw = r#"{"type":"m.room.message","content":{"body":"hi"},"unsigned":{"age":1},"auth_events":["$a"],
            "prev_events":["$p"],"depth":7,"hashes":{"sha256":"h"},"origin_server_ts":5,"room_id":"!r:x",
            "sender":"@a:x","signatures":{"x":{"ed25519:1":"s"}}}"#;
        for (version, expected) in [
            (RoomVersionId::V3, STANDARD_NO_PAD.encode(hash)),
            (RoomVersionId::V4, URL_SAFE_NO_PAD.encode(hash)),
            (RoomVersionId::V6, URL_SAFE_NO_PAD.encode(hash)),
            (RoomVersionId::V11, URL_SAFE_NO_PAD.encode(hash)),
        ] {
            let rules = version.rules().unwrap();
            let pdu = Pdu::from_object(json::parse_strict(raw).unwrap(), &rules).unwrap();
            assert_eq!(pdu.event_id.as_str(), format!("${expected}"), "{version}");
        }
    }

    #[test]
    fn stored_event_reads_back_the_same() {
        for version in VERSIONS {
            let (mut room, state) = TestRoom::populated(version.clone());
            let extra = room.make(&state, "m.room.message", BOB, None, json!({"body": "é\u{0}"}));
            for pdu in room.events.values().chain([&extra]) {
                let read = Pdu::from_stored(pdu.event_id.clone(), pdu.json(), true, pdu.room_id.clone()).unwrap();
                assert!(read.rejected && !pdu.rejected);
                assert_eq!(read.json(), pdu.json());
                assert_eq!(read.state_tuple(), pdu.state_tuple());
                assert_eq!(read.auth_events, pdu.auth_events);
                assert_eq!(read.prev_events, pdu.prev_events);
                assert_eq!(read.room_id_is_derived, pdu.room_id_is_derived);
                let again = Pdu::from_object(read.object().unwrap(), &room.rules).unwrap();
                assert_eq!(again.event_id, pdu.event_id, "{version}");
                assert_eq!(again.room_id, pdu.room_id);
            }
        }
    }

    #[test]
    fn version_12_room_is_named_after_its_create_event() {
        let (room, state) = TestRoom::new(RoomVersionId::V12);
        let create = room.fetch(state.values().next().unwrap()).unwrap();
        assert_eq!(create.room_id.as_str().strip_prefix('!'), create.event_id.as_str().strip_prefix('$'));
        assert!(state_res::Event::room_id(&create).is_none());
        assert!(!create.json().contains("room_id"));
    }

    #[test]
    fn redaction_keeps_the_event_id_and_drops_the_body() {
        for version in VERSIONS {
            let (mut room, state) = TestRoom::populated(version);
            let pdu = room.make(&state, "m.room.message", BOB, None, json!({"body": "secret"}));
            let redacted = pdu.redacted(&room.rules).unwrap();
            assert_eq!(redacted.content().get(), "{}");
            assert!(!redacted.json().contains("secret"));
            let recomputed = event_id(&redacted.object().unwrap(), &room.rules).unwrap();
            assert_eq!(recomputed, pdu.event_id);
            assert_eq!(redacted.room_id, pdu.room_id);
        }
    }

    #[test]
    fn redaction_target_is_read_where_the_version_puts_it() {
        for (version, expected) in [(RoomVersionId::V10, "$top"), (RoomVersionId::V11, "$in")] {
            let (pdu, rules) = redaction(version, Some("$top"), json!({"redacts": "$in"}));
            assert_eq!(pdu.redaction_target(&rules).unwrap().as_str(), expected);
        }
        let (pdu, rules) = redaction(RoomVersionId::V11, Some("$top"), json!({}));
        assert_eq!(pdu.redaction_target(&rules), None);
        let (pdu, rules) = redaction(RoomVersionId::V11, None, json!({"redacts": 7}));
        assert_eq!(pdu.redaction_target(&rules), None);
    }

    #[test]
    fn membership_is_read_only_from_membership_state() {
        let (mut room, state) = TestRoom::populated(RoomVersionId::V10);
        let join = room.fetch(&state[&crate::test_room::key("m.room.member", BOB)]).unwrap();
        assert_eq!(join.membership(), Some(MembershipState::Join));
        let other = room.make(&state, "m.room.message", BOB, None, json!({"membership": "join"}));
        assert_eq!(other.membership(), None);
    }
}
