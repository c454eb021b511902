//! What an operator may set, and where it is read from.
//!
//! One file per section; [`Config`] is their sum, in the order of `conduit.toml.example`. This module reads
//! the file and the environment (see [`load`]) and checks what only makes sense together; it opens nothing
//! else, binds nothing, and no other module reads the environment or the configuration file.

mod app_services;
mod delayed_events;
mod environment;
mod error;
#[cfg(test)]
mod example;
mod federation;
mod file;
mod listen;
mod load;
mod log;
mod login;
mod mail;
mod media;
mod metrics;
mod password;
mod presence;
mod rate_limits;
mod registration;
mod rooms;
mod search;
mod secret;
mod server_notices;
mod storage;
mod terms;
mod tls;
mod turn;
mod values;
mod well_known;

use std::path::PathBuf;

use ruma::OwnedServerName;
use serde::{Deserialize, Serialize};

pub use self::{
    app_services::AppServicesSection,
    delayed_events::DelayedEventsSection,
    error::{ConfigError, Problem},
    federation::FederationSection,
    listen::{ListenAddress, ListenSection},
    load::{Loaded, Origin, load},
    log::{LogFormat, LogSection},
    login::LoginSection,
    mail::{MailSection, MailTls},
    media::{MediaSection, PreviewsSection},
    metrics::MetricsSection,
    password::PasswordSection,
    presence::PresenceSection,
    rate_limits::{Rate, RateLimitsSection},
    registration::{RegistrationMode, RegistrationSection},
    rooms::{DefaultEncryption, RoomsSection},
    search::SearchSection,
    secret::Secret,
    server_notices::ServerNoticesSection,
    storage::{Durability, StorageSection},
    terms::{TermsDocument, TermsPolicy, TermsSection},
    tls::TlsSection,
    turn::TurnSection,
    well_known::{SupportContact, WellKnownSection},
};

/// The whole configuration. Every section may be left out; only `server_name` has no default.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The name after the colon in user ids, for ever.
    #[serde(deserialize_with = "values::server_name")]
    pub server_name: OwnedServerName,
    /// The directory that holds everything the server must not lose.
    #[serde(default = "default_data_dir")]
    pub data_dir: PathBuf,
    #[serde(default)]
    pub listen: ListenSection,
    #[serde(default)]
    pub tls: TlsSection,
    #[serde(default)]
    pub well_known: WellKnownSection,
    #[serde(default)]
    pub registration: RegistrationSection,
    #[serde(default)]
    pub login: LoginSection,
    #[serde(default)]
    pub password: PasswordSection,
    #[serde(default)]
    pub terms: TermsSection,
    #[serde(default)]
    pub federation: FederationSection,
    #[serde(default)]
    pub rooms: RoomsSection,
    #[serde(default)]
    pub delayed_events: DelayedEventsSection,
    #[serde(default)]
    pub presence: PresenceSection,
    #[serde(default)]
    pub mail: MailSection,
    #[serde(default)]
    pub media: MediaSection,
    #[serde(default)]
    pub turn: TurnSection,
    #[serde(default)]
    pub search: SearchSection,
    #[serde(default)]
    pub server_notices: ServerNoticesSection,
    #[serde(default)]
    pub appservices: AppServicesSection,
    #[serde(default)]
    pub storage: StorageSection,
    #[serde(default)]
    pub rate_limits: RateLimitsSection,
    #[serde(default)]
    pub metrics: MetricsSection,
    #[serde(default)]
    pub log: LogSection,
}

fn default_data_dir() -> PathBuf {
    PathBuf::from("./data")
}

impl Config {
    /// The defaults, for a server of this name.
    pub fn new(server_name: OwnedServerName) -> Self {
        Self {
            server_name,
            data_dir: default_data_dir(),
            listen: ListenSection::default(),
            tls: TlsSection::default(),
            well_known: WellKnownSection::default(),
            registration: RegistrationSection::default(),
            login: LoginSection::default(),
            password: PasswordSection::default(),
            terms: TermsSection::default(),
            federation: FederationSection::default(),
            rooms: RoomsSection::default(),
            delayed_events: DelayedEventsSection::default(),
            presence: PresenceSection::default(),
            mail: MailSection::default(),
            media: MediaSection::default(),
            turn: TurnSection::default(),
            search: SearchSection::default(),
            server_notices: ServerNoticesSection::default(),
            appservices: AppServicesSection::default(),
            storage: StorageSection::default(),
            rate_limits: RateLimitsSection::default(),
            metrics: MetricsSection::default(),
            log: LogSection::default(),
        }
    }

    /// The embedded configuration for trying the server out on one machine: reachable only from this
    /// machine, open registration, no federation. Used when no file and no `CHAPPE_` variable is found.
    pub fn trial() -> Self {
        let mut config = Self::new(ruma::owned_server_name!("localhost"));
        config.listen.federation.clear();
        config.federation.enabled = false;
        config.registration.mode = RegistrationMode::Open;
        config
    }

    /// Every value that is well-formed alone but not allowed here, as (key, found, allowed).
    fn check(&self) -> Vec<(String, String, String)> {
        let mut refusals = Refusals::default();
        if self.data_dir.as_os_str().is_empty() {
            refusals.add("data_dir", "an empty path", "the path of a directory");
        }
        self.listen.check(&mut refusals);
        self.tls.check(&mut refusals);
        self.well_known.check(&mut refusals);
        self.registration.check(&mut refusals);
        self.login.check(&mut refusals);
        self.password.check(&mut refusals);
        self.terms.check(&mut refusals);
        self.federation.check(&mut refusals);
        self.rooms.check(&mut refusals);
        self.mail.check(&mut refusals);
        if self.registration.require_email && self.mail.host.is_none() {
            refusals.add("registration.require_email", "true", "false, as mail.host is not set");
        }
        self.media.check(&mut refusals);
        self.turn.check(&mut refusals);
        self.server_notices.check(&mut refusals);
        self.appservices.check(&mut refusals);
        self.storage.check(&mut refusals);
        self.rate_limits.check(&mut refusals);
        self.metrics.check(&mut refusals);
        self.log.check(&mut refusals);
        refusals.0
    }
}

/// Collects refusals, so that one start names every mistake and not only the first.
#[derive(Default)]
struct Refusals(Vec<(String, String, String)>);

impl Refusals {
    fn add(&mut self, key: impl Into<String>, found: impl Into<String>, allowed: impl Into<String>) {
        self.0.push((key.into(), found.into(), allowed.into()));
    }
}
