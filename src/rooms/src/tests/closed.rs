//! A closed federation: wherever the room engine deals with another server, it asks the one policy.

use std::{collections::BTreeSet, sync::Arc};

use chappe_protocol::sign::ServerSigner;
use chappe_store::{Direction, tables::outgoing::OUTGOING};
use parking_lot::Mutex;
use ruma::{
    MilliSecondsSinceUnixEpoch, OwnedRoomId, OwnedServerName, RoomVersionId, ServerName, api::Direction as Paging,
    events::StateEventType, server_name,
};
use serde_json::{Value, json};

use super::network::{
    Network, POLICY_SEED, bodies, content, membership, public_room, room_request, state_of, text, user,
};
use crate::{
    EventDraft, RemoteError, RoomError, Rooms, backfill::Backfilled, create::Preset, membership::MemberProfile,
    remote::FederationGate, third_party::ThirdPartySigned,
};

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
    assert_eq!(one.backfill(&room, end, 10).await.expect("backfill"), Backfilled::Nothing);
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

/// A server with a policy that has come to deny another one, with which it has had everything to do that there is.
struct Estranged {
    network: Arc<Network>,
    one: Rooms,
    two: Rooms,
    /// Of the other server, joined by alice.
    shared: OwnedRoomId,
    /// Of the other server, alice is invited.
    invited: OwnedRoomId,
    /// Of the other server, unknown here.
    unknown: OwnedRoomId,
}

async fn estranged(omits_members: bool) -> Estranged {
    let (network, gate, one, two) = gated();
    network.omits_members.store(omits_members, std::sync::atomic::Ordering::Relaxed);
    let (alice, bob) = (user(&one, "alice"), user(&two, "bob"));
    let shared = public_room(&two, &bob, RoomVersionId::V11).await;
    two.send(&bob, &shared, text("before")).await.expect("send");
    join(&one, "alice", &shared, &two).await;
    let invited = two.create_room(&bob, room_request(RoomVersionId::V11, Preset::PrivateChat)).await.expect("room");
    two.invite(&bob, &invited, &alice, None).await.expect("invite");
    let unknown = public_room(&two, &bob, RoomVersionId::V11).await;
    network.deliver().await;
    network.asked.lock().clear();
    gate.deny(&two);
    Estranged { network, one, two, shared, invited, unknown }
}

impl Estranged {
    fn check_silent(&self, what: &str) {
        let asked = std::mem::take(&mut *self.network.asked.lock());
        assert!(asked.is_empty(), "{what}: {asked:?} went out");
    }
}

#[tokio::test]
async fn denied_servers_are_asked_nothing_whatever_users_do() {
    let setting = estranged(false).await;
    let Estranged { one, two, shared, invited, unknown, .. } = &setting;
    let (alice, bob) = (user(one, "alice"), user(two, "bob"));
    let via = [two.server_name().to_owned()];
    let profile = MemberProfile::default();
    let is_denied = |outcome: Result<(), RoomError>| {
        matches!(outcome, Err(RoomError::Forbidden(_) | RoomError::Remote(RemoteError::Denied(_))))
    };

    assert!(is_denied(one.join(&alice, unknown, &via, &profile, None).await));
    setting.check_silent("join by the servers named");
    assert!(is_denied(one.join(&alice, unknown, &[], &profile, None).await));
    setting.check_silent("join by the server in the room id");
    assert!(is_denied(one.join(&alice, invited, &[], &profile, None).await));
    setting.check_silent("join by who invited");
    assert!(is_denied(one.knock(&alice, unknown, &via, &profile, None).await));
    setting.check_silent("knock");

    let signer = ServerSigner::from_seed(server_name!("id.example").to_owned(), "0", &[9; 32]).expect("signer");
    let mut signed = content(json!({ "mxid": alice, "sender": bob, "token": "t" }));
    signer.sign_json(&mut signed).expect("signed");
    let signed = ThirdPartySigned::read(signed, None).expect("word");
    assert!(is_denied(one.accept_third_party_invite(&alice, unknown, &signed).await));
    setting.check_silent("third-party exchange");

    one.leave(&alice, invited, None).await.expect("the user is out of it all the same");
    setting.check_silent("declined invite");
    assert_eq!(membership(one, invited, &alice), "leave");

    let room = one.require_room(shared).expect("room");
    let end = (u64::MAX >> 1, chappe_store::Order::LAST);
    assert_eq!(one.backfill(&room, end, 10).await.expect("backfill"), Backfilled::Nothing);
    setting.check_silent("backfill");
    let long_ago = MilliSecondsSinceUnixEpoch(ruma::uint!(1));
    one.get_visible_event_by_time(&room, &alice, long_ago, Paging::Forward).await.expect("look");
    setting.check_silent("event of a time");
    one.retry_left_out().await.expect("retry");
    setting.check_silent("events left out");

    one.send(&alice, shared, text("among us")).await.expect("send");
    one.leave(&alice, shared, None).await.expect("leave");
    assert_eq!(queued_for(one, two.server_name()), 0);
    setting.check_silent("message and leave");
}

#[tokio::test]
async fn denied_servers_are_not_asked_for_the_members_of_a_room() {
    let setting = estranged(true).await;
    let room = setting.one.require_room(&setting.shared).expect("room");
    assert!(room.record.partial_state);
    assert!(setting.one.try_resync(room.nid).await.is_err());
    setting.check_silent("resync");
}

#[tokio::test]
async fn denied_policy_servers_are_not_asked() {
    let (network, gate, one, two) = gated();
    let (alice, bob) = (user(&one, "alice"), user(&two, "bob"));
    let room_id = public_room(&one, &alice, RoomVersionId::V11).await;
    join(&two, "bob", &room_id, &one).await;
    let key = ServerSigner::from_seed(two.server_name().to_owned(), "policy_server", &POLICY_SEED).expect("signer");
    let chosen = json!({ "via": two.server_name(), "public_keys": { "ed25519": key.verify_key_base64() } });
    one.send(&alice, &room_id, EventDraft::state("m.room.policy".to_owned(), "", content(chosen))).await.expect("send");
    network.asked.lock().clear();
    gate.deny(&two);
    let refused = one.send(&alice, &room_id, text("hello")).await;
    assert!(matches!(refused, Err(RoomError::Remote(RemoteError::Denied(_)))), "{refused:?}");
    assert!(one.invite(&alice, &room_id, &bob, None).await.is_err());
    assert!(network.asked.lock().is_empty());
}

#[tokio::test]
async fn members_of_denied_servers_do_not_come_with_the_state_of_a_room() {
    let (network, gate, one, two) = gated();
    let three = network.add("three.example");
    let bob = user(&two, "bob");
    let room_id = public_room(&two, &bob, RoomVersionId::V11).await;
    join(&three, "carol", &room_id, &two).await;
    network.deliver().await;
    gate.deny(&three);
    join(&one, "alice", &room_id, &two).await;
    let nid = one.get_room_nid(&room_id).expect("read").expect("room");
    assert!(!one.is_server_joined(nid, three.server_name()).expect("read"));
    let member = ("m.room.member".to_owned(), "@carol:three.example".to_owned());
    assert!(!state_of(&one, &room_id).contains_key(&member));
}

#[tokio::test]
async fn events_that_follow_those_of_a_denied_server_are_taken_in() {
    let (network, gate, one, two) = gated();
    let three = network.add("three.example");
    let (bob, carol) = (user(&two, "bob"), user(&three, "carol"));
    let room_id = public_room(&two, &bob, RoomVersionId::V11).await;
    join(&one, "alice", &room_id, &two).await;
    join(&three, "carol", &room_id, &two).await;
    network.deliver().await;
    gate.deny(&three);
    network.set_cut(&one, &three, true);
    three.send(&carol, &room_id, text("from carol")).await.expect("send");
    network.deliver().await;
    two.send(&bob, &room_id, text("first")).await.expect("send");
    two.send(&bob, &room_id, text("second")).await.expect("send");
    network.deliver().await;
    assert_eq!(bodies(&two, &room_id), ["from carol", "first", "second"]);
    assert_eq!(bodies(&one, &room_id), ["first", "second"]);

    // Also as history, and for who joins late.
    let four = network.add_with_gate("four.example", gate);
    join(&four, "dora", &room_id, &two).await;
    let room = four.require_room(&room_id).expect("room");
    let end = (u64::MAX >> 1, chappe_store::Order::LAST);
    assert_eq!(four.backfill(&room, end, 10).await.expect("backfill"), Backfilled::New);
    two.send(&bob, &room_id, text("third")).await.expect("send");
    network.deliver().await;
    assert_eq!(bodies(&four, &room_id), ["third"]);
    assert_eq!(bodies(&one, &room_id), ["first", "second", "third"]);
}
