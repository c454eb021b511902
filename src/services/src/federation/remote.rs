//! What the room engine asks of other servers, over HTTP: [`Remote`] on top of the client and the key service.

use chappe_protocol::sign::PublicKeys;
use chappe_rooms::{
    relationships::{RelatedAnswer, RelationshipQuery},
    remote::{
        EachEvent, FederationGate, JoinAnswer, Members, MissingEvents, RawEvents, Remote, RemoteError, RemoteResult,
        Template, Urgency,
    },
};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, RoomId, RoomVersionId,
    ServerName, UserId, api::Direction, room_version_rules::RoomVersionRules,
};
use serde_json::{Value, value::RawValue as RawJsonValue};

use super::{
    client::{self, FederationClient, FederationError},
    keys::ServerKeys,
};
use crate::policy::FederationPolicy;

/// The other servers, as the room engine sees them. Cheap to clone.
#[derive(Clone)]
pub struct FederationRemote {
    client: FederationClient,
    keys: ServerKeys,
}

impl FederationRemote {
    pub fn new(client: FederationClient, keys: ServerKeys) -> Self {
        Self { client, keys }
    }
}

pub(crate) fn remote_error(server: &ServerName, error: FederationError) -> RemoteError {
    match error {
        FederationError::Policy(_) => RemoteError::Denied(server.to_owned()),
        FederationError::Status { status, errcode, error } => {
            RemoteError::Refused { server: server.to_owned(), status, errcode, message: error }
        }
        other => RemoteError::Unreachable(format!("{server}: {other}")),
    }
}

/// Runs one call of the client and turns its error into the room engine's.
macro_rules! ask {
    ($server:expr, $call:expr) => {
        Box::pin(async move { $call.await.map_err(|error| remote_error($server, error)) })
    };
}

impl Remote for FederationRemote {
    fn fetch_event<'a>(&'a self, server: &'a ServerName, event_id: &'a EventId) -> RemoteResult<'a, Box<RawJsonValue>> {
        ask!(server, self.client.fetch_event(server, event_id))
    }

    fn fetch_event_by_time<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        at: MilliSecondsSinceUnixEpoch,
        direction: Direction,
    ) -> RemoteResult<'a, (OwnedEventId, MilliSecondsSinceUnixEpoch)> {
        Box::pin(async move {
            let answer = self.client.fetch_event_by_timestamp(server, room_id, at, direction).await;
            answer.map(|found| (found.event_id, found.origin_server_ts)).map_err(|error| remote_error(server, error))
        })
    }

    fn fetch_missing_events<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        gap: MissingEvents,
    ) -> RemoteResult<'a, RawEvents> {
        ask!(server, self.client.fetch_missing_events(server, room_id, &gap))
    }

    fn fetch_state_ids<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        event_id: &'a EventId,
    ) -> RemoteResult<'a, (Vec<OwnedEventId>, Vec<OwnedEventId>)> {
        Box::pin(async move {
            let answer = self.client.fetch_state_ids(server, room_id, event_id).await;
            answer.map(|ids| (ids.pdu_ids, ids.auth_chain_ids)).map_err(|error| remote_error(server, error))
        })
    }

    fn fetch_state<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        event_id: &'a EventId,
        each: &'a mut EachEvent<'_>,
    ) -> RemoteResult<'a, ()> {
        ask!(server, self.client.fetch_state(server, room_id, event_id, each))
    }

    fn fetch_event_auth<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        event_id: &'a EventId,
    ) -> RemoteResult<'a, RawEvents> {
        ask!(server, self.client.fetch_event_auth(server, room_id, event_id))
    }

    fn fetch_backfill<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        from: Vec<OwnedEventId>,
        limit: u32,
    ) -> RemoteResult<'a, RawEvents> {
        ask!(server, self.client.fetch_backfill(server, room_id, &from, limit))
    }

    fn fetch_related<'a>(
        &'a self,
        server: &'a ServerName,
        query: &'a RelationshipQuery,
    ) -> RemoteResult<'a, RelatedAnswer> {
        ask!(server, self.client.fetch_event_relationships(server, query))
    }

    fn make_join<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        user: &'a UserId,
        versions: Vec<RoomVersionId>,
    ) -> RemoteResult<'a, Template> {
        ask!(server, self.client.make_join(server, room_id, user, &versions))
    }

    fn send_join<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        event_id: &'a EventId,
        event: Box<RawJsonValue>,
        members: Members,
    ) -> RemoteResult<'a, JoinAnswer> {
        ask!(server, self.client.send_join(server, room_id, event_id, &event, members))
    }

    fn make_leave<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        user: &'a UserId,
    ) -> RemoteResult<'a, Template> {
        ask!(server, self.client.make_leave(server, room_id, user))
    }

    fn send_leave<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        event_id: &'a EventId,
        event: Box<RawJsonValue>,
    ) -> RemoteResult<'a, ()> {
        ask!(server, self.client.send_leave(server, room_id, event_id, &event))
    }

    fn make_knock<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        user: &'a UserId,
        versions: Vec<RoomVersionId>,
    ) -> RemoteResult<'a, Template> {
        ask!(server, self.client.make_knock(server, room_id, user, &versions))
    }

    fn send_knock<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        event_id: &'a EventId,
        event: Box<RawJsonValue>,
    ) -> RemoteResult<'a, Vec<Value>> {
        ask!(server, self.client.send_knock(server, room_id, event_id, &event))
    }

    fn send_invite<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        event_id: &'a EventId,
        version: &'a RoomVersionId,
        event: Box<RawJsonValue>,
        invite_room_state: Vec<Value>,
    ) -> RemoteResult<'a, Box<RawJsonValue>> {
        ask!(server, self.client.send_invite(server, room_id, event_id, version, &event, &invite_room_state))
    }

    fn exchange_third_party_invite<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        event: CanonicalJsonObject,
    ) -> RemoteResult<'a, ()> {
        Box::pin(async move {
            let event: Value = CanonicalJsonValue::Object(event).into();
            let answer = self.client.exchange_third_party_invite(server, room_id, event).await;
            answer.map_err(|error| remote_error(server, error))
        })
    }

    fn check_key_validity<'a>(&'a self, url: &'a str, public_key: &'a str) -> RemoteResult<'a, bool> {
        Box::pin(async move {
            let answer = self.client.check_key_validity(url, public_key).await;
            answer.map_err(|error| RemoteError::Unreachable(error.to_string()))
        })
    }

    fn fetch_policy_signature<'a>(
        &'a self,
        server: &'a ServerName,
        event: Box<RawJsonValue>,
        urgency: Urgency,
    ) -> RemoteResult<'a, Box<RawJsonValue>> {
        let urgency = match urgency {
            Urgency::User => client::Urgency::User,
            Urgency::Background => client::Urgency::Background,
        };
        Box::pin(async move {
            let answer = self.client.fetch_policy_signature(server, &event, urgency).await;
            answer.map_err(|error| remote_error(server, error))
        })
    }

    fn fetch_keys_for_event<'a>(
        &'a self,
        event: &'a CanonicalJsonObject,
        rules: &'a RoomVersionRules,
        sent_at: MilliSecondsSinceUnixEpoch,
    ) -> RemoteResult<'a, PublicKeys> {
        Box::pin(async move {
            let keys = self.keys.get_keys_for_event(event, rules, sent_at.get().into()).await;
            keys.map_err(|error| RemoteError::Unreachable(error.to_string()))
        })
    }
}

impl FederationGate for FederationPolicy {
    fn is_allowed(&self, server: &ServerName) -> bool {
        self.check(server).is_ok()
    }

    fn room_acl(&self) -> Option<Value> {
        FederationPolicy::room_acl(self)
    }
}
