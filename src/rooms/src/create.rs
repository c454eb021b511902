//! Creating rooms: the first events of a room, as one batch.

use std::{collections::BTreeSet, sync::Arc};

use chappe_protocol::room_version;
use chappe_store::{
    Batch,
    tables::rooms::{PUBLIC_ROOMS, RoomRecord},
};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, OwnedRoomAliasId, OwnedRoomId, OwnedUserId, RoomAliasId, RoomId,
    RoomVersionId, UserId,
    events::{StateEventType, TimelineEventType},
    room_version_rules::RoomVersionRules,
};
use serde_json::{Value, json};

use crate::{
    DefaultEncryption, EventDraft, Room, RoomError, Rooms,
    membership::MemberProfile,
    send::{canonical_content, integer},
    staging::{Decided, Placement, Relay, Staging},
    state::EMPTY,
};

/// The presets of the specification.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Preset {
    PrivateChat,
    TrustedPrivateChat,
    PublicChat,
}

/// What a room's creator asks for.
///
/// Spec: Client-Server API, `POST /createRoom`.
#[derive(Clone, Debug)]
pub struct CreateRoom {
    pub version: Option<RoomVersionId>,
    pub preset: Preset,
    /// Shown in the public room list.
    pub is_listed: bool,
    pub name: Option<String>,
    pub topic: Option<String>,
    /// The local part of an alias of this server.
    pub alias_localpart: Option<String>,
    pub invite: Vec<OwnedUserId>,
    pub is_direct: bool,
    pub creation_content: CanonicalJsonObject,
    pub initial_state: Vec<EventDraft>,
    pub power_level_override: CanonicalJsonObject,
    /// Profile of the creator, for the member event.
    pub profile: MemberProfile,
}

impl Rooms {
    /// Creates a room and invites people to it: returns once the room is durable and the invites were sent.
    ///
    /// An invite that another server refuses does not undo the room.
    pub async fn create_room(&self, creator: &UserId, request: CreateRoom) -> Result<OwnedRoomId, RoomError> {
        let version = request.version.clone().unwrap_or_else(|| self.config.default_version.clone());
        let Some(rules) = room_version::rules(&version) else { return Err(RoomError::UnsupportedVersion(version)) };
        let alias = self.new_alias(request.alias_localpart.as_deref())?;
        self.check_invited(&request.invite)?;

        let content = create_content(creator, &version, &rules, &request)?;
        let new_id = RoomId::new_v1(&self.server_name);
        let mut sent_at = self.clock.now_ms();
        let (create, _writing) = loop {
            let create = self.build_create_event(creator, &rules, &content, &new_id, sent_at)?;
            let writing = self.locks.write(&create.room_id).await;
            if self.get_event(&create.event_id)?.is_none() {
                break (create, writing);
            }
            // From version 12 the room's id is the hash of this event: two rooms made alike in the same millisecond would be one.
            sent_at += 1;
        };
        let room_id = create.room_id.clone();
        let mut staging = self.stage_new_room(create, version, rules, Batch::new())?;
        let nid = staging.nid();
        for draft in self.first_events(creator, &staging.room.rules, &request, alias.as_deref())? {
            staging.append_own(creator, draft)?;
        }
        let (local, remote): (Vec<_>, Vec<_>) = request.invite.iter().partition(|user| self.is_local(user));
        for user in local {
            let draft = self.invite_draft(user, None, request.is_direct)?;
            match staging.append_own(creator, draft) {
                Ok(_) => {}
                Err(error @ RoomError::InviteBlocked) => {
                    tracing::info!(room.id = %room_id, user.id = %user, %error, "invite to new room was refused");
                }
                Err(error) => return Err(error),
            }
        }
        if let Some(alias) = &alias {
            self.put_alias(&mut staging.batch, alias, nid, creator)?;
        }
        if request.is_listed {
            staging.batch.put(&PUBLIC_ROOMS, &nid, &());
        }
        let ticket = staging.enqueue()?;
        drop(_writing);
        ticket.durable().await?;
        for user in remote {
            let draft = self.invite_draft(user, None, request.is_direct)?;
            if let Err(error) = self.invite_remote(creator, &room_id, user, draft).await {
                tracing::warn!(room.id = %room_id, user.id = %user, %error, "invite to new room was not delivered");
            }
        }
        Ok(room_id)
    }

    fn new_alias(&self, localpart: Option<&str>) -> Result<Option<OwnedRoomAliasId>, RoomError> {
        let Some(localpart) = localpart else { return Ok(None) };
        if localpart.contains([':', '#', '\0']) || localpart.chars().any(char::is_whitespace) {
            return Err(RoomError::Invalid("The alias name contains characters that are not allowed".to_owned()));
        }
        let alias = RoomAliasId::parse(format!("#{localpart}:{}", self.server_name))
            .map_err(|error| RoomError::Invalid(format!("Invalid alias: {error}")))?;
        if self.get_alias(&alias)?.is_some() {
            return Err(RoomError::InUse("Room alias already taken".to_owned()));
        }
        Ok(Some(alias))
    }

    pub(crate) fn check_invited(&self, invited: &[OwnedUserId]) -> Result<(), RoomError> {
        match invited.iter().find(|user| !self.is_local(user) && !self.gate.is_allowed(user.server_name())) {
            Some(user) => Err(RoomError::Forbidden(format!("Federation with {} is not allowed", user.server_name()))),
            None => Ok(()),
        }
    }

    /// The create event. Up to version 11 it names the room's id; from version 12 the id is its hash, and `room_id` is not used.
    pub(crate) fn build_create_event(
        &self,
        creator: &UserId,
        rules: &RoomVersionRules,
        content: &CanonicalJsonObject,
        room_id: &RoomId,
        sent_at: u64,
    ) -> Result<chappe_protocol::pdu::Pdu, RoomError> {
        let text = |text: &str| CanonicalJsonValue::String(text.to_owned());
        let mut object = CanonicalJsonObject::new();
        let mut set = |key: &str, value: CanonicalJsonValue| object.insert(key.to_owned(), value);
        set("type", text("m.room.create"));
        set("state_key", text(""));
        set("sender", text(creator.as_str()));
        set("content", CanonicalJsonValue::Object(content.clone()));
        set("depth", integer(1));
        set("origin_server_ts", integer(sent_at));
        set("auth_events", CanonicalJsonValue::Array(Vec::new()));
        set("prev_events", CanonicalJsonValue::Array(Vec::new()));
        if rules.event_format.require_room_create_room_id {
            set("room_id", text(room_id.as_str()));
        }
        if rules.event_format.require_event_id {
            set("event_id", text(ruma::EventId::new_v1(&self.server_name).as_str()));
        }
        self.sign_new_event(object, rules)
    }

    /// Begins a room with its create event, in a batch that may hold other rows.
    pub(crate) fn stage_new_room(
        &self,
        create: chappe_protocol::pdu::Pdu,
        version: RoomVersionId,
        rules: RoomVersionRules,
        batch: Batch,
    ) -> Result<Staging, RoomError> {
        let id = create.room_id.clone();
        let nid = self.store.interner().intern_room(&self.store, &id)?;
        let record = RoomRecord {
            version: version.to_string(),
            state: EMPTY,
            forward_extremities: Vec::new(),
            partial_state: false,
        };
        let mut staging = Staging::begin_in(self, Room { nid, id, version, rules, record }, batch)?;
        staging.put_event(Decided {
            pdu: Arc::new(create),
            status: chappe_store::tables::events::EventStatus::Accepted,
            reason: None,
            state_before: Some(EMPTY),
            placement: Placement::Live,
            relay: Relay::Nobody,
            sent_by: None,
            is_new: true,
        })?;
        Ok(staging)
    }

    /// The events that follow the create event, in the order of the specification.
    fn first_events(
        &self,
        creator: &UserId,
        rules: &RoomVersionRules,
        request: &CreateRoom,
        alias: Option<&RoomAliasId>,
    ) -> Result<Vec<EventDraft>, RoomError> {
        let mut drafts = vec![
            EventDraft::state(TimelineEventType::RoomMember, creator, request.profile.content("join")),
            EventDraft::state(TimelineEventType::RoomPowerLevels, "", power_levels(creator, rules, request)?),
        ];
        let is_given = |event_type: &str| {
            request
                .initial_state
                .iter()
                .any(|draft| draft.kind.to_string() == event_type && draft.state_key.as_deref() == Some(""))
        };
        let mut add = |event_type: StateEventType, content: Value| -> Result<(), RoomError> {
            if !is_given(&event_type.to_string()) {
                drafts.push(EventDraft::state_json(event_type, "", content)?);
            }
            Ok(())
        };
        if let Some(alias) = alias {
            add(StateEventType::RoomCanonicalAlias, json!({ "alias": alias }))?;
        }
        let is_public = request.preset == Preset::PublicChat;
        if let Some(acl) = self.gate.room_acl() {
            add(StateEventType::RoomServerAcl, acl)?;
        }
        add(StateEventType::RoomJoinRules, json!({ "join_rule": if is_public { "public" } else { "invite" } }))?;
        add(StateEventType::RoomHistoryVisibility, json!({ "history_visibility": "shared" }))?;
        if !is_public {
            add(StateEventType::RoomGuestAccess, json!({ "guest_access": "can_join" }))?;
        }
        let is_encrypted = match self.config.default_encryption {
            DefaultEncryption::Off => false,
            DefaultEncryption::Invite => !is_public,
            DefaultEncryption::All => true,
        };
        if is_encrypted {
            add(StateEventType::RoomEncryption, json!({ "algorithm": "m.megolm.v1.aes-sha2" }))?;
        }
        let named =
            [(StateEventType::RoomName, "name", &request.name), (StateEventType::RoomTopic, "topic", &request.topic)];
        let is_named = |draft: &EventDraft| {
            named.iter().any(|(kind, _, value)| {
                value.is_some() && draft.kind.to_string() == kind.to_string() && draft.state_key.as_deref() == Some("")
            })
        };
        drafts.extend(request.initial_state.iter().filter(|draft| !is_named(draft)).cloned());
        if let Some(name) = &request.name {
            drafts.push(EventDraft::state_json(StateEventType::RoomName, "", json!({ "name": name }))?);
        }
        if let Some(topic) = &request.topic {
            let content =
                json!({ "topic": topic, "m.topic": { "m.text": [{ "body": topic, "mimetype": "text/plain" }] } });
            drafts.push(EventDraft::state_json(StateEventType::RoomTopic, "", content)?);
        }
        Ok(drafts)
    }
}

/// What the create event says.
pub(crate) fn create_content(
    creator: &UserId,
    version: &RoomVersionId,
    rules: &RoomVersionRules,
    request: &CreateRoom,
) -> Result<CanonicalJsonObject, RoomError> {
    let text = |text: &str| CanonicalJsonValue::String(text.to_owned());
    let mut content = request.creation_content.clone();
    content.insert("room_version".to_owned(), text(version.as_str()));
    content.remove("creator");
    if !rules.authorization.use_room_create_sender {
        content.insert("creator".to_owned(), text(creator.as_str()));
    }
    if rules.authorization.additional_room_creators {
        let mut additional = BTreeSet::new();
        match content.get("additional_creators") {
            None => {}
            Some(CanonicalJsonValue::Array(users)) => {
                for user in users {
                    let user = user.as_str().and_then(|user| UserId::parse(user).ok());
                    additional.insert(
                        user.ok_or_else(|| RoomError::Invalid("additional_creators must be user ids".to_owned()))?,
                    );
                }
            }
            Some(_) => return Err(RoomError::BadJson("additional_creators must be a list".to_owned())),
        }
        if request.preset == Preset::TrustedPrivateChat {
            additional.extend(request.invite.iter().cloned());
        }
        additional.remove(creator);
        content.remove("additional_creators");
        if !additional.is_empty() {
            let users = additional.iter().map(|user| text(user.as_str())).collect();
            content.insert("additional_creators".to_owned(), CanonicalJsonValue::Array(users));
        }
    }
    Ok(content)
}

/// The levels of a new room, as far as its creator does not want others.
pub(crate) fn power_levels(
    creator: &UserId,
    rules: &RoomVersionRules,
    request: &CreateRoom,
) -> Result<CanonicalJsonObject, RoomError> {
    let creators_are_privileged = rules.authorization.explicitly_privilege_room_creators;
    let mut users = serde_json::Map::new();
    if !creators_are_privileged {
        users.insert(creator.to_string(), json!(100));
        if request.preset == Preset::TrustedPrivateChat {
            users.extend(request.invite.iter().map(|user| (user.to_string(), json!(100))));
        }
    }
    let content = json!({
        "users": users,
        "users_default": 0,
        "events": {
            "m.room.name": 50,
            "m.room.avatar": 50,
            "m.room.canonical_alias": 50,
            "m.room.power_levels": 100,
            "m.room.history_visibility": 100,
            "m.room.server_acl": 100,
            "m.room.encryption": 100,
            "m.room.tombstone": if creators_are_privileged { 150 } else { 100 },
        },
        "events_default": 0,
        "state_default": 50,
        "ban": 50,
        "kick": 50,
        "redact": 50,
        "invite": if request.preset == Preset::PublicChat { 50 } else { 0 },
        "historical": 100,
    });
    let mut content = canonical_content(&content.to_string())?;
    content.extend(request.power_level_override.clone());
    if creators_are_privileged
        && let Some(CanonicalJsonValue::Object(users)) = content.get("users")
        && users.contains_key(creator.as_str())
    {
        return Err(RoomError::Invalid(
            "The creators of a room of this version cannot be given a power level".to_owned(),
        ));
    }
    Ok(content)
}

impl Rooms {
    /// Whether the room is in the public room list.
    pub fn is_listed(&self, room: chappe_store::RoomNid) -> Result<bool, RoomError> {
        Ok(self.store.contains(&PUBLIC_ROOMS, &room)?)
    }

    /// The rooms in the public room list.
    pub fn get_listed_rooms(&self) -> Result<Vec<chappe_store::RoomNid>, RoomError> {
        let rows = self.store.scan(&PUBLIC_ROOMS, &(), chappe_store::Direction::Forward);
        Ok(rows.map(|row| row.map(|(room, ())| room)).collect::<Result<_, _>>()?)
    }

    /// Puts the room in the public room list, or takes it out. Only those who may set the canonical alias may do so.
    pub async fn set_listed(&self, user: &UserId, room_id: &RoomId, is_listed: bool) -> Result<(), RoomError> {
        let room = self.require_room(room_id)?;
        self.require_joined(&room, &user.to_owned())?;
        let levels = self.get_power_levels(&room)?;
        if !levels.is_some_and(|levels| levels.can_send(user, &TimelineEventType::RoomCanonicalAlias, true)) {
            return Err(RoomError::Forbidden("You don't have permission to change the room's listing".to_owned()));
        }
        self.put_listed(&room, is_listed).await
    }

    /// The same for an administrator of this server, who needs no power in the room.
    pub async fn set_listed_by_admin(&self, room_id: &RoomId, is_listed: bool) -> Result<(), RoomError> {
        let room = self.require_room(room_id)?;
        self.put_listed(&room, is_listed).await
    }

    async fn put_listed(&self, room: &Room, is_listed: bool) -> Result<(), RoomError> {
        let mut batch = Batch::new();
        if is_listed {
            batch.put(&PUBLIC_ROOMS, &room.nid, &());
        } else {
            batch.delete(&PUBLIC_ROOMS, &room.nid);
        }
        self.store.commit(batch).await?;
        Ok(())
    }
}
