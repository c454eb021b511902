//! GET /_matrix/client/v3/account/whoami (client-server API, "Current account information").

use ruma::api::client::account::whoami::v3::Response;

use crate::extract::{Authenticated, RumaResponse};

pub async fn handle(Authenticated(session): Authenticated) -> RumaResponse<Response> {
    let device_id = session.device().map(ToOwned::to_owned);
    let mut response = Response::new(session.user_id, session.is_guest);
    response.device_id = device_id;
    RumaResponse(response)
}
