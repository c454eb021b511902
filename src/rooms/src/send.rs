//! Making events of this server's own users, and sending them.

use std::{collections::BTreeSet, sync::Arc};

use chappe_protocol::{
    auth,
    format::{FormatError, MAX_EVENT_BYTES},
    json, owned_state,
    pdu::Pdu,
};
use chappe_store::{
    EventNid, Ticket,
    tables::events::{EventStatus, SentBy, TRANSACTIONS},
};
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, DeviceId, EventId, OwnedDeviceId, OwnedEventId, OwnedTransactionId,
    OwnedUserId, RoomId, UserId,
    events::{StateEventType, TimelineEventType},
    room_version_rules::{EventsReferenceFormatVersion, RoomVersionRules},
};

use crate::{
    Event, Room, RoomError, Rooms, blocking,
    permits::{Permit, Subject},
    staging::{Ahead, Decided, Placement, Relay, Staging},
    state::StateRoot,
};

/// An event as its sender wants it, before the room gives it its place.
#[derive(Clone, Debug)]
pub struct EventDraft {
    pub kind: TimelineEventType,
    /// Present for state events.
    pub state_key: Option<String>,
    pub content: CanonicalJsonObject,
    /// The target of a redaction.
    pub redacts: Option<OwnedEventId>,
    /// The client's transaction, for events that can be sent twice by mistake.
    pub transaction: Option<Transaction>,
    /// When it was sent, in milliseconds since the Unix epoch; `None`: now. For application services alone.
    pub sent_at_ms: Option<u64>,
}

/// A client's own name for one request.
///
/// Spec: Client-Server API, Transaction identifiers.
#[derive(Clone, Debug)]
pub struct Transaction {
    pub device_id: OwnedDeviceId,
    pub id: OwnedTransactionId,
}

/// What was sent.
#[derive(Clone, Debug)]
pub struct Sent {
    pub event_id: OwnedEventId,
}

/// How many prev events one event may name.
const PREV_EVENTS_MAX: usize = 20;

impl EventDraft {
    pub fn message(kind: TimelineEventType, content: CanonicalJsonObject) -> Self {
        Self { kind, state_key: None, content, redacts: None, transaction: None, sent_at_ms: None }
    }

    pub fn state(
        kind: impl Into<TimelineEventType>,
        state_key: impl Into<String>,
        content: CanonicalJsonObject,
    ) -> Self {
        Self {
            kind: kind.into(),
            state_key: Some(state_key.into()),
            content,
            redacts: None,
            transaction: None,
            sent_at_ms: None,
        }
    }

    /// As [`EventDraft::state`], with the content of a JSON literal that is known to be an object.
    pub(crate) fn state_json(
        kind: StateEventType,
        state_key: impl Into<String>,
        content: serde_json::Value,
    ) -> Result<Self, RoomError> {
        Ok(Self::state(TimelineEventType::from(kind.to_string()), state_key, canonical_content(&content.to_string())?))
    }
}

/// Reads an event's content as strictly as events are read everywhere: no floats, no duplicate keys.
pub fn canonical_content(raw: &str) -> Result<CanonicalJsonObject, RoomError> {
    json::parse_strict(raw).map_err(|error| RoomError::BadJson(format!("Event content: {error}")))
}

impl Rooms {
    /// Sends an event of a local user into a room: returns once it is durable.
    ///
    /// A transaction that was answered before gets the same event. A state event equal to the one in force is not sent again.
    pub async fn send(&self, sender: &UserId, room_id: &RoomId, draft: EventDraft) -> Result<Sent, RoomError> {
        let (sent, ticket) = self.enqueue_event(sender, room_id, draft).await?;
        match ticket {
            Some(ticket) => ticket.durable().await.map(|_| ())?,
            None => self.store.barrier().await?,
        }
        Ok(sent)
    }

    /// As [`Rooms::send`], without waiting: the answer must not be told to anyone before the ticket is durable (no ticket: the barrier).
    pub(crate) async fn enqueue_event(
        &self,
        sender: &UserId,
        room_id: &RoomId,
        draft: EventDraft,
    ) -> Result<(Sent, Option<Ticket>), RoomError> {
        if draft.kind == TimelineEventType::RoomCreate && draft.state_key.is_some() {
            return Err(RoomError::Invalid("A room is created once, and not by sending it a create event".to_owned()));
        }
        if draft.kind == TimelineEventType::RoomMember
            && let Some(target) = draft.state_key.as_deref().and_then(|user| UserId::parse(user).ok())
        {
            self.await_member(room_id, &target).await?;
        }
        let mut ahead = Ahead::default();
        if let Some(room) = self.get_room(room_id)? {
            if let Some(policy) = self.get_policy_server_for(&room, &draft.kind, draft.state_key.as_deref())?
                && self.is_server_joined(room.nid, &self.server_name)?
            {
                return self.enqueue_recommended(&policy, sender, room_id, draft).await;
            }
            if room.record.forward_extremities.len() > PREV_EVENTS_MAX {
                ahead = self.append_own_ahead(room, sender, &draft).await?;
            } else if draft.is_message() {
                return self.enqueue_message(sender, room_id, draft).await;
            }
        }
        let _writing = self.locks.write(room_id).await;
        if let Some(event_id) = self.get_transaction(sender, room_id, draft.transaction.as_ref())? {
            return Ok((Sent { event_id }, None));
        }
        let room = self.require_room(room_id)?;
        if !self.is_server_joined(room.nid, &self.server_name)? {
            return Err(RoomError::not_in_room());
        }
        let mut staging = Staging::begin(self, room)?;
        staging.ahead = ahead;
        if let Some(event_id) = staging.equal_state_event(sender, &draft)? {
            return Ok((Sent { event_id }, None));
        }
        let event = staging.append_own(sender, draft)?;
        let sent = Sent { event_id: event.pdu.event_id.clone() };
        Ok((sent, Some(staging.enqueue()?)))
    }

    /// Where very many ends meet, their states are resolved before the room is locked for writing, as for events of others
    /// ([`Rooms::ingest`]).
    async fn append_own_ahead(&self, room: Room, sender: &UserId, draft: &EventDraft) -> Result<Ahead, RoomError> {
        let (rooms, sender, draft) = (self.clone(), sender.to_owned(), draft.clone());
        let append = move || {
            let mut staging = Staging::begin(&rooms, room)?;
            // What speaks against the event is told by whoever sends it in earnest.
            if let Ok(event) = staging.append_own(&sender, draft) {
                staging.ahead.own = event.record.state_before.map(|before| (event.pdu.clone(), before));
            }
            rooms.store_trees(staging.trees)?;
            Ok(staging.ahead)
        };
        blocking(append).await
    }

    pub(crate) fn get_transaction(
        &self,
        sender: &UserId,
        room_id: &RoomId,
        transaction: Option<&Transaction>,
    ) -> Result<Option<OwnedEventId>, RoomError> {
        let Some(transaction) = transaction else { return Ok(None) };
        let key = transaction_key(sender, room_id, transaction);
        Ok(self.store.get(&TRANSACTIONS, &key)?.and_then(|id| OwnedEventId::try_from(id).ok()))
    }

    /// Redacts an event for a local user.
    ///
    /// Spec: Client-Server API, Redactions.
    pub async fn redact(
        &self,
        sender: &UserId,
        room_id: &RoomId,
        target: &EventId,
        reason: Option<String>,
        transaction: Option<Transaction>,
    ) -> Result<Sent, RoomError> {
        let room = self.require_room(room_id)?;
        let mut content = CanonicalJsonObject::new();
        if let Some(reason) = reason {
            content.insert("reason".to_owned(), CanonicalJsonValue::String(reason));
        }
        if room.rules.redaction.content_field_redacts {
            content.insert("redacts".to_owned(), CanonicalJsonValue::String(target.to_string()));
        }
        let draft = EventDraft {
            kind: TimelineEventType::RoomRedaction,
            state_key: None,
            content,
            redacts: Some(target.to_owned()),
            transaction,
            sent_at_ms: None,
        };
        self.send(sender, room_id, draft).await
    }
}

pub(crate) fn transaction_key(
    sender: &UserId,
    room_id: &RoomId,
    transaction: &Transaction,
) -> (String, String, String, String) {
    (sender.to_string(), transaction.device_id.to_string(), room_id.to_string(), transaction.id.to_string())
}

impl Staging {
    /// The state event in force, if this draft would only repeat it.
    pub(crate) fn equal_state_event(
        &self,
        sender: &UserId,
        draft: &EventDraft,
    ) -> Result<Option<OwnedEventId>, RoomError> {
        let Some(state_key) = &draft.state_key else { return Ok(None) };
        let Some(current) = self.get_state_event(&StateEventType::from(draft.kind.to_string()), state_key)? else {
            return Ok(None);
        };
        let is_equal = current.pdu.sender == sender
            && current.pdu.get_content::<CanonicalJsonObject>().is_ok_and(|content| content == draft.content);
        Ok(is_equal.then(|| current.pdu.event_id.clone()))
    }

    /// Builds, checks and stores an event of a local user at the end of the room.
    pub(crate) fn append_own(&mut self, sender: &UserId, draft: EventDraft) -> Result<Arc<Event>, RoomError> {
        self.resolve_named_state()?;
        let pdu = self.prepare_own(sender, &draft)?;
        self.append_prepared(sender, pdu, draft.transaction.as_ref())
    }

    /// Stores an event of a local user that was built and checked for the end of the room.
    pub(crate) fn append_prepared(
        &mut self,
        sender: &UserId,
        pdu: Arc<Pdu>,
        transaction: Option<&Transaction>,
    ) -> Result<Arc<Event>, RoomError> {
        let sent_by = transaction.map(|transaction| SentBy {
            device_id: transaction.device_id.to_string(),
            transaction_id: transaction.id.to_string(),
        });
        let event = self.append_checked(pdu, Relay::Everyone, sent_by, true)?;
        if self.room.record.forward_extremities.len() > 1 {
            self.named_state = None;
            self.resolve_current_state()?;
        }
        self.remember_transaction(sender, transaction, &event.pdu.event_id);
        Ok(event)
    }

    /// Builds and checks an event of a local user for the end of the room.
    pub(crate) fn prepare_own(&mut self, sender: &UserId, draft: &EventDraft) -> Result<Arc<Pdu>, RoomError> {
        let subject = match self.named_state {
            None => Subject::of(self.room.nid, self.room.record.state, sender, draft),
            Some(_) => None,
        };
        let permit = subject.as_ref().and_then(|subject| self.get_permit(subject));
        let pdu = match &self.ahead.own {
            Some((pdu, before)) if *before == self.state_before_own() && self.names_the_ends(pdu) => (**pdu).clone(),
            _ => self.build_own(sender, draft, permit.as_deref())?,
        };
        self.check_may_redact(&pdu)?;
        self.check_names_no_creator(&pdu)?;
        self.check_relation(&pdu)?;
        self.check_relationship(&pdu)?;
        self.check_owned_state_key(&pdu)?;
        let pdu = Arc::new(pdu);
        if permit.is_none() {
            self.check_against_current_state(&pdu)?;
            let given = subject.map(|subject| (subject, Arc::new(pdu.auth_events.iter().cloned().collect())));
            self.permits.extend(given);
        }
        if pdu.membership().is_some_and(|membership| membership.as_str() == "invite")
            && let Some(invited) = pdu.state_key().and_then(|user| UserId::parse(user).ok())
        {
            self.rooms.check_invite_wanted(&pdu.sender, &invited)?;
        }
        Ok(pdu)
    }

    pub(crate) fn remember_transaction(
        &mut self,
        sender: &UserId,
        transaction: Option<&Transaction>,
        event_id: &EventId,
    ) {
        if let Some(transaction) = transaction {
            let key = transaction_key(sender, &self.room.id, transaction);
            self.put_transaction(&key, event_id);
        }
    }

    /// Stores an event that names the current extremities and passed the checks against the current state.
    pub(crate) fn append_checked(
        &mut self,
        pdu: Arc<Pdu>,
        relay: Relay,
        sent_by: Option<SentBy>,
        is_new: bool,
    ) -> Result<Arc<Event>, RoomError> {
        let state_before = self.state_before_own();
        self.put_event(Decided {
            pdu,
            status: EventStatus::Accepted,
            reason: None,
            state_before: Some(state_before),
            placement: Placement::Live,
            relay,
            sent_by,
            is_new,
        })
    }

    fn get_permit(&self, subject: &Subject) -> Option<Permit> {
        if self.has_redacted_state {
            return None;
        }
        let given = self.permits.iter().find(|(given, _)| given == subject);
        given.map(|(_, permit)| permit.clone()).or_else(|| self.rooms.permits.get(subject))
    }

    /// Builds and signs an event of a local user after the current extremities. `auth_events` are those that it needs, where they are known.
    pub(crate) fn build_own(
        &self,
        sender: &UserId,
        draft: &EventDraft,
        auth_events: Option<&BTreeSet<OwnedEventId>>,
    ) -> Result<Pdu, RoomError> {
        let mut object = match auth_events {
            Some(auth_events) => self.template_with(sender, draft, auth_events),
            None => self.template(sender, draft)?,
        };
        let sent_at_ms = draft.sent_at_ms.unwrap_or_else(|| self.rooms.clock.now_ms());
        object.insert("origin_server_ts".to_owned(), integer(sent_at_ms));
        self.rooms.sign_new_event(object, &self.room.rules)
    }

    /// An unsigned event after the current extremities, with the auth events it needs; without `origin_server_ts`.
    pub(crate) fn template(&self, sender: &UserId, draft: &EventDraft) -> Result<CanonicalJsonObject, RoomError> {
        let rules = &self.room.rules;
        let content =
            serde_json::value::to_raw_value(&draft.content).map_err(|error| RoomError::BadJson(error.to_string()))?;
        let mut auth_events = BTreeSet::new();
        for (event_type, state_key) in
            auth::auth_types_for_event(rules, &draft.kind, sender, draft.state_key.as_deref(), &content)
                .map_err(|rejection| RoomError::BadJson(rejection.0))?
        {
            let event = self.get_from_root(self.state_before_own(), &event_type, &state_key)?;
            auth_events.extend(event.map(|event| event.pdu.event_id.clone()));
        }
        Ok(self.template_with(sender, draft, &auth_events))
    }

    fn template_with(
        &self,
        sender: &UserId,
        draft: &EventDraft,
        auth_events: &BTreeSet<OwnedEventId>,
    ) -> CanonicalJsonObject {
        let rules = &self.room.rules;
        let is_create = draft.kind == TimelineEventType::RoomCreate && draft.state_key.as_deref() == Some("");
        let extremities = self.named_extremities();
        let depth = extremities.iter().map(|(_, _, depth)| depth + 1).max().unwrap_or(1).min(DEPTH_MAX);
        let mut object = CanonicalJsonObject::new();
        let mut set = |key: &str, value: CanonicalJsonValue| object.insert(key.to_owned(), value);
        set("type", CanonicalJsonValue::String(draft.kind.to_string()));
        set("sender", CanonicalJsonValue::String(sender.to_string()));
        set("content", CanonicalJsonValue::Object(draft.content.clone()));
        set("depth", integer(depth));
        set("auth_events", references(rules, auth_events));
        set("prev_events", references(rules, extremities.iter().map(|(_, id, _)| id)));
        if !is_create || rules.event_format.require_room_create_room_id {
            set("room_id", CanonicalJsonValue::String(self.room.id.to_string()));
        }
        if let Some(state_key) = &draft.state_key {
            set("state_key", CanonicalJsonValue::String(state_key.clone()));
        }
        if let Some(target) = &draft.redacts
            && !rules.redaction.content_field_redacts
        {
            set("redacts", CanonicalJsonValue::String(target.to_string()));
        }
        if rules.event_format.require_event_id {
            set("event_id", CanonicalJsonValue::String(EventId::new_v1(&self.rooms.server_name).to_string()));
        }
        object
    }

    /// The ends of the room that an event of a local user names: the deepest ones.
    fn named_extremities(&self) -> Vec<(EventNid, OwnedEventId, u64)> {
        let mut extremities = self.room.record.forward_extremities.clone();
        extremities.sort_by_key(|(_, _, depth)| std::cmp::Reverse(*depth));
        extremities.truncate(PREV_EVENTS_MAX);
        extremities
    }

    fn names_the_ends(&self, pdu: &Pdu) -> bool {
        self.named_extremities().iter().map(|(_, id, _)| id).eq(&pdu.prev_events)
    }

    /// Works out the state before an event of a local user where it cannot name all ends of the room: what it does not name does
    /// not count.
    pub(crate) fn resolve_named_state(&mut self) -> Result<(), RoomError> {
        if self.named_state.is_none() && self.room.record.forward_extremities.len() > PREV_EVENTS_MAX {
            let roots = self.roots_after(&self.named_extremities())?;
            self.named_state = Some(self.resolve(roots)?);
        }
        Ok(())
    }

    fn state_before_own(&self) -> StateRoot {
        self.named_state.unwrap_or(self.room.record.state)
    }

    /// The authorization rules against the event's own auth events, against the state before it and against the current state.
    pub(crate) fn check_against_current_state(&self, pdu: &Arc<Pdu>) -> Result<(), RoomError> {
        let rules = &self.room.rules;
        auth::check_state_independent(rules, pdu, |id| {
            self.get_event(id).ok().flatten().map(|event| event.pdu.clone())
        })?;
        for root in self.named_state.into_iter().chain([self.room.record.state]) {
            auth::check_state_dependent(rules, pdu, |event_type, state_key| {
                self.get_from_root(root, event_type, state_key).ok().flatten().map(|event| event.pdu.clone())
            })?;
        }
        Ok(())
    }

    /// Where creators stand above all levels, giving one of them a level is a mistake in the request.
    fn check_names_no_creator(&self, pdu: &Pdu) -> Result<(), RoomError> {
        if !pdu.is_state_event(&TimelineEventType::RoomPowerLevels, "")
            || !self.room.rules.authorization.explicitly_privilege_room_creators
        {
            return Ok(());
        }
        let content: CanonicalJsonObject = pdu.get_content().map_err(|error| RoomError::BadJson(error.to_string()))?;
        let Some(CanonicalJsonValue::Object(users)) = content.get("users") else { return Ok(()) };
        let Some(levels) = self.get_power_levels(self.room.record.state)? else { return Ok(()) };
        match levels.privileged_creators().iter().find(|creator| users.contains_key(creator.as_str())) {
            Some(creator) => {
                Err(RoomError::Invalid(format!("{creator} created the room and cannot be given a power level")))
            }
            None => Ok(()),
        }
    }

    /// Where state has owners, a state key that begins with `@` must name one (MSC3757).
    fn check_owned_state_key(&self, pdu: &Pdu) -> Result<(), RoomError> {
        let Some(state_key) = pdu.state_key.as_deref().filter(|key| key.starts_with('@')) else { return Ok(()) };
        if self.room.version.as_str() != owned_state::ROOM_VERSION || owned_state::owner(state_key).is_some() {
            return Ok(());
        }
        Err(RoomError::BadJson("The state key is neither a user id nor one followed by an underscore".to_owned()))
    }

    /// From room version 3 a redaction is accepted whoever sent it, and has no effect without the power for it: this server does not
    /// send such.
    fn check_may_redact(&self, pdu: &Pdu) -> Result<(), RoomError> {
        if pdu.kind != TimelineEventType::RoomRedaction || pdu.is_state() {
            return Ok(());
        }
        let Some(target) = pdu.redaction_target(&self.room.rules) else {
            return Err(RoomError::BadJson("A redaction must name the event it redacts".to_owned()));
        };
        let levels = self.get_power_levels(self.room.record.state)?;
        let may_redact_others = levels.as_ref().is_some_and(|levels| levels.can_redact_others(&pdu.sender));
        let Some(target) = self.get_event(target)?.filter(|target| target.record.room == self.room.nid) else {
            return if may_redact_others {
                Ok(())
            } else {
                Err(RoomError::NotFound("Event to redact not found".to_owned()))
            };
        };
        if target.pdu.sender == pdu.sender || may_redact_others {
            return Ok(());
        }
        Err(RoomError::Forbidden("You don't have permission to redact this event".to_owned()))
    }
}

/// References to other events. Versions 1 and 2 name them as pairs of id and hashes; the hashes are looked at by nobody.
pub(crate) fn references<'a>(
    rules: &RoomVersionRules,
    ids: impl IntoIterator<Item = &'a OwnedEventId>,
) -> CanonicalJsonValue {
    let reference = |id: &OwnedEventId| {
        let id = CanonicalJsonValue::String(id.to_string());
        match rules.events_reference_format {
            EventsReferenceFormatVersion::V1 => {
                CanonicalJsonValue::Array(vec![id, CanonicalJsonValue::Object(CanonicalJsonObject::new())])
            }
            _ => id,
        }
    };
    CanonicalJsonValue::Array(ids.into_iter().map(reference).collect())
}

/// What hash and signature add to an event, at least.
const SIGNATURE_BYTES: usize = 200;

/// The greatest depth an event may claim.
const DEPTH_MAX: u64 = (1 << 53) - 1;

pub(crate) fn integer(number: u64) -> CanonicalJsonValue {
    CanonicalJsonValue::Integer(ruma::Int::new_saturating(i64::try_from(number).unwrap_or(i64::MAX)))
}

impl Rooms {
    /// Hashes, signs and reads an event that this server has built.
    pub(crate) fn sign_new_event(
        &self,
        mut object: CanonicalJsonObject,
        rules: &RoomVersionRules,
    ) -> Result<Pdu, RoomError> {
        if let Err(error) = self.signer.hash_and_sign_event(&mut object, rules) {
            // Signing tells less of what is too large.
            let bytes = json::canonical(&object).map_or(0, |text| text.len());
            return Err(match bytes > MAX_EVENT_BYTES - SIGNATURE_BYTES {
                true => RoomError::TooLarge(format!("The event would have {bytes} bytes before it is signed")),
                false => RoomError::BadJson(error.to_string()),
            });
        }
        Pdu::from_object(object, rules).map_err(|error| match error {
            FormatError::TooLarge { .. } | FormatError::TooLong(_) => RoomError::TooLarge(error.to_string()),
            error => RoomError::BadJson(error.to_string()),
        })
    }

    /// The user as a member of the room who may be shown state: joined.
    pub fn require_joined(&self, room: &Room, user: &OwnedUserId) -> Result<(), RoomError> {
        if self.is_joined(room.nid, user)? { Ok(()) } else { Err(RoomError::not_in_room()) }
    }
}

/// The device as the scope of a transaction.
pub fn transaction(device_id: &DeviceId, id: &ruma::TransactionId) -> Transaction {
    Transaction { device_id: device_id.to_owned(), id: id.to_owned() }
}
