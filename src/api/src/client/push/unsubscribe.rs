//! GET and POST /_chappe/email/unsubscribe: where mails about what is unread can be ended, without logging in.
//!
//! Opening the link only asks. Mail programs that offer to unsubscribe post to it (RFC 8058).

use std::sync::Arc;

use axum::{
    extract::{Query, State},
    response::Response,
};
use chappe_services::{
    emails::Emails,
    push::{
        pushers::{EMAIL_APP_ID, PusherKey, Pushers},
        unsubscribe::UnsubscribeError,
    },
};
use http::StatusCode;
use ruma::OwnedUserId;
use serde::Deserialize;
use serde_json::json;

use crate::{client::mail_page::page, error::ApiError};

#[derive(Default, Deserialize)]
pub struct Link {
    #[serde(default)]
    user: String,
    #[serde(default)]
    address: String,
    #[serde(default)]
    code: String,
}

pub async fn ask(State(emails): State<Arc<Emails>>, Query(link): Query<Link>) -> Result<Response, ApiError> {
    let values = |service: &str| json!({ "service": service, "user": link.user, "address": link.address });
    page(&emails, StatusCode::OK, "unsubscribe.page.html", values)
}

pub async fn unsubscribe(
    State(emails): State<Arc<Emails>>,
    State(pushers): State<Arc<Pushers>>,
    Query(link): Query<Link>,
) -> Result<Response, ApiError> {
    let service_alone = |service: &str| json!({ "service": service });
    let ended = match OwnedUserId::try_from(link.user) {
        Ok(user_id) => {
            let key = PusherKey { user_id, app_id: EMAIL_APP_ID.to_owned(), pushkey: link.address };
            pushers.unsubscribe(&key, &link.code).await
        }
        Err(_) => Err(UnsubscribeError::WrongCode),
    };
    match ended {
        Ok(()) => page(&emails, StatusCode::OK, "unsubscribed.page.html", service_alone),
        Err(UnsubscribeError::WrongCode) => page(&emails, StatusCode::BAD_REQUEST, "refused.page.html", service_alone),
        Err(UnsubscribeError::Read(error)) => Err(error.into()),
        Err(UnsubscribeError::Delete(error)) => Err(error.into()),
    }
}
