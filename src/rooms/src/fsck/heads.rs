//! Rooms' heads: forward extremities, the current state in its three forms, and the edge of what is known of the past.

use std::collections::BTreeMap;

use chappe_store::{
    Direction, RoomNid,
    tables::{
        events::{BACKWARD_EXTREMITIES, EVENT_NIDS, EVENT_ORDERS, EVENTS, EventStatus, NEXT_EVENTS},
        rooms::{ROOMS, RoomRecord},
        state::{CURRENT_STATE, STATE_LOG},
    },
};

use super::{Check, Repair, trees::hex};
use crate::state::StateTrees;

/// Tree nodes kept in memory while a state is read.
const CACHE_NODES: usize = 10_000;

pub(super) fn check_rooms(check: &mut Check<'_>) {
    let trees = StateTrees::new(check.store.clone(), CACHE_NODES);
    check.each(&ROOMS, &(), |check, room, record| {
        check_extremities(check, room, &record);
        check_state(check, &trees, room, &record);
    });
    check.each(&BACKWARD_EXTREMITIES, &(), |check, (room, id), _| {
        let nid = check.get(&EVENT_NIDS, &id);
        if nid.is_some_and(|nid| check.get(&EVENT_ORDERS, &nid).is_some()) {
            check.report(
                &BACKWARD_EXTREMITIES,
                format!("room {room}: {id} is said to be missing, and is in the room's order"),
                Repair::Derive,
            );
        }
    });
}

fn check_extremities(check: &mut Check<'_>, room: RoomNid, record: &RoomRecord) {
    for (nid, id, depth) in &record.forward_extremities {
        let what = format!("room {room}: forward extremity {id}");
        let Some(event) = check.get(&EVENTS, nid) else {
            check.report(&ROOMS, format!("{what} is not stored"), Repair::Fetch);
            continue;
        };
        if event.event_id != *id || event.depth != *depth || event.room != room {
            check.report(&ROOMS, format!("{what} is event {nid}, which is another"), Repair::Derive);
        }
        if event.status != EventStatus::Accepted {
            check.report(&ROOMS, format!("{what} was not accepted"), Repair::Derive);
        }
        let store = check.store;
        for row in store.scan(&NEXT_EVENTS, &(id.clone(),), Direction::Forward) {
            let Ok(((_, next), ())) = row else { continue };
            let follows = check
                .get(&EVENTS, &next)
                .is_some_and(|next| next.status == EventStatus::Accepted && next.state_after.is_some());
            if follows && check.get(&EVENT_ORDERS, &next).is_some() {
                check.report(&ROOMS, format!("{what} is followed by accepted event {next}"), Repair::Derive);
            }
        }
    }
}

fn check_state(check: &mut Check<'_>, trees: &StateTrees, room: RoomNid, record: &RoomRecord) {
    let logged = check.store.scan(&STATE_LOG, &(room,), Direction::Reverse).next();
    match logged {
        Some(Ok((_, root))) if root != record.state => check.report(
            &STATE_LOG,
            format!("room {room}: the newest state is {}, the room's is {}", hex(&root), hex(&record.state)),
            Repair::Derive,
        ),
        _ => {}
    }
    let entries = match trees.entries(room, record.state) {
        Ok(entries) => entries.into_iter().collect::<BTreeMap<_, _>>(),
        Err(error) => return check.report(&ROOMS, format!("room {room}: its state: {error}"), Repair::Restore),
    };
    let mut flat = BTreeMap::new();
    check.each(&CURRENT_STATE, &(room,), |_, (_, key), event| {
        flat.insert(key, event);
    });
    for key in entries.keys().chain(flat.keys()).collect::<std::collections::BTreeSet<_>>() {
        let (tree, row) = (entries.get(key), flat.get(key));
        // Rows of members about to become known are written ahead of the state.
        if tree != row && !(record.partial_state && tree.is_none()) {
            let said = |event: Option<_>| event.map_or_else(|| "nothing".to_owned(), |event| format!("event {event}"));
            check.report(
                &CURRENT_STATE,
                format!("room {room}, state key {key}: found {}, the state has {}", said(row), said(tree)),
                Repair::Derive,
            );
        }
    }
}
