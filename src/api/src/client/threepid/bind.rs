//! POST /_matrix/client/v3/account/3pid/bind (client-server API, "Adding Account Administrative Contact Information").
//!
//! This server uses no identity server, so it trusts none with its users' addresses.

use http::StatusCode;
use ruma::api::{
    client::account::bind_3pid::v3::{Request, Response},
    error::ErrorCode,
};

use crate::{
    error::ApiError,
    extract::{Ruma, RumaResponse, User},
};

pub async fn handle(_: User, Ruma(request): Ruma<Request>) -> Result<RumaResponse<Response>, ApiError> {
    let server = request.identity_server_info.id_server;
    Err(ApiError::new(
        StatusCode::BAD_REQUEST,
        ErrorCode::ServerNotTrusted,
        format!("This server does not use the identity server {server}"),
    ))
}
