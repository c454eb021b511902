//! Service errors as answers: one `From` for each error enum of the account services and of the store.

use chappe_services::{
    CommitError, StoreError,
    accounts::AuthenticateError,
};

use super::ApiError;

impl From<CommitError> for ApiError {
    fn from(error: CommitError) -> Self {
        match error {
            CommitError::Conflict => Self::unavailable("Somebody else changed the same data meanwhile; try again"),
            CommitError::Full => {
                tracing::error!("a write was refused: the disk is full");
                Self::unavailable("The server has no storage space left; nothing was saved")
            }
            CommitError::Stopped(cause) => {
                tracing::error!(cause, "a write was refused: writes have stopped");
                Self::unavailable("The server cannot store anything at present; nothing was saved")
            }
            CommitError::Invalid(cause) => Self::internal(cause),
        }
    }
}

impl From<StoreError> for ApiError {
    fn from(error: StoreError) -> Self {
        Self::internal(error)
    }
}

impl From<AuthenticateError> for ApiError {
    fn from(error: AuthenticateError) -> Self {
        match error {
            AuthenticateError::Unknown => Self::unknown_token(false),
            AuthenticateError::Expired => Self::unknown_token(true),
            AuthenticateError::Read(error) => error.into(),
        }
    }
}
