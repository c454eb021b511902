//! Why a device may not be able to read an event: what this server knows of each step that the key of an encrypted event takes from the
//! sender's device to the reader's.
//!
//! The server sees neither keys nor what is in messages to devices. It tells what is missing, what waits, and, from the records of
//! [`crate::deliveries`], what was claimed, queued and acknowledged when. It changes nothing and asks no other server.

use std::fmt;

use chappe_rooms::{Event, Rooms};
use chappe_store::{
    Direction, Store, StoreError,
    tables::{
        accounts::{DEVICES, DEVICES_SEEN},
        deliveries::{KEY_CLAIMS, TO_DEVICE_ACKNOWLEDGED},
        destinations::DESTINATIONS,
        e2ee::{DEVICE_KEYS, FALLBACK_KEYS, REMOTE_DEVICES},
        outgoing::{OUTGOING, OutgoingItem},
        to_device::TO_DEVICE,
    },
};
use ruma::{DeviceId, EventId, OwnedUserId, ServerName, UserId};
use serde::Deserialize;
use serde_json::Value;

use crate::{
    deliveries::{Delivery, get_deliveries},
    keys::{Keys, one_time_key_counts},
};

/// How many waiting EDUs for one server are looked through.
const OUTGOING_SCANNED_MAX: usize = 10_000;

/// A key may be sent so long after its event and still be the first copy of it, in milliseconds: clients' and servers' clocks differ.
const CLOCKS_APART_MS: u64 = 60_000;

/// How a step of the delivery stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    Good,
    /// Delivery cannot have got past this.
    Broken,
    /// Not over yet.
    Waiting,
    /// Another server would have to be asked, or nothing was noted.
    Unknown,
}

/// What is known of one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    pub step: &'static str,
    pub standing: Standing,
    pub what: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let standing = match self.standing {
            Standing::Good => "ok     ",
            Standing::Broken => "BROKEN ",
            Standing::Waiting => "waiting",
            Standing::Unknown => "unknown",
        };
        write!(f, "{standing} {}: {}", self.step, self.what)
    }
}

/// The parts of an encrypted event that the server can read.
#[derive(Default, Deserialize)]
struct Encrypted {
    #[serde(default)]
    algorithm: String,
    session_id: Option<String>,
}

struct Explanation<'a> {
    rooms: &'a Rooms,
    keys: &'a Keys,
    sender: &'a UserId,
    /// When the event was made, in milliseconds since the epoch, by the clock of the sender's server.
    event_at_ms: u64,
    reader: &'a UserId,
    device: &'a DeviceId,
    findings: Vec<Finding>,
}

/// Follows the key of `event_id` to this device of `reader`, step by step.
pub fn explain_delivery(
    rooms: &Rooms,
    keys: &Keys,
    event_id: &EventId,
    reader: &UserId,
    device: &DeviceId,
) -> Result<Vec<Finding>, StoreError> {
    let Some(event) = rooms.get_event(event_id)? else {
        let what = "not known to this server".to_owned();
        return Ok(vec![Finding { step: "event", standing: Standing::Broken, what }]);
    };
    let sender = &event.pdu.sender;
    let event_at_ms = event.pdu.origin_server_ts.get().into();
    let mut explanation = Explanation { rooms, keys, sender, event_at_ms, reader, device, findings: Vec::new() };
    explanation.follow(&event)?;
    Ok(explanation.findings)
}

/// The members of an event's room who have a device of this name, as far as this server knows.
pub fn find_owners(rooms: &Rooms, event_id: &EventId, device: &DeviceId) -> Result<Vec<OwnedUserId>, StoreError> {
    let Some(event) = rooms.get_event(event_id)? else { return Ok(Vec::new()) };
    let mut owners = Vec::new();
    for row in rooms.scan_members(event.record.room) {
        let (user, _) = row?;
        let key = (user.clone(), device.to_owned());
        if rooms.store().contains(&DEVICES, &key)? || rooms.store().contains(&REMOTE_DEVICES, &key)? {
            owners.push(user);
        }
    }
    Ok(owners)
}

impl Explanation<'_> {
    fn note(&mut self, step: &'static str, standing: Standing, what: impl Into<String>) {
        self.findings.push(Finding { step, standing, what: what.into() });
    }

    fn store(&self) -> &Store {
        self.rooms.store()
    }

    fn is_local(&self, user: &UserId) -> bool {
        user.server_name() == self.rooms.server_name()
    }

    fn follow(&mut self, event: &Event) -> Result<(), StoreError> {
        self.follow_event(event)?;
        if self.is_local(self.reader) {
            self.follow_local_device()?;
        } else {
            self.follow_remote_device()?;
        }
        match (self.is_local(self.sender), self.is_local(self.reader)) {
            (false, true) => self.follow_device_list_out()?,
            (true, false) => self.follow_destination(self.reader.server_name())?,
            (true, true) => self.note("way between the servers", Standing::Good, "both users are on this server"),
            (false, false) => {
                self.note("way between the servers", Standing::Unknown, "neither user is on this server");
                return Ok(());
            }
        }
        self.follow_claims()?;
        let deliveries = get_deliveries(self.store(), (self.reader, self.device), self.sender)?;
        self.follow_queue(&deliveries);
        // The newest that can have carried the key; else the oldest that is known.
        let in_time = deliveries.iter().find(|one| one.at_ms <= self.event_at_ms.saturating_add(CLOCKS_APART_MS));
        let Some(delivery) = in_time.or(deliveries.last()) else { return Ok(()) };
        if self.is_local(self.reader) { self.follow_inbox(delivery) } else { self.follow_sending(delivery) }
    }

    fn follow_event(&mut self, event: &Event) -> Result<(), StoreError> {
        let pdu = &event.pdu;
        let kind = pdu.kind.to_string();
        if kind == "m.room.encrypted" {
            let encrypted: Encrypted = pdu.get_content().unwrap_or_default();
            let session = encrypted.session_id.unwrap_or_else(|| "unnamed".to_owned());
            let what = format!(
                "sent by {} with {:?}, session {session:?}, {} ago",
                pdu.sender,
                encrypted.algorithm,
                span(self.rooms.now_ms().saturating_sub(self.event_at_ms))
            );
            self.note("event", Standing::Good, what);
        } else {
            self.note("event", Standing::Good, format!("{kind}, not encrypted: no key is needed to read it"));
        }
        if !event.is_accepted() {
            self.note("event", Standing::Broken, "not accepted by this server, and shown to nobody");
        }
        let membership = self.rooms.get_membership(event.record.room, self.reader)?;
        let is_visible = self.rooms.is_visible_to_user(event, self.reader)?;
        let (standing, word) = if is_visible { (Standing::Good, "may") } else { (Standing::Broken, "may not") };
        let what = format!("{} {word} see the event; their membership is now \"{membership}\"", self.reader);
        self.note("reader in the room", standing, what);
        Ok(())
    }

    fn follow_local_device(&mut self) -> Result<(), StoreError> {
        let row = (self.reader.to_owned(), self.device.to_owned());
        let Some(device) = self.store().get(&DEVICES, &row)? else {
            self.note("device", Standing::Broken, "not logged in on this server, or no longer");
            return Ok(());
        };
        let seen = match self.store().get(&DEVICES_SEEN, &row)? {
            Some(seen) => {
                format!("last seen about {} ago", span(self.rooms.now_ms().saturating_sub(seen.at_ms)))
            }
            None => "not seen since it logged in".to_owned(),
        };
        self.note("device", Standing::Good, format!("logged in {}; {seen}", self.when(device.created_at_ms)));
        if self.store().contains(&DEVICE_KEYS, &row)? {
            self.note("device's identity keys", Standing::Good, "uploaded");
        } else {
            self.note("device's identity keys", Standing::Broken, "none were uploaded: nobody can encrypt for it");
        }
        let counts = one_time_key_counts(self.store(), self.reader, self.device)?;
        let left: u64 = counts.values().copied().map(u64::from).sum();
        let fallbacks = self.store().scan(&FALLBACK_KEYS, &row, Direction::Forward).count();
        let (standing, what) = match (left, fallbacks) {
            (0, 0) => (Standing::Broken, "none left and no fallback key: no new session can be begun".to_owned()),
            (0, _) => (Standing::Good, "none left; the fallback key stands in".to_owned()),
            (left, _) => (Standing::Good, format!("{left} left")),
        };
        self.note("device's one-time keys", standing, what);
        Ok(())
    }

    fn follow_remote_device(&mut self) -> Result<(), StoreError> {
        if self.keys.is_list_fresh(self.reader)? {
            self.note("device list", Standing::Good, "known here and up to date");
        } else {
            let what = "not known here, or out of date: it is fetched when somebody asks for it";
            self.note("device list", Standing::Waiting, what);
        }
        if self.store().contains(&REMOTE_DEVICES, &(self.reader.to_owned(), self.device.to_owned()))? {
            self.note("device", Standing::Good, "in the device list that this server has, with keys");
        } else {
            self.note("device", Standing::Broken, "not in the device list that this server has");
        }
        Ok(())
    }

    /// The sender's server must have been told of the reader's devices.
    fn follow_device_list_out(&mut self) -> Result<(), StoreError> {
        let server = self.sender.server_name();
        self.follow_destination(server)?;
        let waiting = self.count_outgoing(server, |edu| {
            let is_update = edu.get("edu_type")?.as_str()? == "m.device_list_update";
            Some(is_update && edu.get("content")?.get("user_id")?.as_str()? == self.reader.as_str())
        })?;
        if waiting == 0 {
            self.note("device list", Standing::Good, format!("no change of it waits to be sent to {server}"));
        } else {
            let what = format!("{waiting} changes of it wait to be sent to {server}: it may not know the device yet");
            self.note("device list", Standing::Waiting, what);
        }
        Ok(())
    }

    fn follow_destination(&mut self, server: &ServerName) -> Result<(), StoreError> {
        match self.store().get(&DESTINATIONS, &server.to_owned())? {
            None => self.note("way between the servers", Standing::Good, format!("{server} is being reached")),
            Some(failing) => {
                let failing_ms = self.rooms.now_ms().saturating_sub(failing.failing_since_ms);
                let what = format!("{server} has not been reached for {}", span(failing_ms));
                self.note("way between the servers", Standing::Waiting, what);
            }
        }
        Ok(())
    }

    fn count_outgoing(
        &self,
        server: &ServerName,
        is_wanted: impl Fn(&Value) -> Option<bool>,
    ) -> Result<usize, StoreError> {
        let mut count = 0;
        let rows = self.store().scan(&OUTGOING, &(server.to_owned(),), Direction::Forward);
        for row in rows.take(OUTGOING_SCANNED_MAX) {
            let (_, item) = row?;
            let (OutgoingItem::Edu(edu) | OutgoingItem::CoalescedEdu { edu, .. }) = item else { continue };
            let edu: Option<Value> = serde_json::from_str(&edu).ok();
            count += usize::from(edu.as_ref().and_then(&is_wanted) == Some(true));
        }
        Ok(count)
    }

    /// Whether the sender's device was given a key to begin a session with.
    fn follow_claims(&mut self) -> Result<(), StoreError> {
        let row = (self.reader.to_owned(), self.device.to_owned());
        let claims = self.store().get(&KEY_CLAIMS, &row)?.unwrap_or_default().recent;
        // Of another server's users it is only known that their server asked.
        let claimant = match self.is_local(self.sender) {
            true => self.sender.as_str(),
            false => self.sender.server_name().as_str(),
        };
        let Some(claim) = claims.iter().find(|claim| claim.by == claimant) else {
            let what = format!("none that was claimed by {claimant} is remembered: an older session may be in use");
            self.note("key claimed", Standing::Unknown, what);
            return Ok(());
        };
        let when = self.when(claim.at_ms);
        match &claim.key_id {
            Some(key_id) => self.note("key claimed", Standing::Good, format!("{key_id:?} by {claimant}, {when}")),
            None => {
                let what = format!("{claimant} asked for one {when}, and got none");
                self.note("key claimed", Standing::Broken, what);
            }
        }
        Ok(())
    }

    fn follow_queue(&mut self, deliveries: &[Delivery]) {
        if deliveries.is_empty() {
            let what = format!("no message from {} to the device is remembered", self.sender);
            self.note("message queued", Standing::Broken, what);
            return;
        }
        let times: Vec<String> = deliveries.iter().take(3).map(|delivery| self.when(delivery.at_ms)).collect();
        let what = format!("the last messages from {} to the device: {}", self.sender, times.join("; "));
        self.note("message queued", Standing::Good, what);
    }

    fn follow_sending(&mut self, delivery: &Delivery) -> Result<(), StoreError> {
        let server = self.reader.server_name().to_owned();
        let when = self.when(delivery.at_ms);
        if self.store().contains(&OUTGOING, &(server.clone(), delivery.position))? {
            let what = format!("the message queued {when} waits to be sent to {server}");
            self.note("message sent", Standing::Waiting, what);
        } else {
            let what = format!("{server} has acknowledged the message queued {when}");
            self.note("message sent", Standing::Good, what);
        }
        self.note("given to the device", Standing::Unknown, format!("only {server} can tell"));
        Ok(())
    }

    fn follow_inbox(&mut self, delivery: &Delivery) -> Result<(), StoreError> {
        let row = (self.reader.to_owned(), self.device.to_owned());
        let when = self.when(delivery.at_ms);
        if self.store().contains(&TO_DEVICE, &(row.0.clone(), row.1.clone(), delivery.position))? {
            let waiting = self.store().scan(&TO_DEVICE, &row, Direction::Forward).count();
            let what = format!("the message queued {when} waits until the device syncs, with {waiting} in all");
            self.note("given to the device", Standing::Waiting, what);
            return Ok(());
        }
        let acknowledged = self.store().get(&TO_DEVICE_ACKNOWLEDGED, &row)?;
        match acknowledged.filter(|acknowledged| acknowledged.position >= delivery.position.0) {
            Some(acknowledged) => {
                let last = self.when(acknowledged.at_ms);
                let what = format!("the device has acknowledged the message queued {when}, and its last {last}");
                self.note("given to the device", Standing::Good, what);
            }
            None => {
                let what = format!("the message queued {when} is gone without having been acknowledged");
                self.note("given to the device", Standing::Broken, what);
            }
        }
        Ok(())
    }

    /// A time, as seen from the event.
    fn when(&self, at_ms: u64) -> String {
        if at_ms <= self.event_at_ms {
            format!("{} before the event", span(self.event_at_ms - at_ms))
        } else {
            format!("{} after the event", span(at_ms - self.event_at_ms))
        }
    }
}

/// A span of time, in its largest unit.
fn span(ms: u64) -> String {
    match ms / 1000 {
        0..120 => format!("{}.{} s", ms / 1000, ms % 1000 / 100),
        seconds @ 120..7_200 => format!("{} min", seconds / 60),
        seconds @ 7_200..172_800 => format!("{} h", seconds / 3600),
        seconds => format!("{} days", seconds / 86_400),
    }
}

#[cfg(test)]
#[path = "explain_delivery_tests.rs"]
mod tests;
