//! The first answer to a client: about every room of the user, read and serialised a few at a time while the client takes them, so that no more than
//! these are in memory. Several threads read: the order of the rooms means nothing.
//!
//! All of it is as of one position of the log, whenever it is read. What can fail for the client's own fault, and everything but the joined
//! rooms, is read before the first byte is given: until then a failure is an answer of its own. Later it breaks off the answer.

use std::{collections::VecDeque, num::NonZeroUsize, sync::Arc, thread};

use bytes::Bytes;
use chappe_store::RoomNid;
use serde::Serialize;
use serde_json::error::Error as JsonError;
use tokio::task::JoinSet;

use super::{
    AccountDataNews, Basis, SyncError, SyncRequest, SyncService,
    filter::SyncFilter,
    response::{JoinedRoom, RoomsSection},
    rooms::Outline,
};
use crate::presence::SyncGuard;

/// Rooms are read until there is so much to give, in bytes.
const CHUNK_BYTES: usize = 64 * 1024;
/// How many rooms a thread is given at a time.
const ROOMS_PER_CHUNK: usize = 16;
/// How many threads read for one answer at the most, so that one client does not take them all.
const READERS_MAX: usize = 4;
/// How many chunks there are for each thread, those that wait to be given included: so that no thread waits for the client.
const CHUNKS_PER_READER: usize = 2;

/// A first answer, given in chunks of JSON text.
pub struct FirstSync {
    sources: Arc<Sources>,
    /// The rooms that nobody has begun to read.
    rooms: VecDeque<RoomNid>,
    /// Chunks that are being read, or wait to be given, and how many there may be.
    reading: JoinSet<Result<Chunk, SyncError>>,
    reading_max: usize,
    /// Everything before the rooms, until it is given.
    head: Option<Bytes>,
    /// The rooms that the user is not joined to, until they are given.
    outside: Option<RoomsSection>,
    is_over: bool,
    _presence: Option<SyncGuard>,
}

/// What every chunk is read from.
struct Sources {
    service: Arc<SyncService>,
    request: Arc<SyncRequest>,
    filter: Arc<SyncFilter>,
    basis: Basis,
    account_data: AccountDataNews,
}

/// Some rooms.
struct Chunk {
    /// Members of an object, with a comma before each.
    text: Vec<u8>,
    /// Those that were not read, as there was enough.
    left: Vec<RoomNid>,
}

impl FirstSync {
    /// Reads everything that comes before the joined rooms, and begins to read these.
    pub(super) async fn begin(
        service: Arc<SyncService>,
        request: Arc<SyncRequest>,
        filter: Arc<SyncFilter>,
        presence: Option<SyncGuard>,
    ) -> Result<Self, SyncError> {
        let begun = tokio::task::spawn_blocking(move || Sources::begin(service, request, filter));
        let (head, outline, sources) = begun.await.map_err(|error| SyncError::Aborted(error.to_string()))??;
        let readers = thread::available_parallelism().map_or(1, NonZeroUsize::get).min(READERS_MAX);
        let mut first = Self {
            sources: Arc::new(sources),
            rooms: outline.candidates.into_iter().collect(),
            reading: JoinSet::new(),
            reading_max: readers * CHUNKS_PER_READER,
            head: Some(head.into()),
            outside: Some(outline.section),
            is_over: false,
            _presence: presence,
        };
        first.read_ahead();
        Ok(first)
    }

    /// The next piece of the answer; `None` at its end.
    pub async fn next_chunk(&mut self) -> Result<Option<Bytes>, SyncError> {
        if let Some(head) = self.head.take() {
            return Ok(Some(head));
        }
        while let Some(read) = self.reading.join_next().await {
            let chunk = read.map_err(|error| SyncError::Aborted(error.to_string()))??;
            self.rooms.extend(chunk.left);
            self.read_ahead();
            if chunk.text.is_empty() {
                continue;
            }
            let Some(outside) = self.outside.take() else { return Ok(Some(chunk.text.into())) };
            let mut text = begin_joined(&outside).map_err(unwritable)?;
            text.extend_from_slice(chunk.text.get(1..).unwrap_or_default());
            return Ok(Some(text.into()));
        }
        if self.is_over {
            return Ok(None);
        }
        self.is_over = true;
        Ok(Some(end(self.outside.take()).map_err(unwritable)?.into()))
    }

    fn read_ahead(&mut self) {
        while self.reading.len() < self.reading_max && !self.rooms.is_empty() {
            let rooms: Vec<RoomNid> = self.rooms.drain(..ROOMS_PER_CHUNK.min(self.rooms.len())).collect();
            let sources = self.sources.clone();
            self.reading.spawn_blocking(move || sources.read(rooms));
        }
    }
}

impl Sources {
    /// The beginning of the answer, up to where the rooms go, and what rooms there are.
    fn begin(
        service: Arc<SyncService>,
        request: Arc<SyncRequest>,
        filter: Arc<SyncFilter>,
    ) -> Result<(Vec<u8>, Outline, Self), SyncError> {
        let basis = service.basis(&request, None)?;
        let view = service.view(&request, &filter, &basis);
        let account_data = view.read_account_data()?;
        let outline = view.read_outline(&account_data.rooms)?;
        let head = view.read_all_but_rooms(&basis, &account_data.global, &outline.found)?;
        let text = without_brace(&head).map_err(unwritable)?;
        Ok((text, outline, Self { service, request, filter, basis, account_data }))
    }

    /// Reads rooms until there is enough.
    fn read(&self, rooms: Vec<RoomNid>) -> Result<Chunk, SyncError> {
        let view = self.service.view(&self.request, &self.filter, &self.basis);
        let mut text = Vec::with_capacity(CHUNK_BYTES + CHUNK_BYTES / 4);
        let mut rooms = rooms.into_iter();
        // Nothing is gathered of rooms in a first answer: all of them are new.
        let mut outline = Outline::default();
        while text.len() < CHUNK_BYTES {
            let Some(nid) = rooms.next() else { break };
            let read = view.read_candidate(nid, &mut outline, &self.account_data.rooms)?;
            let Some((room_id, part)) = read else { continue };
            text.push(b',');
            write_room(&mut text, room_id.as_str(), &part).map_err(unwritable)?;
        }
        Ok(Chunk { text, left: rooms.collect() })
    }
}

/// An object's text but for its last brace: more follows.
fn without_brace(object: &impl Serialize) -> Result<Vec<u8>, JsonError> {
    let mut text = serde_json::to_vec(object)?;
    text.pop();
    Ok(text)
}

/// Everything between the beginning of the answer and the first joined room.
fn begin_joined(outside: &RoomsSection) -> Result<Vec<u8>, JsonError> {
    let mut text = b",\"rooms\":".to_vec();
    text.append(&mut without_brace(outside)?);
    text.extend_from_slice(if outside.is_empty() { b"\"join\":{" } else { b",\"join\":{" });
    Ok(text)
}

/// The end of the answer. What is empty is left out, as in other answers.
fn end(outside: Option<RoomsSection>) -> Result<Vec<u8>, JsonError> {
    match outside {
        // There were joined rooms.
        None => Ok(b"}}}".to_vec()),
        Some(outside) if outside.is_empty() => Ok(b"}".to_vec()),
        Some(outside) => {
            let mut text = b",\"rooms\":".to_vec();
            serde_json::to_writer(&mut text, &outside)?;
            text.push(b'}');
            Ok(text)
        }
    }
}

fn write_room(text: &mut Vec<u8>, room_id: &str, part: &JoinedRoom) -> Result<(), JsonError> {
    serde_json::to_writer(&mut *text, room_id)?;
    text.push(b':');
    serde_json::to_writer(text, part)
}

fn unwritable(error: JsonError) -> SyncError {
    SyncError::Aborted(error.to_string())
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::sync::response::{InvitedRoom, SyncResponse};

    #[test]
    fn the_pieces_make_one_object() {
        let head = SyncResponse { next_batch: "s1".to_owned(), ..SyncResponse::default() };
        let whole = |outside: RoomsSection, has_joined: bool| -> Value {
            let mut text = without_brace(&head).unwrap();
            let mut outside = Some(outside);
            if has_joined {
                text.append(&mut begin_joined(&outside.take().unwrap()).unwrap());
                text.extend_from_slice(b"\"!j:x\":1");
            }
            text.append(&mut end(outside).unwrap());
            serde_json::from_slice(&text).unwrap()
        };
        let invited = || {
            let mut outside = RoomsSection::default();
            outside.invite.insert(ruma::owned_room_id!("!a:x"), InvitedRoom { invite_state: Default::default() });
            outside
        };
        let nothing = whole(RoomsSection::default(), false);
        assert_eq!((&nothing["next_batch"], nothing.get("rooms")), (&json!("s1"), None));
        assert_eq!(whole(RoomsSection::default(), true)["rooms"], json!({ "join": { "!j:x": 1 } }));
        assert!(whole(invited(), false)["rooms"].get("join").is_none());
        let both = whole(invited(), true);
        assert!(both["rooms"]["invite"]["!a:x"].is_object() && both["rooms"]["join"]["!j:x"] == 1);
    }
}
