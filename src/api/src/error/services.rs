//! Service errors as answers: one `From` for each error enum of the store and of the account services.

use std::time::Duration;

use chappe_services::{
    CommitError, StoreError,
    account_data::PutAccountDataError,
    accounts::{
        AppServiceLoginError, AssertIdentityError, AuthenticateError, ChangeAccountError, CheckPasswordError,
        CreateSessionError, HashError, LoginError, RefreshError, WeakPassword,
    },
    devices::{ChangeDeviceError, InvalidDevice},
    filters::CreateFilterError,
    profile::{FetchProfileError, GetProfileError, SetProfileError},
    registration::{RegisterError, SharedSecretError, TermsPolicy, UsernameError},
    uia::{Challenge, StageFailure, UiaError},
};
use http::StatusCode;
use ruma::api::error::ErrorCode;
use serde_json::{Map, Value as JsonValue, json};

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

impl From<HashError> for ApiError {
    fn from(error: HashError) -> Self {
        Self::internal(error)
    }
}

impl From<AuthenticateError> for ApiError {
    fn from(error: AuthenticateError) -> Self {
        match error {
            AuthenticateError::Unknown => Self::unknown_token(false),
            AuthenticateError::Expired => Self::unknown_token(true),
            AuthenticateError::Locked => Self::user_locked(),
            AuthenticateError::Read(error) => error.into(),
        }
    }
}

impl From<AssertIdentityError> for ApiError {
    fn from(error: AssertIdentityError) -> Self {
        match error {
            AssertIdentityError::InvalidUserId => Self::invalid_param(error.to_string()),
            AssertIdentityError::NotCovered | AssertIdentityError::NotRegistered => Self::forbidden(error.to_string()),
            AssertIdentityError::Locked => AuthenticateError::Locked.into(),
            AssertIdentityError::UnknownDevice => {
                Self::new(StatusCode::BAD_REQUEST, ErrorCode::UnknownDevice, error.to_string())
            }
            AssertIdentityError::Read(error) => error.into(),
        }
    }
}

impl From<AppServiceLoginError> for ApiError {
    fn from(error: AppServiceLoginError) -> Self {
        match error {
            AppServiceLoginError::NotCovered => Self::exclusive(error.to_string()),
            AppServiceLoginError::NotRegistered => Self::forbidden(error.to_string()),
            AppServiceLoginError::Session(error) => error.into(),
            AppServiceLoginError::Read(error) => error.into(),
        }
    }
}

impl From<CheckPasswordError> for ApiError {
    fn from(error: CheckPasswordError) -> Self {
        match error {
            CheckPasswordError::Wrong => Self::forbidden("Wrong user or password"),
            CheckPasswordError::LockedOut { retry_after_ms } => {
                Self::limit_exceeded(Duration::from_millis(retry_after_ms))
            }
            CheckPasswordError::Hash(error) => error.into(),
            CheckPasswordError::Read(error) => error.into(),
            CheckPasswordError::Write(error) => error.into(),
        }
    }
}

impl From<InvalidDevice> for ApiError {
    fn from(error: InvalidDevice) -> Self {
        Self::invalid_param(error.to_string())
    }
}

impl From<CreateSessionError> for ApiError {
    fn from(error: CreateSessionError) -> Self {
        match error {
            CreateSessionError::Locked => Self::user_locked(),
            CreateSessionError::Device(error) => error.into(),
            CreateSessionError::Read(error) => error.into(),
            CreateSessionError::Write(error) => error.into(),
        }
    }
}

impl From<LoginError> for ApiError {
    fn from(error: LoginError) -> Self {
        match error {
            LoginError::Password(error) => error.into(),
            LoginError::Token => Self::forbidden("The login token is unknown, used or expired"),
            LoginError::Session(error) => error.into(),
            LoginError::Read(error) => error.into(),
            LoginError::Write(error) => error.into(),
        }
    }
}

impl From<RefreshError> for ApiError {
    fn from(error: RefreshError) -> Self {
        match error {
            RefreshError::Unknown => Self::unknown_token(false),
            // The device is still there: its user logs in again and keeps its keys.
            RefreshError::Reused => Self::unknown_token(true),
            RefreshError::Locked => Self::user_locked(),
            RefreshError::Read(error) => error.into(),
            RefreshError::Write(error) => error.into(),
        }
    }
}

impl From<ChangeAccountError> for ApiError {
    fn from(error: ChangeAccountError) -> Self {
        match error {
            ChangeAccountError::NotFound => Self::not_found("There is no such account"),
            ChangeAccountError::Deactivated => {
                Self::new(StatusCode::FORBIDDEN, ErrorCode::UserDeactivated, "The account is deactivated")
            }
            ChangeAccountError::Password(error) => error.into(),
            ChangeAccountError::Hash(error) => error.into(),
            ChangeAccountError::Read(error) => error.into(),
            ChangeAccountError::Write(error) => error.into(),
        }
    }
}

impl From<UsernameError> for ApiError {
    fn from(error: UsernameError) -> Self {
        match error {
            UsernameError::Invalid => Self::new(StatusCode::BAD_REQUEST, ErrorCode::InvalidUsername, error.to_string()),
            UsernameError::Exclusive => Self::exclusive(error.to_string()),
            UsernameError::InUse => Self::new(StatusCode::BAD_REQUEST, ErrorCode::UserInUse, "The user name is taken"),
            UsernameError::Read(error) => error.into(),
        }
    }
}

impl From<RegisterError> for ApiError {
    fn from(error: RegisterError) -> Self {
        match error {
            RegisterError::Username(error) => error.into(),
            RegisterError::PasswordTooLong => Self::invalid_param(error.to_string()),
            RegisterError::WeakPassword(error) => error.into(),
            RegisterError::NotTheGuest => Self::forbidden(error.to_string()),
            RegisterError::GuestsForbidden => Self::new(
                StatusCode::FORBIDDEN,
                ErrorCode::GuestAccessForbidden,
                "Guests are not allowed on this server",
            ),
            RegisterError::Session(error) => error.into(),
            RegisterError::Hash(error) => error.into(),
            RegisterError::Read(error) => error.into(),
            RegisterError::Write(error) => error.into(),
        }
    }
}

impl From<SharedSecretError> for ApiError {
    fn from(error: SharedSecretError) -> Self {
        match error {
            SharedSecretError::Disabled | SharedSecretError::UnknownNonce => {
                Self::new(StatusCode::BAD_REQUEST, ErrorCode::Unknown, error.to_string())
            }
            SharedSecretError::WrongMac => Self::forbidden("The HMAC is wrong"),
            SharedSecretError::Register(error) => error.into(),
        }
    }
}

impl From<UiaError> for ApiError {
    fn from(error: UiaError) -> Self {
        match error {
            UiaError::Challenge(challenge) => challenge_answer(&challenge),
            UiaError::WrongUser => Self::forbidden("The authentication is another user's"),
            UiaError::WrongOperation => Self::forbidden("The authentication session belongs to another operation"),
            UiaError::RegistrationClosed => Self::forbidden("Registration is closed on this server"),
            UiaError::Password(error) => error.into(),
            UiaError::Read(error) => error.into(),
            UiaError::Write(error) => error.into(),
        }
    }
}

/// 401 with the flows (client-server API, "User-interactive API in the REST API").
fn challenge_answer(challenge: &Challenge) -> ApiError {
    let flows: Vec<JsonValue> = challenge.flows.iter().map(|stages| json!({ "stages": stages })).collect();
    let mut fields = Map::new();
    fields.insert("flows".to_owned(), flows.into());
    fields.insert("params".to_owned(), stage_params(&challenge.terms));
    fields.insert("session".to_owned(), challenge.session.as_str().into());
    if !challenge.completed.is_empty() {
        fields.insert("completed".to_owned(), json!(challenge.completed));
    }
    let Some(failure) = challenge.failure else { return ApiError::challenge(fields) };
    let errcode = match failure {
        StageFailure::WrongPassword => ErrorCode::Forbidden,
        StageFailure::EmailNotValidated => ErrorCode::ThreepidAuthFailed,
        StageFailure::WrongToken => ErrorCode::Unauthorized,
        StageFailure::UnknownSession => ErrorCode::Unknown,
        StageFailure::NotOffered => ErrorCode::Unrecognized,
    };
    ApiError::new(StatusCode::UNAUTHORIZED, errcode, failure.to_string()).with_all(fields)
}

/// What the stages need to know, by stage (client-server API, "Terms of service at registration").
fn stage_params(terms: &[TermsPolicy]) -> JsonValue {
    if terms.is_empty() {
        return json!({});
    }
    let policies: Map<String, JsonValue> = terms
        .iter()
        .map(|policy| {
            let mut shown = Map::new();
            shown.insert("version".to_owned(), policy.version.as_str().into());
            for (language, document) in &policy.languages {
                shown.insert(language.clone(), json!({ "name": document.name, "url": document.url }));
            }
            (policy.id.clone(), shown.into())
        })
        .collect();
    json!({ "m.login.terms": { "policies": policies } })
}

impl From<WeakPassword> for ApiError {
    fn from(error: WeakPassword) -> Self {
        let errcode = match error {
            WeakPassword::TooShort { .. } => "M_PASSWORD_TOO_SHORT",
            WeakPassword::NoDigit => "M_PASSWORD_NO_DIGIT",
            WeakPassword::NoSymbol => "M_PASSWORD_NO_SYMBOL",
            WeakPassword::NoLowercase => "M_PASSWORD_NO_LOWERCASE",
            WeakPassword::NoUppercase => "M_PASSWORD_NO_UPPERCASE",
        };
        Self::new(StatusCode::BAD_REQUEST, ErrorCode::from(errcode), error.to_string())
    }
}

impl From<ChangeDeviceError> for ApiError {
    fn from(error: ChangeDeviceError) -> Self {
        match error {
            ChangeDeviceError::NotFound => Self::not_found("There is no such device"),
            ChangeDeviceError::Invalid(error) => error.into(),
            ChangeDeviceError::Read(error) => error.into(),
            ChangeDeviceError::Write(error) => error.into(),
        }
    }
}

impl From<GetProfileError> for ApiError {
    fn from(error: GetProfileError) -> Self {
        match error {
            GetProfileError::Fetch(FetchProfileError::Denied) => {
                Self::forbidden("This server does not federate with the user's server")
            }
            GetProfileError::Fetch(error) => {
                tracing::debug!(%error, "a remote profile could not be fetched");
                Self::new(StatusCode::BAD_GATEWAY, ErrorCode::Unknown, "The user's server did not answer")
            }
            GetProfileError::Read(error) => error.into(),
        }
    }
}

impl From<SetProfileError> for ApiError {
    fn from(error: SetProfileError) -> Self {
        match error {
            SetProfileError::NotFound => Self::not_found("There is no such account"),
            SetProfileError::NameTooLong => {
                Self::new(StatusCode::BAD_REQUEST, ErrorCode::KeyTooLarge, error.to_string())
            }
            SetProfileError::InvalidName | SetProfileError::InvalidValue(_) => Self::invalid_param(error.to_string()),
            SetProfileError::TooLarge => {
                Self::new(StatusCode::BAD_REQUEST, ErrorCode::ProfileTooLarge, error.to_string())
            }
            SetProfileError::Read(error) => error.into(),
            SetProfileError::Write(error) => error.into(),
        }
    }
}

impl From<PutAccountDataError> for ApiError {
    fn from(error: PutAccountDataError) -> Self {
        match error {
            PutAccountDataError::Reserved => {
                Self::new(StatusCode::METHOD_NOT_ALLOWED, ErrorCode::BadJson, error.to_string())
            }
            PutAccountDataError::InvalidType => Self::invalid_param(error.to_string()),
            PutAccountDataError::NotAnObject => Self::bad_json(error.to_string()),
            PutAccountDataError::Read(error) => error.into(),
            PutAccountDataError::Write(error) => error.into(),
        }
    }
}

impl From<CreateFilterError> for ApiError {
    fn from(error: CreateFilterError) -> Self {
        match error {
            CreateFilterError::Malformed(_) => Self::bad_json(error.to_string()),
            CreateFilterError::TooLong => Self::too_large(error.to_string()),
            CreateFilterError::Read(error) => error.into(),
            CreateFilterError::Write(error) => error.into(),
        }
    }
}
