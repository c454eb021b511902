//! `[mail]`: the mail server, and what mails carry.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use super::{Refusals, Secret, secret};

/// Mail is sent where there is a host.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields, default)]
pub struct MailSection {
    /// The mail server. Without one no mail is sent.
    pub host: Option<String>,
    /// `None`: 587 with "starttls", 465 with "implicit", 25 with "off".
    pub port: Option<u16>,
    pub tls: MailTls,
    pub user: Option<String>,
    pub password: Option<Secret>,
    /// A file that holds the password, in place of `password`.
    pub password_file: Option<PathBuf>,
    /// The sender.
    pub from: Option<String>,
    /// A directory with templates in place of the built-in ones.
    pub templates: Option<PathBuf>,
    /// Where browsers reach this server, for the links in mails. `None`: as in `well_known.client`, else https and the server's name.
    pub public_url: Option<String>,
    /// Hosts that browsers are sent on to, once their user has proven an address.
    pub next_link_hosts: Vec<String>,
}

/// How the connection to the mail server is protected.
#[derive(Clone, Copy, Debug, Default, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum MailTls {
    #[default]
    StartTls,
    Implicit,
    Off,
}

impl MailSection {
    pub(super) fn check(&self, refusals: &mut Refusals) {
        if self.host.is_some() && self.from.is_none() {
            refusals.add(
                "mail.from",
                "nothing",
                "an address such as \"Chappe <chappe@agence.example>\", as mail.host is set",
            );
        }
        if self.password.is_some() && self.password_file.is_some() {
            refusals.add("mail.password_file", "a path, beside mail.password", "one of the two");
        }
        let has_password = self.password.is_some() || self.password_file.is_some();
        if self.user.is_some() != has_password {
            refusals.add("mail.user", "one of user and password", "both, or none of the two");
        }
        let is_url = |text: &str| {
            text.parse::<url::Url>().is_ok_and(|url| matches!(url.scheme(), "http" | "https") && url.has_host())
        };
        for host in &self.next_link_hosts {
            if url::Host::parse(host).map(|parsed| parsed.to_string()) != Ok(host.to_ascii_lowercase()) {
                refusals.add("mail.next_link_hosts", host, "host names such as chat.agence.example");
            }
        }
        if let Some(found) = self.public_url.as_ref().filter(|text| !is_url(text)) {
            refusals.add("mail.public_url", found, "an https URL such as https://matrix.agence.example");
        }
    }

    /// Fills `password` from its file. Returns what cannot be read, as (key, found, allowed).
    pub(super) fn read_secret_files(&mut self) -> Vec<(String, String, String)> {
        let mut refusals = Refusals::default();
        let password = secret::read_file(&mut refusals, "mail.password_file", self.password_file.as_deref());
        self.password = self.password.take().or(password);
        refusals.0
    }
}
