//! Waiting for something to tell, and tokens.

use super::*;
use crate::sync::{devices::PollingDevices, joined_rooms::JoinedRooms};

async fn wakes(server: &Server, user: &'static UserId, first: &Value, act: impl Future<Output = ()>) -> Value {
    let sync = server.sync.clone();
    let request = SyncRequest { timeout: Duration::from_secs(60), ..request(user, Some(first)) };
    let poll = tokio::spawn(async move { whole(sync.sync(request.into()).await.unwrap()).await });
    while server.waiters.waiting() == 0 {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    assert!(!poll.is_finished());
    act.await;
    tokio::time::timeout(Duration::from_secs(20), poll).await.unwrap().unwrap()
}

#[tokio::test]
async fn a_long_poll_wakes_for_what_it_waits_for() {
    let server = Server::new();
    let room = server.room(&[bob()]).await;
    let foreign = server.room(&[]).await;
    let first = server.initial(bob()).await;
    let said = wakes(&server, bob(), &first, async {
        server.say(alice(), &foreign, "not for bob").await;
        server.say(alice(), &room, "hello").await;
    })
    .await;
    assert_eq!(timeline(&said, "join", &room), ["hello"]);
    let typed =
        wakes(&server, bob(), &said, async { server.typing.start(&room, alice(), Duration::from_secs(9)).unwrap() })
            .await;
    assert_eq!(typed["rooms"]["join"][room.as_str()]["ephemeral"]["events"][0]["type"], "m.typing");
    let present = wakes(&server, bob(), &typed, async {
        server.presence.set(alice(), PresenceState::Online, None).await.unwrap();
    })
    .await;
    assert_eq!(present["presence"]["events"][0]["sender"], json!(alice()));
    let joined = wakes(&server, bob(), &present, async { server.join(bob(), &foreign).await }).await;
    assert!(timeline(&joined, "join", &foreign).contains(&"not for bob".to_owned()));
    assert_eq!(server.waiters.waiting(), 0);
}

#[tokio::test]
async fn a_closing_server_ends_its_polls() {
    let server = Server::new();
    server.room(&[bob()]).await;
    let first = server.initial(bob()).await;
    let answer = wakes(&server, bob(), &first, async { server.waiters.close() }).await;
    assert!(answer.get("rooms").is_none());
}

#[tokio::test]
async fn tokens_of_other_servers_are_refused() {
    let server = Server::new();
    for since in ["garbage", "s99999999", "t1_2"] {
        let request = SyncRequest { since: Some(since.to_owned()), ..request(bob(), None) };
        assert!(matches!(server.sync.sync(request.into()).await, Err(SyncError::InvalidToken(_))), "{since}");
    }
    let request = SyncRequest { filter: FilterChoice::Stored("none".to_owned()), ..request(bob(), None) };
    assert!(matches!(server.sync.sync(request.into()).await, Err(SyncError::UnknownFilter)));
}

#[tokio::test]
async fn answers_are_the_same_after_a_restart() {
    let server = Server::new();
    let room = server.room(&[bob()]).await;
    let first = server.initial(bob()).await;
    server.say(alice(), &room, "1").await;
    // What a hub that starts now knows is nothing: the store is asked.
    let waiters = Waiters::follow(&server.store);
    let sources = SyncSources {
        rooms: server.rooms.clone(),
        account_data: server.account_data.clone(),
        receipts: server.receipts.clone(),
        typing: server.typing.clone(),
        presence: server.presence.clone(),
        device_lists: DeviceLists::new(server.store.clone()),
        filters: Arc::new(Filters::new(server.store.clone())),
        unread: test_rooms::unread(&server.rooms, &server.receipts, &server.account_data, &waiters),
        joined_rooms: JoinedRooms::new(server.rooms.clone(), waiters.clone()),
        devices: PollingDevices::new(server.rooms.store().clone(), server.to_device.clone(), waiters.clone()),
        waiters,
    };
    let restarted = Arc::new(SyncService::new(sources));
    let answer = whole(restarted.sync(request(bob(), Some(&first)).into()).await.unwrap()).await;
    assert_eq!(timeline(&answer, "join", &room), ["1"]);
    let next = whole(restarted.sync(request(bob(), Some(&answer)).into()).await.unwrap()).await;
    assert!(next.get("rooms").is_none());
}
