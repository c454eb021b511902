//! User-interactive authentication: the client proves, in stages, that its user is present (client-server API,
//! "User-Interactive Authentication API").
//!
//! Sessions are kept in memory, in bounded number and for a bounded time: one that is lost costs the client a new start.

use std::{net::IpAddr, num::NonZeroUsize, sync::Arc};

use chappe_protocol::clock::Clock;
use chappe_store::{CommitError, StoreError};
use lru::LruCache;
use parking_lot::Mutex;
use ruma::{
    OwnedUserId,
    api::client::uiaa::{AuthData, AuthType, UserIdentifier},
};

use crate::{
    accounts::{Accounts, CheckPasswordError, Session, random_text},
    emails::{Emails, ProofError, Purpose, RequestTokenError, TokenRequest, ValidatedEmail},
    registration::{RegistrationMode, TermsPolicy},
};

const SESSIONS_MAX: NonZeroUsize = NonZeroUsize::new(10_000).unwrap();
const SESSION_LIFETIME_MS: u64 = 1_800_000;

/// What session ids and secrets are made of.
const ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// A mail that was asked for on the fallback page of the email stage.
#[derive(Clone, Debug)]
pub struct EmailProofBegun {
    pub sid: String,
    pub client_secret: String,
}

/// What the client has to do yet.
#[derive(Clone, Debug)]
pub struct Challenge {
    /// The ways there are: each a row of stages, to be completed all.
    pub flows: Vec<Vec<AuthType>>,
    pub completed: Vec<AuthType>,
    /// What is to be agreed to, where a stage asks for that.
    pub terms: Vec<TermsPolicy>,
    /// Names this authentication in the client's next request.
    pub session: String,
    /// Why the stage just tried failed.
    pub failure: Option<StageFailure>,
}

/// A stage that was not passed. The client may try again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StageFailure {
    #[error("Wrong user or password")]
    WrongPassword,
    #[error("Unknown registration token")]
    WrongToken,
    #[error("The email address has not been validated yet")]
    EmailNotValidated,
    #[error("The authentication session is unknown or has expired; here is a new one")]
    UnknownSession,
    #[error("This kind of authentication is not offered here")]
    NotOffered,
}

/// Why a request does not go on.
#[derive(Debug, thiserror::Error)]
pub enum UiaError {
    #[error("authentication is not complete")]
    Challenge(Challenge),
    #[error("the authentication is another user's")]
    WrongUser,
    #[error("the authentication session belongs to another operation")]
    WrongOperation,
    #[error("registration is closed")]
    RegistrationClosed,
    /// Too many attempts, or a failure inside; never [`CheckPasswordError::Wrong`].
    #[error(transparent)]
    Password(CheckPasswordError),
    #[error(transparent)]
    Read(#[from] StoreError),
    #[error(transparent)]
    Write(#[from] CommitError),
}

/// An authentication under way.
#[derive(Clone)]
struct Progress {
    /// What it is for; a session opens nothing else.
    operation: String,
    user_id: Option<OwnedUserId>,
    completed: Vec<AuthType>,
    /// What an email address is proven for.
    purpose: Purpose,
    /// The address that was proven.
    email: Option<ValidatedEmail>,
    begun_at_ms: u64,
}

/// Carries out user-interactive authentication.
pub struct Uia {
    accounts: Arc<Accounts>,
    emails: Arc<Emails>,
    clock: Arc<dyn Clock>,
    sessions: Mutex<LruCache<String, Progress>>,
}

impl Uia {
    pub fn new(accounts: Arc<Accounts>, emails: Arc<Emails>, clock: Arc<dyn Clock>) -> Self {
        Self { accounts, emails, clock, sessions: Mutex::new(LruCache::new(SESSIONS_MAX)) }
    }

    /// Lets a logged-in user go on who proves again who they are, by password.
    ///
    /// `operation` says what is to be done and to what, such as `delete device ABC`: an authentication begun for one operation
    /// does not serve another.
    pub async fn authorize_user(
        &self,
        session: &Session,
        operation: &str,
        auth: Option<&AuthData>,
        address: Option<IpAddr>,
    ) -> Result<(), UiaError> {
        // The operator vouches for application services, and their users have no passwords.
        if session.app_service.is_some() {
            return Ok(());
        }
        let flows = vec![vec![AuthType::Password]];
        let progress = self.begin(Some(session.user_id.clone()), operation, Purpose::AddAddress);
        self.authorize(progress, flows, auth, address).await.map(|_| ())
    }

    /// Lets somebody go on who proves to read an email address, such as to get a new password.
    pub async fn authorize_by_email(
        &self,
        operation: &str,
        auth: Option<&AuthData>,
        address: Option<IpAddr>,
    ) -> Result<ValidatedEmail, UiaError> {
        let progress = self.begin(None, operation, Purpose::ResetPassword);
        let flows = vec![vec![AuthType::EmailIdentity]];
        let email = self.authorize(progress, flows.clone(), auth, address).await?;
        let unproven = || {
            let progress = self.begin(None, operation, Purpose::ResetPassword);
            self.challenge(None, progress, flows, Some(StageFailure::EmailNotValidated))
        };
        email.ok_or_else(unproven)
    }

    fn begin(&self, user_id: Option<OwnedUserId>, operation: &str, purpose: Purpose) -> Progress {
        Progress {
            operation: operation.to_owned(),
            user_id,
            completed: Vec::new(),
            purpose,
            email: None,
            begun_at_ms: self.clock.now_ms(),
        }
    }

    /// Lets somebody register, as far as the registration mode does.
    ///
    /// The answer is the email address that they proved to read, if they did: it is to be the new account's.
    pub async fn authorize_registration(&self, auth: Option<&AuthData>) -> Result<Option<ValidatedEmail>, UiaError> {
        let config = self.accounts.registration_config();
        let mut stages = match config.mode {
            RegistrationMode::Closed => return Err(UiaError::RegistrationClosed),
            RegistrationMode::Token => vec![AuthType::RegistrationToken],
            RegistrationMode::Open if config.terms.is_empty() => vec![AuthType::Dummy],
            RegistrationMode::Open => Vec::new(),
        };
        if !config.terms.is_empty() {
            stages.push(AuthType::Terms);
        }
        let mut with_email: Vec<_> = stages.iter().filter(|stage| **stage != AuthType::Dummy).cloned().collect();
        with_email.push(AuthType::EmailIdentity);
        let flows = match (self.emails.is_enabled(), config.require_email) {
            (true, true) => vec![with_email],
            (true, false) => vec![stages, with_email],
            (false, _) => vec![stages],
        };
        self.authorize(self.begin(None, "register", Purpose::Register), flows, auth, None).await
    }

    async fn authorize(
        &self,
        mut progress: Progress,
        flows: Vec<Vec<AuthType>>,
        auth: Option<&AuthData>,
        address: Option<IpAddr>,
    ) -> Result<Option<ValidatedEmail>, UiaError> {
        let Some(auth) = auth else {
            return Err(self.challenge(None, progress, flows, None));
        };
        if let Some(id) = auth.session() {
            match self.get_progress(id) {
                None => return Err(self.challenge(None, progress, flows, Some(StageFailure::UnknownSession))),
                Some(found) if found.user_id != progress.user_id => return Err(UiaError::WrongUser),
                Some(found) if found.operation != progress.operation => return Err(UiaError::WrongOperation),
                Some(found) => progress = found,
            }
        }
        if let Err(failure) = self.check_stage(&mut progress, &flows, auth, address).await? {
            return Err(self.challenge(auth.session(), progress, flows, Some(failure)));
        }
        if flows.iter().any(|stages| stages.iter().all(|stage| progress.completed.contains(stage))) {
            if let Some(id) = auth.session() {
                self.sessions.lock().pop(id);
            }
            return Ok(progress.email);
        }
        Err(self.challenge(auth.session(), progress, flows, None))
    }

    /// Tries the one stage that a request brings.
    async fn check_stage(
        &self,
        progress: &mut Progress,
        flows: &[Vec<AuthType>],
        auth: &AuthData,
        address: Option<IpAddr>,
    ) -> Result<Result<(), StageFailure>, UiaError> {
        // Without a type the client only asks whether a stage was completed elsewhere.
        let Some(stage) = auth.auth_type() else { return Ok(Ok(())) };
        if !flows.iter().flatten().any(|offered| *offered == stage) {
            return Ok(Err(StageFailure::NotOffered));
        }
        match auth {
            // To send it is to agree.
            AuthData::Dummy(_) | AuthData::Terms(_) => {}
            AuthData::RegistrationToken(data) => {
                if !self.accounts.is_registration_token(&data.token) {
                    return Ok(Err(StageFailure::WrongToken));
                }
            }
            AuthData::Password(data) => {
                let UserIdentifier::Matrix(identifier) = &data.identifier else {
                    return Ok(Err(StageFailure::WrongPassword));
                };
                let claimed = self.accounts.get_login_user_id(&identifier.user)?;
                if claimed != progress.user_id {
                    return Err(UiaError::WrongUser);
                }
                match self.accounts.check_password(claimed.as_deref(), &data.password, address).await {
                    Ok(_) => {}
                    Err(CheckPasswordError::Wrong) => return Ok(Err(StageFailure::WrongPassword)),
                    Err(error) => return Err(UiaError::Password(error)),
                }
            }
            AuthData::EmailIdentity(data) => {
                let credentials = &data.thirdparty_id_creds;
                let (sid, secret) = (credentials.sid.as_str(), credentials.client_secret.as_str());
                match self.emails.check_proof(progress.purpose, sid, secret) {
                    Ok(email) => progress.email = Some(email),
                    Err(ProofError::Unknown | ProofError::NotValidated) => {
                        return Ok(Err(StageFailure::EmailNotValidated));
                    }
                    Err(ProofError::Read(error)) => return Err(error.into()),
                    Err(ProofError::Write(error)) => return Err(error.into()),
                }
            }
            _ => return Ok(Err(StageFailure::NotOffered)),
        }
        if !progress.completed.contains(&stage) {
            progress.completed.push(stage);
        }
        Ok(Ok(()))
    }

    /// Notes that a stage was completed in a browser, on its fallback page. False if there is no such session.
    ///
    /// What the stage asks for has been shown: the registration token, for one, was the right one.
    pub fn complete_in_browser(&self, id: &str, stage: AuthType) -> bool {
        let Some(mut progress) = self.get_progress(id) else { return false };
        if !progress.completed.contains(&stage) {
            progress.completed.push(stage);
        }
        self.sessions.lock().put(id.to_owned(), progress);
        true
    }

    /// Writes to an address for the email stage of a session, as its fallback page asks. The answer is what proves it once the mail's link was opened;
    /// `None`: there is no such session.
    pub async fn begin_email_in_browser(
        &self,
        id: &str,
        address: &str,
    ) -> Result<Option<EmailProofBegun>, RequestTokenError> {
        let Some(progress) = self.get_progress(id) else { return Ok(None) };
        let client_secret = random_text(ALPHABET, 24);
        let request = TokenRequest {
            purpose: progress.purpose,
            client_secret: &client_secret,
            address,
            send_attempt: 1,
            next_link: None,
        };
        let sid = self.emails.request_token(&request).await?;
        Ok(Some(EmailProofBegun { sid, client_secret }))
    }

    /// Notes that the email stage was completed on its fallback page. False if there is no such session.
    pub fn complete_email_in_browser(&self, id: &str, begun: &EmailProofBegun) -> Result<bool, ProofError> {
        let Some(mut progress) = self.get_progress(id) else { return Ok(false) };
        progress.email = Some(self.emails.check_proof(progress.purpose, &begun.sid, &begun.client_secret)?);
        self.sessions.lock().put(id.to_owned(), progress);
        Ok(self.complete_in_browser(id, AuthType::EmailIdentity))
    }

    fn get_progress(&self, id: &str) -> Option<Progress> {
        let mut sessions = self.sessions.lock();
        let progress = sessions.get(id)?.clone();
        if progress.begun_at_ms.saturating_add(SESSION_LIFETIME_MS) <= self.clock.now_ms() {
            sessions.pop(id);
            return None;
        }
        Some(progress)
    }

    fn challenge(
        &self,
        id: Option<&str>,
        progress: Progress,
        flows: Vec<Vec<AuthType>>,
        failure: Option<StageFailure>,
    ) -> UiaError {
        let session = id.map_or_else(|| random_text(ALPHABET, 24), str::to_owned);
        let completed = progress.completed.clone();
        self.sessions.lock().put(session.clone(), progress);
        let asks_for_terms = flows.iter().flatten().any(|stage| *stage == AuthType::Terms);
        let terms = if asks_for_terms { self.accounts.registration_config().terms.clone() } else { Vec::new() };
        UiaError::Challenge(Challenge { flows, completed, terms, session, failure })
    }
}
