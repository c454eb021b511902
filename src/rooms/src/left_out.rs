//! Events that were received in good order and could not be given a place: something before them was not to be had. They are kept
//! and tried again: soon after what is before them has arrived, and every now and then with the servers in the room.
//!
//! When to try is its owner's business (`services::federation::left_out`); this module says what is due.

use std::sync::Arc;

use chappe_protocol::{json, pdu::Pdu};
use chappe_store::{
    Batch, Direction, RoomNid, StoreError,
    tables::left_out::{LEFT_OUT_EVENTS, LeftOutRecord},
};
use ruma::{OwnedEventId, OwnedServerName, ServerName};

use crate::{Room, RoomError, Rooms};

/// How many events of one room are kept for later. What comes beyond that is only heard of again with a later event.
const LEFT_OUT_MAX: usize = 200;
/// The pause before the second try, in milliseconds; each further one is twice as long.
const PAUSE_FIRST_MS: u64 = 60_000;
/// The pause before the next try once nothing before an event is missing any more, in milliseconds: as like as not its server sends
/// it again itself.
const PAUSE_SHORT_MS: u64 = 10_000;
/// The longest pause, in milliseconds.
const PAUSE_MAX_MS: u64 = 6 * 3_600_000;
/// After how many tries an event is given up.
const TRIES_MAX: u32 = 12;
/// How many servers are asked in one try.
const SERVERS_MAX: usize = 3;

type Row = ((RoomNid, OwnedEventId), LeftOutRecord);

impl Rooms {
    /// Keeps an event for later. The caller holds the room's ingest lock.
    pub(crate) async fn leave_out(&self, origin: &ServerName, room: &Room, pdu: &Pdu) -> Result<(), RoomError> {
        let key = (room.nid, pdu.event_id.clone());
        if self.store.contains(&LEFT_OUT_EVENTS, &key)? || self.scan_left_out(room.nid)?.len() >= LEFT_OUT_MAX {
            return Ok(());
        }
        let raw = pdu.to_federation_raw().map_err(|error| RoomError::broken(error.to_string()))?;
        let record = LeftOutRecord {
            server: origin.to_owned(),
            tries: 1,
            retry_at_ms: self.clock.now_ms().saturating_add(PAUSE_FIRST_MS),
            json: raw.get().to_owned(),
        };
        let mut batch = Batch::new();
        batch.put(&LEFT_OUT_EVENTS, &key, &record);
        self.store.commit(batch).await?;
        Ok(())
    }

    /// Has what was left out of a room tried again soon, where nothing before it is missing any more. The caller holds the room's
    /// ingest lock.
    pub(crate) async fn hasten_followers(&self, room: &Room) -> Result<(), RoomError> {
        let soon_ms = self.clock.now_ms().saturating_add(PAUSE_SHORT_MS);
        let mut batch = Batch::new();
        for row in self.scan_left_out(room.nid)? {
            let is_complete = match self.read_left_out(room, &row) {
                Some(pdu) => self.unplaced_prevs(&pdu)?.is_empty(),
                None => true,
            };
            let (key, record) = row;
            if is_complete && record.retry_at_ms > soon_ms {
                batch.put(&LEFT_OUT_EVENTS, &key, &LeftOutRecord { retry_at_ms: soon_ms, ..record });
            }
        }
        if !batch.is_empty() {
            self.store.commit(batch).await?;
        }
        Ok(())
    }

    /// Tries again what is due. Answers how many events found their place.
    ///
    /// # Errors
    /// Only for trouble with this server's own store.
    pub async fn retry_left_out(&self) -> Result<usize, RoomError> {
        let now_ms = self.clock.now_ms();
        let mut due = Vec::new();
        for row in self.store.scan(&LEFT_OUT_EVENTS, &(), Direction::Forward) {
            let row = row?;
            if row.1.retry_at_ms <= now_ms {
                due.push(row);
            }
        }
        let mut placed = 0;
        for row in due {
            let Some(room) = self.get_room_by_nid(row.0.0)? else {
                self.delete_left_out(&row).await?;
                continue;
            };
            placed += usize::from(self.retry_one(&room, row).await?);
        }
        Ok(placed)
    }

    async fn retry_one(&self, room: &Room, row: Row) -> Result<bool, RoomError> {
        let Some(pdu) = self.read_left_out(room, &row) else {
            self.delete_left_out(&row).await?;
            return Ok(false);
        };
        let _queue = self.locks.ingest(&room.id).await;
        if self.is_placed(&pdu.event_id)? {
            self.delete_left_out(&row).await?;
            return Ok(false);
        }
        for server in self.servers_to_ask(room, &row.1.server)? {
            match self.ingest_pushed(&server, room, pdu.clone()).await {
                Ok(()) => {
                    self.delete_left_out(&row).await?;
                    self.hasten_followers(room).await?;
                    return Ok(true);
                }
                Err(error @ (RoomError::Store(_) | RoomError::Commit(_))) => return Err(error),
                Err(error) => {
                    tracing::debug!(%error, event.id = %pdu.event_id, room.id = %room.id, server = %server, "still left out");
                }
            }
        }
        self.postpone(row).await?;
        Ok(false)
    }

    /// The server the event came from, then others of the room.
    fn servers_to_ask(&self, room: &Room, first: &ServerName) -> Result<Vec<OwnedServerName>, RoomError> {
        let mut servers = vec![first.to_owned()];
        servers.extend(self.servers_with_history(room)?);
        crate::invite::dedup(&mut servers);
        servers.retain(|server| *server != self.server_name && self.gate.is_allowed(server));
        servers.truncate(SERVERS_MAX);
        Ok(servers)
    }

    async fn postpone(&self, (key, record): Row) -> Result<(), RoomError> {
        let tries = record.tries.saturating_add(1);
        let mut batch = Batch::new();
        if tries > TRIES_MAX {
            tracing::info!(event.id = %key.1, server = %record.server, "event given up: what is before it cannot be had");
            batch.delete(&LEFT_OUT_EVENTS, &key);
        } else {
            let pause_ms = PAUSE_FIRST_MS.saturating_mul(1 << record.tries.min(20)).min(PAUSE_MAX_MS);
            let retry_at_ms = self.clock.now_ms().saturating_add(pause_ms);
            batch.put(&LEFT_OUT_EVENTS, &key, &LeftOutRecord { tries, retry_at_ms, ..record });
        }
        self.store.commit(batch).await?;
        Ok(())
    }

    /// The event, whose signatures were checked before it was stored; `None` if its server is not allowed any more.
    fn read_left_out(&self, room: &Room, (_, record): &Row) -> Option<Arc<Pdu>> {
        let pdu = Pdu::from_object(json::parse_strict(&record.json).ok()?, &room.rules).ok()?;
        self.gate.is_allowed(pdu.sender.server_name()).then(|| Arc::new(pdu))
    }

    async fn delete_left_out(&self, (key, _): &Row) -> Result<(), RoomError> {
        let mut batch = Batch::new();
        batch.delete(&LEFT_OUT_EVENTS, key);
        self.store.commit(batch).await?;
        Ok(())
    }

    fn scan_left_out(&self, room: RoomNid) -> Result<Vec<Row>, StoreError> {
        self.store.scan(&LEFT_OUT_EVENTS, &(room,), Direction::Forward).collect()
    }
}
