//! State trees: each node is what its name says, and what it names is there.

use chappe_store::tables::{
    events::EVENTS,
    interned::STATE_KEYS,
    state::{STATE_LOG, STATE_NODES},
};

use super::{Check, Repair};
use crate::state::{EMPTY, NodeParts};

pub(super) fn check_nodes(check: &mut Check<'_>) {
    check.each(&STATE_NODES, &(), |check, (room, name), bytes| {
        let node = format!("room {room}, node {}", hex(&name));
        let parts = match NodeParts::read(&bytes) {
            Ok(parts) => parts,
            Err(error) => return check.report(&STATE_NODES, format!("{node}: {error}"), Repair::Restore),
        };
        if parts.name != name {
            check.report(&STATE_NODES, format!("{node} has the bytes of {}", hex(&parts.name)), Repair::Restore);
        }
        for child in parts.children {
            if !check.store.contains(&STATE_NODES, &(room, child)).unwrap_or(false) {
                check.report(
                    &STATE_NODES,
                    format!("{node} has child {}, which is missing", hex(&child)),
                    Repair::Restore,
                );
            }
        }
        for (key, event) in parts.entries {
            if !check.store.contains(&STATE_KEYS, &key).unwrap_or(false) {
                check.report(&STATE_NODES, format!("{node} names state key {key}, which is unknown"), Repair::Restore);
            }
            if !check.store.contains(&EVENTS, &event).unwrap_or(false) {
                check.report(&STATE_NODES, format!("{node} names event {event}, which is not stored"), Repair::Fetch);
            }
        }
    });
    check.each(&EVENTS, &(), |check, _, record| {
        for root in [record.state_before, record.state_after].into_iter().flatten() {
            if root != EMPTY && !check.store.contains(&STATE_NODES, &(record.room, root)).unwrap_or(false) {
                let what = format!("the state at {} has root {}, which is missing", record.event_id, hex(&root));
                check.report(&STATE_NODES, what, Repair::Restore);
            }
        }
    });
    check.each(&STATE_LOG, &(), |check, (room, position), root| {
        if root != EMPTY && !check.store.contains(&STATE_NODES, &(room, root)).unwrap_or(false) {
            let what = format!("room {room}, position {position}: root {} is missing", hex(&root));
            check.report(&STATE_LOG, what, Repair::Restore);
        }
    });
}

pub(super) fn hex(name: &[u8]) -> String {
    name.iter().map(|byte| format!("{byte:02x}")).collect()
}
