//! GET /_matrix/client/v3/voip/turnServer (client-server API, "Voice over IP").

use std::{sync::Arc, time::Duration};

use axum::extract::State;
use chappe_services::turn::Turn;
use ruma::api::client::voip::get_turn_server_info::v3::Response;

use crate::{
    error::ApiError,
    extract::{Authenticated, RumaResponse},
};

pub async fn handle(
    State(turn): State<Arc<Turn>>,
    Authenticated(session): Authenticated,
) -> Result<RumaResponse<Response>, ApiError> {
    let given = turn.credentials(&session)?;
    let lifetime = Duration::from_secs(given.lifetime_s);
    Ok(RumaResponse(Response::new(given.username, given.password, given.uris, lifetime)))
}

#[cfg(test)]
mod tests {
    use http::StatusCode;

    use crate::test_app::{TestApp, TestConfig};

    const PATH: &str = "/_matrix/client/v3/voip/turnServer";

    #[tokio::test]
    async fn users_get_credentials_and_guests_do_not() {
        let mut config = TestConfig::default();
        config.accounts.registration.allow_guests = true;
        let server = TestApp::with(config);
        let token = server.register("alice").await;
        let (status, answer) = server.get(PATH, Some(&token)).await;
        assert_eq!((status, &answer["uris"][0]), (StatusCode::OK, &"turn:turn.chappe.example".into()));
        assert_eq!((&answer["ttl"], &answer["username"]), (&3600.into(), &"shared".into()));
        assert_eq!(server.get(PATH, None).await.1["errcode"], "M_MISSING_TOKEN");
        let guest = server.app.accounts.register_guest(None, false).await.unwrap();
        let (status, answer) = server.get(PATH, Some(&guest.tokens.access)).await;
        assert_eq!((status, &answer["errcode"]), (StatusCode::FORBIDDEN, &"M_GUEST_ACCESS_FORBIDDEN".into()));
    }
}
