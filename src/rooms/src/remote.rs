//! What rooms need from other servers, as traits: over HTTP in `services/federation`, in memory in simulations.

use std::{future::Future, pin::Pin};

use chappe_protocol::sign::PublicKeys;
use chappe_store::StoreError;
use ruma::{
    CanonicalJsonObject, EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedServerName, RoomId, RoomVersionId,
    ServerName, UserId, api::Direction, room_version_rules::RoomVersionRules,
};
use serde_json::value::RawValue as RawJsonValue;

use crate::relationships::{RelatedAnswer, RelationshipQuery};

pub type BoxFuture<'a, T> = Pin<Box<dyn Future<Output = T> + Send + 'a>>;
pub type RemoteResult<'a, T> = BoxFuture<'a, Result<T, RemoteError>>;

/// Why another server's answer could not be had.
#[derive(Debug, Clone, thiserror::Error)]
pub enum RemoteError {
    /// It answered with an error of its own, which may be passed on.
    #[error("{server} answered {status}: {message}")]
    Refused { server: OwnedServerName, status: u16, errcode: Option<String>, message: String },
    /// It could not be reached, was too slow, or its answer made no sense.
    #[error("{0}")]
    Unreachable(String),
    /// Federation with it is not allowed.
    #[error("federation with {0} is not allowed")]
    Denied(OwnedServerName),
}

/// Events as their server sent them: not checked in any way.
pub type RawEvents = Vec<Box<RawJsonValue>>;

/// What takes events one by one. An error ends the whole.
pub type EachEvent<'a> = dyn FnMut(&str) -> std::io::Result<()> + Send + 'a;

/// The answer to `make_join`, `make_leave` and `make_knock`.
#[derive(Debug)]
pub struct Template {
    /// `None` means version 1.
    pub room_version: Option<RoomVersionId>,
    pub event: Box<RawJsonValue>,
}

/// Whether a joining server wants all members of the room at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Members {
    All,
    /// The answer may leave them out (`omit_members`): see [`crate::partial`].
    Omitted,
}

/// The answer to `send_join`.
#[derive(Debug)]
pub struct JoinAnswer {
    /// The join event with the resident server's signature, for restricted joins.
    pub event: Option<Box<RawJsonValue>>,
    pub state: RawEvents,
    pub auth_chain: RawEvents,
    /// The members are left out of the state.
    pub members_omitted: bool,
    /// The servers in the room before the join, where they were told.
    pub servers: Vec<OwnedServerName>,
}

/// A gap to fill: the events between `earliest` and `latest`.
#[derive(Debug)]
pub struct MissingEvents {
    pub earliest: Vec<OwnedEventId>,
    pub latest: Vec<OwnedEventId>,
    pub limit: u32,
    pub min_depth: u64,
}

/// For whom another server is asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Urgency {
    /// A user waits for the answer: worth trying a server that failed a moment ago.
    User,
    Background,
}

pub trait Remote: Send + Sync + 'static {
    fn fetch_event<'a>(&'a self, server: &'a ServerName, event_id: &'a EventId) -> RemoteResult<'a, Box<RawJsonValue>>;
    /// Which event is the closest to a time, and when it was sent, says the server.
    fn fetch_event_by_time<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        at: MilliSecondsSinceUnixEpoch,
        direction: Direction,
    ) -> RemoteResult<'a, (OwnedEventId, MilliSecondsSinceUnixEpoch)>;
    fn fetch_missing_events<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        gap: MissingEvents,
    ) -> RemoteResult<'a, RawEvents>;
    /// Ids of the state before an event, and of its auth chain.
    fn fetch_state_ids<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        event_id: &'a EventId,
    ) -> RemoteResult<'a, (Vec<OwnedEventId>, Vec<OwnedEventId>)>;
    /// The state before an event, and its auth chain: `each` is given every event's text as it arrives, in any order. It is not
    /// kept in memory as a whole, as it may be large.
    fn fetch_state<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        event_id: &'a EventId,
        each: &'a mut EachEvent<'_>,
    ) -> RemoteResult<'a, ()>;
    fn fetch_event_auth<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        event_id: &'a EventId,
    ) -> RemoteResult<'a, RawEvents>;
    fn fetch_backfill<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        from: Vec<OwnedEventId>,
        limit: u32,
    ) -> RemoteResult<'a, RawEvents>;
    /// An event and what relates to it.
    fn fetch_related<'a>(
        &'a self,
        server: &'a ServerName,
        query: &'a RelationshipQuery,
    ) -> RemoteResult<'a, RelatedAnswer>;
    fn make_join<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        user: &'a UserId,
        versions: Vec<RoomVersionId>,
    ) -> RemoteResult<'a, Template>;
    fn send_join<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        event_id: &'a EventId,
        event: Box<RawJsonValue>,
        members: Members,
    ) -> RemoteResult<'a, JoinAnswer>;
    fn make_leave<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        user: &'a UserId,
    ) -> RemoteResult<'a, Template>;
    fn send_leave<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        event_id: &'a EventId,
        event: Box<RawJsonValue>,
    ) -> RemoteResult<'a, ()>;
    fn make_knock<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        user: &'a UserId,
        versions: Vec<RoomVersionId>,
    ) -> RemoteResult<'a, Template>;
    /// The answer is the room's stripped state.
    fn send_knock<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        event_id: &'a EventId,
        event: Box<RawJsonValue>,
    ) -> RemoteResult<'a, Vec<serde_json::Value>>;
    /// The answer is the invite with the invited server's signature.
    fn send_invite<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        event_id: &'a EventId,
        version: &'a RoomVersionId,
        event: Box<RawJsonValue>,
        invite_room_state: Vec<serde_json::Value>,
    ) -> RemoteResult<'a, Box<RawJsonValue>>;
    /// Has an invite made that an identity server vouches for, from a partial member event.
    fn exchange_third_party_invite<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        event: CanonicalJsonObject,
    ) -> RemoteResult<'a, ()>;
    /// Whether an identity server's key still counts, says the URL that a third-party invite names for it.
    fn check_key_validity<'a>(&'a self, url: &'a str, public_key: &'a str) -> RemoteResult<'a, bool>;
    /// A policy server's signature on an event: signatures by server and key, as JSON text.
    fn fetch_policy_signature<'a>(
        &'a self,
        server: &'a ServerName,
        event: Box<RawJsonValue>,
        urgency: Urgency,
    ) -> RemoteResult<'a, Box<RawJsonValue>>;
    /// The keys with which this event must have been signed, as far as they can be had and were valid when it was sent.
    fn fetch_keys_for_event<'a>(
        &'a self,
        event: &'a CanonicalJsonObject,
        rules: &'a RoomVersionRules,
        sent_at: MilliSecondsSinceUnixEpoch,
    ) -> RemoteResult<'a, PublicKeys>;
}

/// This server's federation policy, as far as rooms must ask it: see architecture invariant 9.
pub trait FederationGate: Send + Sync + 'static {
    /// Whether anything may be exchanged with this server.
    fn is_allowed(&self, server: &ServerName) -> bool;

    /// The content of `m.room.server_acl` for new rooms, where only listed servers may take part in anything.
    fn room_acl(&self) -> Option<serde_json::Value> {
        None
    }
}

/// Everyone may federate.
pub struct OpenGate;

impl FederationGate for OpenGate {
    fn is_allowed(&self, _: &ServerName) -> bool {
        true
    }
}

/// What becomes of an invite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InviteVerdict {
    Allow,
    /// It goes through, but the invited user is not shown it.
    Ignore,
    /// It is refused.
    Block,
}

/// From whom this server's users take invites. Asked before an invite of one of them is signed or sent.
pub trait InviteGate: Send + Sync + 'static {
    fn verdict(&self, inviter: &UserId, invited: &UserId) -> Result<InviteVerdict, StoreError>;
}

/// Everyone takes invites from everyone.
pub struct AllInvites;

impl InviteGate for AllInvites {
    fn verdict(&self, _: &UserId, _: &UserId) -> Result<InviteVerdict, StoreError> {
        Ok(InviteVerdict::Allow)
    }
}
