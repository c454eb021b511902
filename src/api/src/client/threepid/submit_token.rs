//! GET and POST /_chappe/email/submit_token: where the links in mails lead.
//!
//! Opening the link only asks; the button on the page validates the address. So what looks at links in mails before people do
//! (filters, previews) validates nothing.

use std::sync::Arc;

use axum::{
    extract::{Query, State},
    response::{IntoResponse, Redirect, Response},
};
use bytes::Bytes;
use chappe_services::emails::{Emails, ProofError};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::{client::mail_page::page, error::ApiError};

#[derive(Deserialize, Serialize)]
pub struct Submission {
    #[serde(default)]
    sid: String,
    #[serde(default)]
    client_secret: String,
    #[serde(default)]
    token: String,
}

impl Submission {
    /// Reads what the page's form sends.
    fn read(form: &[u8]) -> Self {
        let mut submission = Self { sid: String::new(), client_secret: String::new(), token: String::new() };
        for (name, value) in url::form_urlencoded::parse(form) {
            match &*name {
                "sid" => submission.sid = value.into_owned(),
                "client_secret" => submission.client_secret = value.into_owned(),
                "token" => submission.token = value.into_owned(),
                _ => {}
            }
        }
        submission
    }
}

pub async fn ask(
    State(emails): State<Arc<Emails>>,
    Query(submission): Query<Submission>,
) -> Result<Response, ApiError> {
    let values = |service: &str| {
        json!({
            "service": service,
            "sid": submission.sid,
            "client_secret": submission.client_secret,
            "token": submission.token,
        })
    };
    page(&emails, StatusCode::OK, "confirm.page.html", values)
}

pub async fn submit(State(emails): State<Arc<Emails>>, body: Bytes) -> Result<Response, ApiError> {
    let submission = Submission::read(&body);
    let service_alone = |service: &str| json!({ "service": service });
    match emails.submit_token(&submission.sid, &submission.client_secret, &submission.token).await {
        Ok(Some(next_link)) => Ok(Redirect::to(&next_link).into_response()),
        Ok(None) => page(&emails, StatusCode::OK, "confirmed.page.html", service_alone),
        Err(ProofError::Read(error)) => Err(error.into()),
        Err(ProofError::Write(error)) => Err(error.into()),
        Err(_) => page(&emails, StatusCode::BAD_REQUEST, "refused.page.html", service_alone),
    }
}
