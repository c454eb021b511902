//! POST /_matrix/client/v3/account/3pid/delete (client-server API, "Adding Account Administrative Contact Information").

use std::sync::Arc;

use axum::extract::State;
use chappe_services::emails::Emails;
use ruma::{
    api::client::account::{
        ThirdPartyIdRemovalStatus,
        delete_3pid::v3::{Request, Response},
    },
    thirdparty::Medium,
};

use crate::{
    error::ApiError,
    extract::{Ruma, RumaResponse, User},
};

pub async fn handle(
    State(emails): State<Arc<Emails>>,
    User(session): User,
    Ruma(request): Ruma<Request>,
) -> Result<RumaResponse<Response>, ApiError> {
    if request.medium == Medium::Email {
        emails.delete(&session.user_id, &request.address).await?;
    }
    // Nothing was bound at an identity server, so nothing is unbound there.
    Ok(RumaResponse(Response::new(ThirdPartyIdRemovalStatus::NoSupport)))
}
