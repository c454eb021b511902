use chappe_store::{Batch, Stamped, tables::accounts::ERASED_USERS};
use ruma::RoomVersionId;

use super::network::{Network, public_room, text, user};
use crate::{Rooms, membership::MemberProfile, remote::RawEvents};

fn bodies_of(events: &RawEvents) -> Vec<Option<String>> {
    let event = |raw: &str| serde_json::from_str::<serde_json::Value>(raw).expect("JSON");
    let messages = events.iter().map(|raw| event(raw.get())).filter(|event| event["type"] == "m.room.message");
    messages.map(|event| event["content"]["body"].as_str().map(str::to_owned)).collect()
}

#[tokio::test]
async fn server_that_comes_after_an_erasure_is_given_redacted_messages() {
    let network = Network::new();
    let (one, two, three) = (network.add("one.example"), network.add("two.example"), network.add("three.example"));
    let (alice, carol) = (user(&one, "alice"), user(&one, "carol"));
    let room_id = public_room(&one, &alice, RoomVersionId::V11).await;
    let via = [one.server_name().to_owned()];
    let nobody = MemberProfile::default();
    one.join(&carol, &room_id, &[], &nobody, None).await.expect("join");
    one.send(&alice, &room_id, text("before any other server")).await.expect("send");
    two.join(&user(&two, "bob"), &room_id, &via, &nobody, None).await.expect("join");
    let last = one.send(&alice, &room_id, text("indiscreet")).await.expect("send").event_id;
    let other = one.send(&carol, &room_id, text("mine")).await.expect("send").event_id;

    let mut batch = Batch::new();
    let position = batch.next_position();
    batch.put(&ERASED_USERS, &alice, &Stamped { position, value: () });
    one.store().commit(batch).await.expect("commit");
    three.join(&user(&three, "dora"), &room_id, &via, &nobody, None).await.expect("join");

    let backfill = |server: &Rooms| {
        let found =
            one.get_backfill(server.server_name(), &room_id, std::slice::from_ref(&other), 10).expect("backfill");
        let mut bodies = bodies_of(&found);
        bodies.sort();
        bodies
    };
    let whole = ["before any other server", "indiscreet", "mine"].map(|body| Some(body.to_owned()));
    assert_eq!(backfill(&two), whole, "it was there when the user was erased");
    assert_eq!(backfill(&three), [None, None, Some("mine".to_owned())]);
    let event = |server: &Rooms| one.get_event_for_server(server.server_name(), &last).expect("event");
    assert!(event(&two).get().contains("indiscreet"));
    assert!(!event(&three).get().contains("indiscreet"));
}
