//! Filters, ready to be applied.
//!
//! Spec: Client-Server API, Filtering.

use std::collections::HashSet;

use chappe_protocol::pdu::Pdu;
use chappe_rooms::{Event, Rooms, relations::relation_of};
use chappe_store::StoreError;
use ruma::{
    OwnedRoomId, OwnedUserId, RoomId, UserId,
    api::client::filter::{EventFormat, Filter, FilterDefinition, LazyLoadOptions, RoomEventFilter, UrlFilter},
};
use serde::Deserialize;
use serde_json::Value;

/// How many timeline events a room is given when the client does not say.
const TIMELINE_LIMIT_DEFAULT: usize = 10;

/// The most timeline events a room is given.
const TIMELINE_LIMIT_MAX: usize = 250;

/// A client's filter for `/sync`.
#[derive(Debug)]
pub struct SyncFilter {
    pub timeline: EventFilter,
    pub timeline_limit: usize,
    /// Whether unread counts are told for each thread, rather than for the room in all.
    pub unread_by_thread: bool,
    pub state: EventFilter,
    pub ephemeral: EventFilter,
    pub room_account_data: EventFilter,
    pub account_data: EventFilter,
    pub presence: EventFilter,
    pub include_leave: bool,
    pub lazy_load: LazyLoad,
    pub format: EventFormat,
    /// Paths of the fields that the client wants of events; `None`: all.
    pub fields: Option<Vec<Vec<String>>>,
    rooms: RoomList,
}

/// Which members go into the state.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum LazyLoad {
    /// All.
    Off,
    /// Those that the timeline needs, unless the device has them.
    NotRedundant,
    /// Those that the timeline needs, each time.
    Redundant,
}

impl LazyLoad {
    pub fn is_on(self) -> bool {
        self != Self::Off
    }
}

#[derive(Debug, Default)]
struct RoomList {
    only: Option<HashSet<OwnedRoomId>>,
    not: HashSet<OwnedRoomId>,
}

impl RoomList {
    fn new(only: Option<Vec<OwnedRoomId>>, not: Vec<OwnedRoomId>) -> Self {
        Self { only: only.map(|rooms| rooms.into_iter().collect()), not: not.into_iter().collect() }
    }

    fn admits(&self, room: &RoomId) -> bool {
        !self.not.contains(room) && self.only.as_ref().is_none_or(|only| only.contains(room))
    }
}

/// A filter of events of one kind.
#[derive(Debug, Default)]
pub struct EventFilter {
    types: Option<Vec<String>>,
    not_types: Vec<String>,
    senders: Option<HashSet<OwnedUserId>>,
    not_senders: HashSet<OwnedUserId>,
    rooms: RoomList,
    url: Option<UrlFilter>,
    limit: Option<usize>,
    relations: RelationFilter,
}

/// What a filter says of relations.
#[derive(Debug, Default, Deserialize)]
struct RelationFilter {
    /// Only events that something of these types, or by these senders, relates to.
    related_by_rel_types: Option<Vec<String>>,
    related_by_senders: Option<HashSet<OwnedUserId>>,
    /// Only events that themselves relate to others in one of these ways (MSC3874).
    #[serde(alias = "org.matrix.msc3874.rel_types")]
    rel_types: Option<Vec<String>>,
    /// No such events (MSC3874).
    #[serde(default, alias = "org.matrix.msc3874.not_rel_types")]
    not_rel_types: Vec<String>,
}

impl SyncFilter {
    /// Reads a filter as clients send it.
    pub fn parse(json: &str) -> Result<Self, serde_json::Error> {
        #[derive(Default, Deserialize)]
        struct Relations {
            #[serde(default)]
            room: RoomRelations,
        }
        #[derive(Default, Deserialize)]
        struct RoomRelations {
            #[serde(default)]
            timeline: RelationFilter,
        }
        let mut filter = Self::new(serde_json::from_str(json)?);
        filter.timeline.relations = serde_json::from_str::<Relations>(json)?.room.timeline;
        Ok(filter)
    }

    pub fn new(definition: FilterDefinition) -> Self {
        let FilterDefinition { event_fields, event_format, presence, account_data, room, .. } = definition;
        let lazy_load = match room.state.lazy_load_options {
            LazyLoadOptions::Disabled => LazyLoad::Off,
            LazyLoadOptions::Enabled { include_redundant_members: true } => LazyLoad::Redundant,
            LazyLoadOptions::Enabled { include_redundant_members: false } => LazyLoad::NotRedundant,
        };
        let unread_by_thread = room.timeline.unread_thread_notifications;
        let timeline = EventFilter::from(room.timeline);
        Self {
            timeline_limit: timeline.limit.unwrap_or(TIMELINE_LIMIT_DEFAULT).min(TIMELINE_LIMIT_MAX),
            timeline,
            unread_by_thread,
            state: room.state.into(),
            ephemeral: room.ephemeral.into(),
            room_account_data: room.account_data.into(),
            account_data: account_data.into(),
            presence: presence.into(),
            include_leave: room.include_leave,
            lazy_load,
            format: event_format,
            fields: event_fields.map(|fields| fields.iter().map(|field| field_path(field)).collect()),
            rooms: RoomList::new(room.rooms, room.not_rooms),
        }
    }

    /// Whether the client wants to hear of this room at all.
    pub fn admits_room(&self, room: &RoomId) -> bool {
        self.rooms.admits(room)
    }
}

impl Default for SyncFilter {
    fn default() -> Self {
        Self::new(FilterDefinition::default())
    }
}

impl From<RoomEventFilter> for EventFilter {
    fn from(filter: RoomEventFilter) -> Self {
        Self {
            types: filter.types,
            not_types: filter.not_types,
            senders: filter.senders.map(|senders| senders.into_iter().collect()),
            not_senders: filter.not_senders.into_iter().collect(),
            rooms: RoomList::new(filter.rooms, filter.not_rooms),
            url: filter.url_filter,
            limit: filter.limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX)),
            relations: RelationFilter::default(),
        }
    }
}

impl From<Filter> for EventFilter {
    fn from(filter: Filter) -> Self {
        Self {
            types: filter.types,
            not_types: filter.not_types,
            senders: filter.senders.map(|senders| senders.into_iter().collect()),
            not_senders: filter.not_senders.into_iter().collect(),
            limit: filter.limit.map(|limit| usize::try_from(limit).unwrap_or(usize::MAX)),
            ..Self::default()
        }
    }
}

impl EventFilter {
    /// Reads a filter of events as clients send it; and how it has members loaded, which is not a matter of events.
    pub fn parse(json: &str) -> Result<(Self, LazyLoadOptions), serde_json::Error> {
        let definition: RoomEventFilter = serde_json::from_str(json)?;
        let lazy_load = definition.lazy_load_options;
        Ok((Self { relations: serde_json::from_str(json)?, ..Self::from(definition) }, lazy_load))
    }

    /// Whether no event of the room can pass: then nothing needs to be read.
    pub fn refuses_all(&self, room: &RoomId) -> bool {
        self.types.as_ref().is_some_and(Vec::is_empty)
            || self.senders.as_ref().is_some_and(HashSet::is_empty)
            || !self.rooms.admits(room)
    }

    pub fn admits_room(&self, room: &RoomId) -> bool {
        self.rooms.admits(room)
    }

    pub fn admits_type(&self, event_type: &str) -> bool {
        !self.not_types.iter().any(|pattern| matches_pattern(pattern, event_type))
            && self.types.as_ref().is_none_or(|types| types.iter().any(|pattern| matches_pattern(pattern, event_type)))
    }

    pub fn admits_sender(&self, sender: &UserId) -> bool {
        !self.not_senders.contains(sender) && self.senders.as_ref().is_none_or(|senders| senders.contains(sender))
    }

    pub fn limit(&self) -> usize {
        self.limit.unwrap_or(usize::MAX)
    }

    /// Whether an event passes; its room is its caller's business.
    pub fn admits(&self, pdu: &Pdu) -> bool {
        self.admits_sender(&pdu.sender)
            && self.admits_type(&pdu.kind.to_string())
            && self.admits_url(pdu)
            && self.admits_relation(pdu)
    }

    /// As [`EventFilter::admits`], and by what relates to the event.
    pub fn admits_event(&self, rooms: &Rooms, event: &Event) -> Result<bool, StoreError> {
        if !self.admits(&event.pdu) {
            return Ok(false);
        }
        let RelationFilter { related_by_rel_types: rel_types, related_by_senders: senders, .. } = &self.relations;
        if rel_types.is_none() && senders.is_none() {
            return Ok(true);
        }
        rooms.is_related_by(event, rel_types.as_deref(), senders.as_ref())
    }

    fn admits_relation(&self, pdu: &Pdu) -> bool {
        let RelationFilter { rel_types, not_rel_types, .. } = &self.relations;
        if rel_types.is_none() && not_rel_types.is_empty() {
            return true;
        }
        let rel_type = relation_of(pdu).map(|relation| relation.rel_type);
        let is_wanted = |wanted: &Vec<String>| rel_type.as_ref().is_some_and(|rel_type| wanted.contains(rel_type));
        rel_types.as_ref().is_none_or(is_wanted) && !is_wanted(not_rel_types)
    }

    fn admits_url(&self, pdu: &Pdu) -> bool {
        let Some(filter) = self.url else { return true };
        #[derive(serde::Deserialize)]
        struct Content {
            #[serde(default)]
            url: Option<Value>,
        }
        let has_url = pdu.get_content::<Content>().is_ok_and(|content| content.url.is_some_and(|url| url.is_string()));
        has_url == (filter == UrlFilter::EventsWithUrl)
    }
}

/// Whether a type matches a pattern in which each `*` stands for any characters.
fn matches_pattern(pattern: &str, text: &str) -> bool {
    let Some((start, rest)) = pattern.split_once('*') else { return pattern == text };
    let Some(mut text) = text.strip_prefix(start) else { return false };
    let (middle, end) = rest.rsplit_once('*').unwrap_or(("", rest));
    // Each part in the middle is taken where it first occurs: that leaves the most for what follows.
    for part in middle.split('*').filter(|part| !part.is_empty()) {
        let Some((_, after)) = text.split_once(part) else { return false };
        text = after;
    }
    text.ends_with(end)
}

/// Takes a field name like `content.body` apart at its dots; `\` escapes a dot or itself.
fn field_path(field: &str) -> Vec<String> {
    let mut path = vec![String::new()];
    let mut chars = field.chars();
    while let Some(char) = chars.next() {
        let char = match char {
            '.' => {
                path.push(String::new());
                continue;
            }
            '\\' => chars.next().unwrap_or('\\'),
            other => other,
        };
        if let Some(part) = path.last_mut() {
            part.push(char);
        }
    }
    path
}

/// Keeps of an event only the fields at these paths.
pub fn keep_fields(event: &Value, paths: &[Vec<String>]) -> Value {
    let mut kept = Value::Object(serde_json::Map::new());
    for path in paths {
        copy_field(event, &mut kept, path);
    }
    kept
}

fn copy_field(from: &Value, to: &mut Value, path: &[String]) {
    let (Some((first, rest)), Value::Object(to)) = (path.split_first(), to) else { return };
    let Some(value) = from.get(first) else { return };
    if rest.is_empty() {
        to.insert(first.clone(), value.clone());
    } else if value.is_object() {
        copy_field(value, to.entry(first.clone()).or_insert_with(|| Value::Object(serde_json::Map::new())), rest);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn star_stands_for_any_characters() {
        for (pattern, text, expected) in [
            ("m.room.message", "m.room.message", true),
            ("m.room.*", "m.room.message", true),
            ("m.room.*", "m.rooms", false),
            ("*", "", true),
            ("*.message", "m.room.message", true),
            ("m.*.me*", "m.room.message", true),
            ("m.*x*", "m.room.message", false),
            ("m*m", "m", false),
            ("a*b*b", "ab", false),
        ] {
            assert_eq!(matches_pattern(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn excluded_type_wins_over_included_type() {
        let filter: RoomEventFilter =
            serde_json::from_value(json!({"types": ["m.*"], "not_types": ["m.room.name"]})).unwrap();
        let filter = EventFilter::from(filter);
        assert!(
            filter.admits_type("m.room.topic")
                && !filter.admits_type("m.room.name")
                && !filter.admits_type("org.example")
        );
    }

    #[test]
    fn filter_by_relation_is_read_under_both_names() {
        for json in [r#"{"rel_types":["m.thread"]}"#, r#"{"org.matrix.msc3874.rel_types":["m.thread"]}"#] {
            let (filter, _) = EventFilter::parse(json).unwrap();
            assert_eq!(filter.relations.rel_types.as_deref(), Some(&["m.thread".to_owned()][..]), "{json}");
        }
        assert!(EventFilter::parse(r#"{"rel_types":"m.thread"}"#).is_err());
        assert!(SyncFilter::parse(r#"{"room":{"timeline":{"related_by_senders":["nobody"]}}}"#).is_err());
    }

    #[test]
    fn only_wanted_fields_are_kept() {
        let event = json!({"type": "t", "content": {"body": "b", "a.b": 1, "other": 2}, "sender": "s"});
        let paths: Vec<_> =
            ["type", "content.body", r"content.a\.b", "content.missing.deeper", "sender.x"].map(field_path).into();
        assert_eq!(keep_fields(&event, &paths), json!({"type": "t", "content": {"body": "b", "a.b": 1}}));
    }
}
