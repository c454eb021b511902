//! The list of events that a user was notified of, newest first.
//!
//! Nothing is kept for it: the timelines of the user's rooms are merged backwards and judged by the present rules, a bounded number of
//! events for each page. So a page may hold fewer than asked for, and still have a next one.
//!
//! Spec: Client-Server API, Listing Notifications.

use std::{
    collections::{BinaryHeap, VecDeque},
    sync::Arc,
};

use chappe_rooms::{Event, Room, RoomError, Rooms};
use chappe_store::{Position, StoreError};
use ruma::{OwnedUserId, UserId, push::Action};

use super::{
    evaluate::{Candidates, Judge},
    rules::PushRules,
    unread::Unread,
};
use crate::account_data::AccountData;

/// The most notifications of one page.
pub const PAGE_MAX: usize = 100;

/// How many events are judged for one page.
const JUDGED_MAX: usize = 2_000;

/// How many events of a room are read at once.
const CHUNK: usize = 16;

/// One event that the user was notified of.
#[derive(Clone, Debug)]
pub struct Notification {
    pub event: Arc<Event>,
    pub actions: Vec<Action>,
    /// The user has read it.
    pub is_read: bool,
}

#[derive(Clone, Debug, Default)]
pub struct Page {
    pub notifications: Vec<Notification>,
    /// What is older than this place in the log is yet to come; `None`: nothing is.
    pub next: Option<Position>,
}

/// What a client asks for.
#[derive(Clone, Debug)]
pub struct PageQuery {
    pub user_id: OwnedUserId,
    /// Before this place in the log.
    pub before: Option<Position>,
    pub limit: usize,
    pub only_highlights: bool,
}

#[derive(Debug, thiserror::Error)]
pub enum ListError {
    #[error(transparent)]
    Room(#[from] RoomError),
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The reading was broken off.
    #[error("the notifications could not be read: {0}")]
    Aborted(String),
}

/// A token that this server did not give out.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("from is not a token of this endpoint")]
pub struct InvalidToken;

/// Reads the place in the log that [`Page::next`] became as text.
pub fn parse_token(text: &str) -> Result<Position, InvalidToken> {
    let number = text.parse().map_err(|_| InvalidToken)?;
    if number > Position::MAX.0 { Err(InvalidToken) } else { Ok(Position(number)) }
}

/// Lists notifications.
pub struct Notifications {
    rooms: Rooms,
    rules: Arc<PushRules>,
    candidates: Arc<Candidates>,
    account_data: Arc<AccountData>,
    unread: Arc<Unread>,
}

/// A room's timeline, read backwards.
struct Source {
    room: Room,
    judge: Judge,
    /// The user joined here.
    start: Position,
    /// Newest first; what is older comes before `before`.
    buffer: VecDeque<(Position, Arc<Event>)>,
}

impl Notifications {
    pub fn new(
        rooms: Rooms,
        rules: Arc<PushRules>,
        candidates: Arc<Candidates>,
        account_data: Arc<AccountData>,
        unread: Arc<Unread>,
    ) -> Self {
        Self { rooms, rules, candidates, account_data, unread }
    }

    /// A page of what a user was notified of, read off the threads that serve everybody else.
    pub async fn get_page(self: &Arc<Self>, query: PageQuery) -> Result<Page, ListError> {
        let service = self.clone();
        let reading = tokio::task::spawn_blocking(move || service.read_page(&query));
        reading.await.map_err(|error| ListError::Aborted(error.to_string()))?
    }

    fn read_page(&self, query: &PageQuery) -> Result<Page, ListError> {
        let user_id = &query.user_id;
        let ignored = self.account_data.get_ignored_users(user_id)?;
        let end = query.before.map_or(self.rooms.store().durable_position().next(), |before| before);
        let mut sources = Vec::new();
        for nid in self.rooms.get_joined_rooms(user_id)? {
            let Some(room) = self.rooms.get_room_by_nid(nid)? else { continue };
            sources.push(self.open(room, user_id, end)?);
        }
        // The newest event of each room, by which the next to be judged is chosen.
        let heads = sources.iter().enumerate().filter_map(|(at, source)| Some((source.buffer.front()?.0, at)));
        let mut heads: BinaryHeap<(Position, usize)> = heads.collect();
        let mut page = Page::default();
        let mut judged = 0;
        while let Some((position, at)) = heads.pop() {
            if page.notifications.len() >= query.limit || judged >= JUDGED_MAX {
                page.next = Some(position.next());
                break;
            }
            judged += 1;
            let Some(source) = sources.get_mut(at) else { continue };
            let Some((_, event)) = source.buffer.pop_front() else { continue };
            if source.buffer.is_empty() {
                self.fill(source, position)?;
            }
            if let Some((next, _)) = source.buffer.front() {
                heads.push((*next, at));
            }
            if !event.pdu.is_state() && ignored.contains(&event.pdu.sender) {
                continue;
            }
            let Some(candidate) = self.candidates.get(&event)? else { continue };
            let Some(verdict) = source.judge.judge(&candidate, &self.candidates)? else { continue };
            if query.only_highlights && !verdict.is_highlight {
                continue;
            }
            let actions = verdict.actions.to_vec();
            let is_read = !self.unread.is_unread(user_id, &source.room, event.nid)?;
            page.notifications.push(Notification { event, actions, is_read });
        }
        Ok(page)
    }

    fn open(&self, room: Room, user_id: &UserId, end: Position) -> Result<Source, ListError> {
        let start = self.unread.get_joined_at(user_id, &room)?;
        let judge = Judge::new(&self.rooms, &room, user_id, self.rules.get_ruleset(user_id)?)?;
        let mut source = Source { room, judge, start, buffer: VecDeque::new() };
        self.fill(&mut source, end)?;
        Ok(source)
    }

    /// Reads the events of a room right before a place in the log.
    fn fill(&self, source: &mut Source, before: Position) -> Result<(), StoreError> {
        let last = Position(before.0.saturating_sub(1));
        if last <= source.start {
            return Ok(());
        }
        let (events, _) = self.rooms.get_timeline(source.room.nid, source.start, last, CHUNK)?;
        source.buffer.extend(events.into_iter().rev());
        Ok(())
    }
}
