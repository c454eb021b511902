use chappe_protocol::clock::ManualClock;
use chappe_rooms::create::Preset;
use chappe_store::Store;
use ruma::{OwnedEventId, UserId, owned_device_id, user_id};
use serde_json::json;

use super::*;
use crate::{event_follower::EventFollower, test_rooms};

const TYPE: &str = "org.example.state";

struct Server {
    delayed: Arc<DelayedEvents>,
    rooms: Rooms,
    clock: Arc<ManualClock>,
    room: OwnedRoomId,
}

fn alice() -> &'static UserId {
    user_id!("@alice:here.example")
}

fn bob() -> &'static UserId {
    user_id!("@bob:here.example")
}

fn session(user_id: &UserId) -> Session {
    Session {
        user_id: user_id.to_owned(),
        device_id: owned_device_id!("DEVICE"),
        is_guest: false,
        is_admin: false,
        token: [0; 32],
        app_service: None,
    }
}

impl Server {
    async fn new() -> Self {
        let store = Store::in_memory();
        let clock = Arc::new(ManualClock::new(1_700_000_000_000));
        let rooms = test_rooms::rooms(&store, clock.clone());
        let room = test_rooms::create(&rooms, alice(), Preset::PublicChat).await;
        test_rooms::join(&rooms, bob(), &room).await;
        let levels = json!({ "users": { alice(): 100 }, "events": { TYPE: 0 } });
        test_rooms::send_state(&rooms, alice(), &room, "m.room.power_levels", "", levels).await;
        Self { delayed: Self::open(&rooms, &clock), rooms, clock, room }
    }

    fn open(rooms: &Rooms, clock: &Arc<ManualClock>) -> Arc<DelayedEvents> {
        let config = DelayedEventsConfig { per_user_max: 3, ..Default::default() };
        Arc::new(DelayedEvents::new(rooms.clone(), clock.clone(), config))
    }

    async fn schedule(&self, draft: EventDraft, delay_ms: u64) -> Result<String, ScheduleError> {
        self.delayed.schedule(&session(alice()), &self.room, draft, Duration::from_millis(delay_ms)).await
    }

    fn state(&self, state_key: &str) -> Option<OwnedEventId> {
        let room = self.rooms.get_room_nid(&self.room).unwrap().unwrap();
        let event = self.rooms.get_state_event(room, &TYPE.into(), state_key).unwrap();
        event.map(|event| event.pdu.event_id.clone())
    }

    fn outcome(&self, delay_id: &str) -> Option<DelayedOutcome> {
        let record = self.delayed.get_delayed_event(alice(), delay_id).unwrap().unwrap();
        record.outcome.map(|(outcome, _)| outcome)
    }
}

fn state(state_key: &str) -> EventDraft {
    EventDraft::state(TYPE, state_key, canonical_content(r#"{"a":1}"#).unwrap())
}

fn message(transaction_id: &str) -> EventDraft {
    let mut draft = EventDraft::message("m.room.message".into(), canonical_content(r#"{"body":"later"}"#).unwrap());
    draft.transaction = Some(transaction(&owned_device_id!("DEVICE"), transaction_id.into()));
    draft
}

#[tokio::test]
async fn event_is_sent_once_its_delay_is_over_even_by_another_run_of_the_server() {
    let server = Server::new().await;
    let id = server.schedule(state("key"), 1_000).await.unwrap();
    assert_eq!(server.delayed.work().await.unwrap(), Some(Duration::from_secs(1)));
    assert_eq!(server.state("key"), None);
    server.clock.advance(1_000);
    let restarted = Server::open(&server.rooms, &server.clock);
    restarted.work().await.unwrap();
    let event_id = server.state("key").unwrap();
    assert_eq!(server.outcome(&id), Some(DelayedOutcome::Sent { event_id }));
    assert_eq!(server.delayed.scan_scheduled(alice()).unwrap(), []);
}

#[tokio::test]
async fn same_transaction_is_scheduled_once() {
    let server = Server::new().await;
    let id = server.schedule(message("one"), 1_000).await.unwrap();
    assert_eq!(server.schedule(message("one"), 1_000).await.unwrap(), id);
    assert_ne!(server.schedule(message("two"), 1_000).await.unwrap(), id);
    assert_eq!(server.delayed.scan_scheduled(alice()).unwrap().len(), 2);
    assert_eq!(server.delayed.scan_scheduled(bob()).unwrap(), []);
    assert_eq!(server.delayed.get_delayed_event(bob(), &id).unwrap(), None, "it is its owner's");
}

#[tokio::test]
async fn scheduled_event_can_be_cancelled_restarted_and_sent_at_once() {
    let server = Server::new().await;
    let cancelled = server.schedule(state("cancelled"), 1_000).await.unwrap();
    let restarted = server.schedule(state("restarted"), 1_000).await.unwrap();
    let sent = server.schedule(state("sent"), 1_000).await.unwrap();
    server.clock.advance(600);
    server.delayed.update(&cancelled, Action::Cancel).await.unwrap();
    server.delayed.update(&restarted, Action::Restart).await.unwrap();
    server.delayed.update(&sent, Action::Send).await.unwrap();
    assert!(server.state("sent").is_some());
    server.clock.advance(600);
    server.delayed.work().await.unwrap();
    assert!(server.state("cancelled").is_none() && server.state("restarted").is_none());
    server.clock.advance(600);
    server.delayed.work().await.unwrap();
    assert!(server.state("restarted").is_some());

    server.delayed.update(&cancelled, Action::Cancel).await.unwrap();
    assert!(matches!(server.delayed.update(&cancelled, Action::Send).await, Err(UpdateError::Ended)));
    assert!(matches!(server.delayed.update("unknown", Action::Send).await, Err(UpdateError::NotFound)));
}

#[tokio::test]
async fn newer_state_of_somebody_else_cancels() {
    let server = Server::new().await;
    let mut follower = EventFollower::open("delayed_events", &server.rooms).unwrap();
    test_rooms::send_state(&server.rooms, bob(), &server.room, TYPE, "before", json!({ "b": 0 })).await;
    let before = server.schedule(state("before"), 1_000).await.unwrap();
    let own = server.schedule(state("own"), 1_000).await.unwrap();
    let overtaken = server.schedule(state("overtaken"), 1_000).await.unwrap();
    test_rooms::send_state(&server.rooms, alice(), &server.room, TYPE, "own", json!({ "b": 1 })).await;
    test_rooms::send_state(&server.rooms, bob(), &server.room, TYPE, "overtaken", json!({ "b": 1 })).await;
    follower.step(&mut Overtaken(server.delayed.clone())).await.unwrap();
    assert_eq!(server.outcome(&overtaken), Some(DelayedOutcome::Cancelled));
    assert_eq!((server.outcome(&own), server.outcome(&before)), (None, None));

    // The log has not been followed up to here when the time comes.
    let late = server.schedule(state("late"), 500).await.unwrap();
    test_rooms::send_state(&server.rooms, bob(), &server.room, TYPE, "late", json!({ "b": 1 })).await;
    server.clock.advance(500);
    server.delayed.work().await.unwrap();
    assert_eq!(server.outcome(&late), Some(DelayedOutcome::Cancelled));
}

#[tokio::test]
async fn refusal_by_the_room_is_kept_and_ended_events_are_forgotten_in_the_end() {
    let server = Server::new().await;
    let id = server.schedule(state("key"), 1_000).await.unwrap();
    server.rooms.leave(alice(), &server.room, None).await.unwrap();
    server.clock.advance(1_000);
    server.delayed.work().await.unwrap();
    assert!(matches!(server.outcome(&id), Some(DelayedOutcome::Refused { errcode, .. }) if errcode == "M_FORBIDDEN"));
    server.clock.advance(OUTCOME_KEPT_MS);
    server.delayed.work().await.unwrap();
    assert_eq!(server.delayed.get_delayed_event(alice(), &id).unwrap(), None);
    assert_eq!(server.delayed.work().await.unwrap(), None);
}

#[tokio::test]
async fn too_long_too_many_and_strangers_are_refused() {
    let server = Server::new().await;
    assert!(matches!(server.schedule(state("key"), 86_400_001).await, Err(ScheduleError::TooLong { .. })));
    let join =
        EventDraft::state("m.room.member", bob().as_str(), canonical_content(r#"{"membership":"join"}"#).unwrap());
    assert!(matches!(server.schedule(join, 1).await, Err(ScheduleError::Membership)));
    let stranger = session(user_id!("@stranger:here.example"));
    let refused = server.delayed.schedule(&stranger, &server.room, state("key"), Duration::ZERO).await;
    assert!(matches!(refused, Err(ScheduleError::Room(RoomError::Forbidden(_)))));
    for n in 0..3 {
        server.schedule(state(&n.to_string()), 1_000).await.unwrap();
    }
    assert!(matches!(server.schedule(state("4"), 1_000).await, Err(ScheduleError::TooMany)));
}
