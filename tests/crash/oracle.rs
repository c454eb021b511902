//! Compares, from outside and through the APIs alone, what the server has with what it acknowledged.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    time::{Duration, Instant},
};

use chappe_tests::{
    Failure,
    client::{Client, room_path, segment},
};
use serde_json::{Value, json};

use crate::{
    actors::{EVENT_TYPE, sync_from},
    ledger::{Entries, Ledger},
};

/// How long both servers may have the same events too few without any progress.
const CATCH_UP_PATIENCE: Duration = Duration::from_secs(90);

/// Who looks.
pub struct Witnesses {
    /// In every room, and the one who synced.
    pub reader: Client,
    /// Came and went.
    pub visitor: Client,
    /// Counted in account data.
    pub counter: Client,
    /// On the other server, in the shared room.
    pub abroad: Client,
    pub shared_room: String,
}

fn event_ids(history: &[Value]) -> Vec<String> {
    history.iter().filter_map(|event| event["event_id"].as_str().map(str::to_owned)).collect()
}

/// Checks everything; what is wrong goes to the ledger's faults.
pub async fn check(ledger: &Ledger, witnesses: &Witnesses) -> Result<(), Failure> {
    let mut faults = Vec::new();
    let rooms: BTreeSet<_> =
        ledger.write(|entries| entries.events.iter().map(|event| event.room.clone()).collect()).await;
    let mut histories = HashMap::new();
    for room in rooms {
        let history = witnesses.reader.history(&room).await?;
        check_state(&room, &history, &witnesses.reader, &mut faults).await?;
        histories.insert(room, history);
    }
    ledger
        .write(|entries| {
            check_events(entries, &histories, &mut faults);
            check_sync(entries, &histories, &mut faults);
            check_to_device(entries, &mut faults);
        })
        .await;
    check_old_tokens(ledger, witnesses, &mut faults).await?;
    check_keys(ledger, witnesses, &mut faults).await?;
    check_account_data(ledger, witnesses, &mut faults).await?;
    check_membership(ledger, witnesses, &mut faults).await?;
    for fault in faults {
        ledger.fault(fault).await;
    }
    Ok(())
}

/// Every acknowledged event is there, once, as it was sent; and no message was stored twice under two ids.
fn check_events(entries: &Entries, histories: &HashMap<String, Vec<Value>>, faults: &mut Vec<String>) {
    let mut bodies: HashMap<&str, &str> = HashMap::new();
    let mut found: HashMap<&str, &Value> = HashMap::new();
    for (room, history) in histories {
        for event in history {
            let id = event["event_id"].as_str().unwrap_or_default();
            if found.insert(id, event).is_some() {
                faults.push(format!("{id} is twice in the history of {room}"));
            }
            if let Some(body) = event["content"]["body"].as_str()
                && let Some(other) = bodies.insert(body, id)
            {
                faults.push(format!("the message {body} was stored as {other} and as {id}"));
            }
        }
    }
    for acked in &entries.events {
        match found.get(acked.event_id.as_str()) {
            None => faults.push(format!("{} of {} was acknowledged and is lost", acked.event_id, acked.room)),
            Some(event) if event["content"] != acked.content => {
                faults.push(format!("{} is not as it was sent: {event}", acked.event_id));
            }
            Some(_) => {}
        }
    }
}

/// What `/sync` told, over all kills: each event once, none left out.
fn check_sync(entries: &Entries, histories: &HashMap<String, Vec<Value>>, faults: &mut Vec<String>) {
    for (room, history) in histories {
        let told = entries.synced.get(room).cloned().unwrap_or_default();
        let distinct: HashSet<_> = told.iter().collect();
        if distinct.len() != told.len() {
            faults.push(format!("/sync repeated {} events of {room}", told.len() - distinct.len()));
        }
        let is_missing =
            |event: &&Value| event["event_id"].as_str().is_none_or(|id| !distinct.contains(&id.to_owned()));
        let missing: Vec<_> = history.iter().filter(is_missing).collect();
        if let Some(first) = missing.first() {
            let (left_out, all) = (missing.len(), history.len());
            faults.push(format!("/sync left out {left_out} of {all} events of {room}, for one {first}"));
        }
    }
}

/// A token from before some kills goes on without loss or repeat.
async fn check_old_tokens(ledger: &Ledger, witnesses: &Witnesses, faults: &mut Vec<String>) -> Result<(), Failure> {
    let (tokens, synced) = ledger.write(|entries| (entries.old_tokens.clone(), entries.synced.clone())).await;
    // From the whole run, a few.
    let step = tokens.len().div_ceil(5).max(1);
    for (token, told_before) in tokens.into_iter().step_by(step) {
        let mut told: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (room, ids) in sync_from(&witnesses.reader, &token).await? {
            told.entry(room).or_default().extend(ids);
        }
        for (room, all) in &synced {
            let before = told_before.get(room).copied().unwrap_or(0);
            let expected: BTreeSet<_> = all.iter().skip(before).collect();
            let again = told.get(room).cloned().unwrap_or_default();
            let got: BTreeSet<_> = again.iter().collect();
            if got.len() != again.len() || got != expected {
                let (missing, extra) = (expected.difference(&got).count(), got.difference(&expected).count());
                faults.push(format!("the old token {token} misses {missing} and repeats {extra} events of {room}"));
            }
        }
    }
    Ok(())
}

/// The state is what the room's state events, in order, come to.
async fn check_state(room: &str, history: &[Value], reader: &Client, faults: &mut Vec<String>) -> Result<(), Failure> {
    let mut folded: BTreeMap<(String, String), String> = BTreeMap::new();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    for event in history.iter().filter(|event| event["state_key"].is_string()) {
        folded.insert((text(&event["type"]), text(&event["state_key"])), text(&event["event_id"]));
    }
    let state = reader.get(&room_path(room, "state")).await?;
    let told: BTreeMap<_, _> = state
        .as_array()
        .into_iter()
        .flatten()
        .map(|event| ((text(&event["type"]), text(&event["state_key"])), text(&event["event_id"])))
        .collect();
    if folded != told {
        let differing: Vec<_> = folded.iter().filter(|(key, id)| told.get(*key) != Some(*id)).take(3).collect();
        faults.push(format!("the state of {room} is not what its events come to, at {differing:?}"));
    }
    Ok(())
}

/// Each to-device message once, in order, none left out.
fn check_to_device(entries: &Entries, faults: &mut Vec<String>) {
    let received = &entries.to_device_received;
    if !received.windows(2).all(|pair| pair[0] < pair[1]) {
        faults.push("to-device messages came twice or out of order".to_owned());
    }
    let got: HashSet<_> = received.iter().collect();
    let lost: Vec<_> = entries.to_device.iter().filter(|number| !got.contains(number)).collect();
    if !lost.is_empty() {
        faults.push(format!(
            "{} to-device messages are lost: {:?}",
            lost.len(),
            lost.iter().take(5).collect::<Vec<_>>()
        ));
    }
}

/// Every uploaded key is either there or was claimed; only claims whose answer was lost may have used up more.
async fn check_keys(ledger: &Ledger, witnesses: &Witnesses, faults: &mut Vec<String>) -> Result<(), Failure> {
    let answer = witnesses.reader.post("/_matrix/client/v3/keys/upload", json!({})).await?;
    let left = usize::try_from(answer["one_time_key_counts"]["signed_curve25519"].as_u64().unwrap_or(0))?;
    ledger
        .write(|entries| {
            let (uploaded, claimed) = (entries.one_time_keys.len(), entries.claimed_keys.len());
            if left + claimed > uploaded || left + claimed + entries.claims_lost < uploaded {
                faults.push(format!(
                    "of {uploaded} one-time keys {left} are left and {claimed} were claimed, with {} answers lost",
                    entries.claims_lost
                ));
            }
        })
        .await;
    Ok(())
}

async fn check_account_data(ledger: &Ledger, witnesses: &Witnesses, faults: &mut Vec<String>) -> Result<(), Failure> {
    let acked = ledger.write(|entries| entries.account_data).await;
    let path = format!("/_matrix/client/v3/user/{}/account_data/{EVENT_TYPE}", segment(&witnesses.counter.user_id));
    let number = witnesses.counter.get(&path).await?["number"].as_u64().unwrap_or(0);
    if number != acked {
        faults.push(format!("account data holds {number}, and {acked} was acknowledged last"));
    }
    Ok(())
}

async fn check_membership(ledger: &Ledger, witnesses: &Witnesses, faults: &mut Vec<String>) -> Result<(), Failure> {
    let Some(acked) = ledger.write(|entries| entries.membership.clone()).await else { return Ok(()) };
    let joined = witnesses.visitor.get("/_matrix/client/v3/joined_rooms").await?;
    let is_joined = joined["joined_rooms"].as_array().into_iter().flatten().any(|room| room == &acked.room);
    if is_joined != (acked.membership == "join") {
        faults.push(format!("the last acknowledged membership was {acked:?}, and the rooms joined are {joined}"));
    }
    Ok(())
}

/// Waits until both servers have the same events of the shared room.
pub async fn wait_for_agreement(ledger: &Ledger, witnesses: &Witnesses) -> Result<(), Failure> {
    let room = &witnesses.shared_room;
    let begun = Instant::now();
    let (mut fewest, mut last_progress) = (usize::MAX, Instant::now());
    loop {
        let looked = Instant::now();
        let here: BTreeSet<_> = event_ids(&witnesses.reader.history(room).await?).into_iter().collect();
        let there: BTreeSet<_> = event_ids(&witnesses.abroad.history(room).await?).into_iter().collect();
        let (missing, unknown) = (here.difference(&there).count(), there.difference(&here).count());
        if missing == 0 && unknown == 0 {
            println!("the servers agreed {:.1} s later", begun.elapsed().as_secs_f64());
            return Ok(());
        }
        if missing + unknown < fewest {
            (fewest, last_progress) = (missing + unknown, Instant::now());
        }
        if last_progress.elapsed() > CATCH_UP_PATIENCE {
            let what = format!("misses {missing} events of the shared room, and has {unknown} that are unknown here");
            ledger.fault(format!("the other server {what}")).await;
            return Ok(());
        }
        // Reading everything costs the servers time that they need to come together.
        tokio::time::sleep(looked.elapsed().max(Duration::from_millis(500))).await;
    }
}
