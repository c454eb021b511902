use std::sync::Arc;

use chappe_protocol::clock::ManualClock;
use chappe_store::{
    Direction, Store,
    tables::accounts::{ACCESS_TOKENS, DEVICE_TOKENS, REFRESH_TOKENS},
};
use ruma::{owned_server_name, user_id};

use super::*;
use crate::{
    devices::Devices,
    registration::{NewAccount, RegisterError, UsernameError},
};

fn accounts() -> (Arc<Accounts>, Arc<ManualClock>, Store) {
    let store = Store::in_memory();
    let clock = Arc::new(ManualClock::new(1_700_000_000_000));
    let mut config = AccountsConfig::new(owned_server_name!("example.org"));
    config.password_hashing = PasswordHashing { memory_kib: 64, passes: 1, lanes: 1, concurrent_max: 2 };
    config.lockout = LockoutConfig {
        enabled: true,
        account_failures_max: 3,
        address_failures_max: 5,
        first_ms: 1_000,
        longest_ms: 60_000,
    };
    let accounts = Accounts::new(store.clone(), clock.clone(), config).unwrap();
    (Arc::new(accounts), clock, store)
}

fn new_account(username: &str) -> NewAccount {
    NewAccount { username: Some(username.to_owned()), password: Some("secret".to_owned()), admin: false }
}

fn refreshable() -> NewDevice {
    NewDevice { refresh: true, ..NewDevice::default() }
}

#[tokio::test]
async fn one_of_two_who_register_a_name_at_the_same_time_gets_it() {
    let (accounts, ..) = accounts();
    let (alice, device) = (new_account("alice"), NewDevice::default());
    let (one, two) = tokio::join!(accounts.register(&alice, &device), accounts.register(&alice, &device));
    let refused = [one.err(), two.err()].into_iter().flatten().collect::<Vec<_>>();
    assert!(matches!(refused.as_slice(), [RegisterError::Username(UsernameError::InUse)]));
    assert_eq!(accounts.list_users().unwrap().len(), 1);
}

#[tokio::test]
async fn tokens_are_not_stored_and_open_one_session_each() {
    let (accounts, _, store) = accounts();
    let first = accounts.register(&new_account("alice"), &NewDevice::default()).await.unwrap();
    let second = accounts.login_with_password("alice", "secret", &NewDevice::default(), None).await.unwrap();
    assert_ne!(first.device_id, second.device_id);
    assert_eq!(accounts.authenticate(&first.tokens.access).unwrap().device_id, first.device_id);
    assert!(matches!(accounts.authenticate("guess"), Err(AuthenticateError::Unknown)));
    let rows: Vec<_> = store.scan(&ACCESS_TOKENS, &(), Direction::Forward).collect::<Result<_, _>>().unwrap();
    assert_eq!(rows.len(), 2);
    assert!(rows.iter().all(|(key, _)| key.as_slice() != first.tokens.access.as_bytes()));
}

#[tokio::test]
async fn logging_in_to_a_device_again_revokes_its_tokens() {
    let (accounts, clock, store) = accounts();
    let device = NewDevice { device_id: Some("PHONE".into()), display_name: Some("mine".to_owned()), refresh: false };
    let first = accounts.register(&new_account("alice"), &device).await.unwrap();
    let again = NewDevice { display_name: Some("other".to_owned()), ..device };
    accounts.login_with_password("alice", "secret", &again, None).await.unwrap();
    assert!(accounts.authenticate(&first.tokens.access).is_err());
    let devices = Devices::new(store, clock).scan_devices(&first.user_id).unwrap();
    assert_eq!(devices.iter().map(|device| device.display_name.as_deref()).collect::<Vec<_>>(), [Some("mine")]);
}

#[tokio::test]
async fn failures_in_a_row_lock_the_account_even_for_the_right_password() {
    let (accounts, clock, _) = accounts();
    accounts.create_user(&new_account("alice")).await.unwrap();
    let alice = user_id!("@alice:example.org");
    for _ in 0..3 {
        assert!(matches!(accounts.check_password(Some(alice), "wrong", None).await, Err(CheckPasswordError::Wrong)));
    }
    let locked = accounts.check_password(Some(alice), "secret", None).await;
    assert!(matches!(locked, Err(CheckPasswordError::LockedOut { retry_after_ms: 1_000 })));
    clock.advance(1_000);
    assert!(matches!(accounts.check_password(Some(alice), "wrong", None).await, Err(CheckPasswordError::Wrong)));
    let locked = accounts.check_password(Some(alice), "secret", None).await;
    assert!(
        matches!(locked, Err(CheckPasswordError::LockedOut { retry_after_ms: 2_000 })),
        "each further lock is longer"
    );
    clock.advance(2_000);
    accounts.check_password(Some(alice), "secret", None).await.unwrap();
    assert!(
        matches!(accounts.check_password(Some(alice), "wrong", None).await, Err(CheckPasswordError::Wrong)),
        "counted anew"
    );
}

#[tokio::test]
async fn failures_with_many_names_lock_the_address() {
    let (accounts, ..) = accounts();
    let address = Some("192.0.2.7".parse().unwrap());
    for _ in 0..5 {
        assert!(matches!(accounts.check_password(None, "wrong", address).await, Err(CheckPasswordError::Wrong)));
    }
    accounts.create_user(&new_account("alice")).await.unwrap();
    let alice = Some(user_id!("@alice:example.org"));
    assert!(matches!(
        accounts.check_password(alice, "secret", address).await,
        Err(CheckPasswordError::LockedOut { .. })
    ));
    accounts.check_password(alice, "secret", Some("192.0.2.8".parse().unwrap())).await.unwrap();
}

#[tokio::test]
async fn refreshed_tokens_replace_the_old_ones_when_they_are_used() {
    let (accounts, _, store) = accounts();
    let first = accounts.register(&new_account("alice"), &refreshable()).await.unwrap().tokens;
    let lost = accounts.refresh(first.refresh.as_deref().unwrap()).await.unwrap();
    accounts.authenticate(&first.access).expect("the answer may have been lost: the old token still works");

    let second = accounts.refresh(first.refresh.as_deref().unwrap()).await.unwrap();
    assert!(accounts.authenticate(&lost.access).is_err(), "the pair that was never used is gone");
    accounts.authenticate(&second.access).unwrap();
    assert!(accounts.authenticate(&first.access).is_err(), "the new token is in use: the old one is gone");

    // Used without its access token ever being shown.
    let third = accounts.refresh(second.refresh.as_deref().unwrap()).await.unwrap();
    let fourth = accounts.refresh(third.refresh.as_deref().unwrap()).await.unwrap();
    assert!(accounts.authenticate(&second.access).is_err());
    accounts.authenticate(&fourth.access).unwrap();
    assert_eq!(store.scan(&ACCESS_TOKENS, &(), Direction::Forward).count(), 1);
}

#[tokio::test]
async fn reused_refresh_token_revokes_the_family_and_keeps_the_device() {
    let (accounts, clock, store) = accounts();
    let logged_in = accounts.register(&new_account("alice"), &refreshable()).await.unwrap();
    let stolen = logged_in.tokens.refresh.unwrap();
    let second = accounts.refresh(&stolen).await.unwrap();
    accounts.authenticate(&second.access).unwrap();
    assert!(matches!(accounts.refresh(&stolen).await, Err(RefreshError::Reused)));
    assert!(accounts.authenticate(&second.access).is_err());
    assert!(matches!(accounts.refresh(second.refresh.as_deref().unwrap()).await, Err(RefreshError::Unknown)));
    assert_eq!(store.scan(&DEVICE_TOKENS, &(), Direction::Forward).count(), 0);
    assert_eq!(Devices::new(store, clock).scan_devices(&logged_in.user_id).unwrap().len(), 1);
}

#[tokio::test]
async fn spent_refresh_tokens_are_forgotten_after_some_days() {
    let (accounts, clock, store) = accounts();
    let mut tokens = accounts.register(&new_account("alice"), &refreshable()).await.unwrap().tokens;
    for _ in 0..20 {
        clock.advance(24 * 3_600_000);
        tokens = accounts.refresh(tokens.refresh.as_deref().unwrap()).await.unwrap();
        accounts.authenticate(&tokens.access).unwrap();
    }
    assert!(store.scan(&REFRESH_TOKENS, &(), Direction::Forward).count() < 12);
}

#[tokio::test]
async fn expired_token_is_told_from_an_unknown_one() {
    let (accounts, clock, _) = accounts();
    let tokens = accounts.register(&new_account("alice"), &refreshable()).await.unwrap().tokens;
    clock.advance(tokens.expires_in_ms.unwrap());
    assert!(matches!(accounts.authenticate(&tokens.access), Err(AuthenticateError::Expired)));
}

#[tokio::test]
async fn deactivated_account_opens_to_nothing() {
    let (accounts, _, store) = accounts();
    let logged_in = accounts.register(&new_account("alice"), &refreshable()).await.unwrap();
    let alice = &logged_in.user_id;
    let (login_token, _) = accounts.create_login_token(alice).await.unwrap();
    accounts.deactivate(alice, Erase::No).await.unwrap();
    assert!(accounts.authenticate(&logged_in.tokens.access).is_err());
    assert!(accounts.refresh(logged_in.tokens.refresh.as_deref().unwrap()).await.is_err());
    assert!(accounts.login_with_token(&login_token, &NewDevice::default()).await.is_err());
    assert!(accounts.login_with_password("alice", "secret", &NewDevice::default(), None).await.is_err());
    assert!(matches!(accounts.reset_password(alice, "new").await, Err(ChangeAccountError::Deactivated)));
    assert!(matches!(accounts.check_username("alice"), Err(UsernameError::InUse)));
    assert_eq!(store.scan(&DEVICE_TOKENS, &(), Direction::Forward).count(), 0);
}

#[tokio::test]
async fn login_token_expires() {
    let (accounts, clock, _) = accounts();
    let alice = accounts.create_user(&new_account("alice")).await.unwrap();
    let (token, lifetime_ms) = accounts.create_login_token(&alice).await.unwrap();
    clock.advance(lifetime_ms);
    assert!(matches!(accounts.login_with_token(&token, &NewDevice::default()).await, Err(LoginError::Token)));
}
