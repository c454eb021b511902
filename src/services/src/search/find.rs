//! Finding events for a user: what the index offers, as far as the user may see it, with what is around it.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use chappe_rooms::{
    Event, Room, Rooms,
    membership::MemberProfile,
    paging::PageRequest,
    timeline::{after, before, place_before},
    visibility::UserEyes,
};
use chappe_store::{Position, RoomNid};
use ruma::{
    OwnedRoomId, OwnedUserId, UInt, UserId,
    api::{Direction as Paging, client::search::search_events::v3::EventContext},
    events::StateEventType,
};
use serde::Deserialize;

use super::{
    SearchError, SearchRequest,
    index::{Candidate, SearchIndex, Wanted, live_recency, searchable_text},
    query::{GroupId, GroupKey, Key, PageToken, SearchOrder, Terms, keys},
};
use crate::sync::filter::EventFilter;

const LIMIT_DEFAULT: usize = 10;
/// The most results on a page.
const LIMIT_MAX: usize = 100;
/// How many candidates one page looks at, for its results and for the count.
const CANDIDATES_MAX: usize = 1_000;
/// How deep one can page by rank, in candidates: each page sorts everything before it again.
const SKIP_MAX: usize = 20_000;
/// The most events shown before and after a result, each.
const CONTEXT_EVENTS_MAX: usize = 20;
/// How many predecessors of a room are searched with it.
const PREDECESSORS_MAX: usize = 20;

/// What a search found.
#[derive(Debug, Default)]
pub struct SearchResults {
    /// How many results there are on all pages: counted as far as this page had to look.
    pub count: usize,
    pub highlights: BTreeSet<String>,
    pub hits: Vec<Hit>,
    pub groups: BTreeMap<GroupKey, BTreeMap<String, Group>>,
    /// The state of the rooms of the results, as the user may see it, if it was asked for.
    pub state: BTreeMap<OwnedRoomId, Vec<Arc<Event>>>,
    pub next_batch: Option<String>,
}

#[derive(Debug)]
pub struct Hit {
    /// The higher, the better.
    pub rank: f32,
    pub event: Arc<Event>,
    pub context: Option<HitContext>,
}

/// What is around a result.
#[derive(Debug)]
pub struct HitContext {
    pub start: String,
    pub end: String,
    /// Newest first.
    pub events_before: Vec<Arc<Event>>,
    /// Oldest first.
    pub events_after: Vec<Arc<Event>>,
    /// How the senders were called then, if it was asked for.
    pub profiles: BTreeMap<OwnedUserId, MemberProfile>,
}

/// Which of the results have one room or sender.
#[derive(Debug, Default)]
pub struct Group {
    pub next_batch: Option<String>,
    pub order: usize,
    pub results: Vec<Arc<Event>>,
}

/// One page being found.
struct Finding {
    rooms: Rooms,
    user: OwnedUserId,
    terms: Terms,
    keys: Vec<Key>,
    order: SearchOrder,
    filter: EventFilter,
    senders: Option<BTreeSet<OwnedUserId>>,
    searched: BTreeSet<RoomNid>,
    limit: usize,
    group_by: BTreeSet<GroupKey>,
    ignored: Arc<HashSet<OwnedUserId>>,
    page: PageToken,
}

pub(super) async fn find(
    rooms: &Rooms,
    index: &Arc<SearchIndex>,
    user: &UserId,
    request: SearchRequest,
    newest: Position,
) -> Result<SearchResults, SearchError> {
    let page = match &request.next_batch {
        Some(token) => PageToken::parse(token)?,
        None => PageToken::start(live_recency(newest)),
    };
    let filter = request.filter;
    let ignored = Arc::new(request.ignored);
    let finding = Finding {
        user: user.to_owned(),
        terms: Terms::parse(&request.term),
        keys: keys(request.keys.as_deref())?,
        order: SearchOrder::parse(request.order.as_ref())?,
        senders: filter.senders.as_ref().map(|senders| senders.iter().cloned().collect()),
        searched: searched_rooms(rooms, user, filter.rooms.as_deref(), &filter.not_rooms)?,
        limit: filter.limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(LIMIT_DEFAULT).clamp(1, LIMIT_MAX),
        filter: EventFilter::from(filter),
        group_by: GroupKey::parse(&request.group_by)?,
        ignored: ignored.clone(),
        page,
        rooms: rooms.clone(),
    };
    let index = index.clone();
    let mut results = tokio::task::spawn_blocking(move || finding.find(&index)).await??;
    if let Some(wanted) = &request.context {
        for hit in &mut results.hits {
            hit.context = context_of(rooms, user, &hit.event, wanted, &ignored).await?;
        }
    }
    if request.include_state {
        results.state = state_of(rooms, user, &results.hits)?;
    }
    Ok(results)
}

/// The rooms that the user is or was in, of those that are asked for and the rooms these replaced.
fn searched_rooms(
    rooms: &Rooms,
    user: &UserId,
    only: Option<&[OwnedRoomId]>,
    not: &[OwnedRoomId],
) -> Result<BTreeSet<RoomNid>, SearchError> {
    let only = only.map(|only| with_predecessors(rooms, only)).transpose()?;
    let mut not_nids = BTreeSet::new();
    for room in not {
        not_nids.extend(rooms.get_room_nid(room)?);
    }
    let mut searched = BTreeSet::new();
    for row in rooms.scan_user_rooms(user) {
        let (room, member) = row?;
        let was_in = matches!(member.value.membership.as_str(), "join" | "leave" | "ban");
        let is_wanted = only.as_ref().is_none_or(|only| only.contains(&room)) && !not_nids.contains(&room);
        if was_in && is_wanted && !rooms.is_forgotten(user, room)? {
            searched.insert(room);
        }
    }
    Ok(searched)
}

fn with_predecessors(rooms: &Rooms, named: &[OwnedRoomId]) -> Result<BTreeSet<RoomNid>, SearchError> {
    #[derive(Deserialize)]
    struct Create {
        predecessor: Option<Predecessor>,
    }
    #[derive(Deserialize)]
    struct Predecessor {
        room_id: OwnedRoomId,
    }
    let mut found = BTreeSet::new();
    for room in named {
        let mut next = Some(room.clone());
        for _ in 0..=PREDECESSORS_MAX {
            let Some(nid) = next.take().map(|room| rooms.get_room_nid(&room)).transpose()?.flatten() else { break };
            if !found.insert(nid) {
                break;
            }
            let create: Option<Create> = rooms.get_state_content(nid, &StateEventType::RoomCreate, "")?;
            next = create.and_then(|create| create.predecessor).map(|predecessor| predecessor.room_id);
        }
    }
    Ok(found)
}

impl Finding {
    fn find(mut self, index: &SearchIndex) -> Result<SearchResults, SearchError> {
        if let Some((key, value)) = self.page.group.clone() {
            self.narrow_to(key, &value)?;
        }
        let mut results = SearchResults { count: self.page.found, ..SearchResults::default() };
        if self.terms.is_empty() || self.searched.is_empty() {
            return Ok(results);
        }
        let wanted = Wanted {
            terms: &self.terms,
            keys: &self.keys,
            rooms: self.searched.clone(),
            senders: self.senders.clone(),
            up_to: self.page.up_to,
        };
        let candidates = match self.order {
            SearchOrder::Recent => index.newest(&wanted, CANDIDATES_MAX)?,
            SearchOrder::Rank if self.page.skip > SKIP_MAX => Vec::new(),
            SearchOrder::Rank => index.best(&wanted, self.page.skip, CANDIDATES_MAX)?,
        };
        let mut eyes: HashMap<RoomNid, UserEyes<'_>> = HashMap::new();
        let mut looked_at: HashMap<GroupId, usize> = HashMap::new();
        // Where the next page begins, once this one is full.
        let mut next = None;
        let mut last = None;
        for (number, candidate) in candidates.iter().enumerate() {
            let Some(event) = self.rooms.get_event_by_nid(candidate.event)? else { continue };
            if next.is_none() {
                for group in self.groups_of(&event) {
                    *looked_at.entry(group).or_default() += 1;
                }
            }
            last = Some((number, candidate));
            let Some((_, text)) = searchable_text(&event).filter(|_| self.filter.admits(&event.pdu)) else { continue };
            let room = event.record.room;
            let eyes = match eyes.entry(room) {
                std::collections::hash_map::Entry::Occupied(known) => known.into_mut(),
                std::collections::hash_map::Entry::Vacant(new) => new.insert(self.rooms.eyes_of(room, &self.user)?),
            };
            if is_ignored(&self.ignored, &event)
                || !eyes.sees(&event)?
                || self.rooms.is_erased_for_user(&event, &self.user)?
            {
                continue;
            }
            results.count += 1;
            if results.hits.len() < self.limit {
                results.highlights.extend(self.terms.highlights(&text));
                self.put_in_groups(&mut results, &event, candidate, &looked_at);
                results.hits.push(Hit { rank: candidate.rank, event, context: None });
                if results.hits.len() == self.limit {
                    next = Some(self.page_after(number, candidate, results.hits.len()));
                }
            }
        }
        // Looked at all it may, and found too little: there may be more.
        if let (None, Some((number, candidate)), CANDIDATES_MAX) = (&next, last, candidates.len()) {
            next = Some(self.page_after(number, candidate, results.hits.len()));
        }
        if next.is_none() {
            results.groups.values_mut().flat_map(BTreeMap::values_mut).for_each(|group| group.next_batch = None);
        }
        results.next_batch = next.map(|page| page.to_text());
        Ok(results)
    }

    fn narrow_to(&mut self, key: GroupKey, value: &str) -> Result<(), SearchError> {
        match key {
            GroupKey::RoomId => {
                let room = ruma::RoomId::parse(value).ok().map(|room| self.rooms.get_room_nid(&room)).transpose()?;
                self.searched.retain(|searched| Some(*searched) == room.flatten());
            }
            GroupKey::Sender => {
                let sender = UserId::parse(value).map_err(|_| SearchError::Invalid("Invalid next_batch token"))?;
                let is_wanted = self.senders.as_ref().is_none_or(|senders| senders.contains(&sender));
                self.senders = Some(is_wanted.then_some(sender).into_iter().collect());
            }
        }
        Ok(())
    }

    fn groups_of(&self, event: &Event) -> Vec<GroupId> {
        let value = |key: &GroupKey| match key {
            GroupKey::RoomId => event.pdu.room_id.to_string(),
            GroupKey::Sender => event.pdu.sender.to_string(),
        };
        self.group_by.iter().map(|key| (*key, value(key))).collect()
    }

    fn put_in_groups(
        &self,
        results: &mut SearchResults,
        event: &Arc<Event>,
        candidate: &Candidate,
        looked_at: &HashMap<GroupId, usize>,
    ) {
        for id in self.groups_of(event) {
            let groups = results.groups.entry(id.0).or_default();
            let order = groups.len();
            let group = groups.entry(id.1.clone()).or_insert_with(|| Group { order, ..Group::default() });
            group.results.push(event.clone());
            let found = group.results.len();
            // In a group of its own, the candidates are the same ones in the same order, without the others between.
            let looked_at = looked_at.get(&id).copied().unwrap_or_default();
            let is_alone = self.page.group.as_ref() == Some(&id);
            let page = match self.order {
                SearchOrder::Recent => {
                    Some(PageToken { up_to: candidate.recency.saturating_sub(1), skip: 0, found, group: Some(id) })
                }
                SearchOrder::Rank if is_alone || self.page.skip == 0 => {
                    let skip = self.page.skip.saturating_add(looked_at);
                    Some(PageToken { up_to: self.page.up_to, skip, found, group: Some(id) })
                }
                // How many of the group earlier pages passed over is not known.
                SearchOrder::Rank => None,
            };
            group.next_batch = page.map(|page| page.to_text());
        }
    }

    /// The page after a candidate, the `number`th of this page.
    fn page_after(&self, number: usize, candidate: &Candidate, hits: usize) -> PageToken {
        let (found, group) = (self.page.found.saturating_add(hits), self.page.group.clone());
        match self.order {
            SearchOrder::Recent => PageToken { up_to: candidate.recency.saturating_sub(1), skip: 0, found, group },
            SearchOrder::Rank => {
                PageToken { up_to: self.page.up_to, skip: self.page.skip.saturating_add(number + 1), found, group }
            }
        }
    }
}

fn is_ignored(ignored: &HashSet<OwnedUserId>, event: &Event) -> bool {
    !event.pdu.is_state() && ignored.contains(&event.pdu.sender)
}

async fn context_of(
    rooms: &Rooms,
    user: &UserId,
    event: &Arc<Event>,
    wanted: &EventContext,
    ignored: &HashSet<OwnedUserId>,
) -> Result<Option<HitContext>, SearchError> {
    let Some(room) = rooms.get_room_by_nid(event.record.room)? else { return Ok(None) };
    let Some(place) = rooms.get_place(event)? else { return Ok(None) };
    let limit = |wanted: UInt| usize::try_from(wanted).unwrap_or(CONTEXT_EVENTS_MAX).min(CONTEXT_EVENTS_MAX);
    let page = |from, direction, limit| PageRequest { from, to: None, up_to: None, direction, limit };
    let older = page(place_before(place), Paging::Backward, limit(wanted.before_limit));
    let older = rooms.get_visible_page(&room, user, older, |event| Ok(!is_ignored(ignored, event))).await?.events;
    let newer = page(place, Paging::Forward, limit(wanted.after_limit));
    let newer = rooms.get_visible_page(&room, user, newer, |event| Ok(!is_ignored(ignored, event))).await?.events;
    let start = older.last().map_or(before(place), |(place, _)| before(*place)).to_string();
    let end = newer.last().map_or(after(place), |(place, _)| after(*place)).to_string();
    let events_of = |page: Vec<(_, Arc<Event>)>| page.into_iter().map(|(_, event)| event).collect::<Vec<_>>();
    let (events_before, events_after) = (events_of(older), events_of(newer));
    let mut profiles = BTreeMap::new();
    if wanted.include_profile {
        let shown = events_before.iter().chain([event]).chain(&events_after);
        let senders: BTreeSet<_> = shown.map(|event| event.pdu.sender.clone()).collect();
        profiles = profiles_at(rooms, &room, event, senders)?;
    }
    Ok(Some(HitContext { start, end, events_before, events_after, profiles }))
}

/// How users were called in a room when an event was sent.
fn profiles_at(
    rooms: &Rooms,
    room: &Room,
    event: &Event,
    users: BTreeSet<OwnedUserId>,
) -> Result<BTreeMap<OwnedUserId, MemberProfile>, SearchError> {
    #[derive(Deserialize)]
    struct Member {
        displayname: Option<String>,
        avatar_url: Option<String>,
    }
    let Some(root) = event.record.state_after else { return Ok(BTreeMap::new()) };
    let mut profiles = BTreeMap::new();
    for user in users {
        let member = rooms.get_from_root(room.nid, root, &StateEventType::RoomMember, user.as_str())?;
        let Some(member) = member.and_then(|member| member.pdu.get_content::<Member>().ok()) else { continue };
        profiles.insert(user, MemberProfile { display_name: member.displayname, avatar_url: member.avatar_url });
    }
    Ok(profiles)
}

fn state_of(rooms: &Rooms, user: &UserId, hits: &[Hit]) -> Result<BTreeMap<OwnedRoomId, Vec<Arc<Event>>>, SearchError> {
    let mut states = BTreeMap::new();
    for nid in hits.iter().map(|hit| hit.event.record.room).collect::<BTreeSet<_>>() {
        let Some(room) = rooms.get_room_by_nid(nid)? else { continue };
        let Some(view) = rooms.get_state_view(&room, user)? else { continue };
        states.insert(room.id.clone(), rooms.get_root_events(nid, view.root)?);
    }
    Ok(states)
}
