//! What each request costs: the one layer that counts requests of clients against their limits, whatever endpoint they are for.
//!
//! The class of an endpoint follows from its method and path ([`limit_of`]). Whoever shows an access token is counted as a user, everybody
//! else by address. What only a handler can tell is counted there: whether a room to be joined is a remote one, which account a login is
//! for, and whether a proof of identity was sent. Requests of other servers are not counted here.

use axum::{
    extract::{FromRequestParts, MatchedPath, Request, State},
    middleware::Next,
    response::{IntoResponse, Response},
};
use futures_util::future::Either;
use http::Method;

use crate::{
    App,
    extract::{AppService, ClientAddress, OptionalUser, Recognised},
    rate_limit::Limit,
};

/// Counts a request, and answers it with M_LIMIT_EXCEEDED if it is one too many.
///
/// Not an `async fn`: a long poll is not counted, and holds nothing of this while it waits.
pub(crate) fn count(State(app): State<App>, request: Request, next: Next) -> impl Future<Output = Response> {
    let limit = request
        .extensions()
        .get::<MatchedPath>()
        .and_then(|path| limit_of(request.method(), path.as_str()))
        .filter(|_| app.rate_limits.is_enabled());
    match limit {
        None => Either::Left(next.run(request)),
        Some(limit) => Either::Right(Box::pin(count_against(limit, app, request, next))),
    }
}

async fn count_against(limit: Limit, app: App, request: Request, next: Next) -> Response {
    let (mut parts, body) = request.into_parts();
    let Ok(ClientAddress(address)) = ClientAddress::from_request_parts(&mut parts, &app).await;
    let checked = if limit.counts_addresses() {
        match AppService::from_request_parts(&mut parts, &app).await {
            Ok(AppService(service)) if !service.rate_limited => Ok(()),
            _ => app.rate_limits.check_address(limit, address),
        }
    } else {
        match OptionalUser::from_request_parts(&mut parts, &app).await {
            Ok(OptionalUser(Some(session))) => {
                let checked = app.rate_limits.check_session(limit, &session);
                // So that the handler need not find out again.
                parts.extensions.insert(Recognised(session));
                checked
            }
            // What is wrong with the token is for the handler to say.
            Ok(OptionalUser(None)) | Err(_) => app.rate_limits.check_address(limit, address),
        }
    };
    match checked {
        Ok(()) => next.run(Request::from_parts(parts, body)).await,
        Err(error) => error.into_response(),
    }
}

/// The limit that requests to an endpoint are counted against; `None`: they are not counted.
fn limit_of(method: &Method, path: &str) -> Option<Limit> {
    if path.starts_with("/_matrix/media/") {
        return Some(Limit::Media);
    }
    let mut segments = path.strip_prefix("/_matrix/client/")?.split('/');
    // What is unstable has a version, and the name of its proposal.
    if segments.next()? == "unstable" {
        segments.next()?;
    }
    let rest: Vec<&str> = segments.collect();
    let is_get = method == Method::GET;
    Some(match rest.as_slice() {
        ["versions" | "capabilities"] | ["login"] if is_get => return None,
        // A long poll costs nothing while it waits; one that does not wait is held back by what it reads.
        ["sync"] => return None,
        ["login"] => Limit::LoginAddress,
        ["register", "available"] => Limit::Registration,
        ["account" | "register", .., "requestToken"] => Limit::EmailToken,
        ["register", "m.login.registration_token", "validity"] => Limit::RegistrationTokenValidity,
        ["delayed_events", ..] if !is_get => Limit::DelayedEvent,
        ["createRoom"] | ["rooms", _, "upgrade"] => Limit::CreateRoom,
        ["rooms", _, "invite"] => Limit::Invite,
        ["rooms", _, "send" | "state" | "redact" | "delayed_event", ..] if !is_get => Limit::Message,
        ["media", ..] => Limit::Media,
        ["search" | "publicRooms" | "mutual_rooms"]
        | ["user_directory", "search"]
        | ["keys", "query" | "claim"]
        | ["profile" | "room_summary" | "rooms_summary", ..]
        | [
            "rooms",
            _,
            "hierarchy" | "timestamp_to_event" | "messages" | "context" | "relations" | "threads" | "summary",
            ..,
        ] => Limit::Costly,
        _ if is_get => Limit::Read,
        _ => Limit::Write,
    })
}

#[cfg(test)]
mod tests {
    use http::{Method, StatusCode};
    use serde_json::json;

    use super::*;
    use crate::{
        rate_limit::Rate,
        route::inventory,
        test_app::{TestApp, TestConfig},
    };

    #[test]
    fn endpoints_are_counted_by_what_they_cost() {
        for (method, path, expected) in [
            (Method::PUT, "/_matrix/client/v3/rooms/{room_id}/send/{event_type}/{txn_id}", Some(Limit::Message)),
            (Method::PUT, "/_matrix/client/r0/rooms/{room_id}/state/{event_type}/", Some(Limit::Message)),
            (Method::GET, "/_matrix/client/v3/rooms/{room_id}/state", Some(Limit::Read)),
            (Method::GET, "/_matrix/client/unstable/org.matrix.msc4140/delayed_events", Some(Limit::Read)),
            (
                Method::POST,
                "/_matrix/client/unstable/org.matrix.msc4140/delayed_events/{delay_id}/{action}",
                Some(Limit::DelayedEvent),
            ),
            (Method::POST, "/_matrix/client/v3/login", Some(Limit::LoginAddress)),
            (Method::POST, "/_matrix/client/v3/account/3pid/email/requestToken", Some(Limit::EmailToken)),
            (Method::POST, "/_matrix/client/v3/register/email/requestToken", Some(Limit::EmailToken)),
            (Method::GET, "/_matrix/client/v3/login", None),
            (Method::GET, "/_matrix/client/v3/sync", None),
            (Method::POST, "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync", None),
            (Method::GET, "/_matrix/client/v1/media/download/{server_name}/{media_id}", Some(Limit::Media)),
            (Method::POST, "/_matrix/media/v3/upload", Some(Limit::Media)),
            (Method::POST, "/_matrix/client/v3/keys/query", Some(Limit::Costly)),
            (Method::POST, "/_matrix/client/v3/keys/upload", Some(Limit::Write)),
            (Method::PUT, "/_matrix/federation/v1/send/{transaction_id}", None),
        ] {
            assert_eq!(limit_of(&method, path), expected, "{method} {path}");
        }
    }

    #[test]
    fn every_endpoint_by_which_a_client_changes_something_is_counted() {
        inventory::take();
        let _router = crate::endpoints();
        for endpoint in inventory::take() {
            let is_client =
                endpoint.path.starts_with("/_matrix/client/") || endpoint.path.starts_with("/_matrix/media/");
            let is_sync = endpoint.path.ends_with("/sync");
            if is_client && !is_sync && endpoint.method != Method::GET {
                assert!(limit_of(&endpoint.method, &endpoint.path).is_some(), "{} {}", endpoint.method, endpoint.path);
            }
        }
    }

    #[tokio::test]
    async fn users_are_counted_apart_and_told_when_to_come_back() {
        let mut config = TestConfig::default();
        config.rate_limits.enabled = true;
        config.rate_limits.write = Rate { per_second: 1.0, burst: 2 };
        config.rate_limits.exempt_users = vec![ruma::owned_user_id!("@carol:chappe.example")];
        let server = TestApp::with(config);
        let mut tokens = Vec::new();
        for name in ["alice", "bob", "carol"] {
            tokens.push(server.register(name).await);
        }
        let put = async |name: &str, token: &str| {
            let path = format!("/_matrix/client/v3/user/@{name}:chappe.example/account_data/org.example.a");
            server.put(&path, Some(token), json!({ "a": 1 })).await
        };
        for _ in 0..2 {
            assert_eq!(put("alice", &tokens[0]).await.0, StatusCode::OK);
        }
        let (status, answer) = put("alice", &tokens[0]).await;
        assert_eq!((status, &answer["errcode"]), (StatusCode::TOO_MANY_REQUESTS, &"M_LIMIT_EXCEEDED".into()));
        assert_eq!(answer["retry_after_ms"], 1000);
        assert_eq!(put("bob", &tokens[1]).await.0, StatusCode::OK);
        for _ in 0..5 {
            assert_eq!(put("carol", &tokens[2]).await.0, StatusCode::OK, "she is exempt");
        }
        server.clock.advance(1000);
        assert_eq!(put("alice", &tokens[0]).await.0, StatusCode::OK);
    }
}
