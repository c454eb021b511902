use std::collections::{HashMap, HashSet};

use chappe_protocol::clock::SystemClock;
use chappe_store::{
    EventNid, RoomNid,
    tables::{
        destinations::{DESTINATIONS, DestinationRecord},
        events::EVENT_JSON,
        outgoing::OutgoingItem,
        rooms::SERVER_ROOMS,
    },
};
use ruma::{owned_server_name, server_name};
use serde_json::json;

use super::*;

/// Records what is sent, and answers as told.
#[derive(Default)]
struct FakeNetwork {
    sent: Mutex<Vec<(OwnedServerName, String, Value)>>,
    down: Mutex<HashSet<OwnedServerName>>,
    /// Servers that refuse transactions in which this text occurs.
    refuse: Mutex<HashMap<OwnedServerName, String>>,
    /// Servers that never answer.
    hanging: Mutex<HashSet<OwnedServerName>>,
    attempts: Mutex<Vec<(OwnedServerName, String)>>,
}

impl Transport for FakeNetwork {
    fn send_transaction<'a>(
        &'a self,
        server: &'a ServerName,
        id: &'a OwnedTransactionId,
        body: Value,
    ) -> BoxFuture<'a, Result<(), FederationError>> {
        Box::pin(async move {
            self.attempts.lock().push((server.to_owned(), id.to_string()));
            if self.hanging.lock().contains(server) {
                std::future::pending::<()>().await;
            }
            if self.down.lock().contains(server) {
                return Err(FederationError::Timeout);
            }
            if self.refuse.lock().get(server).is_some_and(|text| body.to_string().contains(text)) {
                return Err(FederationError::Status { status: 400, errcode: None, error: "no".to_owned() });
            }
            self.sent.lock().push((server.to_owned(), id.to_string(), body));
            Ok(())
        })
    }
}

/// The newest events of rooms.
#[derive(Clone, Default)]
struct FakeRooms(HashMap<RoomNid, EventNid>);

impl NewestEvents for FakeRooms {
    fn get_newest<'a>(
        &'a self,
        _: &'a ServerName,
        room: RoomNid,
        _: Position,
    ) -> BoxFuture<'a, Result<Vec<EventNid>, StoreError>> {
        Box::pin(async move { Ok(self.0.get(&room).copied().into_iter().collect()) })
    }
}

struct Setting {
    store: Store,
    network: Arc<FakeNetwork>,
    newest: FakeRooms,
    stop: CancellationToken,
}

impl Setting {
    fn new() -> Self {
        Self {
            store: Store::in_memory(),
            network: Arc::default(),
            newest: FakeRooms::default(),
            stop: CancellationToken::new(),
        }
    }

    fn start(&self) -> Sender {
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let destinations = Destinations::load(self.store.clone(), clock.clone()).expect("a readable store");
        let own_name = owned_server_name!("own.example");
        let newest = Arc::new(self.newest.clone());
        Sender::start(
            own_name,
            self.store.clone(),
            clock,
            self.network.clone(),
            destinations,
            newest,
            self.stop.clone(),
        )
        .expect("a readable store")
    }

    async fn queue(&self, server: &ServerName, items: impl IntoIterator<Item = OutgoingItem>) {
        let mut batch = Batch::new();
        for item in items {
            let position = batch.next_position();
            batch.put(&OUTGOING, &(server.to_owned(), position), &item);
        }
        batch.wake(Topic::Destination(server.to_owned()));
        self.store.commit(batch).await.expect("a commit");
    }

    async fn queue_events(&self, server: &ServerName, numbers: std::ops::Range<u64>) {
        let mut batch = Batch::new();
        for number in numbers.clone() {
            batch.put(&EVENT_JSON, &EventNid(number), &json!({ "n": number }).to_string());
        }
        self.store.commit(batch).await.expect("a commit");
        self.queue(server, numbers.map(|number| OutgoingItem::Pdu(EventNid(number)))).await;
    }

    fn waiting(&self) -> usize {
        self.store.scan(&OUTGOING, &(), Direction::Forward).count()
    }

    fn sent_to(&self, server: &ServerName) -> Vec<Value> {
        let sent = self.network.sent.lock();
        sent.iter().filter(|(to, _, _)| to == server).map(|(_, _, body)| body.clone()).collect()
    }

    fn events_sent_to(&self, server: &ServerName) -> Vec<u64> {
        let bodies = self.sent_to(server);
        bodies
            .iter()
            .flat_map(|body| body["pdus"].as_array().cloned().unwrap_or_default())
            .filter_map(|pdu| pdu["n"].as_u64())
            .collect()
    }

    async fn until(&self, condition: impl Fn(&Self) -> bool) {
        tokio::time::timeout(Duration::from_secs(20), async {
            while !condition(self) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await
        .expect("the condition comes true in time");
    }
}

#[tokio::test]
async fn events_are_sent_in_order_in_full_transactions_and_then_forgotten() {
    let setting = Setting::new();
    let _sender = setting.start();
    let server = server_name!("b.example");
    setting.queue_events(server, 0..120).await;
    setting.until(|setting| setting.waiting() == 0).await;
    assert_eq!(setting.events_sent_to(server), (0..120).collect::<Vec<_>>());
    let sizes: Vec<_> =
        setting.sent_to(server).iter().map(|body| body["pdus"].as_array().map_or(0, Vec::len)).collect();
    assert_eq!(sizes, [50, 50, 20]);
    assert_eq!(setting.sent_to(server)[0]["origin"], "own.example");
}

#[tokio::test]
async fn what_was_left_over_is_sent_after_a_restart() {
    let setting = Setting::new();
    for name in ["b.example", "c.example", "c.example:8448"] {
        setting.queue_events(name.try_into().expect("a server name"), 0..3).await;
    }
    let _sender = setting.start();
    setting.until(|setting| setting.waiting() == 0).await;
    assert_eq!(setting.events_sent_to(server_name!("c.example:8448")), [0, 1, 2]);
}

#[tokio::test]
async fn failed_transaction_is_retried_under_its_id_after_the_pause_or_on_contact() {
    let setting = Setting::new();
    let server = server_name!("b.example");
    setting.network.down.lock().insert(server.to_owned());
    let sender = setting.start();
    setting.queue_events(server, 0..1).await;
    setting.until(|setting| setting.network.attempts.lock().len() == 1).await;
    // More comes in while the server is down: the first transaction stays what it was.
    setting.queue_events(server, 1..3).await;
    setting.network.down.lock().clear();
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    assert_eq!(setting.network.attempts.lock().len(), 1, "the pause is kept");
    sender.poke(server);
    setting.until(|setting| setting.waiting() == 0).await;
    let attempts = setting.network.attempts.lock().clone();
    assert_eq!(attempts[0], attempts[1]);
    assert_eq!(setting.events_sent_to(server), [0, 1, 2]);
}

#[tokio::test]
async fn transaction_id_is_the_same_after_a_restart() {
    let setting = Setting::new();
    let server = server_name!("b.example");
    setting.network.down.lock().insert(server.to_owned());
    let _sender = setting.start();
    setting.queue_events(server, 0..2).await;
    setting.until(|setting| setting.network.attempts.lock().len() == 1).await;
    setting.stop.cancel();
    setting.network.down.lock().clear();
    let restarted = Setting {
        store: setting.store.clone(),
        network: setting.network.clone(),
        newest: setting.newest.clone(),
        stop: CancellationToken::new(),
    };
    let _sender = restarted.start();
    restarted.until(|setting| setting.waiting() == 0).await;
    let attempts = restarted.network.attempts.lock().clone();
    assert_eq!(attempts.first(), attempts.last());
}

#[tokio::test]
async fn dead_servers_do_not_delay_the_living() {
    let setting = Setting::new();
    let alive = server_name!("alive.example");
    for number in 0..500 {
        let name: OwnedServerName = format!("dead{number}.example").try_into().expect("a server name");
        setting.network.down.lock().insert(name.clone());
        if number < SLOTS_FAILING + 5 {
            setting.network.hanging.lock().insert(name.clone());
            // Known to be failing from before, and due for another try.
            let record = DestinationRecord { failing_since_ms: 1, retry_at_ms: 2, pause_ms: 1 };
            let mut batch = Batch::new();
            batch.put(&DESTINATIONS, &name, &record);
            setting.store.commit(batch).await.expect("a commit");
        }
        setting.queue_events(&name, 0..1).await;
    }
    let _sender = setting.start();
    setting.queue_events(alive, 0..1).await;
    setting.until(|setting| setting.events_sent_to(alive) == [0]).await;
    // Those that have been down for long have no events kept for them at all.
    assert!(setting.waiting() <= 500);
}

#[tokio::test]
async fn newer_edu_takes_the_place_of_an_older_one_with_its_key() {
    let setting = Setting::new();
    let server = server_name!("b.example");
    let receipt =
        |key: &str, n: u64| OutgoingItem::CoalescedEdu { key: key.to_owned(), edu: json!({ "n": n }).to_string() };
    let plain = |n: u64| OutgoingItem::Edu(json!({ "n": n }).to_string());
    setting.queue(server, [receipt("a", 1), plain(2), receipt("b", 3), receipt("a", 4), plain(5)]).await;
    let _sender = setting.start();
    setting.until(|setting| setting.waiting() == 0).await;
    let edus: Vec<_> =
        setting.sent_to(server)[0]["edus"].as_array().expect("EDUs").iter().map(|edu| edu["n"].clone()).collect();
    assert_eq!(edus, [2, 3, 4, 5]);
}

#[tokio::test]
async fn refused_item_is_found_and_dropped_and_the_rest_arrives() {
    let setting = Setting::new();
    let server = server_name!("b.example");
    setting.network.refuse.lock().insert(server.to_owned(), "\"n\":13".to_owned());
    let _sender = setting.start();
    setting.queue_events(server, 0..20).await;
    setting.until(|setting| setting.waiting() == 0).await;
    let expected: Vec<_> = (0..20).filter(|number| *number != 13).collect();
    assert_eq!(setting.events_sent_to(server), expected);
}

#[tokio::test]
async fn volatile_edu_is_sent_at_once_and_never_to_a_failing_server() {
    let setting = Setting::new();
    let (up, down) = (server_name!("up.example"), server_name!("down.example"));
    setting.network.down.lock().insert(down.to_owned());
    let sender = setting.start();
    sender.send_edu_volatile(up, json!({ "edu_type": "m.typing" }).to_string());
    sender.send_edu_volatile(down, json!({ "edu_type": "m.typing" }).to_string());
    setting.until(|setting| setting.sent_to(up).len() == 1 && setting.network.attempts.lock().len() == 2).await;
    assert_eq!(setting.sent_to(up)[0]["edus"][0]["edu_type"], "m.typing");
    setting.until(|setting| !setting.network.attempts.lock().is_empty()).await;
    tokio::time::sleep(Duration::from_millis(50)).await;
    sender.send_edu_volatile(down, json!({ "edu_type": "m.typing" }).to_string());
    tokio::time::sleep(Duration::from_millis(50)).await;
    assert_eq!(setting.network.attempts.lock().len(), 2);
    assert_eq!(setting.waiting(), 0);
}

#[tokio::test]
async fn purged_event_does_not_block_the_queue() {
    let setting = Setting::new();
    let server = server_name!("b.example");
    setting.queue(server, [OutgoingItem::Pdu(EventNid(99))]).await;
    setting.queue_events(server, 0..1).await;
    let _sender = setting.start();
    setting.until(|setting| setting.waiting() == 0).await;
    assert_eq!(setting.events_sent_to(server), [0]);
}

#[tokio::test]
async fn server_that_was_away_for_long_gets_the_newest_event_of_each_room_and_its_messages() {
    let mut setting = Setting::new();
    let server = server_name!("b.example");
    setting.newest.0 = HashMap::from([(RoomNid(1), EventNid(7)), (RoomNid(2), EventNid(19))]);
    let mut batch = Batch::new();
    // It failed for the first time long ago, and is due for another try.
    let record = DestinationRecord { failing_since_ms: 1, retry_at_ms: 2, pause_ms: 1 };
    batch.put(&DESTINATIONS, &server.to_owned(), &record);
    for room in [RoomNid(1), RoomNid(2)] {
        batch.put(&SERVER_ROOMS, &(server.to_owned(), room), &());
    }
    setting.store.commit(batch).await.expect("a commit");
    setting.network.down.lock().insert(server.to_owned());
    setting.queue_events(server, 0..20).await;
    let to_device = json!({ "edu_type": "m.direct_to_device", "content": {} }).to_string();
    let list =
        |n: u64| json!({ "edu_type": "m.device_list_update", "content": { "user_id": "@a:own.example", "n": n } });
    setting
        .queue(
            server,
            [
                OutgoingItem::Edu(list(1).to_string()),
                OutgoingItem::Edu(to_device),
                OutgoingItem::Edu(list(2).to_string()),
            ],
        )
        .await;
    let sender = setting.start();
    setting.until(|setting| setting.waiting() == 2).await;
    assert!(setting.store.get(&CATCH_UP, &server.to_owned()).expect("a read").is_some());

    setting.network.down.lock().clear();
    // As long as the shortest pause after a failure.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    sender.poke(server);
    setting.until(|setting| setting.events_sent_to(server) == [7, 19]).await;
    let edus: Vec<_> =
        setting.sent_to(server).iter().flat_map(|body| body["edus"].as_array().cloned().unwrap_or_default()).collect();
    assert_eq!(edus.len(), 2);
    assert_eq!(edus[1]["content"]["n"], 2, "the last change of a device list is enough");
    setting.until(|setting| setting.waiting() == 0).await;
    assert!(setting.store.get(&CATCH_UP, &server.to_owned()).expect("a read").is_none());
}

#[tokio::test]
async fn server_that_restarts_is_sent_every_event_however_many_there_are() {
    let setting = Setting::new();
    let server = server_name!("b.example");
    setting.network.down.lock().insert(server.to_owned());
    setting.queue_events(server, 0..1_500).await;
    let sender = setting.start();
    setting.until(|setting| !setting.network.attempts.lock().is_empty()).await;
    setting.network.down.lock().clear();
    // As long as the shortest pause after a failure.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    sender.poke(server);
    setting.until(|setting| setting.waiting() == 0).await;
    assert_eq!(setting.events_sent_to(server), (0..1_500).collect::<Vec<_>>());
}

#[tokio::test]
async fn server_that_answers_something_else_is_sent_what_waits_at_once() {
    let setting = Setting::new();
    let server = server_name!("b.example");
    setting.network.down.lock().insert(server.to_owned());
    setting.queue_events(server, 0..1).await;
    let sender = setting.start();
    setting.until(|_| sender.destinations.get_retry_at_ms(server).is_some()).await;
    setting.network.down.lock().clear();
    sender.destinations.record_success(server);
    let sent = setting.until(|setting| setting.events_sent_to(server) == [0]);
    // Less than the shortest pause after a failure.
    tokio::time::timeout(Duration::from_secs(1), sent).await.expect("no further pause");
}

#[tokio::test]
async fn interrupted_catch_up_is_finished_after_a_restart() {
    let mut setting = Setting::new();
    let server = server_name!("b.example");
    setting.newest.0 = HashMap::from([(RoomNid(1), EventNid(3))]);
    setting.queue_events(server_name!("c.example"), 0..5).await;
    let mut batch = Batch::new();
    batch.put(&SERVER_ROOMS, &(server.to_owned(), RoomNid(1)), &());
    let record = chappe_store::tables::catch_up::CatchUpRecord { since: 0, is_ending: true };
    batch.put(&CATCH_UP, &server.to_owned(), &record);
    setting.store.commit(batch).await.expect("a commit");
    let _sender = setting.start();
    setting.until(|setting| setting.events_sent_to(server) == [3]).await;
}
