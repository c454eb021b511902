use std::sync::Arc;

use chappe_protocol::clock::ManualClock;
use chappe_rooms::{Rooms, create::Preset, membership::MemberProfile};
use chappe_store::{
    Batch, Direction, Store,
    tables::{
        accounts::{ACCOUNTS, AccountRecord},
        user_directory::{DIRECTORY_MEMBERS, DIRECTORY_USERS, DIRECTORY_WORDS},
    },
};
use futures_util::future::BoxFuture;
use ruma::{UserId, owned_server_name, user_id};
use serde_json::json;

use super::{FoundUser, UserDirectory};
use crate::{
    event_follower::EventFollower,
    profile::{FetchProfileError, Profile, Profiles, RemoteProfiles},
    test_accounts::account,
    test_rooms::{self, join, send_state},
};

struct NobodyElse;

impl RemoteProfiles for NobodyElse {
    fn fetch_profile<'a>(
        &'a self,
        _: &'a UserId,
        _: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Option<Profile>, FetchProfileError>> {
        Box::pin(async { Ok(None) })
    }
}

struct Rig {
    rooms: Rooms,
    profiles: Arc<Profiles>,
    directory: UserDirectory,
}

impl Rig {
    async fn new() -> Self {
        let store = Store::in_memory();
        let rooms = test_rooms::rooms(&store, Arc::new(ManualClock::new(1_700_000_000_000)));
        let profiles = Arc::new(Profiles::new(store, owned_server_name!("here.example"), Arc::new(NobodyElse)));
        let directory = UserDirectory::new(rooms.clone(), profiles.clone());
        let follower = EventFollower::open_from_start("user_directory", &rooms).unwrap();
        tokio::spawn(follower.run(directory.clone().follow()));
        let rig = Self { rooms, profiles, directory };
        for name in ["alice", "bob", "eve"] {
            rig.put_account(name, None).await;
        }
        rig
    }

    async fn put_account(&self, name: &str, deactivated_at_ms: Option<u64>) {
        let record = AccountRecord { deactivated_at_ms, ..account() };
        let mut batch = Batch::new();
        let user = UserId::parse(format!("@{name}:here.example")).unwrap();
        batch.put(&ACCOUNTS, &user, &record);
        self.rooms.store().commit(batch).await.unwrap();
    }

    async fn set_name(&self, user: &UserId, name: &str) {
        self.profiles.set(user, "displayname", Some(name.into())).await.unwrap();
        let profile = MemberProfile { display_name: Some(name.to_owned()), avatar_url: None };
        self.rooms.update_profile_in_rooms(user, &profile).await.unwrap();
    }

    async fn find(&self, searcher: &UserId, term: &str) -> Vec<FoundUser> {
        self.directory.search(searcher, term, 10).await.unwrap().users
    }

    async fn ids(&self, searcher: &UserId, term: &str) -> Vec<String> {
        self.find(searcher, term).await.into_iter().map(|user| user.user_id.to_string()).collect()
    }
}

#[tokio::test]
async fn name_of_a_private_room_is_for_those_in_it() {
    let rig = Rig::new().await;
    let (alice, bob, eve) =
        (user_id!("@alice:here.example"), user_id!("@bob:here.example"), user_id!("@eve:here.example"));
    rig.set_name(alice, "Alice Cooper").await;
    test_rooms::create(&rig.rooms, alice, Preset::PublicChat).await;
    let private = test_rooms::create(&rig.rooms, bob, Preset::PrivateChat).await;
    rig.rooms.invite(bob, &private, alice, None).await.unwrap();
    join(&rig.rooms, alice, &private).await;
    let freddy = json!({ "membership": "join", "displayname": "Freddy" });
    send_state(&rig.rooms, alice, &private, "m.room.member", alice.as_str(), freddy).await;

    for searcher in [bob, eve] {
        for term in ["Alice Cooper", "cooper", "coop al", "@alice", "@alice:here", "ALICE"] {
            let found = rig.find(searcher, term).await;
            let name = found.first().and_then(|user| user.display_name.as_deref());
            assert_eq!((found.len(), name), (1, Some("Alice Cooper")), "{searcher} {term}");
        }
    }
    assert_eq!(rig.ids(bob, "Freddy").await, [alice.as_str()]);
    assert!(rig.ids(eve, "Freddy").await.is_empty());
    assert!(rig.ids(eve, "bob").await.is_empty(), "whose only room is private");
    assert!(rig.ids(eve, "@alice:elsewhere").await.is_empty());
    assert_eq!(rig.ids(alice, "alice").await, [alice.as_str()], "who searches is found as by everybody");
    assert!(rig.ids(bob, "bob").await.is_empty());
}

#[tokio::test]
async fn accents_do_not_matter_and_beginnings_do() {
    let rig = Rig::new().await;
    let (alice, eve) = (user_id!("@alice:here.example"), user_id!("@eve:here.example"));
    let room = test_rooms::create(&rig.rooms, alice, Preset::PublicChat).await;
    rig.set_name(alice, "Hélène Œillet").await;
    for term in ["helene", "HÉL", "oeil", "oeillet h", "ali"] {
        assert_eq!(rig.ids(eve, term).await, [alice.as_str()], "{term}");
    }
    for term in ["lène", "helene x", " ", "…"] {
        assert!(rig.ids(eve, term).await.is_empty(), "{term}");
    }
    rig.set_name(alice, "Someone Else").await;
    assert!(rig.ids(eve, "helene").await.is_empty(), "the former name is gone");
    let rules = json!({ "join_rule": "invite" });
    send_state(&rig.rooms, alice, &room, "m.room.join_rules", "", rules).await;
    assert!(rig.ids(eve, "someone").await.is_empty(), "the room is no longer open");
    let visibility = json!({ "history_visibility": "world_readable" });
    send_state(&rig.rooms, alice, &room, "m.room.history_visibility", "", visibility).await;
    assert_eq!(rig.ids(eve, "someone").await, [alice.as_str()], "what the world may read is open too");
}

#[tokio::test]
async fn who_left_or_is_deactivated_is_not_found_and_leaves_no_rows() {
    let rig = Rig::new().await;
    let (alice, bob, eve) =
        (user_id!("@alice:here.example"), user_id!("@bob:here.example"), user_id!("@eve:here.example"));
    let room = test_rooms::create(&rig.rooms, alice, Preset::PublicChat).await;
    join(&rig.rooms, bob, &room).await;
    assert_eq!(rig.ids(eve, "bob").await, [bob.as_str()]);
    rig.put_account("bob", Some(1)).await;
    assert!(rig.ids(eve, "bob").await.is_empty());
    rig.put_account("bob", None).await;
    rig.rooms.leave(bob, &room, None).await.unwrap();
    assert!(rig.ids(eve, "bob").await.is_empty());
    rig.rooms.leave(alice, &room, None).await.unwrap();
    assert!(rig.ids(eve, "alice").await.is_empty());
    let store = rig.rooms.store();
    assert_eq!(store.scan(&DIRECTORY_WORDS, &(), Direction::Forward).count(), 0);
    assert_eq!(store.scan(&DIRECTORY_MEMBERS, &(), Direction::Forward).count(), 0);
    assert_eq!(store.scan(&DIRECTORY_USERS, &(), Direction::Forward).count(), 0);
}

#[tokio::test]
async fn limit_is_told() {
    let rig = Rig::new().await;
    let (alice, bob, eve) =
        (user_id!("@alice:here.example"), user_id!("@bob:here.example"), user_id!("@eve:here.example"));
    let room = test_rooms::create(&rig.rooms, alice, Preset::PublicChat).await;
    join(&rig.rooms, bob, &room).await;
    rig.set_name(alice, "Team").await;
    rig.set_name(bob, "Teamwork").await;
    let found = rig.directory.search(eve, "team", 1).await.unwrap();
    assert_eq!((found.users.len(), found.limited), (1, true));
    assert_eq!(found.users[0].user_id, alice, "the whole word before its beginning");
    assert!(!rig.directory.search(eve, "team", 2).await.unwrap().limited);
}
