use axum::{Router, routing::post};
use chappe_services::{account_data::AccountData, receipts::Receipt};
use ruma::{event_id, room_id, user_id};

use super::{read_markers, send_receipt};
use crate::test_state::{TestState, ask};

struct Setup {
    router: Router,
    state: TestState,
    room: chappe_store::RoomNid,
    alice: String,
    eve: String,
}

async fn setup() -> Setup {
    let state = TestState::new();
    let alice = state.user(user_id!("@alice:a.example")).await;
    let eve = state.user(user_id!("@eve:a.example")).await;
    let room = state.room(room_id!("!r:a.example"), event_id!("$1"), &[user_id!("@alice:a.example")]).await;
    state.room(room_id!("!s:a.example"), event_id!("$elsewhere"), &[user_id!("@alice:a.example")]).await;
    let router = Router::new()
        .route("/rooms/{room}/receipt/{type}/{event}", post(send_receipt::handle))
        .route("/rooms/{room}/read_markers", post(read_markers::handle))
        .with_state(state.clone());
    Setup { router, state, room, alice, eve }
}

impl Setup {
    async fn post(&self, path: &str, body: &'static str) -> (u16, String) {
        ask(&self.router, &self.alice, "POST", &format!("/rooms/!r:a.example/{path}"), &[], body).await.refusal()
    }

    fn own(&self) -> Vec<Receipt> {
        self.state.receipts.scan_own(self.room, user_id!("@alice:a.example")).unwrap()
    }

    fn marker(&self) -> Option<String> {
        let account_data = AccountData::new(self.state.store.clone());
        account_data.get(user_id!("@alice:a.example"), Some(room_id!("!r:a.example")), "m.fully_read").unwrap()
    }
}

fn ok() -> (u16, String) {
    (200, String::new())
}

fn invalid() -> (u16, String) {
    (400, "M_INVALID_PARAM".to_owned())
}

#[tokio::test]
async fn receipts_are_kept_by_type_and_thread() {
    let setup = setup().await;
    assert_eq!(setup.post("receipt/m.read/$1", "{}").await, ok());
    assert_eq!(setup.post("receipt/m.read/$1", r#"{"thread_id":"main"}"#).await, ok());
    assert_eq!(setup.post("receipt/m.read.private/$1", "").await, ok());
    let kept: Vec<_> = setup.own().into_iter().map(|receipt| (receipt.receipt_type, receipt.thread_id)).collect();
    let expected = [("m.read", None), ("m.read", Some("main")), ("m.read.private", None)];
    assert_eq!(kept, expected.map(|(kind, thread)| (kind.to_owned(), thread.map(str::to_owned))));
}

#[tokio::test]
async fn invalid_receipts_are_refused() {
    let setup = setup().await;
    assert_eq!(setup.post("receipt/m.read/$1", r#"{"thread_id":""}"#).await, invalid());
    assert_eq!(setup.post("receipt/m.read/$1", r#"{"thread_id":7}"#).await, invalid());
    assert_eq!(setup.post("receipt/m.read/$1", r#"{"thread_id":"elsewhere"}"#).await, invalid());
    assert_eq!(setup.post("receipt/m.fully_read/$1", r#"{"thread_id":"main"}"#).await, invalid());
    assert_eq!(setup.post("receipt/m.seen/$1", "{}").await, invalid());
    assert_eq!(setup.post("receipt/m.read/no_event", "{}").await, invalid());
    assert_eq!(setup.post("receipt/m.read/$elsewhere", "{}").await, invalid());
    assert_eq!(setup.post("receipt/m.read/$1", "{").await, (400, "M_NOT_JSON".to_owned()));
    assert!(setup.own().is_empty());
    let uri = "/rooms/!r:a.example/receipt/m.read/$1";
    assert_eq!(ask(&setup.router, &setup.eve, "POST", uri, &[], "{}").await.refusal(), (403, "M_FORBIDDEN".to_owned()));
    assert_eq!(ask(&setup.router, "", "POST", uri, &[], "{}").await.refusal(), (401, "M_MISSING_TOKEN".to_owned()));
}

#[tokio::test]
async fn read_markers_set_the_marker_and_both_receipts() {
    let setup = setup().await;
    let body = r#"{"m.fully_read":"$1","m.read":"$1","m.read.private":"$1"}"#;
    assert_eq!(setup.post("read_markers", body).await, ok());
    assert_eq!(setup.marker().as_deref(), Some(r#"{"event_id":"$1"}"#));
    assert_eq!(setup.own().len(), 2);
    assert_eq!(setup.post("read_markers", r#"{"m.fully_read":"$elsewhere"}"#).await, invalid());
    assert_eq!(setup.post("read_markers", "{}").await, ok());
}

#[tokio::test]
async fn fully_read_marker_may_be_set_as_a_receipt() {
    let setup = setup().await;
    assert_eq!(setup.post("receipt/m.fully_read/$1", "{}").await, ok());
    assert_eq!(setup.marker().as_deref(), Some(r#"{"event_id":"$1"}"#));
    assert!(setup.own().is_empty());
}
