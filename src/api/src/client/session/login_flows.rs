//! GET /_matrix/client/v3/login (client-server API, "Login").

use ruma::api::client::session::get_login_types::v3::{
    ApplicationServiceLoginType, LoginType, PasswordLoginType, Response, TokenLoginType,
};

use crate::extract::RumaResponse;

pub async fn handle() -> RumaResponse<Response> {
    let mut token = TokenLoginType::new();
    token.get_login_token = true;
    let flows = vec![
        LoginType::Password(PasswordLoginType::new()),
        LoginType::Token(token),
        LoginType::ApplicationService(ApplicationServiceLoginType::new()),
    ];
    RumaResponse(Response::new(flows))
}
