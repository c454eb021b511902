//! Servers that are away for long: their events are not kept one by one. When such a server answers again, it is sent the newest
//! events of each room it is in, and fetches what it needs of what was before.
//!
//! EDUs are kept, those that a newer one makes pointless excepted.

use std::collections::HashSet;

use chappe_rooms::Rooms;
use chappe_store::{
    Batch, CommitError, Direction, EventNid, Position, RoomNid, StoreError, Topic,
    tables::{
        catch_up::{CATCH_UP, CatchUpRecord},
        outgoing::{OUTGOING, OutgoingItem},
        rooms::SERVER_ROOMS,
    },
};
use futures_util::future::BoxFuture;
use ruma::{OwnedServerName, ServerName};
use serde::Deserialize;
use serde_json::Value;

use super::{Inner, STORE_TROUBLE_PAUSE};

/// How long a server is away before its events are not kept any more, in milliseconds.
const KEPT_FOR_MS: u64 = 3_600_000;
/// How many events are kept for a server that does not answer.
const KEPT_MAX: usize = 1_000;
/// For how long a server may be away, in milliseconds, with any number of events kept: as long as a restart may take.
const RESTART_MS: u64 = 5 * 60_000;
/// How many rows one batch changes.
const ROWS_AT_ONCE: usize = 500;

/// Where the newest events of a room come from: the room engine, or a test.
pub trait NewestEvents: Send + Sync + 'static {
    /// See [`Rooms::get_newest_for`].
    fn get_newest<'a>(
        &'a self,
        server: &'a ServerName,
        room: RoomNid,
        since: Position,
    ) -> BoxFuture<'a, Result<Vec<EventNid>, StoreError>>;
}

impl NewestEvents for Rooms {
    fn get_newest<'a>(
        &'a self,
        server: &'a ServerName,
        room: RoomNid,
        since: Position,
    ) -> BoxFuture<'a, Result<Vec<EventNid>, StoreError>> {
        Box::pin(self.get_newest_for(server, room, since))
    }
}

#[derive(Debug, thiserror::Error)]
pub(super) enum CatchUpError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Commit(#[from] CommitError),
}

impl Inner {
    pub(super) fn get_catch_up(&self, server: &ServerName) -> Result<Option<CatchUpRecord>, StoreError> {
        self.store.get(&CATCH_UP, &server.to_owned())
    }

    /// After a failure: stops keeping events for a server that has been away for long.
    pub(super) async fn consider_catch_up(&self, server: &OwnedServerName) -> Result<(), CatchUpError> {
        if self.get_catch_up(server)?.is_none() {
            let failing_since_ms = self.destinations.get_failing_since_ms(server);
            let down_for_ms = failing_since_ms.map_or(0, |since| self.clock.now_ms().saturating_sub(since));
            let is_much = || self.store.scan(&OUTGOING, &(server.clone(),), Direction::Forward).nth(KEPT_MAX).is_some();
            if down_for_ms < RESTART_MS || (down_for_ms < KEPT_FOR_MS && !is_much()) {
                return Ok(());
            }
            tracing::info!(destination = %server, "server is away for long: its events are not kept any more");
        }
        self.begin_catch_up(server).await
    }

    /// From here on no events are kept for the server; those that are go, and with them EDUs that a newer one makes pointless.
    pub(super) async fn begin_catch_up(&self, server: &OwnedServerName) -> Result<(), CatchUpError> {
        let rows: Vec<(Position, OutgoingItem)> = self
            .store
            .scan(&OUTGOING, &(server.clone(),), Direction::Forward)
            .map(|row| row.map(|((_, position), item)| (position, item)))
            .collect::<Result<_, _>>()?;
        let mut batch = Batch::new();
        if self.get_catch_up(server)?.is_none_or(|record| record.is_ending) {
            let first = rows.iter().find(|(_, item)| matches!(item, OutgoingItem::Pdu(_)));
            let since = first.map_or(self.store.durable_position(), |(at, _)| Position(at.0.saturating_sub(1)));
            batch.put(&CATCH_UP, server, &CatchUpRecord { since: since.0, is_ending: false });
        }
        let (mut keys, mut deleted) = (HashSet::new(), 0);
        // From the newest to the oldest: the first of a key is the one to keep.
        for (position, item) in rows.into_iter().rev() {
            let is_kept = match item {
                OutgoingItem::Pdu(_) => false,
                OutgoingItem::Edu(edu) => device_list_key(&edu).is_none_or(|key| keys.insert(key)),
                OutgoingItem::CoalescedEdu { key, .. } => keys.insert(key),
            };
            if !is_kept {
                batch.delete(&OUTGOING, &(server.clone(), position));
                deleted += 1;
                if deleted % ROWS_AT_ONCE == 0 {
                    self.store.commit(std::mem::take(&mut batch)).await?;
                }
            }
        }
        if !batch.is_empty() {
            self.store.commit(batch).await?;
        }
        Ok(())
    }

    pub(super) async fn end_catch_up_or_pause(&self, server: &OwnedServerName) {
        if let Err(error) = self.end_catch_up(server).await {
            tracing::error!(destination = %server, %error, "server cannot be caught up with");
            tokio::time::sleep(STORE_TROUBLE_PAUSE).await;
        }
    }

    /// The server answers: events are queued for it again, and before all the newest ones of its rooms.
    pub(super) async fn end_catch_up(&self, server: &OwnedServerName) -> Result<(), CatchUpError> {
        let Some(record) = self.get_catch_up(server)? else { return Ok(()) };
        let mut batch = Batch::new();
        batch.put(&CATCH_UP, server, &CatchUpRecord { is_ending: true, ..record });
        self.store.commit(batch).await?;
        let rooms: Vec<RoomNid> = self
            .store
            .scan(&SERVER_ROOMS, &(server.clone(),), Direction::Forward)
            .map(|row| row.map(|((_, room), ())| room))
            .collect::<Result<_, _>>()?;
        let mut batch = Batch::new();
        let mut count = 0;
        for room in rooms {
            for event in self.newest.get_newest(server, room, Position(record.since)).await? {
                let position = batch.next_position();
                batch.put(&OUTGOING, &(server.clone(), position), &OutgoingItem::Pdu(event));
                count += 1;
                if count % ROWS_AT_ONCE == 0 {
                    self.store.commit(std::mem::take(&mut batch)).await?;
                }
            }
        }
        batch.delete(&CATCH_UP, server);
        batch.wake(Topic::Destination(server.clone()));
        self.store.commit(batch).await?;
        tracing::info!(destination = %server, events = count, "server is sent the newest events of its rooms");
        Ok(())
    }

    /// Whether the server is to be caught up with once it answers.
    ///
    /// What a crash interrupted is finished first, and a server with which no room is shared any more is forgotten.
    pub(super) async fn prepare_catch_up(&self, server: &OwnedServerName) -> Result<bool, CatchUpError> {
        let Some(record) = self.get_catch_up(server)? else { return Ok(false) };
        if record.is_ending {
            self.end_catch_up(server).await?;
            return Ok(false);
        }
        if self.store.scan(&SERVER_ROOMS, &(server.clone(),), Direction::Forward).next().is_none() {
            let mut batch = Batch::new();
            batch.delete(&CATCH_UP, server);
            self.store.commit(batch).await?;
            return Ok(false);
        }
        Ok(true)
    }
}

/// For a change of a user's devices or keys: the last one is enough to make a server that missed others fetch the whole list.
fn device_list_key(edu: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Edu {
        edu_type: String,
        content: Value,
    }
    let edu: Edu = serde_json::from_str(edu).ok()?;
    let is_list = matches!(edu.edu_type.as_str(), "m.device_list_update" | "m.signing_key_update");
    let user = edu.content.get("user_id").and_then(Value::as_str).filter(|_| is_list)?;
    Some(format!("{} {user}", edu.edu_type))
}
