//! The works: each does one kind of thing to a homeserver, through the client-server API alone.

use std::time::{Duration, Instant};

use chappe_http_client::{Client, Failure, room_path, segment};
use clap::ValueEnum;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde_json::{Value, json};

use crate::measure::{Measured, Processes, drive, measured, progress};

/// What can be measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Work {
    Accounts,
    Rooms,
    SendMany,
    Joins,
    SendOne,
    /// Sends into rooms of ever more history, members, and beside ever more rooms.
    Growth,
    Delivery,
    Fanout,
    InitialSync,
    SlidingSync,
    IdleSync,
    IdleWaiters,
    Keys,
    ToDevice,
    Media,
    /// A join to a large room of the server by a user of its `--peer`.
    RemoteJoin,
    /// Messages that people of the server send, until those of its `--peer` have them.
    Across,
}

impl Work {
    pub fn crosses_servers(self) -> bool {
        matches!(self, Self::RemoteJoin | Self::Across)
    }
}

/// How long a server is left alone after much was written.
const SETTLING: Duration = Duration::from_secs(5);

/// How many people the idle waiters are.
const IDLE_PEOPLE: usize = 64;

/// Sizes of the works, at full scale; a smaller scale divides them.
struct Sizes {
    accounts: usize,
    rooms: usize,
    messages: usize,
    members: usize,
    waiters: usize,
    idle_waiters: usize,
    synced_rooms: usize,
    synced_members: usize,
    remote_members: usize,
}

/// A server under load, and who is on it.
pub struct Load {
    nobody: Client,
    /// A server that federates with it.
    peer: Option<Client>,
    /// Who may register people without a password.
    pub app_service_token: Option<String>,
    processes: Processes,
    run: String,
    sizes: Sizes,
    people: Vec<Client>,
    /// The large room, once it is full.
    crowd: Option<String>,
}

fn message(number: usize) -> Value {
    json!({ "msgtype": "m.text", "body": format!("This is message {number}, about as long as people write them in a chat.") })
}

fn quantity(full: usize, scale: f64) -> usize {
    ((full as f64 * scale).round() as usize).max(2)
}

impl Load {
    /// `run` sets this run's names apart from those of other runs; `scale` is 1 for the full sizes.
    pub fn new(url: &str, peer: Option<&str>, processes: Processes, run: String, scale: f64) -> Result<Self, Failure> {
        let sizes = Sizes {
            accounts: quantity(256, scale),
            rooms: quantity(500, scale),
            messages: quantity(20_000, scale),
            members: quantity(2_000, scale),
            waiters: quantity(200, scale),
            idle_waiters: quantity(10_000, scale),
            synced_rooms: quantity(500, scale),
            synced_members: quantity(20, scale.max(0.25)),
            remote_members: quantity(20_000, scale),
        };
        let peer = peer.map(Client::at).transpose()?;
        Ok(Self {
            nobody: Client::at(url)?,
            peer,
            app_service_token: None,
            processes,
            run,
            sizes,
            people: Vec::new(),
            crowd: None,
        })
    }

    /// Does one work; some consist of several, measured one by one.
    pub async fn run(&mut self, work: Work) -> Result<Vec<Measured>, Failure> {
        match work {
            Work::Accounts => self.accounts().await,
            Work::Rooms => Ok(vec![self.create_rooms().await?]),
            Work::SendMany => self.send_into_many().await,
            Work::Joins => Ok(vec![self.joins().await?]),
            Work::SendOne => self.send_into_one().await,
            Work::Growth => self.growth().await,
            Work::Delivery => Ok(vec![self.delivery().await?]),
            Work::Fanout => Ok(vec![self.fanout("").await?]),
            Work::InitialSync => Ok(vec![self.initial_sync().await?]),
            Work::SlidingSync => self.sliding_sync().await,
            Work::IdleSync => Ok(vec![self.idle_sync().await?]),
            Work::IdleWaiters => self.idle_waiters().await,
            Work::Keys => self.keys().await,
            Work::ToDevice => Ok(vec![self.send_to_devices().await?]),
            Work::Media => self.media().await,
            Work::RemoteJoin => self.remote_join().await,
            Work::Across => Ok(vec![self.across().await?]),
        }
    }

    fn name(&self, number: usize) -> String {
        format!("load{}-{number}", self.run)
    }

    /// Sees to it that this many accounts are there.
    async fn populate(&mut self, count: usize) -> Result<(), Failure> {
        let missing: Vec<String> = (self.people.len()..count).map(|number| self.name(number)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        let bar = progress("registering", missing.len());
        let (nobody, service, counted) = (&self.nobody, self.app_service_token.as_deref(), &bar);
        let registered: Vec<Client> = stream::iter(missing)
            .map(|name| async move {
                let client = match service {
                    Some(as_token) => nobody.register_by_service(&name, as_token).await,
                    None => nobody.register(&name).await,
                };
                counted.inc(1);
                client
            })
            .buffered(8)
            .try_collect()
            .await?;
        bar.finish_and_clear();
        self.people.extend(registered);
        Ok(())
    }

    async fn accounts(&mut self) -> Result<Vec<Measured>, Failure> {
        let first = self.people.len();
        let registered = std::sync::Mutex::new(Vec::new());
        let register = drive("register, 8 at a time", &self.processes, 8, self.sizes.accounts, |_, number| {
            let (name, nobody, registered) = (self.name(first + number), &self.nobody, &registered);
            async move {
                let client = nobody.register(&name).await?;
                registered.lock().map_err(|_| "poisoned")?.push((number, client));
                Ok(None)
            }
        })
        .await?;
        let mut registered = registered.into_inner().map_err(|_| "poisoned")?;
        registered.sort_by_key(|(number, _)| *number);
        self.people.extend(registered.into_iter().map(|(_, client)| client));
        let log_in = drive("log in, 8 at a time", &self.processes, 8, self.sizes.accounts, |_, number| {
            let (name, nobody) = (self.name(first + number), &self.nobody);
            async move { nobody.log_in(&name).await.map(|_| None) }
        })
        .await?;
        Ok(vec![register, log_in])
    }

    async fn create_rooms(&mut self) -> Result<Measured, Failure> {
        self.populate(16).await?;
        drive("create room, 16 at a time", &self.processes, 16, self.sizes.rooms, |hand, _| {
            let client = &self.people[hand];
            async move { client.create_room().await.map(|_| None) }
        })
        .await
    }

    async fn send(&self, what: &str, senders: usize, rooms: &[String], count: usize) -> Result<Measured, Failure> {
        // The transaction ids of one work must not be those of another.
        let (run, scope) = (&self.run, &segment(what));
        drive(what, &self.processes, senders, count, |hand, number| {
            let (client, room) = (&self.people[hand], &rooms[hand % rooms.len()]);
            async move {
                let path = format!("send/m.room.message/{run}-{scope}-{number}");
                client.put(&room_path(room, &path), message(number)).await?;
                Ok(None)
            }
        })
        .await
    }

    async fn send_into_many(&mut self) -> Result<Vec<Measured>, Failure> {
        self.populate(256).await?;
        let mut all = Vec::new();
        for senders in [1, 16, 64, 256] {
            let mut rooms = Vec::new();
            for client in self.people.iter().take(senders) {
                rooms.push(client.create_room().await?);
            }
            let count = if senders == 1 { self.sizes.messages / 10 } else { self.sizes.messages };
            let what = format!("send, {senders} senders, {senders} rooms");
            all.push(self.send(&what, senders, &rooms, count.max(senders)).await?);
        }
        Ok(all)
    }

    /// What a message costs while its room, and the server, grow: it should be the same all along.
    async fn growth(&mut self) -> Result<Vec<Measured>, Failure> {
        const SENDERS: usize = 16;
        self.populate(SENDERS).await?;
        let sample = (self.sizes.messages / 10).clamp(SENDERS, 4_000);
        let mut all = Vec::new();
        let room = std::slice::from_ref(&self.people[0].create_room().await?).to_vec();
        for person in &self.people[1..SENDERS] {
            person.join(&room[0], None).await?;
        }
        let (mut sent, largest) = (0, self.sizes.messages * 5);
        for history in [1_000, 10_000, 100_000, 1_000_000].into_iter().filter(|history| *history <= largest) {
            self.send(&format!("g{history}"), SENDERS, &room, history.saturating_sub(sent).max(SENDERS)).await?;
            let what = format!("send, 16 senders, after {history} events");
            all.push(self.send(&what, SENDERS, &room, sample).await?);
            sent = history + sample;
        }
        let (mut members, largest) = (SENDERS, self.sizes.members);
        for size in [100, 1_000, 10_000, 100_000].into_iter().filter(|size| *size <= largest) {
            self.populate(size).await?;
            let (people, room) = (&self.people, &room[0]);
            drive("joining", &self.processes, 8, size - members, |_, number| async move {
                people[members + number].join(room, None).await?;
                Ok(None)
            })
            .await?;
            members = size;
            let what = format!("send, 16 senders, among {size} members");
            all.push(self.send(&what, SENDERS, std::slice::from_ref(room), sample).await?);
        }
        let mut rooms = 0;
        for count in [100, 1_000, 10_000].into_iter().filter(|count| *count <= self.sizes.rooms * 2) {
            drive("making rooms", &self.processes, SENDERS, count - rooms, |hand, _| {
                let client = &self.people[hand];
                async move { client.create_room().await.map(|_| None) }
            })
            .await?;
            rooms = count;
            let what = format!("send, 16 senders, beside {count} rooms");
            all.push(self.send(&what, SENDERS, &room, sample).await?);
        }
        Ok(all)
    }

    async fn fill_crowd(&mut self) -> Result<String, Failure> {
        if let Some(room) = &self.crowd {
            return Ok(room.clone());
        }
        self.joins().await?;
        self.crowd.clone().ok_or_else(|| "no room".into())
    }

    async fn joins(&mut self) -> Result<Measured, Failure> {
        let members = self.sizes.members;
        self.populate(members).await?;
        let room = self.people[0].create_room().await?;
        let joins = drive("join one room, 8 at a time", &self.processes, 8, members - 1, |_, number| {
            let (client, room) = (&self.people[number + 1], &room);
            async move {
                client.join(room, None).await?;
                Ok(None)
            }
        })
        .await?;
        self.crowd = Some(room);
        Ok(joins)
    }

    async fn send_into_one(&mut self) -> Result<Vec<Measured>, Failure> {
        let room = self.fill_crowd().await?;
        let mut all = Vec::new();
        for senders in [16, 64] {
            let senders = senders.min(self.sizes.members);
            let what = format!("send, {senders} senders, one room of {}", self.sizes.members);
            all.push(self.send(&what, senders, std::slice::from_ref(&room), self.sizes.messages.max(senders)).await?);
        }
        Ok(all)
    }

    /// From the start of a send to the end of a waiting sync that holds the message.
    async fn delivery(&mut self) -> Result<Measured, Failure> {
        let room = self.fill_crowd().await?;
        let (sender, receiver) = (&self.people[1], &self.people[2]);
        let mut since = next_batch(&receiver.get(&sync_path(None, 0)).await?)?;
        let (before, begun) = (self.processes.usage(), Instant::now());
        let mut latencies = Vec::new();
        let count = (self.sizes.messages / 100).max(20);
        let bar = progress("delivery", count);
        for number in 0..count {
            let waiting = tokio::spawn(wait_for_message(receiver.clone(), room.clone(), since));
            tokio::time::sleep(Duration::from_millis(20)).await;
            let sent = Instant::now();
            let path = room_path(&room, &format!("send/m.room.message/{}-d{number}", self.run));
            sender.put(&path, message(number)).await?;
            let (arrived, next) = waiting.await??;
            latencies.push(arrived - sent);
            since = next;
            bar.inc(1);
        }
        bar.finish_and_clear();
        let what = format!("send to sync, a room of {}", self.sizes.members);
        Ok(measured(&what, latencies, begun.elapsed(), before, &self.processes))
    }

    /// One message to many waiting syncs: until each has it.
    async fn fanout(&mut self, beside: &str) -> Result<Measured, Failure> {
        let room = self.fill_crowd().await?;
        let waiters = self.sizes.waiters.min(self.sizes.members - 1);
        let sender = self.people[0].clone();
        let people = &self.people[1..=waiters];
        let mut since = Vec::new();
        for person in people {
            since.push(next_batch(&person.get(&sync_path(None, 0)).await?)?);
        }
        let (before, begun) = (self.processes.usage(), Instant::now());
        let mut latencies = Vec::new();
        for number in 0..10 {
            let waiting: Vec<_> = people
                .iter()
                .zip(since)
                .map(|(person, since)| tokio::spawn(wait_for_message(person.clone(), room.clone(), since)))
                .collect();
            tokio::time::sleep(Duration::from_millis(500)).await;
            let sent = Instant::now();
            let path = room_path(&room, &format!("send/m.room.message/{}-f{number}{}", self.run, segment(beside)));
            sender.put(&path, message(number)).await?;
            since = Vec::new();
            for waiter in waiting {
                let (arrived, next) = waiter.await??;
                latencies.push(arrived - sent);
                since.push(next);
            }
        }
        let what = format!("fan-out to {waiters} waiters{beside}");
        Ok(measured(&what, latencies, begun.elapsed(), before, &self.processes))
    }

    /// Makes the rooms of the sync works, all joined by the last of the first few people.
    async fn furnish(&mut self) -> Result<Client, Failure> {
        let (rooms, members) = (self.sizes.synced_rooms, self.sizes.synced_members);
        self.populate(members).await?;
        let reader = self.people[members - 1].clone();
        let joined = reader.get("/_matrix/client/v3/joined_rooms").await?;
        if joined["joined_rooms"].as_array().map_or(0, Vec::len) >= rooms {
            return Ok(reader);
        }
        let bar = progress("making rooms to sync", rooms);
        let (people, counted) = (&self.people[..members], &bar);
        stream::iter(0..rooms)
            .map(|number| async move {
                let creator = &people[number % members];
                let room = creator.create_room().await?;
                for person in people.iter().filter(|person| person.user_id != creator.user_id) {
                    person.join(&room, None).await?;
                }
                creator.put(&room_path(&room, &format!("send/m.room.message/first-{number}")), message(number)).await?;
                counted.inc(1);
                Ok::<_, Failure>(())
            })
            .buffer_unordered(16)
            .try_collect::<()>()
            .await?;
        bar.finish_and_clear();
        // What the server does behind the answers is not to be counted with what comes now.
        tokio::time::sleep(SETTLING).await;
        Ok(reader)
    }

    async fn initial_sync(&mut self) -> Result<Measured, Failure> {
        let reader = self.furnish().await?;
        let what = format!("initial sync, {} rooms of {}", self.sizes.synced_rooms, self.sizes.synced_members);
        drive(&what, &self.processes, 1, 5, |_, _| {
            let reader = &reader;
            async move {
                // Until all of it is there; what a client makes of it is the client's.
                reader.fetch(&sync_path(None, 0)).await?;
                Ok(None)
            }
        })
        .await
    }

    async fn sliding_sync(&mut self) -> Result<Vec<Measured>, Failure> {
        let reader = self.furnish().await?;
        let body = json!({
            "conn_id": "load",
            "lists": { "all": {
                "ranges": [[0, 19]],
                "timeline_limit": 1,
                "required_state": [["m.room.create", ""], ["m.room.name", ""], ["m.room.member", "$LAZY"]],
            } },
        });
        let path = "/_matrix/client/unstable/org.matrix.simplified_msc3575/sync";
        let mut pos = String::new();
        let first = drive("sliding sync, first 20 rooms", &self.processes, 1, 5, |_, number| {
            let (reader, mut body) = (&reader, body.clone());
            body["conn_id"] = format!("load{number}").into();
            async move {
                reader.post(&format!("{path}?timeout=0"), body).await?;
                Ok(None)
            }
        })
        .await?;
        let mut latencies = Vec::new();
        let (before, begun) = (self.processes.usage(), Instant::now());
        for _ in 0..200 {
            let asked = Instant::now();
            let answer = reader.post(&format!("{path}?timeout=0{pos}"), body.clone()).await?;
            latencies.push(asked.elapsed());
            pos = format!("&pos={}", segment(answer["pos"].as_str().ok_or("no pos")?));
        }
        let next = measured("sliding sync, incremental", latencies, begun.elapsed(), before, &self.processes);
        Ok(vec![first, next])
    }

    async fn idle_sync(&mut self) -> Result<Measured, Failure> {
        let reader = self.furnish().await?;
        let since = next_batch(&reader.get(&sync_path(None, 0)).await?)?;
        let path = sync_path(Some(&since), 0);
        drive("incremental sync, nothing new", &self.processes, 1, quantity(self.sizes.messages / 10, 1.0), |_, _| {
            let (reader, path) = (&reader, &path);
            async move {
                reader.get(path).await?;
                Ok(None)
            }
        })
        .await
    }

    /// Many polls that wait for nothing; what is measured is the time of other people's requests meanwhile, and the memory.
    async fn idle_waiters(&mut self) -> Result<Vec<Measured>, Failure> {
        self.fill_crowd().await?;
        let count = self.sizes.idle_waiters;
        let mut idle = Vec::new();
        for number in 0..IDLE_PEOPLE {
            // They are in no room.
            let person = self.nobody.register(&format!("{}-idle{number}", self.name(0))).await?;
            let since = next_batch(&person.get(&sync_path(None, 0)).await?)?;
            idle.push((person, sync_path(Some(&since), 120_000)));
        }
        let mut waiting = tokio::task::JoinSet::new();
        for (person, path) in idle.into_iter().cycle().take(count) {
            waiting.spawn(async move { person.get(&path).await.is_ok() });
        }
        tokio::time::sleep(2 * SETTLING).await;
        let asker = &self.people[0];
        let whoami = drive(&format!("whoami beside {count} waiters"), &self.processes, 1, 1000, |_, _| async move {
            asker.get("/_matrix/client/v3/account/whoami").await?;
            Ok(None)
        })
        .await?;
        let fanout = self.fanout(&format!(" beside {count}")).await?;
        waiting.shutdown().await;
        tokio::time::sleep(SETTLING).await;
        Ok(vec![whoami, fanout])
    }

    async fn keys(&mut self) -> Result<Vec<Measured>, Failure> {
        self.populate(64).await?;
        let count = self.sizes.messages / 4;
        let upload = drive("upload 10 one-time keys", &self.processes, 64, count, |hand, number| {
            let client = &self.people[hand];
            async move {
                let keys: serde_json::Map<String, Value> = (0..10)
                    .map(|index| {
                        let signature = json!({ &client.user_id: { format!("ed25519:{}", client.device_id): "c2ln" } });
                        let key = json!({ "key": format!("{number}/{index}"), "signatures": signature });
                        (format!("signed_curve25519:{number}x{index}"), key)
                    })
                    .collect();
                client.post("/_matrix/client/v3/keys/upload", json!({ "one_time_keys": keys })).await?;
                Ok(None)
            }
        })
        .await?;
        let query = drive("key query", &self.processes, 64, count, |hand, number| {
            let (client, of) = (&self.people[hand], &self.people[number % 64].user_id);
            async move {
                client.post("/_matrix/client/v3/keys/query", json!({ "device_keys": { of: [] } })).await?;
                Ok(None)
            }
        })
        .await?;
        let claim = drive("claim a one-time key", &self.processes, 64, count, |hand, number| {
            let (client, of) = (&self.people[hand], &self.people[number % 64]);
            async move {
                let wanted = json!({ &of.user_id: { &of.device_id: "signed_curve25519" } });
                client.post("/_matrix/client/v3/keys/claim", json!({ "one_time_keys": wanted })).await?;
                Ok(None)
            }
        })
        .await?;
        Ok(vec![upload, query, claim])
    }

    async fn send_to_devices(&mut self) -> Result<Measured, Failure> {
        self.populate(64).await?;
        let run = &self.run;
        drive("to-device message", &self.processes, 64, self.sizes.messages / 2, |hand, number| {
            let (client, to) = (&self.people[hand], &self.people[(hand + 1) % 64]);
            async move {
                let path = format!("/_matrix/client/v3/sendToDevice/org.chappe.load/{run}-{number}");
                let content = json!({ "messages": { &to.user_id: { &to.device_id: { "number": number } } } });
                client.put(&path, content).await?;
                Ok(None)
            }
        })
        .await
    }

    fn peer(&self) -> Result<&Client, Failure> {
        self.peer.as_ref().ok_or_else(|| "this work needs --peer, a server that federates with this one".into())
    }

    /// A remote user's join to a large room: until it is answered, and until the user's server knows all members.
    async fn remote_join(&mut self) -> Result<Vec<Measured>, Failure> {
        let members = self.sizes.remote_members;
        let guest = self.peer()?.register(&self.name(0)).await?;
        self.populate(members).await?;
        let room = self.people[0].create_room().await?;
        let people = &self.people;
        drive("filling the room", &self.processes, 8, members - 1, |_, number| {
            let (client, room) = (&people[number + 1], &room);
            async move {
                client.join(room, None).await?;
                Ok(None)
            }
        })
        .await?;
        let via =
            self.people[0].user_id.split_once(':').map(|(_, server)| server).ok_or("a user id without a server")?;
        let (before, begun) = (self.processes.usage(), Instant::now());
        guest.join(&room, Some(via)).await?;
        let answered = begun.elapsed();
        let answer = format!("remote join, a room of {members}: answered");
        let answer = measured(&answer, vec![answered], answered, before, &self.processes);
        // Members are told once all of them are known.
        loop {
            let known = guest.get(&room_path(&room, "joined_members")).await?;
            if known["joined"].as_object().is_some_and(|joined| joined.len() > members) {
                break;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let complete = begun.elapsed();
        let whole = format!("remote join, a room of {members}: complete");
        Ok(vec![answer, measured(&whole, vec![complete], complete, before, &self.processes)])
    }

    /// From the start of a send to the end of the remote sync that holds it.
    async fn across(&mut self) -> Result<Measured, Failure> {
        const SENDERS: usize = 16;
        let reader = self.peer()?.register(&self.name(1)).await?;
        self.populate(SENDERS).await?;
        let room = self.people[0].create_room().await?;
        for person in &self.people[1..SENDERS] {
            person.join(&room, None).await?;
        }
        let via =
            self.people[0].user_id.split_once(':').map(|(_, server)| server).ok_or("a user id without a server")?;
        reader.join(&room, Some(via)).await?;
        let since = next_batch(&reader.get(&sync_path(None, 0)).await?)?;
        let count = self.sizes.messages / 4;
        let arrivals = tokio::spawn(collect_messages(reader, room.clone(), since, count));
        let sent = std::sync::Mutex::new(vec![None; count]);
        let (before, begun) = (self.processes.usage(), Instant::now());
        let people = &self.people;
        let run = &self.run;
        drive("send to another server", &self.processes, SENDERS, count, |hand, number| {
            let (client, room, sent) = (&people[hand], &room, &sent);
            async move {
                sent.lock().map_err(|_| "poisoned")?[number] = Some(Instant::now());
                let path = format!("send/m.room.message/{run}-across-{number}");
                client
                    .put(&room_path(room, &path), json!({ "msgtype": "m.text", "body": "across", "number": number }))
                    .await?;
                Ok(None)
            }
        })
        .await?;
        let arrivals = arrivals.await??;
        let sent = sent.into_inner().map_err(|_| "poisoned")?;
        let latencies = arrivals.iter().filter_map(|(number, at)| Some(*at - (*sent.get(*number)?)?)).collect();
        Ok(measured("16 senders, to a remote sync", latencies, begun.elapsed(), before, &self.processes))
    }

    async fn media(&mut self) -> Result<Vec<Measured>, Failure> {
        self.populate(16).await?;
        let files = std::sync::Mutex::new(Vec::new());
        let count = self.sizes.messages / 50;
        let up = drive("upload 1 MiB", &self.processes, 16, count, |hand, number| {
            let (client, files) = (&self.people[hand], &files);
            async move {
                let mut bytes = vec![0u8; 1 << 20];
                bytes[..8].copy_from_slice(&(number as u64).to_le_bytes());
                let uri = client.upload(bytes).await?;
                files.lock().map_err(|_| "poisoned")?.push(uri);
                Ok(None)
            }
        })
        .await?;
        let files = files.into_inner().map_err(|_| "poisoned")?;
        let down = drive("download 1 MiB", &self.processes, 16, count, |hand, number| {
            let (client, uri) = (&self.people[hand], &files[number % files.len()]);
            async move {
                client.download(uri).await?;
                Ok(None)
            }
        })
        .await?;
        Ok(vec![up, down])
    }
}

/// Syncs until an answer holds a message of the room: when it was there, and the token to go on from.
async fn wait_for_message(person: Client, room: String, mut since: String) -> Result<(Instant, String), Failure> {
    loop {
        let answer = person.get(&sync_path(Some(&since), 30_000)).await?;
        let arrived = Instant::now();
        since = next_batch(&answer)?;
        let timeline = answer["rooms"]["join"][&room]["timeline"]["events"].as_array();
        if timeline.is_some_and(|events| events.iter().any(|event| event["type"] == "m.room.message")) {
            return Ok((arrived, since));
        }
    }
}

/// Syncs until so many numbered messages of the room have come: when each was there.
async fn collect_messages(
    person: Client,
    room: String,
    mut since: String,
    count: usize,
) -> Result<Vec<(usize, Instant)>, Failure> {
    let filter = segment(r#"{"room":{"timeline":{"limit":1000}}}"#);
    let mut arrivals = Vec::new();
    while arrivals.len() < count {
        let answer = person.get(&format!("{}&filter={filter}", sync_path(Some(&since), 30_000))).await?;
        let timeline = &answer["rooms"]["join"][&room]["timeline"];
        let mut events = timeline["events"].as_array().cloned().unwrap_or_default();
        let mut from = timeline["prev_batch"].as_str().filter(|_| timeline["limited"] == true).map(str::to_owned);
        while let Some(page_from) = from {
            let range = format!("messages?dir=b&limit=500&from={}&to={}", segment(&page_from), segment(&since));
            let page = person.get(&room_path(&room, &range)).await?;
            events.extend(page["chunk"].as_array().cloned().unwrap_or_default());
            from = page["end"].as_str().map(str::to_owned);
        }
        let arrived = Instant::now();
        since = next_batch(&answer)?;
        for event in events {
            let number = event["content"]["number"].as_u64().and_then(|number| usize::try_from(number).ok());
            arrivals.extend(number.map(|number| (number, arrived)));
        }
    }
    Ok(arrivals)
}

fn sync_path(since: Option<&str>, timeout_ms: u32) -> String {
    let since = since.map(|token| format!("&since={}", segment(token))).unwrap_or_default();
    format!("/_matrix/client/v3/sync?timeout={timeout_ms}{since}")
}

fn next_batch(answer: &Value) -> Result<String, Failure> {
    Ok(answer["next_batch"].as_str().ok_or("no next_batch")?.to_owned())
}
