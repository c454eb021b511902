//! The fallback page of the email stage, part of [`auth_fallback`](super::auth_fallback): it asks for an address, has a mail written to it, and
//! waits until the link in it was opened.
//!
//! Nothing is kept of this but what the page sends back: the proof that was begun.

use std::net::IpAddr;

use chappe_services::{
    emails::{ProofError, RequestTokenError},
    uia::{EmailProofBegun, Uia},
};

use super::auth_fallback::{escape, unknown_session};
use crate::{
    error::ApiError,
    rate_limit::{Limit, RateLimits},
};

/// Asks for an address.
pub(super) const ASK: &str = "<form method=\"post\"><p><label>Email address: \
     <input name=\"email\" type=\"email\" autocomplete=\"email\" required></label></p>\
     <button type=\"submit\">Send me a mail</button></form>";

/// What the page sends back: first the address, then the proof that was begun with it.
#[derive(Default)]
struct Form {
    email: String,
    sid: String,
    client_secret: String,
}

impl Form {
    fn read(body: &[u8]) -> Self {
        let mut form = Self::default();
        for (name, value) in url::form_urlencoded::parse(body) {
            match &*name {
                "email" => form.email = value.into_owned(),
                "sid" => form.sid = value.into_owned(),
                "client_secret" => form.client_secret = value.into_owned(),
                _ => {}
            }
        }
        form
    }
}

/// Goes one step on with what the page sent. The answer is what to show next; `None`: the stage is complete.
pub(super) async fn go_on(
    uia: &Uia,
    limits: &RateLimits,
    address: Option<IpAddr>,
    session: &str,
    body: &[u8],
) -> Result<Option<String>, ApiError> {
    let form = Form::read(body);
    if !form.sid.is_empty() {
        let begun = EmailProofBegun { sid: form.sid, client_secret: form.client_secret };
        return match uia.complete_email_in_browser(session, &begun) {
            Ok(true) => Ok(None),
            Ok(false) => Err(unknown_session()),
            Err(ProofError::NotValidated) => {
                Ok(Some(format!("<p>The link in the mail has not been opened yet.</p>{}", wait(&begun))))
            }
            Err(ProofError::Unknown) => {
                Ok(Some(format!("<p>This took too long. Please ask for another mail.</p>{ASK}")))
            }
            Err(error) => Err(error.into()),
        };
    }
    limits.check_address(Limit::EmailToken, address)?;
    limits.check_mailbox(Limit::EmailToken, &form.email)?;
    match uia.begin_email_in_browser(session, &form.email).await {
        Ok(Some(begun)) => Ok(Some(wait(&begun))),
        Ok(None) => Err(unknown_session()),
        Err(RequestTokenError::InvalidAddress) => Ok(Some(format!("<p>This is not an email address.</p>{ASK}"))),
        Err(error) => Err(error.into()),
    }
}

/// Waits for the link to be opened.
fn wait(begun: &EmailProofBegun) -> String {
    format!(
        "<form method=\"post\"><p>A mail is on its way to you. Open the link in it, then continue here.</p>\
         <input type=\"hidden\" name=\"sid\" value=\"{}\">\
         <input type=\"hidden\" name=\"client_secret\" value=\"{}\">\
         <button type=\"submit\">Continue</button></form>",
        escape(&begun.sid),
        escape(&begun.client_secret)
    )
}
