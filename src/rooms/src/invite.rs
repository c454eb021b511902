//! Invites across servers, and what a user has to do with rooms this server is not in.
//!
//! Such an invite, knock or leave is *out of band*: its event is kept as an outlier, and only the user's own rows change.

use std::sync::Arc;

use chappe_protocol::{
    client_format::{ClientEvent, ClientFormat},
    json,
    pdu::Pdu,
    room_version,
};
use chappe_store::{
    Batch, Domain, Json, RoomNid, Stamped, Topic,
    tables::{
        app_services::OUT_OF_BAND_LOG,
        events::{EVENT_JSON, EVENT_NIDS, EVENTS, EventRecord, EventStatus, SentBy},
        rooms::{FORGOTTEN, MEMBERS, MEMBERSHIP_LOG, OUT_OF_BAND_VERSIONS, STRIPPED_STATE, USER_ROOMS},
    },
};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, EventId, OwnedServerName, RoomId, RoomVersionId, ServerName, UserId,
    events::TimelineEventType, room_version_rules::RoomVersionRules,
};
use serde_json::value::RawValue as RawJsonValue;

use crate::{
    Event, EventDraft, RoomError, Rooms,
    membership::{MemberProfile, member_draft, with_reason},
    remote::{InviteVerdict, Urgency},
    staging::{Relay, Staging, member_record},
};

impl Rooms {
    /// Invites a user of another server: that server signs the invite before it goes into the room.
    pub(crate) async fn invite_remote(
        &self,
        sender: &UserId,
        room_id: &RoomId,
        target: &UserId,
        draft: EventDraft,
    ) -> Result<(), RoomError> {
        self.check_invited(&[target.to_owned()])?;
        self.await_members(room_id).await?;
        let room = self.require_room(room_id)?;
        // An invite that an identity server vouches for stands also if who sent it has left since.
        if !draft.content.contains_key("third_party_invite") {
            self.require_joined(&room, &sender.to_owned())?;
        }
        let (pdu, stripped) = {
            let _writing = self.locks.write(room_id).await;
            let staging = Staging::begin(self, self.require_room(room_id)?)?;
            let pdu = Arc::new(staging.build_own(sender, &draft, None)?);
            staging.check_against_current_state(&pdu)?;
            (pdu, staging.stripped_state_for_server(staging.room.record.state)?)
        };
        let pdu = match self.get_policy_server_for(&room, &pdu.kind, pdu.state_key())? {
            Some(policy) => self.fetch_policy_signature(&policy, &pdu, &room.rules, Urgency::User).await?,
            None => pdu,
        };
        let raw = pdu.to_federation_raw().map_err(|error| RoomError::broken(error.to_string()))?;
        let signed =
            self.remote.send_invite(target.server_name(), room_id, &pdu.event_id, &room.version, raw, stripped).await?;
        let pdu = Arc::new(self.add_signatures(&pdu, &signed, target.server_name(), &room.rules)?);

        let ticket = {
            let _writing = self.locks.write(room_id).await;
            let mut staging = Staging::begin(self, self.require_room(room_id)?)?;
            staging.check_against_current_state(&pdu)?;
            staging.append_after(pdu, Relay::Everyone, None)?;
            staging.enqueue()?
        };
        ticket.durable().await?;
        Ok(())
    }

    /// Takes over another server's signature on an event that this server built; anything else it changed is ignored.
    pub(crate) fn add_signatures(
        &self,
        ours: &Pdu,
        theirs: &RawJsonValue,
        server: &ServerName,
        rules: &RoomVersionRules,
    ) -> Result<Pdu, RoomError> {
        let refuse = |what: &str| crate::RemoteError::Unreachable(format!("{server}: {what}"));
        let theirs = json::parse_strict(theirs.get()).map_err(|error| refuse(&error.to_string()))?;
        let mut object = ours.object().map_err(|error| RoomError::broken(error.to_string()))?;
        let signature = match theirs.get("signatures") {
            Some(CanonicalJsonValue::Object(signatures)) => signatures.get(server.as_str()).cloned(),
            _ => None,
        };
        let Some(signature) = signature else { return Err(refuse("the event was not signed").into()) };
        if let Some(CanonicalJsonValue::Object(signatures)) = object.get_mut("signatures") {
            signatures.insert(server.to_string(), signature);
        }
        Ok(Pdu::from_object(object, rules).map_err(|error| refuse(&error.to_string()))?)
    }

    /// An invite that another server sends to one of this server's users. Answers the invite with this server's signature.
    ///
    /// The caller has checked that the user exists, and that the server may federate with this one.
    ///
    /// Spec: Server-Server API, `PUT /invite/{roomId}/{eventId}`.
    pub async fn receive_invite(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        event_id: &EventId,
        version: &RoomVersionId,
        event: &RawJsonValue,
        stripped: Vec<serde_json::Value>,
    ) -> Result<Box<RawJsonValue>, RoomError> {
        let Some(rules) = room_version::rules(version) else {
            return Err(RoomError::IncompatibleVersion(version.clone()));
        };
        let object = json::parse_strict(event.get()).map_err(|error| RoomError::BadJson(error.to_string()))?;
        let pdu = Pdu::from_object(object.clone(), &rules).map_err(|error| RoomError::BadJson(error.to_string()))?;
        if pdu.room_id != room_id || pdu.event_id != event_id {
            return Err(RoomError::Invalid("The event does not match the path of the request".to_owned()));
        }
        if pdu.membership().is_none_or(|membership| membership.as_str() != "invite") {
            return Err(RoomError::Invalid("The event is not an invite".to_owned()));
        }
        let Some(target) = pdu.state_key().and_then(|user| UserId::parse(user).ok()).filter(|user| self.is_local(user))
        else {
            return Err(RoomError::Invalid("The invited user is not of this server".to_owned()));
        };
        if pdu.sender.server_name() != origin {
            return Err(RoomError::Forbidden("The sender is not of the server that sent the invite".to_owned()));
        }
        if !self.gate.is_allowed(origin) {
            return Err(crate::RemoteError::Denied(origin.to_owned()).into());
        }
        let known = self.get_room_nid(room_id)?;
        if let Some(known) = known
            && self.is_server_joined(known, &self.server_name)?
            && !self.is_server_admitted(known, origin)?
        {
            return Err(RoomError::Forbidden("The room's access list denies your server".to_owned()));
        }
        self.check_invite_wanted(&pdu.sender, &target)?;
        let create = stripped.iter().find_map(|event| create_event_of(event, room_id, &rules));
        if !rules.event_format.require_room_create_room_id && create.is_none() {
            return Err(RoomError::MissingParam(
                "The invite needs the room's create event in invite_room_state".to_owned(),
            ));
        }
        let (object, _) = self.check_signatures(object, &rules).await?;
        let mut signed = object;
        self.signer.sign_event(&mut signed, &rules).map_err(|error| RoomError::BadJson(error.to_string()))?;
        let pdu = Arc::new(Pdu::from_object(signed, &rules).map_err(|error| RoomError::BadJson(error.to_string()))?);

        let nid = self.store.interner().intern_room(&self.store, room_id)?;
        if !self.is_server_joined(nid, &self.server_name)? {
            let mut shown: Vec<_> = stripped.into_iter().take(STRIPPED_EVENTS_MAX).filter_map(as_stripped).collect();
            if let Some(create) = create {
                shown.retain(|event| event.get("type") != Some(&"m.room.create".into()));
                let create = ClientEvent::new(Arc::new(create), ClientFormat::default());
                shown.extend(create.and_then(serde_json::to_value));
            }
            self.put_out_of_band(nid, &pdu, &target, version, Some(shown)).await?;
        }
        pdu.to_federation_raw().map_err(|error| RoomError::broken(error.to_string()))
    }

    /// Whether a local user takes invites from whoever invites them.
    ///
    /// Spec: Client-Server API, Invite permission.
    pub(crate) fn check_invite_wanted(&self, inviter: &UserId, invited: &UserId) -> Result<(), RoomError> {
        if !self.is_local(invited) || self.invites.verdict(inviter, invited)? != InviteVerdict::Block {
            return Ok(());
        }
        Err(RoomError::InviteBlocked)
    }

    /// What another server tells of a room that this server is not in: of interest only where it takes back an invite or refuses a
    /// knock of a local user.
    pub(crate) async fn receive_out_of_band(
        &self,
        origin: &ServerName,
        room_id: &RoomId,
        raw: &RawJsonValue,
    ) -> Result<(), RoomError> {
        let not_in_room = || RoomError::NotFound("This server is not in the room".to_owned());
        let nid = self.get_room_nid(room_id)?.ok_or_else(not_in_room)?;
        let version = self.get_out_of_band_version(room_id, nid)?;
        let Some(rules) = room_version::rules(&version) else { return Err(RoomError::UnsupportedVersion(version)) };
        let object = json::parse_strict(raw.get()).map_err(|error| RoomError::BadJson(error.to_string()))?;
        let pdu = self.check_object(room_id, &rules, object).await?;
        let ends_membership = pdu.membership().is_some_and(|membership| matches!(membership.as_str(), "leave" | "ban"));
        let user = pdu.state_key().and_then(|user| UserId::parse(user).ok()).filter(|user| self.is_local(user));
        let Some(user) = user.filter(|_| ends_membership) else { return Err(not_in_room()) };
        let Some(member) = self.get_user_room(&user, nid)? else { return Err(not_in_room()) };
        // Whether its sender has the power for it cannot be told from here: an invite is taken back by who sent it, and nobody else is
        // believed. To a knock anybody in the room may have answered.
        let is_believed = match member.value.membership.as_str() {
            "invite" => pdu.sender == member.value.sender,
            "knock" => true,
            _ => false,
        };
        if !is_believed || pdu.sender.server_name() != origin {
            return Err(not_in_room());
        }
        self.put_out_of_band(nid, &pdu, &user, &version, None).await
    }

    fn get_out_of_band_version(&self, room_id: &RoomId, nid: RoomNid) -> Result<RoomVersionId, RoomError> {
        Ok(match self.get_room(room_id)? {
            Some(room) => room.version,
            None => self
                .store
                .get(&OUT_OF_BAND_VERSIONS, &nid)?
                .and_then(|version| RoomVersionId::try_from(version).ok())
                .unwrap_or(RoomVersionId::V1),
        })
    }

    /// Keeps an event about a local user in a room that this server is not in.
    pub(crate) async fn put_out_of_band(
        &self,
        room: RoomNid,
        pdu: &Arc<Pdu>,
        user: &UserId,
        version: &RoomVersionId,
        stripped: Option<Vec<serde_json::Value>>,
    ) -> Result<(), RoomError> {
        let _writing = self.locks.write(&pdu.room_id).await;
        let mut batch = Batch::new();
        batch.guard(Domain::Room(room), self.store.domain_version(&Domain::Room(room))?);
        let known = self.get_event(&pdu.event_id)?;
        let nid = known.as_ref().map_or_else(|| self.store.interner().next_event(), |event| event.nid);
        let position = batch.next_position();
        let record = EventRecord {
            room,
            event_id: pdu.event_id.clone(),
            status: EventStatus::Outlier,
            depth: pdu.depth,
            redacted_because: None,
            state_before: None,
            state_after: None,
            auth_events: Vec::new(),
            reason: None,
            sent_by: None,
        };
        let event = Arc::new(Event { nid, record, pdu: pdu.clone() });
        if known.is_none() {
            batch.put(&EVENT_NIDS, &pdu.event_id, &nid);
            batch.put(&EVENT_JSON, &nid, &pdu.json().to_owned());
            batch.put(&EVENTS, &nid, &event.record);
        }
        let key = (user.to_owned(), room);
        let member = Stamped { position, value: member_record(&event) };
        batch.put(&MEMBERS, &(room, user.to_owned()), &member);
        batch.put(&USER_ROOMS, &key, &member);
        batch.put(&MEMBERSHIP_LOG, &(user.to_owned(), position), &room);
        batch.put(&OUT_OF_BAND_LOG, &position, &nid);
        batch.delete(&FORGOTTEN, &key);
        batch.put(&OUT_OF_BAND_VERSIONS, &room, &version.to_string());
        match stripped {
            Some(stripped) => batch.put(&STRIPPED_STATE, &key, &Json(stripped)),
            None => batch.delete(&STRIPPED_STATE, &key),
        }
        batch.wake(Topic::User(user.to_owned()));
        let ticket = self.store.enqueue(batch)?;
        if known.is_none() {
            self.cache.replace([event]);
        }
        ticket.durable().await?;
        Ok(())
    }

    /// Declines an invite, or takes back a knock, in a room that this server is not in.
    ///
    /// If no server of the room can be told, the user is out of it all the same, here.
    pub(crate) async fn leave_by_federation(
        &self,
        user: &UserId,
        room_id: &RoomId,
        nid: RoomNid,
        reason: Option<String>,
    ) -> Result<(), RoomError> {
        let Some(member) = self.get_user_room(user, nid)? else { return Err(RoomError::not_in_room()) };
        let known = match member.value.event {
            Some(event) => self.get_event_by_nid(event)?,
            None => None,
        };
        let version = self.get_out_of_band_version(room_id, nid)?;
        let mut servers: Vec<OwnedServerName> = vec![member.value.sender.server_name().to_owned()];
        servers.extend(room_id.server_name().map(ToOwned::to_owned));
        servers.extend(self.get_joined_servers(nid)?);
        servers.retain(|server| *server != self.server_name && self.gate.is_allowed(server));
        dedup(&mut servers);
        for server in servers.into_iter().take(3) {
            match self.leave_by_server(&server, user, room_id, &version, reason.clone()).await {
                Ok(pdu) => return self.put_out_of_band(nid, &pdu, user, &version, None).await,
                Err(error) => tracing::info!(%error, room.id = %room_id, server = %server, "leave not delivered"),
            }
        }
        let Some(rules) = room_version::rules(&version) else { return Err(RoomError::UnsupportedVersion(version)) };
        let template = self.out_of_band_leave(user, room_id, known.as_deref(), reason, &rules);
        let pdu = Arc::new(self.sign_new_event(template, &rules)?);
        self.put_out_of_band(nid, &pdu, user, &version, None).await
    }

    async fn leave_by_server(
        &self,
        server: &ServerName,
        user: &UserId,
        room_id: &RoomId,
        version: &RoomVersionId,
        reason: Option<String>,
    ) -> Result<Arc<Pdu>, RoomError> {
        let template = self.remote.make_leave(server, room_id, user).await?;
        let version = template.room_version.clone().unwrap_or_else(|| version.clone());
        let Some(rules) = room_version::rules(&version) else { return Err(RoomError::UnsupportedVersion(version)) };
        let content = with_reason(MemberProfile::default().content("leave"), reason);
        let pdu = Arc::new(self.event_from_template(&template, member_draft(user, content), user, room_id, &rules)?);
        let raw = pdu.to_federation_raw().map_err(|error| RoomError::broken(error.to_string()))?;
        self.remote.send_leave(server, room_id, &pdu.event_id, raw).await?;
        Ok(pdu)
    }

    fn out_of_band_leave(
        &self,
        user: &UserId,
        room_id: &RoomId,
        known: Option<&Event>,
        reason: Option<String>,
        rules: &RoomVersionRules,
    ) -> CanonicalJsonObject {
        let draft = member_draft(user, with_reason(MemberProfile::default().content("leave"), reason));
        let before: Vec<_> = known.map(|event| event.pdu.event_id.clone()).into_iter().collect();
        let depth = known.map_or(1, |event| event.pdu.depth.saturating_add(1));
        crate::handshake::member_event(
            draft,
            user,
            room_id,
            rules,
            &before,
            &before,
            depth,
            self.clock.now_ms(),
            &self.server_name,
        )
    }
}

impl Staging {
    /// Whether an event follows all that the room has come to.
    pub(crate) fn is_at_the_end(&self, pdu: &Pdu) -> bool {
        self.room.record.forward_extremities.iter().all(|(_, id, _)| pdu.prev_events.contains(id))
    }

    /// Appends an accepted event that need not name the current extremities: it was built a moment ago.
    pub(crate) fn append_after(
        &mut self,
        pdu: Arc<Pdu>,
        relay: Relay,
        sent_by: Option<SentBy>,
    ) -> Result<Arc<Event>, RoomError> {
        if self.is_at_the_end(&pdu) {
            return self.append_checked(pdu, relay, sent_by, false);
        }
        let event = self.append_received(pdu, relay)?;
        match event.record.reason.clone() {
            None => Ok(event),
            Some(reason) => Err(RoomError::Forbidden(reason)),
        }
    }
}

/// How many stripped state events an invite may bring.
const STRIPPED_EVENTS_MAX: usize = 100;

pub(crate) fn dedup(servers: &mut Vec<OwnedServerName>) {
    let mut seen = std::collections::HashSet::new();
    servers.retain(|server| seen.insert(server.clone()));
}

/// A piece of invite state as clients get it: other servers may send whole events.
fn as_stripped(event: serde_json::Value) -> Option<serde_json::Value> {
    let serde_json::Value::Object(mut event) = event else { return None };
    event.retain(|key, _| matches!(key.as_str(), "type" | "sender" | "state_key" | "content" | "origin_server_ts"));
    Some(event.into())
}

/// The room's create event, if this is it.
fn create_event_of(event: &serde_json::Value, room_id: &RoomId, rules: &RoomVersionRules) -> Option<Pdu> {
    if event.get("type")?.as_str()? != "m.room.create" {
        return None;
    }
    let pdu = Pdu::from_object(json::parse_strict(&event.to_string()).ok()?, rules).ok()?;
    (pdu.room_id == room_id && pdu.kind == TimelineEventType::RoomCreate).then_some(pdu)
}
