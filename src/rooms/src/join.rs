//! Joining, and knocking on, rooms that this server is not in, by a server that is.
//!
//! Nothing a resident server suggests is signed as it stands: the event is rebuilt from checked parts. Nothing it answers is believed
//! before its signatures, and the rules, have been checked.

use std::sync::Arc;

use chappe_protocol::{json, pdu::Pdu, room_version};
use chappe_store::tables::rooms::RoomRecord;
use ruma::{
    CanonicalJsonValue, EventId, OwnedEventId, OwnedServerName, RoomId, RoomVersionId, ServerName, UserId,
    room_version_rules::RoomVersionRules,
};
use serde_json::value::RawValue as RawJsonValue;

use crate::{
    EventDraft, RemoteError, Room, RoomError, Rooms, blocking,
    handshake::member_event,
    invite::dedup,
    membership::{JoinContent, MemberProfile, member_draft, with_reason},
    partial::join::CheckedAnswer,
    remote::{JoinAnswer, Members, Template},
    staging::Staging,
    state::EMPTY,
};

/// How many servers are tried for one join or knock.
const CANDIDATES_MAX: usize = 10;

impl Rooms {
    /// The servers that may help a user into a room, best first.
    fn candidates(
        &self,
        user: &UserId,
        room_id: &RoomId,
        via: &[OwnedServerName],
    ) -> Result<Vec<OwnedServerName>, RoomError> {
        let mut servers: Vec<_> = via.iter().filter(|server| **server != self.server_name).cloned().collect();
        let is_named = !servers.is_empty();
        if let Some(nid) = self.get_room_nid(room_id)? {
            // Who invited the user is in the room, and can tell that the user is invited.
            if let Some(member) = self.get_user_room(user, nid)?.filter(|member| member.value.membership == "invite") {
                servers.insert(0, member.value.sender.server_name().to_owned());
            }
            if !is_named {
                servers.extend(self.get_joined_servers(nid)?);
            }
        }
        // Whoever names servers means those: another may know less of the room, and let in whom they would not.
        if !is_named {
            servers.extend(room_id.server_name().map(ToOwned::to_owned));
        }
        servers.retain(|server| *server != self.server_name);
        dedup(&mut servers);
        if !servers.is_empty() && !servers.iter().any(|server| self.gate.is_allowed(server)) {
            return Err(RoomError::Forbidden("Federation with the servers of this room is not allowed".to_owned()));
        }
        servers.retain(|server| self.gate.is_allowed(server));
        servers.truncate(CANDIDATES_MAX);
        Ok(servers)
    }

    pub(crate) async fn join_by_federation(
        &self,
        user: &UserId,
        room_id: &RoomId,
        via: &[OwnedServerName],
        join: &JoinContent,
    ) -> Result<(), RoomError> {
        let _queue = self.locks.ingest(room_id).await;
        if let Some(room) = self.get_room(room_id)?
            && self.is_joined(room.nid, user)?
        {
            // Another request of the same user came first.
            return Ok(self.store.barrier().await?);
        }
        let members = self.members_wanted(room_id)?;
        let mut failure = RoomError::NotFound("Can't join remote room: no server of it is known".to_owned());
        for server in self.candidates(user, room_id, via)? {
            match self.join_by_server(&server, user, room_id, members, join).await {
                Ok(()) => return Ok(()),
                Err(error) => {
                    tracing::info!(%error, room.id = %room_id, server = %server, "join by this server failed");
                    failure = more_telling(failure, error);
                }
            }
        }
        Err(failure)
    }

    /// Whole answers are for rooms whose members this server knows: what it is told must not put less in their place.
    fn members_wanted(&self, room_id: &RoomId) -> Result<Members, RoomError> {
        Ok(match self.get_room(room_id)? {
            Some(room) if !room.record.partial_state && self.is_server_joined(room.nid, &self.server_name)? => {
                Members::All
            }
            _ => Members::Omitted,
        })
    }

    async fn join_by_server(
        &self,
        server: &ServerName,
        user: &UserId,
        room_id: &RoomId,
        members: Members,
        join: &JoinContent,
    ) -> Result<(), RoomError> {
        let template = self.remote.make_join(server, room_id, user, room_version::supported_versions()).await?;
        let version = template.room_version.clone().unwrap_or(RoomVersionId::V1);
        let Some(rules) = room_version::rules(&version) else { return Err(RoomError::UnsupportedVersion(version)) };
        let mut content = join.content();
        if let Some(authoriser) = authoriser_of(&template) {
            content.insert("join_authorised_via_users_server".to_owned(), CanonicalJsonValue::String(authoriser));
        }
        let join = self.event_from_template(&template, member_draft(user, content), user, room_id, &rules)?;
        let raw = join.to_federation_raw().map_err(|error| RoomError::broken(error.to_string()))?;
        let answer = self.remote.send_join(server, room_id, &join.event_id, raw, members).await?;
        let join = match &answer.event {
            Some(event) => self.co_signed(&join, event, &rules)?,
            None => join,
        };
        self.enter(server, room_id, version, rules, Arc::new(join), answer).await
    }

    /// A restricted join comes back with the signature of the authorising user's server.
    fn co_signed(&self, ours: &Pdu, theirs: &RawJsonValue, rules: &RoomVersionRules) -> Result<Pdu, RoomError> {
        let content: serde_json::Value = ours.get_content().unwrap_or_default();
        let authoriser = content
            .get("join_authorised_via_users_server")
            .and_then(|user| user.as_str())
            .and_then(|user| UserId::parse(user).ok());
        match authoriser {
            Some(authoriser) => self.add_signatures(ours, theirs, authoriser.server_name(), rules),
            None => Ok(ours.clone()),
        }
    }

    /// Checks the answer to a join and, in one batch, becomes part of the room.
    async fn enter(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        version: RoomVersionId,
        rules: RoomVersionRules,
        join: Arc<Pdu>,
        answer: JoinAnswer,
    ) -> Result<(), RoomError> {
        let auth_chain = self.check_all(room_id, &rules, answer.auth_chain).await;
        let state = self.check_all(room_id, &rules, answer.state).await;
        let _writing = self.locks.write(room_id).await;
        let nid = self.store.interner().intern_room(&self.store, room_id)?;
        let record = self.get_room(room_id)?.map_or_else(
            || RoomRecord {
                version: version.to_string(),
                state: EMPTY,
                forward_extremities: Vec::new(),
                partial_state: false,
            },
            |room| room.record,
        );
        let room = Room { nid, id: room_id.to_owned(), version, rules, record };
        let rooms = self.clone();
        let (members_omitted, server, servers) = (answer.members_omitted, server.to_owned(), answer.servers);
        let ticket = blocking(move || {
            let answer = CheckedAnswer { server, auth_chain, state, servers };
            if room.record.partial_state {
                rooms.commit_further_join(room, &join, answer)
            } else if members_omitted || rooms.has_partial_events(room.nid)? {
                rooms.commit_partial_join(room, &join, answer)
            } else {
                rooms.commit_join(room, &join, answer)
            }
        })
        .await?;
        drop(_writing);
        ticket.durable().await?;
        Ok(())
    }

    fn commit_join(
        &self,
        room: Room,
        join: &Arc<Pdu>,
        answer: CheckedAnswer,
    ) -> Result<chappe_store::Ticket, RoomError> {
        let mut staging = Staging::begin(self, room)?;
        let root = staging.enter_by_answer(join, &answer)?;
        staging.put_join(join, root)?;
        staging.enqueue()
    }

    /// Those of many events that pass format, signature and hash checks.
    async fn check_all(
        &self,
        room_id: &RoomId,
        rules: &RoomVersionRules,
        events: Vec<Box<RawJsonValue>>,
    ) -> Vec<Arc<Pdu>> {
        let mut checked = Vec::with_capacity(events.len());
        for raw in events {
            let result = match json::parse_strict(raw.get()) {
                Ok(object) => self.check_object(room_id, rules, object).await,
                Err(error) => Err(RoomError::BadJson(error.to_string())),
            };
            match result {
                Ok(pdu) => checked.push(pdu),
                Err(error) => tracing::info!(%error, room.id = %room_id, "event in the answer to a join is bad"),
            }
        }
        checked
    }

    pub(crate) async fn knock_by_federation(
        &self,
        user: &UserId,
        room_id: &RoomId,
        via: &[OwnedServerName],
        profile: &MemberProfile,
        reason: Option<String>,
    ) -> Result<(), RoomError> {
        let mut failure = RoomError::NotFound("Can't knock on remote room: no server of it is known".to_owned());
        for server in self.candidates(user, room_id, via)? {
            match self.knock_by_server(&server, user, room_id, profile, reason.clone()).await {
                Ok(()) => return Ok(()),
                Err(error) => failure = more_telling(failure, error),
            }
        }
        Err(failure)
    }

    async fn knock_by_server(
        &self,
        server: &ServerName,
        user: &UserId,
        room_id: &RoomId,
        profile: &MemberProfile,
        reason: Option<String>,
    ) -> Result<(), RoomError> {
        let template = self.remote.make_knock(server, room_id, user, room_version::supported_versions()).await?;
        let version = template.room_version.clone().unwrap_or(RoomVersionId::V1);
        let Some(rules) = room_version::rules(&version).filter(|rules| rules.authorization.knocking) else {
            return Err(RoomError::UnsupportedVersion(version));
        };
        let content = with_reason(profile.content("knock"), reason);
        let knock =
            Arc::new(self.event_from_template(&template, member_draft(user, content), user, room_id, &rules)?);
        let raw = knock.to_federation_raw().map_err(|error| RoomError::broken(error.to_string()))?;
        let stripped = self.remote.send_knock(server, room_id, &knock.event_id, raw).await?;
        let nid = self.store.interner().intern_room(&self.store, room_id)?;
        self.put_out_of_band(nid, &knock, user, &version, Some(stripped)).await
    }

    /// Our own event, with only its place in the graph taken from a template.
    pub(crate) fn event_from_template(
        &self,
        template: &Template,
        draft: EventDraft,
        user: &UserId,
        room_id: &RoomId,
        rules: &RoomVersionRules,
    ) -> Result<Pdu, RoomError> {
        let refuse =
            |what: String| RoomError::Remote(RemoteError::Unreachable(format!("The template is of no use: {what}")));
        let event: serde_json::Value =
            serde_json::from_str(template.event.get()).map_err(|error| refuse(error.to_string()))?;
        let text = |key: &str| event.get(key).and_then(|value| value.as_str()).unwrap_or_default();
        let membership = event.pointer("/content/membership").and_then(|membership| membership.as_str());
        let ours = draft.content.get("membership").and_then(|membership| membership.as_str());
        if text("type") != "m.room.member"
            || text("sender") != user
            || text("state_key") != user
            || text("room_id") != room_id
            || membership != ours
        {
            return Err(refuse("it is of another event than was asked for".to_owned()));
        }
        let prev_events = references(&event, "prev_events").ok_or_else(|| refuse("bad prev_events".to_owned()))?;
        let auth_events = references(&event, "auth_events").ok_or_else(|| refuse("bad auth_events".to_owned()))?;
        let depth = event.get("depth").and_then(serde_json::Value::as_u64).unwrap_or(0);
        let object = member_event(
            draft,
            user,
            room_id,
            rules,
            &prev_events,
            &auth_events,
            depth,
            self.clock.now_ms(),
            &self.server_name,
        );
        self.sign_new_event(object, rules)
    }
}

pub(crate) fn useless_answer(what: &str) -> RoomError {
    RoomError::Remote(RemoteError::Unreachable(format!("The answer to the join is of no use: {what}")))
}

/// Event ids as plain strings or, in old versions, the first of a pair.
fn references(event: &serde_json::Value, key: &str) -> Option<Vec<OwnedEventId>> {
    let id = |reference: &serde_json::Value| {
        let text = reference.as_str().or_else(|| reference.get(0).and_then(|id| id.as_str()))?;
        EventId::parse(text).ok()
    };
    event.get(key)?.as_array()?.iter().map(id).collect()
}

fn authoriser_of(template: &Template) -> Option<String> {
    let event: serde_json::Value = serde_json::from_str(template.event.get()).ok()?;
    event.pointer("/content/join_authorised_via_users_server")?.as_str().map(str::to_owned)
}

/// Of two failures, the one worth telling: a refusal by somebody who knows the room before a server that knows nothing, and that
/// before one that could not be asked.
fn more_telling(before: RoomError, now: RoomError) -> RoomError {
    let weight = |error: &RoomError| match error {
        RoomError::Remote(RemoteError::Refused { status: 403, .. }) => 4,
        RoomError::Remote(RemoteError::Refused { errcode: Some(_), .. }) => 3,
        RoomError::Remote(RemoteError::Refused { .. }) => 2,
        RoomError::NotFound(_) => 0,
        RoomError::Remote(_) => 1,
        _ => 3,
    };
    if weight(&now) >= weight(&before) { now } else { before }
}
