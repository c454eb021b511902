//! Joining, leaving, knocking and inviting over federation.
//!
//! Templates and answers are returned as they came: the room engine rebuilds and verifies them.

use chappe_rooms::remote::{JoinAnswer, Members, Template};
use http::Method;
use ruma::{EventId, OwnedServerName, RoomId, RoomVersionId, ServerName, UserId};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue as RawJsonValue};
use url::Url;

use super::{
    FEDERATION_V1, FEDERATION_V2, FederationClient, FederationError, FederationRequest, LONG_TIMEOUT, TIMEOUT, path,
    with_query,
};
use crate::connector::Request;

#[derive(Deserialize)]
struct TemplateAnswer {
    room_version: Option<RoomVersionId>,
    event: Box<RawJsonValue>,
}

#[derive(Deserialize)]
struct SendJoinAnswer {
    event: Option<Box<RawJsonValue>>,
    #[serde(default)]
    state: Vec<Box<RawJsonValue>>,
    #[serde(default)]
    auth_chain: Vec<Box<RawJsonValue>>,
    #[serde(default)]
    members_omitted: bool,
    servers_in_room: Option<Vec<OwnedServerName>>,
}

#[derive(Deserialize)]
struct InviteAnswer {
    event: Box<RawJsonValue>,
}

#[derive(Deserialize)]
struct KnockAnswer {
    #[serde(default)]
    knock_room_state: Vec<Value>,
}

#[derive(Deserialize)]
struct Nothing {}

impl FederationClient {
    /// `GET /_matrix/federation/v1/make_join/{roomId}/{userId}`.
    pub async fn make_join(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        user: &UserId,
        versions: &[RoomVersionId],
    ) -> Result<Template, FederationError> {
        self.make("make_join", server, room_id, user, versions).await
    }

    /// `GET /_matrix/federation/v1/make_leave/{roomId}/{userId}`.
    pub async fn make_leave(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        user: &UserId,
    ) -> Result<Template, FederationError> {
        self.make("make_leave", server, room_id, user, &[]).await
    }

    /// `GET /_matrix/federation/v1/make_knock/{roomId}/{userId}`.
    pub async fn make_knock(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        user: &UserId,
        versions: &[RoomVersionId],
    ) -> Result<Template, FederationError> {
        self.make("make_knock", server, room_id, user, versions).await
    }

    async fn make(
        &self,
        endpoint: &str,
        server: &ServerName,
        room_id: &RoomId,
        user: &UserId,
        versions: &[RoomVersionId],
    ) -> Result<Template, FederationError> {
        let path = path(FEDERATION_V1, [endpoint, room_id.as_str(), user.as_str()]);
        let path = with_query(path, versions.iter().map(|version| ("ver", version.as_str())));
        let answer: TemplateAnswer = self.request(server, FederationRequest::get(path)).await?;
        Ok(Template { room_version: answer.room_version, event: answer.event })
    }

    /// `PUT /_matrix/federation/v2/send_join/{roomId}/{eventId}`.
    pub async fn send_join(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        event_id: &EventId,
        event: &RawJsonValue,
        members: Members,
    ) -> Result<JoinAnswer, FederationError> {
        let path = path(FEDERATION_V2, ["send_join", room_id.as_str(), event_id.as_str()]);
        let path = match members {
            Members::All => path,
            Members::Omitted => with_query(path, [("omit_members", "true")]),
        };
        let request = FederationRequest::new(Method::PUT, path).with_body(to_value(event)?).for_state();
        let answer: SendJoinAnswer = self.request(server, request).await?;
        Ok(JoinAnswer {
            event: answer.event,
            state: answer.state,
            auth_chain: answer.auth_chain,
            members_omitted: answer.members_omitted,
            servers: answer.servers_in_room.unwrap_or_default(),
        })
    }

    /// `PUT /_matrix/federation/v2/send_leave/{roomId}/{eventId}`.
    pub async fn send_leave(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        event_id: &EventId,
        event: &RawJsonValue,
    ) -> Result<(), FederationError> {
        let path = path(FEDERATION_V2, ["send_leave", room_id.as_str(), event_id.as_str()]);
        let Nothing {} =
            self.request(server, FederationRequest::new(Method::PUT, path).with_body(to_value(event)?)).await?;
        Ok(())
    }

    /// `PUT /_matrix/federation/v1/send_knock/{roomId}/{eventId}`. The answer is the room's stripped state.
    pub async fn send_knock(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        event_id: &EventId,
        event: &RawJsonValue,
    ) -> Result<Vec<Value>, FederationError> {
        let path = path(FEDERATION_V1, ["send_knock", room_id.as_str(), event_id.as_str()]);
        let request = FederationRequest::new(Method::PUT, path).with_body(to_value(event)?);
        let answer: KnockAnswer = self.request(server, request).await?;
        Ok(answer.knock_room_state)
    }

    /// `PUT /_matrix/federation/v2/invite/{roomId}/{eventId}`, or v1 where a server does not know it and the room's version
    /// allows. The answer is the event with the invited server's signature.
    pub async fn send_invite(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        event_id: &EventId,
        version: &RoomVersionId,
        event: &RawJsonValue,
        invite_room_state: &[Value],
    ) -> Result<Box<RawJsonValue>, FederationError> {
        let event = to_value(event)?;
        let body = json!({ "room_version": version, "event": event, "invite_room_state": invite_room_state });
        let segments = ["invite", room_id.as_str(), event_id.as_str()];
        let request = FederationRequest::new(Method::PUT, path(FEDERATION_V2, segments)).with_body(body);
        let request = FederationRequest { timeout: LONG_TIMEOUT, ..request };
        match self.request::<InviteAnswer>(server, request).await {
            Ok(answer) => Ok(answer.event),
            Err(error) if error.is_unrecognized() && matches!(version, RoomVersionId::V1 | RoomVersionId::V2) => {
                let mut event = event;
                if let Some(fields) = event.as_object_mut() {
                    fields.insert("unsigned".to_owned(), json!({ "invite_room_state": invite_room_state }));
                }
                let request = FederationRequest::new(Method::PUT, path(FEDERATION_V1, segments)).with_body(event);
                // Version 1 wraps its answer in an array with the status.
                let (_, answer): (u16, InviteAnswer) = self.request(server, request).await?;
                Ok(answer.event)
            }
            Err(error) => Err(error),
        }
    }

    /// `PUT /_matrix/federation/v1/exchange_third_party_invite/{roomId}`.
    pub async fn exchange_third_party_invite(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        event: Value,
    ) -> Result<(), FederationError> {
        let path = path(FEDERATION_V1, ["exchange_third_party_invite", room_id.as_str()]);
        let Nothing {} = self.request(server, FederationRequest::new(Method::PUT, path).with_body(event)).await?;
        Ok(())
    }

    /// `GET` of the `key_validity_url` of a third-party invite: whether an identity server's key still counts. Not signed.
    ///
    /// Spec: Identity Service API, `GET /pubkey/isvalid`.
    pub async fn check_key_validity(&self, url: &str, public_key: &str) -> Result<bool, FederationError> {
        #[derive(Deserialize)]
        struct Validity {
            valid: bool,
        }
        let malformed =
            |error: &dyn std::fmt::Display| FederationError::Malformed(format!("key_validity_url: {error}"));
        let mut url = Url::parse(url).map_err(|error| malformed(&error))?;
        let host = url.host_str().and_then(|host| ServerName::parse(host).ok()).ok_or_else(|| malformed(&"no host"))?;
        self.policy.check(&host)?;
        url.query_pairs_mut().append_pair("public_key", public_key);
        let request = Request { timeout: Some(TIMEOUT), ..Request::get(url) };
        let answer = self.connector.fetch_capped(request, KEY_VALIDITY_BYTES_MAX).await?;
        let validity: Validity = serde_json::from_slice(&answer.body).map_err(|error| malformed(&error))?;
        Ok(answer.status.is_success() && validity.valid)
    }
}

/// Largest answer about a key, in bytes.
const KEY_VALIDITY_BYTES_MAX: usize = 16 * 1024;

fn to_value(event: &RawJsonValue) -> Result<Value, FederationError> {
    serde_json::from_str(event.get()).map_err(|error| FederationError::Malformed(error.to_string()))
}
