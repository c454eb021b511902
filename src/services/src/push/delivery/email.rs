//! Mails about what is unread: one mail for all that came in a while, to the user's own address.
//!
//! The first event waits a while, in which its user may read it; what comes meanwhile goes into the same mail. Who reads nothing is
//! written to less and less often. Of encrypted rooms a mail says that something was written, not what.

use std::sync::Arc;

use chappe_rooms::{Event, Room};
use chappe_store::{
    Batch, Direction, Position,
    tables::push::{PUSH_QUEUE, PUSHER_STATES, PusherState},
};
use ruma::{
    OwnedRoomId, UserId,
    events::{StateEventType, TimelineEventType},
};
use serde_json::{Map, Value, json};

use super::{DeliverError, Fresh, Inner, Progress};
use crate::{
    emails::canonical_address,
    mail::SendMailError,
    push::{evaluate::get_display_name, gateway::describe, pushers::PusherKey, unsubscribe::UNSUBSCRIBE_PATH},
};

/// How long an event waits for its user to read it, in milliseconds.
pub(super) const DELAY_MS: u64 = 10 * 60_000;

/// The longest pause between two mails, in milliseconds. The shortest is [`DELAY_MS`].
const PAUSE_MAX_MS: u64 = 12 * 3_600_000;

/// How long a mail waits when too many mails do, in milliseconds.
const QUEUE_FULL_PAUSE_MS: u64 = 60_000;

/// How many events one mail tells of: of more, the oldest are passed over.
const EVENTS_MAX: usize = 200;

/// How many rooms one mail tells of, and how many events of each.
const ROOMS_MAX: usize = 20;
const EVENTS_PER_ROOM_MAX: usize = 10;

/// How much of a message a mail cites, in characters.
const BODY_CHARS_MAX: usize = 500;

/// An event that a mail is to tell of.
struct News {
    position: Position,
    queued_at_ms: u64,
    room: Option<Room>,
    event: Arc<Event>,
}

impl Inner {
    /// Does the next thing there is to do for a pusher that writes emails.
    pub(super) async fn step_email(&self, key: &PusherKey) -> Result<Progress, DeliverError> {
        let state = self.store.get(&PUSHER_STATES, &key.row())?.unwrap_or_default();
        let first = self.store.scan(&PUSH_QUEUE, &key.row(), Direction::Forward).next().transpose()?;
        let Some((_, first)) = first else {
            if state.failures > 0 && self.get_badge(key).await? == 0 {
                // The mails were of use: the next one comes as soon as the first did.
                self.put_state(key, PusherState { failures: 0, ..state }).await?;
            }
            return Ok(Progress::Idle);
        };
        let due_ms = first.queued_at_ms.saturating_add(DELAY_MS).max(state.retry_at_ms);
        if due_ms > self.clock.now_ms() {
            return Ok(Progress::RetryAt(due_ms));
        }
        let mut batch = Batch::new();
        let news = self.take_news(key, &mut batch)?;
        let waits_since_ms = news.iter().map(|news| news.queued_at_ms).min();
        let is_due = waits_since_ms.is_some_and(|at_ms| at_ms.saturating_add(DELAY_MS) <= self.clock.now_ms());
        if !is_due {
            // What was first has been read; the others have their time yet.
            self.store.commit(batch).await?;
            return Ok(Progress::Step);
        }
        if let Err(error) = self.send_mail(key, &news).await? {
            match error {
                SendMailError::QueueFull => {
                    let retry_at_ms = self.clock.now_ms().saturating_add(QUEUE_FULL_PAUSE_MS);
                    self.put_state(key, PusherState { retry_at_ms, ..state }).await?;
                    return Ok(Progress::RetryAt(retry_at_ms));
                }
                error => tracing::error!(user.id = %key.user_id, %error, "a mail about unread events was not sent"),
            }
        }
        for news in &news {
            self.queue_done(&mut batch, key, news.position);
        }
        let pause_ms = DELAY_MS.saturating_mul(1 << state.failures.min(16)).min(PAUSE_MAX_MS);
        let retry_at_ms = self.clock.now_ms().saturating_add(pause_ms);
        let sent = PusherState { failures: state.failures.saturating_add(1), retry_at_ms, badge: 0 };
        batch.put(&PUSHER_STATES, &key.row(), &sent);
        self.store.commit(batch).await?;
        Ok(Progress::Step)
    }

    async fn put_state(&self, key: &PusherKey, state: PusherState) -> Result<(), DeliverError> {
        let mut batch = Batch::new();
        batch.put(&PUSHER_STATES, &key.row(), &state);
        self.store.commit(batch).await?;
        Ok(())
    }

    /// What waits and is still news, newest first. The rest is taken out of the queue by the batch.
    fn take_news(&self, key: &PusherKey, batch: &mut Batch) -> Result<Vec<News>, DeliverError> {
        let mut all = Vec::new();
        let rows = self.store.scan(&PUSH_QUEUE, &key.row(), Direction::Reverse);
        for (looked_at, row) in rows.enumerate() {
            let ((_, _, _, position), push) = row?;
            let news = if looked_at < EVENTS_MAX { self.get_news(key, &push)? } else { None };
            match news {
                Some(Fresh { room, event }) => {
                    all.push(News { position, queued_at_ms: push.queued_at_ms, room, event })
                }
                None => self.queue_done(batch, key, position),
            }
        }
        Ok(all)
    }

    /// Writes to the user. The inner error is the mail's own.
    async fn send_mail(&self, key: &PusherKey, news: &[News]) -> Result<Result<(), SendMailError>, DeliverError> {
        let (Some(mail), Some(address)) = (self.emails.mail(), canonical_address(&key.pushkey)) else {
            return Ok(Ok(()));
        };
        let code = self.pushers.make_unsubscribe_code(key).await?;
        let parameters = [("user", key.user_id.as_str()), ("address", &key.pushkey), ("code", &code)];
        let unsubscribe = self.emails.page_url(UNSUBSCRIBE_PATH, &parameters);
        let mut values = self.sum_up(&key.user_id, news)?;
        values.insert("service".to_owned(), mail.service_name().into());
        values.insert("unsubscribe".to_owned(), unsubscribe.as_str().into());
        Ok(mail.send_with_unsubscribe(&address, "notifications", Value::Object(values), &unsubscribe))
    }

    /// What the templates of the mail are given: rooms, and in each what was written, oldest first.
    fn sum_up(&self, user_id: &UserId, news: &[News]) -> Result<Map<String, Value>, DeliverError> {
        let mut rooms: Vec<(OwnedRoomId, Vec<&News>)> = Vec::new();
        for news in news {
            let room_id = &news.event.pdu.room_id;
            match rooms.iter_mut().find(|(known, _)| known == room_id) {
                Some((_, of_room)) => of_room.push(news),
                None => rooms.push((room_id.clone(), vec![news])),
            }
        }
        let mut shown = Vec::new();
        for (_, of_room) in rooms.iter().take(ROOMS_MAX) {
            shown.push(self.sum_up_room(user_id, of_room)?);
        }
        let mut values = Map::new();
        values.insert("user".to_owned(), user_id.as_str().into());
        values.insert("count".to_owned(), news.len().into());
        values.insert("more_rooms".to_owned(), rooms.len().saturating_sub(ROOMS_MAX).into());
        values.insert("rooms".to_owned(), shown.into());
        Ok(values)
    }

    fn sum_up_room(&self, user_id: &UserId, news: &[&News]) -> Result<Value, DeliverError> {
        let room = news.first().and_then(|news| news.room.as_ref());
        let is_encrypted = match room {
            Some(room) => {
                let encryption: Option<Value> =
                    self.rooms.get_state_content(room.nid, &StateEventType::RoomEncryption, "")?;
                encryption.is_some()
            }
            None => false,
        };
        let mut name = None;
        let mut events = Vec::new();
        for news in news.iter().take(EVENTS_PER_ROOM_MAX).rev() {
            let mut described = Map::new();
            describe(&self.rooms, news.room.as_ref(), &news.event, user_id, &mut described)?;
            let text = |field: &str| described.get(field).and_then(Value::as_str);
            name = text("room_name").or_else(|| text("room_alias")).map(str::to_owned).or(name);
            let pdu = &news.event.pdu;
            let is_message = pdu.kind == TimelineEventType::RoomMessage && !is_encrypted;
            let body = described.get("content").and_then(|content| content.get("body")?.as_str());
            events.push(json!({
                "sender": text("sender_display_name").unwrap_or(pdu.sender.as_str()),
                "is_invite": described.get("user_is_target") == Some(&Value::Bool(true)),
                "body": body.filter(|_| is_message).map(cut),
            }));
        }
        if name.is_none()
            && let (Some(room), Some(last)) = (room, news.first())
        {
            // A room without a name is known by who is in it.
            let sender = &last.event.pdu.sender;
            name = get_display_name(&self.rooms, room, sender)?.or_else(|| Some(sender.to_string()));
        }
        Ok(json!({
            "name": name,
            "is_encrypted": is_encrypted,
            "events": events,
            "more": news.len().saturating_sub(EVENTS_PER_ROOM_MAX),
        }))
    }
}

fn cut(body: &str) -> String {
    match body.char_indices().nth(BODY_CHARS_MAX) {
        Some((end, _)) => format!("{}…", body.get(..end).unwrap_or_default()),
        None => body.to_owned(),
    }
}
