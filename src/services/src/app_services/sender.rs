//! Tells application services what happens: one task for each, which follows the log of events.
//!
//! What goes into a transaction is decided once, and written to the store together with the places up to which everything is dealt
//! with; then it is sent until the service acknowledges it, however often the server restarts. So a service sees every event in
//! order, and a transaction never changes. Typing, receipts and presence are told as they are when the transaction is made; what
//! of them happened while the server was down is not told.
//!
//! This is no [`crate::event_follower::Work`], and has a loop of its own: events are one of several things that a transaction is made of, all of
//! which are read as of the same moment and committed with their places together; the next one is made only once it is taken.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
    time::Duration,
};

use chappe_rooms::{Event, Rooms};
use chappe_store::{
    Batch, CommitError, Direction, Position, RoomNid, StoreError, Topic,
    tables::{
        app_services::{
            APP_SERVICE_PLACES, APP_SERVICE_TRANSACTIONS, AppServicePlaces, AppServiceTransaction, OUT_OF_BAND_LOG,
        },
        to_device::TO_DEVICE,
    },
};
use parking_lot::Mutex;
use ruma::OwnedUserId;
use tokio::sync::Notify;

use super::{
    Registration,
    client::AppServices,
    transaction::{Contents, Interest},
};
use crate::{
    accounts::CreateSenderError,
    event_follower::{EventFollower, TROUBLE_PAUSE},
    presence::Presence,
    receipts::Receipts,
    typing::Typing,
};

/// How many events are looked at for one transaction.
const EVENTS_MAX: usize = 100;
/// How many rooms and users are remembered between two transactions as having news that are not events.
const HINTS_MAX: usize = 10_000;
/// How long is waited after the first failed attempt; each further one doubles it.
const RETRY_FIRST: Duration = Duration::from_secs(1);
/// The longest wait between two attempts.
const RETRY_LONGEST: Duration = Duration::from_secs(300);
/// After how many events that are none of its business a service's place is written all the same.
const SKIPPED_MAX: u64 = 200;

#[derive(Debug, thiserror::Error)]
pub enum SenderError {
    #[error(transparent)]
    Read(#[from] StoreError),
    #[error(transparent)]
    Write(#[from] CommitError),
    #[error(transparent)]
    Account(#[from] CreateSenderError),
}

/// What the senders read.
#[derive(Clone)]
pub struct SenderSources {
    pub app_services: AppServices,
    pub rooms: Rooms,
    pub typing: Arc<Typing>,
    pub receipts: Arc<Receipts>,
    pub presence: Arc<Presence>,
}

/// Where something happened that is not an event. Only hints: what is told is read from the store.
#[derive(Default)]
struct Hints {
    typing: BTreeSet<RoomNid>,
    rooms: BTreeSet<RoomNid>,
    presence: BTreeMap<OwnedUserId, BTreeSet<RoomNid>>,
    users: BTreeSet<OwnedUserId>,
}

impl Hints {
    fn add(&mut self, others: Self) {
        let Self { typing, rooms, presence, users } = others;
        self.typing.extend(typing);
        self.rooms.extend(rooms);
        self.users.extend(users);
        for (user, rooms) in presence {
            self.presence.entry(user).or_default().extend(rooms);
        }
    }
}

/// The task of one service.
pub struct AppServiceSender {
    service: Arc<Registration>,
    sources: SenderSources,
    follower: EventFollower,
    interest: Interest,
    places: AppServicePlaces,
    /// Up to where a room's receipts have been told; before [`Self::started_at`] they are not.
    receipts_told: HashMap<RoomNid, Position>,
    started_at: Position,
    hints: Arc<Mutex<Hints>>,
    hinted: Arc<Notify>,
    /// Users with messages to devices that are not in any transaction yet.
    waiting: BTreeSet<OwnedUserId>,
    skipped: u64,
}

impl AppServiceSender {
    /// Makes the accounts of the services' senders, and a task for each service that is to be told anything.
    pub async fn prepare(sources: &SenderSources) -> Result<Vec<Self>, SenderError> {
        let mut senders = Vec::new();
        for service in sources.app_services.registrations().iter() {
            sources.app_services.accounts().ensure_sender(service).await?;
            if service.url.is_some() {
                let mut sender = Self::new(service.clone(), sources.clone())?;
                sender.write_places().await?;
                senders.push(sender);
            }
        }
        Ok(senders)
    }

    fn new(service: Arc<Registration>, sources: SenderSources) -> Result<Self, SenderError> {
        let store = sources.rooms.store();
        let started_at = store.durable_position();
        let follower = EventFollower::open(format!("app_service:{}", service.id), &sources.rooms)?;
        let fresh = AppServicePlaces {
            number: 0,
            to_device: started_at.0,
            device_lists: started_at.0,
            out_of_band: started_at.0,
        };
        let places = store.get(&APP_SERVICE_PLACES, &service.id)?.unwrap_or(fresh);
        let interest = Interest::new(service.clone(), sources.rooms.clone());
        let waiting = if service.receive_ephemeral {
            interest.scan_waiting_users(Position(places.to_device))?
        } else {
            BTreeSet::new()
        };
        let hints = Arc::new(Mutex::new(Hints::default()));
        let hinted = Arc::new(Notify::new());
        let sender = Self {
            service,
            follower,
            interest,
            places,
            receipts_told: HashMap::new(),
            started_at,
            hints,
            hinted,
            waiting,
            skipped: 0,
            sources,
        };
        sender.listen();
        Ok(sender)
    }

    /// Writes where a new service begins, so that what comes while the server is down is not missed.
    async fn write_places(&mut self) -> Result<(), SenderError> {
        let mut batch = Batch::new();
        self.follower.advance(&mut batch, self.follower.place());
        batch.put(&APP_SERVICE_PLACES, &self.service.id, &self.places);
        self.sources.rooms.store().commit(batch).await?;
        Ok(())
    }

    fn listen(&self) {
        let store = self.sources.rooms.store();
        let (hints, hinted, service) = (self.hints.clone(), self.hinted.clone(), self.service.clone());
        store.observe(move |_, topics| {
            let mut hints = hints.lock();
            for topic in topics {
                match topic {
                    Topic::Room(room) if service.receive_ephemeral && hints.rooms.len() < HINTS_MAX => {
                        hints.rooms.insert(*room);
                    }
                    Topic::User(user_id) if service.covers_user(user_id) && hints.users.len() < HINTS_MAX => {
                        hints.users.insert(user_id.clone());
                    }
                    _ => {}
                }
            }
            drop(hints);
            hinted.notify_one();
        });
        if !self.service.receive_ephemeral {
            return;
        }
        let (hints, hinted) = (self.hints.clone(), self.hinted.clone());
        self.sources.typing.on_change(move |room| {
            let mut hints = hints.lock();
            if hints.typing.len() < HINTS_MAX {
                hints.typing.insert(room);
                hinted.notify_one();
            }
        });
        let (hints, hinted) = (self.hints.clone(), self.hinted.clone());
        self.sources.presence.on_change(move |user_id, rooms| {
            let mut hints = hints.lock();
            if hints.presence.len() < HINTS_MAX {
                hints.presence.entry(user_id.to_owned()).or_default().extend(rooms);
                hinted.notify_one();
            }
        });
    }

    /// Tells the service, for as long as the server runs.
    pub async fn run(mut self) {
        loop {
            match self.step().await {
                Ok(true) => {}
                Ok(false) => self.hinted.notified().await,
                Err(error) => {
                    tracing::error!(%error, service = self.service.id, "telling an application service: the store fails");
                    tokio::time::sleep(TROUBLE_PAUSE).await;
                }
            }
        }
    }

    /// Sends what is on its way, and else makes the next transaction. False: there is nothing to tell.
    async fn step(&mut self) -> Result<bool, SenderError> {
        let store = self.sources.rooms.store().clone();
        if let Some(transaction) = store.get(&APP_SERVICE_TRANSACTIONS, &self.service.id)? {
            self.deliver(&transaction).await;
            let mut batch = Batch::new();
            batch.delete(&APP_SERVICE_TRANSACTIONS, &self.service.id);
            store.commit(batch).await?;
            return Ok(true);
        }
        self.make().await
    }

    /// Sends a transaction until the service takes it.
    async fn deliver(&self, transaction: &AppServiceTransaction) {
        let id = transaction.number.to_string();
        let mut pause = RETRY_FIRST;
        loop {
            let body = transaction.body.clone().into();
            match self.sources.app_services.push(&self.service, &id, body).await {
                Ok(()) => return,
                Err(reason) => {
                    tracing::warn!(
                        service = self.service.id,
                        transaction = id,
                        reason,
                        "an application service did not take a transaction"
                    );
                }
            }
            tokio::time::sleep(pause.mul_f64(rand::random_range(0.8..1.2))).await;
            pause = (pause * 2).min(RETRY_LONGEST);
        }
    }

    /// Makes the next transaction, if there is anything to tell.
    async fn make(&mut self) -> Result<bool, SenderError> {
        let hints = std::mem::take(&mut *self.hints.lock());
        let made = self.make_of(&hints).await;
        if made.is_err() {
            self.hints.lock().add(hints);
        }
        made
    }

    async fn make_of(&mut self, hints: &Hints) -> Result<bool, SenderError> {
        let store = self.sources.rooms.store().clone();
        let now = store.durable_position();
        let mut places = self.places;
        let mut contents = Contents::default();
        self.waiting.extend(hints.users.iter().cloned());

        places.out_of_band = self.add_out_of_band(&mut contents, now)?.0;
        let events = self.follower.read(EVENTS_MAX)?;
        let is_more = events.len() >= EVENTS_MAX;
        let dealt_with = self.interest.add_events(&mut contents, &events)?;
        if self.service.receive_ephemeral {
            let span = (Position(places.to_device), now);
            let came_to = self.interest.add_to_device(&mut contents, &self.waiting, span)?;
            places.to_device = came_to.0;
            if came_to >= now {
                self.waiting.clear();
            }
            self.add_ephemeral(&mut contents, hints, now)?;
        }
        if self.service.device_changes {
            let span = (Position(places.device_lists), now);
            places.device_lists = self.interest.add_device_lists(&mut contents, span)?.0;
        }

        let is_nothing = contents.is_empty();
        if is_nothing {
            // Nothing of all this concerns the service: its place is noted now and then.
            self.skipped = self.skipped.saturating_add(events.len() as u64);
            if let Some(position) = dealt_with {
                self.follower.skip(position);
            }
            self.places = places;
            if self.skipped < SKIPPED_MAX {
                return Ok(is_more);
            }
        } else {
            places.number = places.number.saturating_add(1);
        }
        let mut batch = Batch::new();
        self.skipped = 0;
        if let Some(position) = dealt_with.or_else(|| is_nothing.then(|| self.follower.place())) {
            self.follower.advance(&mut batch, position);
        }
        batch.put(&APP_SERVICE_PLACES, &self.service.id, &places);
        if !is_nothing {
            for delivered in &contents.delivered {
                batch.delete(&TO_DEVICE, delivered);
            }
            let transaction = AppServiceTransaction { number: places.number, body: self.interest.body(&contents)? };
            batch.put(&APP_SERVICE_TRANSACTIONS, &self.service.id, &transaction);
        }
        store.commit(batch).await?;
        self.places = places;
        Ok(is_more || !is_nothing)
    }

    /// Invites of the service's users, and the like, in rooms that this server is not in.
    fn add_out_of_band(&mut self, contents: &mut Contents, now: Position) -> Result<Position, StoreError> {
        let store = self.sources.rooms.store();
        let mut events: Vec<(Position, Arc<Event>)> = Vec::new();
        let mut read = 0;
        let mut came_to = now;
        let after = Position(self.places.out_of_band);
        for row in store.scan_range(&OUT_OF_BAND_LOG, &after.next(), &now.next(), Direction::Forward).take(EVENTS_MAX) {
            let (position, nid) = row?;
            read += 1;
            if let Some(event) = self.sources.rooms.get_event_by_nid(nid)? {
                events.push((position, event));
            }
            if read == EVENTS_MAX {
                came_to = position;
            }
        }
        match (self.interest.add_events(contents, &events)?, events.last()) {
            // There was no room for all of them.
            (dealt_with, Some((last, _))) if dealt_with != Some(*last) => Ok(dealt_with.unwrap_or(after)),
            _ => Ok(came_to),
        }
    }

    fn add_ephemeral(&mut self, contents: &mut Contents, hints: &Hints, now: Position) -> Result<(), StoreError> {
        for room in &hints.typing {
            self.interest.add_typing(contents, &self.sources.typing, *room)?;
        }
        for room in &hints.rooms {
            let after = self.receipts_told.insert(*room, now).unwrap_or(self.started_at);
            self.interest.add_receipts(contents, &self.sources.receipts, *room, (after, now))?;
        }
        for (user_id, rooms) in &hints.presence {
            self.interest.add_presence(contents, &self.sources.presence, user_id, rooms)?;
        }
        Ok(())
    }
}
