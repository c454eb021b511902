//! The resident side of joins, leaves and knocks: what this server does for users of other servers that want in or out.
//!
//! Spec: Server-Server API, Joining rooms, Leaving rooms, Knocking upon a room.

use std::sync::Arc;

use chappe_protocol::{json, pdu::Pdu};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, EventId, OwnedEventId, OwnedServerName, RoomId, RoomVersionId, ServerName,
    UserId, events::StateEventType, room_version_rules::RoomVersionRules,
};
use serde_json::value::RawValue as RawJsonValue;

use crate::{
    Event, EventDraft, Room, RoomError, Rooms, blocking,
    membership::{MemberProfile, member_draft},
    remote::{Members, RawEvents},
    send::integer,
    staging::{Placement, Relay, Staging},
    told::ToldEvents,
};

/// What a joining server is told of the room.
#[derive(Debug)]
pub struct Admission {
    /// The join event as it was accepted, with this server's signature where one was needed.
    pub event: Box<RawJsonValue>,
    pub state: ToldEvents,
    pub auth_chain: ToldEvents,
    /// The members are left out of the state.
    pub members_omitted: bool,
    /// The servers in the room before the join.
    pub servers: Vec<OwnedServerName>,
}

/// A membership that another server may ask a template for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Wanted {
    Join,
    Leave,
    Knock,
}

impl Wanted {
    fn as_str(self) -> &'static str {
        match self {
            Self::Join => "join",
            Self::Leave => "leave",
            Self::Knock => "knock",
        }
    }
}

impl Rooms {
    /// A template for a membership event of another server's user.
    ///
    /// `versions` are those the asking server supports; `None` where the request has no such parameter.
    pub async fn make_membership(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        user: &UserId,
        wanted: Wanted,
        versions: Option<&[RoomVersionId]>,
    ) -> Result<(RoomVersionId, CanonicalJsonObject), RoomError> {
        if user.server_name() != origin {
            return Err(RoomError::Forbidden("The user is not of your server".to_owned()));
        }
        let room = match wanted {
            Wanted::Join | Wanted::Knock => self.require_whole_room(origin, room_id)?,
            Wanted::Leave => self.require_resident_room(origin, room_id)?,
        };
        if versions.is_some_and(|versions| !versions.contains(&room.version)) {
            return Err(RoomError::IncompatibleVersion(room.version));
        }
        if wanted == Wanted::Knock && !room.rules.authorization.knocking {
            return Err(RoomError::Forbidden("This room does not support knocking".to_owned()));
        }
        let mut content = MemberProfile::default().content(wanted.as_str());
        if wanted == Wanted::Join
            && let Some(authoriser) = self.authorise_restricted_join(&room, user)?
        {
            content.insert(
                "join_authorised_via_users_server".to_owned(),
                CanonicalJsonValue::String(authoriser.to_string()),
            );
        }
        let _writing = self.locks.write(room_id).await;
        let mut staging = Staging::begin(self, self.require_room(room_id)?)?;
        staging.resolve_named_state()?;
        let draft = member_draft(user, content);
        let mut template = staging.template(user, &draft)?;
        template.insert("origin_server_ts".to_owned(), integer(self.clock.now_ms()));
        template.insert("origin".to_owned(), CanonicalJsonValue::String(self.server_name.to_string()));
        // The rules as they would judge it: a signed copy is built, and thrown away.
        let mut judged = template.clone();
        judged.remove("origin");
        let judged = Arc::new(self.sign_new_event(judged, &room.rules)?);
        staging.check_against_current_state(&judged)?;
        template.remove("event_id");
        Ok((room.version, template))
    }

    /// Takes in a join event that another server has built on a template of ours.
    pub async fn receive_join(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        event_id: &EventId,
        raw: &RawJsonValue,
        members: Members,
    ) -> Result<Admission, RoomError> {
        let room = self.require_whole_room(origin, room_id)?;
        let pdu = self.check_membership_event(origin, &room, Some(event_id), raw, Wanted::Join).await?;
        let servers = self.get_joined_servers(room.nid)?;
        let event = self.ingest_membership(origin, &room, pdu).await?;
        // Reading a large state is work for a blocking thread.
        let rooms = self.clone();
        blocking(move || rooms.admission(&room, &event, members, servers)).await
    }

    fn admission(
        &self,
        room: &Room,
        join: &Event,
        members: Members,
        servers: Vec<OwnedServerName>,
    ) -> Result<Admission, RoomError> {
        let Some(root) = join.record.state_before else {
            return Err(RoomError::broken("accepted join without state"));
        };
        let (state, auth_chain) = match members {
            Members::Omitted => {
                let state = self.get_state_without_members(room, root, &join.pdu.sender)?;
                let auth_chain = self.get_chain_beside(join, &state)?;
                (state, auth_chain)
            }
            Members::All => {
                let state: Vec<_> = self.trees.entries(room.nid, root)?.into_iter().map(|(_, nid)| nid).collect();
                let mut chain = self.chains.full_chain(&[state.as_slice(), &join.record.auth_events].concat())?;
                // The auth events of the join itself are part of the chain, whether or not something in the state names them.
                chain.extend(&join.record.auth_events);
                (state, chain.into_iter().collect())
            }
        };
        Ok(Admission {
            event: raw_of(join)?,
            state: self.tell(state),
            auth_chain: self.tell(auth_chain),
            members_omitted: members == Members::Omitted,
            servers,
        })
    }

    /// Takes in a leave event that another server has built on a template of ours.
    pub async fn receive_leave(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        event_id: &EventId,
        raw: &RawJsonValue,
    ) -> Result<(), RoomError> {
        let room = self.require_resident_room(origin, room_id)?;
        let pdu = self.check_membership_event(origin, &room, Some(event_id), raw, Wanted::Leave).await?;
        self.ingest_membership(origin, &room, pdu).await.map(|_| ())
    }

    /// Takes in a knock that another server has built on a template of ours. Answers the room's stripped state.
    pub async fn receive_knock(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        event_id: &EventId,
        raw: &RawJsonValue,
    ) -> Result<Vec<serde_json::Value>, RoomError> {
        let room = self.require_whole_room(origin, room_id)?;
        if !room.rules.authorization.knocking {
            return Err(RoomError::Forbidden("This room does not support knocking".to_owned()));
        }
        let pdu = self.check_membership_event(origin, &room, Some(event_id), raw, Wanted::Knock).await?;
        self.ingest_membership(origin, &room, pdu).await?;
        let staging = Staging::begin(self, self.require_room(room_id)?)?;
        Ok(staging.stripped_state(staging.room.record.state)?)
    }

    /// A room this server is in, and whose access list admits the asking server.
    pub(crate) fn require_resident_room(&self, origin: &ServerName, room_id: &RoomId) -> Result<Room, RoomError> {
        let room = self.require_room(room_id)?;
        if !self.is_server_joined(room.nid, &self.server_name)? {
            return Err(RoomError::unknown_room());
        }
        if !self.is_server_admitted(room.nid, origin)? {
            return Err(RoomError::Forbidden("The room's access list denies your server".to_owned()));
        }
        Ok(room)
    }

    /// As [`Rooms::require_resident_room`], and all of whose members are known: who is let in depends on them.
    fn require_whole_room(&self, origin: &ServerName, room_id: &RoomId) -> Result<Room, RoomError> {
        let room = self.require_resident_room(origin, room_id)?;
        if room.record.partial_state {
            return Err(RoomError::NotFound(
                "This server has only just joined the room, and lets nobody in yet".to_owned(),
            ));
        }
        Ok(room)
    }

    async fn check_membership_event(
        &self,
        origin: &ServerName,
        room: &Room,
        event_id: Option<&EventId>,
        raw: &RawJsonValue,
        wanted: Wanted,
    ) -> Result<Arc<Pdu>, RoomError> {
        let mut object = json::parse_strict(raw.get()).map_err(|error| RoomError::BadJson(error.to_string()))?;
        object.remove("unsigned");
        let unsigned_by_us =
            Pdu::from_object(object.clone(), &room.rules).map_err(|error| RoomError::BadJson(error.to_string()))?;
        let membership = unsigned_by_us.membership().map(|membership| membership.to_string());
        if membership.as_deref() != Some(wanted.as_str())
            || unsigned_by_us.state_key() != Some(unsigned_by_us.sender.as_str())
        {
            return Err(RoomError::Invalid(format!("Not a {} event of its sender", wanted.as_str())));
        }
        if unsigned_by_us.room_id != room.id || event_id.is_some_and(|event_id| unsigned_by_us.event_id != event_id) {
            return Err(RoomError::Invalid("The event does not match the path of the request".to_owned()));
        }
        if unsigned_by_us.sender.server_name() != origin {
            return Err(RoomError::Forbidden("The event is not of a user of your server".to_owned()));
        }
        if wanted == Wanted::Join && self.must_co_sign(room, &unsigned_by_us)? {
            self.signer.sign_event(&mut object, &room.rules).map_err(|error| RoomError::BadJson(error.to_string()))?;
        }
        self.check_object(&room.id, &room.rules, object).await
    }

    /// Whether a restricted join names a user of this server as the one who lets its sender in: only if that user may, and the sender is
    /// entitled to it, does this server sign.
    fn must_co_sign(&self, room: &Room, join: &Pdu) -> Result<bool, RoomError> {
        if !room.rules.authorization.restricted_join_rule {
            return Ok(false);
        }
        let content: serde_json::Value = join.get_content().unwrap_or_default();
        let Some(authoriser) = content.get("join_authorised_via_users_server").and_then(|user| user.as_str()) else {
            return Ok(false);
        };
        let Ok(authoriser) = UserId::parse(authoriser) else {
            return Err(RoomError::Invalid("join_authorised_via_users_server is not a user id".to_owned()));
        };
        if !self.is_local(&authoriser) {
            return Ok(false);
        }
        if self.authorise_restricted_join(room, &join.sender)?.is_none() {
            // Nothing to authorise: invited already, or the rule has changed. The signature would say nothing; the rules decide.
            return Ok(true);
        }
        let may_invite = self.get_power_levels(room)?.is_some_and(|levels| levels.can_invite(&authoriser));
        if !may_invite || !self.is_joined(room.nid, &authoriser)? {
            return Err(RoomError::Forbidden(
                "The user named by join_authorised_via_users_server may not invite".to_owned(),
            ));
        }
        Ok(true)
    }

    async fn ingest_membership(
        &self,
        origin: &ServerName,
        room: &Room,
        pdu: Arc<Pdu>,
    ) -> Result<Arc<Event>, RoomError> {
        let _queue = self.locks.ingest(&room.id).await;
        let known = self.get_event(&pdu.event_id)?.filter(|event| event.record.state_after.is_some());
        let event = match known {
            Some(event) => event,
            None => self.ingest(origin, room, pdu, Placement::Live, Relay::EveryoneBut(origin.to_owned())).await?,
        };
        self.store.barrier().await?;
        if !event.is_accepted() {
            return Err(RoomError::Forbidden(
                event.record.reason.clone().unwrap_or_else(|| "The event was refused".to_owned()),
            ));
        }
        Ok(event)
    }
}

pub(crate) fn raw_of(event: &Event) -> Result<Box<RawJsonValue>, RoomError> {
    event.pdu.to_federation_raw().map_err(|error| RoomError::broken(error.to_string()))
}

pub(crate) fn raws_of(events: &[Arc<Event>]) -> Result<RawEvents, RoomError> {
    events.iter().map(|event| raw_of(event)).collect()
}

/// A membership event with a given place in the graph, unsigned.
pub(crate) fn member_event(
    draft: EventDraft,
    user: &UserId,
    room_id: &RoomId,
    rules: &RoomVersionRules,
    prev_events: &[OwnedEventId],
    auth_events: &[OwnedEventId],
    depth: u64,
    now_ms: u64,
    server_name: &ServerName,
) -> CanonicalJsonObject {
    let text = |text: &str| CanonicalJsonValue::String(text.to_owned());
    let mut object = CanonicalJsonObject::new();
    let mut set = |key: &str, value: CanonicalJsonValue| object.insert(key.to_owned(), value);
    set("type", text(&StateEventType::RoomMember.to_string()));
    set("room_id", text(room_id.as_str()));
    set("sender", text(user.as_str()));
    set("state_key", text(draft.state_key.as_deref().unwrap_or_default()));
    set("content", CanonicalJsonValue::Object(draft.content));
    set("depth", integer(depth));
    set("origin_server_ts", integer(now_ms));
    set("prev_events", crate::send::references(rules, prev_events));
    set("auth_events", crate::send::references(rules, auth_events));
    if rules.event_format.require_event_id {
        set("event_id", text(EventId::new_v1(server_name).as_str()));
    }
    object
}
