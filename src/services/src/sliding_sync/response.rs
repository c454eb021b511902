//! The answer of sliding sync, ready to be serialised. Events are raw JSON throughout.
//!
//! Spec: MSC4186.

use std::collections::{BTreeMap, BTreeSet};

use ruma::{OneTimeKeyAlgorithm, OwnedRoomId, OwnedUserId, UInt};
use serde::Serialize;

use crate::{push::unread::Count, sync::response::RawEvent, thread_subscriptions::SubscriptionSections};

#[derive(Debug, Default, Serialize)]
pub struct SlidingSyncResponse {
    pub pos: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub txn_id: Option<String>,
    pub lists: BTreeMap<String, ListSection>,
    pub rooms: BTreeMap<OwnedRoomId, RoomSection>,
    pub extensions: ExtensionsSection,
}

#[derive(Debug, Serialize)]
pub struct ListSection {
    /// How many rooms the list has, windows or not.
    pub count: usize,
}

#[derive(Debug, Default, Serialize)]
pub struct RoomSection {
    /// Told only in the form of [`super::stable`], as are the lists.
    #[serde(skip)]
    pub membership: Option<String>,
    /// Whose windows the room is in.
    #[serde(skip)]
    pub lists: BTreeSet<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// `Some(None)`: it was taken away.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub avatar: Option<Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub heroes: Option<Vec<HeroSection>>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub is_dm: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub initial: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub unstable_expanded_timeline: bool,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub required_state: Vec<RawEvent>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub timeline: Vec<RawEvent>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub invite_state: Option<Vec<RawEvent>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prev_batch: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub limited: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub num_live: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub joined_count: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub invited_count: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bump_stamp: Option<u64>,
    /// What is unread, in the room and its threads together.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub unread: Option<Count>,
}

#[derive(Debug, Serialize)]
pub struct HeroSection {
    pub user_id: OwnedUserId,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub displayname: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub avatar_url: Option<String>,
}

#[derive(Debug, Default, Serialize)]
pub struct ExtensionsSection {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to_device: Option<ToDeviceSection>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub e2ee: Option<E2eeSection>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub account_data: Option<AccountDataSection>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub receipts: Option<RoomEventsSection>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub typing: Option<RoomEventsSection>,
    #[serde(rename = "io.element.msc4308.thread_subscriptions", skip_serializing_if = "Option::is_none")]
    pub thread_subscriptions: Option<ThreadSubscriptionsSection>,
}

impl ExtensionsSection {
    /// Whether it tells nothing new. The counts of keys are always there and do not count.
    pub(super) fn is_empty(&self) -> bool {
        self.to_device.as_ref().is_none_or(|section| section.events.is_empty())
            && self.e2ee.as_ref().is_none_or(|section| section.device_lists.is_none())
            && self.account_data.as_ref().is_none_or(|data| data.global.is_empty() && data.rooms.is_empty())
            && self.receipts.as_ref().is_none_or(|section| section.rooms.is_empty())
            && self.typing.as_ref().is_none_or(|section| section.rooms.is_empty())
            && self.thread_subscriptions.is_none()
    }
}

#[derive(Debug, Serialize)]
pub struct ToDeviceSection {
    pub next_batch: String,
    pub events: Vec<RawEvent>,
}

#[derive(Debug, Serialize)]
pub struct E2eeSection {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub device_lists: Option<DeviceListsSection>,
    pub device_one_time_keys_count: BTreeMap<OneTimeKeyAlgorithm, UInt>,
    pub device_unused_fallback_key_types: Vec<OneTimeKeyAlgorithm>,
}

#[derive(Debug, Serialize)]
pub struct DeviceListsSection {
    pub changed: BTreeSet<OwnedUserId>,
    pub left: BTreeSet<OwnedUserId>,
}

#[derive(Debug, Default, Serialize)]
pub struct AccountDataSection {
    pub global: Vec<RawEvent>,
    pub rooms: BTreeMap<OwnedRoomId, Vec<RawEvent>>,
}

#[derive(Debug, Default, Serialize)]
pub struct RoomEventsSection {
    pub rooms: BTreeMap<OwnedRoomId, RawEvent>,
}

#[derive(Debug, Serialize)]
pub struct ThreadSubscriptionsSection {
    #[serde(flatten)]
    pub changes: SubscriptionSections,
    /// Where changes go on that found no room here.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prev_batch: Option<String>,
}
