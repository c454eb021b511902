//! Rate limits: a token bucket for each kind of action and each user or address that does it.
//!
//! Most requests are counted by one layer, [`crate::cost`]; a handler counts only what it alone can tell. Buckets live in memory, in
//! bounded number: the one longest unused makes room, which can only forgive.

use std::{net::IpAddr, num::NonZeroUsize, sync::Arc, time::Duration};

use chappe_protocol::clock::Clock;
use chappe_services::accounts::Session;
use lru::LruCache;
use parking_lot::Mutex;
use ruma::{OwnedUserId, UserId};

use crate::error::ApiError;

/// How many buckets are kept at most; each takes some 100 bytes.
const BUCKETS_MAX: NonZeroUsize = NonZeroUsize::new(100_000).unwrap();

/// So many actions a second in the long run, and so many at once.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rate {
    pub per_second: f64,
    pub burst: u32,
}

/// The rates of all kinds of action. The defaults are those that Synapse documents.
#[derive(Clone, Debug, PartialEq)]
pub struct RateLimitsConfig {
    /// False: nothing is ever refused.
    pub enabled: bool,
    /// Sending events, per user.
    pub message: Rate,
    /// Registering, and asking whether a name is free, per address.
    pub registration: Rate,
    /// Asking whether a registration token is valid, per address.
    pub registration_token_validity: Rate,
    /// Logging in, per address.
    pub login_address: Rate,
    /// Logging in, per account.
    pub login_account: Rate,
    /// Joining rooms that this server is in, per user.
    pub join_local: Rate,
    /// Joining rooms that this server is not in, per user.
    pub join_remote: Rate,
    /// Inviting, per user.
    pub invite: Rate,
    /// Creating rooms, per user.
    pub create_room: Rate,
    /// Everything that asks for a password or a third party again, per user.
    pub authentication: Rate,
    /// Cancelling, restarting and sending delayed events, per address.
    pub delayed_event: Rate,
    /// Asking for a mail to prove an email address, per address of the client and per email address.
    pub email_token: Rate,
    /// Reading what is quickly found, per user.
    pub read: Rate,
    /// Changing anything that has no limit of its own, per user.
    pub write: Rate,
    /// Reading what has to be searched, computed or asked of other servers, per user.
    pub costly: Rate,
    /// Uploads and downloads, per user.
    pub media: Rate,
    /// Whether administrators are never limited.
    pub exempt_admins: bool,
    /// Users who are never limited.
    pub exempt_users: Vec<OwnedUserId>,
}

impl Default for RateLimitsConfig {
    fn default() -> Self {
        Self {
            enabled: true,
            message: Rate { per_second: 0.2, burst: 10 },
            registration: Rate { per_second: 0.17, burst: 3 },
            registration_token_validity: Rate { per_second: 0.1, burst: 5 },
            login_address: Rate { per_second: 0.003, burst: 5 },
            login_account: Rate { per_second: 0.003, burst: 5 },
            join_local: Rate { per_second: 0.1, burst: 10 },
            join_remote: Rate { per_second: 0.01, burst: 10 },
            invite: Rate { per_second: 0.3, burst: 10 },
            create_room: Rate { per_second: 0.016, burst: 10 },
            authentication: Rate { per_second: 0.1, burst: 10 },
            delayed_event: Rate { per_second: 1.0, burst: 5 },
            email_token: Rate { per_second: 0.003, burst: 5 },
            read: Rate { per_second: 20.0, burst: 300 },
            write: Rate { per_second: 10.0, burst: 100 },
            costly: Rate { per_second: 5.0, burst: 100 },
            media: Rate { per_second: 20.0, burst: 300 },
            exempt_admins: true,
            exempt_users: Vec::new(),
        }
    }
}

/// A kind of action that is limited.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Limit {
    Message,
    Registration,
    RegistrationTokenValidity,
    LoginAddress,
    LoginAccount,
    JoinLocal,
    JoinRemote,
    Invite,
    CreateRoom,
    Authentication,
    DelayedEvent,
    EmailToken,
    Read,
    Write,
    Costly,
    Media,
}

impl Limit {
    /// Whether it is always the address that is counted, even where a user is known.
    pub(crate) fn counts_addresses(self) -> bool {
        matches!(
            self,
            Self::Registration
                | Self::RegistrationTokenValidity
                | Self::LoginAddress
                | Self::DelayedEvent
                | Self::EmailToken
        )
    }
}

#[derive(Clone, PartialEq, Eq, Hash)]
enum Who {
    User(OwnedUserId),
    Address(IpAddr),
    /// An email address, in small letters.
    Mailbox(String),
}

/// `actions` were still allowed at `at_ms`.
struct Bucket {
    actions: f64,
    at_ms: u64,
}

pub struct RateLimits {
    config: RateLimitsConfig,
    clock: Arc<dyn Clock>,
    buckets: Mutex<LruCache<(Limit, Who), Bucket>>,
}

impl RateLimits {
    pub fn new(config: RateLimitsConfig, clock: Arc<dyn Clock>) -> Self {
        // Made with its capacity it would take the memory at once.
        let mut buckets = LruCache::unbounded();
        buckets.resize(BUCKETS_MAX);
        Self { config, clock, buckets: Mutex::new(buckets) }
    }

    pub(crate) fn is_enabled(&self) -> bool {
        self.config.enabled
    }

    /// Counts an action of this user.
    ///
    /// # Errors
    /// M_LIMIT_EXCEEDED, with the time until the next action is allowed.
    pub fn check_user(&self, limit: Limit, user_id: &UserId) -> Result<(), ApiError> {
        if self.config.exempt_users.iter().any(|exempt| exempt == user_id) {
            return Ok(());
        }
        self.check(limit, Who::User(user_id.to_owned()))
    }

    /// Counts an action of the user of this session, unless it is one that is never limited.
    pub fn check_session(&self, limit: Limit, session: &Session) -> Result<(), ApiError> {
        if !session.is_limited() || (session.is_admin && self.config.exempt_admins) {
            return Ok(());
        }
        self.check_user(limit, &session.user_id)
    }

    /// Counts an action from this address. Requests whose address is unknown (a unix socket without a proxy's header) are the
    /// operator's own and are not limited.
    pub fn check_address(&self, limit: Limit, address: Option<IpAddr>) -> Result<(), ApiError> {
        address.map_or(Ok(()), |address| self.check(limit, Who::Address(network(address))))
    }

    /// Counts an action that writes to this email address, whoever asks for it.
    pub fn check_mailbox(&self, limit: Limit, email: &str) -> Result<(), ApiError> {
        self.check(limit, Who::Mailbox(email.trim().to_lowercase()))
    }

    fn check(&self, limit: Limit, who: Who) -> Result<(), ApiError> {
        if !self.config.enabled {
            return Ok(());
        }
        let rate = self.rate(limit);
        let burst = f64::from(rate.burst);
        let now_ms = self.clock.now_ms();
        let mut buckets = self.buckets.lock();
        let bucket = buckets.get_or_insert_mut((limit, who), || Bucket { actions: burst, at_ms: now_ms });
        let since_s = now_ms.saturating_sub(bucket.at_ms) as f64 / 1000.0;
        bucket.actions = (bucket.actions + since_s * rate.per_second).min(burst);
        bucket.at_ms = now_ms;
        if bucket.actions < 1.0 {
            let wait_s = ((1.0 - bucket.actions) / rate.per_second.max(1e-6)).min(86_400.0);
            return Err(ApiError::limit_exceeded(Duration::from_secs_f64(wait_s)));
        }
        bucket.actions -= 1.0;
        Ok(())
    }

    fn rate(&self, limit: Limit) -> Rate {
        let config = &self.config;
        match limit {
            Limit::Message => config.message,
            Limit::Registration => config.registration,
            Limit::RegistrationTokenValidity => config.registration_token_validity,
            Limit::LoginAddress => config.login_address,
            Limit::LoginAccount => config.login_account,
            Limit::JoinLocal => config.join_local,
            Limit::JoinRemote => config.join_remote,
            Limit::Invite => config.invite,
            Limit::CreateRoom => config.create_room,
            Limit::Authentication => config.authentication,
            Limit::DelayedEvent => config.delayed_event,
            Limit::EmailToken => config.email_token,
            Limit::Read => config.read,
            Limit::Write => config.write,
            Limit::Costly => config.costly,
            Limit::Media => config.media,
        }
    }
}

/// What counts as one source: an IPv4 address, or the /64 network that one IPv6 subscriber has for themself.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => IpAddr::V6((u128::from(address) & !u128::from(u64::MAX)).into()),
        address => address,
    }
}

#[cfg(test)]
mod tests {
    use chappe_protocol::clock::ManualClock;
    use ruma::user_id;

    use super::*;

    fn limits(enabled: bool) -> (RateLimits, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::new(1_000_000));
        let config = RateLimitsConfig { enabled, message: Rate { per_second: 0.5, burst: 2 }, ..Default::default() };
        (RateLimits::new(config, clock.clone()), clock)
    }

    #[test]
    fn burst_is_allowed_and_then_the_rate() {
        let (limits, clock) = limits(true);
        let alice = user_id!("@alice:example.org");
        assert!(limits.check_user(Limit::Message, alice).is_ok());
        assert!(limits.check_user(Limit::Message, alice).is_ok());
        assert!(limits.check_user(Limit::Message, alice).is_err());
        assert!(limits.check_user(Limit::Message, user_id!("@bob:example.org")).is_ok(), "users are counted apart");
        clock.advance(2_000);
        assert!(limits.check_user(Limit::Message, alice).is_ok());
        assert!(limits.check_user(Limit::Message, alice).is_err());
    }

    #[test]
    fn nothing_is_refused_when_limits_are_off() {
        let (limits, _) = limits(false);
        assert!((0..100).all(|_| limits.check_user(Limit::Message, user_id!("@alice:example.org")).is_ok()));
    }

    #[test]
    fn addresses_of_one_ipv6_network_are_counted_together() {
        assert_eq!(network("2001:db8::1".parse().unwrap()), network("2001:db8::ffff:1".parse().unwrap()));
        assert_ne!(network("2001:db8:0:1::1".parse().unwrap()), network("2001:db8::1".parse().unwrap()));
    }
}
