//! Which member events a device has been sent, so that lazy loading does not send them again.
//!
//! In memory only, and bounded: what is forgotten is merely sent once more. A member counts as sent only to a device that has
//! come back with the token of the answer it was in, or a later one; and once a device comes back with an older token than it
//! was given, so that an answer got lost on its way, nothing counts that was sent until then.

use std::{
    hash::{BuildHasher, RandomState},
    num::NonZeroUsize,
};

use chappe_store::{EventNid, Position, RoomNid};
use lru::LruCache;
use parking_lot::Mutex;
use ruma::{DeviceId, UserId};

/// How many members are remembered, all devices together; each takes about 100 bytes.
const MEMBERS_MAX: usize = 200_000;

/// How many devices are remembered.
const DEVICES_MAX: NonZeroUsize = NonZeroUsize::new(20_000).unwrap();

struct Sent {
    event: EventNid,
    /// The position of the answer's token.
    at: Position,
}

#[derive(Default)]
struct Device {
    /// The newest token given out.
    last: Position,
    /// Nothing that was sent up to here counts.
    floor: Position,
}

struct Memory {
    sent: LruCache<u64, Sent>,
    devices: LruCache<u64, Device>,
}

pub struct LazyMembers {
    hasher: RandomState,
    memory: Mutex<Memory>,
}

impl Default for LazyMembers {
    fn default() -> Self {
        let memory = Memory { sent: LruCache::unbounded(), devices: LruCache::new(DEVICES_MAX) };
        Self { hasher: RandomState::new(), memory: Mutex::new(memory) }
    }
}

/// The members that one device has of one room.
#[derive(Clone, Copy)]
pub struct DeviceRoom<'a> {
    pub user: &'a UserId,
    pub device: &'a DeviceId,
    pub room: RoomNid,
}

impl LazyMembers {
    /// A device comes with the token of this position, or with none.
    pub fn begin(&self, user: &UserId, device: &DeviceId, since: Option<Position>) {
        let key = self.device_key(user, device);
        let mut memory = self.memory.lock();
        let device = memory.devices.get_or_insert_mut(key, Device::default);
        if since.unwrap_or_default() < device.last {
            device.floor = device.last;
        }
    }

    /// Whether a device that has seen everything up to `since` has this member event, and no newer one of the member.
    pub fn has(&self, of: DeviceRoom<'_>, member: &str, event: EventNid, since: Position) -> bool {
        let mut memory = self.memory.lock();
        let Some(floor) = memory.devices.get(&self.device_key(of.user, of.device)).map(|device| device.floor) else {
            return false;
        };
        let sent = memory.sent.get(&self.member_key(of, member));
        sent.is_some_and(|sent| sent.event == event && sent.at > floor && sent.at <= since)
    }

    /// Notes that an answer with a token of this position holds these member events.
    pub fn note<'m>(&self, of: DeviceRoom<'_>, members: impl IntoIterator<Item = (&'m str, EventNid)>, at: Position) {
        let mut memory = self.memory.lock();
        let device = memory.devices.get_or_insert_mut(self.device_key(of.user, of.device), Device::default);
        device.last = device.last.max(at);
        for (member, event) in members {
            memory.sent.put(self.member_key(of, member), Sent { event, at });
            if memory.sent.len() > MEMBERS_MAX {
                memory.sent.pop_lru();
            }
        }
    }

    fn device_key(&self, user: &UserId, device: &DeviceId) -> u64 {
        self.hasher.hash_one((user.as_str(), device.as_str()))
    }

    fn member_key(&self, of: DeviceRoom<'_>, member: &str) -> u64 {
        self.hasher.hash_one((of.user.as_str(), of.device.as_str(), of.room, member))
    }
}

#[cfg(test)]
mod tests {
    use ruma::{device_id, user_id};

    use super::*;

    fn alice() -> DeviceRoom<'static> {
        DeviceRoom { user: user_id!("@a:x"), device: device_id!("D"), room: RoomNid(1) }
    }

    fn has(lazy: &LazyMembers, of: DeviceRoom<'_>, event: u64, since: u64) -> bool {
        lazy.begin(of.user, of.device, Some(Position(since)));
        lazy.has(of, "@b:x", EventNid(event), Position(since))
    }

    #[test]
    fn a_member_is_redundant_once_the_answer_came_through() {
        let lazy = LazyMembers::default();
        lazy.note(alice(), [("@b:x", EventNid(7))], Position(10));
        assert!(has(&lazy, alice(), 7, 10));
        assert!(has(&lazy, alice(), 7, 11));
        assert!(!has(&lazy, alice(), 8, 11));
        assert!(!has(&lazy, DeviceRoom { device: device_id!("E"), ..alice() }, 7, 10));
        assert!(!has(&lazy, DeviceRoom { room: RoomNid(2), ..alice() }, 7, 10));
    }

    #[test]
    fn a_lost_answer_withholds_nothing() {
        let lazy = LazyMembers::default();
        lazy.note(alice(), [("@b:x", EventNid(7))], Position(10));
        assert!(!has(&lazy, alice(), 7, 9));
        // The answer to that did not hold the member: it is still not known to the device.
        assert!(!has(&lazy, alice(), 7, 12));
        lazy.note(alice(), [("@b:x", EventNid(7))], Position(13));
        assert!(has(&lazy, alice(), 7, 13));
    }
}
