//! Rooms in memory for the tests of services: a real room engine on a store in memory, with no network.

use std::sync::Arc;

use chappe_protocol::{
    clock::ManualClock,
    sign::{PublicKeys, ServerSigner},
};
use chappe_rooms::{
    EventDraft, Remote, RemoteError, Rooms, RoomsConfig,
    create::{CreateRoom, Preset},
    membership::{MemberProfile, NoProfiles},
    relationships::{RelatedAnswer, RelationshipQuery},
    remote::{EachEvent, JoinAnswer, Members, MissingEvents, OpenGate, RawEvents, RemoteResult, Template, Urgency},
    send::canonical_content,
};
use chappe_store::Store;
use ruma::{
    CanonicalJsonObject, EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId, RoomId, RoomVersionId,
    ServerName, UserId, api::Direction, events::TimelineEventType, owned_server_name,
    room_version_rules::RoomVersionRules,
};
use serde_json::{Value, json, value::RawValue};

use crate::{
    account_data::AccountData,
    push::{evaluate::Candidates, rules::PushRules, unread::Unread},
    receipts::Receipts,
    sync::waiters::Waiters,
};

/// No server answers; the keys of `there.example` are known.
struct Nobody(PublicKeys);

fn down<'a, T: Send + 'a>() -> RemoteResult<'a, T> {
    Box::pin(async { Err(RemoteError::Unreachable("no network".to_owned())) })
}

impl Remote for Nobody {
    fn fetch_event<'a>(&'a self, _: &'a ServerName, _: &'a EventId) -> RemoteResult<'a, Box<RawValue>> {
        down()
    }
    fn fetch_event_by_time<'a>(
        &'a self,
        _: &'a ServerName,
        _: &'a RoomId,
        _: MilliSecondsSinceUnixEpoch,
        _: Direction,
    ) -> RemoteResult<'a, (OwnedEventId, MilliSecondsSinceUnixEpoch)> {
        down()
    }
    fn fetch_missing_events<'a>(
        &'a self,
        _: &'a ServerName,
        _: &'a RoomId,
        _: MissingEvents,
    ) -> RemoteResult<'a, RawEvents> {
        down()
    }
    fn fetch_state_ids<'a>(
        &'a self,
        _: &'a ServerName,
        _: &'a RoomId,
        _: &'a EventId,
    ) -> RemoteResult<'a, (Vec<OwnedEventId>, Vec<OwnedEventId>)> {
        down()
    }
    fn fetch_state<'a>(
        &'a self,
        _: &'a ServerName,
        _: &'a RoomId,
        _: &'a EventId,
        _: &'a mut EachEvent<'_>,
    ) -> RemoteResult<'a, ()> {
        down()
    }
    fn fetch_event_auth<'a>(&'a self, _: &'a ServerName, _: &'a RoomId, _: &'a EventId) -> RemoteResult<'a, RawEvents> {
        down()
    }
    fn fetch_backfill<'a>(
        &'a self,
        _: &'a ServerName,
        _: &'a RoomId,
        _: Vec<OwnedEventId>,
        _: u32,
    ) -> RemoteResult<'a, RawEvents> {
        down()
    }
    fn fetch_related<'a>(&'a self, _: &'a ServerName, _: &'a RelationshipQuery) -> RemoteResult<'a, RelatedAnswer> {
        down()
    }
    fn make_join<'a>(
        &'a self,
        _: &'a ServerName,
        _: &'a RoomId,
        _: &'a UserId,
        _: Vec<RoomVersionId>,
    ) -> RemoteResult<'a, Template> {
        down()
    }
    fn send_join<'a>(
        &'a self,
        _: &'a ServerName,
        _: &'a RoomId,
        _: &'a EventId,
        _: Box<RawValue>,
        _: Members,
    ) -> RemoteResult<'a, JoinAnswer> {
        down()
    }
    fn make_leave<'a>(&'a self, _: &'a ServerName, _: &'a RoomId, _: &'a UserId) -> RemoteResult<'a, Template> {
        down()
    }
    fn send_leave<'a>(
        &'a self,
        _: &'a ServerName,
        _: &'a RoomId,
        _: &'a EventId,
        _: Box<RawValue>,
    ) -> RemoteResult<'a, ()> {
        down()
    }
    fn make_knock<'a>(
        &'a self,
        _: &'a ServerName,
        _: &'a RoomId,
        _: &'a UserId,
        _: Vec<RoomVersionId>,
    ) -> RemoteResult<'a, Template> {
        down()
    }
    fn send_knock<'a>(
        &'a self,
        _: &'a ServerName,
        _: &'a RoomId,
        _: &'a EventId,
        _: Box<RawValue>,
    ) -> RemoteResult<'a, Vec<Value>> {
        down()
    }
    fn send_invite<'a>(
        &'a self,
        _: &'a ServerName,
        _: &'a RoomId,
        _: &'a EventId,
        _: &'a RoomVersionId,
        _: Box<RawValue>,
        _: Vec<Value>,
    ) -> RemoteResult<'a, Box<RawValue>> {
        down()
    }
    fn exchange_third_party_invite<'a>(
        &'a self,
        _: &'a ServerName,
        _: &'a RoomId,
        _: CanonicalJsonObject,
    ) -> RemoteResult<'a, ()> {
        down()
    }
    fn check_key_validity<'a>(&'a self, _: &'a str, _: &'a str) -> RemoteResult<'a, bool> {
        down()
    }
    fn fetch_policy_signature<'a>(
        &'a self,
        _: &'a ServerName,
        _: Box<RawValue>,
        _: Urgency,
    ) -> RemoteResult<'a, Box<RawValue>> {
        down()
    }
    fn fetch_keys_for_event<'a>(
        &'a self,
        _: &'a CanonicalJsonObject,
        _: &'a RoomVersionRules,
        _: MilliSecondsSinceUnixEpoch,
    ) -> RemoteResult<'a, PublicKeys> {
        Box::pin(async { Ok(self.0.clone()) })
    }
}

/// The signer of `there.example`, whose keys are known to [`rooms`].
pub(crate) fn peer() -> ServerSigner {
    ServerSigner::from_seed(owned_server_name!("there.example"), "1", &[8; 32]).unwrap()
}

/// The room engine of `here.example`.
pub(crate) fn rooms(store: &Store, clock: Arc<ManualClock>) -> Rooms {
    let signer = Arc::new(ServerSigner::from_seed(owned_server_name!("here.example"), "1", &[7; 32]).unwrap());
    Rooms::new(
        store.clone(),
        signer,
        clock,
        Arc::new(Nobody(peer().public_keys())),
        Arc::new(OpenGate),
        Arc::new(NoProfiles),
        RoomsConfig::default(),
    )
}

/// Makes a room of version 11.
pub(crate) async fn create(rooms: &Rooms, creator: &UserId, preset: Preset) -> OwnedRoomId {
    create_with(rooms, creator, preset, CanonicalJsonObject::new()).await
}

/// Makes a room of version 11 with a type, such as a space.
pub(crate) async fn create_of_type(rooms: &Rooms, creator: &UserId, preset: Preset, room_type: &str) -> OwnedRoomId {
    let content = canonical_content(&json!({ "type": room_type }).to_string()).unwrap();
    create_with(rooms, creator, preset, content).await
}

/// The same, with something in the content of the create event.
pub(crate) async fn create_with(
    rooms: &Rooms,
    creator: &UserId,
    preset: Preset,
    creation_content: CanonicalJsonObject,
) -> OwnedRoomId {
    let request = CreateRoom {
        version: Some(RoomVersionId::V11),
        preset,
        is_listed: false,
        name: None,
        topic: None,
        alias_localpart: None,
        invite: Vec::new(),
        is_direct: false,
        creation_content,
        initial_state: Vec::new(),
        power_level_override: CanonicalJsonObject::new(),
        profile: MemberProfile::default(),
    };
    rooms.create_room(creator, request).await.unwrap()
}

pub(crate) async fn join(rooms: &Rooms, user: &UserId, room: &RoomId) {
    rooms.join(user, room, &[], &MemberProfile::default(), None).await.unwrap();
}

/// Sends a text message.
pub(crate) async fn say(rooms: &Rooms, user: &UserId, room: &RoomId, body: &str) -> OwnedEventId {
    send(rooms, user, room, "m.room.message", json!({ "msgtype": "m.text", "body": body })).await
}

pub(crate) async fn send(rooms: &Rooms, user: &UserId, room: &RoomId, kind: &str, content: Value) -> OwnedEventId {
    let content = canonical_content(&content.to_string()).unwrap();
    rooms.send(user, room, EventDraft::message(TimelineEventType::from(kind), content)).await.unwrap().event_id
}

pub(crate) async fn send_state(
    rooms: &Rooms,
    user: &UserId,
    room: &RoomId,
    kind: &str,
    state_key: &str,
    content: Value,
) -> OwnedEventId {
    let content = canonical_content(&content.to_string()).unwrap();
    rooms.send(user, room, EventDraft::state(kind.to_owned(), state_key, content)).await.unwrap().event_id
}

/// Unread counts over these rooms.
pub(crate) fn unread(
    rooms: &Rooms,
    receipts: &Arc<Receipts>,
    account_data: &Arc<AccountData>,
    waiters: &Waiters,
) -> Arc<Unread> {
    Arc::new(Unread::new(
        rooms.clone(),
        receipts.clone(),
        account_data.clone(),
        Arc::new(PushRules::new(rooms.store().clone())),
        Arc::new(Candidates::new(rooms.clone())),
        waiters.clone(),
    ))
}
