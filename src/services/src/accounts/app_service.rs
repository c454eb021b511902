//! Application services as users: whom they may act for, and the accounts they make (application service API, "Client-Server API
//! Extensions").

use std::sync::Arc;

use chappe_store::{
    CommitError, StoreError,
    tables::accounts::{ACCOUNTS, AccountKind, DEVICES},
};
use ruma::{OwnedDeviceId, OwnedUserId, UserId};

use super::{Accounts, CreateSessionError, LoggedIn, NewDevice, Session, token::token_hash};
use crate::{
    app_services::{Registration, Registrations},
    registration::{RegisterError, UsernameError},
};

/// An identity that a service may not take on.
#[derive(Debug, thiserror::Error)]
pub enum AssertIdentityError {
    #[error("the user id is malformed")]
    InvalidUserId,
    #[error("the user is not in the application service's namespaces")]
    NotCovered,
    #[error("the application service has not registered this user")]
    NotRegistered,
    #[error("the account is locked")]
    Locked,
    #[error("the user has no such device")]
    UnknownDevice,
    #[error(transparent)]
    Read(#[from] StoreError),
}

/// An account of a service's sender that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum CreateSenderError {
    #[error("{0} is deactivated, and cannot be an application service's sender")]
    Deactivated(OwnedUserId),
    #[error(transparent)]
    Read(#[from] StoreError),
    #[error(transparent)]
    Write(#[from] CommitError),
}

/// A login that a service asks for.
#[derive(Debug, thiserror::Error)]
pub enum AppServiceLoginError {
    #[error("the user is not in the application service's namespaces")]
    NotCovered,
    #[error("there is no such user")]
    NotRegistered,
    #[error(transparent)]
    Session(#[from] CreateSessionError),
    #[error(transparent)]
    Read(#[from] StoreError),
}

impl Accounts {
    /// The registered application services.
    pub fn app_services(&self) -> &Registrations {
        &self.config.app_services
    }

    /// The session of a service that acts for one of its users, its sender unless it says otherwise, and as a device of that user if
    /// it names one.
    pub fn authenticate_as(
        &self,
        service: &Arc<Registration>,
        user_id: Option<&str>,
        device_id: Option<&str>,
    ) -> Result<Session, AssertIdentityError> {
        let user_id = match user_id {
            Some(user_id) => UserId::parse(user_id).map_err(|_| AssertIdentityError::InvalidUserId)?,
            None => service.sender.clone(),
        };
        if !service.covers_user(&user_id) {
            return Err(AssertIdentityError::NotCovered);
        }
        let account = self.get_account(&user_id)?.filter(|account| account.deactivated_at_ms.is_none());
        let account = account.ok_or(AssertIdentityError::NotRegistered)?;
        if self.get_restrictions(&user_id)?.locked {
            return Err(AssertIdentityError::Locked);
        }
        let device_id = match device_id {
            Some(device_id) => {
                let device_id = OwnedDeviceId::from(device_id);
                if !self.store.contains(&DEVICES, &(user_id.clone(), device_id.clone()))? {
                    return Err(AssertIdentityError::UnknownDevice);
                }
                device_id
            }
            None => OwnedDeviceId::from(""),
        };
        Ok(Session {
            user_id,
            device_id,
            is_guest: false,
            is_admin: account.admin,
            // No token of the table: nothing that ends a token ends this session.
            token: token_hash(""),
            app_service: Some(service.clone()),
        })
    }

    /// Makes an account for a user of a service, which has no password.
    pub async fn register_for(
        &self,
        service: &Registration,
        username: &str,
        device: Option<&NewDevice>,
    ) -> Result<(OwnedUserId, Option<LoggedIn>), RegisterError> {
        let user_id = self.parse_localpart(username)?;
        if !service.covers_user(&user_id) || self.app_services().is_exclusive_user(&user_id, Some(service)) {
            return Err(UsernameError::Exclusive.into());
        }
        let record = self.new_record(AccountKind::User, false, None);
        self.commit_for(&user_id, |batch| {
            if self.get_account(&user_id)?.is_some() {
                return Err(UsernameError::InUse.into());
            }
            self.queue_account(batch, &user_id, &record);
            let logged_in = device.map(|device| self.queue_session(batch, &user_id, device)).transpose()?;
            Ok((user_id.clone(), logged_in))
        })
        .await
    }

    /// Logs a user of a service in.
    pub async fn login_for(
        &self,
        service: &Registration,
        user: &str,
        device: &NewDevice,
    ) -> Result<LoggedIn, AppServiceLoginError> {
        let user_id = self.get_login_user_id(user)?.filter(|user_id| service.covers_user(user_id));
        let user_id = user_id.ok_or(AppServiceLoginError::NotCovered)?;
        let account = self.get_account(&user_id)?.filter(|account| account.deactivated_at_ms.is_none());
        if account.is_none() {
            return Err(AppServiceLoginError::NotRegistered);
        }
        Ok(self.create_session(&user_id, device).await?)
    }

    /// Makes the account of a service's sender, if it is not there yet.
    pub async fn ensure_sender(&self, service: &Registration) -> Result<(), CreateSenderError> {
        let record = self.new_record(AccountKind::User, false, None);
        self.commit_for(&service.sender, |batch| {
            match self.store.get(&ACCOUNTS, &service.sender)? {
                Some(account) if account.deactivated_at_ms.is_some() => {
                    return Err(CreateSenderError::Deactivated(service.sender.clone()));
                }
                Some(_) => {}
                None => self.queue_account(batch, &service.sender, &record),
            }
            Ok(())
        })
        .await
    }
}
