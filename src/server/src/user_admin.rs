//! What an operator does to accounts, or asks of deliveries, from the command line, on a running server or on a stopped one.

use std::sync::Arc;

use chappe_rooms::Rooms;
use chappe_services::{
    StoreError,
    accounts::{AccountRecord, Accounts, ChangeAccountError, Erase},
    explain_delivery::{explain_delivery, find_owners},
    keys::Keys,
    registration::{NewAccount, RegisterError},
    reports::{Report, Reports},
};
use ruma::{DeviceId, EventId, OwnedDeviceId, OwnedUserId, UserId};
use serde::{Deserialize, Serialize};

/// A request, with all it needs: it may be performed in another process than the one that was asked.
#[derive(Deserialize, Serialize)]
pub enum UserRequest {
    Create { name: String, password: String, admin: bool },
    ResetPassword { name: String, password: String },
    List,
    Deactivate { name: String },
    SetAdmin { name: String, is_admin: bool },
    ListReports,
    ExplainDelivery { event: String, user: Option<String>, device: String },
}

#[derive(Debug, thiserror::Error)]
pub enum UserAdminError {
    #[error("found \"{0}\"; allowed: the name of a user of this server, such as alice, or the whole user id")]
    Name(String),
    #[error("found \"{0}\"; allowed: the id of an event, of a user with its server, and of a device")]
    Delivery(String),
    #[error("{} members of the event's room have a device called {device}: name its user with --user", .owners.len())]
    Owner { device: OwnedDeviceId, owners: Vec<OwnedUserId> },
    #[error("{0}: {1}")]
    Register(String, RegisterError),
    #[error("{0}: {1}")]
    Change(OwnedUserId, ChangeAccountError),
    #[error("the database cannot be read: {0}")]
    Read(#[from] StoreError),
}

/// Performs requests on the services.
pub struct UserAdmin {
    accounts: Arc<Accounts>,
    keys: Keys,
    rooms: Rooms,
    reports: Arc<Reports>,
}

impl UserAdmin {
    pub fn new(accounts: Arc<Accounts>, rooms: Rooms, reports: Arc<Reports>, keys: Keys) -> Self {
        Self { accounts, keys, rooms, reports }
    }

    /// Returns lines for the operator to read.
    pub async fn perform(&self, request: UserRequest) -> Result<Vec<String>, UserAdminError> {
        match request {
            UserRequest::Create { name, password, admin } => self.create(&name, password, admin).await,
            UserRequest::ResetPassword { name, password } => self.reset_password(&name, &password).await,
            UserRequest::List => self.list(),
            UserRequest::Deactivate { name } => self.deactivate(&name).await,
            UserRequest::SetAdmin { name, is_admin } => self.set_admin(&name, is_admin).await,
            UserRequest::ListReports => Ok(self.reports.list()?.iter().map(describe_report).collect()),
            UserRequest::ExplainDelivery { event, user, device } => {
                self.explain_delivery(&event, user.as_deref(), &device)
            }
        }
    }

    async fn create(&self, name: &str, password: String, admin: bool) -> Result<Vec<String>, UserAdminError> {
        let localpart = self.localpart(name)?.to_owned();
        let account = NewAccount { username: Some(localpart), password: Some(password), admin };
        let created = self.accounts.create_user(&account).await;
        let user_id = created.map_err(|error| UserAdminError::Register(name.to_owned(), error))?;
        Ok(vec![format!("created {user_id}")])
    }

    async fn reset_password(&self, name: &str, password: &str) -> Result<Vec<String>, UserAdminError> {
        let user_id = self.user_id(name)?;
        match self.accounts.reset_password(&user_id, password).await {
            Ok(()) => Ok(vec![format!("{user_id} has a new password, and all its devices are logged out")]),
            Err(error) => Err(UserAdminError::Change(user_id, error)),
        }
    }

    fn list(&self) -> Result<Vec<String>, UserAdminError> {
        Ok(self.accounts.list_users()?.iter().map(|(user_id, account)| describe(user_id, account)).collect())
    }

    async fn deactivate(&self, name: &str) -> Result<Vec<String>, UserAdminError> {
        let user_id = self.user_id(name)?;
        if let Err(error) = self.accounts.deactivate(&user_id, Erase::No).await {
            return Err(UserAdminError::Change(user_id, error));
        }
        let mut lines = vec![format!("{user_id} is deactivated")];
        let failures = self.rooms.leave_all(&user_id).await?;
        lines.extend(failures.into_iter().map(|(room_id, error)| format!("but is still in {room_id}: {error}")));
        Ok(lines)
    }

    async fn set_admin(&self, name: &str, is_admin: bool) -> Result<Vec<String>, UserAdminError> {
        let user_id = self.user_id(name)?;
        let word = if is_admin { "now" } else { "no longer" };
        match self.accounts.set_admin(&user_id, is_admin).await {
            Ok(()) => Ok(vec![format!("{user_id} is {word} an administrator")]),
            Err(error) => Err(UserAdminError::Change(user_id, error)),
        }
    }

    fn explain_delivery(&self, event: &str, user: Option<&str>, device: &str) -> Result<Vec<String>, UserAdminError> {
        let event = <&EventId>::try_from(event).map_err(|_| UserAdminError::Delivery(event.to_owned()))?;
        if device.is_empty() || device.contains('\0') {
            return Err(UserAdminError::Delivery(device.to_owned()));
        }
        let device: &DeviceId = device.into();
        let user = match user {
            Some(user) => OwnedUserId::try_from(user).map_err(|_| UserAdminError::Delivery(user.to_owned()))?,
            None => {
                let mut owners = find_owners(&self.rooms, event, device)?;
                match owners.pop() {
                    Some(owner) if owners.is_empty() => owner,
                    last => {
                        owners.extend(last);
                        return Err(UserAdminError::Owner { device: device.to_owned(), owners });
                    }
                }
            }
        };
        let findings = explain_delivery(&self.rooms, &self.keys, event, &user, device)?;
        let of = format!("{event} on device {device} of {user}:");
        Ok(std::iter::once(of).chain(findings.iter().map(ToString::to_string)).collect())
    }

    /// The local part of a name or of a user id of this server.
    fn localpart<'a>(&self, name: &'a str) -> Result<&'a str, UserAdminError> {
        let Some(id) = name.strip_prefix('@') else { return Ok(name) };
        match id.split_once(':') {
            Some((localpart, server)) if server == self.accounts.server_name() => Ok(localpart),
            _ => Err(UserAdminError::Name(name.to_owned())),
        }
    }

    fn user_id(&self, name: &str) -> Result<OwnedUserId, UserAdminError> {
        let localpart = self.localpart(name)?;
        let user_id = UserId::parse_with_server_name(localpart, self.accounts.server_name());
        user_id.map_err(|_| UserAdminError::Name(name.to_owned()))
    }
}

fn describe(user_id: &UserId, account: &AccountRecord) -> String {
    let mut words = vec![user_id.to_string()];
    if account.admin {
        words.push("administrator".to_owned());
    }
    if account.deactivated_at_ms.is_some() {
        words.push("deactivated".to_owned());
    }
    words.join(" ")
}

/// One line: when, by whom, about what, and why. The reason is written so that it cannot break out of its line.
fn describe_report(report: &Report) -> String {
    let about = [&report.user_id, &report.room_id, &report.event_id].into_iter().flatten().map(String::as_str);
    let about = about.collect::<Vec<_>>().join(" ");
    format!("{} {} reports {about}: {:?}", report.at_ms, report.reporter, report.reason)
}
