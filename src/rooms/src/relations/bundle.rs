//! Bundled aggregations: what relates to an event, summed up in its `unsigned`.
//!
//! Annotations are not summed up any more. An event that nothing relates to costs one look into the store.
//!
//! Spec: Client-Server API, Aggregations of child events.

use std::collections::HashSet;

use chappe_protocol::client_format::{ClientEvent, ClientFormat};
use chappe_store::{
    Direction, StoreError,
    tables::relations::{RELATED, THREADS},
};
use ruma::{OwnedUserId, events::TimelineEventType};
use serde::Deserialize;
use serde_json::{Map, Value, json, value::RawValue as RawJsonValue};

use super::{
    List, REFERENCE, REPLACE, THREAD,
    read::{is_shown, relates},
    relation_of,
};
use crate::{
    Event, RoomError, Rooms,
    client_event::{Viewer, to_raw},
    visibility::UserEyes,
};

/// How many references one event is shown with.
const REFERENCES_MAX: usize = 200;
/// How many edits, or replies at the end of a thread, are looked at for one that can be shown.
const LOOKED_AT_MAX: usize = 200;

/// For whom relations are summed up.
#[derive(Clone, Copy, Debug)]
pub struct Audience<'a> {
    pub viewer: Viewer<'a>,
    /// Whom the viewer does not want to hear from.
    pub ignored: &'a HashSet<OwnedUserId>,
}

/// How an event is shown: with its room id, and with a thread where it begins one.
#[derive(Clone, Copy)]
struct Depth {
    with_room_id: bool,
    with_thread: bool,
}

impl Rooms {
    /// As [`Rooms::to_client`], with what relates to the event summed up in `unsigned`.
    pub fn to_client_bundled(
        &self,
        event: &Event,
        audience: Audience<'_>,
        with_room_id: bool,
    ) -> Result<Box<RawJsonValue>, RoomError> {
        to_raw(&self.show_bundled(event, audience, with_room_id)?)
    }

    /// As [`Rooms::show`], with what relates to the event summed up in `unsigned`.
    pub fn show_bundled(
        &self,
        event: &Event,
        audience: Audience<'_>,
        with_room_id: bool,
    ) -> Result<ClientEvent, RoomError> {
        let format = self.bundled_format(event, audience, with_room_id)?;
        self.show_as(event, Some(audience.viewer), format)
    }

    pub(crate) fn bundled_format(
        &self,
        event: &Event,
        audience: Audience<'_>,
        with_room_id: bool,
    ) -> Result<ClientFormat, RoomError> {
        let depth = Depth { with_room_id, with_thread: true };
        let mut format = self.client_format(event, Some(audience.viewer), with_room_id)?;
        if let (Some(unsigned), Some(relations)) = (&mut format.unsigned, self.get_bundle(event, audience, depth)?) {
            unsigned.relations = Some(relations);
        }
        Ok(format)
    }

    fn get_bundle(
        &self,
        event: &Event,
        audience: Audience<'_>,
        depth: Depth,
    ) -> Result<Option<Map<String, Value>>, RoomError> {
        if event.pdu.is_state() {
            return Ok(None);
        }
        let prefix = (event.record.room, event.pdu.event_id.clone(), List::All.name());
        if self.store.scan(&RELATED, &prefix, Direction::Forward).next().transpose()?.is_none() {
            return Ok(None);
        }
        let mut eyes = self.eyes_of(event.record.room, audience.viewer.user)?;
        let mut relations = Map::new();
        // What an event was before it was redacted cannot be edited any more.
        if event.record.redacted_because.is_none()
            && let Some(edit) = self.get_edit(event, audience, &mut eyes)?
        {
            let format = self.client_format(&edit, Some(audience.viewer), depth.with_room_id)?;
            let edit = ClientEvent::new(edit.pdu.clone(), format).map_err(broken)?;
            relations.insert(REPLACE.to_owned(), serde_json::to_value(edit).map_err(broken)?);
        }
        let references = self.get_references(event, audience, &mut eyes)?;
        if !references.is_empty() {
            relations.insert(REFERENCE.to_owned(), json!({ "chunk": references }));
        }
        if depth.with_thread
            && let Some(thread) = self.get_thread_bundle(event, audience, &mut eyes)?
        {
            let depth = Depth { with_thread: false, ..depth };
            let mut format = self.client_format(&thread.latest, Some(audience.viewer), depth.with_room_id)?;
            if let (Some(unsigned), Some(of_latest)) =
                (&mut format.unsigned, self.get_bundle(&thread.latest, audience, depth)?)
            {
                unsigned.relations = Some(of_latest);
            }
            let latest = self.show_as(&thread.latest, Some(audience.viewer), format)?;
            let shown = json!({
                "latest_event": serde_json::to_value(latest).map_err(broken)?,
                "count": thread.count,
                "current_user_participated": self.has_part_in_thread(event, audience.viewer.user)?,
            });
            relations.insert(THREAD.to_owned(), shown);
        }
        Ok((!relations.is_empty()).then_some(relations))
    }

    /// The newest valid edit of an event.
    ///
    /// Spec: Client-Server API, Validity of replacement events.
    fn get_edit(
        &self,
        event: &Event,
        audience: Audience<'_>,
        eyes: &mut UserEyes<'_>,
    ) -> Result<Option<std::sync::Arc<Event>>, StoreError> {
        if relation_of(&event.pdu).is_some_and(|relation| relation.rel_type == REPLACE) {
            return Ok(None);
        }
        let list = List::Sender(&event.pdu.sender, REPLACE).name();
        let prefix = (event.record.room, event.pdu.event_id.clone(), list);
        let mut newest: Option<std::sync::Arc<Event>> = None;
        for row in self.store.scan(&RELATED, &prefix, Direction::Reverse).take(LOOKED_AT_MAX) {
            let (_, nid) = row?;
            let Some(edit) = self.get_event_by_nid(nid)? else { continue };
            if newest.as_ref().is_some_and(|newest| newest.pdu.origin_server_ts > edit.pdu.origin_server_ts) {
                break;
            }
            // Of those made in one millisecond the one with the greatest id counts.
            let is_newer = newest.as_ref().is_none_or(|newest| newest.pdu.event_id < edit.pdu.event_id);
            if is_newer
                && is_valid_edit(event, &edit)
                && is_shown(&edit, audience, eyes)?
                // An edit that is shown without its new content is none.
                && !self.is_erased_for_user(&edit, audience.viewer.user)?
            {
                newest = Some(edit);
            }
        }
        Ok(newest)
    }

    fn get_references(
        &self,
        event: &Event,
        audience: Audience<'_>,
        eyes: &mut UserEyes<'_>,
    ) -> Result<Vec<Value>, StoreError> {
        let prefix = (event.record.room, event.pdu.event_id.clone(), List::Type(REFERENCE).name());
        let mut references = Vec::new();
        for row in self.store.scan(&RELATED, &prefix, Direction::Forward).take(REFERENCES_MAX) {
            let (_, nid) = row?;
            let Some(reference) = self.get_event_by_nid(nid)? else { continue };
            if is_shown(&reference, audience, eyes)? {
                references.push(json!({ "event_id": reference.pdu.event_id }));
            }
        }
        Ok(references)
    }

    /// The thread that begins with an event, without what ignored users wrote; `None` if there is none to show.
    pub(super) fn get_thread_bundle(
        &self,
        root: &Event,
        audience: Audience<'_>,
        eyes: &mut UserEyes<'_>,
    ) -> Result<Option<ThreadBundle>, StoreError> {
        let (room, id) = (root.record.room, root.pdu.event_id.clone());
        let Some(thread) = self.store.get(&THREADS, &(room, id.clone(), String::new()))? else { return Ok(None) };
        if root.pdu.is_state() || relates(root) {
            return Ok(None);
        }
        let mut count = thread.count;
        for user in audience.ignored {
            let of_user = self.store.get(&THREADS, &(room, id.clone(), user.to_string()))?;
            count = count.saturating_sub(of_user.map_or(0, |of_user| of_user.count));
        }
        if count == 0 {
            return Ok(None);
        }
        let prefix = (room, id, List::Type(THREAD).name());
        for row in self.store.scan(&RELATED, &prefix, Direction::Reverse).take(LOOKED_AT_MAX) {
            let (_, nid) = row?;
            let Some(latest) = self.get_event_by_nid(nid)? else { continue };
            if is_shown(&latest, audience, eyes)? {
                return Ok(Some(ThreadBundle { latest, count }));
            }
        }
        Ok(None)
    }
}

/// A thread as one user is shown it.
pub(super) struct ThreadBundle {
    latest: std::sync::Arc<Event>,
    count: u64,
}

fn broken(error: serde_json::Error) -> RoomError {
    RoomError::broken(error.to_string())
}

fn is_valid_edit(event: &Event, edit: &Event) -> bool {
    #[derive(Deserialize)]
    struct Content {
        #[serde(rename = "m.new_content")]
        new_content: Option<Map<String, Value>>,
    }
    // Of an encrypted edit the new content is inside.
    let has_new_content = edit.pdu.kind == TimelineEventType::RoomEncrypted
        || edit.pdu.get_content::<Content>().is_ok_and(|content| content.new_content.is_some());
    edit.pdu.kind == event.pdu.kind && edit.pdu.sender == event.pdu.sender && !edit.pdu.is_state() && has_new_content
}
