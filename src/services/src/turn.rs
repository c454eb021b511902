//! Credentials for the TURN servers that carry calls (client-server API, "Voice over IP").
//!
//! The TURN servers themselves are the operator's: nothing is sent to them. With a shared secret each user gets credentials that the TURN
//! server can check alone, by the convention that coturn calls `use-auth-secret`.

use std::sync::Arc;

use base64::{Engine, prelude::BASE64_STANDARD};
use chappe_protocol::clock::Clock;
use hmac::{Hmac, KeyInit, Mac};
use sha1::Sha1;

use crate::{accounts::Session, secret::Secret};

/// How clients log in at the TURN servers.
#[derive(Clone, Debug)]
pub enum TurnLogin {
    /// By credentials made from a secret that the TURN servers know.
    SharedSecret(Secret),
    /// All by the same credentials.
    Fixed { username: String, password: Secret },
}

#[derive(Clone, Debug)]
pub struct TurnConfig {
    pub uris: Vec<String>,
    pub login: TurnLogin,
    /// How long credentials are good for, in seconds.
    pub lifetime_s: u64,
    pub allow_guests: bool,
}

/// What a client needs to use the TURN servers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TurnCredentials {
    pub username: String,
    pub password: String,
    pub uris: Vec<String>,
    pub lifetime_s: u64,
}

/// No credentials.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TurnError {
    #[error("this server has no TURN server")]
    None,
    #[error("guests may not use the TURN servers")]
    Guest,
}

pub struct Turn {
    config: Option<TurnConfig>,
    clock: Arc<dyn Clock>,
}

impl Turn {
    /// `None`: there are no TURN servers.
    pub fn new(config: Option<TurnConfig>, clock: Arc<dyn Clock>) -> Self {
        Self { config, clock }
    }

    pub fn credentials(&self, session: &Session) -> Result<TurnCredentials, TurnError> {
        let config = self.config.as_ref().ok_or(TurnError::None)?;
        if session.is_guest && !config.allow_guests {
            return Err(TurnError::Guest);
        }
        let (username, password) = match &config.login {
            TurnLogin::Fixed { username, password } => (username.clone(), password.expose().to_owned()),
            TurnLogin::SharedSecret(secret) => {
                let expires_at_s = (self.clock.now_ms() / 1000).saturating_add(config.lifetime_s);
                let username = format!("{expires_at_s}:{}", session.user_id);
                // HMAC takes keys of any length.
                let mac = Hmac::<Sha1>::new_from_slice(secret.expose().as_bytes()).map_err(|_| TurnError::None)?;
                let mac = mac.chain_update(username.as_bytes()).finalize().into_bytes();
                (username, BASE64_STANDARD.encode(mac))
            }
        };
        Ok(TurnCredentials { username, password, uris: config.uris.clone(), lifetime_s: config.lifetime_s })
    }
}

#[cfg(test)]
mod tests {
    use chappe_protocol::clock::ManualClock;
    use ruma::{owned_device_id, owned_user_id};

    use super::*;

    fn session(is_guest: bool) -> Session {
        Session {
            user_id: owned_user_id!("@alice:chappe.example"),
            device_id: owned_device_id!("D"),
            is_guest,
            is_admin: false,
            token: [0; 32],
            app_service: None,
        }
    }

    fn turn(login: TurnLogin) -> Turn {
        let uris = vec!["turn:turn.chappe.example".to_owned()];
        let config = TurnConfig { uris, login, lifetime_s: 3600, allow_guests: false };
        Turn::new(Some(config), Arc::new(ManualClock::new(1_700_000_000_000)))
    }

    #[test]
    fn credentials_of_a_shared_secret_name_their_end_and_user() {
        let given = turn(TurnLogin::SharedSecret(Secret::new("north"))).credentials(&session(false)).unwrap();
        assert_eq!(given.username, "1700003600:@alice:chappe.example");
        // printf '1700003600:@alice:chappe.example' | openssl dgst -sha1 -hmac north -binary | base64
        assert_eq!(given.password, "T5CTAUsXeccJ7jiAMOHNmiBhvQM=");
        assert_eq!((given.lifetime_s, given.uris.len()), (3600, 1));
    }

    #[test]
    fn fixed_credentials_are_everybodys_but_guests() {
        let turn = turn(TurnLogin::Fixed { username: "u".to_owned(), password: Secret::new("p") });
        assert_eq!(turn.credentials(&session(false)).unwrap().password, "p");
        assert_eq!(turn.credentials(&session(true)), Err(TurnError::Guest));
        let none = Turn::new(None, Arc::new(ManualClock::new(0)));
        assert_eq!(none.credentials(&session(false)), Err(TurnError::None));
    }
}
