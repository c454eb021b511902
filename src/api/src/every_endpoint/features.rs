//! What `/versions` announces under `unstable_features` is served, each by the endpoint or behaviour that its clients look for.

use serde_json::Value as JsonValue;

use super::world::{Who, World};

/// An answer, for what the world has of it.
struct Served<'a> {
    world: &'a World,
}

impl Served<'_> {
    async fn ok(&self, who: Who, method: &str, path: &str, body: &str) -> JsonValue {
        let (status, answer) = self.world.call(who, method, path, body).await;
        assert_eq!(status, 200, "{method} {path}: {answer}");
        answer
    }

    async fn get(&self, path: &str) -> JsonValue {
        self.ok(Who::Alice, "GET", path, "").await
    }

    async fn put(&self, path: &str, body: &str) -> JsonValue {
        self.ok(Who::Alice, "PUT", path, body).await
    }

    async fn post(&self, path: &str, body: &str) -> JsonValue {
        self.ok(Who::Alice, "POST", path, body).await
    }

    /// Asks for what the feature is. False: this test does not know it.
    async fn check(&self, feature: &str) -> bool {
        const V3: &str = "/_matrix/client/v3";
        const UNSTABLE: &str = "/_matrix/client/unstable";
        const PROFILE: &str = "profile/@alice:chappe.example/org.example.hobby";
        let room = format!("{V3}/rooms/{{room}}");
        match feature {
            "com.beeper.msc4169" => {
                let body = r#"{ "redacts": "{reply}" }"#;
                let sent = self.put(&format!("{room}/send/m.room.redaction/r"), body).await;
                let redacted = self.get(&format!("{room}/event/{{reply}}")).await;
                assert_eq!(redacted["unsigned"]["redacted_because"]["event_id"], sent["event_id"]);
            }
            "org.matrix.e2e_cross_signing" => {
                let keys = r#"{ "auth": {auth}, "master_key": { "user_id": "@alice:chappe.example", "usage": ["master"],
                    "keys": { "ed25519:{key}": "{key}" } } }"#;
                self.post(&format!("{UNSTABLE}/keys/device_signing/upload"), keys).await;
                let query = r#"{ "device_keys": { "@alice:chappe.example": [] } }"#;
                let known = self.post(&format!("{V3}/keys/query"), query).await;
                assert!(known["master_keys"]["@alice:chappe.example"].is_object(), "{known}");
            }
            "org.matrix.msc2285.stable" => {
                self.post(&format!("{room}/receipt/m.read.private/{{event}}"), "{}").await;
            }
            "org.matrix.msc2836" => {
                let body = r#"{ "event_id": "{event}" }"#;
                let found = self.post(&format!("{UNSTABLE}/event_relationships"), body).await;
                assert_eq!(found["events"].as_array().map(Vec::len), Some(1), "{found}");
            }
            "org.matrix.msc3030" => {
                let path = format!("{UNSTABLE}/org.matrix.msc3030/rooms/{{room}}/timestamp_to_event?ts=1&dir=f");
                assert!(self.get(&path).await["event_id"].is_string());
            }
            "org.matrix.msc3391" => {
                let data = "user/@alice:chappe.example/account_data/org.example.type";
                self.ok(Who::Alice, "DELETE", &format!("{UNSTABLE}/org.matrix.msc3391/{data}"), "").await;
                assert_eq!(self.world.call(Who::Alice, "GET", &format!("{V3}/{data}"), "").await.0, 404);
            }
            "org.matrix.msc3440.stable" => {
                let filter = "%7B%22related_by_rel_types%22:%5B%22m.thread%22%5D%7D";
                let roots = self.get(&format!("{room}/messages?dir=b&filter={filter}")).await;
                let bundled = &roots["chunk"][0]["unsigned"]["m.relations"]["m.thread"];
                assert_eq!(
                    (roots["chunk"].as_array().map(Vec::len), &bundled["count"]),
                    (Some(1), &1.into()),
                    "{roots}"
                );
            }
            "org.matrix.msc3757" => {
                let body = r#"{ "room_version": "org.matrix.msc3757.10", "preset": "public_chat" }"#;
                let made = self.post(&format!("{V3}/createRoom"), body).await;
                let room = format!("{V3}/rooms/{}", made["room_id"].as_str().unwrap());
                self.ok(Who::Bob, "POST", &format!("{room}/join"), "{}").await;
                self.put(&format!("{room}/state/org.example.type/@bob:chappe.example_x"), "{}").await;
                let others = format!("{room}/state/org.example.type/@alice:chappe.example_x");
                assert_eq!(self.world.call(Who::Bob, "PUT", &others, "{}").await.0, 403);
            }
            "org.matrix.msc3771" => {
                let body = r#"{ "thread_id": "{event}" }"#;
                self.post(&format!("{room}/receipt/m.read/{{reply}}"), body).await;
            }
            "org.matrix.msc3773" => {
                let filter = "%7B%22room%22:%7B%22timeline%22:%7B%22unread_thread_notifications%22:true%7D%7D%7D";
                let synced = self.ok(Who::Bob, "GET", &format!("{V3}/sync?filter={filter}"), "").await;
                let rooms = synced["rooms"]["join"].as_object().unwrap();
                assert!(rooms.values().all(|room| room["unread_thread_notifications"].is_object()), "{synced}");
            }
            "org.matrix.msc3814" => {
                let path = format!("{UNSTABLE}/org.matrix.msc3814.v1/dehydrated_device");
                assert_eq!(self.get(&path).await["device_id"], "DRY");
            }
            "org.matrix.msc3827.stable" => {
                let body =
                    r#"{ "preset": "public_chat", "visibility": "public", "creation_content": { "type": "m.space" } }"#;
                let space = self.post(&format!("{V3}/createRoom"), body).await;
                let listed = async |kind: &str| {
                    let body = format!(r#"{{ "filter": {{ "room_types": [{kind}] }} }}"#);
                    self.post(&format!("{V3}/publicRooms"), &body).await["chunk"].clone()
                };
                assert_eq!(listed("\"m.space\"").await[0]["room_id"], space["room_id"]);
                assert!(listed("null").await[0].is_null(), "no room that is no space");
            }
            "org.matrix.msc3874" => {
                let filter = "%7B%22org.matrix.msc3874.rel_types%22:%5B%22m.thread%22%5D%7D";
                let found = self.get(&format!("{room}/messages?dir=b&filter={filter}")).await;
                assert_eq!(found["chunk"].as_array().map(Vec::len), Some(1), "{found}");
            }
            "org.matrix.msc3882" => {
                let path = format!("{UNSTABLE}/org.matrix.msc3882/login/get_token");
                let answer = self.post(&path, r#"{ "auth": {auth} }"#).await;
                assert!(answer["login_token"].is_string(), "{answer}");
            }
            "org.matrix.msc3916.stable" => {
                self.get("/_matrix/client/v1/media/download/chappe.example/{media_id}").await;
            }
            "org.matrix.msc3981" => {
                let body = r#"{ "m.relates_to": { "rel_type": "m.annotation", "event_id": "{reply}", "key": "x" } }"#;
                self.put(&format!("{room}/send/m.reaction/a"), body).await;
                let all = self.get("/_matrix/client/v1/rooms/{room}/relations/{event}?recurse=true").await;
                assert_eq!(all["chunk"].as_array().map(Vec::len), Some(2), "{all}");
                let old = self
                    .get(&format!("{UNSTABLE}/rooms/{{room}}/relations/{{event}}?org.matrix.msc3981.recurse=true"))
                    .await;
                assert_eq!(old["chunk"].as_array().map(Vec::len), Some(2), "by its first name");
            }
            "org.matrix.msc4140" => {
                let scheduled = self.get(&format!("{UNSTABLE}/org.matrix.msc4140/delayed_events")).await;
                assert_eq!(scheduled["delayed_events"].as_array().map(Vec::len), Some(1), "{scheduled}");
            }
            "org.matrix.msc4155" => {
                let block = r#"{ "blocked_users": ["@alice:chappe.example"] }"#;
                self.block_invites("org.matrix.msc4155.invite_permission_config", block).await;
            }
            "org.matrix.msc4222" => {
                let synced = self.get(&format!("{V3}/sync?org.matrix.msc4222.use_state_after=true")).await;
                let rooms = synced["rooms"]["join"].as_object().unwrap();
                assert!(rooms.values().all(|room| room["org.matrix.msc4222.state_after"].is_object()), "{synced}");
            }
            "org.matrix.msc4306" => {
                let path = format!("{UNSTABLE}/io.element.msc4306/rooms/{{room}}/thread/{{event}}/subscription");
                assert_eq!(self.get(&path).await["automatic"], false);
            }
            "org.matrix.msc4308" => {
                let path = format!("{UNSTABLE}/io.element.msc4308/thread_subscriptions?dir=b");
                assert!(self.get(&path).await["subscribed"].is_object());
            }
            "org.matrix.msc4326" => {
                let device = r#"{ "display_name": "Bridge" }"#;
                let bridged = r#"{ "type": "m.login.application_service", "username": "_irc_bob" }"#;
                self.ok(Who::AppService, "POST", &format!("{V3}/register"), bridged).await;
                let own = "user_id=@_irc_bob:chappe.example";
                self.ok(Who::AppService, "PUT", &format!("{V3}/devices/BRIDGE?{own}"), device).await;
                for parameter in ["device_id", "org.matrix.msc4326.device_id"] {
                    let path = format!("{V3}/account/whoami?{own}&{parameter}=BRIDGE");
                    assert_eq!(self.ok(Who::AppService, "GET", &path, "").await["device_id"], "BRIDGE");
                }
            }
            "org.matrix.msc4380" => {
                let name = "org.matrix.msc4380.invite_permission_config";
                self.block_invites(name, r#"{ "default_action": "block" }"#).await;
            }
            "org.matrix.msc4380.stable" => {
                self.block_invites("m.invite_permission_config", r#"{ "default_action": "block" }"#).await;
            }
            "org.matrix.simplified_msc3575" => {
                let body =
                    r#"{ "lists": { "all": { "ranges": [[0, 9]], "required_state": [], "timeline_limit": 1 } } }"#;
                let answer = self.post(&format!("{UNSTABLE}/org.matrix.simplified_msc3575/sync"), body).await;
                assert!(answer["lists"]["all"]["count"].is_u64(), "{answer}");
            }
            "uk.half-shot.msc2666.query_mutual_rooms" => {
                let path = format!("{UNSTABLE}/uk.half-shot.msc2666/user/mutual_rooms?user_id=@bob:chappe.example");
                assert!(self.get(&path).await["joined"][0].is_string());
            }
            "uk.half-shot.msc2666.query_mutual_rooms.stable" => {
                let path = "/_matrix/client/v1/mutual_rooms?user_id=@bob:chappe.example";
                assert!(self.get(path).await["joined"][0].is_string());
            }
            "uk.tcpip.msc4133" => {
                let path = format!("{UNSTABLE}/uk.tcpip.msc4133/{PROFILE}");
                self.put(&path, r#"{ "org.example.hobby": "chess" }"#).await;
                assert_eq!(self.get(&path).await["org.example.hobby"], "chess");
            }
            "uk.tcpip.msc4133.stable" => {
                let path = format!("{V3}/{PROFILE}");
                self.put(&path, r#"{ "org.example.hobby": "chess" }"#).await;
                assert_eq!(self.get(&path).await["org.example.hobby"], "chess");
            }
            "uk.timedout.msc4323" => {
                let capabilities = self.get(&format!("{V3}/capabilities")).await;
                assert_eq!(capabilities["capabilities"][feature]["lock"], true);
                for (verb, state) in [("lock", "locked"), ("suspend", "suspended")] {
                    let path = format!("{UNSTABLE}/uk.timedout.msc4323/admin/{verb}/@bob:chappe.example");
                    self.put(&path, &format!(r#"{{ "{state}": true }}"#)).await;
                    assert_eq!(self.get(&path).await[state], true);
                }
            }
            _ => return false,
        }
        true
    }

    /// Dave sets this account data; then Alice can invite him no more.
    async fn block_invites(&self, name: &str, content: &str) {
        let path = format!("/_matrix/client/v3/user/@dave:chappe.example/account_data/{name}");
        self.ok(Who::Dave, "PUT", &path, content).await;
        let body = r#"{ "user_id": "@dave:chappe.example" }"#;
        let (status, answer) =
            self.world.call(Who::Alice, "POST", "/_matrix/client/v3/rooms/{room}/invite", body).await;
        assert_eq!((status, answer["errcode"].as_str()), (403, Some("M_INVITE_BLOCKED")), "{name}");
    }
}

#[tokio::test]
async fn announced_features_are_served() {
    let world = World::new().await;
    let (_, answer) = world.call(Who::Nobody, "GET", "/_matrix/client/versions", "").await;
    let announced = answer["unstable_features"].as_object().unwrap();
    assert!(announced.len() > 10);
    let mut unknown = Vec::new();
    for (feature, is_on) in announced {
        assert_eq!(is_on, true, "{feature}");
        let world = World::new().await;
        if !(Served { world: &world }).check(feature).await {
            unknown.push(feature);
        }
    }
    assert!(unknown.is_empty(), "no test for {unknown:?}");
}
