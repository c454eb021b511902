//! A closed federation: wherever the room engine deals with another server, it asks the one policy.

use std::{collections::BTreeSet, sync::Arc};

use chappe_store::{Direction, tables::outgoing::OUTGOING};
use parking_lot::Mutex;
use ruma::{OwnedServerName, RoomVersionId, ServerName, events::StateEventType, server_name};
use serde_json::{Value, json};

use super::network::{Network, bodies, membership, public_room, room_request, text, user};
use crate::{RemoteError, RoomError, Rooms, create::Preset, membership::MemberProfile, remote::FederationGate};

/// Lets in all but some, who may change.
#[derive(Default)]
struct Gate {
    denied: Mutex<BTreeSet<OwnedServerName>>,
    acl: Option<Value>,
}

impl Gate {
    fn deny(&self, server: &Rooms) {
        self.denied.lock().insert(server.server_name().to_owned());
    }
}

impl FederationGate for Gate {
    fn is_allowed(&self, server: &ServerName) -> bool {
        !self.denied.lock().contains(server)
    }

    fn room_acl(&self) -> Option<Value> {
        self.acl.clone()
    }
}

fn gated() -> (Arc<Network>, Arc<Gate>, Rooms, Rooms) {
    let network = Network::new();
    let gate = Arc::new(Gate::default());
    let one = network.add_with_gate("one.example", gate.clone());
    let two = network.add("two.example");
    (network, gate, one, two)
}

async fn join(server: &Rooms, name: &str, room_id: &ruma::RoomId, via: &Rooms) {
    let via = [via.server_name().to_owned()];
    server.join(&user(server, name), room_id, &via, &MemberProfile::default(), None).await.expect("join");
}

fn queued_for(server: &Rooms, to: &ServerName) -> usize {
    server.store().scan(&OUTGOING, &(to.to_owned(),), Direction::Forward).count()
}

#[tokio::test]
async fn users_of_denied_servers_are_not_invited() {
    let (network, gate, one, two) = gated();
    let (alice, bob) = (user(&one, "alice"), user(&two, "bob"));
    let room_id = public_room(&one, &alice, RoomVersionId::V11).await;
    gate.deny(&two);
    assert!(one.invite(&alice, &room_id, &bob, None).await.is_err());
    let mut request = room_request(RoomVersionId::V11, Preset::PrivateChat);
    request.invite = vec![bob];
    assert!(matches!(one.create_room(&alice, request).await, Err(RoomError::Forbidden(_))));
    assert!(network.asked.lock().is_empty(), "nothing went out");
}

#[tokio::test]
async fn invites_of_denied_servers_are_refused() {
    let (_, gate, one, two) = gated();
    let (alice, bob) = (user(&one, "alice"), user(&two, "bob"));
    let room_id = two.create_room(&bob, room_request(RoomVersionId::V11, Preset::PrivateChat)).await.expect("room");
    gate.deny(&two);
    assert!(two.invite(&bob, &room_id, &alice, None).await.is_err());
    assert!(one.get_room_nid(&room_id).expect("read").is_none());
}

#[tokio::test]
async fn rooms_are_not_joined_by_denied_servers() {
    let (network, gate, one, two) = gated();
    let (alice, bob) = (user(&one, "alice"), user(&two, "bob"));
    let room_id = public_room(&two, &bob, RoomVersionId::V11).await;
    gate.deny(&two);
    let via = [two.server_name().to_owned()];
    assert!(one.join(&alice, &room_id, &via, &MemberProfile::default(), None).await.is_err());
    assert!(network.asked.lock().is_empty(), "nothing went out");
}

#[tokio::test]
async fn events_of_denied_servers_are_refused_whoever_brings_them() {
    let (network, gate, one, two) = gated();
    let three = network.add("three.example");
    let alice = user(&one, "alice");
    let room_id = public_room(&one, &alice, RoomVersionId::V11).await;
    join(&two, "bob", &room_id, &one).await;
    join(&three, "carol", &room_id, &one).await;
    network.deliver().await;
    network.set_cut(&one, &three, true);
    let sent = three.send(&user(&three, "carol"), &room_id, text("from carol")).await.expect("send");
    let raw = three.get_event_for_server(two.server_name(), &sent.event_id).expect("event");
    gate.deny(&three);
    let refused = one.receive_pdu(two.server_name(), &room_id, &raw).await;
    assert!(matches!(refused, Err(RoomError::Remote(RemoteError::Denied(_)))), "{refused:?}");
    assert!(bodies(&one, &room_id).is_empty());
}

#[tokio::test]
async fn events_are_not_queued_for_denied_servers() {
    let (network, gate, one, two) = gated();
    let alice = user(&one, "alice");
    let room_id = public_room(&one, &alice, RoomVersionId::V11).await;
    join(&two, "bob", &room_id, &one).await;
    network.deliver().await;
    gate.deny(&two);
    one.send(&alice, &room_id, text("among us")).await.expect("send");
    assert_eq!(queued_for(&one, two.server_name()), 0);
}

#[tokio::test]
async fn history_and_missing_events_are_not_fetched_from_denied_servers() {
    let (network, gate, one, two) = gated();
    let (alice, bob) = (user(&one, "alice"), user(&two, "bob"));
    let room_id = public_room(&two, &bob, RoomVersionId::V11).await;
    two.send(&bob, &room_id, text("before")).await.expect("send");
    join(&one, "alice", &room_id, &two).await;
    network.asked.lock().clear();
    gate.deny(&two);
    let room = one.require_room(&room_id).expect("room");
    let end = (u64::MAX >> 1, chappe_store::Order::LAST);
    assert!(!one.backfill(&room, end, 10).await.expect("backfill"));
    assert!(network.asked.lock().is_empty(), "nobody is asked");
    assert_eq!(membership(&one, &room_id, &alice), "join");
}

#[tokio::test]
async fn new_rooms_get_the_access_list_of_the_federation_unless_their_creator_says_otherwise() {
    let network = Network::new();
    let acl = json!({ "allow": ["*.gouv.example", "one.example"], "deny": [] });
    let gate = Arc::new(Gate { acl: Some(acl.clone()), ..Gate::default() });
    let one = network.add_with_gate("one.example", gate);
    let alice = user(&one, "alice");
    let room_id = public_room(&one, &alice, RoomVersionId::V11).await;
    let room = one.require_room(&room_id).expect("room");
    let stored: Option<Value> = one.get_state_content(room.nid, &StateEventType::RoomServerAcl, "").expect("read");
    assert_eq!(stored, Some(acl));
    assert!(!one.is_server_admitted(room.nid, server_name!("elsewhere.example")).expect("read"));
    assert!(one.is_server_admitted(room.nid, server_name!("A.GOUV.example")).expect("read"), "whatever the case");
}
