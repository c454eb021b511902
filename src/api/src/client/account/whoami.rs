//! GET /_matrix/client/v3/account/whoami (client-server API, "Current account information").

use ruma::api::client::account::whoami::v3::Response;

use crate::extract::{Authenticated, RumaResponse};

pub async fn handle(Authenticated(session): Authenticated) -> RumaResponse<Response> {
    RumaResponse(Response { user_id: session.user_id, device_id: Some(session.device_id), is_guest: session.is_guest })
}
