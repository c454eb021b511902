//! Profiles: display name, avatar, and the fields that users define (client-server API, "Profiles").
//!
//! Local profiles are kept here, those of remote users are asked for each time through [`RemoteProfiles`]. Telling a user's
//! rooms of a new name or avatar is not done here: it takes events, and so the rooms crate.

use std::sync::Arc;

use chappe_rooms::membership::{LocalProfiles, MemberProfile};
use chappe_store::{
    Batch, CommitError, Direction, Domain, Json, Store, StoreError,
    tables::accounts::{ACCOUNTS, PROFILE_FIELDS},
};
use futures_util::future::BoxFuture;
use ruma::{OwnedServerName, OwnedUserId, UserId};
use serde_json::{Map, Value as JsonValue};

use crate::guarded::commit_guarded;

/// Longest name of a field, in bytes.
const FIELD_BYTES_MAX: usize = 255;
/// Longest display name and avatar URL, in bytes: both are copied into every room's membership event.
const NAME_BYTES_MAX: usize = 1_024;
/// Largest profile, in bytes of canonical JSON.
const PROFILE_BYTES_MAX: usize = 65_536;

/// Field name -> value.
pub type Profile = Map<String, JsonValue>;

/// How profiles of other servers' users are had.
pub trait RemoteProfiles: Send + Sync {
    /// The profile of a remote user, or the one field of it that is asked for; `None` when there is no such user or field.
    fn fetch_profile<'a>(
        &'a self,
        user_id: &'a UserId,
        field: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Option<Profile>, FetchProfileError>>;
}

/// A profile that could not be had of its user's server.
#[derive(Debug, thiserror::Error)]
pub enum FetchProfileError {
    #[error("the policy does not allow asking the user's server")]
    Denied,
    #[error("the profile could not be fetched: {0}")]
    NoAnswer(String),
}

/// A profile that could not be read.
#[derive(Debug, thiserror::Error)]
pub enum GetProfileError {
    #[error(transparent)]
    Fetch(#[from] FetchProfileError),
    #[error(transparent)]
    Read(#[from] StoreError),
}

/// A field that was not written.
#[derive(Debug, thiserror::Error)]
pub enum SetProfileError {
    #[error("there is no such account")]
    NotFound,
    #[error("the field's name is longer than {FIELD_BYTES_MAX} bytes")]
    NameTooLong,
    #[error("the field's name is not one that the specification allows")]
    InvalidName,
    #[error("{0}")]
    InvalidValue(&'static str),
    #[error("the profile would be larger than {PROFILE_BYTES_MAX} bytes")]
    TooLarge,
    #[error(transparent)]
    Read(#[from] StoreError),
    #[error(transparent)]
    Write(#[from] CommitError),
}

/// What a write to a profile did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProfileChange {
    /// Name or avatar is another now: the user's rooms are to be told.
    Membership,
    /// Another field is another now.
    Field,
    /// Everything is as it was.
    Nothing,
}

/// The profiles of users, local and remote.
pub struct Profiles {
    store: Store,
    server_name: OwnedServerName,
    remote: Arc<dyn RemoteProfiles>,
}

impl Profiles {
    pub fn new(store: Store, server_name: OwnedServerName, remote: Arc<dyn RemoteProfiles>) -> Self {
        Self { store, server_name, remote }
    }

    /// A user's profile; `None` when there is no such user.
    pub async fn get_profile(&self, user_id: &UserId) -> Result<Option<Profile>, GetProfileError> {
        if user_id.server_name() == self.server_name {
            Ok(self.get_local_profile(user_id)?)
        } else {
            Ok(self.remote.fetch_profile(user_id, None).await?)
        }
    }

    /// A user's profile with at most this field; `None` when there is no such user.
    pub async fn get_profile_field(&self, user_id: &UserId, field: &str) -> Result<Option<Profile>, GetProfileError> {
        let profile = if user_id.server_name() == self.server_name {
            self.get_local_profile(user_id)?
        } else {
            self.remote.fetch_profile(user_id, Some(field)).await?
        };
        Ok(profile.map(|profile| profile.into_iter().filter(|(name, _)| name == field).collect()))
    }

    /// The profile of a local user; `None` when there is none, or the account was deactivated and erased.
    pub fn get_local_profile(&self, user_id: &UserId) -> Result<Option<Profile>, StoreError> {
        let account = self.store.get(&ACCOUNTS, &user_id.to_owned())?;
        if account.is_none_or(|account| account.erased) {
            return Ok(None);
        }
        self.scan_fields(user_id).map(Some)
    }

    /// Display name and avatar of a local user, as they go into membership events.
    pub fn get_membership_profile(&self, user_id: &UserId) -> Result<(Option<String>, Option<String>), StoreError> {
        let profile = self.scan_fields(user_id)?;
        let text = |field: &str| profile.get(field).and_then(JsonValue::as_str).map(str::to_owned);
        Ok((text("displayname"), text("avatar_url")))
    }

    fn scan_fields(&self, user_id: &UserId) -> Result<Profile, StoreError> {
        let rows = self.store.scan(&PROFILE_FIELDS, &(user_id.to_owned(),), Direction::Forward);
        rows.map(|row| row.map(|((_, field), Json(value))| (field, value))).collect()
    }

    /// Sets a field of a local user's profile, or deletes it when there is no value. A name or avatar of `null` or "" counts as
    /// deleted.
    pub async fn set(
        &self,
        user_id: &UserId,
        field: &str,
        value: Option<JsonValue>,
    ) -> Result<ProfileChange, SetProfileError> {
        check_name(field)?;
        let is_membership = matches!(field, "displayname" | "avatar_url");
        let value = match value {
            Some(value) if is_membership => check_membership_value(value)?,
            value => value,
        };
        commit_guarded(&self.store, Domain::Account(user_id.to_owned()), |batch| {
            if !self.store.contains(&ACCOUNTS, &user_id.to_owned())? {
                return Err(SetProfileError::NotFound);
            }
            let changed = self.queue_set(batch, user_id, field, value.as_ref())?;
            Ok(match (changed, is_membership) {
                (false, _) => ProfileChange::Nothing,
                (true, true) => ProfileChange::Membership,
                (true, false) => ProfileChange::Field,
            })
        })
        .await
    }

    fn queue_set(
        &self,
        batch: &mut Batch,
        user_id: &UserId,
        field: &str,
        value: Option<&JsonValue>,
    ) -> Result<bool, SetProfileError> {
        let mut profile = self.scan_fields(user_id)?;
        if profile.get(field) == value {
            return Ok(false);
        }
        let key: (OwnedUserId, String) = (user_id.to_owned(), field.to_owned());
        match value {
            None => batch.delete(&PROFILE_FIELDS, &key),
            Some(value) => {
                profile.insert(field.to_owned(), value.clone());
                if JsonValue::Object(profile).to_string().len() > PROFILE_BYTES_MAX {
                    return Err(SetProfileError::TooLarge);
                }
                batch.put(&PROFILE_FIELDS, &key, &Json(value.clone()));
            }
        }
        Ok(true)
    }
}

impl LocalProfiles for Profiles {
    fn get_local_profile(&self, user: &UserId) -> Option<MemberProfile> {
        match self.get_membership_profile(user) {
            Ok((None, None)) => None,
            Ok((display_name, avatar_url)) => Some(MemberProfile { display_name, avatar_url }),
            Err(error) => {
                // The membership goes ahead without a name; the next change of the profile adds it.
                tracing::error!(user.id = %user, %error, "a profile could not be read");
                None
            }
        }
    }
}

/// Names follow the Common Namespaced Identifier Grammar (appendices).
fn check_name(field: &str) -> Result<(), SetProfileError> {
    if field.len() > FIELD_BYTES_MAX {
        return Err(SetProfileError::NameTooLong);
    }
    let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"_-.".contains(&byte);
    if field.starts_with(|first: char| first.is_ascii_lowercase()) && field.bytes().all(allowed) {
        Ok(())
    } else {
        Err(SetProfileError::InvalidName)
    }
}

fn check_membership_value(value: JsonValue) -> Result<Option<JsonValue>, SetProfileError> {
    match value {
        JsonValue::Null => Ok(None),
        JsonValue::String(text) if text.is_empty() => Ok(None),
        JsonValue::String(text) if text.len() <= NAME_BYTES_MAX => Ok(Some(text.into())),
        JsonValue::String(_) => {
            Err(SetProfileError::InvalidValue("display names and avatar URLs have at most 1024 bytes"))
        }
        _ => Err(SetProfileError::InvalidValue("display names and avatar URLs are strings")),
    }
}
