//! `[server_notices]`: who tells users what the operator has to say.

use serde::{Deserialize, Serialize};

use super::Refusals;

/// Notices come in a room for each user, from a user of this server that nobody can log in as.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServerNoticesSection {
    pub enabled: bool,
    /// The name before the colon of the user that the notices are from.
    pub localpart: String,
    pub display_name: String,
    /// An `mxc://` address.
    pub avatar_url: Option<String>,
    pub room_name: String,
}

impl Default for ServerNoticesSection {
    fn default() -> Self {
        Self {
            enabled: false,
            localpart: "_server".to_owned(),
            display_name: "Server notices".to_owned(),
            avatar_url: None,
            room_name: "Server notices".to_owned(),
        }
    }
}

impl ServerNoticesSection {
    pub(super) fn check(&self, refusals: &mut Refusals) {
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "._=-/+".contains(c);
        // Users' own names do not begin so: nobody can have taken it.
        if !self.localpart.starts_with('_') || !self.localpart.chars().all(allowed) || self.localpart.len() > 100 {
            refusals.add(
                "server_notices.localpart",
                format!("\"{}\"", self.localpart),
                "a name that begins with _, of a-z, 0-9 and . _ = - / +",
            );
        }
        if self.avatar_url.as_ref().is_some_and(|url| !url.starts_with("mxc://")) {
            refusals.add("server_notices.avatar_url", "another address", "an address that begins with mxc://");
        }
    }
}
