//! What people do all day, on `matrix-sdk` as it is published: send, edit, react, thread, redact, search, upload, page back.
//!
//! `tests/clients` has the same with clients in other languages.

use chappe_tests::{Failure, authority::Authority, person::Person, server::Server};
use matrix_sdk::{
    Room,
    deserialized_responses::TimelineEvent,
    media::{MediaFormat, MediaRequestParameters},
    room::{IncludeRelations, MessagesOptions, RelationsOptions, edit::EditedContent},
    ruma::{
        EventId, OwnedEventId, OwnedRoomId, RoomId,
        api::client::{media::create_content, room::create_room, search::search_events},
        events::{
            reaction::ReactionEventContent,
            relation::{Annotation, RelationType, Thread},
            room::{
                MediaSource,
                message::{Relation, RoomMessageEventContent, RoomMessageEventContentWithoutRelation},
            },
        },
    },
};
use serde_json::Value;

/// How many messages there are to page back through.
const MESSAGES_BEFORE: usize = 25;

#[tokio::test(flavor = "multi_thread")]
async fn matrix_sdk_sends_edits_reacts_threads_redacts_searches_uploads_and_pages_back() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let authority = Authority::create(directory.path().to_owned()).expect("authority");
    let server = Server::start(directory.path(), "client.localhost", &authority, "").await.expect("server");
    talk(&server).await.unwrap_or_else(|failure| panic!("{failure}\n{}", server.log()));
}

async fn talk(server: &Server) -> Result<(), Failure> {
    let (alice, bob) = (Person::register(server, "alice").await?, Person::register(server, "bob").await?);
    let room_id = create_room(&alice).await?;
    bob.client.join_room_by_id(&room_id).await?;
    for number in 0..MESSAGES_BEFORE {
        alice.say(&room_id, &format!("message {number}")).await?;
    }
    let (of_alice, of_bob) = (room(&alice, &room_id)?, room(&bob, &room_id)?);

    let first = alice.say(&room_id, "Bonjour à tous, l'ordre du jour est prêt").await?;
    let heard = bob.hear(&first).await?;
    assert_eq!(heard.body, "Bonjour à tous, l'ordre du jour est prêt");

    let corrected = EditedContent::RoomMessage(RoomMessageEventContentWithoutRelation::text_plain("corrigé"));
    let edit = of_alice.make_edit_event(&first, corrected).await?;
    of_alice.send(edit).await?;
    let seen = json(&of_bob.event(&first, None).await?)?;
    let newest = &seen["unsigned"]["m.relations"]["m.replace"]["content"]["m.new_content"]["body"];
    assert_eq!(newest, "corrigé", "the edit comes with the message: {seen}");

    of_bob.send(ReactionEventContent::new(Annotation::new(first.clone(), "👍".to_owned()))).await?;
    let reactions = related(&of_alice, &first, RelationType::Annotation).await?;
    assert_eq!(reactions.len(), 1, "{reactions:?}");
    assert_eq!(reactions[0]["content"]["m.relates_to"]["key"], "👍");

    let mut reply = RoomMessageEventContent::text_plain("dans le fil");
    reply.relates_to = Some(Relation::Thread(Thread::plain(first.clone(), first.clone())));
    let reply = of_bob.send(reply).await?.response.event_id;
    alice.hear(&reply).await?;
    let thread = related(&of_alice, &first, RelationType::Thread).await?;
    assert_eq!(thread.iter().map(|event| &event["event_id"]).collect::<Vec<_>>(), [reply.as_str()]);
    let root = json(&of_alice.event(&first, None).await?)?;
    assert_eq!(root["unsigned"]["m.relations"]["m.thread"]["count"], 1, "{root}");

    let doomed = alice.say(&room_id, "un secret indiscret").await?;
    assert_eq!(
        search(&bob, &room_id, "indiscret").await?,
        std::slice::from_ref(&doomed),
        "found as soon as it was said"
    );
    of_alice.redact(&doomed, Some("trop indiscret"), None).await?;
    let seen = json(&of_bob.event(&doomed, None).await?)?;
    assert_eq!(seen["content"], serde_json::json!({}), "{seen}");
    assert_eq!(seen["unsigned"]["redacted_because"]["content"]["reason"], "trop indiscret", "{seen}");
    assert!(search(&bob, &room_id, "indiscret").await?.is_empty(), "what was redacted is not found");
    assert!(search(&bob, &room_id, "PRET ordre").await?.contains(&first), "found without its accents");

    let bytes: Vec<u8> = (0..100_000_u32).map(|number| (number % 251) as u8).collect();
    let uploaded = alice.client.send(create_content::v3::Request::new(bytes.clone())).await?;
    let wanted = MediaRequestParameters { source: MediaSource::Plain(uploaded.content_uri), format: MediaFormat::File };
    assert!(bob.client.media().get_media_content(&wanted, false).await? == bytes, "the same bytes come back");

    let bodies = page_back(&of_bob).await?;
    let expected: Vec<_> = (0..MESSAGES_BEFORE).rev().map(|number| format!("message {number}")).collect();
    let numbered: Vec<_> = bodies.into_iter().filter(|body| body.starts_with("message ")).collect();
    assert_eq!(numbered, expected, "every message is there once, in order");
    Ok(())
}

/// A public room without encryption, in which the server can search.
async fn create_room(person: &Person) -> Result<OwnedRoomId, Failure> {
    let mut request = create_room::v3::Request::new();
    request.preset = Some(create_room::v3::RoomPreset::PublicChat);
    request.name = Some("Réunion".to_owned());
    Ok(person.client.create_room(request).await?.room_id().to_owned())
}

fn room(person: &Person, room_id: &RoomId) -> Result<Room, Failure> {
    person.client.get_room(room_id).ok_or_else(|| "the room is not known to the client".into())
}

fn json(event: &TimelineEvent) -> Result<Value, Failure> {
    Ok(serde_json::from_str(event.raw().json().get())?)
}

async fn related(room: &Room, event_id: &EventId, relation: RelationType) -> Result<Vec<Value>, Failure> {
    let options =
        RelationsOptions { include_relations: IncludeRelations::RelationsOfType(relation), ..Default::default() };
    let found = room.relations(event_id.to_owned(), options).await?;
    found.chunk.iter().map(json).collect()
}

async fn search(person: &Person, room_id: &RoomId, term: &str) -> Result<Vec<OwnedEventId>, Failure> {
    let mut criteria = search_events::v3::Criteria::new(term.to_owned());
    criteria.filter.rooms = Some(vec![room_id.to_owned()]);
    let mut categories = search_events::v3::Categories::new();
    categories.room_events = Some(criteria);
    let answer = person.client.send(search_events::v3::Request::new(categories)).await?;
    let results = answer.search_categories.room_events.results.into_iter().filter_map(|found| found.result);
    results.map(|event| event.get_field("event_id")?.ok_or_else(|| "a result without an event id".into())).collect()
}

/// The bodies of all messages, newest first.
async fn page_back(room: &Room) -> Result<Vec<String>, Failure> {
    let (mut bodies, mut from) = (Vec::new(), None);
    loop {
        let page = room.messages(MessagesOptions::backward().from(from.as_deref())).await?;
        for event in &page.chunk {
            bodies.extend(json(event)?["content"]["body"].as_str().map(str::to_owned));
        }
        from = page.end;
        if from.is_none() {
            return Ok(bodies);
        }
    }
}
