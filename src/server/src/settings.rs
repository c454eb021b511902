//! Turns sections of the configuration into the plain values that each part of the server takes.

use std::time::Duration;

use chappe_api::{
    client::discovery::{DiscoveryConfig, Stability, SupportContact},
    rate_limit::{Rate, RateLimitsConfig},
};
use chappe_protocol::{glob::Glob, room_version};
use chappe_rooms::RoomsConfig;
use chappe_services::{
    accounts::{AccountsConfig, LockoutConfig, PasswordPolicy},
    app_services::Registrations,
    connector::ConnectorConfig,
    delayed_events::DelayedEventsConfig,
    federation::keys::{RetiredKey, ServerKeysConfig},
    mail::{MailConfig, TlsMode},
    media::MediaConfig,
    policy::FederationPolicy,
    previews::PreviewsConfig,
    registration::{RegistrationConfig, RegistrationMode, TermsDocument, TermsPolicy},
    secret::Secret,
    server_notices::ServerNoticesConfig,
    turn::{TurnConfig, TurnLogin},
};
use chappe_store::StoreOptions;
use chappe_store_rocksdb::RocksOptions;
use ruma::{RoomVersionId, UserId, api::client::discovery::get_capabilities::v3::RoomVersionStability};
use url::Url;

use crate::{
    config::{
        self, Config, DefaultEncryption, DelayedEventsSection, Durability, MailTls, MediaSection, PreviewsSection,
        RateLimitsSection, StorageSection, TurnSection,
    },
    signing_key::OldKey,
};

pub fn engine(section: &StorageSection) -> RocksOptions {
    RocksOptions {
        cache_bytes: usize::try_from(section.block_cache_bytes).unwrap_or(usize::MAX),
        write_buffer_bytes: usize::try_from(section.write_buffer_bytes).unwrap_or(usize::MAX),
        ..RocksOptions::default()
    }
}

pub fn store(section: &StorageSection) -> StoreOptions {
    StoreOptions {
        durability: match section.durability {
            Durability::Fsync => chappe_store::Durability::Fsync,
            Durability::Os => chappe_store::Durability::Os,
        },
        row_cache_bytes: section.row_cache_bytes,
    }
}

pub fn connector(config: &Config, extra_roots: Vec<Vec<u8>>) -> ConnectorConfig {
    ConnectorConfig {
        extra_roots,
        allow_networks: config.federation.allow_networks.clone(),
        ..ConnectorConfig::default()
    }
}

pub fn federation_policy(config: &Config) -> FederationPolicy {
    let section = &config.federation;
    FederationPolicy::new(config.server_name.clone(), section.enabled, &section.allow, &section.deny)
}

pub fn server_keys(config: &Config, old_keys: Vec<OldKey>) -> ServerKeysConfig {
    let retired =
        |key: OldKey| RetiredKey { key_id: key.key_id, public_key: key.public_key, expired_ms: key.expired_at_ms };
    ServerKeysConfig {
        notaries: config.federation.trusted_key_servers.clone(),
        denied_keys: Vec::new(),
        pinned_keys: config.federation.parse_pinned_keys(),
        retired_keys: old_keys.into_iter().map(retired).collect(),
    }
}

pub fn accounts(config: &Config, app_services: Registrations) -> AccountsConfig {
    let (registration, login) = (&config.registration, &config.login);
    let secret = |secret: &config::Secret| Secret::new(secret.expose());
    AccountsConfig {
        registration: RegistrationConfig {
            mode: match registration.mode {
                config::RegistrationMode::Closed => RegistrationMode::Closed,
                config::RegistrationMode::Token => RegistrationMode::Token,
                config::RegistrationMode::Open => RegistrationMode::Open,
            },
            token: registration.token.as_ref().map(secret),
            shared_secret: registration.shared_secret.as_ref().map(secret),
            require_email: registration.require_email,
            allow_guests: registration.allow_guests,
            terms: config.terms.policies.iter().map(terms_policy).collect(),
        },
        access_token_lifetime_ms: login.access_token_lifetime_seconds.saturating_mul(1000),
        password_policy: PasswordPolicy {
            length_min: config.password.minimum_length,
            require_digit: config.password.require_digit,
            require_symbol: config.password.require_symbol,
            require_lowercase: config.password.require_lowercase,
            require_uppercase: config.password.require_uppercase,
        },
        lockout: LockoutConfig {
            enabled: login.lockout,
            account_failures_max: login.lockout_account_failures,
            address_failures_max: login.lockout_address_failures,
            longest_ms: login.lockout_longest_seconds.saturating_mul(1000),
            ..LockoutConfig::default()
        },
        app_services,
        ..AccountsConfig::new(config.server_name.clone())
    }
}

fn terms_policy(policy: &config::TermsPolicy) -> TermsPolicy {
    let document =
        |document: &config::TermsDocument| TermsDocument { name: document.name.clone(), url: document.url.clone() };
    TermsPolicy {
        id: policy.id.clone(),
        version: policy.version.clone(),
        languages: policy.languages.iter().map(|(language, of)| (language.clone(), document(of))).collect(),
    }
}

pub fn delayed_events(section: &DelayedEventsSection) -> DelayedEventsConfig {
    DelayedEventsConfig {
        delay_ms_max: section.max_delay_seconds.saturating_mul(1000),
        per_user_max: section.max_per_user,
    }
}

/// `None` where no TURN server is configured.
pub fn turn(section: &TurnSection) -> Option<TurnConfig> {
    let login = match (&section.secret, &section.username, &section.password) {
        (Some(secret), _, _) => TurnLogin::SharedSecret(Secret::new(secret.expose())),
        (None, Some(username), Some(password)) => {
            TurnLogin::Fixed { username: username.clone(), password: Secret::new(password.expose()) }
        }
        _ => return None,
    };
    let config = TurnConfig {
        uris: section.uris.clone(),
        login,
        lifetime_s: section.lifetime_seconds,
        allow_guests: section.allow_guests,
    };
    (!config.uris.is_empty()).then_some(config)
}

pub fn rooms(config: &Config) -> RoomsConfig {
    let section = &config.rooms;
    RoomsConfig {
        default_version: section.default_version.clone(),
        default_encryption: match section.default_encryption {
            DefaultEncryption::Off => chappe_rooms::DefaultEncryption::Off,
            DefaultEncryption::Invite => chappe_rooms::DefaultEncryption::Invite,
            DefaultEncryption::All => chappe_rooms::DefaultEncryption::All,
        },
        spool_dir: Some(config.data_dir.clone()),
        event_cache_bytes: usize::try_from(config.storage.event_cache_bytes).unwrap_or(usize::MAX),
        ..RoomsConfig::default()
    }
}

/// `None` when they are not enabled. The name has been checked with the configuration.
pub fn server_notices(config: &Config) -> Option<ServerNoticesConfig> {
    let section = &config.server_notices;
    let sender = UserId::parse_with_server_name(section.localpart.as_str(), &config.server_name).ok()?;
    section.enabled.then(|| ServerNoticesConfig {
        sender,
        display_name: Some(section.display_name.clone()),
        avatar_url: section.avatar_url.clone(),
        room_name: Some(section.room_name.clone()),
    })
}

pub fn media(section: &MediaSection) -> MediaConfig {
    MediaConfig {
        upload_bytes_max: section.max_upload_bytes,
        remote_bytes_max: section.max_upload_bytes,
        local_kept: days(section.local_retention_days),
        remote_kept: days(section.remote_retention_days),
        user_bytes_max: Some(section.max_user_bytes).filter(|bytes| *bytes > 0),
        legacy_unauthenticated: section.legacy_unauthenticated,
        ..MediaConfig::default()
    }
}

/// `None`: this server sends no mail.
pub fn mail(config: &Config, extra_roots: Vec<Vec<u8>>) -> Option<MailConfig> {
    let section = &config.mail;
    let host = section.host.clone()?;
    let (tls, port) = match section.tls {
        MailTls::StartTls => (TlsMode::StartTls, 587),
        MailTls::Implicit => (TlsMode::Implicit, 465),
        MailTls::Off => (TlsMode::Off, 25),
    };
    Some(MailConfig {
        host,
        port: section.port.unwrap_or(port),
        tls,
        user: section.user.clone(),
        password: section.password.as_ref().map(|password| Secret::new(password.expose())),
        from: section.from.clone().unwrap_or_default(),
        extra_roots,
        templates: section.templates.clone(),
        service_name: config.server_name.to_string(),
    })
}

/// Where browsers reach this server.
pub fn public_url(config: &Config) -> Result<Url, url::ParseError> {
    let configured = config.mail.public_url.as_ref().or(config.well_known.client.as_ref());
    configured.cloned().unwrap_or_else(|| format!("https://{}", config.server_name)).parse()
}

fn days(days: u64) -> Option<Duration> {
    (days > 0).then(|| Duration::from_secs(days.saturating_mul(24 * 3600)))
}

pub fn previews(section: &PreviewsSection) -> PreviewsConfig {
    let globs = |patterns: &[String]| patterns.iter().map(|pattern| Glob::new(pattern)).collect();
    PreviewsConfig {
        enabled: section.enabled,
        allow: globs(&section.allow),
        deny: globs(&section.deny),
        page_bytes_max: section.max_page_bytes,
        image_bytes_max: section.max_image_bytes,
        lifetime: Duration::from_secs(section.lifetime_seconds),
    }
}

pub fn discovery(config: &Config) -> DiscoveryConfig {
    let section = &config.well_known;
    let contact = |contact: &config::SupportContact| SupportContact {
        role: contact.role.clone(),
        matrix_id: contact.matrix_id.clone(),
        email_address: contact.email_address.clone(),
    };
    DiscoveryConfig {
        client_base_url: section.client.clone(),
        federation_host: section.server.clone(),
        support_contacts: section.support_contacts.iter().map(contact).collect(),
        support_page: section.support_page.clone(),
        room_version_default: config.rooms.default_version.clone(),
        room_versions: room_versions(),
    }
}

/// Every version this server knows, with its stability.
fn room_versions() -> Vec<(RoomVersionId, Stability)> {
    let stability = |of: RoomVersionStability| match of {
        RoomVersionStability::Stable => Stability::Stable,
        _ => Stability::Unstable,
    };
    room_version::supported().into_iter().map(|(version, of)| (version, stability(of))).collect()
}

pub fn rate_limits(section: &RateLimitsSection) -> RateLimitsConfig {
    let rate = |rate: config::Rate| Rate { per_second: rate.per_second, burst: rate.burst };
    RateLimitsConfig {
        enabled: section.enabled,
        message: rate(section.message),
        registration: rate(section.registration),
        registration_token_validity: rate(section.registration_token_validity),
        login_address: rate(section.login_address),
        login_account: rate(section.login_account),
        join_local: rate(section.join_local),
        join_remote: rate(section.join_remote),
        invite: rate(section.invite),
        create_room: rate(section.create_room),
        authentication: rate(section.authentication),
        delayed_event: rate(section.delayed_event),
        email_token: rate(section.email_token),
        read: rate(section.read),
        write: rate(section.write),
        costly: rate(section.costly),
        media: rate(section.media),
        exempt_admins: section.exempt_admins,
        exempt_users: section.exempt_users.clone(),
    }
}
