//! The room's events in order: by arrival for sync, topologically for paging.

use std::{collections::BTreeSet, fmt, iter, str::FromStr, sync::Arc};

use chappe_store::{
    Direction, EventNid, Order, Position, RoomNid, StoreError,
    tables::events::{BACKWARD_EXTREMITIES, EVENT_ORDERS, LATE_ARRIVALS, TIMELINE, TOPOLOGY},
};
use ruma::OwnedEventId;

use crate::{Event, Room, Rooms};

/// A point between events of a room, as clients hold it.
///
/// `s<position>` is a place in the log, for all rooms, as `/sync` gives out; `t<depth>_<order>` is right after an event in a room's
/// topological order; `t<depth>_<order>_<position>` is the same for a client that pages back from a position, and has been given
/// what came after it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Token {
    Stream(Position),
    Topological { depth: u64, order: Order, up_to: Option<Position> },
}

impl Token {
    /// The position that paging back with this token began at: what came later has been given to the client.
    pub fn up_to(self) -> Option<Position> {
        match self {
            Self::Stream(position) => Some(position),
            Self::Topological { up_to, .. } => up_to,
        }
    }

    /// The same point, for a client that pages back from a position.
    pub fn with_up_to(self, up_to: Option<Position>) -> Self {
        match self {
            Self::Stream(_) => self,
            Self::Topological { depth, order, .. } => Self::Topological { depth, order, up_to },
        }
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stream(position) => write!(f, "s{position}"),
            Self::Topological { depth, order, up_to: None } => write!(f, "t{depth}_{}", order.to_signed()),
            Self::Topological { depth, order, up_to: Some(position) } => {
                write!(f, "t{depth}_{}_{position}", order.to_signed())
            }
        }
    }
}

/// A token that this server did not give out.
#[derive(Debug, Clone, Copy, thiserror::Error)]
#[error("Invalid pagination token")]
pub struct InvalidToken;

impl FromStr for Token {
    type Err = InvalidToken;

    /// What follows the first part of a sync token (the positions of other streams) is of no interest here.
    fn from_str(text: &str) -> Result<Self, InvalidToken> {
        if let Some(rest) = text.strip_prefix('t') {
            let mut parts = rest.split('_');
            let depth = parts.next().unwrap_or_default().parse().map_err(|_| InvalidToken)?;
            let order = parts.next().unwrap_or_default().parse().map_err(|_| InvalidToken)?;
            let up_to = parts.next().map(parse_position).transpose()?;
            return Ok(Self::Topological { depth, order: Order::from_signed(order), up_to });
        }
        let rest = text.strip_prefix('s').ok_or(InvalidToken)?;
        parse_position(rest.split('_').next().unwrap_or_default()).map(Self::Stream)
    }
}

fn parse_position(text: &str) -> Result<Position, InvalidToken> {
    let position = text.parse().map(Position).map_err(|_| InvalidToken)?;
    if position > Position::MAX { Err(InvalidToken) } else { Ok(position) }
}

/// Stretches of up to so many events are read forwards and turned around.
const FEW: usize = 16;

/// Live events with their positions, in the order they came.
pub type Timeline = Vec<(Position, Arc<Event>)>;

/// A place in a room's topological order.
pub type Place = (u64, Order);

impl Rooms {
    /// Live events after `from`, up to and including `to`, in the order they came, the last `limit` of them; and whether there are more
    /// than that.
    pub fn get_timeline(
        &self,
        room: RoomNid,
        from: Position,
        to: Position,
        limit: usize,
    ) -> Result<(Timeline, bool), StoreError> {
        let rows = self.with_events(self.scan_timeline(room, from, to), limit.saturating_add(1));
        let mut events = rows.take(limit.saturating_add(1)).collect::<Result<Vec<_>, _>>()?;
        let limited = events.len() > limit;
        events.truncate(limit);
        events.reverse();
        Ok((events, limited))
    }

    /// The live events after `from`, up to and including `to`, with their positions, the newest first.
    pub fn scan_timeline(
        &self,
        room: RoomNid,
        from: Position,
        to: Position,
    ) -> impl Iterator<Item = Result<(Position, EventNid), StoreError>> {
        let scan = move |direction| {
            let rows = self.store.scan_range(&TIMELINE, &(room, from.next()), &(room, to.next()), direction);
            rows.map(|row| row.map(|((_, position), nid)| (position, nid)))
        };
        // Mostly there are few, and the engine takes half the time to read them forwards.
        let mut few: Vec<_> = scan(Direction::Forward).take(FEW + 1).collect();
        let many = (few.len() > FEW).then(|| scan(Direction::Reverse));
        if many.is_some() {
            few.clear();
        }
        few.into_iter().rev().chain(many.into_iter().flatten())
    }

    /// The room's events in its topological order, the newest first. `wanted` is how many are likely to be looked at.
    pub fn scan_topology<'a>(
        &'a self,
        room: &Room,
        wanted: usize,
    ) -> impl Iterator<Item = Result<(Place, EventNid), StoreError>> + use<'a> {
        let nid = room.nid;
        let scan = move |from: u64, to: u64, direction| {
            let rows = self.store.scan_range(&TOPOLOGY, &(nid, from), &(nid, to), direction);
            rows.map(|row| row.map(|((_, depth, order), event)| ((depth, order), event)))
        };
        // The last of them forwards, as above: where history is one line, there is one event of each depth.
        let deepest = room.record.forward_extremities.iter().map(|(_, _, depth)| *depth).max().unwrap_or_default();
        let edge = deepest.saturating_sub(wanted.try_into().unwrap_or(u64::MAX));
        let few_max = wanted.saturating_add(FEW);
        let mut few: Vec<_> = scan(edge, u64::MAX, Direction::Forward).take(few_max.saturating_add(1)).collect();
        let edge = if few.len() > few_max { u64::MAX } else { edge };
        if edge == u64::MAX {
            few.clear();
        }
        few.into_iter().rev().chain(iter::once_with(move || scan(0, edge, Direction::Reverse)).flatten())
    }

    /// The position of the room's newest live event, zero if it has none.
    pub fn get_last_position(&self, room: RoomNid) -> Result<Position, StoreError> {
        let last = self.store.scan(&TIMELINE, &(room,), Direction::Reverse).next().transpose()?;
        Ok(last.map_or(Position::ZERO, |((_, position), _)| position))
    }

    /// The event's place in the topological order, if it is in the timeline.
    pub fn get_place(&self, event: &Event) -> Result<Option<Place>, StoreError> {
        Ok(self.store.get(&EVENT_ORDERS, &event.nid)?.map(|order| (event.record.depth, order)))
    }

    /// Where a token stands in a room's topological order: after everything it has seen.
    pub fn get_place_of_token(&self, room: RoomNid, token: Token) -> Result<Place, StoreError> {
        match token {
            Token::Topological { depth, order, .. } => Ok((depth, order)),
            Token::Stream(position) => match self.get_deepest_place_at(room, position)? {
                Some(place) => Ok(place),
                // Right before the first live event: what comes before that is history from elsewhere.
                None => Ok(self.get_first_place(room)?.unwrap_or((0, Order::FIRST))),
            },
        }
    }

    /// The place of the deepest of the live events that had come by a position.
    fn get_deepest_place_at(&self, room: RoomNid, position: Position) -> Result<Option<Place>, StoreError> {
        let newest = self
            .store
            .scan_range(&TIMELINE, &(room,), &(room, position.next()), Direction::Reverse)
            .next()
            .transpose()?;
        let Some(((_, position), nid)) = newest else { return Ok(None) };
        if let Some(late) = self.store.get(&LATE_ARRIVALS, &(room, position))? {
            return Ok(Some(late.deepest));
        }
        Ok(self.get_event_by_nid(nid)?.map(|event| (event.record.depth, Order::Live(position))))
    }

    /// The place of the room's deepest live event.
    pub(crate) fn get_deepest_live_place(&self, room: RoomNid) -> Result<Option<Place>, StoreError> {
        for row in self.store.scan(&TOPOLOGY, &(room,), Direction::Reverse) {
            let ((_, depth, order), _) = row?;
            if matches!(order, Order::Live(_)) {
                return Ok(Some((depth, order)));
            }
        }
        Ok(None)
    }

    /// The places of the events that came later than a position and have their place among those that had come by then.
    pub(crate) fn get_late_places(&self, room: RoomNid, since: Position) -> Result<BTreeSet<Place>, StoreError> {
        self.store
            .scan_range(&LATE_ARRIVALS, &(room, since.next()), &(room, Position::MAX), Direction::Forward)
            .map(|row| row.map(|(_, late)| late.place))
            .collect()
    }

    /// Right before the first live event of a room.
    pub(crate) fn get_first_place(&self, room: RoomNid) -> Result<Option<Place>, StoreError> {
        let first = self.store.scan(&TIMELINE, &(room,), Direction::Forward).next().transpose()?;
        let Some(((_, position), nid)) = first else { return Ok(None) };
        let depth = self.get_event_by_nid(nid)?.map(|event| event.record.depth);
        Ok(depth.map(|depth| (depth, Order::Live(Position(position.0.saturating_sub(1))))))
    }

    /// Up to `limit` events that come right before (`Direction::Reverse`) or after a place in the topological order, nearest first.
    pub fn get_page(
        &self,
        room: RoomNid,
        from: Place,
        direction: Direction,
        limit: usize,
    ) -> Result<Vec<(Place, Arc<Event>)>, StoreError> {
        let (depth, order) = next_place(from);
        let rows: Box<dyn Iterator<Item = _>> = match direction {
            Direction::Reverse => {
                Box::new(self.store.scan_range(&TOPOLOGY, &(room,), &(room, depth, order), direction))
            }
            Direction::Forward => {
                Box::new(self.store.scan_range(&TOPOLOGY, &(room, depth, order), &(room, u64::MAX), direction))
            }
        };
        let rows = rows.map(|row| row.map(|((_, depth, order), nid)| ((depth, order), nid)));
        self.with_events(rows, limit).take(limit).collect()
    }

    /// Prev events that are not known here, of events at the back of what is: with the depth of the event that names each.
    pub fn get_backward_extremities(&self, room: RoomNid) -> Result<Vec<(OwnedEventId, u64)>, StoreError> {
        self.store
            .scan(&BACKWARD_EXTREMITIES, &(room,), Direction::Forward)
            .map(|row| row.map(|((_, id), depth)| (id, depth)))
            .collect()
    }
}

/// The first place that comes after a place.
pub(crate) fn next_place((depth, order): Place) -> Place {
    match order {
        Order::Live(position) => (depth, Order::Live(position.next())),
        Order::Backfilled(0 | 1) => (depth, Order::Live(Position::ZERO)),
        Order::Backfilled(n) => (depth, Order::Backfilled(n - 1)),
    }
}

/// The last place that comes before a place.
pub fn place_before((depth, order): Place) -> Place {
    let order = match order {
        Order::Live(Position(0 | 1)) => Order::Backfilled(1),
        Order::Live(position) => Order::Live(Position(position.0 - 1)),
        Order::Backfilled(n) => Order::Backfilled(n.saturating_add(1)),
    };
    (depth, order)
}

/// Right before a place: what a page that starts with the event at it begins from.
pub fn before(place: Place) -> Token {
    after(place_before(place))
}

/// Right after a place.
pub fn after((depth, order): Place) -> Token {
    Token::Topological { depth, order, up_to: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back_as_they_went_out() {
        for token in [
            Token::Stream(Position(0)),
            Token::Stream(Position(77)),
            Token::Topological { depth: 5, order: Order::Live(Position(9)), up_to: None },
            Token::Topological { depth: 5, order: Order::Backfilled(3), up_to: None },
            Token::Topological { depth: 5, order: Order::Backfilled(3), up_to: Some(Position(77)) },
        ] {
            assert_eq!(token.to_string().parse::<Token>().ok(), Some(token));
        }
    }

    #[test]
    fn foreign_tokens_are_refused() {
        for text in ["", "s", "t1", "t1_", "t1_2_", "t1_2_x", "sx", "x1", "t_1", "s-1", "s18446744073709551615"] {
            assert!(text.parse::<Token>().is_err(), "{text}");
        }
    }
}
