//! Application services: bridges and bots that the operator registers, that act for many users, and that are told what happens to
//! them (application service API).
//!
//! [`Registrations`] is who they are and what is theirs; it is plain data that other services ask. [`client::AppServices`] is what
//! this server asks of them, [`sender`] what it tells them. Reading registration files is the binary's business.

pub mod client;
pub mod sender;
#[cfg(test)]
mod tests;
mod transaction;

use std::{collections::BTreeSet, sync::Arc};

use regex::Regex;
use ruma::{OwnedServerName, OwnedUserId, RoomAliasId, RoomId, ServerName, UserId};
use url::Url;

use crate::secret::Secret;

/// The largest compiled form of one namespace, in bytes.
const REGEX_BYTES_MAX: usize = 1 << 20;

/// What an operator registers, as the file has it (application service API, "Registration").
#[derive(Clone, Debug, Default)]
pub struct RegistrationDraft {
    pub id: String,
    /// `None`: nothing is sent to this service.
    pub url: Option<String>,
    pub as_token: String,
    pub hs_token: String,
    pub sender_localpart: String,
    pub users: Vec<NamespaceDraft>,
    pub aliases: Vec<NamespaceDraft>,
    pub rooms: Vec<NamespaceDraft>,
    /// Whether the users of the service are held to the limits of ordinary users. Its sender never is.
    pub rate_limited: bool,
    pub protocols: Vec<String>,
    /// Typing, receipts, presence and messages to devices are sent as well.
    pub receive_ephemeral: bool,
    /// They are sent under their old names too.
    pub legacy_ephemeral_names: bool,
    /// Device lists and key counts are sent as well (MSC3202).
    pub device_changes: bool,
}

/// A regular expression, and whether what it matches belongs to the service alone.
#[derive(Clone, Debug, Default)]
pub struct NamespaceDraft {
    pub exclusive: bool,
    pub regex: String,
}

/// A registration that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum RegistrationError {
    #[error("{field} is empty")]
    Empty { field: &'static str },
    #[error("url: {found:?} is not an http or https URL without credentials, query and fragment")]
    Url { found: String },
    #[error("sender_localpart: @{found}:{server_name} is not a user id")]
    Sender { found: String, server_name: OwnedServerName },
    #[error("namespaces: {regex:?} is not a regular expression: {cause}")]
    Regex { regex: String, cause: String },
    #[error("the id {0:?} is another service's too")]
    SameId(String),
    #[error("the as_token of {0:?} is another service's too")]
    SameToken(String),
}

#[derive(Debug)]
struct Namespace {
    exclusive: bool,
    regex: Regex,
}

impl Namespace {
    /// Expressions are matched from the beginning, and need not reach the end.
    fn new(draft: &NamespaceDraft) -> Result<Self, RegistrationError> {
        let regex = regex::RegexBuilder::new(&format!("^(?:{})", draft.regex))
            .size_limit(REGEX_BYTES_MAX)
            .build()
            .map_err(|error| RegistrationError::Regex { regex: draft.regex.clone(), cause: error.to_string() })?;
        Ok(Self { exclusive: draft.exclusive, regex })
    }

    fn all(drafts: &[NamespaceDraft]) -> Result<Vec<Self>, RegistrationError> {
        drafts.iter().map(Self::new).collect()
    }
}

fn is_in(namespaces: &[Namespace], text: &str) -> bool {
    namespaces.iter().any(|namespace| namespace.regex.is_match(text))
}

fn is_exclusively_in(namespaces: &[Namespace], text: &str) -> bool {
    namespaces.iter().any(|namespace| namespace.exclusive && namespace.regex.is_match(text))
}

/// One application service.
#[derive(Debug)]
pub struct Registration {
    pub id: String,
    pub url: Option<Url>,
    as_token: Secret,
    pub(crate) hs_token: Secret,
    /// The user the service acts as unless it names another.
    pub sender: OwnedUserId,
    users: Vec<Namespace>,
    aliases: Vec<Namespace>,
    rooms: Vec<Namespace>,
    pub rate_limited: bool,
    pub protocols: Vec<String>,
    pub receive_ephemeral: bool,
    pub legacy_ephemeral_names: bool,
    pub device_changes: bool,
}

impl PartialEq for Registration {
    fn eq(&self, other: &Self) -> bool {
        self.id == other.id
    }
}

impl Eq for Registration {}

impl Registration {
    pub fn new(server_name: &ServerName, draft: RegistrationDraft) -> Result<Self, RegistrationError> {
        for (field, text) in [
            ("id", &draft.id),
            ("as_token", &draft.as_token),
            ("hs_token", &draft.hs_token),
            ("sender_localpart", &draft.sender_localpart),
        ] {
            if text.trim().is_empty() || text.contains('\0') {
                return Err(RegistrationError::Empty { field });
            }
        }
        let url = draft.url.filter(|url| !url.is_empty()).map(|url| parse_url(&url)).transpose()?;
        let sender = UserId::parse_with_server_name(draft.sender_localpart.as_str(), server_name).map_err(|_| {
            RegistrationError::Sender { found: draft.sender_localpart.clone(), server_name: server_name.to_owned() }
        })?;
        Ok(Self {
            url,
            sender,
            users: Namespace::all(&draft.users)?,
            aliases: Namespace::all(&draft.aliases)?,
            rooms: Namespace::all(&draft.rooms)?,
            id: draft.id,
            as_token: Secret::new(draft.as_token),
            hs_token: Secret::new(draft.hs_token),
            rate_limited: draft.rate_limited,
            protocols: draft.protocols,
            receive_ephemeral: draft.receive_ephemeral,
            legacy_ephemeral_names: draft.legacy_ephemeral_names,
            device_changes: draft.device_changes,
        })
    }

    /// Whether this local user is the service's: its sender, or in its namespaces. Users of other servers never are.
    pub fn covers_user(&self, user_id: &UserId) -> bool {
        user_id.server_name() == self.sender.server_name()
            && (self.sender == user_id || is_in(&self.users, user_id.as_str()))
    }

    pub fn covers_alias(&self, alias: &RoomAliasId) -> bool {
        is_in(&self.aliases, alias.as_str())
    }

    pub fn covers_room(&self, room_id: &RoomId) -> bool {
        is_in(&self.rooms, room_id.as_str())
    }

    /// Whether this user is held to the limits of ordinary users when the service acts as them.
    pub fn limits(&self, user_id: &UserId) -> bool {
        self.rate_limited && self.sender != user_id
    }
}

fn parse_url(text: &str) -> Result<Url, RegistrationError> {
    let refused = || RegistrationError::Url { found: text.to_owned() };
    let url = Url::parse(text).map_err(|_| refused())?;
    let is_plain = matches!(url.scheme(), "http" | "https")
        && url.has_host()
        && url.username().is_empty()
        && url.password().is_none()
        && url.query().is_none()
        && url.fragment().is_none();
    if is_plain { Ok(url) } else { Err(refused()) }
}

/// All application services of this server.
#[derive(Clone, Debug, Default)]
pub struct Registrations(Arc<Vec<Arc<Registration>>>);

impl Registrations {
    /// # Errors
    /// Two services have the same id or token.
    pub fn new(registrations: Vec<Registration>) -> Result<Self, RegistrationError> {
        let (mut ids, mut tokens) = (BTreeSet::new(), BTreeSet::new());
        for registration in &registrations {
            if !ids.insert(registration.id.as_str()) {
                return Err(RegistrationError::SameId(registration.id.clone()));
            }
            if !tokens.insert(registration.as_token.expose()) {
                return Err(RegistrationError::SameToken(registration.id.clone()));
            }
        }
        Ok(Self(Arc::new(registrations.into_iter().map(Arc::new).collect())))
    }

    pub fn iter(&self) -> impl Iterator<Item = &Arc<Registration>> {
        self.0.iter()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The service that this `as_token` belongs to.
    pub fn get_by_token(&self, token: &str) -> Option<&Arc<Registration>> {
        self.iter().find(|registration| registration.as_token.matches(token))
    }

    /// Whether this local user belongs to a service alone, other than `except`: the sender of a service always does.
    pub fn is_exclusive_user(&self, user_id: &UserId, except: Option<&Registration>) -> bool {
        self.iter().filter(|service| except != Some(service)).any(|service| {
            service.sender == user_id
                || (user_id.server_name() == service.sender.server_name()
                    && is_exclusively_in(&service.users, user_id.as_str()))
        })
    }

    /// Whether `service` (`None`: an ordinary user) may make this alias: a service makes those of its own namespaces, users those that
    /// no service has for itself.
    pub fn may_create_alias(&self, service: Option<&Registration>, alias: &RoomAliasId) -> bool {
        if service.is_some_and(|service| !service.covers_alias(alias)) {
            return false;
        }
        !self
            .iter()
            .filter(|other| service != Some(other))
            .any(|other| is_exclusively_in(&other.aliases, alias.as_str()))
    }
}
