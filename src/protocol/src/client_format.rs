//! Events as clients see them: which fields, and what goes into `unsigned`.
//!
//! What to say in `unsigned` is for whoever knows the room and the viewer to find out; nothing is read here.
//!
//! Spec: Client-Server API, Room event format.

use std::{collections::BTreeMap, sync::Arc};

use ruma::{
    EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedUserId, RoomId, UserId,
    events::{TimelineEventType, room::member::MembershipState},
};
use serde::{Serialize, Serializer};
use serde_json::{
    Map, Value as JsonValue,
    value::{RawValue as RawJsonValue, to_raw_value},
};

use crate::pdu::Pdu;

/// How to show an event to a client.
#[derive(Clone, Debug, Default)]
pub struct ClientFormat {
    /// Leave `room_id` out, as `/sync` does.
    pub omit_room_id: bool,
    /// Left out if absent.
    pub unsigned: Option<Unsigned>,
}

/// What a server says of an event beside the event itself.
///
/// Spec: Client-Server API, Room event format, UnsignedData.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Unsigned {
    /// Milliseconds since it was sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub age: Option<u64>,
    /// How many events relate to it, by relation type (MSC2836), and a hash of their ids.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub children: Option<BTreeMap<String, u64>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub children_hash: Option<String>,
    /// That of the viewer at the event.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub membership: Option<MembershipState>,
    /// Of a state event, what was in its place before.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prev_content: Option<Box<RawJsonValue>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prev_sender: Option<OwnedUserId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub replaces_state: Option<OwnedEventId>,
    /// The redaction of it, in client format.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redacted_because: Option<Box<RawJsonValue>>,
    /// What relates to it, summed up.
    #[serde(rename = "m.relations", skip_serializing_if = "Option::is_none")]
    pub relations: Option<Map<String, JsonValue>>,
    /// Told to the device that sent it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub transaction_id: Option<String>,
}

/// An event as it is shown to a client. It becomes text when the answer that holds it does: not before, and not by itself.
///
/// A redaction names its target both at the top level and in its content, whatever the room version, so
/// that old and new clients find it.
///
/// Spec: Client-Server API, Room event format; `m.room.redaction`.
#[derive(Clone, Debug)]
pub struct ClientEvent {
    pdu: Arc<Pdu>,
    format: ClientFormat,
    content_with_target: Option<Box<RawJsonValue>>,
}

impl ClientEvent {
    /// Errors only if what was stored is damaged.
    pub fn new(pdu: Arc<Pdu>, format: ClientFormat) -> Result<Self, serde_json::Error> {
        let content_with_target = pdu.content_with_target()?;
        Ok(Self { pdu, format, content_with_target })
    }
}

impl Serialize for ClientEvent {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.pdu.client_fields(&self.format, self.content_with_target.as_deref()).serialize(serializer)
    }
}

#[derive(Serialize)]
struct ClientFields<'a> {
    content: &'a RawJsonValue,
    event_id: &'a EventId,
    origin_server_ts: MilliSecondsSinceUnixEpoch,
    #[serde(skip_serializing_if = "Option::is_none")]
    redacts: Option<&'a EventId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    room_id: Option<&'a RoomId>,
    sender: &'a UserId,
    #[serde(skip_serializing_if = "Option::is_none")]
    state_key: Option<&'a str>,
    #[serde(rename = "type")]
    kind: &'a TimelineEventType,
    #[serde(skip_serializing_if = "Option::is_none")]
    unsigned: Option<&'a Unsigned>,
}

impl Pdu {
    /// The text of a [`ClientEvent`].
    pub fn to_client_raw(&self, format: &ClientFormat) -> Result<Box<RawJsonValue>, serde_json::Error> {
        to_raw_value(&self.client_fields(format, self.content_with_target()?.as_deref()))
    }

    fn client_fields<'a>(
        &'a self,
        format: &'a ClientFormat,
        content_with_target: Option<&'a RawJsonValue>,
    ) -> ClientFields<'a> {
        ClientFields {
            content: content_with_target.unwrap_or_else(|| self.content()),
            event_id: &self.event_id,
            origin_server_ts: self.origin_server_ts,
            redacts: self.redacts_for_clients().map(|target| &**target),
            room_id: (!format.omit_room_id).then_some(&*self.room_id),
            sender: &self.sender,
            state_key: self.state_key(),
            kind: &self.kind,
            unsigned: format.unsigned.as_ref(),
        }
    }

    /// Of a redaction, its content with its target in it.
    fn content_with_target(&self) -> Result<Option<Box<RawJsonValue>>, serde_json::Error> {
        let Some(target) = self.redacts_for_clients() else { return Ok(None) };
        let mut content: Map<String, JsonValue> = self.get_content()?;
        content.entry("redacts").or_insert_with(|| target.as_str().into());
        to_raw_value(&content).map(Some)
    }

    /// The event as stripped state: `content`, `sender`, `state_key` and `type`.
    ///
    /// Spec: Client-Server API, Stripped state.
    pub fn to_stripped(&self) -> Result<Box<RawJsonValue>, serde_json::Error> {
        #[derive(Serialize)]
        struct Stripped<'a> {
            content: &'a RawJsonValue,
            sender: &'a UserId,
            #[serde(skip_serializing_if = "Option::is_none")]
            state_key: Option<&'a str>,
            #[serde(rename = "type")]
            kind: &'a TimelineEventType,
        }
        to_raw_value(&Stripped {
            content: self.content(),
            sender: &self.sender,
            state_key: self.state_key(),
            kind: &self.kind,
        })
    }
}

#[cfg(test)]
mod tests {
    use ruma::RoomVersionId;
    use serde_json::json;

    use super::*;
    use crate::test_room::{ALICE, TestRoom, key, redaction};

    fn shown(pdu: &Pdu, format: ClientFormat) -> JsonValue {
        serde_json::to_value(ClientEvent::new(Arc::new(pdu.clone()), format).unwrap()).unwrap()
    }

    #[test]
    fn clients_find_the_redaction_target_in_both_places() {
        for (version, top_level, content) in [
            (RoomVersionId::V10, Some("$t"), json!({"reason": "r"})),
            (RoomVersionId::V11, None, json!({"reason": "r", "redacts": "$t"})),
        ] {
            let (pdu, _) = redaction(version, top_level, content);
            let shown = shown(&pdu, ClientFormat::default());
            assert_eq!(shown["redacts"], "$t");
            assert_eq!(shown["content"], json!({"reason": "r", "redacts": "$t"}));
        }
    }

    #[test]
    fn clients_are_not_shown_a_second_redaction_target() {
        let (pdu, _) = redaction(RoomVersionId::V11, Some("$innocent"), json!({"redacts": "$t"}));
        let shown = shown(&pdu, ClientFormat::default());
        assert_eq!(shown.get("redacts"), None);
        assert_eq!(shown["content"]["redacts"], "$t");
    }

    #[test]
    fn client_event_holds_what_the_specification_lists_and_no_more() {
        let (room, state) = TestRoom::populated(RoomVersionId::V10);
        let member = room.fetch(&state[&key("m.room.member", ALICE)]).unwrap();
        let unsigned = Some(Unsigned { age: Some(12), ..Unsigned::default() });
        let format = ClientFormat { omit_room_id: false, unsigned };
        assert_eq!(
            shown(&member, format),
            json!({
                "content": {"membership": "join"},
                "event_id": member.event_id,
                "origin_server_ts": u64::from(member.origin_server_ts.0),
                "room_id": "!room:a.example",
                "sender": ALICE,
                "state_key": ALICE,
                "type": "m.room.member",
                "unsigned": {"age": 12},
            })
        );
        let bare = shown(&member, ClientFormat { omit_room_id: true, unsigned: None });
        assert!(bare.get("room_id").is_none() && bare.get("unsigned").is_none());
        let stripped: JsonValue = serde_json::from_str(member.to_stripped().unwrap().get()).unwrap();
        assert_eq!(
            stripped,
            json!({"content": {"membership": "join"}, "sender": ALICE, "state_key": ALICE, "type": "m.room.member"})
        );
    }

    #[test]
    fn unsigned_holds_what_is_known() {
        let prev_content = Some(RawJsonValue::from_string(r#"{"membership":"invite"}"#.to_owned()).unwrap());
        let unsigned = Unsigned {
            membership: Some(MembershipState::Join),
            prev_content,
            relations: json!({"m.thread": {"count": 1}}).as_object().cloned(),
            transaction_id: Some("t".to_owned()),
            ..Unsigned::default()
        };
        assert_eq!(
            serde_json::to_value(&unsigned).unwrap(),
            json!({
                "membership": "join",
                "prev_content": {"membership": "invite"},
                "m.relations": {"m.thread": {"count": 1}},
                "transaction_id": "t",
            })
        );
    }
}
