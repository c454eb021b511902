//! GET /_matrix/client/v3/sync (client-server API, "Syncing").
//!
//! Takes `org.matrix.msc4222.use_state_after` beside `use_state_after`, and answers under the name that was asked for.

use std::sync::Arc;

use axum::{
    Json,
    body::Body,
    extract::{RawQuery, State},
    response::{IntoResponse, Response},
};
use chappe_services::sync::{FilterChoice, StateStyle, SyncAnswer, SyncRequest, SyncService, first::FirstSync};
use futures_util::stream;
use http::header;
use ruma::api::client::sync::sync_events::v3::Request;

use crate::{
    error::ApiError,
    extract::{Authenticated, Ruma},
};

const UNSTABLE_STATE_AFTER: &str = "org.matrix.msc4222.use_state_after";

/// Not an `async fn`: what waits, for minutes perhaps, should hold no more than it needs, and none of what was parsed.
pub fn handle(
    State(sync): State<Arc<SyncService>>,
    Authenticated(session): Authenticated,
    RawQuery(query): RawQuery,
    Ruma(request): Ruma<Request>,
) -> impl Future<Output = Result<Response, ApiError>> {
    let query = query.as_deref().unwrap_or_default();
    let state_style = match request.use_state_after {
        true => StateStyle::After,
        false if query_value(query, UNSTABLE_STATE_AFTER).as_deref() == Some("true") => StateStyle::AfterUnstable,
        false => StateStyle::Before,
    };
    // No id begins with a brace.
    let filter = match query_value(query, "filter") {
        None => FilterChoice::None,
        Some(text) if text.trim_start().starts_with('{') => FilterChoice::Inline(text),
        Some(id) => FilterChoice::Stored(id),
    };
    let asked = Arc::new(SyncRequest {
        user_id: session.user_id,
        device_id: session.device_id,
        since: request.since,
        filter,
        full_state: request.full_state,
        state_style,
        timeout: request.timeout.unwrap_or_default(),
        set_presence: request.set_presence,
    });
    async move {
        Ok(match sync.sync(asked).await? {
            SyncAnswer::Whole(response) => Json(response).into_response(),
            SyncAnswer::First(first) => {
                ([(header::CONTENT_TYPE, "application/json")], Body::from_stream(chunks(first))).into_response()
            }
        })
    }
}

/// A first answer as it is read. A failure in the middle breaks the connection off: the client must not take what it has for all.
fn chunks(first: Box<FirstSync>) -> impl stream::Stream<Item = Result<bytes::Bytes, ApiError>> {
    stream::try_unfold(first, async |mut first| match first.next_chunk().await {
        Ok(chunk) => Ok(chunk.map(|chunk| (chunk, first))),
        Err(error) => Err(ApiError::from(error)),
    })
}

fn query_value(query: &str, key: &str) -> Option<String> {
    let mut pairs = url::form_urlencoded::parse(query.as_bytes());
    pairs.find(|(name, _)| name == key).map(|(_, value)| value.into_owned())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use http::StatusCode;
    use serde_json::json;

    use crate::test_app::TestApp;

    const SYNC: &str = "/_matrix/client/v3/sync";

    #[tokio::test]
    async fn needs_a_token() {
        let app = TestApp::new();
        let (status, answer) = app.get(SYNC, None).await;
        assert_eq!((status, &answer["errcode"]), (StatusCode::UNAUTHORIZED, &json!("M_MISSING_TOKEN")));
    }

    #[tokio::test]
    async fn next_batch_leads_on_and_key_counts_are_always_there() {
        let app = TestApp::new();
        let alice = app.register("alice").await;
        let (status, first) = app.get(SYNC, Some(&alice)).await;
        assert_eq!(status, StatusCode::OK, "{first}");
        assert_eq!(first["device_one_time_keys_count"], json!({ "signed_curve25519": 0 }));
        assert_eq!(first["device_unused_fallback_key_types"], json!([]));
        let next = first["next_batch"].as_str().unwrap();
        app.put(
            "/_matrix/client/v3/user/@alice:chappe.example/account_data/org.example.x",
            Some(&alice),
            json!({ "a": 1 }),
        )
        .await;
        let (status, second) = app.get(&format!("{SYNC}?since={next}&timeout=10000"), Some(&alice)).await;
        assert_eq!(status, StatusCode::OK, "{second}");
        assert_eq!(second["account_data"]["events"], json!([{ "type": "org.example.x", "content": { "a": 1 } }]));
        let next = second["next_batch"].as_str().unwrap();
        let (_, third) = app.get(&format!("{SYNC}?since={next}"), Some(&alice)).await;
        assert!(third.get("account_data").is_none(), "{third}");
    }

    #[tokio::test]
    async fn malformed_parameters_are_refused() {
        let app = TestApp::new();
        let alice = app.register("alice").await;
        for query in [
            "since=garbage",
            "since=s99999999",
            "since=t1_2",
            "filter=nosuchfilter",
            "filter=%7B%22room%22%3A1%7D",
            "timeout=x",
        ] {
            let (status, answer) = app.get(&format!("{SYNC}?{query}"), Some(&alice)).await;
            assert_eq!((status, &answer["errcode"]), (StatusCode::BAD_REQUEST, &json!("M_INVALID_PARAM")), "{query}");
        }
    }

    #[tokio::test]
    async fn poll_with_nothing_to_tell_ends_at_its_timeout() {
        let app = TestApp::new();
        let alice = app.register("alice").await;
        let (_, first) = app.get(&format!("{SYNC}?set_presence=offline"), Some(&alice)).await;
        let next = first["next_batch"].as_str().unwrap();
        let path = format!("{SYNC}?set_presence=offline&since={next}&timeout=50");
        let (status, answer) =
            tokio::time::timeout(Duration::from_secs(20), app.get(&path, Some(&alice))).await.unwrap();
        assert_eq!(status, StatusCode::OK);
        assert!(answer.get("rooms").is_none(), "{answer}");
    }
}
