//! GET /_matrix/client/v3/account/3pid (client-server API, "Adding Account Administrative Contact Information").

use std::sync::Arc;

use axum::extract::State;
use chappe_services::emails::Emails;
use ruma::{
    MilliSecondsSinceUnixEpoch, UInt,
    api::client::account::get_3pids::v3::Response,
    thirdparty::{Medium, ThirdPartyIdentifier, ThirdPartyIdentifierInit},
};

use crate::{
    error::ApiError,
    extract::{RumaResponse, User},
};

pub async fn handle(
    State(emails): State<Arc<Emails>>,
    User(session): User,
) -> Result<RumaResponse<Response>, ApiError> {
    let time = |ms: u64| MilliSecondsSinceUnixEpoch(UInt::new_saturating(ms));
    let shown = emails.scan_emails(&session.user_id)?.into_iter().map(|email| {
        ThirdPartyIdentifier::from(ThirdPartyIdentifierInit {
            address: email.address,
            medium: Medium::Email,
            validated_at: time(email.validated_ms),
            added_at: time(email.added_ms),
        })
    });
    Ok(RumaResponse(Response::new(shown.collect())))
}
