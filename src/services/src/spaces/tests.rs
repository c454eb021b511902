use std::sync::atomic::{AtomicUsize, Ordering};

use chappe_protocol::clock::ManualClock;
use chappe_rooms::{create::Preset, remote::RemoteError};
use chappe_store::Store;
use futures_util::future::BoxFuture;
use ruma::{room_id, server_name, user_id};
use serde_json::json;

use super::*;
use crate::{room_summary::SPACE, test_rooms};

/// `there.example`, which answers about rooms it is given answers for.
#[derive(Default)]
struct There {
    answers: Mutex<Vec<JsonValue>>,
    asked: AtomicUsize,
}

impl RemoteHierarchy for There {
    fn fetch_hierarchy<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        _: bool,
    ) -> BoxFuture<'a, Result<Hierarchy, RemoteError>> {
        Box::pin(async move {
            self.asked.fetch_add(1, Ordering::Relaxed);
            let answers = self.answers.lock();
            let answer = answers.iter().find(|answer| answer["room"]["room_id"] == room_id.as_str()).cloned();
            answer
                .filter(|_| server == "there.example")
                .and_then(|answer| serde_json::from_value(answer).ok())
                .ok_or_else(|| RemoteError::Unreachable("no such room".to_owned()))
        })
    }

    fn may_ask(&self, server: &ServerName) -> bool {
        !server.as_str().starts_with("unlisted")
    }
}

struct Rig {
    rooms: Rooms,
    spaces: Spaces,
    there: Arc<There>,
    clock: Arc<ManualClock>,
}

fn rig() -> Rig {
    let clock = Arc::new(ManualClock::new(1_700_000_000_000));
    let rooms = test_rooms::rooms(&Store::in_memory(), clock.clone());
    let there = Arc::new(There::default());
    Rig { spaces: Spaces::new(rooms.clone(), there.clone(), clock.clone()), rooms, there, clock }
}

impl Rig {
    async fn space(&self, preset: Preset) -> OwnedRoomId {
        test_rooms::create_of_type(&self.rooms, user_id!("@alice:here.example"), preset, SPACE).await
    }

    async fn room(&self, preset: Preset) -> OwnedRoomId {
        test_rooms::create(&self.rooms, user_id!("@alice:here.example"), preset).await
    }

    async fn link(&self, parent: &RoomId, child: &RoomId, content: JsonValue) {
        let alice = user_id!("@alice:here.example");
        test_rooms::send_state(&self.rooms, alice, parent, "m.space.child", child.as_str(), content).await;
        self.clock.advance(1);
    }

    async fn walk(&self, user: &UserId, root: &RoomId, query: HierarchyQuery) -> (Vec<OwnedRoomId>, Option<String>) {
        let page = self.spaces.get_hierarchy(user, root, &query).await.unwrap();
        (page.rooms.into_iter().map(|room| room.summary.room_id).collect(), page.next_batch)
    }
}

fn via() -> JsonValue {
    json!({ "via": ["here.example"] })
}

#[tokio::test]
async fn tree_is_walked_depth_first_in_the_order_of_the_links() {
    let rig = rig();
    let alice = user_id!("@alice:here.example");
    let (root, sub) = (rig.space(Preset::PublicChat).await, rig.space(Preset::PublicChat).await);
    let (first, deep, last) =
        (rig.room(Preset::PublicChat).await, rig.room(Preset::PublicChat).await, rig.room(Preset::PublicChat).await);
    rig.link(&root, &sub, via()).await;
    rig.link(&root, &last, via()).await;
    rig.link(&root, &first, json!({ "via": ["here.example"], "order": "a", "suggested": true })).await;
    rig.link(&sub, &deep, via()).await;
    rig.link(&sub, &root, via()).await;
    rig.link(&first, &deep, via()).await;

    let all = [&root, &first, &sub, &deep, &last].map(Clone::clone);
    assert_eq!(rig.walk(alice, &root, HierarchyQuery::default()).await, (all.to_vec(), None));
    let shallow = HierarchyQuery { max_depth: Some(1), ..Default::default() };
    assert_eq!(rig.walk(alice, &root, shallow).await.0, [&root, &first, &sub, &last].map(Clone::clone));
    let suggested = HierarchyQuery { suggested_only: true, ..Default::default() };
    assert_eq!(rig.walk(alice, &root, suggested).await.0, [root.clone(), first.clone()]);

    rig.link(&root, &sub, json!({})).await;
    assert_eq!(rig.walk(alice, &root, HierarchyQuery::default()).await.0, [root, first, last]);
}

#[tokio::test]
async fn pages_fit_together_and_their_tokens_are_for_one_walk_of_one_user() {
    let rig = rig();
    let (alice, bob) = (user_id!("@alice:here.example"), user_id!("@bob:here.example"));
    let root = rig.space(Preset::PublicChat).await;
    let mut all = vec![root.clone()];
    for _ in 0..4 {
        let room = rig.room(Preset::PublicChat).await;
        rig.link(&root, &room, via()).await;
        all.push(room);
    }
    let (mut seen, mut next) = rig.walk(alice, &root, HierarchyQuery { limit: Some(2), ..Default::default() }).await;
    assert_eq!(seen.len(), 2);
    let token = next.clone();
    while let Some(from) = next {
        let query = HierarchyQuery { from: Some(from), limit: Some(2), ..Default::default() };
        let (page, after) = rig.walk(alice, &root, query).await;
        seen.extend(page);
        next = after;
    }
    assert_eq!(seen, all);

    // After a restart nothing of the walk is in memory.
    let fresh = Spaces::new(rig.rooms.clone(), rig.there.clone(), rig.clock.clone());
    let query = HierarchyQuery { from: token.clone(), ..Default::default() };
    let page = fresh.get_hierarchy(alice, &root, &query).await.unwrap();
    let rest: Vec<_> = page.rooms.into_iter().map(|room| room.summary.room_id).collect();
    assert_eq!((rest.as_slice(), page.next_batch), (&all[2..], None));
    for unknown in ["x", "50_0_0_!r:here.example", "50_2_00_!r:here.example"] {
        let query = HierarchyQuery { from: Some(unknown.to_owned()), ..Default::default() };
        let refused = fresh.get_hierarchy(alice, &root, &query).await.err();
        assert!(matches!(refused, Some(HierarchyError::UnknownToken)), "{unknown}");
    }

    let with = |query: HierarchyQuery| HierarchyQuery { from: token.clone(), ..query };
    let refused =
        async |user: &UserId, query: HierarchyQuery| rig.spaces.get_hierarchy(user, &root, &query).await.err();
    assert!(matches!(refused(bob, with(HierarchyQuery::default())).await, Some(HierarchyError::UnknownToken)));
    let deeper = with(HierarchyQuery { max_depth: Some(3), ..Default::default() });
    assert!(matches!(refused(alice, deeper).await, Some(HierarchyError::ChangedQuery)));
    let suggested = with(HierarchyQuery { suggested_only: true, ..Default::default() });
    assert!(matches!(refused(alice, suggested).await, Some(HierarchyError::ChangedQuery)));
}

#[tokio::test]
async fn rooms_are_shown_to_those_who_could_join() {
    let rig = rig();
    let (alice, bob) = (user_id!("@alice:here.example"), user_id!("@bob:here.example"));
    let root = rig.space(Preset::PublicChat).await;
    let (secret, members) = (rig.room(Preset::PrivateChat).await, rig.room(Preset::PrivateChat).await);
    rig.link(&root, &secret, via()).await;
    rig.link(&root, &members, via()).await;
    let rule = json!({ "join_rule": "restricted", "allow": [{ "type": "m.room_membership", "room_id": root }] });
    test_rooms::send_state(&rig.rooms, alice, &members, "m.room.join_rules", "", rule).await;
    assert_eq!(rig.walk(bob, &root, HierarchyQuery::default()).await.0, std::slice::from_ref(&root));
    test_rooms::join(&rig.rooms, bob, &root).await;
    let page = rig.spaces.get_hierarchy(bob, &root, &HierarchyQuery::default()).await.unwrap();
    assert_eq!(page.rooms.len(), 2);
    assert_eq!(page.rooms[1].summary.allowed_room_ids, std::slice::from_ref(&root));
    rig.rooms.invite(alice, &secret, bob, None).await.unwrap();
    assert_eq!(rig.walk(bob, &root, HierarchyQuery::default()).await.0.len(), 3);
    let carol = user_id!("@carol:here.example");
    let refused = rig.spaces.get_hierarchy(carol, &secret, &HierarchyQuery::default()).await.err();
    assert!(matches!(refused, Some(HierarchyError::NotForUser)));
}

#[tokio::test]
async fn rooms_of_elsewhere_are_asked_for_once_and_judged_for_each_user() {
    let rig = rig();
    let (alice, bob) = (user_id!("@alice:here.example"), user_id!("@bob:here.example"));
    let root = rig.space(Preset::PublicChat).await;
    let there = room_id!("!space:there.example");
    rig.link(&root, there, json!({ "via": ["there.example"] })).await;
    let summary =
        |id: &str| json!({ "room_id": id, "num_joined_members": 1, "world_readable": false, "guest_can_join": false });
    let mut space = summary(there.as_str());
    space["room_type"] = json!("m.space");
    let link = |child: &str| {
        json!({ "type": "m.space.child", "state_key": child, "sender": "@a:there.example", "origin_server_ts": 1,
            "content": { "via": ["there.example"] } })
    };
    space["children_state"] = json!([link("!a:there.example"), link("!b:there.example"), link("!c:there.example")]);
    let mut restricted = summary("!b:there.example");
    restricted["join_rule"] = json!("restricted");
    restricted["allowed_room_ids"] = json!([root]);
    rig.there.answers.lock().push(json!({
        "room": space, "children": [summary("!a:there.example"), restricted, "nonsense"],
        "inaccessible_children": ["!c:there.example"],
    }));
    let ids = |rooms: &[&str]| rooms.iter().map(|id| RoomId::parse(id).unwrap()).collect::<Vec<_>>();
    let seen = rig.walk(alice, &root, HierarchyQuery::default()).await.0;
    assert_eq!(seen, ids(&[root.as_str(), there.as_str(), "!a:there.example", "!b:there.example"]));
    let seen = rig.walk(bob, &root, HierarchyQuery::default()).await.0;
    assert_eq!(seen, ids(&[root.as_str(), there.as_str(), "!a:there.example"]), "bob is not in the space");
    assert_eq!(rig.there.asked.load(Ordering::Relaxed), 1, "neither again, nor for children that were described");
    let summary = rig.spaces.get_summary(Some(bob), there, &[server_name!("there.example").to_owned()]).await.unwrap();
    assert!(summary.unwrap().is_space());
    assert!(rig.spaces.get_summary(None, there, &[]).await.unwrap().is_none(), "nobody asks for nobody");
}

#[tokio::test]
async fn other_servers_are_told_what_their_users_could_join() {
    let rig = rig();
    let there = server_name!("there.example");
    let root = rig.space(Preset::PublicChat).await;
    let (open, secret) = (rig.room(Preset::PublicChat).await, rig.room(Preset::PrivateChat).await);
    for child in [&open, &secret, &room_id!("!unknown:there.example").to_owned()] {
        rig.link(&root, child, via()).await;
    }
    let answer = rig.spaces.answer(there, &root, false).unwrap().unwrap();
    assert_eq!(answer.room.children_state.len(), 3);
    assert_eq!(answer.children.len(), 1);
    assert_eq!(answer.children[0]["room_id"], open.as_str());
    assert_eq!(answer.inaccessible_children, [secret.to_string()]);
    assert!(rig.spaces.answer(there, &secret, false).unwrap().is_none());
    assert!(rig.spaces.answer(there, room_id!("!unknown:there.example"), false).unwrap().is_none());
    assert!(rig.spaces.answer(there, &root, true).unwrap().unwrap().children.is_empty());
    let alice = user_id!("@alice:here.example");
    let shut_out = json!({ "allow": ["*"], "deny": ["there.example"] });
    test_rooms::send_state(&rig.rooms, alice, &root, "m.room.server_acl", "", shut_out).await;
    assert!(rig.spaces.answer(there, &root, false).unwrap().is_none());
}

#[tokio::test]
async fn servers_that_are_not_federated_with_are_not_asked_and_take_no_place() {
    let rig = rig();
    let room_id = room_id!("!r:unlisted0.example");
    let alice = user_id!("@alice:here.example");
    let mut via: Vec<OwnedServerName> =
        (1..6).map(|n| ServerName::parse(format!("unlisted{n}.example")).unwrap()).collect();
    assert_eq!(rig.spaces.servers_to_ask(alice, room_id, &via).unwrap(), Vec::<OwnedServerName>::new());
    via.push(server_name!("there.example").to_owned());
    assert_eq!(rig.spaces.servers_to_ask(alice, room_id, &via).unwrap(), [server_name!("there.example")]);
}
