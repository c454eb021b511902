//! POST /_matrix/client/v3/search (client-server API, "Server Side Search").
//!
//! Read and written without ruma's types for the whole: these do not tell whether a context was asked for, and leave out an empty list of
//! results, which clients expect.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json,
    extract::{RawQuery, State},
};
use chappe_rooms::{Event, Rooms, client_event::Viewer, relations::Audience};
use chappe_services::{
    account_data::AccountData,
    search::{Group, GroupKey, Hit, HitContext, Search, SearchRequest},
};
use ruma::{
    OwnedRoomId, OwnedUserId,
    api::client::{
        filter::RoomEventFilter,
        search::search_events::v3::{EventContext, Groupings, OrderBy, SearchKeys},
    },
};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue as RawJsonValue;
use url::form_urlencoded;

use crate::{
    error::ApiError,
    extract::{JsonBody, User},
};

type RawEvents = Vec<Box<RawJsonValue>>;

#[derive(Deserialize)]
pub struct Body {
    search_categories: Categories,
}

#[derive(Deserialize)]
struct Categories {
    room_events: Option<Criteria>,
}

#[derive(Deserialize)]
struct Criteria {
    search_term: String,
    keys: Option<Vec<SearchKeys>>,
    #[serde(default)]
    filter: RoomEventFilter,
    order_by: Option<OrderBy>,
    event_context: Option<EventContext>,
    #[serde(default)]
    include_state: bool,
    #[serde(default)]
    groupings: Groupings,
}

#[derive(Serialize)]
pub struct Answer {
    search_categories: FoundCategories,
}

#[derive(Serialize)]
struct FoundCategories {
    #[serde(skip_serializing_if = "Option::is_none")]
    room_events: Option<Found>,
}

#[derive(Serialize)]
struct Found {
    count: usize,
    highlights: Vec<String>,
    results: Vec<FoundEvent>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    state: BTreeMap<OwnedRoomId, RawEvents>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    groups: BTreeMap<GroupKey, BTreeMap<String, FoundGroup>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next_batch: Option<String>,
}

#[derive(Serialize)]
struct FoundEvent {
    rank: f32,
    result: Box<RawJsonValue>,
    #[serde(skip_serializing_if = "Option::is_none")]
    context: Option<FoundContext>,
}

#[derive(Serialize)]
struct FoundContext {
    start: String,
    end: String,
    events_before: RawEvents,
    events_after: RawEvents,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    profile_info: BTreeMap<OwnedUserId, FoundProfile>,
}

#[derive(Serialize)]
struct FoundProfile {
    #[serde(skip_serializing_if = "Option::is_none")]
    displayname: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    avatar_url: Option<String>,
}

#[derive(Serialize)]
struct FoundGroup {
    #[serde(skip_serializing_if = "Option::is_none")]
    next_batch: Option<String>,
    order: usize,
    results: Vec<String>,
}

pub async fn handle(
    State(search): State<Arc<Search>>,
    State(rooms): State<Rooms>,
    State(account_data): State<Arc<AccountData>>,
    RawQuery(query): RawQuery,
    User(session): User,
    JsonBody(body): JsonBody<Body>,
) -> Result<Json<Answer>, ApiError> {
    let Some(criteria) = body.search_categories.room_events else {
        return Ok(Json(Answer { search_categories: FoundCategories { room_events: None } }));
    };
    let ignored = account_data.get_ignored_users(&session.user_id)?;
    let request = SearchRequest {
        term: criteria.search_term,
        keys: criteria.keys,
        filter: criteria.filter,
        order: criteria.order_by,
        context: criteria.event_context,
        include_state: criteria.include_state,
        group_by: criteria.groupings.group_by.into_iter().filter_map(|group| group.key).collect(),
        ignored: ignored.clone(),
        next_batch: next_batch(query.as_deref()),
    };
    let found = search.search(&session.user_id, request).await?;
    let viewer = Viewer::new(&session.user_id, Some(&session.device_id));
    let shown = Shown { rooms: &rooms, audience: Audience { viewer, ignored: &ignored } };
    let room_events = Found {
        count: found.count,
        highlights: found.highlights.into_iter().collect(),
        results: found.hits.into_iter().map(|hit| shown.hit(hit)).collect::<Result<_, _>>()?,
        state: found
            .state
            .into_iter()
            .map(|(room, events)| Ok((room, shown.events(&events)?)))
            .collect::<Result<_, ApiError>>()?,
        groups: found.groups.into_iter().map(|(key, groups)| (key, groups_of(groups))).collect(),
        next_batch: found.next_batch,
    };
    Ok(Json(Answer { search_categories: FoundCategories { room_events: Some(room_events) } }))
}

/// An empty token is what some clients send for none.
fn next_batch(query: Option<&str>) -> Option<String> {
    let mut pairs = form_urlencoded::parse(query.unwrap_or_default().as_bytes());
    let (_, token) = pairs.find(|(key, _)| key == "next_batch")?;
    (!token.is_empty()).then(|| token.into_owned())
}

struct Shown<'a> {
    rooms: &'a Rooms,
    audience: Audience<'a>,
}

impl Shown<'_> {
    fn events(&self, events: &[Arc<Event>]) -> Result<RawEvents, ApiError> {
        events.iter().map(|event| self.event(event)).collect()
    }

    fn event(&self, event: &Event) -> Result<Box<RawJsonValue>, ApiError> {
        Ok(self.rooms.to_client_bundled(event, self.audience, true)?)
    }

    fn hit(&self, hit: Hit) -> Result<FoundEvent, ApiError> {
        let context = hit.context.map(|context| self.context(context)).transpose()?;
        Ok(FoundEvent { rank: hit.rank, result: self.event(&hit.event)?, context })
    }

    fn context(&self, context: HitContext) -> Result<FoundContext, ApiError> {
        let profiles = context.profiles.into_iter().map(|(user, profile)| {
            (user, FoundProfile { displayname: profile.display_name, avatar_url: profile.avatar_url })
        });
        Ok(FoundContext {
            start: context.start,
            end: context.end,
            events_before: self.events(&context.events_before)?,
            events_after: self.events(&context.events_after)?,
            profile_info: profiles.collect(),
        })
    }
}

fn groups_of(groups: BTreeMap<String, Group>) -> BTreeMap<String, FoundGroup> {
    let shown = |group: Group| FoundGroup {
        next_batch: group.next_batch,
        order: group.order,
        results: group.results.iter().map(|event| event.pdu.event_id.to_string()).collect(),
    };
    groups.into_iter().map(|(value, group)| (value, shown(group))).collect()
}
