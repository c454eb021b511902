//! Email addresses of users: proving that one reads an address, and whose it is (client-server API, "Adding Account Administrative
//! Contact Information").
//!
//! A proof is a *session*: the client asks for a mail, its user opens the link in it, the client shows session and secret. Sessions
//! are asked for by anybody, so the answers tell nobody which addresses have accounts: a mail goes out where it helps, and the answer is
//! always the same. Identity servers are not asked.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use chappe_protocol::clock::Clock;
use chappe_store::{
    Batch, CommitError, Direction, Domain, Store, StoreError,
    tables::{
        accounts::ACCOUNTS,
        emails::{EMAIL_SESSIONS, EMAIL_USERS, EmailRecord, EmailSessionRecord, USER_EMAILS},
    },
};
use ruma::{OwnedUserId, UserId};
use serde_json::json;
use sha2::{Digest, Sha256};
use url::Url;

use crate::{
    accounts::random_text,
    guarded::commit_guarded,
    mail::{Mail, SendMailError},
    push::pushers::queue_email_pushers_deleted,
};

/// Where the links in mails lead, below the server's public URL.
pub const SUBMIT_PATH: &str = "/_chappe/email/submit_token";
/// What tokens are made of, and of how many letters.
const TOKEN_ALPHABET: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";
const TOKEN_CHARS: usize = 43;
/// How long a session is good for, in milliseconds.
const SESSION_LIFETIME_MS: u64 = 24 * 3600 * 1000;
/// The longest address, in bytes (RFC 5321).
const ADDRESS_BYTES_MAX: usize = 254;
/// The longest link a client may have its user sent to, in bytes.
const LINK_BYTES_MAX: usize = 2_048;
/// How many addresses an account has at most.
const ADDRESSES_MAX: usize = 20;
/// How often expired sessions are looked for.
const SWEEP_EVERY: Duration = Duration::from_secs(3600);

/// What an address is proven for. A proof serves no other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    Register,
    AddAddress,
    ResetPassword,
}

impl Purpose {
    fn as_str(self) -> &'static str {
        match self {
            Self::Register => "registration",
            Self::AddAddress => "add_address",
            Self::ResetPassword => "password_reset",
        }
    }
}

/// A client's request for a mail.
#[derive(Clone, Debug)]
pub struct TokenRequest<'a> {
    pub purpose: Purpose,
    pub client_secret: &'a str,
    pub address: &'a str,
    pub send_attempt: u64,
    pub next_link: Option<&'a str>,
}

/// An address whose owner was found out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ValidatedEmail {
    /// The session that proves it.
    pub sid: String,
    pub address: String,
    pub validated_ms: u64,
}

/// An address of an account.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Email {
    pub address: String,
    pub validated_ms: u64,
    pub added_ms: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum RequestTokenError {
    #[error("this server sends no mail")]
    Disabled,
    #[error("this is not an email address")]
    InvalidAddress,
    #[error("the next link is not a web page")]
    InvalidLink,
    #[error(transparent)]
    Mail(#[from] SendMailError),
    #[error(transparent)]
    Read(#[from] StoreError),
    #[error(transparent)]
    Write(#[from] CommitError),
}

/// A proof that does not hold.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    #[error("there is no such session, or it has expired, or the secret or token is wrong")]
    Unknown,
    #[error("the address has not been validated yet")]
    NotValidated,
    #[error(transparent)]
    Read(#[from] StoreError),
    #[error(transparent)]
    Write(#[from] CommitError),
}

#[derive(Debug, thiserror::Error)]
pub enum AddEmailError {
    #[error("the address belongs to another account")]
    InUse,
    #[error("the account has too many addresses")]
    TooMany,
    #[error("there is no such account")]
    NoAccount,
    #[error(transparent)]
    Read(#[from] StoreError),
    #[error(transparent)]
    Write(#[from] CommitError),
}

/// The email addresses of this server's users.
pub struct Emails {
    store: Store,
    clock: Arc<dyn Clock>,
    mail: Option<Arc<Mail>>,
    /// Where this server is reached by browsers.
    public_url: Url,
    /// Besides its host, those that browsers are sent on to.
    next_link_hosts: BTreeSet<String>,
}

impl Emails {
    /// `mail`: `None` on a server that sends none; no address can be proven then.
    pub fn new(store: Store, clock: Arc<dyn Clock>, mail: Option<Arc<Mail>>, public_url: Url) -> Self {
        Self { store, clock, mail, public_url, next_link_hosts: BTreeSet::new() }
    }

    /// Browsers are sent on to pages of these hosts, once an address is validated.
    pub fn with_next_link_hosts(self, hosts: impl IntoIterator<Item = String>) -> Self {
        Self { next_link_hosts: hosts.into_iter().map(|host| host.to_ascii_lowercase()).collect(), ..self }
    }

    pub fn is_enabled(&self) -> bool {
        self.mail.is_some()
    }

    pub fn mail(&self) -> Option<&Arc<Mail>> {
        self.mail.as_ref()
    }

    /// Sends a mail by which the owner of an address can validate the session whose id is answered. The same request again sends no
    /// other mail unless its `send_attempt` is higher.
    pub async fn request_token(&self, request: &TokenRequest<'_>) -> Result<String, RequestTokenError> {
        let Some(mail) = &self.mail else { return Err(RequestTokenError::Disabled) };
        let address = canonical_address(request.address).ok_or(RequestTokenError::InvalidAddress)?;
        let next_link = request.next_link.filter(|link| !link.is_empty());
        let next_link = next_link.map(|link| self.check_next_link(link)).transpose()?.flatten();
        let sid = session_id(request.purpose, request.client_secret, &address);
        let is_known = self.get_user(&address)?.is_some();
        let helps = is_known == (request.purpose == Purpose::ResetPassword);
        let token = helps.then(|| random_text(TOKEN_ALPHABET, TOKEN_CHARS));
        let is_new = commit_guarded::<_, RequestTokenError>(&self.store, sessions_domain(), |batch| {
            let earlier = self.get_session(&sid)?;
            if earlier.as_ref().is_some_and(|earlier| request.send_attempt <= earlier.send_attempt) {
                return Ok(false);
            }
            let mut session = EmailSessionRecord {
                address: address.clone(),
                client_secret: digest(request.client_secret),
                token: token.as_deref().map(digest),
                send_attempt: request.send_attempt,
                next_link: next_link.clone(),
                expires_ms: self.clock.now_ms().saturating_add(SESSION_LIFETIME_MS),
                validated_ms: None,
            };
            // What was proven once holds as long as it did: asking again prolongs nothing.
            if let Some(earlier) = earlier.filter(|earlier| earlier.validated_ms.is_some()) {
                (session.validated_ms, session.expires_ms) = (earlier.validated_ms, earlier.expires_ms);
            }
            batch.put(&EMAIL_SESSIONS, &sid, &session);
            Ok(true)
        })
        .await?;
        if !is_new {
            return Ok(sid);
        }
        match &token {
            Some(token) => {
                let link = self.link(&sid, request.client_secret, token);
                mail.send(&address, request.purpose.as_str(), json!({ "service": mail.service_name(), "link": link }))?;
            }
            None if is_known => mail.send(&address, "already_in_use", json!({ "service": mail.service_name() }))?,
            // Nobody's address: whoever reads it has nothing to do here.
            None => {}
        }
        Ok(sid)
    }

    /// The link as browsers follow it; `None`: they do not. A link to somewhere else would have this server's mail lead to the pages of whoever
    /// asks for it.
    fn check_next_link(&self, link: &str) -> Result<Option<String>, RequestTokenError> {
        let url = Url::parse(link).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        let url = url.filter(|_| link.len() <= LINK_BYTES_MAX).ok_or(RequestTokenError::InvalidLink)?;
        let is_own = url.origin() == self.public_url.origin();
        let is_followed = is_own || url.host_str().is_some_and(|host| self.next_link_hosts.contains(host));
        Ok(is_followed.then(|| url.into()))
    }

    fn link(&self, sid: &str, client_secret: &str, token: &str) -> String {
        self.page_url(SUBMIT_PATH, &[("sid", sid), ("client_secret", client_secret), ("token", token)])
    }

    /// The URL of a page of this server, for a mail.
    pub fn page_url(&self, path: &str, parameters: &[(&str, &str)]) -> String {
        let mut url = self.public_url.clone();
        url.set_path(path);
        url.query_pairs_mut().extend_pairs(parameters);
        url.into()
    }

    /// Validates a session with the token that was mailed. The answer is where the user's browser is sent next, if anywhere.
    pub async fn submit_token(
        &self,
        sid: &str,
        client_secret: &str,
        token: &str,
    ) -> Result<Option<String>, ProofError> {
        commit_guarded(&self.store, sessions_domain(), |batch| {
            let session = self.get_session(sid)?.ok_or(ProofError::Unknown)?;
            if session.client_secret != digest(client_secret) || session.token != Some(digest(token)) {
                return Err(ProofError::Unknown);
            }
            let next_link = session.next_link.clone();
            if session.validated_ms.is_none() {
                let validated_ms = Some(self.clock.now_ms());
                batch.put(&EMAIL_SESSIONS, &sid.to_owned(), &EmailSessionRecord { validated_ms, ..session });
            }
            Ok(next_link)
        })
        .await
    }

    /// The address that this session has proven for this purpose.
    pub fn check_proof(&self, purpose: Purpose, sid: &str, client_secret: &str) -> Result<ValidatedEmail, ProofError> {
        let session = self.get_session(sid)?.ok_or(ProofError::Unknown)?;
        if session.client_secret != digest(client_secret) || session_id(purpose, client_secret, &session.address) != sid
        {
            return Err(ProofError::Unknown);
        }
        let validated_ms = session.validated_ms.ok_or(ProofError::NotValidated)?;
        Ok(ValidatedEmail { sid: sid.to_owned(), address: session.address, validated_ms })
    }

    /// Ends a session, for a proof that serves once: of two that show it one is told that there is no such session.
    pub async fn spend(&self, email: &ValidatedEmail) -> Result<(), ProofError> {
        commit_guarded(&self.store, sessions_domain(), |batch| {
            if self.get_session(&email.sid)?.is_none() {
                return Err(ProofError::Unknown);
            }
            batch.delete(&EMAIL_SESSIONS, &email.sid);
            Ok(())
        })
        .await
    }

    fn get_session(&self, sid: &str) -> Result<Option<EmailSessionRecord>, StoreError> {
        let session = self.store.get(&EMAIL_SESSIONS, &sid.to_owned())?;
        Ok(session.filter(|session| session.expires_ms > self.clock.now_ms()))
    }

    /// Whose address this is.
    pub fn get_user(&self, address: &str) -> Result<Option<OwnedUserId>, StoreError> {
        let Some(address) = canonical_address(address) else { return Ok(None) };
        self.store.get(&EMAIL_USERS, &address)
    }

    /// The addresses of an account.
    pub fn scan_emails(&self, user_id: &UserId) -> Result<Vec<Email>, StoreError> {
        let rows = self.store.scan(&USER_EMAILS, &(user_id.to_owned(),), Direction::Forward);
        rows.map(|row| {
            let ((_, address), record) = row?;
            Ok(Email { address, validated_ms: record.validated_ms, added_ms: record.added_ms })
        })
        .collect()
    }

    /// Adds a proven address to an account. One that is there already is no error.
    pub async fn add(&self, user_id: &UserId, email: &ValidatedEmail) -> Result<(), AddEmailError> {
        let of_address = Domain::Named { kind: "email", id: email.address.clone() };
        commit_guarded(&self.store, Domain::Account(user_id.to_owned()), |batch| {
            batch.guard(of_address.clone(), self.store.domain_version(&of_address)?);
            match self.store.get(&EMAIL_USERS, &email.address)? {
                Some(owner) if owner == user_id => return Ok(()),
                Some(_) => return Err(AddEmailError::InUse),
                None => {}
            }
            let account = self.store.get(&ACCOUNTS, &user_id.to_owned())?;
            if account.is_none_or(|account| account.deactivated_at_ms.is_some()) {
                return Err(AddEmailError::NoAccount);
            }
            if self.scan_emails(user_id)?.len() >= ADDRESSES_MAX {
                return Err(AddEmailError::TooMany);
            }
            let record = EmailRecord { validated_ms: email.validated_ms, added_ms: self.clock.now_ms() };
            batch.put(&USER_EMAILS, &(user_id.to_owned(), email.address.clone()), &record);
            batch.put(&EMAIL_USERS, &email.address, &user_id.to_owned());
            Ok(())
        })
        .await
    }

    /// Takes an address from an account, with the pushers that write to it. One that is not there is no error.
    pub async fn delete(&self, user_id: &UserId, address: &str) -> Result<(), CommitError> {
        let Some(address) = canonical_address(address) else { return Ok(()) };
        let key = (user_id.to_owned(), address.clone());
        commit_guarded(&self.store, Domain::Account(user_id.to_owned()), |batch| {
            if self.store.contains(&USER_EMAILS, &key)? {
                batch.delete(&USER_EMAILS, &key);
                batch.delete(&EMAIL_USERS, &address);
                queue_email_pushers_deleted(&self.store, batch, user_id, Some(&address))?;
            }
            Ok::<_, CommitError>(())
        })
        .await
    }

    /// Deletes expired sessions from time to time, for as long as the server runs.
    pub async fn run(self: Arc<Self>) {
        loop {
            if let Err(error) = self.delete_expired().await {
                tracing::error!(%error, "expired validations of email addresses could not be deleted");
            }
            tokio::time::sleep(SWEEP_EVERY).await;
        }
    }

    async fn delete_expired(&self) -> Result<(), CommitError> {
        let now_ms = self.clock.now_ms();
        let mut batch = Batch::new();
        for row in self.store.scan(&EMAIL_SESSIONS, &(), Direction::Forward) {
            let (sid, session) = row?;
            if session.expires_ms <= now_ms {
                batch.delete(&EMAIL_SESSIONS, &sid);
            }
        }
        if batch.is_empty() { Ok(()) } else { self.store.commit(batch).await.map(|_| ()) }
    }
}

/// Puts the end of all of an account's addresses, and of the pushers that write to them, into a batch that the account guards.
pub(crate) fn queue_emails_deleted(store: &Store, batch: &mut Batch, user_id: &UserId) -> Result<(), StoreError> {
    queue_email_pushers_deleted(store, batch, user_id, None)?;
    for row in store.scan(&USER_EMAILS, &(user_id.to_owned(),), Direction::Forward) {
        let (key, _) = row?;
        batch.delete(&EMAIL_USERS, &key.1);
        batch.delete(&USER_EMAILS, &key);
    }
    Ok(())
}

/// Sessions are few and short: one domain for all leaves no row behind for each.
fn sessions_domain() -> Domain {
    Domain::Named { kind: "email_sessions", id: String::new() }
}

/// The address as it is compared: in small letters. `None` if it is none.
pub(crate) fn canonical_address(address: &str) -> Option<String> {
    let address = address.trim();
    if address.len() > ADDRESS_BYTES_MAX || address.parse::<lettre::Address>().is_err() {
        return None;
    }
    Some(address.to_lowercase())
}

/// The same request has the same id, which is no secret: the client's secret is.
fn session_id(purpose: Purpose, client_secret: &str, address: &str) -> String {
    let mut hasher = Sha256::new();
    for part in [purpose.as_str(), client_secret, address] {
        hasher.update(part.as_bytes());
        hasher.update([0]);
    }
    hex::encode(hasher.finalize())
}

fn digest(text: &str) -> [u8; 32] {
    Sha256::digest(text.as_bytes()).into()
}

#[cfg(test)]
#[path = "emails_tests.rs"]
mod tests;
