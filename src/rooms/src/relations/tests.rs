use std::collections::HashSet;

use ruma::{EventId, OwnedEventId, OwnedRoomId, OwnedUserId, RoomVersionId, UserId, api::Direction as Paging};
use serde_json::{Value, json};

use super::{Audience, RelationQuery, ThreadQuery};
use crate::{
    EventDraft, RoomError, Rooms,
    client_event::Viewer,
    membership::MemberProfile,
    tests::network::{Network, content, public_room, user},
};

struct Talk {
    rooms: Rooms,
    room_id: OwnedRoomId,
    alice: OwnedUserId,
    bob: OwnedUserId,
    ignored: HashSet<OwnedUserId>,
}

impl Talk {
    async fn new() -> Self {
        let rooms = Network::new().add("one.example");
        let (alice, bob) = (user(&rooms, "alice"), user(&rooms, "bob"));
        let room_id = public_room(&rooms, &alice, RoomVersionId::V11).await;
        rooms.join(&bob, &room_id, &[], &MemberProfile::default(), None).await.unwrap();
        Self { rooms, room_id, alice, bob, ignored: HashSet::new() }
    }

    async fn send(&self, sender: &UserId, value: Value) -> Result<OwnedEventId, RoomError> {
        let draft = EventDraft::message("m.room.message".into(), content(value));
        Ok(self.rooms.send(sender, &self.room_id, draft).await?.event_id)
    }

    async fn say(&self, sender: &UserId, body: &str) -> OwnedEventId {
        self.send(sender, json!({ "body": body })).await.unwrap()
    }

    async fn relate(&self, sender: &UserId, target: &EventId, rel_type: &str) -> OwnedEventId {
        self.send(sender, related(target, rel_type)).await.unwrap()
    }

    async fn edit(&self, sender: &UserId, target: &EventId, body: &str) -> OwnedEventId {
        let mut edit = related(target, "m.replace");
        edit["m.new_content"] = json!({ "body": body });
        self.send(sender, edit).await.unwrap()
    }

    fn audience(&self) -> Audience<'_> {
        Audience { viewer: Viewer::new(&self.alice, None), ignored: &self.ignored }
    }

    fn shown(&self, id: &EventId) -> Value {
        let event = self.rooms.get_event(id).unwrap().unwrap();
        let raw = self.rooms.to_client_bundled(&event, self.audience(), true).unwrap();
        serde_json::from_str(raw.get()).unwrap()
    }

    fn relations(&self, id: &EventId) -> Value {
        self.shown(id)["unsigned"]["m.relations"].clone()
    }

    fn query<'a>(&self, target: &'a EventId) -> RelationQuery<'a> {
        let direction = Paging::Backward;
        RelationQuery {
            target,
            rel_type: None,
            event_type: None,
            from: None,
            to: None,
            direction,
            limit: 10,
            recurse: false,
        }
    }

    fn pages(&self, query: RelationQuery<'_>) -> Vec<Vec<OwnedEventId>> {
        let room = self.rooms.require_room(&self.room_id).unwrap();
        let (mut from, mut pages) = (query.from, Vec::new());
        loop {
            let page = self.rooms.get_relations(&room, self.audience(), RelationQuery { from, ..query }).unwrap();
            pages.push(page.events.iter().map(|event| event.pdu.event_id.clone()).collect());
            let Some(next) = page.next else { return pages };
            from = Some(self.rooms.get_place_of_token(room.nid, next).unwrap());
        }
    }

    fn threads(&self, participated: bool) -> Vec<OwnedEventId> {
        let query = ThreadQuery { participated, from: None, limit: 10 };
        let page = self.rooms.get_threads(&self.room_id, self.audience(), query).unwrap();
        page.roots.iter().map(|root| root.pdu.event_id.clone()).collect()
    }
}

fn related(target: &EventId, rel_type: &str) -> Value {
    json!({ "body": "x", "m.relates_to": { "event_id": target, "rel_type": rel_type } })
}

#[tokio::test]
async fn newest_edit_by_the_sender_is_bundled_and_goes_with_its_redaction() {
    let talk = Talk::new().await;
    let root = talk.say(&talk.alice, "hello").await;
    assert!(talk.relations(&root).is_null());
    let first = talk.edit(&talk.alice, &root, "one").await;
    let second = talk.edit(&talk.alice, &root, "two").await;
    talk.edit(&talk.bob, &root, "not mine").await;
    talk.relate(&talk.alice, &root, "m.replace").await;
    // Two edits of one millisecond: the greater id counts.
    let newest = std::cmp::max(&first, &second);
    let shown = talk.relations(&root);
    assert_eq!(shown["m.replace"]["event_id"], newest.as_str());
    assert_eq!(shown["m.replace"]["type"], "m.room.message");
    talk.rooms.redact(&talk.alice, &talk.room_id, newest, None, None).await.unwrap();
    let other = std::cmp::min(&first, &second);
    assert_eq!(talk.relations(&root)["m.replace"]["event_id"], other.as_str());
    talk.rooms.redact(&talk.alice, &talk.room_id, &root, None, None).await.unwrap();
    assert!(talk.relations(&root).is_null(), "a redacted event has no edits");
}

#[tokio::test]
async fn thread_is_counted_and_shows_its_last_reply() {
    let mut talk = Talk::new().await;
    let root = talk.say(&talk.bob, "root").await;
    let first = talk.relate(&talk.bob, &root, "m.thread").await;
    assert_eq!(talk.relations(&root)["m.thread"]["current_user_participated"], false);
    let second = talk.relate(&talk.alice, &root, "m.thread").await;
    let third = talk.relate(&talk.bob, &root, "m.thread").await;
    talk.edit(&talk.bob, &third, "better").await;
    let thread = talk.relations(&root)["m.thread"].clone();
    assert_eq!((&thread["count"], &thread["current_user_participated"]), (&json!(3), &json!(true)));
    assert_eq!(thread["latest_event"]["event_id"], third.as_str());
    assert_eq!(
        thread["latest_event"]["unsigned"]["m.relations"]["m.replace"]["content"]["m.new_content"]["body"],
        "better"
    );

    talk.rooms.redact(&talk.bob, &talk.room_id, &third, None, None).await.unwrap();
    let thread = talk.relations(&root)["m.thread"].clone();
    assert_eq!((&thread["count"], &thread["latest_event"]["event_id"]), (&json!(2), &json!(second)));

    talk.ignored.insert(talk.bob.clone());
    assert_eq!(talk.relations(&root)["m.thread"]["count"], 1);
    talk.ignored.clear();
    for reply in [&first, &second] {
        talk.rooms.redact(&talk.alice, &talk.room_id, reply, None, None).await.unwrap();
    }
    assert!(talk.relations(&root).is_null());
    assert!(talk.threads(false).is_empty());
}

#[tokio::test]
async fn threads_are_listed_by_their_last_reply() {
    let talk = Talk::new().await;
    let (one, two) = (talk.say(&talk.alice, "one").await, talk.say(&talk.bob, "two").await);
    talk.relate(&talk.bob, &one, "m.thread").await;
    let newest = talk.relate(&talk.bob, &two, "m.thread").await;
    assert_eq!(talk.threads(false), [two.clone(), one.clone()]);
    assert_eq!(talk.threads(true), std::slice::from_ref(&one));
    talk.rooms.redact(&talk.bob, &talk.room_id, &newest, None, None).await.unwrap();
    assert_eq!(talk.threads(false), std::slice::from_ref(&one));
    talk.relate(&talk.bob, &two, "m.thread").await;
    talk.relate(&talk.bob, &one, "m.thread").await;
    assert_eq!(talk.threads(false), [one, two]);
}

#[tokio::test]
async fn references_are_listed_and_annotations_are_not() {
    let talk = Talk::new().await;
    let root = talk.say(&talk.alice, "root").await;
    let reference = talk.relate(&talk.bob, &root, "m.reference").await;
    talk.relate(&talk.bob, &root, "m.annotation").await;
    assert_eq!(talk.relations(&root), json!({ "m.reference": { "chunk": [{ "event_id": reference }] } }));
}

#[tokio::test]
async fn relations_come_in_pages_both_ways() {
    let talk = Talk::new().await;
    let root = talk.say(&talk.alice, "root").await;
    let mut ids = Vec::new();
    for _ in 0..5 {
        ids.push(talk.relate(&talk.bob, &root, "m.thread").await);
    }
    talk.edit(&talk.alice, &root, "other type").await;
    let query = RelationQuery { rel_type: Some("m.thread"), limit: 2, ..talk.query(&root) };
    let newest_first: Vec<_> = ids.iter().rev().cloned().collect();
    assert_eq!(talk.pages(query), newest_first.chunks(2).map(<[_]>::to_vec).collect::<Vec<_>>());
    let forwards = RelationQuery { direction: Paging::Forward, ..query };
    assert_eq!(talk.pages(forwards), ids.chunks(2).map(<[_]>::to_vec).collect::<Vec<_>>());
    let all = RelationQuery { limit: 100, ..talk.query(&root) };
    assert_eq!(talk.pages(all).concat().len(), 6);
    let none = RelationQuery { event_type: Some("m.reaction"), ..query };
    assert_eq!(talk.pages(none).concat().len(), 0);
}

#[tokio::test]
async fn recursion_finds_what_relates_to_what_relates() {
    let talk = Talk::new().await;
    let root = talk.say(&talk.alice, "root").await;
    let reply = talk.relate(&talk.bob, &root, "m.thread").await;
    let reference = talk.relate(&talk.alice, &reply, "m.reference").await;
    assert_eq!(talk.pages(talk.query(&root)).concat(), std::slice::from_ref(&reply));
    let deep = RelationQuery { recurse: true, ..talk.query(&root) };
    assert_eq!(talk.pages(deep).concat(), [reference.clone(), reply.clone()]);
    assert_eq!(talk.pages(RelationQuery { limit: 1, ..deep }), [vec![reference.clone()], vec![reply.clone()]]);
    let of_type = RelationQuery { rel_type: Some("m.reference"), ..deep };
    assert!(talk.pages(of_type).concat().is_empty(), "it is reached only through a relation of another type");
}

#[tokio::test]
async fn thread_off_a_relation_and_the_same_annotation_twice_are_refused() {
    let talk = Talk::new().await;
    let root = talk.say(&talk.alice, "root").await;
    let reply = talk.relate(&talk.bob, &root, "m.thread").await;
    assert!(matches!(talk.send(&talk.bob, related(&reply, "m.thread")).await, Err(RoomError::NotThreadRoot(_))));
    let mut like = related(&root, "m.annotation");
    like["m.relates_to"]["key"] = json!("+1");
    talk.send(&talk.bob, like.clone()).await.unwrap();
    assert!(matches!(talk.send(&talk.bob, like.clone()).await, Err(RoomError::DuplicateAnnotation)));
    talk.send(&talk.alice, like.clone()).await.unwrap();
    like["m.relates_to"]["key"] = json!("-1");
    talk.send(&talk.bob, like).await.unwrap();
}

#[tokio::test]
async fn target_with_characters_that_no_key_holds_is_no_relation() {
    let talk = Talk::new().await;
    let root = talk.say(&talk.alice, "root").await;
    talk.send(&talk.alice, related(&root, "m.\0")).await.unwrap();
    talk.send(&talk.alice, related(&root, &"x".repeat(300))).await.unwrap();
    assert!(talk.pages(talk.query(&root)).concat().is_empty());
}
