//! GET /_matrix/client/v3/account/3pid (client-server API, "Adding Account Administrative Contact Information").
//!
//! Third-party identifiers cannot be added to accounts of this server, so nobody has any.

use ruma::api::client::account::get_3pids::v3::Response;

use crate::extract::{RumaResponse, User};

pub async fn handle(User(_): User) -> RumaResponse<Response> {
    RumaResponse(Response::new(Vec::new()))
}
