//! POST /_matrix/client/v3/account/3pid/unbind (client-server API, "Adding Account Administrative Contact Information").
//!
//! Nothing was ever bound through this server, so there is no identity server to unbind from.

use ruma::api::client::account::{
    ThirdPartyIdRemovalStatus,
    unbind_3pid::v3::{Request, Response},
};

use crate::extract::{Ruma, RumaResponse, User};

pub async fn handle(_: User, Ruma(_): Ruma<Request>) -> RumaResponse<Response> {
    RumaResponse(Response::new(ThirdPartyIdRemovalStatus::NoSupport))
}
