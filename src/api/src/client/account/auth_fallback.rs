//! GET and POST /_matrix/client/v3/auth/{authType}/fallback/web (client-server API, "Fallback").
//!
//! Pages for the stages that a client may not know: agreeing to terms, the registration token, and the email address. What a browser sends
//! back completes the stage; the client then asks again with the session alone.

use std::{fmt::Write, sync::Arc};

use axum::{
    extract::{Query, State},
    response::{Html, IntoResponse, Response},
};
use chappe_services::{
    accounts::Accounts,
    emails::Emails,
    registration::{TermsDocument, TermsPolicy},
    uia::Uia,
};
use http::{HeaderName, StatusCode, header};
use ruma::api::{client::uiaa::AuthType, error::ErrorCode};
use serde::Deserialize;

use super::email_fallback;
use crate::{
    error::ApiError,
    extract::{ClientAddress, PathParams},
    rate_limit::{Limit, RateLimits},
};

pub const PATHS: [&str; 2] =
    ["/_matrix/client/v3/auth/{auth_type}/fallback/web", "/_matrix/client/r0/auth/{auth_type}/fallback/web"];

/// Longest session id; ours are shorter.
const SESSION_LENGTH_MAX: usize = 64;

#[derive(Deserialize)]
pub struct Session {
    session: String,
}

#[derive(Default, Deserialize)]
struct Form {
    #[serde(default)]
    token: String,
}

pub async fn show(
    State(accounts): State<Arc<Accounts>>,
    State(emails): State<Arc<Emails>>,
    PathParams(stage): PathParams<String>,
    query: Result<Query<Session>, axum::extract::rejection::QueryRejection>,
) -> Result<Response, ApiError> {
    check_session(query)?;
    Ok(page(&form(&accounts, stage_of(&stage, &emails)?, "")))
}

pub async fn complete(
    State(accounts): State<Arc<Accounts>>,
    State(emails): State<Arc<Emails>>,
    State(uia): State<Arc<Uia>>,
    State(limits): State<Arc<RateLimits>>,
    ClientAddress(address): ClientAddress,
    PathParams(stage): PathParams<String>,
    query: Result<Query<Session>, axum::extract::rejection::QueryRejection>,
    body: String,
) -> Result<Response, ApiError> {
    limits.check_address(Limit::Registration, address)?;
    let session = check_session(query)?;
    let stage = stage_of(&stage, &emails)?;
    if stage == AuthType::EmailIdentity {
        let shown = email_fallback::go_on(&uia, &limits, address, &session, body.as_bytes()).await?;
        return Ok(page(shown.as_deref().unwrap_or(DONE)));
    }
    if stage == AuthType::RegistrationToken {
        let form_data = format!("/?{body}").parse().ok().and_then(|uri| Query::<Form>::try_from_uri(&uri).ok());
        let token = form_data.map(|Query(form)| form.token).unwrap_or_default();
        if !accounts.is_registration_token(&token) {
            return Ok(page(&form(&accounts, stage, "<p>This token is not known.</p>")));
        }
    }
    if !uia.complete_in_browser(&session, stage) {
        return Err(unknown_session());
    }
    Ok(page(DONE))
}

pub(super) fn unknown_session() -> ApiError {
    ApiError::new(StatusCode::BAD_REQUEST, ErrorCode::Unknown, "The authentication session is unknown or has expired")
}

fn stage_of(name: &str, emails: &Emails) -> Result<AuthType, ApiError> {
    match AuthType::from(name) {
        stage @ (AuthType::Terms | AuthType::RegistrationToken) => Ok(stage),
        stage @ AuthType::EmailIdentity if emails.is_enabled() => Ok(stage),
        _ => Err(ApiError::not_found("There is no page for this kind of authentication")),
    }
}

/// A session id as this server makes them. It may stand in a page as it is.
fn check_session(query: Result<Query<Session>, axum::extract::rejection::QueryRejection>) -> Result<String, ApiError> {
    let Query(Session { session }) = query.map_err(|_| ApiError::missing_param("The session is missing"))?;
    let is_plain = session.len() <= SESSION_LENGTH_MAX && session.bytes().all(|byte| byte.is_ascii_alphanumeric());
    if is_plain { Ok(session) } else { Err(ApiError::invalid_param("This is no session of this server")) }
}

/// Tells the client that the stage is done, as the specification asks.
const DONE: &str = "<p>Thank you. You may close this window and go back to your application.</p>\
<script>if (window.onAuthDone) { window.onAuthDone(); } \
else if (window.opener && window.opener.postMessage) { window.opener.postMessage(\"authDone\", \"*\"); }</script>";

fn form(accounts: &Accounts, stage: AuthType, notice: &str) -> String {
    let mut html = notice.to_owned();
    match stage {
        AuthType::Terms => {
            html.push_str("<p>Please read these documents, and agree to them to go on.</p><ul>");
            for document in accounts.registration_config().terms.iter().filter_map(in_some_language) {
                let (url, name) = (escape(&document.url), escape(&document.name));
                // Writing to a string does not fail.
                let _ = write!(html, "<li><a href=\"{url}\" rel=\"noreferrer\" target=\"_blank\">{name}</a></li>");
            }
            html.push_str("</ul><form method=\"post\"><button type=\"submit\">I agree</button></form>");
        }
        AuthType::EmailIdentity => html.push_str(email_fallback::ASK),
        _ => html.push_str(
            "<form method=\"post\"><p><label>Registration token: <input name=\"token\" autocomplete=\"off\"></label></p>\
             <button type=\"submit\">Continue</button></form>",
        ),
    }
    html
}

/// The document in English if there is such, else in whichever language comes first.
fn in_some_language(policy: &TermsPolicy) -> Option<&TermsDocument> {
    policy.languages.get("en").or_else(|| policy.languages.values().next())
}

pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;").replace('\'', "&#39;")
}

fn page(content: &str) -> Response {
    let html = format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>Registration</title>\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\"></head><body>{content}</body></html>"
    );
    let headers = [
        (
            header::CONTENT_SECURITY_POLICY,
            "default-src 'none'; script-src 'unsafe-inline'; form-action 'self'; base-uri 'none'",
        ),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (HeaderName::from_static("referrer-policy"), "no-referrer"),
    ];
    (headers, Html(html)).into_response()
}
