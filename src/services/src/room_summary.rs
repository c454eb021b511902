//! What is told of a room to those who are not in it, and whom.
//!
//! One form serves the list of public rooms, the hierarchy of spaces and the summary of a single room, towards clients and between
//! servers. Asking other servers for summaries is [`crate::spaces`]' business.
//!
//! Spec: Client-Server API, Published room directory, Discovering rooms within spaces, Room summaries.

use std::collections::BTreeMap;

use chappe_rooms::{Room, Rooms};
use chappe_store::{RoomNid, StoreError};
use ruma::{
    OwnedRoomId, RoomId, ServerName, UserId,
    events::{StateEventType, room::history_visibility::HistoryVisibility},
};
use serde::{Deserialize, Serialize};
use serde_json::Value as JsonValue;

/// The type of rooms that are spaces.
pub const SPACE: &str = "m.space";

/// How many rooms a restricted join rule is followed into.
const ALLOWED_ROOMS_MAX: usize = 100;

/// A room, as those outside see it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoomSummary {
    pub room_id: OwnedRoomId,
    pub num_joined_members: u64,
    pub world_readable: bool,
    pub guest_can_join: bool,
    /// Always told; another server that leaves it out means `public`.
    #[serde(default = "public")]
    pub join_rule: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canonical_alias: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub avatar_url: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room_type: Option<String>,
    /// The rooms whose members a restricted join rule lets in.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub allowed_room_ids: Vec<OwnedRoomId>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub encryption: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub room_version: Option<String>,
}

fn public() -> String {
    "public".to_owned()
}

impl RoomSummary {
    pub fn is_space(&self) -> bool {
        self.room_type.as_deref() == Some(SPACE)
    }

    /// What the list of public rooms tells.
    pub fn for_list(self) -> Self {
        Self { allowed_room_ids: Vec::new(), encryption: None, room_version: None, ..self }
    }

    /// Whether everybody may know of the room: they could join it, ask to, or look in.
    pub fn is_open(&self) -> bool {
        self.world_readable || matches!(self.join_rule.as_str(), "public" | "knock" | "knock_restricted")
    }

    /// Whether members of some other rooms may join.
    pub fn is_restricted(&self) -> bool {
        matches!(self.join_rule.as_str(), "restricted" | "knock_restricted")
    }
}

#[derive(Deserialize)]
struct JoinRules {
    join_rule: String,
    #[serde(default)]
    allow: Vec<JsonValue>,
}

impl JoinRules {
    fn allowed_rooms(&self) -> Vec<OwnedRoomId> {
        let rooms = self.allow.iter().filter_map(|condition| {
            let is_membership = condition.get("type")?.as_str()? == "m.room_membership";
            is_membership.then(|| RoomId::parse(condition.get("room_id")?.as_str()?).ok()).flatten()
        });
        rooms.take(ALLOWED_ROOMS_MAX).collect()
    }
}

/// Reads what is told of rooms out of their current state.
#[derive(Clone)]
pub struct RoomSummaries {
    rooms: Rooms,
}

impl RoomSummaries {
    pub fn new(rooms: Rooms) -> Self {
        Self { rooms }
    }

    pub fn get(&self, room: &Room) -> Result<RoomSummary, StoreError> {
        let nid = room.nid;
        let creation = self.fields(nid, StateEventType::RoomCreate)?;
        let rules: Option<JoinRules> = self.rooms.get_state_content(nid, &StateEventType::RoomJoinRules, "")?;
        let join_rule = rules.as_ref().map(|rules| rules.join_rule.as_str()).filter(|rule| is_known_rule(room, rule));
        let join_rule = join_rule.unwrap_or("invite").to_owned();
        let mut summary = RoomSummary {
            room_id: room.id.clone(),
            num_joined_members: self.rooms.get_joined_count(nid)?,
            world_readable: self.rooms.get_history_visibility(nid)? == HistoryVisibility::WorldReadable,
            guest_can_join: text(&self.fields(nid, StateEventType::RoomGuestAccess)?, "guest_access").as_deref()
                == Some("can_join"),
            join_rule,
            canonical_alias: text(&self.fields(nid, StateEventType::RoomCanonicalAlias)?, "alias"),
            name: text(&self.fields(nid, StateEventType::RoomName)?, "name"),
            topic: plain_topic(&self.fields(nid, StateEventType::RoomTopic)?),
            avatar_url: text(&self.fields(nid, StateEventType::RoomAvatar)?, "url"),
            room_type: text(&creation, "type"),
            allowed_room_ids: Vec::new(),
            encryption: text(&self.fields(nid, StateEventType::RoomEncryption)?, "algorithm"),
            room_version: Some(room.version.to_string()),
        };
        if summary.is_restricted() {
            summary.allowed_room_ids = rules.map(|rules| rules.allowed_rooms()).unwrap_or_default();
        }
        Ok(summary)
    }

    /// Whether the room takes in users of other servers than its creator's.
    pub fn is_federated(&self, room: RoomNid) -> Result<bool, StoreError> {
        let creation = self.fields(room, StateEventType::RoomCreate)?;
        Ok(creation.get("m.federate").and_then(JsonValue::as_bool).unwrap_or(true))
    }

    /// Whether a user may be told of a room with this summary.
    pub fn is_for_user(&self, summary: &RoomSummary, user: &UserId) -> Result<bool, StoreError> {
        let membership = match self.rooms.get_room_nid(&summary.room_id)? {
            Some(room) => self.rooms.get_user_room(user, room)?.map(|member| member.value.membership),
            None => None,
        };
        match membership.as_deref() {
            Some("join" | "invite" | "knock") => return Ok(true),
            // The banned could not join, whatever the rule; to look in they need not.
            Some("ban") => return Ok(summary.world_readable),
            _ => {}
        }
        if summary.is_open() {
            return Ok(true);
        }
        self.is_let_in(summary, |room| self.rooms.is_joined(room, user))
    }

    /// Whether another server may be told of a room that this server is in: somebody there is in it or invited, or could join.
    pub fn is_for_server(&self, summary: &RoomSummary, room: &Room, server: &ServerName) -> Result<bool, StoreError> {
        if !self.rooms.is_server_admitted(room.nid, server)? {
            return Ok(false);
        }
        if self.rooms.is_server_joined(room.nid, server)? {
            return Ok(true);
        }
        if !self.is_federated(room.nid)? {
            return Ok(false);
        }
        if summary.is_open() || self.is_let_in(summary, |allowed| self.rooms.is_server_joined(allowed, server))? {
            return Ok(true);
        }
        for member in self.rooms.scan_members(room.nid) {
            let (user, member) = member?;
            if user.server_name() == server && member.value.membership == "invite" {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Whether a restricted join rule names a room of those that `is_in` says.
    fn is_let_in(
        &self,
        summary: &RoomSummary,
        is_in: impl Fn(RoomNid) -> Result<bool, StoreError>,
    ) -> Result<bool, StoreError> {
        if !summary.is_restricted() {
            return Ok(false);
        }
        for allowed in summary.allowed_room_ids.iter().take(ALLOWED_ROOMS_MAX) {
            if let Some(allowed) = self.rooms.get_room_nid(allowed)?
                && is_in(allowed)?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn fields(&self, room: RoomNid, event_type: StateEventType) -> Result<Fields, StoreError> {
        Ok(self.rooms.get_state_content(room, &event_type, "")?.unwrap_or_default())
    }
}

/// A rule that the room's version does not have lets in nobody but the invited.
fn is_known_rule(room: &Room, rule: &str) -> bool {
    let rules = &room.rules.authorization;
    match rule {
        "knock" => rules.knocking,
        "restricted" => rules.restricted_join_rule,
        "knock_restricted" => rules.knock_restricted_join_rule,
        _ => true,
    }
}

type Fields = BTreeMap<String, JsonValue>;

/// A text that is there, and not empty.
fn text(fields: &Fields, name: &str) -> Option<String> {
    fields.get(name)?.as_str().filter(|text| !text.is_empty()).map(str::to_owned)
}

/// The topic without markup: of the texts in `m.topic` the plain one, where there is any.
fn plain_topic(fields: &Fields) -> Option<String> {
    let texts = fields.get("m.topic").and_then(|topic| topic.get("m.text")).and_then(JsonValue::as_array);
    let is_plain = |text: &&JsonValue| {
        text.get("mimetype").and_then(JsonValue::as_str).is_none_or(|mimetype| mimetype == "text/plain")
    };
    let plain = texts.and_then(|texts| texts.iter().find(is_plain)).and_then(|text| text.get("body")?.as_str());
    plain.filter(|topic| !topic.is_empty()).map(str::to_owned).or_else(|| text(fields, "topic"))
}
