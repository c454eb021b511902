//! The services that the tests of media, typing, receipts and presence need, over a store in memory: less than a whole
//! [`crate::App`], which the handlers do not see.

use std::{sync::Arc, time::Duration};

use axum::{Router, body::Body, extract::FromRef};
use bytes::Bytes;
use chappe_protocol::clock::{Clock, ManualClock};
use chappe_services::{
    accounts::{Accounts, AccountsConfig, NewDevice},
    devices::Devices,
    edu::VolatileEdus,
    media::{
        Media, MediaConfig,
        remote::{FetchMediaError, MediaTransport, RemoteBody},
    },
    presence::Presence,
    receipts::Receipts,
    typing::Typing,
};
use chappe_store::{
    Batch, EventNid, RoomNid, Stamped, Store,
    tables::{
        events::{EVENT_NIDS, EVENTS, EventRecord, EventStatus},
        rooms::{MEMBERS, MemberRecord, USER_ROOMS},
    },
};
use futures_util::{FutureExt, future::BoxFuture};
use http::{HeaderMap, Request, StatusCode};
use ruma::{EventId, RoomId, ServerName, UserId, api::federation::transactions::edu::Edu, event_id, server_name};
use serde_json::Value as JsonValue;
use tower::ServiceExt;

use crate::{extract::TrustedProxies, test_accounts::put_accounts};

#[derive(Clone, FromRef)]
pub(crate) struct TestState {
    pub(crate) accounts: Arc<Accounts>,
    pub(crate) devices: Arc<Devices>,
    pub(crate) trusted_proxies: Arc<TrustedProxies>,
    pub(crate) media: Media,
    pub(crate) typing: Arc<Typing>,
    pub(crate) receipts: Arc<Receipts>,
    pub(crate) presence: Arc<Presence>,
    #[from_ref(skip)]
    pub(crate) store: Store,
    #[from_ref(skip)]
    _dir: Arc<tempfile::TempDir>,
}

/// A server that nobody can be reached from.
struct Alone;

impl MediaTransport for Alone {
    fn fetch_media<'a>(
        &'a self,
        server: &'a ServerName,
        _: &'a str,
    ) -> BoxFuture<'a, Result<RemoteBody, FetchMediaError>> {
        async move { Err(FetchMediaError::Unreachable { server: server.to_owned(), cause: "no network".to_owned() }) }
            .boxed()
    }
}

impl VolatileEdus for Alone {
    fn send_edu_volatile(&self, _: &ServerName, _: &Edu) {}
}

impl TestState {
    pub(crate) fn new() -> Self {
        Self::with_media(MediaConfig { upload_bytes_max: 100_000, ..MediaConfig::default() })
    }

    pub(crate) fn with_media(config: MediaConfig) -> Self {
        let store = Store::in_memory();
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(1_700_000_000_000));
        let name = server_name!("a.example").to_owned();
        let dir = tempfile::tempdir().unwrap();
        let alone = Arc::new(Alone);
        Self {
            accounts: Arc::new(Accounts::new(store.clone(), clock.clone(), AccountsConfig::new(name.clone())).unwrap()),
            devices: Arc::new(Devices::new(store.clone(), clock.clone())),
            trusted_proxies: Arc::default(),
            media: Media::open(dir.path(), store.clone(), name.clone(), clock.clone(), alone.clone(), config).unwrap(),
            typing: Arc::new(Typing::new(store.clone(), name.clone(), clock.clone(), alone.clone())),
            receipts: Arc::new(Receipts::new(store.clone(), name.clone(), clock.clone())),
            presence: Arc::new(Presence::new(store.clone(), name, clock, alone, true)),
            store,
            _dir: Arc::new(dir),
        }
    }

    /// An account, and an access token to it.
    pub(crate) async fn user(&self, user_id: &UserId) -> String {
        put_accounts(&self.store, &[user_id]).await;
        self.accounts.create_session(user_id, &NewDevice::default()).await.unwrap().tokens.access
    }

    /// A room in which these users are joined, with one event.
    pub(crate) async fn room(&self, room_id: &RoomId, event_id: &EventId, users: &[&UserId]) -> RoomNid {
        let room = self.store.interner().intern_room(&self.store, room_id).unwrap();
        let nid = self.store.interner().next_event();
        let mut batch = Batch::new();
        for user_id in users {
            let position = batch.next_position();
            let value = MemberRecord {
                membership: "join".to_owned(),
                event: Some(EventNid(1)),
                event_id: event_id!("$join").to_owned(),
                sender: (*user_id).to_owned(),
                display_name: None,
                avatar_url: None,
            };
            batch.put(&MEMBERS, &(room, (*user_id).to_owned()), &Stamped { position, value: value.clone() });
            batch.put(&USER_ROOMS, &((*user_id).to_owned(), room), &Stamped { position, value });
        }
        let event = EventRecord {
            room,
            event_id: event_id.to_owned(),
            status: EventStatus::Accepted,
            depth: 1,
            redacted_because: None,
            state_before: None,
            state_after: None,
            auth_events: Vec::new(),
            reason: None,
            sent_by: None,
        };
        batch.put(&EVENTS, &nid, &event);
        batch.put(&EVENT_NIDS, &event_id.to_owned(), &nid);
        self.store.commit(batch).await.unwrap();
        room
    }
}

/// What a request was answered with.
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

impl Answer {
    pub(crate) fn json(&self) -> JsonValue {
        serde_json::from_slice(&self.body).unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap().to_str().unwrap()
    }

    /// Status and errcode.
    pub(crate) fn refusal(&self) -> (u16, String) {
        (self.status.as_u16(), self.json()["errcode"].as_str().unwrap_or_default().to_owned())
    }
}

/// Makes a request, with an access token unless it is empty.
pub(crate) async fn ask(
    router: &Router,
    token: &str,
    method: &str,
    uri: &str,
    headers: &[(&str, &str)],
    body: impl Into<Body>,
) -> Answer {
    let mut request = Request::builder().method(method).uri(uri);
    if !token.is_empty() {
        request = request.header("authorization", format!("Bearer {token}"));
    }
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(body.into()).unwrap();
    let response =
        tokio::time::timeout(Duration::from_secs(20), router.clone().oneshot(request)).await.unwrap().unwrap();
    let (parts, body) = response.into_parts();
    let body = axum::body::to_bytes(body, 10_000_000).await.unwrap();
    Answer { status: parts.status, headers: parts.headers, body }
}
