//! A few servers with a room between them, and what happens to them.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::Ordering},
};

use chappe_store::{
    Batch, Direction, EventNid, Order,
    tables::{
        events::{EVENTS, EventStatus},
        outgoing::{OUTGOING, OutgoingItem},
    },
};
use rand::{RngExt, SeedableRng, rngs::StdRng, seq::IndexedRandom};
use ruma::{OwnedEventId, OwnedRoomId, OwnedServerName, OwnedUserId, RoomVersionId};
use serde_json::json;

use super::super::network::{Network, content, public_room, set_topic, state_of, text, user};
use crate::{
    EventDraft, Room, Rooms,
    backfill::Backfilled,
    fsck::{Check, Finding, check_rooms},
    membership::MemberProfile,
};

/// In how many rounds of speaking and retrying the servers must come together.
const ROUNDS: usize = 3;
const VERSIONS: [RoomVersionId; 4] = [RoomVersionId::V6, RoomVersionId::V10, RoomVersionId::V11, RoomVersionId::V12];

/// How much of a world there is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Scale {
    /// The most servers.
    pub(super) servers: usize,
    /// Users of each.
    pub(super) users: usize,
    /// How many things happen before the network is whole again.
    pub(super) steps: usize,
}

impl Scale {
    pub(super) const SMALL: Self = Self { servers: 3, users: 1, steps: 24 };
    pub(super) const LARGE: Self = Self { servers: 4, users: 2, steps: 60 };

    /// One seed of many is of a large world: what a small one does not show is seldom, and costs several times as much.
    pub(super) fn of(seed: u64) -> Self {
        if seed.is_multiple_of(16) { Self::LARGE } else { Self::SMALL }
    }
}

pub(super) struct World {
    scale: Scale,
    pub(super) rng: StdRng,
    pub(super) network: Arc<Network>,
    pub(super) servers: Vec<Rooms>,
    pub(super) users: Vec<OwnedUserId>,
    pub(super) room_id: OwnedRoomId,
    said: u64,
}

/// What a server holds of the room in the end.
#[derive(PartialEq, Eq, Debug)]
struct Held {
    state: BTreeMap<(String, String), OwnedEventId>,
    extremities: Vec<OwnedEventId>,
}

impl World {
    pub(super) async fn new(seed: u64, scale: Scale) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let network = Network::new();
        network.omits_members.store(rng.random_bool(0.3), Ordering::Relaxed);
        let count = rng.random_range(2..=scale.servers);
        let servers: Vec<Rooms> = (0..count).map(|n| network.add(&format!("s{n}.example"))).collect();
        let mut users = Vec::new();
        for server in &servers {
            users.extend((0..scale.users).map(|n| user(server, &format!("user{n}"))));
        }
        let version = VERSIONS.choose(&mut rng).expect("versions").clone();
        let room_id = public_room(&servers[0], &users[0], version).await;
        let mut world = Self { scale, rng, network, servers, users, room_id, said: 0 };
        for n in 1..world.users.len() {
            world.tick();
            world.join(n).await;
            world.network.deliver().await;
        }
        world
    }

    /// Servers that are in the room from now on, and hear nothing more of it.
    pub(super) async fn add_listeners(&mut self, count: usize) -> Vec<Rooms> {
        let listeners: Vec<Rooms> = (0..count).map(|n| self.network.add(&format!("listener{n}.example"))).collect();
        let first = self.servers[0].server_name().to_owned();
        for listener in &listeners {
            self.tick();
            let user = user(listener, "listener");
            let via = std::slice::from_ref(&first);
            listener.join(&user, &self.room_id, via, &MemberProfile::default(), None).await.expect("join");
            self.network.deliver().await;
            let room = self.room_of(listener).expect("room");
            listener.try_resync(room.nid).await.expect("members");
        }
        listeners.iter().for_each(|listener| self.network.set_down(listener, true));
        listeners
    }

    /// Things happen, and the network does to them what it does.
    pub(super) async fn run(&mut self) {
        for _ in 0..self.scale.steps {
            self.act().await;
            for _ in 0..self.rng.random_range(0..4) {
                self.carry().await;
            }
            if self.rng.random_bool(0.04) {
                self.restart_one();
            }
            if self.rng.random_bool(0.1) {
                let at = self.rng.random_range(0..self.servers.len());
                self.complete(at).await;
            }
        }
    }

    fn restart_one(&mut self) {
        let at = self.rng.random_range(0..self.servers.len());
        self.servers[at] = self.network.restart(&self.servers[at]);
    }

    fn room_of(&self, server: &Rooms) -> Option<Room> {
        server.get_room(&self.room_id).expect("read")
    }

    fn is_partial(&self, server: &Rooms) -> bool {
        self.room_of(server).is_some_and(|room| room.record.partial_state)
    }

    /// A server that does not know the room's members asks for them.
    async fn complete(&self, at: usize) {
        let server = &self.servers[at];
        if let Some(room) = self.room_of(server) {
            // Nobody may be there to tell it.
            let _ = server.try_resync(room.nid).await;
        }
    }

    /// No two events are of one instant: what ties by time is decided by event id.
    fn tick(&mut self) {
        let by_ms = self.rng.random_range(1..5_000);
        self.network.clock.advance(by_ms);
    }

    fn server_of(&self, user: &OwnedUserId) -> Rooms {
        let server = self.servers.iter().find(|server| server.server_name() == user.server_name());
        server.expect("a user's server").clone()
    }

    async fn join(&self, n: usize) {
        let user = &self.users[n];
        let via: Vec<OwnedServerName> = self
            .servers
            .iter()
            .map(|server| server.server_name().to_owned())
            .filter(|name| name != user.server_name())
            .collect();
        // Refused where the user is banned, or nobody is reached.
        let _ = self.server_of(user).join(user, &self.room_id, &via, &MemberProfile::default(), None).await;
    }

    async fn say(&mut self, user: &OwnedUserId) {
        self.said += 1;
        let body = format!("{} says {}", user, self.said);
        let _ = self.server_of(user).send(user, &self.room_id, text(&body)).await;
    }

    /// Somebody does something, allowed or not.
    async fn act(&mut self) {
        self.tick();
        let actor = self.users.choose(&mut self.rng).expect("users").clone();
        let other = self.users[1..].choose(&mut self.rng).expect("users").clone();
        let server = self.server_of(&actor);
        let room_id = self.room_id.clone();
        self.said += 1;
        let n = self.said;
        let act = self.rng.random_range(0..20);
        // Whoever needs to know all members waits for them.
        if matches!(act, 3..=5 | 8) && self.is_partial(&server) {
            return;
        }
        match act {
            0 | 1 => drop(server.send(&actor, &room_id, set_topic(&n.to_string())).await),
            2 => {
                let name = EventDraft::state("m.room.name", "", content(json!({ "name": n.to_string() })));
                drop(server.send(&actor, &room_id, name).await);
            }
            3 => drop(server.ban(&actor, &room_id, &other, None).await),
            4 => drop(server.unban(&actor, &room_id, &other, None).await),
            5 => drop(server.kick(&actor, &room_id, &other, None).await),
            6 if actor != self.users[0] => drop(server.leave(&actor, &room_id, None).await),
            7 => {
                let rule = if self.rng.random_bool(0.7) { "public" } else { "invite" };
                let rules = EventDraft::state("m.room.join_rules", "", content(json!({ "join_rule": rule })));
                drop(server.send(&actor, &room_id, rules).await);
            }
            8 => drop(server.invite(&actor, &room_id, &other, None).await),
            9 => self.set_levels(&actor).await,
            10 | 11 => {
                let who = self.rng.random_range(1..self.users.len());
                self.join(who).await;
            }
            _ => self.say(&actor).await,
        }
    }

    /// The first user or a moderator hands out other levels. Speaking stays everybody's right.
    async fn set_levels(&mut self, actor: &OwnedUserId) {
        let server = self.server_of(actor);
        let Ok(Some(room)) = server.get_room(&self.room_id) else { return };
        let kind = ruma::events::StateEventType::RoomPowerLevels;
        let Ok(Some(mut levels)) = server.get_state_content::<serde_json::Value>(room.nid, &kind, "") else { return };
        let who = self.users[1..].choose(&mut self.rng).expect("users").to_string();
        levels["users"][who] = json!([0, 50, 100].choose(&mut self.rng));
        levels["invite"] = json!([0, 50].choose(&mut self.rng));
        drop(server.send(actor, &self.room_id, EventDraft::state("m.room.power_levels", "", content(levels))).await);
    }

    /// The network does something with what is under way, or to itself.
    async fn carry(&mut self) {
        if self.rng.random_bool(0.08) && self.servers.len() > 1 {
            let pair: Vec<_> = self.servers.sample(&mut self.rng, 2).cloned().collect();
            let is_cut = self.rng.random_bool(0.6);
            self.network.set_cut(&pair[0], &pair[1], is_cut);
        }
        let from = self.servers.choose(&mut self.rng).expect("servers").clone();
        let queued: Vec<_> =
            from.store().scan(&OUTGOING, &(), Direction::Forward).collect::<Result<_, _>>().expect("queue");
        if queued.is_empty() {
            return;
        }
        let at = if self.rng.random_bool(0.6) { 0 } else { self.rng.random_range(0..queued.len()) };
        let (key, item) = queued[at].clone();
        // Whoever sends keeps trying, or gives up what is old for the sake of what is new.
        let has_newer = queued[at + 1..].iter().any(|((to, _), _)| *to == key.0);
        let is_lost = has_newer && self.rng.random_bool(0.15);
        if !is_lost {
            let Some(to) = self.network.reach_from(from.server_name(), &key.0) else { return };
            self.hand_over(&from, &to, &item).await;
            if self.rng.random_bool(0.1) {
                self.hand_over(&from, &to, &item).await;
            }
        }
        let mut batch = Batch::new();
        batch.delete(&OUTGOING, &key);
        from.store().commit(batch).await.expect("commit");
    }

    async fn hand_over(&self, from: &Rooms, to: &Rooms, item: &OutgoingItem) {
        let OutgoingItem::Pdu(nid) = item else { return };
        let event = from.get_event_by_nid(*nid).expect("read").expect("queued event");
        let raw = event.pdu.to_federation_raw().expect("raw");
        let _ = to.receive_pdu(from.server_name(), &event.pdu.room_id, &raw).await;
    }

    /// The network is whole again, everybody speaks and hears, the first user last.
    pub(super) async fn come_together(&mut self) {
        self.network.heal();
        for _ in 0..ROUNDS {
            for at in 0..self.servers.len() {
                self.complete(at).await;
            }
            self.network.deliver().await;
            for user in self.users.clone().into_iter().skip(1).rev() {
                self.tick();
                self.say(&user).await;
                self.network.deliver().await;
            }
            // As long as the pause before what was left out is tried again.
            self.network.clock.advance(24 * 3_600_000);
            for server in &self.servers {
                server.retry_left_out().await.expect("retry");
            }
            let first = self.users[0].clone();
            self.tick();
            self.say(&first).await;
            self.network.deliver().await;
            let wanted = self.held(&self.servers[0]);
            if self.inside().into_iter().all(|server| self.held(server) == wanted) {
                return;
            }
        }
    }

    /// The servers that are in the room, in the eyes of the first one and in their own. One whose last user was out of the room for as
    /// long as a state lasted stays out until somebody joins again: it takes in no events of rooms that it is not in.
    fn inside(&self) -> Vec<&Rooms> {
        let is_in = |server: &Rooms, name| {
            self.room_of(server).is_some_and(|room| server.is_server_joined(room.nid, name).expect("read"))
        };
        let first = &self.servers[0];
        let inside = self.servers.iter().filter(|server| is_in(first, server.server_name()));
        inside.filter(|server| is_in(server, server.server_name())).collect()
    }

    fn held(&self, server: &Rooms) -> Held {
        let room = server.require_room(&self.room_id).expect("room");
        let mut extremities: Vec<_> = room.record.forward_extremities.iter().map(|(_, id, _)| id.clone()).collect();
        extremities.sort();
        Held { state: state_of(server, &self.room_id), extremities }
    }

    /// The events with a place in the room, after fetching history as far as it goes.
    async fn events(&self, server: &Rooms) -> BTreeMap<OwnedEventId, EventStatus> {
        let room = server.require_room(&self.room_id).expect("room");
        while server.backfill(&room, (u64::MAX >> 1, Order::LAST), 100).await.expect("backfill") == Backfilled::New {}
        let rows = server.store().scan(&EVENTS, &(), Direction::Forward).map(|row| row.expect("an event"));
        rows.filter(|(_, record): &(EventNid, _)| record.room == room.nid && record.state_before.is_some())
            .map(|(_, record)| (record.event_id, record.status))
            .collect()
    }

    /// The room's ends, and all from which a way leads to them.
    fn before_ends(&self, server: &Rooms) -> BTreeSet<OwnedEventId> {
        let mut open = self.held(server).extremities;
        let mut found = BTreeSet::new();
        while let Some(id) = open.pop() {
            if let Some(event) = server.get_event(&id).expect("read")
                && found.insert(id)
            {
                open.extend(event.pdu.prev_events.iter().cloned());
            }
        }
        found
    }

    /// What the servers make of some events.
    fn describe<'a>(&self, ids: impl Iterator<Item = &'a OwnedEventId>) -> Vec<String> {
        let mut lines = Vec::new();
        for id in ids {
            for server in &self.servers {
                let event = server.get_event(id).expect("read");
                lines.push(match event {
                    None => format!("{id} unknown on {}", server.server_name()),
                    Some(event) => format!(
                        "{id} {} {:?} of {} {} on {}: {:?} {:?}",
                        event.pdu.kind,
                        event.pdu.membership(),
                        event.pdu.sender,
                        event.pdu.state_key().unwrap_or_default(),
                        server.server_name(),
                        event.record.status,
                        event.record.reason
                    ),
                });
            }
        }
        lines
    }

    pub(super) async fn check(&self) -> Result<(), String> {
        for server in &self.servers {
            let mut found = Vec::new();
            let mut note = |finding: Finding| found.push(finding.to_string());
            check_rooms(&mut Check::new(server.store(), server.server_name(), &mut note));
            if !found.is_empty() {
                return Err(format!("{}: rows do not agree: {found:?}", server.server_name()));
            }
        }
        let first = &self.servers[0];
        let (wanted, wanted_events) = (self.held(first), self.events(first).await);
        let before_ends = self.before_ends(first);
        for server in self.inside() {
            if self.is_partial(server) {
                return Err(format!("{}: does not know all members", server.server_name()));
            }
            let held = self.held(server);
            if held.extremities != wanted.extremities {
                let all = held.extremities.iter().chain(&wanted.extremities);
                let odd = all.filter(|id| !(held.extremities.contains(id) && wanted.extremities.contains(id)));
                return Err(format!("{}: other ends: {:?}", server.server_name(), self.describe(odd)));
            }
            if held.state != wanted.state {
                let differing: Vec<_> = wanted
                    .state
                    .iter()
                    .filter(|(key, id)| held.state.get(*key) != Some(*id))
                    .map(|(key, _)| key)
                    .collect();
                return Err(format!("{}: other state at {differing:?}", server.server_name()));
            }
            let events = self.events(server).await;
            for (id, status) in &wanted_events {
                let is_rejected = |status: &EventStatus| *status == EventStatus::Rejected;
                match events.get(id) {
                    // Who sent it has left since, and nobody builds upon it: nothing leads there.
                    None if !before_ends.contains(id) => {}
                    None => {
                        return Err(format!("{}: lacks {:?}", server.server_name(), self.describe([id].into_iter())));
                    }
                    Some(other) if is_rejected(other) != is_rejected(status) => {
                        return Err(format!(
                            "{}: {other:?}: {:?}",
                            server.server_name(),
                            self.describe([id].into_iter())
                        ));
                    }
                    Some(_) => {}
                }
            }
        }
        Ok(())
    }
}
