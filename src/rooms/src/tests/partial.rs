//! Joins that leave the members out.

use std::sync::{Arc, atomic::Ordering};

use chappe_store::{
    Direction,
    tables::{
        events::EventStatus,
        partial_rooms::{FETCHED_STATES, PARTIAL_EVENTS, PARTIAL_ROOMS, PARTIAL_SERVERS},
    },
};
use ruma::{OwnedRoomId, OwnedUserId, RoomId, RoomVersionId, UserId, events::StateEventType};
use serde_json::json;

use super::network::{Network, bodies, content, membership, public_room, set_topic, state_of, text, topic, user};
use crate::{
    EventDraft, RoomError, Rooms,
    fsck::{Check, Finding, check_rooms},
    handshake::Wanted,
    membership::MemberProfile,
    send::{integer, references},
    staging::Staging,
};

/// A room on one server with two members there, which a user of another server has joined without being told of them.
struct Joined {
    network: Arc<Network>,
    one: Rooms,
    two: Rooms,
    alice: OwnedUserId,
    carol: OwnedUserId,
    bob: OwnedUserId,
    room_id: OwnedRoomId,
}

async fn join(rooms: &Rooms, user: &UserId, room_id: &RoomId, via: &Rooms) -> Result<(), RoomError> {
    rooms.join(user, room_id, &[via.server_name().to_owned()], &MemberProfile::default(), None).await
}

async fn joined_after(prepare: impl AsyncFnOnce(&Rooms, &OwnedRoomId, &OwnedUserId, &OwnedUserId)) -> Joined {
    let network = Network::new();
    network.omits_members.store(true, Ordering::Relaxed);
    let (one, two) = (network.add("one.example"), network.add("two.example"));
    let (alice, carol, bob) = (user(&one, "alice"), user(&one, "carol"), user(&two, "bob"));
    let room_id = public_room(&one, &alice, RoomVersionId::V11).await;
    join(&one, &carol, &room_id, &one).await.expect("join");
    prepare(&one, &room_id, &alice, &carol).await;
    join(&two, &bob, &room_id, &one).await.expect("join");
    Joined { network, one, two, alice, carol, bob, room_id }
}

async fn joined() -> Joined {
    joined_after(async |_, _, _, _| {}).await
}

impl Joined {
    fn is_partial(&self) -> bool {
        self.two.require_room(&self.room_id).expect("room").record.partial_state
    }

    async fn resync(&self) {
        let room = self.two.require_room(&self.room_id).expect("room");
        self.two.try_resync(room.nid).await.expect("resync");
        assert!(!self.is_partial());
    }

    /// An event with auth events of its sender's choosing, as the first server would send it if it were dishonest.
    fn crooked(&self, sender: &UserId, draft: EventDraft, member: &ruma::EventId) -> Box<serde_json::value::RawValue> {
        let room = self.one.require_room(&self.room_id).expect("room");
        let staging = Staging::begin(&self.one, room.clone()).expect("staging");
        let mut object = staging.template(sender, &draft).expect("template");
        let mut auth_events = vec![member.to_owned()];
        for event_type in [StateEventType::RoomCreate, StateEventType::RoomPowerLevels] {
            let event = self.one.get_state_event(room.nid, &event_type, "").expect("read").expect("event");
            auth_events.push(event.pdu.event_id.clone());
        }
        object.insert("auth_events".to_owned(), references(&room.rules, &auth_events));
        object.insert("origin_server_ts".to_owned(), integer(1_700_000_000_000));
        let event = self.one.sign_new_event(object, &room.rules).expect("event");
        event.to_federation_raw().expect("raw")
    }
}

#[tokio::test]
async fn joiner_is_in_the_room_at_once_and_knows_all_members_after_the_resync() {
    let room = joined().await;
    let Joined { network, one, two, alice, carol, bob, room_id } = &room;
    assert!(room.is_partial());
    assert_eq!(membership(two, room_id, bob), "join");
    assert_eq!(membership(two, room_id, carol), "leave", "nobody has told of her");
    let nid = two.get_room_nid(room_id).expect("read").expect("room");
    assert!(two.is_server_joined(nid, one.server_name()).expect("read"));

    two.send(bob, room_id, text("from two")).await.expect("send");
    one.send(carol, room_id, text("from one")).await.expect("send");
    network.deliver().await;
    assert!(bodies(one, room_id).contains(&"from two".to_owned()));
    assert!(bodies(two, room_id).contains(&"from one".to_owned()));

    room.resync().await;
    assert_eq!(state_of(one, room_id), state_of(two, room_id));
    assert_eq!(membership(two, room_id, carol), "join");
    assert_eq!(two.get_joined_count(nid).expect("read"), 3);
    assert_eq!(two.store().scan(&PARTIAL_ROOMS, &(), Direction::Forward).count(), 0);
    assert_eq!(two.store().scan(&PARTIAL_SERVERS, &(), Direction::Forward).count(), 0);
    assert_eq!(two.store().scan(&PARTIAL_EVENTS, &(), Direction::Forward).count(), 0);
    assert_eq!(two.store().scan(&FETCHED_STATES, &(), Direction::Forward).count(), 0);
    assert_eq!(two.scan_finished_resyncs().count(), 1);

    one.send(alice, room_id, text("afterwards")).await.expect("send");
    network.deliver().await;
    assert!(bodies(two, room_id).contains(&"afterwards".to_owned()));
    assert_eq!(two.require_room(room_id).expect("room").record.forward_extremities.len(), 1);
}

#[tokio::test]
async fn event_that_is_being_taken_in_while_the_members_become_known_is_judged_by_all_of_them() {
    let room = joined().await;
    let Joined { network, one, two, carol, room_id, .. } = &room;
    one.send(carol, room_id, text("before")).await.expect("send");
    // Its sender is not known here, so that the event must wait for its auth events.
    let (asked, answer) = network.hold("event_auth");
    let delivering = tokio::spawn({
        let network = network.clone();
        async move { network.deliver().await }
    });
    asked.await.expect("asked");
    room.resync().await;
    answer.send(()).expect("waited for");
    delivering.await.expect("delivered");
    one.send(carol, room_id, text("after")).await.expect("send");
    network.deliver().await;
    assert_eq!(bodies(two, room_id), ["before", "after"]);
    assert_eq!(state_of(one, room_id), state_of(two, room_id));
}

#[tokio::test]
async fn nobody_is_let_in_by_a_server_that_does_not_know_the_members() {
    let room = joined().await;
    let three = room.network.add("three.example");
    let dora = user(&three, "dora");
    for wanted in [Wanted::Join, Wanted::Knock] {
        let versions = [RoomVersionId::V11];
        let answer = room.two.make_membership(three.server_name(), &room.room_id, &dora, wanted, Some(&versions)).await;
        assert!(matches!(answer, Err(RoomError::NotFound(_))));
    }
    assert!(join(&three, &dora, &room.room_id, &room.two).await.is_err());
    room.resync().await;
    join(&three, &dora, &room.room_id, &room.two).await.expect("join");
}

#[tokio::test]
async fn resync_is_tried_again_and_asks_the_other_servers_of_the_room() {
    let network = Network::new();
    network.omits_members.store(true, Ordering::Relaxed);
    let (one, two, three) = (network.add("one.example"), network.add("two.example"), network.add("three.example"));
    let (alice, bob, dora) = (user(&one, "alice"), user(&two, "bob"), user(&three, "dora"));
    let room_id = public_room(&one, &alice, RoomVersionId::V12).await;
    join(&three, &dora, &room_id, &one).await.expect("join");
    let nid = three.get_room_nid(&room_id).expect("read").expect("room");
    three.try_resync(nid).await.expect("resync");
    join(&two, &bob, &room_id, &one).await.expect("join");
    network.deliver().await;
    let nid = two.get_room_nid(&room_id).expect("read").expect("room");
    network.set_down(&one, true);
    network.set_down(&three, true);
    assert!(two.try_resync(nid).await.is_err());
    assert!(two.require_room(&room_id).expect("room").record.partial_state);

    network.set_down(&three, false);
    two.send(&bob, &room_id, text("to all")).await.expect("send");
    network.deliver().await;
    assert!(bodies(&three, &room_id).contains(&"to all".to_owned()), "by the word of the first server");
    two.try_resync(nid).await.expect("resync");
    assert_eq!(state_of(&two, &room_id), state_of(&three, &room_id));
}

#[tokio::test]
async fn state_accepted_by_mistake_is_taken_back() {
    let room = joined_after(async |one, room_id, alice, carol| {
        let levels = json!({ "users": { alice.as_str(): 100, carol.as_str(): 50 } });
        one.send(alice, room_id, EventDraft::state("m.room.power_levels", "", content(levels))).await.expect("send");
        one.leave(carol, room_id, None).await.expect("leave");
    })
    .await;
    let Joined { one, two, alice, carol, room_id, .. } = &room;
    let left = one.get_state_event(
        one.get_room_nid(room_id).expect("read").expect("room"),
        &StateEventType::RoomMember,
        carol.as_str(),
    );
    let left = left.expect("read").expect("event");
    let joined = left.record.auth_events.iter().find_map(|nid| {
        let event = one.get_event_by_nid(*nid).expect("read")?;
        (event.pdu.state_key() == Some(carol.as_str())).then(|| event.pdu.event_id.clone())
    });
    let raw = room.crooked(carol, set_topic("taken over"), &joined.expect("join"));
    two.receive_pdu(one.server_name(), room_id, &raw).await.expect("receive");
    assert_eq!(topic(two, room_id).as_deref(), Some("taken over"), "nothing is known of her having left");
    one.send(alice, room_id, text("next")).await.expect("send");
    room.network.deliver().await;

    room.resync().await;
    assert_eq!(topic(two, room_id), None);
    assert_eq!(state_of(one, room_id), state_of(two, room_id));
    let nid = two.get_room_nid(room_id).expect("read").expect("room");
    let refused = two.store().scan(&chappe_store::tables::events::EVENTS, &(), Direction::Forward);
    let refused = refused.filter(|row| row.as_ref().is_ok_and(|(_, event)| event.status == EventStatus::Rejected));
    assert_eq!(refused.count(), 1);
    assert!(two.require_room(room_id).expect("room").record.forward_extremities.len() == 1, "in room {nid}");
}

#[tokio::test]
async fn users_leave_and_join_while_members_are_not_known() {
    let room = joined().await;
    let Joined { network, one, two, alice, bob, room_id, .. } = &room;
    let (dave, eve) = (user(two, "dave"), user(two, "eve"));
    one.ban(alice, room_id, &eve, None).await.expect("ban");
    join(two, &dave, room_id, one).await.expect("join");
    assert!(join(two, &eve, room_id, one).await.is_err(), "others know that she is banned");
    two.leave(bob, room_id, None).await.expect("leave");
    two.leave(&dave, room_id, None).await.expect("leave");
    network.deliver().await;
    assert_eq!(membership(one, room_id, &dave), "leave");
    assert!(room.is_partial());
    join(two, bob, room_id, one).await.expect("join again");
    assert!(room.is_partial());
    network.deliver().await;
    room.resync().await;
    assert_eq!(state_of(one, room_id), state_of(two, room_id));
    assert_eq!(membership(two, room_id, &eve), "ban");
}

#[tokio::test]
async fn who_needs_all_members_waits_for_them() {
    let room = joined().await;
    let Joined { network, one, two, bob, carol, room_id, .. } = &room;
    let waiting = tokio::spawn({
        let (two, room_id) = (two.clone(), room_id.clone());
        async move { two.await_members(&room_id).await }
    });
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    two.await_member(room_id, bob).await.expect("a user of its own");
    // A kick needs to know whom it is of.
    let levels = json!({ "users": { bob.as_str(): 50, room.alice.as_str(): 100 } });
    one.send(&room.alice, room_id, EventDraft::state("m.room.power_levels", "", content(levels))).await.expect("send");
    network.deliver().await;
    let kicking = tokio::spawn({
        let (two, room_id, bob, carol) = (two.clone(), room_id.clone(), bob.clone(), carol.clone());
        async move { two.kick(&bob, &room_id, &carol, None).await }
    });
    tokio::task::yield_now().await;
    room.resync().await;
    waiting.await.expect("task").expect("members");
    kicking.await.expect("task").expect("kick");
    assert_eq!(membership(two, room_id, carol), "leave");
}

#[tokio::test]
async fn server_that_has_left_gives_the_resync_up() {
    let room = joined().await;
    let Joined { network, one, two, bob, room_id, .. } = &room;
    two.leave(bob, room_id, None).await.expect("leave");
    network.deliver().await;
    network.set_down(one, true);
    room.resync().await;
    network.set_down(one, false);
    join(two, bob, room_id, one).await.expect("join again");
    room.resync().await;
    assert_eq!(state_of(one, room_id), state_of(two, room_id));
}

#[tokio::test]
async fn server_that_left_before_it_knew_the_members_tells_nobody_the_state() {
    let room = joined().await;
    let Joined { network, one, two, bob, room_id, .. } = &room;
    let nid = two.get_room_nid(room_id).expect("read").expect("room");
    let join = two.get_state_event(nid, &StateEventType::RoomMember, bob.as_str()).expect("read").expect("join");
    two.leave(bob, room_id, None).await.expect("leave");
    network.deliver().await;
    network.set_down(one, true);
    room.resync().await;
    network.set_down(one, false);
    let told = two.get_state_for_server(one.server_name(), room_id, &join.pdu.event_id);
    assert!(matches!(told, Err(RoomError::Forbidden(_))));
}

fn findings(rooms: &Rooms) -> Vec<String> {
    let mut found = Vec::new();
    let mut note = |finding: Finding| found.push(finding.to_string());
    check_rooms(&mut Check::new(rooms.store(), rooms.server_name(), &mut note));
    found
}

/// A room whose members' rows are in part there already when its server starts anew.
async fn joined_and_restarted_in_between() -> Joined {
    let mut room = joined_after(async |one, room_id, _, _| {
        for n in 0..40 {
            join(one, &user(one, &format!("member{n}")), room_id, one).await.expect("join");
        }
    })
    .await;
    let nid = room.two.get_room_nid(&room.room_id).expect("read").expect("room");
    let whole = room.one.get_joined_count(nid).expect("read");
    let known = room.two.get_joined_count(nid).expect("read");
    // The state that a resync that broke off had fetched and stored.
    let join = room.two.get_state_event(nid, &StateEventType::RoomMember, room.bob.as_str()).expect("read");
    let prev = join.expect("event").pdu.prev_events[0].clone();
    let of_two = Arc::new(room.two.require_room(&room.room_id).expect("room"));
    room.two.fetch_whole_state_of(&of_two, &prev).await.expect("state");
    let root = room.two.get_fetched_state(nid, &prev).expect("read").expect("state");
    let mut lacking = room.two.lacking_rows(nid, root).expect("rows");
    lacking.truncate(15);
    let ticket = room.two.put_rows_piece(&room.room_id, lacking).expect("written");
    ticket.expect("something to write").durable().await.expect("durable");
    assert_eq!(room.two.get_joined_count(nid).expect("read"), known + 15);
    assert!(known + 15 < whole && room.is_partial());
    room.two = room.network.restart(&room.two);
    assert_eq!(findings(&room.two), Vec::<String>::new());
    room
}

#[tokio::test]
async fn resync_goes_on_after_a_restart_from_the_rows_that_are_there() {
    let room = joined_and_restarted_in_between().await;
    let Joined { network, one, two, alice, room_id, .. } = &room;
    let nid = two.get_room_nid(room_id).expect("read").expect("room");
    let leaver = user(one, "member7");
    one.leave(&leaver, room_id, None).await.expect("leave");
    one.ban(alice, room_id, &user(one, "member8"), None).await.expect("ban");
    network.deliver().await;
    assert_eq!(findings(two), Vec::<String>::new());
    room.resync().await;
    assert_eq!(state_of(one, room_id), state_of(two, room_id));
    assert_eq!(membership(two, room_id, &leaver), "leave");
    assert_eq!(two.get_joined_count(nid).expect("read"), one.get_joined_count(nid).expect("read"));
    assert_eq!(findings(two), Vec::<String>::new());
}

#[tokio::test]
async fn rows_written_ahead_go_when_the_resync_is_given_up() {
    let room = joined_and_restarted_in_between().await;
    let Joined { network, one, two, bob, room_id, .. } = &room;
    let nid = two.get_room_nid(room_id).expect("read").expect("room");
    let in_state = two.get_current_state(nid).expect("state").len() - 15;
    two.leave(bob, room_id, None).await.expect("leave");
    network.deliver().await;
    let of_two = two.require_room(room_id).expect("room");
    two.abandon_resync(&of_two).await.expect("given up");
    assert!(!room.is_partial());
    assert_eq!(two.get_current_state(nid).expect("state").len(), in_state, "nothing says so any more");
    assert_eq!(findings(two), Vec::<String>::new());
    join(two, bob, room_id, one).await.expect("join again");
    room.resync().await;
    assert_eq!(state_of(one, room_id), state_of(two, room_id));
    assert_eq!(findings(two), Vec::<String>::new());
}

/// Prints what joining a large room costs. `MEMBERS` says how large (20,000); run it alone, with `--ignored --nocapture`.
#[tokio::test]
#[ignore = "takes minutes, and prints figures rather than checking any"]
async fn large_room_is_joined_in_moments() {
    fn memory_mb(field: &str) -> u64 {
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let line = status.lines().find(|line| line.starts_with(field)).unwrap_or_default();
        line.split_whitespace().nth(1).and_then(|kb| kb.parse::<u64>().ok()).unwrap_or_default() / 1024
    }
    let members = std::env::var("MEMBERS").ok().and_then(|members| members.parse().ok()).unwrap_or(20_000);
    let network = Network::new();
    network.omits_members.store(true, Ordering::Relaxed);
    let (one, two) = (network.add("one.example"), network.add("two.example"));
    let (alice, bob) = (user(&one, "alice"), user(&two, "bob"));
    let room_id = public_room(&one, &alice, RoomVersionId::V11).await;
    for n in 0..members {
        join(&one, &user(&one, &format!("member{n}")), &room_id, &one).await.expect("join");
    }
    let before_mb = memory_mb("VmRSS");
    let start = std::time::Instant::now();
    join(&two, &bob, &room_id, &one).await.expect("join");
    let (answered, answered_mb) = (start.elapsed(), memory_mb("VmRSS"));
    let nid = two.get_room_nid(&room_id).expect("read").expect("room");
    two.try_resync(nid).await.expect("resync");
    println!(
        "{members} members: in the room after {answered:?}, all members known after {:?}; \
         memory {before_mb} MB before, {answered_mb} MB when answered, {} MB at the end, {} MB at the most",
        start.elapsed(),
        memory_mb("VmRSS"),
        memory_mb("VmHWM"),
    );
    assert_eq!(two.get_joined_count(nid).expect("read"), members + 2);
}
