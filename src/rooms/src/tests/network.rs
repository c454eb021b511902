//! Several room engines that reach each other by direct calls, and an outage switch for each.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use chappe_protocol::{
    clock::ManualClock,
    json, room_version,
    sign::{PublicKeys, ServerSigner},
};
use chappe_store::{
    Batch, Direction, MemoryEngine, Store,
    tables::{
        events::TOPOLOGY,
        outgoing::{OUTGOING, OutgoingItem},
    },
};
use parking_lot::Mutex;
use ruma::{
    CanonicalJsonObject, CanonicalJsonValue, EventId, MilliSecondsSinceUnixEpoch, OwnedEventId, OwnedRoomId,
    OwnedServerName, OwnedUserId, RoomId, RoomVersionId, ServerName, UserId, api::Direction as Paging,
    events::StateEventType, room_version_rules::RoomVersionRules,
};
use serde_json::{Value, value::RawValue as RawJsonValue};
use tokio::sync::oneshot;

use crate::{
    EventDraft, RemoteError, RoomError, Rooms, RoomsConfig,
    create::{CreateRoom, Preset},
    handshake::{Admission, Wanted},
    membership::{MemberProfile, NoProfiles},
    relationships::{RelatedAnswer, RelationshipQuery},
    remote::{
        EachEvent, FederationGate, JoinAnswer, Members, MissingEvents, OpenGate, RawEvents, Remote, RemoteResult,
        Template, Urgency,
    },
    send::canonical_content,
    third_party::ThirdPartySigned,
};

pub(crate) struct Network {
    /// The one clock of all servers.
    pub(crate) clock: Arc<ManualClock>,
    servers: Mutex<BTreeMap<OwnedServerName, Server>>,
    keys: Mutex<PublicKeys>,
    down: Mutex<BTreeSet<OwnedServerName>>,
    /// Pairs of servers, each in order, that do not reach each other.
    cuts: Mutex<BTreeSet<(OwnedServerName, OwnedServerName)>>,
    /// Members are left out of answers to joins where the joining server does not need them.
    pub(super) omits_members: AtomicBool,
    /// Every question asked of a server, by name.
    pub(crate) asked: Mutex<Vec<&'static str>>,
    hold: Mutex<Option<Hold>>,
}

/// A question that is answered only once it may be.
struct Hold {
    question: &'static str,
    asked: oneshot::Sender<()>,
    may_be_answered: oneshot::Receiver<()>,
}

/// What every server signs with as a policy server.
pub(super) const POLICY_SEED: [u8; 32] = [99; 32];

/// A server, and what of it outlasts a restart.
struct Server {
    rooms: Rooms,
    engine: Arc<MemoryEngine>,
    signer: Arc<ServerSigner>,
    gate: Arc<dyn FederationGate>,
}

/// One server's connection to the network.
struct Link {
    network: Weak<Network>,
    own_name: OwnedServerName,
}

impl Network {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            clock: Arc::new(ManualClock::new(1_700_000_000_000)),
            servers: Mutex::default(),
            keys: Mutex::default(),
            down: Mutex::default(),
            cuts: Mutex::default(),
            omits_members: AtomicBool::default(),
            asked: Mutex::default(),
            hold: Mutex::default(),
        })
    }

    pub(crate) fn add(self: &Arc<Self>, name: &str) -> Rooms {
        self.add_with_gate(name, Arc::new(OpenGate))
    }

    pub(crate) fn add_with_gate(self: &Arc<Self>, name: &str, gate: Arc<dyn FederationGate>) -> Rooms {
        let name = ServerName::parse(name).expect("server name");
        let seed = [u8::try_from(self.servers.lock().len() + 1).expect("few servers"); 32];
        let signer = Arc::new(ServerSigner::from_seed(name.clone(), "a", &seed).expect("signer"));
        self.keys.lock().extend(signer.public_keys());
        let engine = Arc::new(MemoryEngine::new());
        let rooms = self.start(&engine, &signer, &gate);
        self.servers.lock().insert(name, Server { rooms: rooms.clone(), engine, signer, gate });
        rooms
    }

    fn start(
        self: &Arc<Self>,
        engine: &Arc<MemoryEngine>,
        signer: &Arc<ServerSigner>,
        gate: &Arc<dyn FederationGate>,
    ) -> Rooms {
        let link = Link { network: Arc::downgrade(self), own_name: signer.server_name().to_owned() };
        Rooms::new(
            Store::volatile(engine.clone()).expect("store"),
            signer.clone(),
            self.clock.clone(),
            Arc::new(link),
            gate.clone(),
            Arc::new(NoProfiles),
            RoomsConfig::default(),
        )
    }

    /// The same server as another process would find it: of what was only in memory nothing is left.
    pub(crate) fn restart(self: &Arc<Self>, server: &Rooms) -> Rooms {
        let mut servers = self.servers.lock();
        let server = servers.get_mut(server.server_name()).expect("a server of this network");
        server.rooms = self.start(&server.engine, &server.signer, &server.gate);
        server.rooms.clone()
    }

    /// Holds back the answer to the next question of this name. What comes back tells when it is asked, and lets the answer go.
    pub(crate) fn hold(&self, question: &'static str) -> (oneshot::Receiver<()>, oneshot::Sender<()>) {
        let ((asked, was_asked), (answer, may_be_answered)) = (oneshot::channel(), oneshot::channel());
        *self.hold.lock() = Some(Hold { question, asked, may_be_answered });
        (was_asked, answer)
    }

    pub(crate) fn set_down(&self, server: &Rooms, is_down: bool) {
        let mut down = self.down.lock();
        if is_down {
            down.insert(server.server_name().to_owned());
        } else {
            down.remove(server.server_name());
        }
    }

    /// Forgets what is queued at a server for others.
    pub(crate) async fn lose_queued(&self, server: &Rooms) {
        let mut batch = Batch::new();
        for row in server.store().scan(&OUTGOING, &(), Direction::Forward) {
            batch.delete(&OUTGOING, &row.expect("queue").0);
        }
        server.store().commit(batch).await.expect("commit");
    }

    /// Hands every queued event to its destination, until nothing is queued for a server that is up.
    pub(crate) async fn deliver(&self) {
        loop {
            let servers: Vec<Rooms> = self.servers.lock().values().map(|server| server.rooms.clone()).collect();
            let mut delivered = 0;
            for from in &servers {
                let queued: Vec<_> =
                    from.store().scan(&OUTGOING, &(), Direction::Forward).collect::<Result<_, _>>().expect("queue");
                for (key, item) in queued {
                    let Some(to) = self.reach_from(from.server_name(), &key.0) else { continue };
                    if let OutgoingItem::Pdu(nid) = item {
                        let event = from.get_event_by_nid(nid).expect("read").expect("queued event");
                        let raw = event.pdu.to_federation_raw().expect("raw");
                        // Refusals are the receiving server's business.
                        let _ = to.receive_pdu(from.server_name(), &event.pdu.room_id, &raw).await;
                    }
                    let mut batch = Batch::new();
                    batch.delete(&OUTGOING, &key);
                    from.store().commit(batch).await.expect("commit");
                    delivered += 1;
                }
            }
            if delivered == 0 {
                return;
            }
        }
    }

    /// Cuts the connection between two servers, or mends it.
    pub(crate) fn set_cut(&self, one: &Rooms, other: &Rooms, is_cut: bool) {
        let pair = pair(one.server_name(), other.server_name());
        let mut cuts = self.cuts.lock();
        if is_cut {
            cuts.insert(pair);
        } else {
            cuts.remove(&pair);
        }
    }

    pub(crate) fn heal(&self) {
        self.cuts.lock().clear();
    }

    /// The other server, if there is a way to it.
    pub(crate) fn reach_from(&self, from: &ServerName, to: &ServerName) -> Option<Rooms> {
        if self.cuts.lock().contains(&pair(from, to)) || self.reach(from).is_none() {
            return None;
        }
        self.reach(to)
    }

    fn reach(&self, name: &ServerName) -> Option<Rooms> {
        if self.down.lock().contains(name) {
            return None;
        }
        self.servers.lock().get(name).map(|server| server.rooms.clone())
    }
}

fn pair(one: &ServerName, other: &ServerName) -> (OwnedServerName, OwnedServerName) {
    let (one, other) = if one <= other { (one, other) } else { (other, one) };
    (one.to_owned(), other.to_owned())
}

impl Link {
    async fn ask(&self, server: &ServerName, question: &'static str) -> Result<Rooms, RemoteError> {
        let unreachable = || RemoteError::Unreachable(format!("{server} is down"));
        let network = self.network.upgrade().ok_or_else(unreachable)?;
        network.asked.lock().push(question);
        let hold = network.hold.lock().take_if(|hold| hold.question == question);
        if let Some(hold) = hold {
            hold.asked.send(()).expect("a test that waits for the question");
            hold.may_be_answered.await.expect("a test that lets the answer go");
        }
        if network.reach(&self.own_name).is_none() {
            return Err(unreachable());
        }
        network.reach_from(&self.own_name, server).ok_or_else(unreachable)
    }
}

fn refused(server: &ServerName, error: RoomError) -> RemoteError {
    RemoteError::Refused {
        server: server.to_owned(),
        status: 403,
        errcode: Some("M_FORBIDDEN".to_owned()),
        message: error.to_string(),
    }
}

macro_rules! asks {
    ($self:ident, $server:ident, $question:literal, |$other:ident| $answer:expr) => {
        Box::pin(async move {
            let $other = $self.ask($server, $question).await?;
            $answer.map_err(|error| refused($server, error))
        })
    };
}

fn template((version, event): (RoomVersionId, CanonicalJsonObject)) -> Template {
    Template { room_version: Some(version), event: serde_json::value::to_raw_value(&event).expect("raw") }
}

impl Remote for Link {
    fn fetch_event<'a>(&'a self, server: &'a ServerName, event_id: &'a EventId) -> RemoteResult<'a, Box<RawJsonValue>> {
        asks!(self, server, "event", |other| other.get_event_for_server(&self.own_name, event_id))
    }

    fn fetch_event_by_time<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        at: MilliSecondsSinceUnixEpoch,
        direction: Paging,
    ) -> RemoteResult<'a, (OwnedEventId, MilliSecondsSinceUnixEpoch)> {
        Box::pin(async move {
            let rooms = self.ask(server, "timestamp_to_event").await?;
            let found = rooms.get_event_by_time_for_server(&self.own_name, room_id, at, direction);
            let found = found.map_err(|error| refused(server, error))?;
            let found = found.ok_or_else(|| refused(server, RoomError::NotFound("No event found".to_owned())))?;
            Ok((found.pdu.event_id.clone(), found.pdu.origin_server_ts))
        })
    }

    fn fetch_missing_events<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        gap: MissingEvents,
    ) -> RemoteResult<'a, RawEvents> {
        asks!(self, server, "get_missing_events", |other| other.get_missing_events(
            &self.own_name,
            room_id,
            &gap.earliest,
            &gap.latest,
            gap.limit,
            gap.min_depth
        ))
    }

    fn fetch_state_ids<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        event_id: &'a EventId,
    ) -> RemoteResult<'a, (Vec<OwnedEventId>, Vec<OwnedEventId>)> {
        asks!(self, server, "state_ids", |other| other
            .get_state_for_server(&self.own_name, room_id, event_id)
            .and_then(|(state, auth_chain)| Ok((state.read_all_ids()?, auth_chain.read_all_ids()?))))
    }

    fn fetch_state<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        event_id: &'a EventId,
        each: &'a mut EachEvent<'_>,
    ) -> RemoteResult<'a, ()> {
        Box::pin(async move {
            let other = self.ask(server, "state").await?;
            let state = other.get_state_for_server(&self.own_name, room_id, event_id);
            let (state, auth_chain) = state.map_err(|error| refused(server, error))?;
            for mut told in [state, auth_chain] {
                while let Some(event) = told.next_text().map_err(|error| refused(server, error.into()))? {
                    each(&event).map_err(|error| RemoteError::Unreachable(error.to_string()))?;
                }
            }
            Ok(())
        })
    }

    fn fetch_event_auth<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        event_id: &'a EventId,
    ) -> RemoteResult<'a, RawEvents> {
        asks!(self, server, "event_auth", |other| other.get_event_auth(&self.own_name, room_id, event_id))
    }

    fn fetch_backfill<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        from: Vec<OwnedEventId>,
        limit: u32,
    ) -> RemoteResult<'a, RawEvents> {
        asks!(self, server, "backfill", |other| other.get_backfill(&self.own_name, room_id, &from, limit))
    }

    fn fetch_related<'a>(
        &'a self,
        server: &'a ServerName,
        query: &'a RelationshipQuery,
    ) -> RemoteResult<'a, RelatedAnswer> {
        asks!(self, server, "event_relationships", |other| other.get_related_for_server(&self.own_name, query).await)
    }

    fn make_join<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        user: &'a UserId,
        versions: Vec<RoomVersionId>,
    ) -> RemoteResult<'a, Template> {
        asks!(self, server, "make_join", |other| other
            .make_membership(&self.own_name, room_id, user, Wanted::Join, Some(&versions))
            .await
            .map(template))
    }

    fn send_join<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        event_id: &'a EventId,
        event: Box<RawJsonValue>,
        members: Members,
    ) -> RemoteResult<'a, JoinAnswer> {
        let omits = self.network.upgrade().is_some_and(|network| network.omits_members.load(Ordering::Relaxed));
        let members = if omits { members } else { Members::All };
        asks!(self, server, "send_join", |other| other
            .receive_join(&self.own_name, room_id, event_id, &event, members)
            .await
            .and_then(|Admission { event, state, auth_chain, members_omitted, servers }| Ok(JoinAnswer {
                event: Some(event),
                state: state.read_all()?,
                auth_chain: auth_chain.read_all()?,
                members_omitted,
                servers
            })))
    }

    fn make_leave<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        user: &'a UserId,
    ) -> RemoteResult<'a, Template> {
        asks!(self, server, "make_leave", |other| other
            .make_membership(&self.own_name, room_id, user, Wanted::Leave, None)
            .await
            .map(template))
    }

    fn send_leave<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        event_id: &'a EventId,
        event: Box<RawJsonValue>,
    ) -> RemoteResult<'a, ()> {
        asks!(self, server, "send_leave", |other| other.receive_leave(&self.own_name, room_id, event_id, &event).await)
    }

    fn make_knock<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        user: &'a UserId,
        versions: Vec<RoomVersionId>,
    ) -> RemoteResult<'a, Template> {
        asks!(self, server, "make_knock", |other| other
            .make_membership(&self.own_name, room_id, user, Wanted::Knock, Some(&versions))
            .await
            .map(template))
    }

    fn send_knock<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        event_id: &'a EventId,
        event: Box<RawJsonValue>,
    ) -> RemoteResult<'a, Vec<Value>> {
        asks!(self, server, "send_knock", |other| other.receive_knock(&self.own_name, room_id, event_id, &event).await)
    }

    fn send_invite<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        event_id: &'a EventId,
        version: &'a RoomVersionId,
        event: Box<RawJsonValue>,
        invite_room_state: Vec<Value>,
    ) -> RemoteResult<'a, Box<RawJsonValue>> {
        asks!(self, server, "invite", |other| other
            .receive_invite(&self.own_name, room_id, event_id, version, &event, invite_room_state)
            .await)
    }

    fn exchange_third_party_invite<'a>(
        &'a self,
        server: &'a ServerName,
        room_id: &'a RoomId,
        mut event: CanonicalJsonObject,
    ) -> RemoteResult<'a, ()> {
        let part = |object: &mut CanonicalJsonObject, field: &str| match object.remove(field) {
            Some(CanonicalJsonValue::Object(part)) => part,
            _ => CanonicalJsonObject::new(),
        };
        let sender = event.get("sender").and_then(|sender| UserId::parse(sender.as_str()?).ok());
        let target = event.get("state_key").and_then(|target| UserId::parse(target.as_str()?).ok());
        let signed = part(&mut part(&mut part(&mut event, "content"), "third_party_invite"), "signed");
        let signed = ThirdPartySigned::read(signed, sender).expect("signed");
        asks!(self, server, "exchange_third_party_invite", |other| other
            .receive_third_party_exchange(&self.own_name, room_id, &target.expect("target"), &signed)
            .await)
    }

    fn check_key_validity<'a>(&'a self, url: &'a str, _: &'a str) -> RemoteResult<'a, bool> {
        Box::pin(async move { Ok(url.ends_with("/valid")) })
    }

    /// Signs what does not look like spam.
    fn fetch_policy_signature<'a>(
        &'a self,
        server: &'a ServerName,
        event: Box<RawJsonValue>,
        _: Urgency,
    ) -> RemoteResult<'a, Box<RawJsonValue>> {
        Box::pin(async move {
            self.ask(server, "policy").await?;
            if event.get().contains("spam") {
                return Err(refused(server, RoomError::Forbidden("This is spam".to_owned())));
            }
            let mut event = json::parse_strict(event.get()).expect("event");
            event.remove("signatures");
            let rules = room_version::rules(&RoomVersionId::V11).expect("rules");
            let signer = ServerSigner::from_seed(server.to_owned(), "policy_server", &POLICY_SEED).expect("signer");
            signer.sign_event(&mut event, &rules).expect("signature");
            Ok(serde_json::value::to_raw_value(&event["signatures"]).expect("raw"))
        })
    }

    fn fetch_keys_for_event<'a>(
        &'a self,
        _: &'a CanonicalJsonObject,
        _: &'a RoomVersionRules,
        _: MilliSecondsSinceUnixEpoch,
    ) -> RemoteResult<'a, PublicKeys> {
        Box::pin(
            async move { Ok(self.network.upgrade().map(|network| network.keys.lock().clone()).unwrap_or_default()) },
        )
    }
}

// What tests do with rooms.

pub(crate) fn user(rooms: &Rooms, name: &str) -> OwnedUserId {
    UserId::parse(format!("@{name}:{}", rooms.server_name())).expect("user id")
}

pub(crate) fn content(value: Value) -> CanonicalJsonObject {
    canonical_content(&value.to_string()).expect("content")
}

pub(crate) fn text(body: &str) -> EventDraft {
    EventDraft::message("m.room.message".into(), content(serde_json::json!({ "msgtype": "m.text", "body": body })))
}

pub(crate) fn room_request(version: RoomVersionId, preset: Preset) -> CreateRoom {
    CreateRoom {
        version: Some(version),
        preset,
        is_listed: false,
        name: Some("A room".to_owned()),
        topic: None,
        alias_localpart: None,
        invite: Vec::new(),
        is_direct: false,
        creation_content: CanonicalJsonObject::new(),
        initial_state: Vec::new(),
        power_level_override: CanonicalJsonObject::new(),
        profile: MemberProfile::default(),
    }
}

pub(crate) async fn public_room(rooms: &Rooms, creator: &UserId, version: RoomVersionId) -> OwnedRoomId {
    rooms.create_room(creator, room_request(version, Preset::PublicChat)).await.expect("room")
}

/// A network of two servers, a user on each.
pub(crate) fn two_servers() -> (Arc<Network>, (Rooms, OwnedUserId), (Rooms, OwnedUserId)) {
    let network = Network::new();
    let (one, two) = (network.add("one.example"), network.add("two.example"));
    let (alice, bob) = (user(&one, "alice"), user(&two, "bob"));
    (network, (one, alice), (two, bob))
}

/// Joins a room of another server.
pub(crate) async fn join_from(rooms: &Rooms, user: &UserId, room_id: &RoomId, resident: &Rooms) {
    let via = [resident.server_name().to_owned()];
    rooms.join(user, room_id, &via, &MemberProfile::default(), None).await.expect("join");
}

pub(crate) fn membership(rooms: &Rooms, room_id: &RoomId, user: &UserId) -> String {
    let nid = rooms.get_room_nid(room_id).expect("read").expect("room");
    rooms.get_membership(nid, user).expect("read").to_string()
}

/// The current state as a server sees it: type and state key to event id.
pub(crate) fn state_of(rooms: &Rooms, room_id: &RoomId) -> BTreeMap<(String, String), OwnedEventId> {
    let room = rooms.require_room(room_id).expect("room");
    let entries = rooms.get_current_state(room.nid).expect("state").into_iter().map(|event| {
        let key = (event.pdu.kind.to_string(), event.pdu.state_key().unwrap_or_default().to_owned());
        (key, event.pdu.event_id.clone())
    });
    entries.collect()
}

/// The bodies of the messages in the timeline, in the order they came.
pub(crate) fn bodies(rooms: &Rooms, room_id: &RoomId) -> Vec<String> {
    let room = rooms.require_room(room_id).expect("room");
    let (events, _) = rooms
        .get_timeline(room.nid, Default::default(), chappe_store::Position(u64::MAX >> 2), 1000)
        .expect("timeline");
    let body = |content: Value| content.get("body").and_then(Value::as_str).map(str::to_owned);
    events.into_iter().filter_map(|(_, event)| event.pdu.get_content().ok().and_then(body)).collect()
}

pub(crate) fn topic(rooms: &Rooms, room_id: &RoomId) -> Option<String> {
    let room = rooms.require_room(room_id).expect("room");
    let content: Value = rooms.get_state_content(room.nid, &StateEventType::RoomTopic, "").expect("read")?;
    content.get("topic").and_then(Value::as_str).map(str::to_owned)
}

pub(crate) fn set_topic(topic: &str) -> EventDraft {
    EventDraft::state("m.room.topic", "", content(serde_json::json!({ "topic": topic })))
}

/// However many events are wanted, they come as the table has them.
pub(crate) fn check_topology(rooms: &Rooms, room_id: &RoomId) {
    let room = rooms.require_room(room_id).expect("room");
    let rows = rooms.store().scan(&TOPOLOGY, &(room.nid,), Direction::Reverse).map(|row| {
        let ((_, depth, order), event) = row.expect("row");
        ((depth, order), event)
    });
    let rows: Vec<_> = rows.collect();
    for wanted in [0, 1, 2, 11, rows.len(), usize::MAX] {
        let scanned: Vec<_> = rooms.scan_topology(&room, wanted).map(|row| row.expect("row")).collect();
        assert_eq!(scanned, rows, "{wanted} wanted");
    }
}
