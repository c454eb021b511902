//! Pages of history for a user: what of the room's order the user may see and wants, more of it fetched from other servers where
//! this one has none.
//!
//! Spec: Client-Server API, `GET /rooms/{roomId}/messages` and `GET /rooms/{roomId}/context/{eventId}`.

use std::{collections::BTreeSet, sync::Arc};

use chappe_store::{Direction, Order, Position, RoomNid, StoreError};
use ruma::{UserId, api::Direction as Paging};

use crate::{
    Event, Room, RoomError, Rooms,
    backfill::Backfilled,
    timeline::{Place, Token, after, place_before},
};

/// How often one page asks other servers for more.
const BACKFILLS_MAX: u32 = 5;
/// How many events that the user may not see, or does not want, one page passes over.
const EVENTS_LOOKED_AT_MAX: usize = 2_000;
/// How many events are read at once.
const EVENTS_READ: usize = 50;
/// Deeper than any event.
const DEPTH_END: u64 = 1 << 53;

/// What a page begins at, ends at, and how long it is.
#[derive(Clone, Copy, Debug)]
pub struct PageRequest {
    pub from: Place,
    /// The page stops here, if it comes that far.
    pub to: Option<Token>,
    /// Live events that came later than this are passed over: whoever pages back from a position has been given them.
    pub up_to: Option<Position>,
    pub direction: Paging,
    pub limit: usize,
}

/// Where paging ends.
#[derive(Debug)]
struct PageEnd {
    place: Place,
    /// A client that pages back to a position wants what it was not given by then: down from the position's place only what came
    /// later.
    since: Option<Since>,
}

#[derive(Debug)]
struct Since {
    position: Position,
    place: Place,
    /// Where what came later has its place among what had come by then.
    late: BTreeSet<Place>,
}

impl PageEnd {
    fn ends_at(&self, place: Place, direction: Paging) -> bool {
        match direction {
            Paging::Backward => place <= self.place,
            Paging::Forward => place > self.place,
        }
    }

    fn was_given(&self, place: Place) -> bool {
        self.since.as_ref().is_some_and(|since| match place.1 {
            Order::Live(position) => position <= since.position,
            Order::Backfilled(_) => place <= since.place && !since.late.contains(&place),
        })
    }
}

/// A page of history.
#[derive(Debug, Default)]
pub struct Page {
    /// In the order of the direction asked for, each with its place.
    pub events: Vec<(Place, Arc<Event>)>,
    /// Where the next page begins; `None`: there is nothing more.
    pub end: Option<Token>,
}

impl Rooms {
    /// The start of the room's order.
    pub fn start_of_room(&self) -> Place {
        (0, Order::FIRST)
    }

    /// Right after the last event of the room's order.
    pub fn get_end_of_room(&self, room: RoomNid) -> Result<Place, StoreError> {
        let last = self.get_page(room, (DEPTH_END, Order::FIRST), Direction::Reverse, 1)?;
        Ok(last.first().map_or(self.start_of_room(), |(place, _)| *place))
    }

    /// Where paging up to a token ends.
    fn get_page_end(&self, room: RoomNid, token: Token, direction: Paging) -> Result<PageEnd, StoreError> {
        let place = self.get_place_of_token(room, token)?;
        let (Token::Stream(position), Paging::Backward) = (token, direction) else {
            return Ok(PageEnd { place, since: None });
        };
        let late = self.get_late_places(room, position)?;
        Ok(PageEnd {
            place: late.first().map_or(place, |lowest| place_before(*lowest).min(place)),
            since: Some(Since { position, place, late }),
        })
    }

    /// A page of the events that the user may see and `admits` lets pass.
    ///
    /// The page may be short, and still have an end from which to go on: where much had to be passed over, or much is missing here that
    /// other servers have.
    pub async fn get_visible_page(
        &self,
        room: &Room,
        user: &UserId,
        request: PageRequest,
        admits: impl Fn(&Event) -> Result<bool, StoreError> + Send + Sync,
    ) -> Result<Page, RoomError> {
        let PageRequest { from, to, up_to, direction, limit } = request;
        let is_back = direction == Paging::Backward;
        let mut page = Page::default();
        let mut eyes = self.eyes_of(room.nid, user)?;
        let mut backfills_left = BACKFILLS_MAX;
        let mut may_be_filled = is_back && self.is_joined(room.nid, user)?;
        let mut place = from;
        let mut looked_at = 0;
        let get_end = || to.map(|to| self.get_page_end(room.nid, to, direction)).transpose();
        let mut end = get_end()?;
        while page.events.len() < limit {
            let wanted = u32::try_from(limit - page.events.len()).unwrap_or(u32::MAX);
            while may_be_filled && backfills_left > 0 {
                match self.backfill(room, place, wanted).await? {
                    Backfilled::Enough => break,
                    Backfilled::New => end = get_end()?,
                    Backfilled::Nothing => may_be_filled = false,
                }
                backfills_left -= 1;
            }
            let count = (limit - page.events.len()).max(EVENTS_READ);
            let read =
                self.get_page(room.nid, place, if is_back { Direction::Reverse } else { Direction::Forward }, count)?;
            if read.is_empty() {
                // Only an empty page says that there is no more: a client may look for what comes after the last event it was given.
                page.end = (!page.events.is_empty()).then(|| after(place).with_up_to(up_to));
                return Ok(page);
            }
            let gaps = if may_be_filled { self.get_backward_extremities(room.nid)? } else { Vec::new() };
            for (at, event) in read {
                if let Some(end) = end.as_ref().filter(|end| end.ends_at(at, direction)) {
                    page.end = (!page.events.is_empty()).then(|| after(end.place).with_up_to(up_to));
                    return Ok(page);
                }
                place = if is_back { place_before(at) } else { at };
                page.end = Some(after(place).with_up_to(up_to));
                looked_at += 1;
                let is_later = up_to.is_some_and(|up_to| matches!(at.1, Order::Live(position) if position > up_to));
                let was_given = is_later || end.as_ref().is_some_and(|end| end.was_given(at));
                if !was_given && eyes.sees(&event)? && admits(&event)? {
                    page.events.push((at, event));
                }
                if page.events.len() >= limit || looked_at >= EVENTS_LOOKED_AT_MAX {
                    return Ok(page);
                }
                // What comes next may have a gap before it: look again there, or leave it to the next page rather than pass it over.
                if gaps.iter().any(|(_, named_at)| *named_at == at.0) {
                    if backfills_left == 0 {
                        return Ok(page);
                    }
                    break;
                }
            }
        }
        Ok(page)
    }
}
