//! What the server has acknowledged, and what was found wrong.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use serde_json::Value;
use tokio::sync::Mutex;

/// A message or state event that the server said it has.
#[derive(Clone, Debug)]
pub struct AckedEvent {
    pub room: String,
    pub event_id: String,
    pub content: Value,
    /// Set for messages: the path under which it was sent, transaction id included.
    pub sent_to: Option<String>,
}

/// How a member's last request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AckedMembership {
    pub room: String,
    pub membership: &'static str,
}

#[derive(Default)]
pub struct Entries {
    pub events: Vec<AckedEvent>,
    pub membership: Option<AckedMembership>,
    /// To-device messages by their number, as acknowledged to the sender.
    pub to_device: Vec<u64>,
    /// To-device messages in the order in which the recipient was given them.
    pub to_device_received: Vec<u64>,
    /// Ids of one-time keys that the server said it has.
    pub one_time_keys: BTreeSet<String>,
    pub claimed_keys: BTreeSet<String>,
    /// Claims whose answer was lost: each may have used up a key.
    pub claims_lost: usize,
    /// The last value of the account data that was acknowledged.
    pub account_data: u64,
    /// Room -> events as `/sync` told of them.
    pub synced: BTreeMap<String, Vec<String>>,
    /// Sync tokens from before kills, with how many events of each room had been told by then.
    pub old_tokens: Vec<(String, HashMap<String, usize>)>,
    pub faults: Vec<String>,
}

#[derive(Clone, Default)]
pub struct Ledger(Arc<Mutex<Entries>>);

impl Ledger {
    pub async fn write<T>(&self, note: impl FnOnce(&mut Entries) -> T) -> T {
        note(&mut *self.0.lock().await)
    }

    /// Notes something that must not happen.
    pub async fn fault(&self, what: impl Into<String>) {
        let what = what.into();
        self.write(|entries| entries.faults.push(what)).await;
    }
}
