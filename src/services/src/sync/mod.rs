//! `/sync`: what a client has not been told yet, and waiting until there is something.
//!
//! An answer is read between two bounds: the client's token, and one durable position taken when the reading starts, which the
//! next token holds. It costs what changed between them: rooms without a change are not looked at ([`waiters`] knows which),
//! state is the difference of two trees ([`state`]), timelines are read backwards from their end ([`timeline`]). A poll with
//! nothing to tell registers with [`waiters`] before it reads, and sleeps until it is woken.
//!
//! The readers ([`timeline`], [`state`], [`summary`], [`lazy_members`]) know nothing of `/sync`'s answer; [`rooms`], `joined` and
//! `outside` put it together. What is unread [`crate::push::unread`] counts.
//!
//! A first answer is about every room there is: [`first`] reads and serialises one room after the other, as the client takes them.
//!
//! Start at [`SyncService::sync`], then [`rooms`].

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use chappe_rooms::{RoomError, Rooms, client_event::Memberships};
use chappe_store::{Position, StoreError};
use ruma::{OneTimeKeyAlgorithm, OwnedDeviceId, OwnedUserId, UInt, presence::PresenceState};
use serde_json::{json, value::RawValue};
use tokio::time::Instant;

use crate::{
    account_data::{AccountData, AccountDataItem},
    filters::Filters,
    invite_filter::InviteRules,
    keys::DeviceLists,
    presence::{Presence, Snapshot},
    push::unread::Unread,
    receipts::Receipts,
    to_device::MESSAGES_PER_SYNC_MAX,
    typing::Typing,
};

pub mod devices;
pub mod filter;
pub mod first;
mod joined;
pub mod joined_rooms;
pub mod lazy_members;
pub(crate) mod outside;
pub mod response;
pub mod rooms;
pub(crate) mod show;
pub mod state;
pub mod summary;
pub mod timeline;
pub mod token;
pub mod waiters;

use self::{
    devices::PollingDevices,
    filter::SyncFilter,
    first::FirstSync,
    joined_rooms::JoinedRooms,
    lazy_members::LazyMembers,
    response::{DeviceListsSection, Events, SyncResponse},
    rooms::{Found, RoomAccountData},
    summary::Summaries,
    token::{InvalidSyncToken, SyncToken},
    waiters::{Activity, Waiters},
};

/// The longest a poll may wait.
const TIMEOUT_MAX: Duration = Duration::from_secs(10 * 60);

/// What a client asks.
#[derive(Debug)]
pub struct SyncRequest {
    pub user_id: OwnedUserId,
    pub device_id: OwnedDeviceId,
    pub since: Option<String>,
    pub filter: FilterChoice,
    /// All state of all rooms, also where it did not change.
    pub full_state: bool,
    pub state_style: StateStyle,
    pub timeout: Duration,
    pub set_presence: PresenceState,
}

#[derive(Debug)]
pub enum FilterChoice {
    None,
    /// The filter itself, as JSON text.
    Inline(String),
    /// The id of a filter that the user stored.
    Stored(String),
}

/// Which state goes with a timeline.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StateStyle {
    /// That at its start.
    Before,
    /// That at its end, whatever the timeline's own events say.
    After,
    /// The same under the name of MSC4222.
    AfterUnstable,
}

#[derive(Debug, thiserror::Error)]
pub enum SyncError {
    /// The client's fault.
    #[error(transparent)]
    InvalidToken(#[from] InvalidSyncToken),
    /// The client's fault.
    #[error("The filter is malformed")]
    MalformedFilter,
    /// The client's fault.
    #[error("No such filter")]
    UnknownFilter,
    #[error(transparent)]
    Room(#[from] RoomError),
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The reading was broken off.
    #[error("the answer could not be read: {0}")]
    Aborted(String),
}

/// What sync reads.
#[derive(Clone)]
pub struct SyncSources {
    pub rooms: Rooms,
    pub account_data: Arc<AccountData>,
    pub receipts: Arc<Receipts>,
    pub typing: Arc<Typing>,
    pub presence: Arc<Presence>,
    pub device_lists: DeviceLists,
    pub filters: Arc<Filters>,
    pub unread: Arc<Unread>,
    pub waiters: Waiters,
    pub joined_rooms: JoinedRooms,
    pub devices: PollingDevices,
}

/// Answers `/sync`.
pub struct SyncService {
    sources: SyncSources,
    lazy_members: LazyMembers,
    summaries: Summaries,
}

/// What a client is answered.
pub enum SyncAnswer {
    Whole(Box<SyncResponse>),
    First(Box<FirstSync>),
}

/// From where a reading goes up to where, and what holds throughout it.
struct Basis {
    since: Option<SyncToken>,
    /// Everything is read up to here. It is durable.
    to: Position,
    typing: u64,
    presence: u64,
    ignored: HashSet<OwnedUserId>,
    invites: InviteRules,
}

/// Account data that the client has not seen.
#[derive(Default)]
struct AccountDataNews {
    global: Vec<AccountDataItem>,
    rooms: RoomAccountData,
}

/// One reading: who asks, from where and up to where.
pub(crate) struct View<'a> {
    sources: &'a SyncSources,
    lazy_members: &'a LazyMembers,
    summaries: &'a Summaries,
    request: &'a SyncRequest,
    filter: &'a SyncFilter,
    since: Option<SyncToken>,
    /// Everything is read up to here. It is durable.
    to: Position,
    ignored: &'a HashSet<OwnedUserId>,
    invites: &'a InviteRules,
    memberships: Memberships,
}

/// The keys that a device has left.
#[derive(PartialEq, Eq, Debug)]
pub(crate) struct KeyCounts {
    pub(crate) one_time_keys: BTreeMap<OneTimeKeyAlgorithm, UInt>,
    pub(crate) unused_fallback_key_types: Vec<OneTimeKeyAlgorithm>,
}

impl SyncService {
    /// Lets changes of typing and presence wake polls, too.
    pub fn new(sources: SyncSources) -> Self {
        let waiters = sources.waiters.clone();
        sources.typing.on_change(move |room| waiters.wake_room(room));
        let waiters = sources.waiters.clone();
        sources.presence.on_change(move |user, rooms| {
            waiters.wake_user(user);
            rooms.iter().for_each(|room| waiters.wake_room(*room));
        });
        Self { sources, lazy_members: LazyMembers::default(), summaries: Summaries::default() }
    }

    /// Answers what the client has not been told, waiting for something up to its timeout.
    ///
    /// Spec: Client-Server API, `GET /sync`.
    pub async fn sync(self: &Arc<Self>, request: Arc<SyncRequest>) -> Result<SyncAnswer, SyncError> {
        let since = self.check_since(&request)?;
        let filter = Arc::new(self.get_filter(&request)?);
        let presence = self.sources.presence.begin_sync(&request.user_id, &request.set_presence)?;
        if let Some(since) = since {
            self.sources.devices.acknowledge(&request.user_id, &request.device_id, since.to_device)?;
        }
        if filter.lazy_load.is_on() {
            self.lazy_members.begin(&request.user_id, &request.device_id, since.map(|since| since.position));
        }
        let Some(since) = since else {
            // Boxed, as what waits below should take no more than it needs.
            let first = Box::pin(FirstSync::begin(self.clone(), request, filter, presence)).await?;
            return Ok(SyncAnswer::First(Box::new(first)));
        };
        let may_wait = !request.full_state && !request.timeout.is_zero();
        let deadline = Instant::now() + request.timeout.min(TIMEOUT_MAX);
        let at_start = self.sources.devices.get_key_counts(&request.user_id, &request.device_id)?;
        loop {
            // Before reading: what happens after the reading began is not overlooked.
            let waiter = match may_wait {
                true => {
                    let rooms = self.sources.joined_rooms.get(&request.user_id)?;
                    Some(self.sources.waiters.register(&request.user_id, rooms))
                }
                false => None,
            };
            let answer = Box::new(self.read(&request, &filter, Some(since))?);
            let is_same = answer.device_one_time_keys_count == at_start.one_time_keys
                && answer.device_unused_fallback_key_types == at_start.unused_fallback_key_types;
            let Some(waiter) = waiter.filter(|_| answer.is_empty() && is_same) else {
                return Ok(SyncAnswer::Whole(answer));
            };
            let woken = tokio::time::timeout_at(deadline, waiter.woken()).await;
            if woken.is_err() || self.sources.waiters.is_closed() {
                return Ok(SyncAnswer::Whole(answer));
            }
        }
    }

    fn check_since(&self, request: &SyncRequest) -> Result<Option<SyncToken>, SyncError> {
        let Some(since) = &request.since else { return Ok(None) };
        let token: SyncToken = since.parse()?;
        // A place that this server's log has not reached: another server's token, or one of a lost past.
        if token.position > self.sources.waiters.position() {
            return Err(InvalidSyncToken.into());
        }
        Ok(Some(token))
    }

    fn get_filter(&self, request: &SyncRequest) -> Result<SyncFilter, SyncError> {
        Ok(match &request.filter {
            FilterChoice::None => SyncFilter::default(),
            FilterChoice::Inline(json) => SyncFilter::parse(json).map_err(|_| SyncError::MalformedFilter)?,
            FilterChoice::Stored(id) => {
                let json = self.sources.filters.get_filter_json(&request.user_id, id)?;
                // What is stored was parsed before; a version of the program that no longer takes it treats it as unknown.
                json.and_then(|json| SyncFilter::parse(&json).ok()).ok_or(SyncError::UnknownFilter)?
            }
        })
    }

    /// Reads one answer, as of now.
    fn read(
        &self,
        request: &SyncRequest,
        filter: &SyncFilter,
        since: Option<SyncToken>,
    ) -> Result<SyncResponse, SyncError> {
        let basis = self.basis(request, since)?;
        let view = self.view(request, filter, &basis);
        let account_data = view.read_account_data()?;
        let (rooms, found) = view.read_rooms(&account_data.rooms)?;
        let mut response = view.read_all_but_rooms(&basis, &account_data.global, &found)?;
        response.rooms = rooms;
        Ok(response)
    }

    fn basis(&self, request: &SyncRequest, since: Option<SyncToken>) -> Result<Basis, StoreError> {
        let sources = &self.sources;
        Ok(Basis {
            since,
            to: sources.waiters.position(),
            // Before what they are the versions of is read: what changes meanwhile is told twice rather than never.
            typing: sources.typing.version(),
            presence: sources.presence.version(),
            ignored: sources.account_data.get_ignored_users(&request.user_id)?,
            invites: InviteRules::load(&sources.account_data, &request.user_id)?,
        })
    }

    fn view<'a>(&'a self, request: &'a SyncRequest, filter: &'a SyncFilter, basis: &'a Basis) -> View<'a> {
        View {
            sources: &self.sources,
            lazy_members: &self.lazy_members,
            summaries: &self.summaries,
            request,
            filter,
            since: basis.since,
            to: basis.to,
            ignored: &basis.ignored,
            invites: &basis.invites,
            memberships: Memberships::default(),
        }
    }
}

impl View<'_> {
    /// The place in the log that the client has seen everything up to.
    fn from(&self) -> Position {
        self.since.map_or(Position::ZERO, |since| since.position)
    }

    fn user_activity(&self) -> Activity {
        self.sources.waiters.user_activity(&self.request.user_id, self.from())
    }

    /// Everything but what is said of rooms.
    fn read_all_but_rooms(
        &self,
        basis: &Basis,
        account_data: &[AccountDataItem],
        found: &Found,
    ) -> Result<SyncResponse, SyncError> {
        let (user, device) = (&self.request.user_id, &self.request.device_id);
        let from = self.since.map_or(Position::ZERO, |since| since.to_device);
        let devices = &self.sources.devices;
        let inbox = devices.scan_messages(user, device, from, self.to, MESSAGES_PER_SYNC_MAX)?;
        let key_counts = devices.get_key_counts(user, device)?;
        let next = SyncToken {
            position: self.to,
            typing: basis.typing,
            presence: basis.presence,
            to_device: inbox.up_to.min(self.to),
        };
        Ok(SyncResponse {
            next_batch: next.to_string(),
            account_data: self.show_account_data(account_data),
            presence: self.read_presence(&found.newly_seen)?,
            to_device: Events {
                events: inbox.events.into_iter().filter_map(|event| RawValue::from_string(event).ok()).collect(),
            },
            device_lists: self.read_device_lists(found)?,
            device_one_time_keys_count: key_counts.one_time_keys.clone(),
            device_unused_fallback_key_types: key_counts.unused_fallback_key_types.clone(),
            ..SyncResponse::default()
        })
    }

    /// Account data, of rooms and global, that the client has not seen.
    fn read_account_data(&self) -> Result<AccountDataNews, StoreError> {
        let (account_data, user) = (&self.sources.account_data, &self.request.user_id);
        let items = match self.since {
            None => account_data.scan_all_account_data(user, self.to)?,
            Some(_) if self.user_activity() == Activity::None => Vec::new(),
            Some(since) => account_data.scan_account_data_since(user, since.position, self.to)?,
        };
        let mut news = AccountDataNews { global: Vec::new(), rooms: HashMap::new() };
        for item in items {
            match item.room_id.clone() {
                Some(room_id) => news.rooms.entry(room_id).or_default().push(item),
                None => news.global.push(item),
            }
        }
        Ok(news)
    }

    fn show_account_data(&self, global: &[AccountDataItem]) -> Events {
        let wanted = global.iter().filter(|item| self.filter.account_data.admits_type(&item.event_type));
        Events { events: wanted.filter_map(show::account_data).take(self.filter.account_data.limit()).collect() }
    }

    /// Presence that changed, and that of users whom the client sees for the first time.
    fn read_presence(&self, newly_seen: &BTreeSet<OwnedUserId>) -> Result<Events, StoreError> {
        let (presence, user) = (&self.sources.presence, &self.request.user_id);
        if !presence.is_enabled() || !self.filter.presence.admits_type("m.presence") {
            return Ok(Events::default());
        }
        let mut snapshots = presence.changed_since(user, self.since.map_or(0, |since| since.presence))?;
        for other in newly_seen {
            if snapshots.iter().any(|snapshot| snapshot.user_id == *other) {
                continue;
            }
            // Somebody who left again meanwhile is no longer the client's business.
            let Ok(snapshot) = presence.get(user, other) else { continue };
            if snapshot.state != PresenceState::Offline {
                snapshots.push(snapshot);
            }
        }
        let wanted = snapshots.iter().filter(|snapshot| self.filter.presence.admits_sender(&snapshot.user_id));
        Ok(Events { events: wanted.filter_map(show_presence).take(self.filter.presence.limit()).collect() })
    }

    /// Whose device lists changed. Nothing of the kind happens without waking the user, or a room that the user is in.
    fn read_device_lists(&self, found: &Found) -> Result<DeviceListsSection, StoreError> {
        if self.since.is_none() || (found.active.is_empty() && self.user_activity() == Activity::None) {
            return Ok(DeviceListsSection::default());
        }
        let lists = &self.sources.device_lists;
        let changes = lists.changed_with(&self.request.user_id, self.from(), self.to, &found.joined, &found.active)?;
        Ok(DeviceListsSection { changed: changes.changed, left: changes.left })
    }
}

fn show_presence(snapshot: &Snapshot) -> Option<Box<RawValue>> {
    let mut content = serde_json::Map::new();
    content.insert("presence".to_owned(), snapshot.state.as_str().into());
    if let Some(ago_ms) = snapshot.last_active_ago_ms {
        content.insert("last_active_ago".to_owned(), ago_ms.into());
    }
    if let Some(status_msg) = &snapshot.status_msg {
        content.insert("status_msg".to_owned(), status_msg.as_str().into());
    }
    content.insert("currently_active".to_owned(), snapshot.currently_active.into());
    show::raw(&json!({ "type": "m.presence", "sender": snapshot.user_id, "content": content }))
}

#[cfg(test)]
mod tests;
