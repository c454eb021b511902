use chappe_protocol::clock::ManualClock;
use ruma::{room_id, server_name, user_id};

use super::*;
use crate::ephemeral_tests::{SentEdus, join};

fn alice() -> &'static UserId {
    user_id!("@alice:a.example")
}

fn carol() -> &'static UserId {
    user_id!("@carol:a.example")
}

fn eve() -> &'static UserId {
    user_id!("@eve:a.example")
}

fn bob() -> &'static UserId {
    user_id!("@bob:b.example")
}

struct Setup {
    presence: Arc<Presence>,
    clock: Arc<ManualClock>,
    edus: Arc<SentEdus>,
    store: Store,
}

async fn setup(enabled: bool) -> Setup {
    let store = Store::in_memory();
    join(&store, room_id!("!r:a.example"), &[alice(), carol(), bob()]).await;
    let clock = Arc::new(ManualClock::new(10_000_000));
    let edus = Arc::new(SentEdus::default());
    let presence =
        Presence::new(store.clone(), server_name!("a.example").to_owned(), clock.clone(), edus.clone(), enabled);
    Setup { presence: Arc::new(presence), clock, edus, store }
}

#[tokio::test]
async fn change_is_seen_by_those_who_share_a_room() {
    let Setup { presence, edus, .. } = setup(true).await;
    let before = presence.version();
    presence.set(alice(), PresenceState::Online, Some("here".to_owned())).await.unwrap();
    let seen = presence.changed_since(carol(), before).unwrap();
    assert_eq!(seen.len(), 1);
    assert_eq!((seen[0].state.clone(), seen[0].status_msg.as_deref()), (PresenceState::Online, Some("here")));
    assert!(presence.changed_since(eve(), before).unwrap().is_empty());
    assert!(presence.changed_since(carol(), presence.version()).unwrap().is_empty());
    assert!(matches!(presence.get(eve(), alice()), Err(GetPresenceError::Forbidden)));
    let sent = edus.take();
    assert_eq!(sent.len(), 1);
    assert_eq!(sent[0].1["content"]["push"][0]["status_msg"], "here");
}

#[tokio::test]
async fn user_goes_idle_and_then_offline() {
    let Setup { presence, clock, .. } = setup(true).await;
    let guard = presence.begin_sync(alice(), &PresenceState::Online).unwrap();
    assert_eq!(presence.get(carol(), alice()).unwrap().state, PresenceState::Online);
    clock.advance(IDLE_AFTER_MS);
    presence.expire();
    assert_eq!(presence.get(carol(), alice()).unwrap().state, PresenceState::Unavailable);
    drop(guard);
    clock.advance(OFFLINE_AFTER_MS);
    presence.expire();
    assert_eq!(presence.get(carol(), alice()).unwrap().state, PresenceState::Offline);
}

#[tokio::test]
async fn status_message_survives_a_restart() {
    let Setup { presence, clock, edus, store } = setup(true).await;
    presence.set(alice(), PresenceState::Online, Some("back soon".to_owned())).await.unwrap();
    clock.advance(1000);
    let restarted = Presence::new(store, server_name!("a.example").to_owned(), clock, edus, true);
    let seen = restarted.get(carol(), alice()).unwrap();
    assert_eq!(
        (seen.state, seen.status_msg.as_deref(), seen.last_active_ago_ms),
        (PresenceState::Offline, Some("back soon"), Some(1000))
    );
}

#[tokio::test]
async fn edu_is_believed_only_about_the_origins_users() {
    let Setup { presence, .. } = setup(true).await;
    let update = |user: &UserId| PresenceUpdate::new(user.to_owned(), PresenceState::Online, UInt::from(5u32));
    presence.apply_edu(server_name!("b.example"), &PresenceContent::new(vec![update(alice()), update(bob())]));
    assert_eq!(presence.get(carol(), bob()).unwrap().state, PresenceState::Online);
    assert_eq!(presence.get(carol(), alice()).unwrap().state, PresenceState::Offline);
}

#[tokio::test]
async fn presence_turned_off_tells_nothing() {
    let Setup { presence, edus, .. } = setup(false).await;
    presence.set(alice(), PresenceState::Online, None).await.unwrap();
    assert!(presence.begin_sync(alice(), &PresenceState::Online).unwrap().is_none());
    assert_eq!(presence.get(carol(), alice()).unwrap().state, PresenceState::Offline);
    assert!(presence.changed_since(carol(), 0).unwrap().is_empty());
    assert!(edus.take().is_empty());
}
