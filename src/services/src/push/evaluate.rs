//! Evaluating push rules: what one event means to one user.
//!
//! What does not depend on the user (the flattened event, its thread, whether its sender may notify the room) is worked out once
//! and kept for all users, as a [`Candidate`]. The power levels are those at the event; the number of members and the user's
//! display name are those of now.
//!
//! Spec: Client-Server API, Push Rules: Conditions.

use std::{
    future::ready,
    num::NonZeroUsize,
    sync::{Arc, OnceLock},
};

use chappe_protocol::{client_format::ClientFormat, power::PowerLevels};
use chappe_rooms::{
    Event, Room, Rooms,
    relations::{Relation, THREAD, relation_of},
};
use chappe_store::{EventNid, RoomNid, StoreError};
use futures_util::FutureExt;
use lru::LruCache;
use parking_lot::Mutex;
use ruma::{
    Int, OwnedEventId, OwnedUserId, RoomId, UInt, UserId,
    events::StateEventType,
    power_levels::NotificationPowerLevels,
    push::{
        Action, AnyPushRuleRef, FlattenedJson, PushCondition, PushConditionPowerLevelsCtx, PushConditionRoomCtx,
        Ruleset,
    },
    room_version_rules::RoomPowerLevelsRules,
    serde::Raw,
};

use crate::thread_subscriptions::ThreadSubscriptions;

/// How many candidates are kept.
const CANDIDATES_MAX: NonZeroUsize = NonZeroUsize::new(1_000).unwrap();

/// How many rooms' power levels are kept.
const LEVELS_MAX: NonZeroUsize = NonZeroUsize::new(1_000).unwrap();

/// How many relations are followed from an event to its thread.
const THREAD_HOPS_MAX: usize = 3;

/// An event, prepared for the rules of any number of users.
pub struct Candidate {
    pub event: Arc<Event>,
    /// The root of the thread that the event is in; `None`: the main timeline.
    pub thread: Option<OwnedEventId>,
    flattened: FlattenedJson,
    /// Known once somebody's rules have asked for it.
    levels: OnceLock<Option<PushConditionPowerLevelsCtx>>,
}

impl Candidate {
    /// An event of a room whose state is not known here: an invite.
    pub fn of_outlier(event: Arc<Event>) -> Option<Self> {
        Some(Self { thread: None, flattened: flatten(&event)?, levels: OnceLock::from(None), event })
    }
}

fn flatten(event: &Event) -> Option<FlattenedJson> {
    let json = event.pdu.to_client_raw(&ClientFormat::default()).ok()?;
    Some(FlattenedJson::from_raw(&Raw::<serde_json::Value>::from_json(json)))
}

/// Prepares events, once for all users.
pub struct Candidates {
    rooms: Rooms,
    kept: Mutex<LruCache<EventNid, Arc<Candidate>>>,
    /// By the event that set them, and whether it has been redacted: parsed once for all that was sent under them.
    levels: Mutex<LruCache<(EventNid, bool), Arc<PowerLevels>>>,
}

impl Candidates {
    pub fn new(rooms: Rooms) -> Self {
        let (kept, levels) = (LruCache::new(CANDIDATES_MAX), LruCache::new(LEVELS_MAX));
        Self { rooms, kept: Mutex::new(kept), levels: Mutex::new(levels) }
    }

    /// The event as a candidate; `None` if it is not one that anybody is notified of.
    pub fn get(&self, event: &Arc<Event>) -> Result<Option<Arc<Candidate>>, StoreError> {
        if event.record.redacted_because.is_some() || !event.is_accepted() {
            return Ok(None);
        }
        if let Some(candidate) = self.kept.lock().get(&event.nid) {
            return Ok(Some(candidate.clone()));
        }
        let Some(flattened) = flatten(event) else { return Ok(None) };
        let candidate = Arc::new(Candidate {
            thread: get_thread(&self.rooms, event)?,
            flattened,
            levels: OnceLock::new(),
            event: event.clone(),
        });
        self.kept.lock().put(event.nid, candidate.clone());
        Ok(Some(candidate))
    }

    /// The power levels at an event, boiled down to what a rule may ask: whether its sender may notify the room.
    fn get_levels(&self, candidate: &Candidate) -> Result<Option<PushConditionPowerLevelsCtx>, StoreError> {
        if let Some(levels) = candidate.levels.get() {
            return Ok(levels.clone());
        }
        let levels = match self.rooms.get_room_by_nid(candidate.event.record.room)? {
            Some(room) => self.levels_at(&room, &candidate.event)?,
            None => None,
        };
        Ok(candidate.levels.get_or_init(|| levels).clone())
    }

    fn levels_at(&self, room: &Room, event: &Event) -> Result<Option<PushConditionPowerLevelsCtx>, StoreError> {
        Ok(self.power_levels_at(room, event)?.map(|levels| {
            let needed = NotificationPowerLevels::new();
            let sender_level = match levels.can_notify_room(&event.pdu.sender) {
                true => needed.room,
                false => Int::MIN,
            };
            let rules = RoomPowerLevelsRules::new(&room.rules.authorization, []);
            PushConditionPowerLevelsCtx::new([(event.pdu.sender.clone(), sender_level)].into(), Int::MIN, needed, rules)
        }))
    }

    fn power_levels_at(&self, room: &Room, event: &Event) -> Result<Option<Arc<PowerLevels>>, StoreError> {
        let Some(root) = event.record.state_before else { return Ok(None) };
        let get = |event_type| self.rooms.get_from_root(room.nid, root, &event_type, "");
        let set_by = get(StateEventType::RoomPowerLevels)?;
        let key = set_by.as_ref().map(|event| (event.nid, event.record.redacted_because.is_some()));
        if let Some(key) = &key
            && let Some(levels) = self.levels.lock().get(key)
        {
            return Ok(Some(levels.clone()));
        }
        let Some(create) = get(StateEventType::RoomCreate)? else { return Ok(None) };
        let levels = PowerLevels::from_events(&room.rules, &create.pdu, set_by.as_ref().map(|event| &*event.pdu));
        let Ok(levels) = levels.map(Arc::new) else { return Ok(None) };
        if let Some(key) = key {
            self.levels.lock().put(key, levels.clone());
        }
        Ok(Some(levels))
    }
}

/// The thread of an event: the nearest `m.thread` relation of the event or, over a few hops, of what it relates to.
///
/// Spec: Client-Server API, Threaded read receipts.
pub fn get_thread(rooms: &Rooms, event: &Event) -> Result<Option<OwnedEventId>, StoreError> {
    let mut relation = relation_of(&event.pdu);
    for _ in 0..THREAD_HOPS_MAX {
        let Some(Relation { rel_type, target, .. }) = relation else { return Ok(None) };
        if rel_type == THREAD {
            return Ok(Some(target));
        }
        let parent = rooms.get_event(&target)?.filter(|parent| parent.record.room == event.record.room);
        relation = parent.and_then(|parent| relation_of(&parent.pdu));
    }
    Ok(None)
}

/// What the rules say of an event that a user is notified of.
#[derive(Clone, Copy, Debug)]
pub struct Verdict<'a> {
    pub actions: &'a [Action],
    pub is_highlight: bool,
}

/// Judges the events of one room for one user.
pub struct Judge {
    ruleset: Arc<Ruleset>,
    context: PushConditionRoomCtx,
    /// The room and the subscriptions to its threads, until an event in a thread comes.
    unasked: Option<(RoomNid, ThreadSubscriptions)>,
}

impl Judge {
    pub fn new(rooms: &Rooms, room: &Room, user_id: &UserId, ruleset: Arc<Ruleset>) -> Result<Self, StoreError> {
        let member_count = UInt::new_saturating(rooms.get_joined_count(room.nid)?);
        Self::with_member_count(rooms, room, user_id, ruleset, member_count)
    }

    /// The same, where the number of joined members is known already.
    pub fn with_member_count(
        rooms: &Rooms,
        room: &Room,
        user_id: &UserId,
        ruleset: Arc<Ruleset>,
        member_count: UInt,
    ) -> Result<Self, StoreError> {
        let display_name = get_display_name(rooms, room, user_id)?.unwrap_or_default();
        let context = PushConditionRoomCtx::new(room.id.clone(), member_count, user_id.to_owned(), display_name);
        let unasked = Some((room.nid, ThreadSubscriptions::new(rooms.clone())));
        Ok(Self { ruleset, context, unasked })
    }

    /// For an invite to a room of which nothing else is known.
    pub fn of_unknown_room(room_id: &RoomId, user_id: &UserId, ruleset: Arc<Ruleset>) -> Self {
        let context = PushConditionRoomCtx::new(room_id.to_owned(), UInt::default(), user_id.to_owned(), String::new());
        Self { ruleset, context, unasked: None }
    }

    /// What the user's rules say of the event, one of `candidates`; `None` if the user is not notified of it.
    pub fn judge(&mut self, candidate: &Candidate, candidates: &Candidates) -> Result<Option<Verdict<'_>>, StoreError> {
        if candidate.event.pdu.sender == self.context.user_id {
            return Ok(None);
        }
        if candidate.thread.is_some()
            && let Some((room, subscriptions)) = self.unasked.take()
            // Who has never had a subscription uses clients that do not know of them: their threads would fall silent, all of them.
            && subscriptions.has_any(&self.context.user_id)?
        {
            let user_id = self.context.user_id.clone();
            self.context = with_subscriptions(self.context.clone(), subscriptions, user_id, room);
        }
        let Self { ruleset, context, .. } = self;
        context.power_levels = None;
        for rule in ruleset.iter() {
            if context.power_levels.is_none() && depends_on_levels(rule, candidate, context) {
                context.power_levels = candidates.get_levels(candidate)?;
            }
            if is_met(rule.applies(&candidate.flattened, context)) {
                let verdict = || Verdict { actions: rule.actions(), is_highlight: rule.triggers_highlight() };
                return Ok(rule.triggers_notification().then(verdict));
            }
        }
        Ok(None)
    }
}

/// The rules only ever wait for subscriptions to threads, which are read from the store without waiting.
fn is_met(condition: impl Future<Output = bool>) -> bool {
    condition.now_or_never().unwrap_or(false)
}

/// Whether a rule asks for power levels, and nothing else speaks against it: reading them takes longer than all rules do.
fn depends_on_levels(rule: AnyPushRuleRef<'_>, candidate: &Candidate, context: &PushConditionRoomCtx) -> bool {
    let (AnyPushRuleRef::Override(rule) | AnyPushRuleRef::PostContent(rule) | AnyPushRuleRef::Underride(rule)) = rule
    else {
        return false;
    };
    let asks = |condition: &&PushCondition| matches!(condition, PushCondition::SenderNotificationPermission(_));
    let mut others = rule.conditions.iter().filter(|condition| !asks(condition));
    rule.enabled
        && rule.conditions.iter().any(|condition| asks(&condition))
        && others.all(|condition| is_met(condition.applies(&candidate.flattened, context)))
}

/// Lets rules ask whether the user is subscribed to a thread of the room (MSC4306).
fn with_subscriptions(
    context: PushConditionRoomCtx,
    subscriptions: ThreadSubscriptions,
    user_id: OwnedUserId,
    room: RoomNid,
) -> PushConditionRoomCtx {
    context.with_has_thread_subscription_fn(move |root| {
        let subscription = subscriptions.get(&user_id, room, root);
        // In doubt a user is rather told of something.
        let is_subscribed = subscription.map_or(true, |subscription| subscription.is_some());
        Box::pin(ready(is_subscribed))
    })
}

pub(super) fn get_display_name(rooms: &Rooms, room: &Room, user_id: &UserId) -> Result<Option<String>, StoreError> {
    Ok(rooms.get_member(room.nid, user_id)?.and_then(|member| member.value.display_name))
}
