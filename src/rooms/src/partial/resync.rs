//! Fetching, in the background, the members of rooms that were joined without them.
//!
//! Survives restarts, since all it needs is stored: the rooms, the servers that may be asked, and the events to be judged again. What
//! is fetched is checked and stored piece by piece. A room whose servers all fail to help is tried again later, ever more rarely.

use std::{collections::HashMap, io, sync::Arc, time::Duration};

use chappe_protocol::pdu::Pdu;
use chappe_store::{Direction, RoomNid, StoreError, tables::partial_rooms::PARTIAL_ROOMS};
use ruma::{EventId, OwnedEventId, OwnedServerName, ServerName, events::StateEventType};
use tokio::{runtime::Handle, task::JoinSet};

use super::rejudge::{Noted, Rejudged};
use crate::{Room, RoomError, Rooms, blocking, invite::dedup, remote::RawEvents, spool::EventSpool, state::StateRoot};

/// How long a room rests after every server failed to help, first and at the most.
const PAUSE_MIN: Duration = Duration::from_secs(2);
const PAUSE_MAX: Duration = Duration::from_secs(15 * 60);

/// How many servers are asked in turn.
const SERVERS_MAX: usize = 20;

/// How many events are checked and stored at a time.
const PIECE_EVENTS: usize = 250;

/// Of what is missing of a state, how many events are fetched one by one before the whole is asked for.
const SINGLE_FETCHES_MAX: usize = 20;

impl Rooms {
    /// Completes the rooms with partial state, those that there are and those to come, for as long as it is polled.
    pub async fn run_resyncs(self) {
        let mut tasks = JoinSet::new();
        let mut running: HashMap<tokio::task::Id, RoomNid> = HashMap::new();
        loop {
            let begun = self.partial.begun.notified();
            match self.scan_partial_rooms() {
                Ok(rooms) => {
                    for room in rooms {
                        if !running.values().any(|running| *running == room) {
                            let task = self.clone().resync(room);
                            running.insert(tasks.spawn(task).id(), room);
                        }
                    }
                }
                Err(error) => tracing::error!(%error, "rooms with partial state cannot be read"),
            }
            tokio::select! {
                Some(done) = tasks.join_next_with_id() => {
                    let id = match done {
                        Ok((id, ())) => id,
                        Err(error) => {
                            tracing::error!(%error, "completing a room broke off");
                            tokio::time::sleep(PAUSE_MIN).await;
                            error.id()
                        }
                    };
                    running.remove(&id);
                }
                () = begun => {}
            }
        }
    }

    fn scan_partial_rooms(&self) -> Result<Vec<RoomNid>, StoreError> {
        self.store.scan(&PARTIAL_ROOMS, &(), Direction::Forward).map(|row| row.map(|(room, _)| room)).collect()
    }

    async fn resync(self, room: RoomNid) {
        let mut pause = PAUSE_MIN;
        loop {
            match self.try_resync(room).await {
                Ok(()) => return,
                Err(error) => tracing::info!(%error, room.nid = %room, "the room's members could not be had yet"),
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE_MAX);
        }
    }

    /// Fetches what is missing of a room with partial state, and makes it an ordinary one.
    pub async fn try_resync(&self, nid: RoomNid) -> Result<(), RoomError> {
        let Some(room) = self.get_room_by_nid(nid)?.filter(|room| room.record.partial_state) else { return Ok(()) };
        let result = self.fetch_and_finish(&room).await;
        let result = match result {
            // Who is no longer in the room cannot learn who else was, and does not need to.
            Err(error @ (RoomError::Remote(_) | RoomError::Invalid(_) | RoomError::NotFound(_)))
                if !self.is_server_joined(nid, &self.server_name)? =>
            {
                tracing::info!(%error, room.id = %room.id, "this server has left the room before it knew all members");
                self.abandon_resync(&room).await
            }
            result => result,
        };
        if result.is_ok() {
            self.partial.finished.send_replace(());
        }
        result
    }

    async fn fetch_and_finish(&self, room: &Room) -> Result<(), RoomError> {
        let room = Arc::new(room.clone());
        let mut judged = Rejudged::default();
        loop {
            let noted = self.scan_partial_events(&room, judged.up_to)?;
            for prev in self.states_needed(&room, &noted)? {
                self.fetch_whole_state_of(&room, &prev).await?;
            }
            let (rooms, of) = (self.clone(), room.clone());
            judged = blocking(move || rooms.rejudge(&of, judged, &noted)).await?;
            if let Some(root) = self.root_after_join(room.nid, &judged)? {
                self.put_rows_ahead(&room, root).await?;
            }

            let writing = self.locks.write(&room.id).await;
            let late = self.scan_partial_events(&room, judged.up_to)?;
            if !self.states_needed(&room, &late)?.is_empty() {
                continue;
            }
            let (rooms, of) = (self.clone(), room.clone());
            let ticket = blocking(move || rooms.finish_resync(&of.id, judged, &late)).await?;
            drop(writing);
            if let Some(ticket) = ticket {
                ticket.durable().await?;
                tracing::info!(room.id = %room.id, "all members of the room are known");
            }
            return Ok(());
        }
    }

    pub(crate) async fn abandon_resync(&self, room: &Room) -> Result<(), RoomError> {
        self.take_rows_back(room).await?;
        let writing = self.locks.write(&room.id).await;
        let (rooms, room_id) = (self.clone(), room.id.clone());
        let ticket = blocking(move || rooms.abandon_partial(&room_id)).await?;
        drop(writing);
        ticket.durable().await?;
        Ok(())
    }

    /// The prev events of noted events that are themselves in no timeline here, and the state after which has yet to be fetched.
    fn states_needed(&self, room: &Room, noted: &Noted) -> Result<Vec<OwnedEventId>, RoomError> {
        let mut needed = Vec::new();
        for (_, nid) in noted {
            let Some(event) = self.get_event_by_nid(*nid)? else { continue };
            for prev in &event.pdu.prev_events {
                if !self.is_placed(prev)? && self.get_fetched_state(room.nid, prev)?.is_none() {
                    needed.push(prev.clone());
                }
            }
        }
        needed.sort_unstable();
        needed.dedup();
        Ok(needed)
    }

    /// The servers that may know the room's state, the one that let this server in first.
    fn servers_to_complete_from(&self, room: &Room) -> Result<Vec<OwnedServerName>, RoomError> {
        let mut servers = Vec::new();
        servers.extend(self.store.get(&PARTIAL_ROOMS, &room.nid)?.map(|partial| partial.value.via));
        servers.extend(self.get_joined_servers(room.nid)?);
        dedup(&mut servers);
        servers.retain(|server| *server != self.server_name && self.gate.is_allowed(server));
        servers.truncate(SERVERS_MAX);
        Ok(servers)
    }

    pub(crate) async fn fetch_whole_state_of(&self, room: &Arc<Room>, event_id: &EventId) -> Result<(), RoomError> {
        let mut failure = RoomError::NotFound("No server of the room is known".to_owned());
        for server in self.servers_to_complete_from(room)? {
            match self.fetch_whole_state(&server, room, event_id).await {
                Ok(root) => return self.note_fetched_state(room.nid, event_id, root),
                Err(error) => {
                    tracing::info!(%error, room.id = %room.id, server = %server, "state not had from this server");
                    failure = error;
                }
            }
        }
        Err(failure)
    }

    /// The state after an event, as a server tells it, however large.
    async fn fetch_whole_state(
        &self,
        server: &ServerName,
        room: &Arc<Room>,
        event_id: &EventId,
    ) -> Result<StateRoot, RoomError> {
        let (state, auth_chain) = self.remote.fetch_state_ids(server, &room.id, event_id).await?;
        let mut wanted = state.clone();
        wanted.push(event_id.to_owned());
        wanted.extend(auth_chain);
        let mut missing = self.unknown_of(&wanted)?;
        if missing.len() > SINGLE_FETCHES_MAX {
            self.fetch_and_store_state(server, room, event_id).await?;
            missing = self.unknown_of(&wanted)?;
            // The event itself first: it is not part of the state before it.
            missing.sort_by_key(|id| id == event_id);
        }
        self.fetch_single_events(server, room, missing).await?;
        let mut of_state = state;
        // What is left out of the state for good is left out here too.
        if self.get_event(event_id)?.is_some() || !self.is_of_denied_server(server, room, event_id).await? {
            of_state.push(event_id.to_owned());
        }
        let (rooms, room, event_id) = (self.clone(), room.clone(), event_id.to_owned());
        blocking(move || rooms.build_state_after(&room, of_state, &event_id)).await
    }

    fn build_state_after(
        &self,
        room: &Room,
        state: Vec<OwnedEventId>,
        event_id: &EventId,
    ) -> Result<StateRoot, RoomError> {
        let mut trees = self.trees.begin(room.nid);
        let mut entries = Vec::with_capacity(state.len());
        for id in state.iter().map(|id| &**id) {
            let Some(event) = self.get_event(id)? else {
                if id == event_id {
                    return Err(RoomError::Invalid(format!("Event {id} could not be had")));
                }
                // Nobody can check what is signed with a key that is lost: such events are in the state of no new member.
                tracing::debug!(event.id = %id, room.id = %room.id, "event of the state could not be had");
                continue;
            };
            if event.is_rejected() || event.record.room != room.nid {
                continue;
            }
            entries.extend(self.state_entry(&event)?);
        }
        let root = trees.build(entries)?;
        let create = self.store.interner().get_state_key(&self.store, &StateEventType::RoomCreate, "")?;
        let has_create = match create {
            Some(key) => trees.get(root, key)?.is_some(),
            None => false,
        };
        self.store_trees(trees)?;
        if !has_create {
            return Err(RoomError::Invalid("The state has no create event".to_owned()));
        }
        Ok(root)
    }

    /// Fetches the state before an event and its auth chain, and stores what passes its checks. It is put aside on disk as it arrives, and
    /// taken in a piece at a time, in an order in which each event comes after its auth events.
    pub(crate) async fn fetch_and_store_state(
        &self,
        server: &ServerName,
        room: &Room,
        event_id: &EventId,
    ) -> Result<(), RoomError> {
        let broken = |error: io::Error| RoomError::broken(format!("a large state could not be put aside: {error}"));
        let mut spool = EventSpool::new(self.config.spool_dir.as_deref()).map_err(broken)?;
        self.remote.fetch_state(server, &room.id, event_id, &mut |event: &str| spool.push(event)).await?;
        let mut events = spool.into_events().map_err(broken)?;
        let room = Arc::new(room.clone());
        // While one piece is stored the next one is checked.
        let mut next = self.spawn_checks(&room, events.read_next(PIECE_EVENTS).map_err(broken)?);
        while !(next.is_empty() && events.is_empty()) {
            let mut piece =
                std::mem::replace(&mut next, self.spawn_checks(&room, events.read_next(PIECE_EVENTS).map_err(broken)?));
            let mut checked = Vec::with_capacity(PIECE_EVENTS);
            while let Some(part) = piece.join_next().await {
                for outcome in part.map_err(|error| RoomError::broken(error.to_string()))? {
                    match outcome {
                        Ok(pdu) => checked.push(pdu),
                        Err(error) => tracing::info!(%error, room.id = %room.id, "event of the state is bad"),
                    }
                }
            }
            self.store_checked_outliers(&room, checked).await?;
        }
        Ok(())
    }

    /// Checks events on threads that may be busy for long, as many at a time as there are cores.
    fn spawn_checks(&self, room: &Arc<Room>, events: RawEvents) -> JoinSet<Vec<Result<Arc<Pdu>, RoomError>>> {
        let mut checks = JoinSet::new();
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let part_events = events.len().div_ceil(cores).max(1);
        let mut events = events.into_iter().peekable();
        while events.peek().is_some() {
            let part: RawEvents = events.by_ref().take(part_events).collect();
            let (rooms, room, runtime) = (self.clone(), room.clone(), Handle::current());
            checks.spawn_blocking(move || {
                // Now and then a key has to be fetched.
                part.iter().map(|raw| runtime.block_on(rooms.check_pdu(&room, raw))).collect()
            });
        }
        checks
    }
}
