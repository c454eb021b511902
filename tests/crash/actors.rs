//! Those who use the server while it is killed: each repeats a request until it is acknowledged, and writes that to the ledger.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use chappe_tests::client::{Client, Refusal, room_path, segment};
use reqwest::Method;
use serde_json::{Value, json};

use crate::ledger::{AckedEvent, AckedMembership, Entries, Ledger};

/// Raised when everybody is to finish what they are at.
pub type Stop = Arc<AtomicBool>;

/// The type of the state, to-device messages and account data here.
pub const EVENT_TYPE: &str = "org.chappe.crash";

fn is_over(stop: &Stop) -> bool {
    stop.load(Ordering::Relaxed)
}

fn event_id(answer: &Value) -> String {
    answer["event_id"].as_str().unwrap_or_default().to_owned()
}

/// Sends numbered messages into the rooms in turn, now and then an old one once more.
pub async fn send_messages(
    client: Client,
    name: String,
    rooms: Vec<String>,
    ledger: Ledger,
    stop: Stop,
) -> Result<(), Refusal> {
    let mut own: Vec<AckedEvent> = Vec::new();
    for (number, room) in rooms.iter().cycle().enumerate() {
        if is_over(&stop) {
            break;
        }
        let path = room_path(room, &format!("send/m.room.message/{name}-{number}"));
        let content = json!({ "msgtype": "m.text", "body": format!("{name}-{number}") });
        let id = event_id(&client.put(&path, content.clone()).await?);
        let acked = AckedEvent { room: room.clone(), event_id: id, content, sent_to: Some(path) };
        own.push(acked.clone());
        ledger.write(|entries| entries.events.push(acked)).await;
        if number % 10 == 9
            && let Some(old) = own.get(number / 2)
            && let Some(path) = &old.sent_to
        {
            let again = event_id(&client.put(path, old.content.clone()).await?);
            if again != old.event_id {
                ledger.fault(format!("{path} made {} and, sent again, {again}", old.event_id)).await;
            }
        }
    }
    Ok(())
}

/// Sets ten state keys in turn.
pub async fn set_state(client: Client, room: String, ledger: Ledger, stop: Stop) -> Result<(), Refusal> {
    for number in 0u64.. {
        if is_over(&stop) {
            break;
        }
        let content = json!({ "number": number });
        let path = room_path(&room, &format!("state/{EVENT_TYPE}/key{}", number % 10));
        let id = event_id(&client.put(&path, content.clone()).await?);
        let acked = AckedEvent { room: room.clone(), event_id: id, content, sent_to: None };
        ledger.write(|entries| entries.events.push(acked)).await;
    }
    Ok(())
}

/// Joins and leaves, over and over.
pub async fn come_and_go(client: Client, room: String, ledger: Ledger, stop: Stop) -> Result<(), Refusal> {
    while !is_over(&stop) {
        for membership in ["join", "leave"] {
            ledger.write(|entries| entries.membership = None).await;
            client.post(&room_path(&room, membership), json!({})).await?;
            let acked = AckedMembership { room: room.clone(), membership };
            ledger.write(|entries| entries.membership = Some(acked)).await;
            if is_over(&stop) {
                break;
            }
        }
    }
    Ok(())
}

/// Sends numbered to-device messages to a user's device.
pub async fn send_to_device(client: Client, to: Client, ledger: Ledger, stop: Stop) -> Result<(), Refusal> {
    for number in 0u64.. {
        if is_over(&stop) {
            break;
        }
        let path = format!("/_matrix/client/v3/sendToDevice/{EVENT_TYPE}/d{number}");
        let (user, device) = (&to.user_id, &to.device_id);
        client.put(&path, json!({ "messages": { user: { device: { "number": number } } } })).await?;
        ledger.write(|entries| entries.to_device.push(number)).await;
    }
    Ok(())
}

/// Uploads one-time keys. A key may have been claimed before its upload is answered, and is uploaded again.
pub async fn upload_keys(client: Client, ledger: Ledger, stop: Stop) -> Result<(), Refusal> {
    for number in 0u64.. {
        if is_over(&stop) {
            break;
        }
        let key_id = format!("signed_curve25519:K{number}");
        let signatures = json!({ &client.user_id: { format!("ed25519:{}", client.device_id): "c2lnbmF0dXJl" } });
        let key = json!({ "key": format!("key{number}"), "signatures": signatures });
        let body = json!({ "one_time_keys": { &key_id: key } });
        client.post("/_matrix/client/v3/keys/upload", body).await?;
        ledger.write(|entries| entries.one_time_keys.insert(key_id)).await;
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    Ok(())
}

/// Claims one-time keys. A claim that is not answered is not made again: nobody knows whether it took a key.
pub async fn claim_keys(client: Client, of: Client, ledger: Ledger, stop: Stop) -> Result<(), Refusal> {
    let body = json!({ "one_time_keys": { &of.user_id: { &of.device_id: "signed_curve25519" } } });
    while !is_over(&stop) {
        match client.attempt(Method::POST, "/_matrix/client/v3/keys/claim", Some(&body)).await {
            Ok((status, answer)) if status.is_success() => {
                let keys = answer["one_time_keys"][&of.user_id][&of.device_id].as_object().cloned().unwrap_or_default();
                for key_id in keys.keys() {
                    if !ledger.write(|entries| entries.claimed_keys.insert(key_id.clone())).await {
                        ledger.fault(format!("{key_id} was claimed twice")).await;
                    }
                }
            }
            Ok(_) | Err(_) => ledger.write(|entries| entries.claims_lost += 1).await,
        }
        tokio::time::sleep(std::time::Duration::from_millis(15)).await;
    }
    Ok(())
}

/// Counts upwards in account data.
pub async fn set_account_data(client: Client, ledger: Ledger, stop: Stop) -> Result<(), Refusal> {
    let path = format!("/_matrix/client/v3/user/{}/account_data/{EVENT_TYPE}", segment(&client.user_id));
    for number in 1u64.. {
        if is_over(&stop) {
            break;
        }
        client.put(&path, json!({ "number": number })).await?;
        ledger.write(|entries| entries.account_data = number).await;
    }
    Ok(())
}

/// What a syncing device was told so far.
pub struct Syncer {
    client: Client,
    ledger: Ledger,
    token: Option<String>,
    rounds: usize,
}

/// Every so many rounds the token is kept, to be synced from once more at the end.
const ROUNDS_PER_KEPT_TOKEN: usize = 40;

impl Syncer {
    pub fn new(client: Client, ledger: Ledger) -> Self {
        Self { client, ledger, token: None, rounds: 0 }
    }

    /// Syncs until `stop`, then until there is nothing more to tell.
    pub async fn run(mut self, stop: Stop) -> Result<(), Refusal> {
        while !is_over(&stop) {
            self.sync(500).await?;
        }
        while self.sync(0).await? {}
        Ok(())
    }

    /// One round; whether anything was told.
    async fn sync(&mut self, timeout_ms: u32) -> Result<bool, Refusal> {
        let answer = self.client.get(&sync_path(self.token.as_deref(), timeout_ms)).await?;
        let mut is_news = false;
        for event in answer["to_device"]["events"].as_array().into_iter().flatten() {
            is_news = true;
            if event["type"] == EVENT_TYPE
                && let Some(number) = event["content"]["number"].as_u64()
            {
                self.ledger.write(|entries| entries.to_device_received.push(number)).await;
            }
        }
        for (room, told) in fill_gaps(&self.client, self.token.as_deref(), &answer).await? {
            is_news = true;
            self.ledger.write(|entries| entries.synced.entry(room).or_default().extend(told)).await;
        }
        self.token = answer["next_batch"].as_str().map(str::to_owned);
        self.rounds += 1;
        if self.rounds.is_multiple_of(ROUNDS_PER_KEPT_TOKEN)
            && let Some(token) = self.token.clone()
        {
            let keep = |entries: &mut Entries| {
                let told = entries.synced.iter().map(|(room, ids)| (room.clone(), ids.len())).collect();
                entries.old_tokens.push((token, told));
            };
            self.ledger.write(keep).await;
        }
        Ok(is_news)
    }
}

/// Syncs with lists as long as the server gives.
fn sync_path(since: Option<&str>, timeout_ms: u32) -> String {
    let filter = segment(r#"{"room":{"timeline":{"limit":200}},"presence":{"types":[]}}"#);
    let since = since.map(|token| format!("&since={}", segment(token))).unwrap_or_default();
    format!("/_matrix/client/v3/sync?timeout={timeout_ms}&filter={filter}{since}")
}

/// The event ids that a sync after `since` told, room by room in order, with what a `limited` timeline left out.
async fn fill_gaps(
    client: &Client,
    since: Option<&str>,
    answer: &Value,
) -> Result<Vec<(String, Vec<String>)>, Refusal> {
    let mut rooms = Vec::new();
    for (room, part) in answer["rooms"]["join"].as_object().into_iter().flatten() {
        let timeline = &part["timeline"];
        let mut told = ids(&timeline["events"]);
        if timeline["limited"] == true
            && let Some(prev_batch) = timeline["prev_batch"].as_str()
        {
            told.splice(..0, page_back(client, room, prev_batch, since).await?);
        }
        if !told.is_empty() {
            rooms.push((room.clone(), told));
        }
    }
    Ok(rooms)
}

/// What lies between two tokens, oldest first.
async fn page_back(client: &Client, room: &str, from: &str, to: Option<&str>) -> Result<Vec<String>, Refusal> {
    let mut found = Vec::new();
    let mut from = from.to_owned();
    let to = to.map(|token| format!("&to={}", segment(token))).unwrap_or_default();
    loop {
        let path = room_path(room, &format!("messages?dir=b&limit=500&from={}{to}", segment(&from)));
        let page = client.get(&path).await?;
        found.extend(ids(&page["chunk"]));
        match page["end"].as_str() {
            Some(end) => from = end.to_owned(),
            None => break,
        }
    }
    found.reverse();
    Ok(found)
}

fn ids(events: &Value) -> Vec<String> {
    events.as_array().into_iter().flatten().filter_map(|event| event["event_id"].as_str().map(str::to_owned)).collect()
}

/// Everything told from a token on, room by room.
pub async fn sync_from(client: &Client, token: &str) -> Result<Vec<(String, Vec<String>)>, Refusal> {
    let mut all: Vec<(String, Vec<String>)> = Vec::new();
    let mut token = token.to_owned();
    loop {
        let answer = client.get(&sync_path(Some(&token), 0)).await?;
        let told = fill_gaps(client, Some(&token), &answer).await?;
        if told.is_empty() {
            return Ok(all);
        }
        all.extend(told);
        token = answer["next_batch"].as_str().unwrap_or_default().to_owned();
    }
}
