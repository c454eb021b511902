//! What two servers do with each other, seen from their clients. `Side::home` made the room; `Side::away` comes by federation.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use chappe_tests::{
    Failure,
    client::{Client, room_path, segment},
};
use serde_json::{Value, json};

use crate::link::Link;

/// How long anything may take to arrive.
const PATIENCE: Duration = Duration::from_secs(40);

/// A server and those who use it.
pub struct Side {
    pub server_name: String,
    pub nobody: Client,
    pub prefix: String,
}

impl Side {
    async fn person(&self, name: &str) -> Result<Client, Failure> {
        self.nobody.register(&format!("{}{name}", self.prefix)).await
    }
}

/// Asks again until the answer is what is waited for.
async fn wait<T>(what: &str, mut look: impl AsyncFnMut() -> Result<Option<T>, Failure>) -> Result<T, Failure> {
    let begun = Instant::now();
    let mut last = None;
    while begun.elapsed() < PATIENCE {
        match look().await {
            Ok(Some(found)) => return Ok(found),
            Ok(None) => {}
            Err(failure) => last = Some(failure),
        }
        tokio::time::sleep(Duration::from_millis(150)).await;
    }
    Err(match last {
        Some(failure) => format!("waited in vain until {what}: {failure}").into(),
        None => format!("waited in vain until {what}").into(),
    })
}

async fn get_state(client: &Client, room: &str, kind: &str, key: &str) -> Result<Option<Value>, Failure> {
    let path = room_path(room, &format!("state/{}/{}", segment(kind), segment(key)));
    let (status, body) = client.attempt(reqwest::Method::GET, &path, None).await?;
    Ok(status.is_success().then_some(body))
}

async fn wait_for_state(
    client: &Client,
    room: &str,
    kind: &str,
    key: &str,
    field: &str,
    value: &str,
) -> Result<(), Failure> {
    wait(&format!("{} sees {kind} {key} with {field} {value}", client.user_id), async || {
        let content = get_state(client, room, kind, key).await?;
        Ok(content.filter(|content| content[field] == value).map(|_| ()))
    })
    .await
}

async fn set_state(client: &Client, room: &str, kind: &str, key: &str, content: Value) -> Result<String, Failure> {
    let path = room_path(room, &format!("state/{}/{}", segment(kind), segment(key)));
    let answer = client.put(&path, content).await?;
    Ok(answer["event_id"].as_str().unwrap_or_default().to_owned())
}

async fn send(client: &Client, room: &str, kind: &str, content: Value) -> Result<String, Failure> {
    static NEXT: std::sync::atomic::AtomicU64 = std::sync::atomic::AtomicU64::new(0);
    let number = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let answer = client.put(&room_path(room, &format!("send/{}/t{number}", segment(kind))), content).await?;
    Ok(answer["event_id"].as_str().unwrap_or_default().to_owned())
}

async fn say(client: &Client, room: &str, body: &str) -> Result<String, Failure> {
    send(client, room, "m.room.message", json!({ "msgtype": "m.text", "body": body })).await
}

async fn wait_for_event(client: &Client, room: &str, event_id: &str) -> Result<Value, Failure> {
    wait(&format!("{} has {event_id}", client.user_id), async || {
        let path = room_path(room, &format!("event/{}", segment(event_id)));
        let (status, body) = client.attempt(reqwest::Method::GET, &path, None).await?;
        Ok(status.is_success().then_some(body))
    })
    .await
}

async fn membership(by: &Client, room: &str, act: &str, user: &Client) -> Result<(), Failure> {
    by.post(&room_path(room, act), json!({ "user_id": user.user_id })).await?;
    Ok(())
}

async fn wait_for_membership(client: &Client, room: &str, of: &Client, value: &str) -> Result<(), Failure> {
    wait_for_state(client, room, "m.room.member", &of.user_id, "membership", value).await
}

/// Syncs step by step: the same request twice may be answered from memory.
struct Syncing {
    client: Client,
    since: String,
}

impl Syncing {
    async fn begin(client: &Client) -> Result<Self, Failure> {
        let mut sync = Self { client: client.clone(), since: String::new() };
        sync.next().await?;
        Ok(sync)
    }

    async fn next(&mut self) -> Result<Value, Failure> {
        let since = if self.since.is_empty() { String::new() } else { format!("&since={}", segment(&self.since)) };
        let answer = self.client.get(&format!("/_matrix/client/v3/sync?timeout=500{since}")).await?;
        self.since = answer["next_batch"].as_str().ok_or("no next_batch")?.to_owned();
        Ok(answer)
    }
}

async fn wait_for_invite(client: &Client, room: &str) -> Result<(), Failure> {
    let mut sync = Syncing { client: client.clone(), since: String::new() };
    wait(&format!("{} is invited", client.user_id), async || {
        let answer = sync.next().await?;
        Ok(answer["rooms"]["invite"].get(room).map(|_| ()))
    })
    .await
}

/// Joins a room that the user is invited to, or will be in a moment.
async fn accept(client: &Client, room: &str) -> Result<(), Failure> {
    wait_for_invite(client, room).await?;
    // A server that is in the room may have told its user of the invite before the room's state holds it.
    wait(&format!("{} joins", client.user_id), async || {
        client.join(room, None).await?;
        Ok(Some(()))
    })
    .await
}

/// Those who take part in one run.
struct Cast<'a> {
    home: &'a Side,
    away: &'a Side,
    alice: Client,
    helen: Client,
    bob: Client,
    carol: Client,
    dan: Client,
    room: String,
}

/// One room of one version, made at home, from creation to the comparison at its end.
pub async fn play(home: &Side, away: &Side, version: u32, links: &[&Link]) -> Result<(), Failure> {
    let (alice, helen) = (home.person("alice").await?, home.person("helen").await?);
    let (bob, carol, dan) = (away.person("bob").await?, away.person("carol").await?, away.person("dan").await?);
    let request = json!({ "preset": "private_chat", "room_version": version.to_string(), "name": "Ministries" });
    let room = alice.post("/_matrix/client/v3/createRoom", request).await?;
    let room = room["room_id"].as_str().ok_or("no room_id")?.to_owned();
    let cast = Cast { home, away, alice, helen, bob, carol, dan, room };
    cast.invite_and_talk().await.map_err(|failure| format!("invite and talk: {failure}"))?;
    cast.govern().await.map_err(|failure| format!("power levels, kicks and bans: {failure}"))?;
    if version >= 7 {
        cast.knock().await.map_err(|failure| format!("knock: {failure}"))?;
    }
    if version >= 9 {
        cast.restrict(version).await.map_err(|failure| format!("restricted join: {failure}"))?;
    }
    cast.pass_things().await.map_err(|failure| format!("typing, receipts, media, devices: {failure}"))?;
    cast.disagree(links).await.map_err(|failure| format!("a cut link: {failure}"))?;
    cast.page_back().await.map_err(|failure| format!("history: {failure}"))?;
    cast.compare().await.map_err(|failure| format!("comparison: {failure}").into())
}

impl Cast<'_> {
    async fn invite_and_talk(&self) -> Result<(), Failure> {
        let Self { alice, bob, room, .. } = self;
        membership(alice, room, "invite", bob).await?;
        wait_for_invite(bob, room).await?;
        bob.join(room, None).await?;
        wait_for_membership(alice, room, bob, "join").await?;
        for number in 0..3 {
            let asked = say(alice, room, &format!("Question {number}")).await?;
            wait_for_event(bob, room, &asked).await?;
            let told = say(bob, room, &format!("Answer {number}")).await?;
            wait_for_event(alice, room, &told).await?;
        }
        let wrong = say(bob, room, "Teh answer").await?;
        let edit = json!({
            "msgtype": "m.text", "body": "* The answer",
            "m.new_content": { "msgtype": "m.text", "body": "The answer" },
            "m.relates_to": { "rel_type": "m.replace", "event_id": wrong },
        });
        let edit = send(bob, room, "m.room.message", edit).await?;
        wait_for_event(alice, room, &edit).await?;
        let reaction = json!({ "m.relates_to": { "rel_type": "m.annotation", "event_id": wrong, "key": "👍" } });
        let reaction = send(alice, room, "m.reaction", reaction).await?;
        wait_for_event(bob, room, &reaction).await?;
        let secret = say(bob, room, "A secret").await?;
        wait_for_event(alice, room, &secret).await?;
        bob.put(&room_path(room, &format!("redact/{}/r1", segment(&secret))), json!({ "reason": "slip" })).await?;
        wait("the redaction has arrived", async || {
            let event = wait_for_event(alice, room, &secret).await?;
            Ok(event["content"].as_object().is_some_and(serde_json::Map::is_empty).then_some(()))
        })
        .await?;
        let sealed = json!({ "algorithm": "m.megolm.v1.aes-sha2", "ciphertext": "b3BhcXVl", "session_id": "s", "device_id": "D", "sender_key": "k" });
        let sealed = send(alice, room, "m.room.encrypted", sealed).await?;
        wait_for_event(bob, room, &sealed).await?;
        Ok(())
    }

    async fn govern(&self) -> Result<(), Failure> {
        let Self { alice, bob, carol, room, .. } = self;
        let mut levels = get_state(alice, room, "m.room.power_levels", "").await?.ok_or("no power levels")?;
        levels["users"][&bob.user_id] = json!(50);
        set_state(alice, room, "m.room.power_levels", "", levels).await?;
        wait("bob's server knows his level", async || {
            let levels = get_state(bob, room, "m.room.power_levels", "").await?;
            Ok(levels.filter(|levels| levels["users"][&bob.user_id] == 50).map(|_| ()))
        })
        .await?;
        set_state(bob, room, "m.room.topic", "", json!({ "topic": "Set from away" })).await?;
        wait_for_state(alice, room, "m.room.topic", "", "topic", "Set from away").await?;
        membership(bob, room, "invite", carol).await?;
        wait_for_membership(alice, room, carol, "invite").await?;
        carol.join(room, None).await?;
        wait_for_membership(alice, room, carol, "join").await?;
        membership(alice, room, "kick", carol).await?;
        wait_for_membership(bob, room, carol, "leave").await?;
        membership(bob, room, "ban", carol).await?;
        wait_for_membership(alice, room, carol, "ban").await?;
        membership(alice, room, "unban", carol).await?;
        wait_for_membership(bob, room, carol, "leave").await
    }

    async fn knock(&self) -> Result<(), Failure> {
        let Self { alice, bob, dan, room, home, .. } = self;
        set_state(alice, room, "m.room.join_rules", "", json!({ "join_rule": "knock" })).await?;
        wait_for_state(bob, room, "m.room.join_rules", "", "join_rule", "knock").await?;
        let path =
            format!("/_matrix/client/v3/knock/{}?via={1}&server_name={1}", segment(room), segment(&home.server_name));
        dan.post(&path, json!({ "reason": "Let me in" })).await?;
        wait_for_membership(alice, room, dan, "knock").await?;
        membership(alice, room, "invite", dan).await?;
        accept(dan, room).await?;
        wait_for_membership(alice, room, dan, "join").await?;
        dan.post(&room_path(room, "leave"), json!({})).await?;
        wait_for_membership(alice, room, dan, "leave").await
    }

    async fn restrict(&self, version: u32) -> Result<(), Failure> {
        let Self { alice, bob, carol, room, home, .. } = self;
        let club = json!({ "preset": "public_chat", "room_version": version.to_string() });
        let club = alice.post("/_matrix/client/v3/createRoom", club).await?;
        let club = club["room_id"].as_str().ok_or("no room_id")?.to_owned();
        let rule = json!({ "join_rule": "restricted", "allow": [{ "type": "m.room_membership", "room_id": club }] });
        set_state(alice, room, "m.room.join_rules", "", rule).await?;
        wait_for_state(bob, room, "m.room.join_rules", "", "join_rule", "restricted").await?;
        let via = Some(home.server_name.as_str());
        if carol.join(room, via).await.is_ok() {
            return Err("who is in no allowed room could join".into());
        }
        carol.join(&club, via).await?;
        wait_for_membership(alice, &club, carol, "join").await?;
        carol.join(room, via).await?;
        wait_for_membership(alice, room, carol, "join").await?;
        wait_for_membership(bob, room, carol, "join").await
    }

    async fn pass_things(&self) -> Result<(), Failure> {
        let Self { alice, bob, room, .. } = self;
        let last = say(alice, room, "Read this").await?;
        wait_for_event(bob, room, &last).await?;
        let mut sync = Syncing::begin(alice).await?;
        bob.post(&room_path(room, &format!("receipt/m.read/{}", segment(&last))), json!({})).await?;
        let typing = room_path(room, &format!("typing/{}", segment(&bob.user_id)));
        bob.put(&typing, json!({ "typing": true, "timeout": 30_000 })).await?;
        let (mut has_typed, mut has_read) = (false, false);
        wait("alice sees bob's receipt and that he types", async || {
            let answer = sync.next().await?;
            for event in answer["rooms"]["join"][room]["ephemeral"]["events"].as_array().into_iter().flatten() {
                let content = &event["content"];
                has_typed |= content["user_ids"].as_array().is_some_and(|ids| ids.iter().any(|id| id == &bob.user_id));
                has_read |= content[&last]["m.read"].get(&bob.user_id).is_some();
            }
            if has_typed && has_read {
                return Ok(Some(()));
            }
            Err(format!("typing seen: {has_typed}, receipt seen: {has_read}").into())
        })
        .await?;
        let file = alice.upload(b"A file of the ministry".to_vec()).await?;
        let length = wait("bob's server fetches the file", async || Ok(bob.download(&file).await.ok())).await?;
        if length != 22 {
            return Err(format!("the file came with {length} bytes").into());
        }
        self.pass_keys(alice, bob).await?;
        self.pass_keys(bob, alice).await
    }

    /// Device keys, changes of device lists and to-device messages from one server to the other.
    async fn pass_keys(&self, from: &Client, to: &Client) -> Result<(), Failure> {
        // As a client does that encrypts for the room: of lists that nobody has asked for since their users joined, nobody need be
        // told once more.
        to.post("/_matrix/client/v3/keys/query", json!({ "device_keys": { &from.user_id: [] } })).await?;
        let mut sync = Syncing::begin(to).await?;
        let keys = json!({
            "user_id": from.user_id, "device_id": from.device_id, "algorithms": ["m.olm.v1.curve25519-aes-sha2"],
            "keys": { format!("curve25519:{}", from.device_id): "Y3VydmU", format!("ed25519:{}", from.device_id): "ZWQ" },
            "signatures": { &from.user_id: { format!("ed25519:{}", from.device_id): "c2lnbmF0dXJl" } },
        });
        from.post("/_matrix/client/v3/keys/upload", json!({ "device_keys": keys })).await?;
        let path = format!("/_matrix/client/v3/sendToDevice/org.chappe.interop/{}", segment(&from.device_id));
        let messages = json!({ "messages": { &to.user_id: { &to.device_id: { "from": from.user_id } } } });
        from.put(&path, messages).await?;
        let (mut has_changed, mut has_message) = (false, false);
        wait("the change of devices and the message have arrived", async || {
            let answer = sync.next().await?;
            let changed = answer["device_lists"]["changed"].as_array();
            has_changed |= changed.is_some_and(|users| users.iter().any(|user| user == &from.user_id));
            let messages = answer["to_device"]["events"].as_array();
            has_message |= messages.is_some_and(|all| all.iter().any(|one| one["content"]["from"] == from.user_id));
            if has_changed && has_message {
                return Ok(Some(()));
            }
            Err(format!("change of devices seen: {has_changed}, message seen: {has_message}").into())
        })
        .await?;
        wait("the keys are found", async || {
            let query = json!({ "device_keys": { &from.user_id: [] } });
            let answer = to.post("/_matrix/client/v3/keys/query", query).await?;
            let device = &answer["device_keys"][&from.user_id][&from.device_id];
            Ok((device["keys"] == keys["keys"]).then_some(()))
        })
        .await
    }

    /// Both sides change the same state while they cannot reach each other.
    async fn disagree(&self, links: &[&Link]) -> Result<(), Failure> {
        let Self { alice, helen, bob, carol, room, .. } = self;
        membership(alice, room, "invite", helen).await?;
        helen.join(room, None).await?;
        wait_for_membership(bob, room, helen, "join").await?;
        links.iter().for_each(|link| link.cut());
        let mut said = BTreeSet::new();
        said.insert(set_state(alice, room, "m.room.topic", "", json!({ "topic": "From home" })).await?);
        said.insert(set_state(bob, room, "m.room.topic", "", json!({ "topic": "From away" })).await?);
        membership(alice, room, "ban", carol).await?;
        for number in 0..3 {
            said.insert(say(helen, room, &format!("While cut off, {number}")).await?);
            said.insert(say(bob, room, &format!("Is anybody there? {number}")).await?);
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        links.iter().for_each(|link| link.mend());
        // What is said now reaches the other side, and what was said before with it.
        for event_id in said {
            wait("both sides have what was said while the link was cut", async || {
                say(alice, room, "Back again").await?;
                say(bob, room, "Back here too").await?;
                let path = room_path(room, &format!("event/{}", segment(&event_id)));
                let mut is_there = true;
                for client in [alice, bob] {
                    is_there &= client.attempt(reqwest::Method::GET, &path, None).await?.0.is_success();
                }
                tokio::time::sleep(Duration::from_millis(500)).await;
                Ok(is_there.then_some(()))
            })
            .await?;
        }
        wait_for_membership(bob, room, carol, "ban").await
    }

    /// Who comes late can page back to the beginning, on either server.
    async fn page_back(&self) -> Result<(), Failure> {
        let Self { alice, dan, room, .. } = self;
        membership(alice, room, "invite", dan).await?;
        accept(dan, room).await?;
        wait_for_membership(alice, room, dan, "join").await
    }

    async fn compare(&self) -> Result<(), Failure> {
        let Self { alice, bob, room, home, away, .. } = self;
        wait("both servers have the same state", async || {
            let (here, there) = (state_of(alice, room).await?, state_of(bob, room).await?);
            if here != there {
                let differing: Vec<_> =
                    here.iter().filter(|(key, value)| there.get(*key) != Some(value)).take(3).collect();
                return Err(format!("the states differ at {differing:?}").into());
            }
            Ok(Some(()))
        })
        .await?;
        wait("both servers have the same events", async || {
            let (here, there) = (timeline_of(alice, room).await?, timeline_of(bob, room).await?);
            let names = (&home.server_name, &away.server_name);
            let missing: Vec<_> = here.iter().filter(|(id, _)| !there.contains_key(*id)).take(3).collect();
            let extra: Vec<_> = there.iter().filter(|(id, _)| !here.contains_key(*id)).take(3).collect();
            if !missing.is_empty() || !extra.is_empty() {
                return Err(format!("of {names:?} the second misses {missing:?} and the first {extra:?}").into());
            }
            match here.iter().find(|(id, event)| there.get(*id) != Some(event)) {
                Some((id, event)) => Err(format!("{id} is {event} here and {:?} there", there.get(id)).into()),
                None => Ok(Some(())),
            }
        })
        .await
    }
}

/// What both servers must agree on of an event.
fn essence(event: &Value) -> Value {
    let mut essence = json!({});
    for field in ["type", "sender", "content", "state_key", "origin_server_ts"] {
        if let Some(value) = event.get(field) {
            essence[field] = value.clone();
        }
    }
    essence
}

async fn state_of(client: &Client, room: &str) -> Result<BTreeMap<String, String>, Failure> {
    let state = client.get(&room_path(room, "state")).await?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let rows = state.as_array().into_iter().flatten();
    Ok(rows.map(|event| (format!("{} {}", event["type"], event["state_key"]), text(&event["event_id"]))).collect())
}

async fn timeline_of(client: &Client, room: &str) -> Result<BTreeMap<String, Value>, Failure> {
    let history = client.history(room).await?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok(history.iter().map(|event| (text(&event["event_id"]), essence(event))).collect())
}
