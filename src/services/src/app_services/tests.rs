//! Namespaces, and what a service is sent by its sender, over a real room engine and a real HTTP server.

use std::{sync::Arc, time::Duration};

use chappe_protocol::clock::ManualClock;
use chappe_rooms::{Rooms, create::Preset};
use chappe_store::{
    Batch, Direction, Position, Store,
    tables::{app_services::APP_SERVICE_TRANSACTIONS, to_device::TO_DEVICE},
};
use parking_lot::Mutex;
use ruma::{
    OwnedDeviceId, OwnedUserId, ServerName, UserId, api::federation::transactions::edu::Edu, room_alias_id, room_id,
    server_name, user_id,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

use super::{
    client::{AppServices, PingError, ThirdPartyKind},
    sender::{AppServiceSender, SenderSources},
    *,
};
use crate::{
    accounts::{Accounts, AccountsConfig, AssertIdentityError, NewDevice},
    connector::{Connector, ConnectorConfig},
    edu::VolatileEdus,
    presence::Presence,
    receipts::{ReceiptKind, Receipts, Thread},
    test_rooms,
    typing::Typing,
};

fn alice() -> &'static UserId {
    user_id!("@alice:here.example")
}

fn here() -> &'static ServerName {
    server_name!("here.example")
}

fn draft(id: &str) -> RegistrationDraft {
    let namespace = |regex: &str, exclusive| NamespaceDraft { exclusive, regex: regex.to_owned() };
    RegistrationDraft {
        id: id.to_owned(),
        as_token: format!("{id}-as"),
        hs_token: format!("{id}-hs"),
        sender_localpart: format!("_{id}_bot"),
        users: vec![namespace(&format!("@_{id}_.*"), true)],
        aliases: vec![namespace(&format!("#{id}_.*"), true)],
        protocols: vec![id.to_owned()],
        ..RegistrationDraft::default()
    }
}

fn registration(draft: RegistrationDraft) -> Registration {
    Registration::new(here(), draft).unwrap()
}

#[test]
fn namespaces_begin_at_the_beginning_and_hold_local_users_only() {
    let irc = registration(draft("irc"));
    assert!(irc.covers_user(user_id!("@_irc_alice:here.example")));
    assert!(irc.covers_user(user_id!("@_irc_bot:here.example")), "the sender is the service's");
    assert!(!irc.covers_user(user_id!("@_irc_alice:there.example")));
    assert!(!irc.covers_user(user_id!("@x@_irc_alice:here.example")));
    assert!(irc.covers_alias(room_alias_id!("#irc_chan:here.example")));
    assert!(!irc.covers_room(room_id!("!irc_room:here.example")));
}

#[test]
fn what_is_exclusive_is_closed_to_users_and_other_services() {
    let all = Registrations::new(vec![registration(draft("irc")), registration(draft("xmpp"))]).unwrap();
    let irc = all.get_by_token("irc-as").unwrap();
    assert!(all.get_by_token("irc-hs").is_none());
    let user = user_id!("@_irc_alice:here.example");
    assert!(all.is_exclusive_user(user, None));
    assert!(!all.is_exclusive_user(user, Some(irc)));
    let (ours, theirs) = (room_alias_id!("#irc_a:here.example"), room_alias_id!("#xmpp_a:here.example"));
    assert!(all.may_create_alias(Some(irc), ours) && !all.may_create_alias(Some(irc), theirs));
    assert!(!all.may_create_alias(None, ours));
    assert!(all.may_create_alias(None, room_alias_id!("#free:here.example")));
    assert!(!all.may_create_alias(Some(irc), room_alias_id!("#free:here.example")));
}

#[test]
fn registrations_that_contradict_each_other_are_refused() {
    let twice = Registrations::new(vec![registration(draft("irc")), registration(draft("irc"))]);
    assert!(matches!(twice, Err(RegistrationError::SameId(_))));
    let same_token = RegistrationDraft { as_token: "irc-as".to_owned(), ..draft("xmpp") };
    let twice = Registrations::new(vec![registration(draft("irc")), registration(same_token)]);
    assert!(matches!(twice, Err(RegistrationError::SameToken(_))));
    let no_id = RegistrationDraft { id: String::new(), ..draft("irc") };
    assert!(matches!(Registration::new(here(), no_id), Err(RegistrationError::Empty { field: "id" })));
}

/// A request that a service got: method, path and body.
type Heard = (String, String, Value);

/// A service that answers every request by `answer`: (method, path) -> status and body.
struct Bridge {
    url: String,
    heard: Arc<Mutex<Vec<Heard>>>,
}

impl Bridge {
    async fn start(answer: impl Fn(&str, &str) -> (u16, String) + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let heard: Arc<Mutex<Vec<Heard>>> = Arc::default();
        let (noted, answer) = (heard.clone(), Arc::new(answer));
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut bytes = Vec::new();
                let mut buffer = [0; 4096];
                let (head, body) = loop {
                    let Ok(read @ 1..) = stream.read(&mut buffer).await else { break (String::new(), Value::Null) };
                    bytes.extend_from_slice(&buffer[..read]);
                    let text = String::from_utf8_lossy(&bytes).into_owned();
                    let Some((head, body)) = text.split_once("\r\n\r\n") else { continue };
                    let length = head.to_lowercase().split("content-length: ").nth(1).map_or(0, |rest| {
                        rest.split("\r\n").next().unwrap_or_default().trim().parse::<usize>().unwrap()
                    });
                    if body.len() >= length {
                        break (head.to_owned(), serde_json::from_str(body).unwrap_or_default());
                    }
                };
                let mut words = head.split(' ');
                let (method, path) =
                    (words.next().unwrap_or_default().to_owned(), words.next().unwrap_or_default().to_owned());
                assert!(head.to_lowercase().contains("authorization: bearer irc-hs"), "{head}");
                let (status, text) = answer(&method, &path);
                noted.lock().push((method, path, body));
                let response =
                    format!("HTTP/1.1 {status} X\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{text}", text.len());
                let _ = stream.write_all(response.as_bytes()).await;
            }
        });
        Self { url, heard }
    }

    /// The bodies of the transactions that came, once each, when there are as many as asked for.
    async fn transactions(&self, count: usize) -> Vec<Value> {
        for _ in 0..500 {
            let heard: Vec<Value> = self
                .heard
                .lock()
                .iter()
                .filter(|(method, path, _)| method == "PUT" && path.contains("/transactions/"))
                .map(|(_, _, body)| body.clone())
                .collect();
            if heard.len() >= count {
                return heard;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("too few transactions came: {:?}", self.heard.lock());
    }
}

struct Silence;

impl VolatileEdus for Silence {
    fn send_edu_volatile(&self, _: &ServerName, _: &Edu) {}
}

struct Rig {
    store: Store,
    rooms: Rooms,
    accounts: Arc<Accounts>,
    sources: SenderSources,
}

fn rig(store: &Store, draft: RegistrationDraft) -> Rig {
    let clock = Arc::new(ManualClock::new(1_700_000_000_000));
    let rooms = test_rooms::rooms(store, clock.clone());
    let registrations = Registrations::new(vec![registration(draft)]).unwrap();
    let urls: Vec<Url> = registrations.iter().filter_map(|service| service.url.clone()).collect();
    let connector = Connector::for_origins(ConnectorConfig::default(), &urls).unwrap();
    let mut config = AccountsConfig::new(here().to_owned());
    config.app_services = registrations;
    let accounts = Arc::new(Accounts::new(store.clone(), clock.clone(), config).unwrap());
    let sources = SenderSources {
        app_services: AppServices::new(connector, accounts.clone(), rooms.clone()),
        rooms: rooms.clone(),
        typing: Arc::new(Typing::new(store.clone(), here().to_owned(), clock.clone(), Arc::new(Silence))),
        receipts: Arc::new(Receipts::new(store.clone(), here().to_owned(), clock.clone())),
        presence: Arc::new(Presence::new(store.clone(), here().to_owned(), clock, Arc::new(Silence), true)),
    };
    Rig { store: store.clone(), rooms, accounts, sources }
}

impl Rig {
    async fn follow(&self) {
        for sender in AppServiceSender::prepare(&self.sources).await.unwrap() {
            tokio::spawn(sender.run());
        }
    }

    fn service(&self) -> Arc<Registration> {
        self.sources.app_services.registrations().get_by_token("irc-as").unwrap().clone()
    }
}

fn bodies(transactions: &[Value]) -> Vec<&str> {
    let events = transactions.iter().flat_map(|transaction| transaction["events"].as_array().unwrap());
    events.filter_map(|event| event["content"]["body"].as_str()).collect()
}

#[tokio::test]
async fn service_is_sent_the_events_of_its_rooms_in_order_and_no_others() {
    let bridge = Bridge::start(|_, _| (200, "{}".to_owned())).await;
    let rig = rig(&Store::in_memory(), RegistrationDraft { url: Some(bridge.url.clone()), ..draft("irc") });
    rig.follow().await;
    let (open, closed) = (
        test_rooms::create(&rig.rooms, alice(), Preset::PublicChat).await,
        test_rooms::create(&rig.rooms, alice(), Preset::PrivateChat).await,
    );
    test_rooms::say(&rig.rooms, alice(), &open, "too early").await;
    test_rooms::join(&rig.rooms, user_id!("@_irc_bob:here.example"), &open).await;
    test_rooms::say(&rig.rooms, alice(), &closed, "none of its business").await;
    test_rooms::say(&rig.rooms, alice(), &open, "one").await;
    test_rooms::say(&rig.rooms, alice(), &open, "two").await;
    let mut seen = Vec::new();
    for count in 1..10 {
        let transactions = bridge.transactions(count).await;
        seen = transactions;
        if bodies(&seen).contains(&"two") {
            break;
        }
    }
    let told = bodies(&seen);
    assert!(told.ends_with(&["one", "two"]), "{told:?}");
    assert!(!told.contains(&"none of its business"));
    let event = &seen.last().unwrap()["events"][0];
    assert!(event["room_id"].is_string() && event["event_id"].is_string(), "{event}");
}

#[tokio::test]
async fn transaction_that_was_not_taken_is_sent_again_as_it_was_even_after_a_restart() {
    let store = Store::in_memory();
    let refusing = Bridge::start(|_, _| (500, "{}".to_owned())).await;
    let before = rig(&store, RegistrationDraft { url: Some(refusing.url.clone()), ..draft("irc") });
    before.follow().await;
    let room = test_rooms::create(&before.rooms, alice(), Preset::PublicChat).await;
    test_rooms::join(&before.rooms, user_id!("@_irc_bob:here.example"), &room).await;
    let first = refusing.transactions(1).await.remove(0);
    let kept = store.get(&APP_SERVICE_TRANSACTIONS, &"irc".to_owned()).unwrap().unwrap();
    assert_eq!(serde_json::from_str::<Value>(&kept.body).unwrap(), first);
    test_rooms::say(&before.rooms, alice(), &room, "later").await;

    let accepting = Bridge::start(|_, _| (200, "{}".to_owned())).await;
    let after = rig(&store, RegistrationDraft { url: Some(accepting.url.clone()), ..draft("irc") });
    after.follow().await;
    let taken = accepting.transactions(2).await;
    assert_eq!(taken[0], first);
    assert_eq!(bodies(&taken[1..]), ["later"]);
    assert!(accepting.heard.lock()[0].1.ends_with("/transactions/1"));
}

#[tokio::test]
async fn service_that_wants_it_is_sent_typing_receipts_and_messages_to_devices() {
    let bridge = Bridge::start(|_, _| (200, "{}".to_owned())).await;
    let wanted = RegistrationDraft { url: Some(bridge.url.clone()), receive_ephemeral: true, ..draft("irc") };
    let rig = rig(&Store::in_memory(), wanted);
    let bob: OwnedUserId = user_id!("@_irc_bob:here.example").to_owned();
    let room = test_rooms::create(&rig.rooms, alice(), Preset::PublicChat).await;
    test_rooms::join(&rig.rooms, &bob, &room).await;
    let event = test_rooms::say(&rig.rooms, alice(), &room, "read me").await;
    rig.follow().await;

    rig.sources.typing.start(&room, alice(), Duration::from_secs(20)).unwrap();
    rig.sources.receipts.set(&room, alice(), ReceiptKind::Public, &Thread::Unthreaded, &event).await.unwrap();
    rig.sources.receipts.set(&room, alice(), ReceiptKind::Private, &Thread::Unthreaded, &event).await.unwrap();
    let mut batch = Batch::new();
    let key = (bob.clone(), OwnedDeviceId::from("PHONE"), batch.next_position());
    let message = json!({ "type": "m.dummy", "sender": alice(), "content": {} }).to_string();
    batch.put(&TO_DEVICE, &key, &message);
    batch.wake(chappe_store::Topic::User(bob.clone()));
    rig.store.commit(batch).await.unwrap();

    let is_complete = |told: &[Value]| {
        let all: Vec<&str> = told
            .iter()
            .flat_map(|transaction| transaction["ephemeral"].as_array().into_iter().flatten())
            .filter_map(|event| event["type"].as_str())
            .collect();
        all.contains(&"m.typing")
            && all.contains(&"m.receipt")
            && told.iter().any(|transaction| transaction["to_device"].is_array())
    };
    let mut told = Vec::new();
    for count in 1..10 {
        told = bridge.transactions(count).await;
        if is_complete(&told) {
            break;
        }
    }
    let text = Value::from(told.clone()).to_string();
    assert!(!text.contains("m.read.private"), "private receipts of others are not told: {text}");
    let to_device = told.iter().find_map(|transaction| transaction["to_device"].get(0)).unwrap();
    assert_eq!((&to_device["to_user_id"], &to_device["to_device_id"]), (&json!(bob), &json!("PHONE")));
    let left = rig.store.scan_range(
        &TO_DEVICE,
        &(bob.clone(),),
        &(bob, OwnedDeviceId::from("Z"), Position::MAX),
        Direction::Forward,
    );
    assert_eq!(left.count(), 0, "nobody else fetches what was delivered");
}

#[tokio::test]
async fn unknown_user_of_a_namespace_is_asked_for_and_may_come_to_be() {
    let bridge = Bridge::start(|_, path| {
        if path.ends_with("%40_irc_ghost:here.example") || path.ends_with("@_irc_ghost:here.example") {
            (200, "{}".to_owned())
        } else {
            (404, json!({ "errcode": "M_NOT_FOUND" }).to_string())
        }
    })
    .await;
    let rig = rig(&Store::in_memory(), RegistrationDraft { url: Some(bridge.url.clone()), ..draft("irc") });
    let ghost = user_id!("@_irc_ghost:here.example");
    assert!(!rig.sources.app_services.ensure_user(ghost).await.unwrap(), "the service says yes and makes no account");
    rig.accounts.register_for(&rig.service(), "_irc_ghost", None).await.unwrap();
    assert!(rig.sources.app_services.ensure_user(ghost).await.unwrap());
    assert!(!rig.sources.app_services.ensure_user(user_id!("@_irc_nobody:here.example")).await.unwrap());
    let asked = bridge.heard.lock().len();
    assert!(!rig.sources.app_services.ensure_user(user_id!("@stranger:here.example")).await.unwrap());
    assert_eq!(bridge.heard.lock().len(), asked, "nobody is asked for who is in no namespace");
}

#[tokio::test]
async fn old_paths_are_tried_where_the_new_ones_are_not_known() {
    let bridge = Bridge::start(|_, path| match path.split('?').next() {
        Some("/_matrix/app/unstable/thirdparty/user/irc") => (200, json!([{ "userid": "@a:b" }, 7]).to_string()),
        _ => (404, "not here".to_owned()),
    })
    .await;
    let rig = rig(&Store::in_memory(), RegistrationDraft { url: Some(bridge.url.clone()), ..draft("irc") });
    let fields = [("nick".to_owned(), "bob".to_owned())];
    let found = rig.sources.app_services.fetch_third_party(ThirdPartyKind::Users, Some("irc"), &fields).await;
    assert_eq!(found, [json!({ "userid": "@a:b" })]);
    assert!(rig.sources.app_services.fetch_protocol("xmpp").await.is_none());
}

#[tokio::test]
async fn ping_tells_how_the_service_answers() {
    let bridge = Bridge::start(|_, path| match path {
        "/_matrix/app/v1/ping" => (403, json!({ "errcode": "M_FORBIDDEN" }).to_string()),
        _ => (200, "{}".to_owned()),
    })
    .await;
    let rig = rig(&Store::in_memory(), RegistrationDraft { url: Some(bridge.url.clone()), ..draft("irc") });
    let (services, service) = (&rig.sources.app_services, rig.service());
    let error = services.ping(&service, "irc", Some("meow")).await.unwrap_err();
    assert!(matches!(error, PingError::BadStatus { status: 403, .. }), "{error}");
    assert_eq!(bridge.heard.lock()[0].2, json!({ "transaction_id": "meow" }));
    assert!(matches!(services.ping(&service, "xmpp", None).await, Err(PingError::WrongService)));
}

#[tokio::test]
async fn connector_of_services_reaches_their_urls_and_nothing_else() {
    let bridge = Bridge::start(|_, _| (200, "{}".to_owned())).await;
    let url = Url::parse(&bridge.url).unwrap();
    let connector = Connector::for_origins(ConnectorConfig::default(), [&url]).unwrap();
    let elsewhere = Url::parse("http://127.0.0.1:1/").unwrap();
    let request = crate::connector::Request::get(elsewhere);
    assert!(matches!(connector.fetch_capped(request, 100).await, Err(crate::connector::ConnectError::Url(_))));
}

#[tokio::test]
async fn service_acts_for_its_own_users_only_and_as_their_devices() {
    let rig = rig(&Store::in_memory(), draft("irc"));
    let service = rig.service();
    rig.accounts.ensure_sender(&service).await.unwrap();
    rig.accounts.ensure_sender(&service).await.unwrap();
    let session = rig.accounts.authenticate_as(&service, None, None).unwrap();
    assert_eq!((session.user_id.as_str(), session.device()), ("@_irc_bot:here.example", None));
    assert!(!session.is_limited());

    let assert = |user: &str, device: Option<&str>| rig.accounts.authenticate_as(&service, Some(user), device);
    assert!(matches!(assert("@alice:here.example", None), Err(AssertIdentityError::NotCovered)));
    assert!(matches!(assert("@_irc_bob:here.example", None), Err(AssertIdentityError::NotRegistered)));
    assert!(matches!(assert("alice", None), Err(AssertIdentityError::InvalidUserId)));
    let device = NewDevice { device_id: Some("PHONE".into()), ..NewDevice::default() };
    rig.accounts.register_for(&service, "_irc_bob", Some(&device)).await.unwrap();
    assert!(matches!(assert("@_irc_bob:here.example", Some("OTHER")), Err(AssertIdentityError::UnknownDevice)));
    let session = assert("@_irc_bob:here.example", Some("PHONE")).unwrap();
    assert_eq!(session.device().unwrap(), "PHONE");
}
