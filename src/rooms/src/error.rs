//! What can go wrong with a room, named for what the caller can do about it.

use chappe_protocol::auth::Rejection;
use chappe_store::{CommitError, StoreError};
use ruma::RoomVersionId;

use crate::remote::RemoteError;

#[derive(Debug, thiserror::Error)]
pub enum RoomError {
    /// The room is not known here, or not to the one who asks.
    #[error("{0}")]
    NotFound(String),
    /// The rules of the room or of this server forbid it.
    #[error("{0}")]
    Forbidden(String),
    /// The invited user does not take invites from the one who invites.
    #[error("the user does not take invites from you")]
    InviteBlocked,
    /// The request says something that cannot be.
    #[error("{0}")]
    Invalid(String),
    /// The request lacks something it must have.
    #[error("{0}")]
    MissingParam(String),
    /// The request has the wrong shape.
    #[error("{0}")]
    BadJson(String),
    /// The event would exceed the size limits of the specification.
    #[error("{0}")]
    TooLarge(String),
    /// A room version that this server cannot take part in.
    #[error("room version {0} is not supported here")]
    UnsupportedVersion(RoomVersionId),
    /// The asking server does not support the version of this room.
    #[error("your server does not support room version {0}")]
    IncompatibleVersion(RoomVersionId),
    /// A restricted join that this server cannot authorise but another might.
    #[error("{0}")]
    UnableToAuthoriseJoin(String),
    /// A restricted join that nobody on this server has the power to grant.
    #[error("{0}")]
    UnableToGrantJoin(String),
    /// A thread cannot begin with this event.
    #[error("{0}")]
    NotThreadRoot(String),
    /// The sender has annotated the event with this already.
    #[error("You have already sent this annotation")]
    DuplicateAnnotation,
    /// Not all members of the room are known yet: they are being fetched.
    #[error("this server has only just joined the room and does not know all of its members yet")]
    MembersUnknown,
    /// The alias or room name is taken.
    #[error("{0}")]
    InUse(String),
    /// No other server could be asked, or none gave a usable answer.
    #[error("{0}")]
    Remote(#[from] RemoteError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Commit(#[from] CommitError),
}

impl From<Rejection> for RoomError {
    fn from(rejection: Rejection) -> Self {
        Self::Forbidden(rejection.0)
    }
}

impl RoomError {
    pub(crate) fn unknown_room() -> Self {
        Self::NotFound("Unknown room".to_owned())
    }

    pub(crate) fn not_in_room() -> Self {
        Self::Forbidden("You are not in this room".to_owned())
    }

    /// Data of ours that does not hold together: reported as a failure of the store.
    pub(crate) fn broken(what: impl Into<String>) -> Self {
        Self::Commit(CommitError::Invalid(what.into()))
    }
}
