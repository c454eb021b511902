//! What the authorization rules have allowed: that a user sends messages of a type, seen from a state, and which auth events these name.
//!
//! The rules look at nothing of a message but its sender and type ([`auth::is_judged_by_type`]), so that what they allowed once they allow as long as
//! the state is the same. A refusal is not kept. A redaction takes content from events that the rules read, and with it the permits of their room.

use std::{collections::BTreeSet, sync::Arc};

use chappe_protocol::auth;
use chappe_store::RoomNid;
use foldhash::fast::RandomState;
use quick_cache::{
    UnitWeighter,
    sync::{Cache, DefaultLifecycle},
};
use ruma::{OwnedEventId, OwnedUserId, UserId, events::TimelineEventType};

use crate::{EventDraft, state::StateRoot};

/// How many are kept, of some 300 bytes each.
const PERMITS_MAX: usize = 10_000;

/// What a permit is for.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(crate) struct Subject {
    room: RoomNid,
    state: StateRoot,
    sender: OwnedUserId,
    kind: TimelineEventType,
}

impl Subject {
    /// `None` if the rules look at more of such an event.
    pub(crate) fn of(room: RoomNid, state: StateRoot, sender: &UserId, draft: &EventDraft) -> Option<Self> {
        let EventDraft { kind, state_key, .. } = draft;
        auth::is_judged_by_type(kind, state_key.as_deref()).then(|| Self {
            room,
            state,
            sender: sender.to_owned(),
            kind: kind.clone(),
        })
    }
}

/// The ids of the auth events.
pub(crate) type Permit = Arc<BTreeSet<OwnedEventId>>;

/// Permits of all rooms. Given and taken by who holds a room's write lock.
pub(crate) struct Permits(Cache<Subject, Permit, UnitWeighter, RandomState>);

impl Default for Permits {
    fn default() -> Self {
        Self(Cache::with(
            PERMITS_MAX,
            PERMITS_MAX as u64,
            UnitWeighter,
            RandomState::default(),
            DefaultLifecycle::default(),
        ))
    }
}

impl Permits {
    pub(crate) fn get(&self, subject: &Subject) -> Option<Permit> {
        self.0.get(subject)
    }

    pub(crate) fn give(&self, given: impl IntoIterator<Item = (Subject, Permit)>) {
        for (subject, permit) in given {
            self.0.insert(subject, permit);
        }
    }

    /// Looks through all permits.
    pub(crate) fn take_back(&self, room: RoomNid) {
        self.0.retain(|subject, _| subject.room != room);
    }
}
