//! Sending and fetching events over federation. Events come back as raw JSON, checked in no way.

use std::time::Duration;

use chappe_rooms::{
    relationships::{RelatedAnswer, RelationshipQuery},
    remote::{EachEvent, MissingEvents, RawEvents},
};
use http::Method;
use ruma::{
    EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, RoomId, ServerName, TransactionId, api::Direction,
    api::federation::event::get_event_by_timestamp,
};
use serde::Deserialize;
use serde_json::{Value, json, value::RawValue as RawJsonValue};

use super::{
    EventSplitter, FEDERATION_UNSTABLE, FEDERATION_V1, FederationClient, FederationError, FederationRequest,
    LONG_TIMEOUT, Urgency, path, with_query,
};

/// How long one server is waited for while a client waits for a whole thread.
const RELATIONSHIPS_TIMEOUT: Duration = Duration::from_secs(10);

/// The ids of the state before an event, and of its auth chain.
#[derive(Debug, Deserialize)]
pub struct StateIdsAnswer {
    pub pdu_ids: Vec<OwnedEventId>,
    pub auth_chain_ids: Vec<OwnedEventId>,
}

#[derive(Deserialize)]
struct PdusAnswer {
    pdus: RawEvents,
}

#[derive(Deserialize)]
struct MissingEventsAnswer {
    events: RawEvents,
}

#[derive(Deserialize)]
struct AuthChainAnswer {
    auth_chain: RawEvents,
}

/// What a server made of each event of a transaction: the reason, where it was refused.
#[derive(Debug, Default, Deserialize)]
pub struct TransactionAnswer {
    #[serde(default)]
    pub pdus: std::collections::BTreeMap<String, Value>,
}

impl FederationClient {
    /// `PUT /_matrix/federation/v1/send/{txnId}`. Background traffic: refused while the server is failing.
    pub async fn send_transaction(
        &self,
        server: &ServerName,
        transaction_id: &TransactionId,
        body: Value,
    ) -> Result<TransactionAnswer, FederationError> {
        let path = path(FEDERATION_V1, ["send", transaction_id.as_str()]);
        let request = FederationRequest::new(Method::PUT, path).with_body(body).in_background();
        self.request(server, FederationRequest { timeout: LONG_TIMEOUT, ..request }).await
    }

    /// `GET /_matrix/federation/v1/event/{eventId}`.
    pub async fn fetch_event(
        &self,
        server: &ServerName,
        event_id: &EventId,
    ) -> Result<Box<RawJsonValue>, FederationError> {
        let request = FederationRequest::get(path(FEDERATION_V1, ["event", event_id.as_str()]));
        let answer: PdusAnswer = self.request(server, request).await?;
        answer.pdus.into_iter().next().ok_or_else(|| FederationError::Malformed("no event in the answer".to_owned()))
    }

    /// `GET /_matrix/federation/v1/event_auth/{roomId}/{eventId}`.
    pub async fn fetch_event_auth(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        event_id: &EventId,
    ) -> Result<RawEvents, FederationError> {
        let path = path(FEDERATION_V1, ["event_auth", room_id.as_str(), event_id.as_str()]);
        let answer: AuthChainAnswer = self.request(server, FederationRequest::get(path).for_state()).await?;
        Ok(answer.auth_chain)
    }

    /// `GET /_matrix/federation/v1/state/{roomId}?event_id=`: `each` is given the events of the state and of its auth chain as they come.
    pub async fn fetch_state(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        event_id: &EventId,
        each: &mut EachEvent<'_>,
    ) -> Result<(), FederationError> {
        let path = with_query(path(FEDERATION_V1, ["state", room_id.as_str()]), [("event_id", event_id.as_str())]);
        let request = FederationRequest::get(path).for_state();
        let limit = request.answer_bytes_max;
        let mut response = self.open(server, request).await?;
        let mut splitter = EventSplitter::new(["pdus", "auth_chain"]);
        let mut read = 0;
        while let Some(chunk) = response.chunk().await? {
            read += chunk.len();
            if read > limit {
                return Err(FederationError::TooLarge { limit });
            }
            splitter.split(&chunk, each).map_err(|error| FederationError::Malformed(error.to_string()))?;
        }
        splitter.finish().map_err(|error| FederationError::Malformed(error.to_string()))
    }

    /// `GET /_matrix/federation/v1/state_ids/{roomId}?event_id=`.
    pub async fn fetch_state_ids(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        event_id: &EventId,
    ) -> Result<StateIdsAnswer, FederationError> {
        let path = with_query(path(FEDERATION_V1, ["state_ids", room_id.as_str()]), [("event_id", event_id.as_str())]);
        self.request(server, FederationRequest::get(path).for_state()).await
    }

    /// `GET /_matrix/federation/v1/backfill/{roomId}`: `limit` events up to and including those of `from`.
    pub async fn fetch_backfill(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        from: &[OwnedEventId],
        limit: u32,
    ) -> Result<RawEvents, FederationError> {
        let limit = limit.to_string();
        let from = from.iter().map(|event_id| ("v", event_id.as_str()));
        let path = path(FEDERATION_V1, ["backfill", room_id.as_str()]);
        let path = with_query(path, from.chain([("limit", limit.as_str())]));
        let answer: PdusAnswer = self.request(server, FederationRequest::get(path)).await?;
        Ok(answer.pdus)
    }

    /// `POST /_matrix/federation/v1/get_missing_events/{roomId}`.
    pub async fn fetch_missing_events(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        gap: &MissingEvents,
    ) -> Result<RawEvents, FederationError> {
        let body = json!({
            "earliest_events": gap.earliest,
            "latest_events": gap.latest,
            "limit": gap.limit,
            "min_depth": gap.min_depth,
        });
        let path = path(FEDERATION_V1, ["get_missing_events", room_id.as_str()]);
        let answer: MissingEventsAnswer =
            self.request(server, FederationRequest::new(Method::POST, path).with_body(body)).await?;
        Ok(answer.events)
    }

    /// `POST /_matrix/federation/unstable/event_relationships`: an event and what relates to it (MSC2836).
    pub async fn fetch_event_relationships(
        &self,
        server: &ServerName,
        query: &RelationshipQuery,
    ) -> Result<RelatedAnswer, FederationError> {
        let path = path(FEDERATION_UNSTABLE, ["event_relationships"]);
        let body = serde_json::to_value(query).map_err(|error| FederationError::Malformed(error.to_string()))?;
        let request = FederationRequest::new(Method::POST, path).with_body(body).in_background();
        self.request(server, FederationRequest { timeout: RELATIONSHIPS_TIMEOUT, ..request }).await
    }

    /// `GET /_matrix/federation/v1/timestamp_to_event/{roomId}`.
    pub async fn fetch_event_by_timestamp(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        at: MilliSecondsSinceUnixEpoch,
        direction: Direction,
    ) -> Result<get_event_by_timestamp::v1::Response, FederationError> {
        let direction = match direction {
            Direction::Forward => "f",
            Direction::Backward => "b",
        };
        let at = at.get().to_string();
        let path = path(FEDERATION_V1, ["timestamp_to_event", room_id.as_str()]);
        let path = with_query(path, [("ts", at.as_str()), ("dir", direction)]);
        self.request_typed(server, FederationRequest::get(path)).await
    }

    /// `POST /_matrix/policy/v1/sign`: a policy server's signature on an event.
    pub async fn fetch_policy_signature(
        &self,
        server: &ServerName,
        event: &RawJsonValue,
        urgency: Urgency,
    ) -> Result<Box<RawJsonValue>, FederationError> {
        let event = serde_json::from_str(event.get()).map_err(|error| FederationError::Malformed(error.to_string()))?;
        let request = FederationRequest::new(Method::POST, "/_matrix/policy/v1/sign".to_owned()).with_body(event);
        self.request(server, FederationRequest { timeout: POLICY_TIMEOUT, urgency, ..request }).await
    }
}

/// How long a policy server is waited for: every event of its rooms waits as long.
const POLICY_TIMEOUT: Duration = Duration::from_secs(10);
