//! The auth-chain index: which events an event's auth chain has, without walking it.
//!
//! Events are covered by chains, in which each event has the one before it among its auth events; what an event reaches in other
//! chains is kept as links. So "everything that these events reach" is one number for each chain, and the difference of several
//! auth chains is a range of each chain. Queries cost the links below the events they ask about, not the events.
//!
//! Only state events need indexing: nothing but state is ever named as an auth event, and a message's auth chain is the
//! inclusive one of its auth events ([`ChainBatch::with_ancestors`]). An event is indexed once, after its auth events, and
//! for good. The places of new events live in a [`ChainBatch`] until its store batch is enqueued; the cache is filled by reads
//! from the store only, so a batch that is dropped leaves nothing behind.
//!
//! This module does not look at events: it knows numbers and edges.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    num::NonZeroUsize,
    sync::Arc,
};

use chappe_store::{
    Batch, DecodeError, Direction, EventNid, Store, StoreError,
    tables::auth_chain::{AUTH_CHAINS, AUTH_LINKS, AUTH_PLACES, AuthPlace},
};
use lru::LruCache;
use parking_lot::Mutex;

/// Places kept in memory, about 80 bytes each.
const PLACES_CACHED: NonZeroUsize = NonZeroUsize::new(100_000).unwrap();

/// How many chains are walked, for each auth event, to find out whether a link to it already follows from others. Giving up
/// early costs a row, not correctness.
const REDUNDANCY_STEPS: usize = 32;

/// The index of all rooms. A cheap handle: clones share the cache.
#[derive(Clone)]
pub struct AuthChains {
    store: Store,
    places: Arc<Mutex<LruCache<EventNid, AuthPlace>>>,
}

impl AuthChains {
    pub fn new(store: Store) -> Self {
        // Made with its capacity it would take the memory at once.
        let mut places = LruCache::unbounded();
        places.resize(PLACES_CACHED);
        Self { store, places: Arc::new(Mutex::new(places)) }
    }

    /// Starts collecting new places for one batch, which is to be guarded by the room.
    pub fn begin(&self) -> ChainBatch {
        ChainBatch { index: self.clone(), places: HashMap::new(), events: BTreeMap::new(), links: BTreeMap::new() }
    }

    /// As [`ChainBatch::full_chain`], of what is stored.
    pub fn full_chain(&self, events: &[EventNid]) -> Result<HashSet<EventNid>, StoreError> {
        self.begin().full_chain(events)
    }

    /// As [`ChainBatch::with_ancestors`], of what is stored.
    pub fn with_ancestors(&self, events: &[EventNid]) -> Result<HashSet<EventNid>, StoreError> {
        self.begin().with_ancestors(events)
    }

    /// Whether an event is indexed.
    pub fn contains(&self, event: EventNid) -> Result<bool, StoreError> {
        Ok(self.get_place(event)?.is_some())
    }

    /// As [`ChainBatch::difference`], of what is stored.
    pub fn difference(&self, sets: &[Vec<EventNid>]) -> Result<HashSet<EventNid>, StoreError> {
        self.begin().difference(sets)
    }

    fn get_place(&self, event: EventNid) -> Result<Option<AuthPlace>, StoreError> {
        if let Some(place) = self.places.lock().get(&event) {
            return Ok(Some(*place));
        }
        let place = self.store.get(&AUTH_PLACES, &event)?;
        if let Some(place) = place {
            self.places.lock().put(event, place);
        }
        Ok(place)
    }
}

/// The new places of one batch, and a view of the index that has them.
///
/// Dropped without [`put_into`](Self::put_into) it leaves no trace.
#[must_use = "new places are lost unless they are put into a batch"]
pub struct ChainBatch {
    index: AuthChains,
    places: HashMap<EventNid, AuthPlace>,
    events: BTreeMap<(u64, u64), EventNid>,
    links: BTreeMap<(u64, u64, u64), u64>,
}

/// For each chain, the highest place that is reached; everything below is reached too.
#[derive(Default)]
struct Reach {
    high: HashMap<u64, u64>,
}

impl Reach {
    fn get(&self, chain: u64) -> u64 {
        self.high.get(&chain).copied().unwrap_or(0)
    }
}

/// A link out of a chain that is being walked.
struct Link {
    from_sequence: u64,
    chain: u64,
    sequence: u64,
}

impl ChainBatch {
    /// Indexes a state event, after its auth events. An event that is indexed already keeps its place.
    ///
    /// Errors when an auth event is not indexed.
    pub fn add(&mut self, event: EventNid, auth_events: &[EventNid]) -> Result<(), StoreError> {
        if self.get_place(event)?.is_some() {
            return Ok(());
        }
        let mut parents =
            auth_events.iter().map(|auth_event| self.place(*auth_event)).collect::<Result<Vec<_>, _>>()?;
        // The last to be reached first: it likely reaches the others.
        parents.sort_unstable_by_key(|place| (std::cmp::Reverse(place.rank), place.chain, place.sequence));
        parents.dedup();
        let rank = parents.iter().map(|place| place.rank).max().unwrap_or(0) + 1;

        let mut before = None;
        for parent in &parents {
            if self.get_event_at(parent.chain, parent.sequence + 1)?.is_none() {
                before = Some(*parent);
                break;
            }
        }
        let place = match before {
            Some(before) => AuthPlace { chain: before.chain, sequence: before.sequence + 1, rank },
            None => AuthPlace { chain: event.0, sequence: 1, rank },
        };

        let mut reach = Reach::default();
        if let Some(before) = before {
            self.extend(&mut reach, before.chain, before.sequence, REDUNDANCY_STEPS)?;
        }
        for parent in parents {
            if reach.get(parent.chain) < parent.sequence {
                let link = self.links.entry((place.chain, place.sequence, parent.chain)).or_default();
                *link = parent.sequence.max(*link);
                self.extend(&mut reach, parent.chain, parent.sequence, REDUNDANCY_STEPS)?;
            }
        }
        self.places.insert(event, place);
        self.events.insert((place.chain, place.sequence), event);
        Ok(())
    }

    /// Writes the new places.
    pub fn put_into(self, batch: &mut Batch) {
        for (event, place) in &self.places {
            batch.put(&AUTH_PLACES, event, place);
        }
        for (place, event) in &self.events {
            batch.put(&AUTH_CHAINS, place, event);
        }
        for (from, to) in &self.links {
            batch.put(&AUTH_LINKS, from, to);
        }
    }

    /// Whether the event is indexed.
    pub fn contains(&self, event: EventNid) -> Result<bool, StoreError> {
        Ok(self.get_place(event)?.is_some())
    }

    /// The auth chain of some events: what they reach by one auth edge or more.
    pub fn full_chain(&self, events: &[EventNid]) -> Result<HashSet<EventNid>, StoreError> {
        let reach = self.ancestors(events)?;
        self.events_within(reach.high.into_iter().map(|(chain, high)| (chain, 0, high)))
    }

    /// Some events and their auth chain.
    pub fn with_ancestors(&self, events: &[EventNid]) -> Result<HashSet<EventNid>, StoreError> {
        let mut found = self.full_chain(events)?;
        found.extend(events);
        Ok(found)
    }

    /// The events that are in the auth chains of some of the sets, but not of all.
    pub fn difference(&self, sets: &[Vec<EventNid>]) -> Result<HashSet<EventNid>, StoreError> {
        self.difference_beside(sets, || Ok(Vec::new()))
    }

    /// [`difference`](Self::difference) of the sets, each with the events of `common` added.
    ///
    /// `common` is asked for only when the sets alone differ.
    pub fn difference_beside(
        &self,
        sets: &[Vec<EventNid>],
        common: impl FnOnce() -> Result<Vec<EventNid>, StoreError>,
    ) -> Result<HashSet<EventNid>, StoreError> {
        let reaches = sets.iter().map(|set| self.ancestors(set)).collect::<Result<Vec<_>, _>>()?;
        // For each chain the places that some sets reach (up to high) and not all (above low).
        let mut gaps = BTreeMap::new();
        for chain in reaches.iter().flat_map(|reach| reach.high.keys()) {
            let low = reaches.iter().map(|reach| reach.get(*chain)).min().unwrap_or(0);
            let high = reaches.iter().map(|reach| reach.get(*chain)).max().unwrap_or(0);
            if low < high {
                gaps.insert(*chain, (low, high));
            }
        }
        if gaps.is_empty() {
            return Ok(HashSet::new());
        }
        let mut lowest_rank = u64::MAX;
        for (chain, (low, _)) in &gaps {
            // Ranks rise along a chain.
            let first = self.get_event_at(*chain, low + 1)?.ok_or_else(|| damaged("a chain has a hole"))?;
            lowest_rank = lowest_rank.min(self.place(first)?.rank);
        }
        let mut shared = Reach::default();
        for event in common()? {
            if gaps.is_empty() {
                break;
            }
            let place = self.place(event)?;
            // Whoever reaches an event outranks it.
            if place.rank <= lowest_rank || shared.get(place.chain) >= place.sequence {
                continue;
            }
            self.extend_below(&mut shared, place)?;
            gaps.retain(|chain, (_, high)| shared.get(*chain) < *high);
        }
        self.events_within(gaps.into_iter().map(|(chain, (low, high))| (chain, low.max(shared.get(chain)), high)))
    }

    /// The events on any path of auth edges from one of the events to another, and the events themselves.
    ///
    /// Spec: room version 12, State resolution, Conflicted state subgraph.
    pub fn subgraph(&self, events: &[EventNid]) -> Result<HashSet<EventNid>, StoreError> {
        let places = events.iter().map(|event| self.place(*event)).collect::<Result<Vec<_>, _>>()?;
        let mut reach = Reach::default();
        for place in &places {
            self.extend(&mut reach, place.chain, place.sequence, usize::MAX)?;
        }
        // Up to `high` a chain is reached from the events; from `low` on it reaches one of them.
        let mut low: HashMap<u64, u64> = HashMap::new();
        for place in &places {
            let low = low.entry(place.chain).or_insert(place.sequence);
            *low = place.sequence.min(*low);
        }
        let mut links_into: HashMap<u64, Vec<(u64, Link)>> = HashMap::new();
        for (chain, high) in &reach.high {
            for link in self.links(*chain, 0, *high)? {
                links_into.entry(link.chain).or_default().push((*chain, link));
            }
        }
        let mut lowered: Vec<u64> = low.keys().copied().collect();
        while let Some(chain) = lowered.pop() {
            let Some(from) = low.get(&chain).copied() else { continue };
            for (other, link) in links_into.get(&chain).into_iter().flatten() {
                if link.sequence >= from && low.get(other).is_none_or(|low| *low > link.from_sequence) {
                    low.insert(*other, link.from_sequence);
                    lowered.push(*other);
                }
            }
        }
        self.events_within(low.into_iter().map(|(chain, low)| (chain, low.saturating_sub(1), reach.get(chain))))
    }

    /// What some events reach by one edge or more.
    fn ancestors(&self, events: &[EventNid]) -> Result<Reach, StoreError> {
        let mut reach = Reach::default();
        for event in events {
            let place = self.place(*event)?;
            self.extend_below(&mut reach, place)?;
        }
        Ok(reach)
    }

    /// Adds what the event at a place reaches, without itself.
    fn extend_below(&self, reach: &mut Reach, place: AuthPlace) -> Result<(), StoreError> {
        if reach.get(place.chain) >= place.sequence {
            return Ok(());
        }
        let below = place.sequence.saturating_sub(1);
        for link in self.links(place.chain, below, place.sequence)? {
            self.extend(reach, link.chain, link.sequence, usize::MAX)?;
        }
        if below > 0 {
            self.extend(reach, place.chain, below, usize::MAX)?;
        }
        Ok(())
    }

    /// Adds a place and what it reaches, walking at most `steps` chains.
    fn extend(&self, reach: &mut Reach, chain: u64, sequence: u64, mut steps: usize) -> Result<(), StoreError> {
        let mut waiting = vec![(chain, sequence)];
        while let Some((chain, sequence)) = waiting.pop() {
            let reached = reach.get(chain);
            if reached >= sequence {
                continue;
            }
            let Some(left) = steps.checked_sub(1) else { break };
            steps = left;
            reach.high.insert(chain, sequence);
            waiting.extend(self.links(chain, reached, sequence)?.into_iter().map(|link| (link.chain, link.sequence)));
        }
        Ok(())
    }

    /// The links of the places above `after` up to `last`.
    fn links(&self, chain: u64, after: u64, last: u64) -> Result<Vec<Link>, StoreError> {
        let link = |(from, to): ((u64, u64, u64), u64)| Link { from_sequence: from.1, chain: from.2, sequence: to };
        let (start, end) = ((chain, after + 1), (chain, last + 1));
        let mut links = self
            .index
            .store
            .scan_range(&AUTH_LINKS, &start, &end, Direction::Forward)
            .map(|row| row.map(link))
            .collect::<Result<Vec<_>, _>>()?;
        let fresh = self.links.range((start.0, start.1, 0)..(end.0, end.1, 0));
        links.extend(fresh.map(|(from, to)| link((*from, *to))));
        Ok(links)
    }

    /// The events of some chains: above the first number, up to the second.
    fn events_within(
        &self,
        ranges: impl IntoIterator<Item = (u64, u64, u64)>,
    ) -> Result<HashSet<EventNid>, StoreError> {
        let mut found = HashSet::new();
        for (chain, after, last) in ranges {
            let (start, end) = ((chain, after + 1), (chain, last + 1));
            if start >= end {
                continue;
            }
            for row in self.index.store.scan_range(&AUTH_CHAINS, &start, &end, Direction::Forward) {
                found.insert(row?.1);
            }
            found.extend(self.events.range(start..end).map(|(_, event)| *event));
        }
        Ok(found)
    }

    fn get_place(&self, event: EventNid) -> Result<Option<AuthPlace>, StoreError> {
        match self.places.get(&event) {
            Some(place) => Ok(Some(*place)),
            None => self.index.get_place(event),
        }
    }

    fn place(&self, event: EventNid) -> Result<AuthPlace, StoreError> {
        self.get_place(event)?.ok_or_else(|| damaged(&format!("event {event} is not indexed")))
    }

    fn get_event_at(&self, chain: u64, sequence: u64) -> Result<Option<EventNid>, StoreError> {
        match self.events.get(&(chain, sequence)) {
            Some(event) => Ok(Some(*event)),
            None => self.index.store.get(&AUTH_CHAINS, &(chain, sequence)),
        }
    }
}

fn damaged(message: &str) -> StoreError {
    StoreError::Decode { table: AUTH_PLACES.name, cause: DecodeError::new(message) }
}

#[cfg(test)]
mod tests {
    use rand::{RngExt, SeedableRng, rngs::StdRng};

    use super::*;

    /// A random graph, and the plain walks the index must agree with.
    struct Graph {
        parents: BTreeMap<EventNid, Vec<EventNid>>,
    }

    impl Graph {
        /// Later events name some of the earlier ones: recent ones mostly, as in a room, but any now and then.
        fn random(rng: &mut StdRng, events: u64) -> Self {
            let mut parents = BTreeMap::new();
            for event in 1..=events {
                let count = rng.random_range(0..=4.min(event - 1));
                let window = if rng.random_bool(0.5) { 6 } else { events };
                let lowest = event.saturating_sub(window).max(1);
                let named = (0..count).map(|_| EventNid(rng.random_range(lowest..event))).collect();
                parents.insert(EventNid(event), named);
            }
            Self { parents }
        }

        fn full_chain(&self, events: &[EventNid]) -> HashSet<EventNid> {
            let mut found = HashSet::new();
            let mut waiting: Vec<EventNid> = events.iter().flat_map(|event| &self.parents[event]).copied().collect();
            while let Some(event) = waiting.pop() {
                if found.insert(event) {
                    waiting.extend(&self.parents[&event]);
                }
            }
            found
        }

        fn difference(&self, sets: &[Vec<EventNid>]) -> HashSet<EventNid> {
            let chains: Vec<_> = sets.iter().map(|set| self.full_chain(set)).collect();
            let all: HashSet<EventNid> = chains.iter().flatten().copied().collect();
            all.into_iter().filter(|event| !chains.iter().all(|chain| chain.contains(event))).collect()
        }

        fn subgraph(&self, events: &[EventNid]) -> HashSet<EventNid> {
            let mut below = self.full_chain(events);
            below.extend(events);
            let reaches_one = |event: &EventNid| {
                let chain = self.full_chain(&[*event]);
                events.contains(event) || events.iter().any(|other| chain.contains(other))
            };
            below.into_iter().filter(reaches_one).collect()
        }
    }

    fn some_events(rng: &mut StdRng, events: u64) -> Vec<EventNid> {
        (0..rng.random_range(0..5)).map(|_| EventNid(rng.random_range(1..=events))).collect()
    }

    /// Indexes the graph in batches of random size, of which some are dropped and done again.
    async fn index(rng: &mut StdRng, graph: &Graph) -> AuthChains {
        let store = Store::in_memory();
        let chains = AuthChains::new(store.clone());
        let events: Vec<_> = graph.parents.iter().collect();
        let mut done = 0;
        while done < events.len() {
            let until = (done + rng.random_range(1..40)).min(events.len());
            for last_try in [false, true] {
                let mut fresh = chains.begin();
                for (event, parents) in &events[done..until] {
                    fresh.add(**event, parents).unwrap();
                }
                assert_eq!(
                    fresh.full_chain(&[*events[until - 1].0]).unwrap(),
                    graph.full_chain(&[*events[until - 1].0])
                );
                if last_try || rng.random_bool(0.8) {
                    let mut batch = Batch::new();
                    fresh.put_into(&mut batch);
                    store.commit(batch).await.unwrap();
                    break;
                }
            }
            done = until;
        }
        chains
    }

    #[tokio::test]
    async fn index_agrees_with_walking_on_random_graphs() {
        for seed in 0..80 {
            let mut rng = StdRng::seed_from_u64(seed);
            let count = *[5, 20, 60, 150].get(seed as usize % 4).unwrap();
            let graph = Graph::random(&mut rng, count);
            let chains = index(&mut rng, &graph).await;
            for _ in 0..30 {
                let events = some_events(&mut rng, count);
                assert_eq!(chains.full_chain(&events).unwrap(), graph.full_chain(&events), "seed {seed}");

                let sets: Vec<_> = (0..rng.random_range(1..4)).map(|_| some_events(&mut rng, count)).collect();
                assert_eq!(chains.difference(&sets).unwrap(), graph.difference(&sets), "seed {seed}");

                let common = some_events(&mut rng, count);
                let whole: Vec<_> = sets.iter().map(|set| [set.clone(), common.clone()].concat()).collect();
                let beside = chains.begin().difference_beside(&sets, || Ok(common)).unwrap();
                assert_eq!(beside, graph.difference(&whole), "seed {seed}");

                let subgraph = chains.begin().subgraph(&events).unwrap();
                assert_eq!(subgraph, graph.subgraph(&events), "seed {seed}");
            }
        }
    }

    #[tokio::test]
    async fn long_chains_are_walked_without_recursion() {
        let chains = AuthChains::new(Store::in_memory());
        let mut fresh = chains.begin();
        fresh.add(EventNid(1), &[]).unwrap();
        for event in 2..=50_000 {
            fresh.add(EventNid(event), &[EventNid(event - 1), EventNid(1)]).unwrap();
        }
        assert_eq!(fresh.full_chain(&[EventNid(50_000)]).unwrap().len(), 49_999);
        assert!(fresh.links.is_empty(), "links that follow from the chain are left out");
        let sets = [vec![EventNid(49_990)], vec![EventNid(50_000)]];
        assert_eq!(fresh.difference(&sets).unwrap().len(), 10);
    }

    #[tokio::test]
    async fn adding_an_event_again_keeps_its_place() {
        let chains = AuthChains::new(Store::in_memory());
        let mut fresh = chains.begin();
        fresh.add(EventNid(1), &[]).unwrap();
        fresh.add(EventNid(2), &[EventNid(1)]).unwrap();
        fresh.add(EventNid(2), &[]).unwrap();
        assert_eq!(fresh.full_chain(&[EventNid(2)]).unwrap(), HashSet::from([EventNid(1)]));
    }

    #[tokio::test]
    async fn event_with_an_auth_event_that_is_not_indexed_is_refused() {
        let chains = AuthChains::new(Store::in_memory());
        assert!(chains.begin().add(EventNid(2), &[EventNid(1)]).is_err());
        assert!(chains.full_chain(&[EventNid(1)]).is_err());
    }
}
