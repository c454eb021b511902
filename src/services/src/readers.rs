//! What tells clients of their rooms, built together: unread counts, notifications, `/sync` and sliding sync. All of them read the same
//! sources and wait at the same waiters.

use std::sync::Arc;

use chappe_protocol::clock::Clock;
use chappe_rooms::Rooms;

use crate::{
    account_data::AccountData,
    filters::Filters,
    keys::DeviceLists,
    presence::Presence,
    push::{evaluate::Candidates, notifications::Notifications, rules::PushRules, unread::Unread},
    receipts::Receipts,
    sliding_sync::SlidingSync,
    sync::{SyncService, SyncSources, devices::PollingDevices, joined_rooms::JoinedRooms, waiters::Waiters},
    thread_subscriptions::ThreadSubscriptions,
    to_device::ToDevice,
    typing::Typing,
};

/// What is read.
pub struct ReaderSources {
    pub rooms: Rooms,
    pub clock: Arc<dyn Clock>,
    pub account_data: Arc<AccountData>,
    pub device_lists: DeviceLists,
    pub filters: Arc<Filters>,
    pub presence: Arc<Presence>,
    pub push_rules: Arc<PushRules>,
    pub receipts: Arc<Receipts>,
    pub to_device: Arc<ToDevice>,
    pub typing: Arc<Typing>,
}

/// What reads it.
pub struct Readers {
    pub candidates: Arc<Candidates>,
    pub notifications: Arc<Notifications>,
    pub sliding_sync: Arc<SlidingSync>,
    pub sync: Arc<SyncService>,
    pub thread_subscriptions: ThreadSubscriptions,
    pub unread: Arc<Unread>,
    pub waiters: Waiters,
}

impl Readers {
    pub fn new(sources: ReaderSources) -> Self {
        let ReaderSources { rooms, clock, account_data, push_rules, receipts, .. } = &sources;
        let waiters = Waiters::follow(rooms.store());
        let candidates = Arc::new(Candidates::new(rooms.clone()));
        let unread = Arc::new(Unread::new(
            rooms.clone(),
            receipts.clone(),
            account_data.clone(),
            push_rules.clone(),
            candidates.clone(),
            waiters.clone(),
        ));
        let notifications = Arc::new(Notifications::new(
            rooms.clone(),
            push_rules.clone(),
            candidates.clone(),
            account_data.clone(),
            unread.clone(),
        ));
        let thread_subscriptions = ThreadSubscriptions::new(rooms.clone());
        let clock = clock.clone();
        let joined_rooms = JoinedRooms::new(rooms.clone(), waiters.clone());
        let devices = PollingDevices::new(rooms.store().clone(), sources.to_device, waiters.clone());
        let sync_sources = SyncSources {
            rooms: sources.rooms,
            account_data: sources.account_data,
            receipts: sources.receipts,
            typing: sources.typing,
            presence: sources.presence,
            device_lists: sources.device_lists,
            filters: sources.filters,
            unread: unread.clone(),
            joined_rooms,
            devices,
            waiters: waiters.clone(),
        };
        let sync = Arc::new(SyncService::new(sync_sources.clone()));
        let sliding_sync = Arc::new(SlidingSync::new(sync_sources, thread_subscriptions.clone(), clock));
        Self { candidates, notifications, sliding_sync, sync, thread_subscriptions, unread, waiters }
    }
}
