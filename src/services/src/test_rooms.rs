//! Rooms in memory for the tests of services: a real room engine on a store in memory, with no network.

use std::{collections::BTreeMap, sync::Arc};

use chappe_protocol::{clock::ManualClock, sign::ServerSigner};
use chappe_rooms::{
    EventDraft, Rooms, RoomsConfig,
    create::{CreateRoom, Preset},
    membership::{MemberProfile, NoProfiles},
    send::canonical_content,
};
use chappe_store::Store;
use ruma::{
    CanonicalJsonObject, OwnedEventId, OwnedRoomId, RoomId, RoomVersionId, ServerSigningKeyId, UserId,
    events::TimelineEventType, owned_server_name,
};
use serde_json::{Value, json};

use crate::{
    account_data::AccountData,
    connector::{Connector, ConnectorConfig, test_server::FakeDns},
    federation::{
        client::FederationClient,
        destinations::Destinations,
        keys::{ServerKeys, ServerKeysConfig},
        remote::FederationRemote,
        resolver::Resolver,
    },
    policy::FederationPolicy,
    push::{evaluate::Candidates, rules::PushRules, unread::Unread},
    receipts::Receipts,
    sync::waiters::Waiters,
};

/// The signer of `there.example`, whose keys are known to [`rooms`].
pub(crate) fn peer() -> ServerSigner {
    ServerSigner::from_seed(owned_server_name!("there.example"), "1", &[8; 32]).unwrap()
}

/// The room engine of `here.example`. No other server is reached: no name is known.
pub(crate) fn rooms(store: &Store, clock: Arc<ManualClock>) -> Rooms {
    let signer = Arc::new(ServerSigner::from_seed(owned_server_name!("here.example"), "1", &[7; 32]).unwrap());
    let policy = Arc::new(FederationPolicy::new(signer.server_name().to_owned(), true, &[], &[]));
    let connector = Connector::with_dns(ConnectorConfig::default(), Arc::new(FakeDns::default())).unwrap();
    let client = FederationClient::new(
        connector.clone(),
        Resolver::new(Arc::new(connector), clock.clone()),
        signer.clone(),
        policy.clone(),
        Destinations::load(store.clone(), clock.clone()).unwrap(),
    );
    let peer = peer();
    let own_keys = &peer.public_keys()[peer.server_name().as_str()];
    let own_keys = own_keys.iter().map(|(id, key)| (ServerSigningKeyId::parse(id).unwrap(), key.as_bytes().to_vec()));
    let config = ServerKeysConfig {
        pinned_keys: BTreeMap::from([(peer.server_name().to_owned(), own_keys.collect())]),
        ..ServerKeysConfig::default()
    };
    let keys = ServerKeys::new(signer.clone(), client.clone(), store.clone(), clock.clone(), config);
    let remote = Arc::new(FederationRemote::new(client, keys));
    Rooms::new(store.clone(), signer, clock, remote, policy, Arc::new(NoProfiles), RoomsConfig::default())
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
