use std::{sync::Arc, time::Duration};

use chappe_protocol::clock::ManualClock;
use chappe_rooms::{Rooms, create::Preset};
use chappe_store::{
    Batch, Direction, Store,
    tables::events::{BACKFILL_LOG, EVENT_LOG},
};
use ruma::{
    OwnedEventId, OwnedRoomId, RoomId, UserId,
    api::client::search::search_events::v3::{EventContext, GroupingKey, OrderBy, SearchKeys},
    uint, user_id,
};
use serde_json::json;

use super::{GroupKey, Search, SearchError, SearchIndex, SearchRequest, SearchResults};
use crate::test_rooms::{self, join, say, send_state};

fn rooms() -> Rooms {
    test_rooms::rooms(&Store::in_memory(), Arc::new(ManualClock::new(1_700_000_000_000)))
}

fn start(rooms: &Rooms, index: SearchIndex) -> Arc<Search> {
    let search = Arc::new(Search::new(rooms.clone(), Some(index)));
    tokio::spawn(search.clone().run());
    search
}

fn request(term: &str) -> SearchRequest {
    SearchRequest {
        term: term.to_owned(),
        keys: None,
        filter: Default::default(),
        order: Some(OrderBy::Recent),
        context: None,
        include_state: false,
        group_by: Vec::new(),
        ignored: Default::default(),
        next_batch: None,
    }
}

fn ids(results: &SearchResults) -> Vec<OwnedEventId> {
    results.hits.iter().map(|hit| hit.event.pdu.event_id.clone()).collect()
}

async fn found(search: &Search, user: &UserId, term: &str) -> Vec<OwnedEventId> {
    ids(&search.search(user, request(term)).await.unwrap())
}

async fn room_of(rooms: &Rooms, user: &UserId) -> OwnedRoomId {
    test_rooms::create(rooms, user, Preset::PublicChat).await
}

async fn redact(rooms: &Rooms, user: &UserId, room: &RoomId, target: &OwnedEventId) {
    rooms.redact(user, room, target, None, None).await.unwrap();
}

#[tokio::test]
async fn what_was_just_said_is_found_whatever_its_accents() {
    let rooms = rooms();
    let search = start(&rooms, SearchIndex::in_memory().unwrap());
    let alice = user_id!("@alice:here.example");
    let room = room_of(&rooms, alice).await;
    let said = say(&rooms, alice, &room, "Rendez-vous à l'École, cet été").await;
    say(&rooms, alice, &room, "autre chose").await;
    for term in ["ecole", "École été", "l'ecole", "rendez-vous ETE"] {
        assert_eq!(found(&search, alice, term).await, std::slice::from_ref(&said), "{term}");
    }
    for term in ["ecoles", "école hiver", "vous-rendez", "  ", "!?"] {
        assert!(found(&search, alice, term).await.is_empty(), "{term}");
    }
}

#[tokio::test]
async fn only_what_the_user_may_see_is_found_and_counted() {
    let rooms = rooms();
    let search = start(&rooms, SearchIndex::in_memory().unwrap());
    let (alice, bob) = (user_id!("@alice:here.example"), user_id!("@bob:here.example"));
    let room = room_of(&rooms, alice).await;
    let content = json!({ "history_visibility": "joined" });
    send_state(&rooms, alice, &room, "m.room.history_visibility", "", content).await;
    say(&rooms, alice, &room, "secret before").await;
    assert!(found(&search, bob, "secret").await.is_empty(), "a stranger to the room");
    join(&rooms, bob, &room).await;
    let seen = say(&rooms, alice, &room, "secret meanwhile").await;
    rooms.leave(bob, &room, None).await.unwrap();
    say(&rooms, alice, &room, "secret afterwards").await;
    let results = search.search(bob, request("secret")).await.unwrap();
    assert_eq!((ids(&results), results.count), (vec![seen], 1));
    rooms.forget(bob, &room).await.unwrap();
    assert!(found(&search, bob, "secret").await.is_empty(), "a forgotten room");
    assert_eq!(found(&search, alice, "secret").await.len(), 3);
}

#[tokio::test]
async fn redacted_events_are_not_found_in_any_order() {
    let rooms = rooms();
    let search = start(&rooms, SearchIndex::in_memory().unwrap());
    let alice = user_id!("@alice:here.example");
    let room = room_of(&rooms, alice).await;
    let redacted = say(&rooms, alice, &room, "common word").await;
    let kept = say(&rooms, alice, &room, "another common word").await;
    assert_eq!(found(&search, alice, "common").await.len(), 2);
    redact(&rooms, alice, &room, &redacted).await;
    for order in [OrderBy::Recent, OrderBy::Rank] {
        let results = search.search(alice, SearchRequest { order: Some(order), ..request("common") }).await.unwrap();
        assert_eq!((ids(&results), results.count), (vec![kept.clone()], 1));
    }
}

#[tokio::test]
async fn pages_follow_each_other_to_the_end_in_both_orders() {
    let rooms = rooms();
    let search = start(&rooms, SearchIndex::in_memory().unwrap());
    let alice = user_id!("@alice:here.example");
    let room = room_of(&rooms, alice).await;
    let mut said = Vec::new();
    for number in 0..7 {
        said.push(say(&rooms, alice, &room, &format!("message number {number}")).await);
    }
    said.reverse();
    for order in [OrderBy::Recent, OrderBy::Rank] {
        let mut request = SearchRequest { order: Some(order), ..request("message") };
        request.filter.limit = Some(uint!(3));
        let mut pages = Vec::new();
        loop {
            let results = search.search(alice, request.clone()).await.unwrap();
            assert_eq!(results.count, 7, "the count is of all pages");
            pages.push(ids(&results));
            // What comes later does not move the pages.
            say(&rooms, alice, &room, "one more message").await;
            match results.next_batch {
                Some(next) => request.next_batch = Some(next),
                None => break,
            }
        }
        assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), [3, 3, 1]);
        let mut all = pages.concat();
        all.sort();
        let mut expected = said.clone();
        expected.sort();
        assert_eq!(all, expected);
        for event in rooms_newer_than(&rooms, &room, &said[0]).await {
            redact(&rooms, alice, &room, &event).await;
        }
    }
    let wrong = SearchRequest { next_batch: Some("nonsense".to_owned()), ..request("message") };
    assert!(matches!(search.search(alice, wrong).await, Err(SearchError::Invalid(_))));
}

/// The events of a room after one.
async fn rooms_newer_than(rooms: &Rooms, room: &RoomId, event: &OwnedEventId) -> Vec<OwnedEventId> {
    let room = rooms.get_room(room).unwrap().unwrap();
    let event = rooms.get_event(event).unwrap().unwrap();
    let place = rooms.get_place(&event).unwrap().unwrap();
    let page = rooms.get_page(room.nid, place, Direction::Forward, 100).unwrap();
    page.into_iter().map(|(_, event)| event.pdu.event_id.clone()).collect()
}

#[tokio::test]
async fn names_and_topics_are_found_by_their_keys() {
    let rooms = rooms();
    let search = start(&rooms, SearchIndex::in_memory().unwrap());
    let alice = user_id!("@alice:here.example");
    let room = room_of(&rooms, alice).await;
    let name = send_state(&rooms, alice, &room, "m.room.name", "", json!({ "name": "budget" })).await;
    let block = json!({ "topic": "old", "m.topic": { "m.text": [{ "body": "<b>x</b>", "mimetype": "text/html" }, { "body": "budget" }] } });
    let topic = send_state(&rooms, alice, &room, "m.room.topic", "", block).await;
    let body = say(&rooms, alice, &room, "budget").await;
    let by = |key: SearchKeys| SearchRequest { keys: Some(vec![key]), ..request("budget") };
    for (key, expected) in
        [(SearchKeys::ContentBody, &body), (SearchKeys::ContentName, &name), (SearchKeys::ContentTopic, &topic)]
    {
        assert_eq!(ids(&search.search(alice, by(key)).await.unwrap()), std::slice::from_ref(expected));
    }
    assert_eq!(found(&search, alice, "budget").await, [body, topic, name]);
    let unknown = search.search(alice, by(SearchKeys::from("content.other"))).await;
    assert!(matches!(unknown, Err(SearchError::Invalid(_))));
}

#[tokio::test]
async fn filters_groups_and_context_are_as_asked() {
    let rooms = rooms();
    let search = start(&rooms, SearchIndex::in_memory().unwrap());
    let (alice, bob) = (user_id!("@alice:here.example"), user_id!("@bob:here.example"));
    let (one, two) = (room_of(&rooms, alice).await, room_of(&rooms, alice).await);
    join(&rooms, bob, &one).await;
    let a1 = say(&rooms, alice, &one, "hello a1").await;
    let b1 = say(&rooms, bob, &one, "hello b1").await;
    let after = say(&rooms, bob, &one, "something else").await;
    let a2 = say(&rooms, alice, &two, "hello a2").await;

    let mut only_bob = request("hello");
    only_bob.filter.senders = Some(vec![bob.to_owned()]);
    assert_eq!(ids(&search.search(alice, only_bob).await.unwrap()), std::slice::from_ref(&b1));
    let ignoring = SearchRequest { ignored: [bob.to_owned()].into(), ..request("hello") };
    assert_eq!(ids(&search.search(alice, ignoring).await.unwrap()), [a2.clone(), a1.clone()]);
    let mut not_one = request("hello");
    not_one.filter.not_rooms = vec![one.clone()];
    assert_eq!(ids(&search.search(alice, not_one).await.unwrap()), std::slice::from_ref(&a2));
    let mut other_types = request("hello");
    other_types.filter.not_types = vec!["m.room.*".to_owned()];
    assert_eq!(search.search(alice, other_types).await.unwrap().count, 0);

    let mut grouped = request("hello");
    grouped.group_by = vec![GroupingKey::RoomId, GroupingKey::Sender];
    grouped.filter.limit = Some(uint!(2));
    let results = search.search(alice, grouped.clone()).await.unwrap();
    assert_eq!(ids(&results), [a2, b1.clone()]);
    let by_room = &results.groups[&GroupKey::RoomId];
    assert_eq!((by_room.len(), by_room[two.as_str()].order, by_room[one.as_str()].order), (2, 0, 1));
    grouped.next_batch = by_room[one.as_str()].next_batch.clone();
    assert_eq!(ids(&search.search(alice, grouped).await.unwrap()), std::slice::from_ref(&a1), "more of that room only");

    let mut context = EventContext::new();
    context.before_limit = uint!(1);
    context.after_limit = uint!(1);
    context.include_profile = true;
    let around = SearchRequest { context: Some(context), include_state: true, ..request("b1") };
    let results = search.search(alice, around).await.unwrap();
    let context = results.hits[0].context.as_ref().unwrap();
    let ids =
        |events: &[Arc<chappe_rooms::Event>]| events.iter().map(|event| event.pdu.event_id.clone()).collect::<Vec<_>>();
    assert_eq!((ids(&context.events_before), ids(&context.events_after)), (vec![a1], vec![after]));
    assert!(context.profiles.contains_key(bob) && context.profiles.contains_key(alice));
    assert!(results.state[&one].iter().any(|event| event.pdu.kind.to_string() == "m.room.create"));
    assert_eq!(results.highlights.iter().collect::<Vec<_>>(), ["b1"]);
}

#[tokio::test]
async fn index_goes_on_where_it_stopped_and_a_lost_one_is_filled_again() {
    let rooms = rooms();
    let folder = tempfile::tempdir().unwrap();
    let alice = user_id!("@alice:here.example");
    let room = room_of(&rooms, alice).await;
    let first = say(&rooms, alice, &room, "found again").await;
    let search = Arc::new(Search::new(rooms.clone(), Some(SearchIndex::open(folder.path()).unwrap())));
    let running = tokio::spawn(search.clone().run());
    assert_eq!(found(&search, alice, "again").await, std::slice::from_ref(&first));
    running.abort();
    assert!(running.await.is_err_and(|error| error.is_cancelled()));
    drop(search);

    let second = say(&rooms, alice, &room, "found again, later").await;
    let search = Arc::new(Search::new(rooms.clone(), Some(SearchIndex::open(folder.path()).unwrap())));
    let running = tokio::spawn(search.clone().run());
    assert_eq!(found(&search, alice, "again").await, [second.clone(), first.clone()]);
    running.abort();
    assert!(running.await.is_err_and(|error| error.is_cancelled()));
    drop(search);

    std::fs::write(folder.path().join("meta.json"), "damaged").unwrap();
    let search = start(&rooms, SearchIndex::open(folder.path()).unwrap());
    assert_eq!(found(&search, alice, "again").await, [second, first]);
}

#[tokio::test]
async fn history_is_found_behind_what_came_live() {
    let rooms = rooms();
    let alice = user_id!("@alice:here.example");
    let room = room_of(&rooms, alice).await;
    let old = [say(&rooms, alice, &room, "of old").await, say(&rooms, alice, &room, "of old too").await];
    // As if they had been backfilled.
    let mut batch = Batch::new();
    for row in rooms.store().scan(&EVENT_LOG, &(), Direction::Forward) {
        let (position, nid) = row.unwrap();
        if old.contains(&rooms.get_event_by_nid(nid).unwrap().unwrap().pdu.event_id) {
            batch.delete(&EVENT_LOG, &position);
            batch.put(&BACKFILL_LOG, &position, &nid);
        }
    }
    rooms.store().commit(batch).await.unwrap();
    let new = say(&rooms, alice, &room, "not so old").await;
    let search = start(&rooms, SearchIndex::in_memory().unwrap());
    // No search waits for history.
    let all = [new.clone(), old[1].clone(), old[0].clone()];
    for _ in 0..200 {
        if found(&search, alice, "old").await == all {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(found(&search, alice, "old").await, all);

    let mut request = request("old");
    request.filter.limit = Some(uint!(2));
    let first = search.search(alice, request.clone()).await.unwrap();
    request.next_batch = first.next_batch.clone();
    let second = search.search(alice, request).await.unwrap();
    assert_eq!((ids(&first), ids(&second)), (vec![new, old[1].clone()], vec![old[0].clone()]));
}

#[tokio::test]
async fn without_an_index_search_is_refused() {
    let search = Search::new(rooms(), None);
    let refused = search.search(user_id!("@alice:here.example"), request("x")).await;
    assert!(matches!(refused, Err(SearchError::Disabled)));
}
