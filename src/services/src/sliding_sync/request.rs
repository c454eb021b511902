//! What clients ask of sliding sync. Read leniently: what is unknown is passed over.
//!
//! Spec: MSC4186.

use std::collections::BTreeMap;

use ruma::{OwnedRoomId, presence::PresenceState};
use serde::Deserialize;

use super::SlidingSyncError;

const LISTS_MAX: usize = 100;
const LIST_NAME_BYTES_MAX: usize = 64;
const SUBSCRIPTIONS_MAX: usize = 500;
const RANGES_MAX: usize = 50;
const REQUIRED_STATE_MAX: usize = 200;
const CONNECTION_ID_BYTES_MAX: usize = 64;
/// The most timeline events a room is given.
pub(super) const TIMELINE_LIMIT_MAX: u32 = 250;

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct SlidingSyncRequest {
    pub pos: Option<String>,
    pub conn_id: Option<String>,
    pub txn_id: Option<String>,
    /// How long to wait for something to tell, in milliseconds.
    pub timeout: Option<u64>,
    pub set_presence: Option<PresenceState>,
    pub lists: BTreeMap<String, ListRequest>,
    pub room_subscriptions: BTreeMap<OwnedRoomId, RoomRequest>,
    pub extensions: ExtensionsRequest,
}

/// Windows on the user's rooms, newest first.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ListRequest {
    /// First and last index of each window; all rooms if there is none.
    pub ranges: Option<Vec<(usize, usize)>>,
    pub slow_get_all_rooms: bool,
    pub required_state: Vec<(String, String)>,
    pub timeline_limit: u32,
    pub filters: ListFilters,
}

/// How much of a room is told.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct RoomRequest {
    pub required_state: Vec<(String, String)>,
    pub timeline_limit: u32,
}

/// All that are given must hold.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ListFilters {
    pub is_dm: Option<bool>,
    pub is_encrypted: Option<bool>,
    #[serde(alias = "is_invited")]
    pub is_invite: Option<bool>,
    /// `null` stands for rooms without a type.
    pub room_types: Option<Vec<Option<String>>>,
    pub not_room_types: Option<Vec<Option<String>>>,
    pub room_name_like: Option<String>,
    pub spaces: Option<Vec<OwnedRoomId>>,
    pub tags: Option<Vec<String>>,
    pub not_tags: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ExtensionsRequest {
    pub to_device: ToDeviceRequest,
    pub e2ee: Switch,
    pub account_data: RoomExtension,
    pub receipts: RoomExtension,
    pub typing: RoomExtension,
    #[serde(rename = "io.element.msc4308.thread_subscriptions", alias = "thread_subscriptions")]
    pub thread_subscriptions: ThreadSubscriptionsRequest,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ToDeviceRequest {
    pub enabled: Option<bool>,
    pub limit: Option<usize>,
    pub since: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Switch {
    pub enabled: Option<bool>,
}

/// An extension that tells of rooms: those of the lists and subscriptions named; of all if none are.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct RoomExtension {
    pub enabled: Option<bool>,
    pub lists: Option<Vec<String>>,
    pub rooms: Option<Vec<String>>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct ThreadSubscriptionsRequest {
    pub enabled: Option<bool>,
    pub limit: Option<usize>,
}

impl SlidingSyncRequest {
    /// Refuses what asks for too much, or for what makes no sense.
    pub(super) fn check(&self) -> Result<(), SlidingSyncError> {
        let refuse = |what: &str| Err(SlidingSyncError::Invalid(what.to_owned()));
        if self.conn_id.as_ref().is_some_and(|id| id.len() > CONNECTION_ID_BYTES_MAX || id.contains('\0')) {
            return refuse("conn_id is too long, or holds a zero character");
        }
        if self.lists.len() > LISTS_MAX || self.lists.keys().any(|name| name.len() > LIST_NAME_BYTES_MAX) {
            return refuse("There are too many lists, or the name of one is too long");
        }
        if self.room_subscriptions.len() > SUBSCRIPTIONS_MAX {
            return refuse("There are too many room subscriptions");
        }
        for list in self.lists.values() {
            let ranges = list.ranges.as_deref().unwrap_or_default();
            if ranges.len() > RANGES_MAX || ranges.iter().any(|(first, last)| first > last) {
                return refuse("A list has too many ranges, or one that ends before it begins");
            }
        }
        let of_lists = self.lists.values().map(|list| &list.required_state);
        let of_rooms = self.room_subscriptions.values().map(|room| &room.required_state);
        if of_lists.chain(of_rooms).any(|required| required.len() > REQUIRED_STATE_MAX) {
            return refuse("Too much state is required");
        }
        Ok(())
    }

    /// Whether nothing is asked of rooms: clients have a connection of their own for keys and messages to devices.
    pub(super) fn is_for_encryption_only(&self) -> bool {
        self.lists.is_empty() && self.room_subscriptions.is_empty() && self.extensions.e2ee.enabled == Some(true)
    }

    pub(super) fn connection_id(&self) -> &str {
        self.conn_id.as_deref().unwrap_or_default()
    }
}
