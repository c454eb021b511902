//! A server with one of everything that a path can name, for the examples.

use std::collections::BTreeMap;

use axum::body::Body;
use chappe_services::app_services::{NamespaceDraft, Registration, RegistrationDraft, Registrations};
use http::{Request, StatusCode, header};
use http_body_util::BodyExt;
use ruma::server_name;
use serde_json::{Map, Value as JsonValue, json};

use super::{
    Endpoint,
    examples::{self, Field},
    variable,
};
use crate::{
    test_app::{TestApp, TestConfig},
    test_smtp,
};

const SESSION_KEY: &str = r#"{ "first_message_index": 1, "forwarded_count": 0, "is_verified": true, "session_data": { "ephemeral": "YQ", "ciphertext": "Yg", "mac": "Yw" } }"#;

/// A picture of one pixel.
const PICTURE: &[u8] = b"GIF89a\x01\x00\x01\x00\x80\x00\x00\x00\x00\x00\xff\xff\xff!\xf9\x04\x01\x00\x00\x00\x00,\x00\x00\x00\x00\x01\x00\x01\x00\x00\x02\x02D\x01\x00;";

/// Who makes a request.
#[derive(Clone, Copy)]
pub(super) enum Who {
    /// An administrator, who is in the room and has one of everything. Endpoints for application services are asked by one.
    Alice,
    /// Is in the room too.
    Bob,
    /// Is in no room.
    Dave,
    AppService,
    Nobody,
}

/// Alice's room with Bob in it; Eve is banned, and Dave is a stranger.
pub(super) struct World {
    server: TestApp,
    tokens: [String; 3],
    values: BTreeMap<&'static str, String>,
}

/// How a request was answered: status and errcode.
pub(super) type Answer = (u16, String);

impl World {
    pub(super) async fn new() -> Self {
        let draft = RegistrationDraft {
            id: "irc".to_owned(),
            as_token: "irc-token".to_owned(),
            hs_token: "to-irc".to_owned(),
            sender_localpart: "_irc_bot".to_owned(),
            users: vec![NamespaceDraft { exclusive: true, regex: "@_irc_.*".to_owned() }],
            ..RegistrationDraft::default()
        };
        let mut config = TestConfig::default();
        let registration = Registration::new(server_name!("chappe.example"), draft).unwrap();
        config.accounts.app_services = Registrations::new(vec![registration]).unwrap();
        // Nobody listens there: mails are taken, and wait.
        config.mail = Some(test_smtp::config("chappe.example", 1));
        let server = TestApp::with(config);
        let alice = server.register_admin("alice").await;
        let bob = server.register("bob").await;
        let dave = server.register("dave").await;
        server.register("eve").await;
        let mut world = Self { server, tokens: [alice, bob, dave], values: BTreeMap::new() };
        world.furnish().await;
        world
    }

    async fn furnish(&mut self) {
        let own = "/_matrix/client/v3/user/@alice:chappe.example";
        let room_request = json!({
            "preset": "private_chat", "invite": ["@bob:chappe.example"], "room_alias_name": "taken", "room_version": "11",
        });
        let room = self.make("POST", "/_matrix/client/v3/createRoom", room_request, "room_id").await;
        let in_room = format!("/_matrix/client/v3/rooms/{room}");
        let (status, answer) = self.server.post(&format!("{in_room}/join"), Some(&self.tokens[1]), json!({})).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        self.make("POST", &format!("{in_room}/ban"), json!({ "user_id": "@eve:chappe.example" }), "").await;
        let message = json!({ "msgtype": "m.text", "body": "word" });
        let event = self.make("PUT", &format!("{in_room}/send/m.room.message/1"), message, "event_id").await;
        let message = json!({ "msgtype": "m.text", "body": "reply", "m.relates_to": { "rel_type": "m.thread", "event_id": event } });
        let reply = self.make("PUT", &format!("{in_room}/send/m.room.message/2"), message, "event_id").await;
        self.make("PUT", &format!("{in_room}/state/org.example.type/x"), json!({ "a": 1 }), "").await;
        let subscription =
            format!("/_matrix/client/unstable/io.element.msc4306/rooms/{room}/thread/{event}/subscription");
        self.make("PUT", &subscription, json!({}), "").await;
        let later = format!("{in_room}/send/m.room.message/3?org.matrix.msc4140.delay=100000");
        let delay = self.make("PUT", &later, json!({ "body": "later" }), "delay_id").await;

        self.make("PUT", &format!("{own}/account_data/org.example.type"), json!({ "a": 1 }), "").await;
        self.make("PUT", &format!("{own}/rooms/{room}/account_data/org.example.type"), json!({ "a": 1 }), "").await;
        self.make("PUT", &format!("{own}/rooms/{room}/tags/x"), json!({ "order": 0.1 }), "").await;
        let filter = self.make("POST", &format!("{own}/filter"), json!({}), "filter_id").await;
        let rule = json!({ "actions": ["notify"], "pattern": "word" });
        self.make("PUT", "/_matrix/client/v3/pushrules/global/content/rule", rule, "").await;
        self.make(
            "PUT",
            "/_matrix/client/v3/profile/@alice:chappe.example/displayname",
            json!({ "displayname": "A" }),
            "",
        )
        .await;

        let backup = json!({ "algorithm": "m.megolm_backup.v1.curve25519-aes-sha2", "auth_data": { "public_key": "abc", "signatures": {} } });
        let version = self.make("POST", "/_matrix/client/v3/room_keys/version", backup, "version").await;
        let key: JsonValue = serde_json::from_str(SESSION_KEY).unwrap();
        let session = format!("/_matrix/client/v3/room_keys/keys/{room}/session?version={version}");
        self.make("PUT", &session, key, "").await;
        let device = json!({
            "device_id": "DRY", "device_data": { "algorithm": "org.matrix.msc3814.v2" },
            "device_keys": { "user_id": "@alice:chappe.example", "device_id": "DRY", "algorithms": [], "keys": {}, "signatures": {} },
        });
        self.make("PUT", "/_matrix/client/unstable/org.matrix.msc3814.v1/dehydrated_device", device, "").await;
        let login = json!({ "type": "m.login.password", "identifier": { "type": "m.id.user", "user": "alice" }, "password": "secret", "device_id": "OTHER", "refresh_token": true });
        let refresh = self.make("POST", "/_matrix/client/v3/login", login, "refresh_token").await;

        let upload = Request::post("/_matrix/media/v3/upload")
            .header(header::AUTHORIZATION, format!("Bearer {}", self.tokens[0]))
            .header(header::CONTENT_TYPE, "image/gif")
            .body(Body::from(PICTURE))
            .unwrap();
        let answer = self.server.send(upload).await.into_body().collect().await.unwrap().to_bytes();
        let media: JsonValue = serde_json::from_slice(&answer).unwrap();
        let media_id = |uri: &str| uri.rsplit('/').next().unwrap().to_owned();
        let media = media_id(media["content_uri"].as_str().unwrap());
        let empty = media_id(&self.make("POST", "/_matrix/media/v1/create", json!({}), "content_uri").await);
        let since = self.make("GET", "/_matrix/client/v3/sync", JsonValue::Null, "next_batch").await;
        self.values = BTreeMap::from([
            ("delay_id", delay),
            ("device_id", "OTHER".to_owned()),
            ("empty_media", empty),
            ("event", event.clone()),
            ("event_id", event.clone()),
            ("filter_id", filter),
            ("key", "LbNXaOwmyPqeFXLPGIAbYsWD2YpAxLxtJ1d4sqxI7HU".to_owned()),
            ("media_id", media),
            ("refresh", refresh),
            ("reply", reply),
            ("room", room.clone()),
            ("room_id", room.clone()),
            ("room_id_or_alias", room),
            ("session_id", "session".to_owned()),
            ("session_key", SESSION_KEY.to_owned()),
            ("since", since),
            ("thread_root", event),
            ("version", version),
        ]);
    }

    /// Makes something as Alice; the answer is the field of that name.
    async fn make(&self, method: &str, path: &str, body: JsonValue, field: &str) -> String {
        let (status, answer) = self.server.call(method.parse().unwrap(), path, Some(&self.tokens[0]), body).await;
        assert_eq!(status, StatusCode::OK, "{method} {path}: {answer}");
        answer[field].as_str().unwrap_or_default().to_owned()
    }

    /// What a word of the examples stands for, or a variable of a path.
    fn value(&self, word: &str) -> Option<String> {
        let fixed = match word {
            "action" => "restart",
            "appservice_id" => "irc",
            "auth_type" => "m.login.terms",
            "event_type" => "org.example.type",
            "field" => "displayname",
            "filename" => "picture.gif",
            "kind" => "content",
            "network_id" => "irc",
            "protocol" => "irc",
            "receipt_type" => "m.read",
            "rel_type" => "m.thread",
            "room_alias" => "%23taken:chappe.example",
            "rule_id" => "rule",
            "server_name" => "chappe.example",
            "state_key" | "tag" | "txn_id" => "x",
            "user_id" => "@alice:chappe.example",
            _ => return self.values.get(word).cloned(),
        };
        Some(fixed.to_owned())
    }

    /// The path of an endpoint's example, without its query; `others` are variables of it, and what to put there.
    fn path(&self, endpoint: &Endpoint, others: &[(&str, &str)]) -> String {
        let fill = |segment| {
            let Some(name) = variable(segment) else { return segment.to_owned() };
            if let Some((_, value)) = others.iter().find(|(other, _)| *other == name) {
                return (*value).to_owned();
            }
            match examples::own_variable(endpoint, name) {
                Some(own) => examples::fill(own, &|word| self.value(word)),
                None => self.value(name).unwrap_or_else(|| panic!("{name} stands for nothing")),
            }
        };
        endpoint.path.split('/').map(fill).collect::<Vec<_>>().join("/")
    }

    /// The request that is right.
    pub(super) fn example<'a>(&self, endpoint: &'a Endpoint) -> Draft<'a> {
        Draft {
            endpoint,
            path: self.path(endpoint, &[]),
            query: examples::query(endpoint, |word| self.value(word)),
            body: examples::body(endpoint, |word| self.value(word)).map(Shape::Fields),
        }
    }

    /// The same with variables of the path as given.
    pub(super) fn example_with<'a>(&self, endpoint: &'a Endpoint, variables: &[(&str, &str)]) -> Draft<'a> {
        Draft { path: self.path(endpoint, variables), ..self.example(endpoint) }
    }

    /// Makes another request, with words filled in as in examples.
    pub(super) async fn call(&self, who: Who, method: &str, path: &str, body: &str) -> (u16, JsonValue) {
        let fill = |text| examples::fill(text, &|word| self.value(word));
        let mut request = Request::builder().method(method).uri(fill(path));
        if let Some(token) = self.token(who) {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let response = self.server.send(request.body(Body::from(fill(body))).unwrap()).await;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap_or_default())
    }

    fn token(&self, who: Who) -> Option<&str> {
        match who {
            Who::AppService => Some("irc-token"),
            Who::Alice => Some(&self.tokens[0]),
            Who::Bob => Some(&self.tokens[1]),
            Who::Dave => Some(&self.tokens[2]),
            Who::Nobody => None,
        }
    }

    pub(super) async fn ask(&self, draft: &Draft<'_>, who: Who) -> Answer {
        let query: Vec<_> = draft
            .query
            .iter()
            .map(|field| format!("{}={}", field.name, field.value.as_str().unwrap_or_default()))
            .collect();
        let uri = format!("{}{}{}", draft.path, if query.is_empty() { "" } else { "?" }, query.join("&"));
        let mut request = Request::builder().method(&draft.endpoint.method).uri(uri);
        let is_for_app_services = draft.endpoint.path.contains("/appservice/");
        let token = match who {
            Who::Alice if is_for_app_services => self.token(Who::AppService),
            who => self.token(who),
        };
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let body = match &draft.body {
            None => Body::empty(),
            Some(Shape::Fields(fields)) => {
                let body: Map<_, _> = fields.iter().map(|field| (field.name.clone(), field.value.clone())).collect();
                Body::from(JsonValue::Object(body).to_string())
            }
            Some(Shape::Text(text)) => Body::from(text.clone()),
        };
        let response = self.server.send(request.body(body).unwrap()).await;
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let answer: JsonValue = serde_json::from_slice(&body).unwrap_or_default();
        (status, answer["errcode"].as_str().unwrap_or_default().to_owned())
    }
}

/// A request to be.
pub(super) struct Draft<'a> {
    pub(super) endpoint: &'a Endpoint,
    pub(super) path: String,
    pub(super) query: Vec<Field>,
    pub(super) body: Option<Shape>,
}

pub(super) enum Shape {
    Fields(Vec<Field>),
    Text(String),
}

impl Draft<'_> {
    /// The names of what the body has.
    pub(super) fn fields(&self) -> &[Field] {
        match &self.body {
            Some(Shape::Fields(fields)) => fields,
            _ => &[],
        }
    }
}
