//! Answers with very many events or ids in them, written while those are read: a whole state need not be in memory to be told.
//!
//! The next piece is read when the one before has been sent, on a thread that may wait for the disk. A failure in the middle breaks the connection
//! off: whoever asked must not take what it has for all.

use axum::{
    body::Body,
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use chappe_rooms::told::ToldEvents;
use futures_util::stream;
use http::header;
use serde::Serialize;

use crate::error::ApiError;

/// How many bytes a piece has, at least, unless it is the last: one event more may be on top.
const PIECE_BYTES: usize = 64 * 1024;

/// What of the events a list has.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Told {
    Whole,
    Ids,
}

/// For an answer that has nothing but lists.
#[derive(Serialize)]
pub struct NoFields {}

/// A JSON object that has lists of events beside other fields.
pub struct EventLists {
    /// What has been written and not yet sent.
    written: String,
    lists: std::vec::IntoIter<(&'static str, ToldEvents)>,
    told: Told,
    /// The list under way, and whether it has an event yet.
    current: Option<(ToldEvents, bool)>,
    /// What comes after the object.
    end: &'static str,
    has_fields: bool,
    is_done: bool,
}

impl EventLists {
    /// `fields` is an object, whose fields come before the lists.
    pub fn new(fields: &impl Serialize, told: Told, lists: Vec<(&'static str, ToldEvents)>) -> Result<Self, ApiError> {
        let mut written = serde_json::to_string(fields).map_err(ApiError::internal)?;
        // The object goes on.
        written.pop();
        let has_fields = written.len() > 1;
        Ok(Self { written, lists: lists.into_iter(), told, current: None, end: "}", has_fields, is_done: false })
    }

    /// The same as the second of a pair whose first is 200, as the first versions of some answers are.
    pub fn after_status(mut self) -> Self {
        self.written.insert_str(0, "[200,");
        self.end = "}]";
        self
    }

    /// Writes on until there is a piece; `None` after the last.
    fn next_piece(&mut self) -> Result<Option<Bytes>, ApiError> {
        while !self.is_done && self.written.len() < PIECE_BYTES {
            self.write_on()?;
        }
        if self.written.is_empty() {
            return Ok(None);
        }
        Ok(Some(Bytes::from(std::mem::take(&mut self.written))))
    }

    fn write_on(&mut self) -> Result<(), ApiError> {
        let Some((events, has_events)) = &mut self.current else {
            match self.lists.next() {
                Some((name, events)) => {
                    let comma = if std::mem::replace(&mut self.has_fields, true) { "," } else { "" };
                    self.written.extend([comma, "\"", name, "\":["]);
                    self.current = Some((events, false));
                }
                None => {
                    self.written.push_str(self.end);
                    self.is_done = true;
                }
            }
            return Ok(());
        };
        let next = match self.told {
            Told::Whole => events.next_text().map_err(ApiError::internal)?,
            Told::Ids => match events.next_id().map_err(ApiError::internal)? {
                Some(id) => Some(serde_json::to_string(&id).map_err(ApiError::internal)?),
                None => None,
            },
        };
        match next {
            Some(text) => {
                if std::mem::replace(has_events, true) {
                    self.written.push(',');
                }
                self.written.push_str(&text);
            }
            None => {
                self.written.push(']');
                self.current = None;
            }
        }
        Ok(())
    }
}

impl IntoResponse for EventLists {
    fn into_response(self) -> Response {
        let pieces = stream::try_unfold(self, async |mut lists| {
            let read = move || lists.next_piece().map(|piece| piece.map(|piece| (piece, lists)));
            tokio::task::spawn_blocking(read).await.map_err(ApiError::internal)?
        });
        ([(header::CONTENT_TYPE, "application/json")], Body::from_stream(pieces)).into_response()
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;
    use serde_json::{Value as JsonValue, json};

    use super::*;
    use crate::test_app::TestApp;

    /// The pieces of an answer.
    async fn pieces(lists: EventLists) -> Vec<Bytes> {
        let mut body = lists.into_response().into_body();
        let mut pieces = Vec::new();
        while let Some(frame) = body.frame().await {
            pieces.extend(frame.expect("a frame").into_data());
        }
        pieces
    }

    fn parsed(pieces: &[Bytes]) -> JsonValue {
        serde_json::from_slice(&pieces.concat()).expect("JSON")
    }

    #[tokio::test]
    async fn large_state_goes_out_in_pieces_and_whole() {
        let app = TestApp::new();
        let alice = app.register("alice").await;
        let (_, room) = app.post("/_matrix/client/v3/createRoom", Some(&alice), json!({})).await;
        let room_id = room["room_id"].as_str().expect("a room");
        let filling = "x".repeat(2_000);
        let mut last = JsonValue::Null;
        for n in 0..200 {
            let path = format!("/_matrix/client/v3/rooms/{room_id}/state/org.example.filling/{n}");
            last = app.put(&path, Some(&alice), json!({ "body": filling })).await.1;
        }
        let rooms = app.app.rooms.clone();
        let (room_id, last) = (ruma::RoomId::parse(room_id).expect("id"), last["event_id"].as_str().expect("sent"));
        let last = ruma::EventId::parse(last).expect("id");
        let (state, auth_chain) = rooms.get_state_for_server(rooms.server_name(), &room_id, &last).expect("state");
        let (state_ids, chain_ids) =
            (state.clone().read_all_ids().expect("ids"), auth_chain.clone().read_all_ids().expect("ids"));

        let lists = vec![("pdus", state.clone()), ("auth_chain", auth_chain.clone())];
        let whole = pieces(EventLists::new(&json!({ "origin": "a" }), Told::Whole, lists).expect("lists")).await;
        assert!(whole.len() > 4, "{} pieces", whole.len());
        assert!(whole.iter().all(|piece| piece.len() < PIECE_BYTES + 70_000));
        let answer = parsed(&whole);
        assert_eq!(answer["origin"], "a");
        assert_eq!(answer["pdus"].as_array().expect("events").len(), state_ids.len());
        assert_eq!(answer["auth_chain"].as_array().expect("events").len(), chain_ids.len());
        let filled =
            answer["pdus"].as_array().expect("events").iter().filter(|event| event["content"]["body"] == *filling);
        assert_eq!(filled.count(), 199, "the state before the last event");

        let lists = vec![("pdu_ids", state), ("auth_chain_ids", auth_chain)];
        let ids = pieces(EventLists::new(&json!({}), Told::Ids, lists).expect("lists").after_status()).await;
        assert_eq!(parsed(&ids), json!([200, { "pdu_ids": state_ids, "auth_chain_ids": chain_ids }]));
    }
}
