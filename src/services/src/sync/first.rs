//! The first answer to a client: about every room of the user, read and serialised one after the other as the client takes them, so that
//! no more than a few of them are in memory. While one piece is sent the next one is read.
//!
//! All of it is as of one position of the log, whenever it is read. What can fail for the client's own fault, and everything but the joined
//! rooms, is read before the first byte is given: until then a failure is an answer of its own. Later it breaks off the answer.

use std::sync::Arc;

use bytes::Bytes;
use chappe_store::RoomNid;
use serde::Serialize;
use serde_json::error::Error as JsonError;
use tokio::task::JoinHandle;

use super::{
    AccountDataNews, Basis, SyncError, SyncRequest, SyncService,
    filter::SyncFilter,
    response::{JoinedRoom, RoomsSection},
    rooms::Outline,
};
use crate::presence::SyncGuard;

/// Rooms are read until there is so much to give, in bytes.
const CHUNK_BYTES: usize = 64 * 1024;

/// A first answer, given in chunks of JSON text.
pub struct FirstSync {
    /// The next chunk is read while the one before it is sent.
    next: Option<JoinHandle<Result<Chunk, SyncError>>>,
    first: Option<Bytes>,
    _presence: Option<SyncGuard>,
}

/// What is left to be read.
struct Reading {
    service: Arc<SyncService>,
    request: Arc<SyncRequest>,
    filter: Arc<SyncFilter>,
    basis: Basis,
    account_data: AccountDataNews,
    outline: Outline,
    /// The rooms that the user is not joined to, until they are written.
    outside: Option<RoomsSection>,
    rooms: std::vec::IntoIter<RoomNid>,
}

impl FirstSync {
    /// Reads everything that comes before the joined rooms, and the first of these.
    pub(super) async fn begin(
        service: Arc<SyncService>,
        request: Arc<SyncRequest>,
        filter: Arc<SyncFilter>,
        presence: Option<SyncGuard>,
    ) -> Result<Self, SyncError> {
        let (first, reading) = aside(move || {
            let (mut text, mut reading) = Reading::begin(service, request, filter)?;
            let is_over = reading.read(&mut text)?;
            Ok((text, (!is_over).then(|| Box::new(reading))))
        })
        .await?;
        Ok(Self { next: reading.map(read_on), first: Some(first.into()), _presence: presence })
    }

    /// The next piece of the answer; `None` at its end.
    pub async fn next_chunk(&mut self) -> Result<Option<Bytes>, SyncError> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        let Some(next) = self.next.take() else { return Ok(None) };
        let (text, reading) = next.await.map_err(|error| SyncError::Aborted(error.to_string()))??;
        self.next = reading.map(read_on);
        Ok(Some(text.into()))
    }
}

/// Text, and what is left to be read.
type Chunk = (Vec<u8>, Option<Box<Reading>>);

fn read_on(mut reading: Box<Reading>) -> JoinHandle<Result<Chunk, SyncError>> {
    tokio::task::spawn_blocking(move || {
        let mut text = Vec::with_capacity(CHUNK_BYTES);
        let is_over = reading.read(&mut text)?;
        Ok((text, (!is_over).then_some(reading)))
    })
}

impl Reading {
    /// The beginning of the answer, up to where the rooms go.
    fn begin(
        service: Arc<SyncService>,
        request: Arc<SyncRequest>,
        filter: Arc<SyncFilter>,
    ) -> Result<(Vec<u8>, Self), SyncError> {
        let basis = service.basis(&request, None)?;
        let view = service.view(&request, &filter, &basis);
        let account_data = view.read_account_data()?;
        let mut outline = view.read_outline(&account_data.rooms)?;
        let head = view.read_all_but_rooms(&basis, &account_data.global, &outline.found)?;
        let text = without_brace(&head).map_err(unwritable)?;
        let outside = Some(std::mem::take(&mut outline.section));
        let rooms: Vec<RoomNid> = std::mem::take(&mut outline.candidates).into_iter().collect();
        let rooms = rooms.into_iter();
        let reading = Self { service, request, filter, basis, account_data, outline, outside, rooms };
        Ok((text, reading))
    }

    /// Adds rooms until the text is long enough; true if that was all, and the answer ends.
    fn read(&mut self, text: &mut Vec<u8>) -> Result<bool, SyncError> {
        let view = self.service.view(&self.request, &self.filter, &self.basis);
        while text.len() < CHUNK_BYTES {
            let Some(nid) = self.rooms.next() else {
                end(text, self.outside.take()).map_err(unwritable)?;
                return Ok(true);
            };
            let read = view.read_candidate(nid, &mut self.outline, &self.account_data.rooms)?;
            let Some((room_id, part)) = read else { continue };
            match self.outside.take() {
                Some(outside) => begin_joined(text, &outside).map_err(unwritable)?,
                None => text.push(b','),
            }
            write_room(text, room_id.as_str(), &part).map_err(unwritable)?;
        }
        Ok(false)
    }
}

/// An object's text but for its last brace: more follows.
fn without_brace(object: &impl Serialize) -> Result<Vec<u8>, JsonError> {
    let mut text = serde_json::to_vec(object)?;
    text.pop();
    Ok(text)
}

/// Everything between the beginning of the answer and the first joined room.
fn begin_joined(text: &mut Vec<u8>, outside: &RoomsSection) -> Result<(), JsonError> {
    text.extend_from_slice(b",\"rooms\":");
    text.append(&mut without_brace(outside)?);
    text.extend_from_slice(if outside.is_empty() { b"\"join\":{" } else { b",\"join\":{" });
    Ok(())
}

/// The end of the answer. What is empty is left out, as in other answers.
fn end(text: &mut Vec<u8>, outside: Option<RoomsSection>) -> Result<(), JsonError> {
    match outside {
        // There were joined rooms.
        None => text.extend_from_slice(b"}}}"),
        Some(outside) if outside.is_empty() => text.push(b'}'),
        Some(outside) => {
            text.extend_from_slice(b",\"rooms\":");
            serde_json::to_writer(&mut *text, &outside)?;
            text.push(b'}');
        }
    }
    Ok(())
}

fn write_room(text: &mut Vec<u8>, room_id: &str, part: &JoinedRoom) -> Result<(), JsonError> {
    serde_json::to_writer(&mut *text, room_id)?;
    text.push(b':');
    serde_json::to_writer(text, part)
}

fn unwritable(error: JsonError) -> SyncError {
    SyncError::Aborted(error.to_string())
}

/// Reads off the threads that serve everybody else.
async fn aside<T: Send + 'static>(
    read: impl FnOnce() -> Result<T, SyncError> + Send + 'static,
) -> Result<T, SyncError> {
    tokio::task::spawn_blocking(read).await.map_err(|error| SyncError::Aborted(error.to_string()))?
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
                begin_joined(&mut text, &outside.take().unwrap()).unwrap();
                text.extend_from_slice(b"\"!j:x\":1");
            }
            end(&mut text, outside).unwrap();
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
