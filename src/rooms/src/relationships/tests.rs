use std::{collections::HashSet, sync::Arc};

use ruma::{EventId, OwnedEventId, OwnedRoomId, OwnedUserId, RoomVersionId, UserId};
use serde_json::{Value, json};

use super::{Heading, RelatedEvents, RelationshipQuery};
use crate::{
    EventDraft, RoomError, Rooms,
    client_event::Viewer,
    membership::MemberProfile,
    relations::Audience,
    tests::network::{Network, content, public_room, user},
};

/// A room on one server, and another server that may come in later.
struct Talk {
    network: Arc<Network>,
    here: Rooms,
    there: Rooms,
    room_id: OwnedRoomId,
    alice: OwnedUserId,
    carol: OwnedUserId,
}

impl Talk {
    async fn new() -> Self {
        let network = Network::new();
        let (here, there) = (network.add("here.example"), network.add("there.example"));
        let (alice, carol) = (user(&here, "alice"), user(&there, "carol"));
        let room_id = public_room(&here, &alice, RoomVersionId::V11).await;
        Self { network, here, there, room_id, alice, carol }
    }

    async fn reply(&self, target: Option<&EventId>) -> OwnedEventId {
        self.network.clock.advance(1);
        let value = match target {
            Some(target) => json!({ "m.relationship": { "rel_type": "m.reference", "event_id": target } }),
            None => json!({ "body": "a beginning" }),
        };
        let draft = EventDraft::message("m.room.message".into(), content(value));
        self.here.send(&self.alice, &self.room_id, draft).await.unwrap().event_id
    }

    async fn join_there(&self) {
        let via = [self.here.server_name().to_owned()];
        self.there.join(&self.carol, &self.room_id, &via, &MemberProfile::default(), None).await.unwrap();
    }

    fn questions(&self) -> usize {
        self.network.asked.lock().iter().filter(|asked| **asked == "event_relationships").count()
    }
}

async fn ask(rooms: &Rooms, user: &UserId, query: &RelationshipQuery) -> Result<RelatedEvents, RoomError> {
    let ignored = HashSet::new();
    rooms.get_related(Audience { viewer: Viewer::new(user, None), ignored: &ignored }, query).await
}

async fn walk(rooms: &Rooms, user: &UserId, query: RelationshipQuery) -> Vec<OwnedEventId> {
    let related = ask(rooms, user, &query).await.unwrap();
    related.events.iter().map(|event| event.pdu.event_id.clone()).collect()
}

fn down(event_id: &EventId) -> RelationshipQuery {
    RelationshipQuery { recent_first: false, ..RelationshipQuery::new(event_id.to_owned()) }
}

fn up(event_id: &EventId) -> RelationshipQuery {
    RelationshipQuery { direction: Heading::Up, ..RelationshipQuery::new(event_id.to_owned()) }
}

fn ids<const N: usize>(ids: [&OwnedEventId; N]) -> Vec<OwnedEventId> {
    ids.into_iter().cloned().collect()
}

#[tokio::test]
async fn walks_keep_to_their_window_and_order() {
    let talk = Talk::new().await;
    let (here, alice) = (&talk.here, &talk.alice);
    let a = talk.reply(None).await;
    let (b, c) = (talk.reply(Some(&a)).await, talk.reply(Some(&a)).await);
    let (d, e) = (talk.reply(Some(&b)).await, talk.reply(Some(&c)).await);
    let f = talk.reply(Some(&d)).await;

    assert_eq!(walk(here, alice, down(&a)).await, ids([&a, &b, &c, &d, &e, &f]));
    let deep = RelationshipQuery { depth_first: true, ..down(&a) };
    assert_eq!(walk(here, alice, deep.clone()).await, ids([&a, &b, &d, &f, &c, &e]));
    assert_eq!(
        walk(here, alice, RelationshipQuery { recent_first: true, ..deep }).await,
        ids([&a, &c, &e, &b, &d, &f])
    );
    assert_eq!(walk(here, alice, RelationshipQuery { max_depth: 1, ..down(&a) }).await, ids([&a, &b, &c]));
    assert_eq!(walk(here, alice, RelationshipQuery { max_breadth: 1, ..down(&a) }).await, ids([&a, &b, &d, &f]));
    assert_eq!(walk(here, alice, RelationshipQuery { max_depth: 0, ..down(&a) }).await, ids([&a]));
    let around = RelationshipQuery { include_parent: true, max_depth: 0, include_children: true, ..down(&b) };
    assert_eq!(walk(here, alice, around).await, ids([&b, &a, &d]));
    assert_eq!(walk(here, alice, up(&f)).await, ids([&f, &d, &b, &a]));
    assert_eq!(walk(here, alice, RelationshipQuery { max_depth: -1, ..up(&f) }).await.len(), 4);

    for (limit, limited) in [(5, true), (6, false)] {
        let related = ask(here, alice, &RelationshipQuery { limit, ..down(&a) }).await.unwrap();
        assert_eq!((u64::try_from(related.events.len()).unwrap(), related.limited), (limit, limited));
    }
    let paged = RelationshipQuery { batch: "more".to_owned(), ..down(&a) };
    assert!(matches!(ask(here, alice, &paged).await, Err(RoomError::Invalid(_))));
}

#[tokio::test]
async fn children_are_counted_and_a_redacted_event_keeps_its_place() {
    let talk = Talk::new().await;
    let (here, alice) = (&talk.here, &talk.alice);
    let a = talk.reply(None).await;
    let b = talk.reply(Some(&a)).await;
    let c = talk.reply(Some(&b)).await;
    here.redact(alice, &talk.room_id, &b, None, None).await.unwrap();
    assert_eq!(walk(here, alice, down(&a)).await, ids([&a, &b, &c]));
    assert_eq!(walk(here, alice, up(&c)).await, ids([&c, &b, &a]));

    let event = here.get_event(&a).unwrap().unwrap();
    let ignored = HashSet::new();
    let audience = Audience { viewer: Viewer::new(alice, None), ignored: &ignored };
    let shown: Value = serde_json::from_str(here.to_client_related(&event, audience).unwrap().get()).unwrap();
    assert_eq!(shown["unsigned"]["children"], json!({ "m.reference": 1 }));
    assert_eq!(shown["unsigned"]["children_hash"], here.get_children(&event).unwrap().hash);
}

#[tokio::test]
async fn clients_relate_only_to_what_is_known_in_the_room() {
    let talk = Talk::new().await;
    let elsewhere = public_room(&talk.here, &talk.alice, RoomVersionId::V11).await;
    let a = talk.reply(None).await;
    for (room, target) in [(&talk.room_id, "$unknown"), (&elsewhere, a.as_str())] {
        let relationship = json!({ "m.relationship": { "rel_type": "m.reference", "event_id": target } });
        let draft = EventDraft::message("m.room.message".into(), content(relationship));
        assert!(matches!(talk.here.send(&talk.alice, room, draft).await, Err(RoomError::Invalid(_))));
    }
}

#[tokio::test]
async fn what_was_before_a_join_is_fetched_and_asked_for_once() {
    let talk = Talk::new().await;
    let (there, carol) = (&talk.there, &talk.carol);
    let a = talk.reply(None).await;
    let b = talk.reply(Some(&a)).await;
    let (c, d) = (talk.reply(Some(&b)).await, talk.reply(Some(&b)).await);
    talk.join_there().await;

    assert!(matches!(ask(there, carol, &down(&d)).await, Err(RoomError::NotFound(_))), "it is not said where to ask");
    let hinted = RelationshipQuery { room_id: Some(talk.room_id.clone()), include_parent: true, ..down(&d) };
    let stranger = user(there, "stranger");
    assert!(matches!(ask(there, &stranger, &hinted).await, Err(RoomError::NotFound(_))));
    assert_eq!(talk.questions(), 0, "nobody is asked for those who are not in the room");

    assert_eq!(walk(there, carol, hinted).await, ids([&d, &b]));
    let known = there.get_event(&b).unwrap().unwrap();
    assert_eq!(there.get_children(&known).unwrap().total(), 2, "as many as the other server knows of");
    let around = RelationshipQuery { include_parent: true, ..down(&b) };
    assert_eq!(walk(there, carol, around.clone()).await, ids([&b, &a, &c, &d]));
    let questions = talk.questions();
    assert_eq!(walk(there, carol, around).await.len(), 4);
    assert_eq!(talk.questions(), questions);
    assert!(there.get_event_order(known.nid).unwrap().is_none(), "a thread is no history of the room");

    // What is fetched later as history stays in the thread.
    let room = there.require_room(&talk.room_id).unwrap();
    there.backfill(&room, (u64::MAX, chappe_store::Order::FIRST), 100).await.unwrap();
    assert!(there.get_event(&b).unwrap().unwrap().is_accepted());
    assert_eq!(walk(there, carol, up(&d)).await, ids([&d, &b, &a]));
}

#[tokio::test]
async fn missing_parents_are_fetched_on_the_way_up() {
    let talk = Talk::new().await;
    let a = talk.reply(None).await;
    let (b, c) = (talk.reply(Some(&a)).await, talk.reply(Some(&a)).await);
    talk.join_there().await;
    let d = talk.reply(Some(&c)).await;
    talk.network.deliver().await;
    assert_eq!(walk(&talk.there, &talk.carol, up(&d)).await, ids([&d, &c, &a]));
    assert_eq!(talk.questions(), 1);
    assert_eq!(walk(&talk.there, &talk.carol, down(&a)).await, ids([&a, &b, &c, &d]));
}

#[tokio::test]
async fn unplaced_events_are_shown_by_what_is_known_of_their_time() {
    let talk = Talk::new().await;
    let (here, there, carol) = (&talk.here, &talk.there, &talk.carol);
    let a = talk.reply(None).await;
    talk.join_there().await;
    let hinted = RelationshipQuery { room_id: Some(talk.room_id.clone()), ..down(&a) };
    assert_eq!(walk(there, carol, hinted.clone()).await, ids([&a]));

    // Set later, it says nothing of the time before.
    let visibility = content(json!({ "history_visibility": "world_readable" }));
    let draft = EventDraft::state("m.room.history_visibility", "", visibility);
    here.send(&talk.alice, &talk.room_id, draft).await.unwrap();
    talk.network.deliver().await;
    assert!(matches!(ask(there, carol, &hinted).await, Err(RoomError::NotFound(_))));
}

#[tokio::test]
async fn servers_are_told_of_rooms_that_they_are_in() {
    let talk = Talk::new().await;
    let a = talk.reply(None).await;
    let b = talk.reply(Some(&a)).await;
    let there = talk.there.server_name().to_owned();
    assert!(matches!(talk.here.get_related_for_server(&there, &down(&a)).await, Err(RoomError::NotFound(_))));
    talk.join_there().await;
    let answer = talk.here.get_related_for_server(&there, &down(&a)).await.unwrap();
    assert_eq!((answer.events.len(), answer.limited), (2, false));
    let shown: Value = serde_json::from_str(answer.events[0].get()).unwrap();
    assert_eq!(shown["unsigned"]["children"], json!({ "m.reference": 1 }));
    let kinds: HashSet<String> = answer
        .auth_chain
        .iter()
        .map(|raw| serde_json::from_str::<Value>(raw.get()).unwrap()["type"].as_str().unwrap().to_owned())
        .collect();
    assert!(kinds.contains("m.room.create") && kinds.contains("m.room.power_levels"), "{kinds:?}");
    assert!(matches!(
        talk.here.get_related_for_server(&there, &down(&OwnedEventId::try_from("$unknown").unwrap())).await,
        Err(RoomError::NotFound(_))
    ));
    assert!(talk.here.get_event(&b).unwrap().is_some());
}
