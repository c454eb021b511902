//! GET /_matrix/client/v3/login (client-server API, "Login").

use ruma::api::client::session::get_login_types::v3::{LoginType, PasswordLoginType, Response, TokenLoginType};

use crate::extract::RumaResponse;

pub async fn handle() -> RumaResponse<Response> {
    let flows = vec![
        LoginType::Password(PasswordLoginType {}),
        LoginType::Token(TokenLoginType { get_login_token: true }),
    ];
    RumaResponse(Response { flows })
}
