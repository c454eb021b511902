//! Paging through what relates to an event, and through a room's threads.
//!
//! Spec: Client-Server API, Relationships API; Querying threads in a room.

use std::{collections::HashSet, sync::Arc};

use chappe_store::{
    Direction, EventNid, Order, Position, StoreError,
    tables::relations::{RELATED, ROOM_THREADS, THREADS},
};
use ruma::{EventId, OwnedEventId, OwnedUserId, RoomId, UserId, api::Direction as Paging};

use super::{Audience, List, relation_of};
use crate::{
    Event, Room, RoomError, Rooms,
    timeline::{Place, Token, after, before, next_place},
    visibility::UserEyes,
};

/// How many levels of relations are followed.
const RECURSION_DEPTH: u32 = 3;
/// How many relations are followed in one request.
const RECURSED_MAX: usize = 2_000;
/// How many events that the user may not see, or does not want, one page passes over.
const LOOKED_AT_MAX: usize = 2_000;
/// How many relating events are looked at to tell whether there is one as a filter wants it.
const SEARCHED_MAX: usize = 500;

/// Which relating events are wanted.
#[derive(Clone, Copy, Debug)]
pub struct RelationQuery<'a> {
    pub target: &'a EventId,
    pub rel_type: Option<&'a str>,
    pub event_type: Option<&'a str>,
    /// Where the page begins; by default at the end that the direction comes from.
    pub from: Option<Place>,
    pub to: Option<Place>,
    pub direction: Paging,
    pub limit: usize,
    /// Also what relates to the relating events.
    pub recurse: bool,
}

/// A page of relating events.
#[derive(Debug, Default)]
pub struct RelationPage {
    /// In the order of the direction asked for.
    pub events: Vec<Arc<Event>>,
    /// Where the next page begins; `None`: there is nothing more.
    pub next: Option<Token>,
    /// How deep relations were followed, if that was asked for.
    pub depth: Option<u32>,
}

/// Which threads of a room are wanted.
#[derive(Clone, Copy, Debug)]
pub struct ThreadQuery {
    /// Only those that the user takes part in.
    pub participated: bool,
    pub from: Option<Place>,
    pub limit: usize,
}

/// A page of a room's threads.
#[derive(Debug, Default)]
pub struct ThreadPage {
    /// The threads' roots, by their last reply, newest first.
    pub roots: Vec<Arc<Event>>,
    pub next: Option<Token>,
}

impl Rooms {
    /// The events that relate to an event, as far as the user may see them.
    ///
    /// # Errors
    /// Not found, if the user may not see the event itself.
    pub fn get_relations(
        &self,
        room: &Room,
        audience: Audience<'_>,
        query: RelationQuery<'_>,
    ) -> Result<RelationPage, RoomError> {
        let user = audience.viewer.user;
        if self.get_visible_event(room, user, query.target)?.is_none() {
            return Err(RoomError::NotFound("Event not found".to_owned()));
        }
        let mut eyes = self.eyes_of(room.nid, user)?;
        if query.recurse {
            return self.get_relations_recursively(room, audience, query, &mut eyes);
        }
        let list = query.rel_type.map_or(List::All, List::Type).name();
        let is_back = query.direction == Paging::Backward;
        let key = |(depth, order): Place| (room.nid, query.target.to_owned(), list.clone(), depth, order);
        let edge = query.from.map(next_place);
        let (start, end, direction) = match is_back {
            true => ((0, Order::FIRST), edge.unwrap_or(END), Direction::Reverse),
            false => (edge.unwrap_or((0, Order::FIRST)), END, Direction::Forward),
        };
        let mut page = PageOf::new(&query);
        for row in self.store.scan_range(&RELATED, &key(start), &key(end), direction) {
            let ((.., depth, order), nid) = row?;
            if !page.wants((depth, order)) {
                break;
            }
            let Some(event) = self.get_event_by_nid(nid)? else { continue };
            let is_shown = matches_type(&event, query.event_type) && is_shown(&event, audience, &mut eyes)?;
            page.take((depth, order), event, is_shown);
        }
        Ok(RelationPage { events: page.events, next: page.next, depth: None })
    }

    fn get_relations_recursively(
        &self,
        room: &Room,
        audience: Audience<'_>,
        query: RelationQuery<'_>,
        eyes: &mut UserEyes<'_>,
    ) -> Result<RelationPage, RoomError> {
        let list = query.rel_type.map_or(List::All, List::Type).name();
        let mut found: Vec<(Place, Arc<Event>)> = Vec::new();
        let mut seen: HashSet<EventNid> = HashSet::new();
        let mut level: Vec<OwnedEventId> = vec![query.target.to_owned()];
        let mut depth = 0;
        while !level.is_empty() && depth < RECURSION_DEPTH {
            let mut next_level = Vec::new();
            for target in level {
                let prefix = (room.nid, target, list.clone());
                for row in self.store.scan(&RELATED, &prefix, Direction::Reverse) {
                    let ((.., event_depth, order), nid) = row?;
                    if seen.len() >= RECURSED_MAX {
                        break;
                    }
                    let Some(event) = self.get_event_by_nid(nid)? else { continue };
                    if event.pdu.event_id != query.target && matches_type(&event, query.event_type) && seen.insert(nid)
                    {
                        next_level.push(event.pdu.event_id.clone());
                        found.push(((event_depth, order), event));
                    }
                }
            }
            depth += 1;
            level = next_level;
        }
        found.sort_by_key(|(place, _)| *place);
        let is_back = query.direction == Paging::Backward;
        if is_back {
            found.reverse();
        }
        let mut page = PageOf::new(&query);
        for (place, event) in found {
            let is_before_page = query.from.is_some_and(|from| if is_back { place > from } else { place <= from });
            if is_before_page {
                continue;
            }
            if !page.wants(place) {
                break;
            }
            let is_shown = is_shown(&event, audience, eyes)?;
            page.take(place, event, is_shown);
        }
        Ok(RelationPage { events: page.events, next: page.next, depth: Some(depth) })
    }

    /// The threads of a room, by their last reply.
    ///
    /// # Errors
    /// Forbidden, if the user may not look at the room.
    pub fn get_threads(
        &self,
        room_id: &RoomId,
        audience: Audience<'_>,
        query: ThreadQuery,
    ) -> Result<ThreadPage, RoomError> {
        let user = audience.viewer.user;
        let (room, _) = self.require_state_view(room_id, user)?;
        let mut eyes = self.eyes_of(room.nid, user)?;
        let (depth, order) = query.from.map_or(END, next_place);
        let mut page = ThreadPage::default();
        let rows = self.store.scan_range(&ROOM_THREADS, &(room.nid,), &(room.nid, depth, order), Direction::Reverse);
        for (looked_at, row) in rows.enumerate() {
            let ((_, depth, order), root) = row?;
            if page.roots.len() >= query.limit || looked_at >= LOOKED_AT_MAX {
                // There is a thread after the last one that was looked at.
                return Ok(page);
            }
            page.next = Some(before((depth, order)));
            let Some(root) = self.get_event(&root)? else { continue };
            if is_shown(&root, audience, &mut eyes)?
                && (!query.participated || self.has_part_in_thread(&root, user)?)
                && self.get_thread_bundle(&root, audience, &mut eyes)?.is_some()
            {
                page.roots.push(root);
            }
        }
        page.next = None;
        Ok(page)
    }

    /// Whether a user has begun a thread, or replied in it.
    pub(super) fn has_part_in_thread(&self, root: &Event, user: &UserId) -> Result<bool, StoreError> {
        let row = (root.record.room, root.pdu.event_id.clone(), user.to_string());
        Ok(root.pdu.sender == user || self.store.contains(&THREADS, &row)?)
    }

    /// Whether something relates to an event that is of one of these types and by one of these senders.
    ///
    /// Spec: Client-Server API, Filtering, `related_by_rel_types` and `related_by_senders`.
    pub fn is_related_by(
        &self,
        event: &Event,
        rel_types: Option<&[String]>,
        senders: Option<&HashSet<OwnedUserId>>,
    ) -> Result<bool, StoreError> {
        let lists: Vec<String> = match rel_types {
            Some(rel_types) => rel_types.iter().map(|rel_type| List::Type(rel_type).name()).collect(),
            None => vec![List::All.name()],
        };
        for list in lists.into_iter().filter(|list| !list.contains('\0')) {
            let prefix = (event.record.room, event.pdu.event_id.clone(), list);
            for row in self.store.scan(&RELATED, &prefix, Direction::Reverse).take(SEARCHED_MAX) {
                let (_, nid) = row?;
                let Some(senders) = senders else { return Ok(true) };
                if self.get_event_by_nid(nid)?.is_some_and(|child| senders.contains(&child.pdu.sender)) {
                    return Ok(true);
                }
            }
        }
        Ok(false)
    }
}

/// After every place of a room.
const END: Place = (u64::MAX, Order::Live(Position::MAX));

fn matches_type(event: &Event, event_type: Option<&str>) -> bool {
    event_type.is_none_or(|event_type| event.pdu.kind.to_string() == event_type)
}

/// Whether the user may see the event, and wants to hear of its sender.
pub(super) fn is_shown(event: &Event, audience: Audience<'_>, eyes: &mut UserEyes<'_>) -> Result<bool, StoreError> {
    let is_ignored = !event.pdu.is_state() && audience.ignored.contains(&event.pdu.sender);
    Ok(!is_ignored && eyes.sees(event)?)
}

/// A page being filled.
struct PageOf {
    is_back: bool,
    to: Option<Place>,
    limit: usize,
    looked_at: usize,
    events: Vec<Arc<Event>>,
    next: Option<Token>,
    last: Option<Token>,
}

impl PageOf {
    fn new(query: &RelationQuery<'_>) -> Self {
        Self {
            is_back: query.direction == Paging::Backward,
            to: query.to,
            limit: query.limit,
            looked_at: 0,
            events: Vec::new(),
            next: None,
            last: None,
        }
    }

    /// Whether the event at a place still belongs to the page. If not, the page may end with a token to go on from.
    fn wants(&mut self, place: Place) -> bool {
        if self.to.is_some_and(|to| if self.is_back { place <= to } else { place > to }) {
            return false;
        }
        if self.events.len() >= self.limit || self.looked_at >= LOOKED_AT_MAX {
            self.next = self.last;
            return false;
        }
        true
    }

    fn take(&mut self, place: Place, event: Arc<Event>, is_shown: bool) {
        self.looked_at += 1;
        self.last = Some(if self.is_back { before(place) } else { after(place) });
        if is_shown {
            self.events.push(event);
        }
    }
}

/// Whether an event relates to another one, so that no thread can begin with it.
pub(super) fn relates(event: &Event) -> bool {
    relation_of(&event.pdu).is_some()
}
