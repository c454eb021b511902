//! Endpoints of the family `keys`: device keys, one-time keys, cross-signing.

use axum::Router;
use chappe_services::keys::{KeysError, SigningKeysError, UploadError};
use http::StatusCode;
use ruma::api::{client::keys as ruma_keys, error::ErrorCode};

use crate::{App, error::ApiError, route::Endpoints};

mod changes;
mod claim;
mod query;
#[cfg(test)]
mod tests;
mod upload;
mod upload_signatures;
mod upload_signing_keys;

pub fn router() -> Router<App> {
    Router::new()
        .endpoint::<ruma_keys::get_key_changes::v3::Request, _>(changes::handle)
        .endpoint::<ruma_keys::claim_keys::v3::Request, _>(claim::handle)
        .endpoint::<ruma_keys::get_keys::v3::Request, _>(query::handle)
        .endpoint::<ruma_keys::upload_keys::v3::Request, _>(upload::handle)
        .endpoint::<ruma_keys::upload_signatures::v3::Request, _>(upload_signatures::handle)
        .endpoint::<ruma_keys::upload_signing_keys::v3::Request, _>(upload_signing_keys::handle)
}

impl From<KeysError> for ApiError {
    fn from(error: KeysError) -> Self {
        match error {
            KeysError::Store(error) => error.into(),
            KeysError::Commit(error) => error.into(),
        }
    }
}

impl From<UploadError> for ApiError {
    fn from(error: UploadError) -> Self {
        match error {
            UploadError::BadDeviceKeys(_) | UploadError::NotYours | UploadError::BadKey { .. } => {
                Self::bad_json(error.to_string())
            }
            UploadError::OneTimeKeyExists { .. } | UploadError::TooManyKeys => Self::invalid_param(error.to_string()),
            UploadError::Store(error) => error.into(),
            UploadError::Commit(error) => error.into(),
        }
    }
}

impl From<SigningKeysError> for ApiError {
    fn from(error: SigningKeysError) -> Self {
        match error {
            SigningKeysError::ReauthenticationNeeded => Self::forbidden(error.to_string()),
            SigningKeysError::NoMasterKey => Self::missing_param(error.to_string()),
            SigningKeysError::BadKey { .. } => Self::invalid_param(error.to_string()),
            SigningKeysError::BadSignature { .. } => {
                Self::new(StatusCode::BAD_REQUEST, ErrorCode::from("M_INVALID_SIGNATURE"), error.to_string())
            }
            SigningKeysError::Store(error) => error.into(),
            SigningKeysError::Commit(error) => error.into(),
        }
    }
}
