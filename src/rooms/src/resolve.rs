//! State resolution on stored states: from several roots to one.
//!
//! Finds what conflicts by comparing trees, loads that and what authorizes it, and leaves the algorithm to
//! [`chappe_protocol::state_res`]. Keys on which all states agree are not looked at unless the rules need them, and the auth
//! chains' difference comes from the index, so a fork costs what differs.
//!
//! Synchronous, reads the store and burns one core: async callers run it where blocking is allowed. It writes nothing: the
//! answer is applied by [`Resolved::apply`].

use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap, HashSet},
    sync::Arc,
};

use chappe_protocol::{
    auth,
    pdu::Pdu,
    state_res::{self, StateMap},
};
use chappe_store::{CommitError, EventNid, StateKeyNid, Store, StoreError};
use ruma::{EventId, OwnedEventId, events::StateEventType, room_version_rules::RoomVersionRules};

use crate::{
    RoomError,
    auth_chain::ChainBatch,
    state::{EMPTY, StateRoot, TreeBatch},
};

/// Where resolution gets events from: the store, or a batch that takes form.
pub trait ResolveEvents {
    fn get_pdu(&self, event: EventNid) -> Result<Option<Arc<Pdu>>, StoreError>;
    fn get_pdu_by_id(&self, event_id: &EventId) -> Result<Option<(EventNid, Arc<Pdu>)>, StoreError>;
}

/// Why states could not be resolved.
#[derive(Debug, thiserror::Error)]
pub enum ResolveError {
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A state key that no state had before could not be interned.
    #[error(transparent)]
    Commit(#[from] CommitError),
    #[error(transparent)]
    Algorithm(#[from] state_res::ResolveError),
    /// A state or an auth chain names an event that is not stored. Leaving it out would give a state of our own.
    #[error("event {0} is needed to resolve state, and is not stored")]
    MissingEvent(EventNid),
}

impl From<ResolveError> for RoomError {
    fn from(error: ResolveError) -> Self {
        match error {
            ResolveError::Store(error) => error.into(),
            ResolveError::Commit(error) => error.into(),
            other => Self::broken(other.to_string()),
        }
    }
}

/// The resolved state, as changes to one of the states it came from.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Resolved {
    pub base: StateRoot,
    pub changes: Vec<(StateKeyNid, Option<EventNid>)>,
}

impl Resolved {
    /// The resolved state's root.
    pub fn apply(self, trees: &mut TreeBatch) -> Result<StateRoot, StoreError> {
        trees.update(self.base, self.changes)
    }
}

/// What resolution reads.
pub struct ResolveContext<'a, E> {
    pub store: &'a Store,
    pub rules: &'a RoomVersionRules,
    pub trees: &'a TreeBatch,
    pub chains: &'a ChainBatch,
    pub events: &'a E,
}

/// Resolves several states of one room. The answer does not depend on the order of `roots`, nor on repetitions.
///
/// Spec: room version 2, State resolution; room version 12, State resolution.
pub fn resolve_state<E: ResolveEvents>(
    context: &ResolveContext<'_, E>,
    roots: &[StateRoot],
) -> Result<Resolved, ResolveError> {
    let mut roots = roots.to_vec();
    roots.sort_unstable();
    roots.dedup();
    let Some((base, others)) = roots.split_first() else { return Ok(Resolved { base: EMPTY, changes: Vec::new() }) };
    if others.is_empty() {
        return Ok(Resolved { base: *base, changes: Vec::new() });
    }
    let conflicts = Conflicts::find(context.trees, *base, others)?;
    let loader = Loader { events: context.events, by_id: RefCell::default(), failure: RefCell::default() };
    let resolved = conflicts.resolve(context, &loader)?;
    conflicts.changes(context, &loader, resolved)
}

/// The keys on which the states disagree.
struct Conflicts {
    base: StateRoot,
    /// For each key what each state has there, the base first.
    values: BTreeMap<StateKeyNid, Vec<Option<EventNid>>>,
    states: usize,
}

impl Conflicts {
    fn find(trees: &TreeBatch, base: StateRoot, others: &[StateRoot]) -> Result<Self, StoreError> {
        let states = 1 + others.len();
        let mut values: BTreeMap<StateKeyNid, Vec<Option<EventNid>>> = BTreeMap::new();
        for (at, other) in others.iter().enumerate() {
            for change in trees.diff(base, *other)? {
                // A state that does not differ from the base at this key has what the base has.
                let at_key = values.entry(change.key).or_insert_with(|| vec![change.old; states]);
                if let Some(value) = at_key.get_mut(at + 1) {
                    *value = change.new;
                }
            }
        }
        Ok(Self { base, values, states })
    }

    /// The conflicting events of each state.
    fn sets(&self) -> Vec<Vec<EventNid>> {
        (0..self.states)
            .map(|at| self.values.values().filter_map(|values| values.get(at).copied().flatten()).collect())
            .collect()
    }

    /// The events at the keys on which all states agree.
    fn unconflicted(&self, trees: &TreeBatch) -> Result<Vec<EventNid>, StoreError> {
        let entries = trees.entries(self.base)?.into_iter();
        Ok(entries.filter(|(key, _)| !self.values.contains_key(key)).map(|(_, event)| event).collect())
    }

    fn resolve<E: ResolveEvents>(
        &self,
        context: &ResolveContext<'_, E>,
        loader: &Loader<'_, E>,
    ) -> Result<StateMap<OwnedEventId>, ResolveError> {
        let ResolveContext { rules, trees, chains, .. } = *context;
        let sets = self.sets();
        let conflicted: HashSet<EventNid> = sets.iter().flatten().copied().collect();
        let difference = chains.difference_beside(&sets, || self.unconflicted(trees))?;
        let needs_subgraph = rules.state_res.v2_rules().is_some_and(|rules| rules.consider_conflicted_state_subgraph);
        let subgraph = if needs_subgraph {
            chains.subgraph(&conflicted.iter().copied().collect::<Vec<_>>())?
        } else {
            HashSet::new()
        };
        let difference_ids = loader.load(&difference)?;
        let subgraph_ids = loader.load(&subgraph)?;
        let state_maps = self.state_maps(context, loader, &conflicted)?;

        let resolved = state_res::resolve(
            rules,
            &state_maps,
            vec![difference_ids, HashSet::new()],
            |event_id| loader.fetch(event_id),
            |_| Some(subgraph_ids.clone()),
        );
        if let Some(failure) = loader.failure.take() {
            return Err(failure.into());
        }
        Ok(resolved?)
    }

    /// For each state the entries that conflict, and the others that the rules need to judge what is loaded so far.
    fn state_maps<E: ResolveEvents>(
        &self,
        context: &ResolveContext<'_, E>,
        loader: &Loader<'_, E>,
        conflicted: &HashSet<EventNid>,
    ) -> Result<Vec<StateMap<OwnedEventId>>, ResolveError> {
        loader.load(conflicted)?;
        let mut agreed = StateMap::new();
        for key in needed_keys(context.rules, &loader.loaded()) {
            let Some(nid) = context.store.interner().get_state_key(context.store, &key.0, &key.1)? else { continue };
            if self.values.contains_key(&nid) {
                continue;
            }
            if let Some(event) = context.trees.get(self.base, nid)? {
                agreed.insert(key, loader.load_one(event)?.event_id.clone());
            }
        }
        let mut maps = vec![agreed; self.states];
        for values in self.values.values() {
            for (map, value) in maps.iter_mut().zip(values) {
                let Some(event) = value else { continue };
                let pdu = loader.load_one(*event)?;
                let Some((event_type, state_key)) = pdu.state_tuple() else {
                    return Err(ResolveError::MissingEvent(*event));
                };
                map.insert((event_type, state_key.to_owned()), pdu.event_id.clone());
            }
        }
        Ok(maps)
    }

    /// What the resolved state changes in the base.
    fn changes<E: ResolveEvents>(
        &self,
        context: &ResolveContext<'_, E>,
        loader: &Loader<'_, E>,
        resolved: StateMap<OwnedEventId>,
    ) -> Result<Resolved, ResolveError> {
        let ResolveContext { store, trees, .. } = *context;
        let mut after: BTreeMap<StateKeyNid, Option<EventNid>> = self.values.keys().map(|key| (*key, None)).collect();
        for ((event_type, state_key), event_id) in resolved {
            let key = store.interner().intern_state_key(store, &event_type, &state_key)?;
            // The algorithm was not shown every entry that all states agree on; such an entry stays, whatever it says.
            if !self.values.contains_key(&key) && trees.get(self.base, key)?.is_some() {
                continue;
            }
            let event = loader.get(&event_id)?.map(|(nid, _)| nid);
            after.insert(key, event);
        }
        let mut changes = Vec::new();
        for (key, event) in after {
            let before = self.values.get(&key).and_then(|values| values.first().copied().flatten());
            if event != before {
                changes.push((key, event));
            }
        }
        Ok(Resolved { base: self.base, changes })
    }
}

/// The state keys that the rules look at to judge these events.
fn needed_keys(rules: &RoomVersionRules, events: &[Arc<Pdu>]) -> HashSet<(StateEventType, String)> {
    let always = [StateEventType::RoomCreate, StateEventType::RoomPowerLevels, StateEventType::RoomJoinRules];
    let mut keys: HashSet<_> = always.into_iter().map(|event_type| (event_type, String::new())).collect();
    for pdu in events {
        // An event too broken to tell what it needs is refused by the algorithm as well.
        if let Ok(types) = auth::auth_types_for_event(rules, &pdu.kind, &pdu.sender, pdu.state_key(), pdu.content()) {
            keys.extend(types);
        }
    }
    keys
}

/// What the source answered about an id.
type Found = Option<(EventNid, Arc<Pdu>)>;

/// Events, loaded once.
struct Loader<'a, E> {
    events: &'a E,
    by_id: RefCell<HashMap<OwnedEventId, Found>>,
    /// The first read that failed while the algorithm, which cannot fail so, asked for an event.
    failure: RefCell<Option<StoreError>>,
}

impl<E: ResolveEvents> Loader<'_, E> {
    fn load_one(&self, event: EventNid) -> Result<Arc<Pdu>, ResolveError> {
        let pdu = self.events.get_pdu(event)?.ok_or(ResolveError::MissingEvent(event))?;
        self.by_id.borrow_mut().entry(pdu.event_id.clone()).or_insert_with(|| Some((event, pdu.clone())));
        Ok(pdu)
    }

    /// Loads events and answers their ids.
    fn load(&self, events: &HashSet<EventNid>) -> Result<HashSet<OwnedEventId>, ResolveError> {
        events.iter().map(|event| Ok(self.load_one(*event)?.event_id.clone())).collect()
    }

    fn loaded(&self) -> Vec<Arc<Pdu>> {
        self.by_id.borrow().values().flatten().map(|(_, pdu)| pdu.clone()).collect()
    }

    fn get(&self, event_id: &EventId) -> Result<Found, StoreError> {
        if let Some(known) = self.by_id.borrow().get(event_id) {
            return Ok(known.clone());
        }
        let found = self.events.get_pdu_by_id(event_id)?;
        self.by_id.borrow_mut().insert(event_id.to_owned(), found.clone());
        Ok(found)
    }

    fn fetch(&self, event_id: &EventId) -> Option<Arc<Pdu>> {
        match self.get(event_id) {
            Ok(found) => found.map(|(_, pdu)| pdu),
            Err(error) => {
                self.failure.borrow_mut().get_or_insert(error);
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use chappe_protocol::{json::parse_strict, room_version};
    use chappe_store::RoomNid;
    use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
    use ruma::{RoomVersionId, UserId, events::TimelineEventType, room_version_rules::EventsReferenceFormatVersion};
    use serde_json::{Value, json};

    use super::*;
    use crate::{auth_chain::AuthChains, state::StateTrees};

    const ALICE: &str = "@alice:a.example";
    const BOB: &str = "@bob:b.example";
    const CAROL: &str = "@carol:c.example";
    const USERS: [&str; 3] = [ALICE, BOB, CAROL];

    /// A room whose events and states live in batches that are never committed.
    struct TestRoom {
        store: Store,
        rules: RoomVersionRules,
        trees: TreeBatch,
        chains: ChainBatch,
        room_id: String,
        by_nid: HashMap<EventNid, Arc<Pdu>>,
        by_id: HashMap<OwnedEventId, EventNid>,
        now_ms: u64,
    }

    impl ResolveEvents for TestRoom {
        fn get_pdu(&self, event: EventNid) -> Result<Option<Arc<Pdu>>, StoreError> {
            Ok(self.by_nid.get(&event).cloned())
        }

        fn get_pdu_by_id(&self, event_id: &EventId) -> Result<Option<(EventNid, Arc<Pdu>)>, StoreError> {
            Ok(self.by_id.get(event_id).map(|nid| (*nid, self.by_nid[nid].clone())))
        }
    }

    impl TestRoom {
        /// A public room with Alice as its creator, Bob a moderator and Carol, and the state with all that.
        fn populated(version: &RoomVersionId) -> (Self, StateRoot) {
            let store = Store::in_memory();
            let mut room = Self {
                trees: StateTrees::new(store.clone(), 1000).begin(RoomNid(1)),
                chains: AuthChains::new(store.clone()).begin(),
                store,
                rules: room_version::rules(version).unwrap(),
                room_id: "!room:a.example".to_owned(),
                by_nid: HashMap::new(),
                by_id: HashMap::new(),
                now_ms: 1_000,
            };
            let root = room.add(EMPTY, "m.room.create", ALICE, "", json!({"creator": ALICE, "room_version": version}));
            room.room_id = room.by_nid[&EventNid(1)].room_id.to_string();
            let root = room.join(root, ALICE);
            let creators_are_privileged = room.rules.authorization.explicitly_privilege_room_creators;
            let users = if creators_are_privileged { json!({BOB: 50}) } else { json!({ALICE: 100, BOB: 50}) };
            let root = room.add(root, "m.room.power_levels", ALICE, "", json!({"users": users}));
            let root = room.add(root, "m.room.join_rules", ALICE, "", json!({"join_rule": "public"}));
            let root = room.join(root, BOB);
            let root = room.join(root, CAROL);
            (room, root)
        }

        fn join(&mut self, root: StateRoot, user: &str) -> StateRoot {
            self.add(root, "m.room.member", user, user, json!({"membership": "join"}))
        }

        fn add(&mut self, root: StateRoot, kind: &str, sender: &str, state_key: &str, content: Value) -> StateRoot {
            self.try_add(root, kind, sender, state_key, content).unwrap()
        }

        /// Makes a state event on top of a state; answers the state after it, unless the rules refuse it.
        fn try_add(
            &mut self,
            root: StateRoot,
            kind: &str,
            sender: &str,
            state_key: &str,
            content: Value,
        ) -> Option<StateRoot> {
            let pdu = self.make(root, kind, sender, state_key, content);
            let state =
                |kind: &StateEventType, key: &str| self.get(root, kind, key).map(|nid| self.by_nid[&nid].clone());
            auth::check_state_dependent(&self.rules, &pdu, state).ok()?;
            let nid = EventNid(self.by_nid.len() as u64 + 1);
            let auth_events: Vec<EventNid> = pdu.auth_events.iter().map(|id| self.by_id[id]).collect();
            self.chains.add(nid, &auth_events).unwrap();
            self.by_id.insert(pdu.event_id.clone(), nid);
            self.by_nid.insert(nid, Arc::new(pdu));
            let key = self.store.interner().intern_state_key(&self.store, &kind.into(), state_key).unwrap();
            Some(self.trees.update(root, [(key, Some(nid))]).unwrap())
        }

        fn make(&mut self, root: StateRoot, kind: &str, sender: &str, state_key: &str, content: Value) -> Pdu {
            self.now_ms += 1;
            let raw = serde_json::value::to_raw_value(&content).unwrap();
            let user = <&UserId>::try_from(sender).unwrap();
            let types =
                auth::auth_types_for_event(&self.rules, &TimelineEventType::from(kind), user, Some(state_key), &raw)
                    .unwrap();
            let reference = |nid: EventNid| match self.rules.events_reference_format {
                EventsReferenceFormatVersion::V1 => json!([self.by_nid[&nid].event_id, {"sha256": "x"}]),
                _ => json!(self.by_nid[&nid].event_id),
            };
            let auth_events: Vec<Value> =
                types.iter().filter_map(|(kind, key)| self.get(root, kind, key)).map(reference).collect();
            let newest = self.by_nid.keys().max().copied();
            let prev_events: Vec<Value> = newest.map(reference).into_iter().collect();
            let mut event = json!({
                "type": kind,
                "sender": sender,
                "state_key": state_key,
                "content": content,
                "auth_events": auth_events,
                "prev_events": prev_events,
                "depth": self.now_ms - 1_000,
                "origin_server_ts": self.now_ms,
                "hashes": {"sha256": "not checked here"},
                "signatures": {},
            });
            if kind != "m.room.create" || self.rules.event_format.require_room_create_room_id {
                event["room_id"] = self.room_id.as_str().into();
            }
            if self.rules.event_format.require_event_id {
                event["event_id"] = format!("$e{}:a.example", self.now_ms).into();
            }
            Pdu::from_object(parse_strict(&event.to_string()).unwrap(), &self.rules).unwrap()
        }

        fn get(&self, root: StateRoot, kind: &StateEventType, state_key: &str) -> Option<EventNid> {
            let key = self.store.interner().get_state_key(&self.store, kind, state_key).unwrap()?;
            self.trees.get(root, key).unwrap()
        }

        fn content(&self, root: StateRoot, kind: &str, state_key: &str) -> Option<Value> {
            self.get(root, &kind.into(), state_key).map(|nid| self.by_nid[&nid].get_content().unwrap())
        }

        fn resolve(&mut self, roots: &[StateRoot]) -> StateRoot {
            let context = ResolveContext {
                store: &self.store,
                rules: &self.rules,
                trees: &self.trees,
                chains: &self.chains,
                events: &*self,
            };
            let resolved = resolve_state(&context, roots).unwrap();
            resolved.apply(&mut self.trees).unwrap()
        }

        fn state_map(&self, root: StateRoot) -> StateMap<OwnedEventId> {
            let events = self.trees.entries(root).unwrap().into_iter().map(|(_, nid)| &self.by_nid[&nid]);
            events
                .map(|pdu| {
                    let (kind, key) = pdu.state_tuple().unwrap();
                    ((kind, key.to_owned()), pdu.event_id.clone())
                })
                .collect()
        }

        /// The same by the book: whole states, whole auth chains, all walked.
        fn resolve_plainly(&self, roots: &[StateRoot]) -> StateMap<OwnedEventId> {
            let fetch = |event_id: &EventId| self.get_pdu_by_id(event_id).unwrap().map(|(_, pdu)| pdu);
            let maps: Vec<_> = roots.iter().map(|root| self.state_map(*root)).collect();
            let chains = maps.iter().map(|map| state_res::auth_chain(map.values(), fetch)).collect();
            state_res::resolve_walking(&self.rules, &maps, chains, fetch).unwrap()
        }
    }

    #[test]
    fn ban_on_one_fork_beats_what_the_banned_did_on_the_other() {
        for version in [RoomVersionId::V6, RoomVersionId::V10, RoomVersionId::V11, RoomVersionId::V12] {
            let (mut room, root) = TestRoom::populated(&version);
            let root = room.add(root, "m.room.topic", ALICE, "", json!({"topic": "before"}));
            let banned = room.add(root, "m.room.member", ALICE, BOB, json!({"membership": "ban"}));
            let topic = room.add(root, "m.room.topic", BOB, "", json!({"topic": "bob was here"}));
            let topic = room.add(topic, "m.room.name", ALICE, "", json!({"name": "stays"}));

            let resolved = room.resolve(&[banned, topic]);
            assert_eq!(room.resolve(&[topic, banned, topic]), resolved, "{version}");
            assert_eq!(room.content(resolved, "m.room.member", BOB).unwrap()["membership"], "ban", "{version}");
            assert_eq!(room.content(resolved, "m.room.topic", "").unwrap()["topic"], "before", "{version}");
            assert_eq!(room.content(resolved, "m.room.name", "").unwrap()["name"], "stays", "{version}");
            assert_eq!(room.content(resolved, "m.room.member", CAROL).unwrap()["membership"], "join", "{version}");
        }
    }

    #[test]
    fn forks_that_do_not_collide_are_both_kept() {
        for version in [RoomVersionId::V10, RoomVersionId::V12] {
            let (mut room, root) = TestRoom::populated(&version);
            let named = room.add(root, "m.room.name", ALICE, "", json!({"name": "a name"}));
            let left = room.add(root, "m.room.member", CAROL, CAROL, json!({"membership": "leave"}));
            let resolved = room.resolve(&[named, left]);
            assert_eq!(room.content(resolved, "m.room.name", "").unwrap()["name"], "a name");
            assert_eq!(room.content(resolved, "m.room.member", CAROL).unwrap()["membership"], "leave");
            assert_eq!(room.trees.len(resolved).unwrap(), room.trees.len(root).unwrap() + 1);
        }
    }

    #[test]
    fn version_12_brings_back_what_lies_between_two_conflicting_events() {
        let (mut room, root) = TestRoom::populated(&RoomVersionId::V12);
        let levels = |bob: u32, name: u32| json!({"users": {BOB: bob}, "events": {"m.room.power_levels": 100, "m.room.name": name}});
        let first = room.add(root, "m.room.power_levels", ALICE, "", levels(50, 50));
        let second = room.add(first, "m.room.power_levels", ALICE, "", levels(100, 50));
        // Both states hold an event that rests on the second power levels, so those are not in the auth difference.
        let shared = room.add(second, "m.room.member", CAROL, CAROL, json!({"membership": "join", "displayname": "C"}));
        let third = room.add(shared, "m.room.power_levels", BOB, "", levels(100, 0));
        let key = room.store.interner().get_state_key(&room.store, &"m.room.power_levels".into(), "").unwrap().unwrap();
        let reset = room.trees.update(third, [(key, room.trees.get(first, key).unwrap())]).unwrap();

        let resolved = room.resolve(&[third, reset]);
        assert_eq!(room.state_map(resolved), room.resolve_plainly(&[third, reset]));
        assert_eq!(resolved, third, "Bob's right to change the levels comes from the second power levels");
    }

    #[test]
    fn one_state_resolves_to_itself_and_none_to_the_empty_state() {
        let (mut room, root) = TestRoom::populated(&RoomVersionId::V11);
        assert_eq!(room.resolve(&[root, root]), root);
        assert_eq!(room.resolve(&[]), EMPTY);
    }

    #[test]
    fn state_that_names_an_unknown_event_is_an_error() {
        let (mut room, root) = TestRoom::populated(&RoomVersionId::V11);
        let other = room.add(root, "m.room.name", ALICE, "", json!({"name": "a name"}));
        let nid = room.get(other, &"m.room.name".into(), "").unwrap();
        room.by_nid.remove(&nid);
        let context = ResolveContext {
            store: &room.store,
            rules: &room.rules,
            trees: &room.trees,
            chains: &room.chains,
            events: &room,
        };
        assert!(
            matches!(resolve_state(&context, &[root, other]), Err(ResolveError::MissingEvent(missing)) if missing == nid)
        );
    }

    fn random_act(rng: &mut StdRng) -> (&'static str, &'static str, &'static str, Value) {
        let (actor, other) = (*USERS.choose(rng).unwrap(), *USERS.choose(rng).unwrap());
        let number = rng.random_range(0..1_000_000);
        match rng.random_range(0..9) {
            0 => ("m.room.topic", actor, "", json!({"topic": number})),
            1 => ("m.room.name", actor, "", json!({"name": number})),
            2 => ("m.room.member", actor, actor, json!({"membership": "join", "displayname": number.to_string()})),
            3 => ("m.room.member", actor, actor, json!({"membership": "leave"})),
            4 => ("m.room.member", actor, other, json!({"membership": "ban"})),
            5 => ("m.room.member", actor, other, json!({"membership": "leave"})),
            6 => (
                "m.room.join_rules",
                actor,
                "",
                json!({"join_rule": if rng.random_bool(0.7) { "public" } else { "invite" }}),
            ),
            7 => ("m.room.member", actor, other, json!({"membership": "invite"})),
            _ => {
                let users = json!({ALICE: 100, BOB: rng.random_range(0..=2) * 50, CAROL: rng.random_range(0..=2) * 25});
                (
                    "m.room.power_levels",
                    actor,
                    "",
                    json!({"users": users, "state_default": rng.random_range(0..=2) * 25}),
                )
            }
        }
    }

    #[test]
    fn resolution_of_random_forks_agrees_with_whole_states_and_chains() {
        let versions =
            [RoomVersionId::V1, RoomVersionId::V2, RoomVersionId::V6, RoomVersionId::V10, RoomVersionId::V12];
        let mut changed = 0;
        for seed in 0..40 {
            let version = &versions[seed as usize % versions.len()];
            let mut rng = StdRng::seed_from_u64(seed);
            let (mut room, root) = TestRoom::populated(version);
            let mut roots = vec![root];
            for step in 0..60 {
                let window = roots.len().saturating_sub(6);
                let on = *roots[window..].choose(&mut rng).unwrap();
                let (kind, sender, state_key, mut content) = random_act(&mut rng);
                if kind == "m.room.power_levels" && room.rules.authorization.explicitly_privilege_room_creators {
                    content["users"].as_object_mut().unwrap().remove(ALICE);
                }
                roots.extend(room.try_add(on, kind, sender, state_key, content));
                if rng.random_bool(0.1) {
                    // A state in which one key has gone back, as a state reset or a lying server would have it.
                    let older = *roots.choose(&mut rng).unwrap();
                    if let Some(change) =
                        room.trees.diff(on, older).unwrap().choose(&mut rng).filter(|change| change.new.is_some())
                    {
                        roots.push(room.trees.update(on, [(change.key, change.new)]).unwrap());
                    }
                }
                if step % 5 != 4 {
                    continue;
                }
                let some: Vec<StateRoot> =
                    (0..rng.random_range(2..5)).map(|_| *roots.choose(&mut rng).unwrap()).collect();
                let mut distinct = some.clone();
                distinct.sort_unstable();
                distinct.dedup();
                let plainly = room.resolve_plainly(&distinct);
                let resolved = room.resolve(&some);
                assert_eq!(room.state_map(resolved), plainly, "seed {seed}, room version {version}");
                changed += usize::from(!some.contains(&resolved));
                let reversed: Vec<StateRoot> = some.iter().rev().copied().collect();
                assert_eq!(room.resolve(&reversed), resolved);
                roots.push(resolved);
            }
        }
        assert!(changed > 100, "only {changed} resolutions had something to do");
    }
}
