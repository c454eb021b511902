//! `[well_known]`: what `/.well-known/matrix/` answers, for servers whose name is not where they listen.

use ruma::OwnedUserId;
use serde::{Deserialize, Serialize};

use super::Refusals;

/// Answers of the two well-known documents; what is not set is answered with 404.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct WellKnownSection {
    /// `m.server`: host and port other servers shall use for this one.
    pub server: Option<String>,
    /// `m.homeserver`'s `base_url`: where clients reach this server.
    pub client: Option<String>,
    /// A page on which users find help.
    pub support_page: Option<String>,
    /// Whom users and other servers' administrators may turn to.
    pub support_contacts: Vec<SupportContact>,
}

/// Somebody to turn to; by mail, in a room, or both.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct SupportContact {
    pub role: String,
    pub email_address: Option<String>,
    pub matrix_id: Option<OwnedUserId>,
}

impl WellKnownSection {
    pub(super) fn check(&self, refusals: &mut Refusals) {
        if let Some(server) = &self.server
            && ruma::OwnedServerName::try_from(server.as_str()).is_err()
        {
            refusals.add(
                "well_known.server",
                format!("\"{server}\""),
                "a host name and port, such as matrix.agence.example:443",
            );
        }
        for contact in &self.support_contacts {
            if contact.email_address.is_none() && contact.matrix_id.is_none() {
                refusals.add(
                    "well_known.support_contacts",
                    "a contact without address",
                    "one with email_address or matrix_id",
                );
            }
        }
        if let Some(client) = &self.client
            && !(client.starts_with("https://") || client.starts_with("http://"))
        {
            refusals.add("well_known.client", format!("\"{client}\""), "a URL such as https://matrix.agence.example");
        }
    }
}
