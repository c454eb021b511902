//! Messages of local users that wait for the same room: whoever may write to it next sends them all, in one batch.
//!
//! What a batch costs (the room's record, its place in the log, waking who follows the room) is shared by as many messages as are sent at the
//! same time: the more of them there are, the less each costs.

use std::collections::{HashMap, VecDeque};

use chappe_store::Ticket;
use parking_lot::Mutex;
use ruma::{OwnedEventId, OwnedUserId, RoomId, UserId, events::TimelineEventType};
use tokio::sync::oneshot;

use crate::{
    RoomError, Rooms,
    send::{EventDraft, Sent, transaction_key},
    staging::Staging,
};

/// How many messages are sent in one batch at the most: they are made one after the other, without a pause for other tasks.
const TOGETHER_MAX: usize = 16;

type Answer = Result<(Sent, Option<Ticket>), RoomError>;

struct Message {
    sender: OwnedUserId,
    draft: EventDraft,
}

struct Waiting {
    message: Message,
    answer: oneshot::Sender<Answer>,
}

/// The messages that wait for one room, in the order in which they came.
#[derive(Default)]
pub(crate) struct SendQueue(Mutex<VecDeque<Waiting>>);

impl SendQueue {
    /// The first ones, without those that nobody waits for any more.
    fn take(&self) -> Vec<Waiting> {
        let mut queue = self.0.lock();
        let mut taken = Vec::new();
        while taken.len() < TOGETHER_MAX
            && let Some(waiting) = queue.pop_front()
        {
            if !waiting.answer.is_closed() {
                taken.push(waiting);
            }
        }
        taken
    }
}

impl EventDraft {
    /// Whether it changes nothing that another event is judged by or sent to.
    pub(crate) fn is_message(&self) -> bool {
        self.state_key.is_none() && self.redacts.is_none() && self.kind != TimelineEventType::RoomRedaction
    }
}

impl Rooms {
    /// Sends a message together with those that wait for the same room.
    pub(crate) async fn enqueue_message(&self, sender: &UserId, room_id: &RoomId, draft: EventDraft) -> Answer {
        let queue = self.send_queues.get(room_id);
        let (answer, mut answered) = oneshot::channel();
        queue.0.lock().push_back(Waiting { message: Message { sender: sender.to_owned(), draft }, answer });
        loop {
            tokio::select! {
                biased;
                answer = &mut answered => {
                    return answer.unwrap_or_else(|_| Err(RoomError::broken("a message was lost on its way into a room".to_owned())));
                }
                _writing = self.locks.write(room_id) => self.send_waiting(room_id, &queue),
            }
        }
    }

    /// The caller holds the room's write lock.
    fn send_waiting(&self, room_id: &RoomId, queue: &SendQueue) {
        let (messages, waiting): (Vec<_>, Vec<_>) =
            queue.take().into_iter().map(|waiting| (waiting.message, waiting.answer)).unzip();
        let answers = match self.enqueue_together(room_id, &messages) {
            Ok(answers) => answers,
            Err(error) if messages.len() == 1 => vec![Err(error)],
            // Nothing was written. Whom it concerns is found by trying each by itself.
            Err(_) => messages
                .chunks(1)
                .flat_map(|message| match self.enqueue_together(room_id, message) {
                    Ok(answers) => answers,
                    Err(error) => vec![Err(error)],
                })
                .collect(),
        };
        for (waiting, answer) in waiting.into_iter().zip(answers) {
            // Whoever went away meanwhile will see the event in the room.
            let _gone = waiting.send(answer);
        }
    }

    /// Makes a batch of messages, each after the one before it, and enqueues it. A message that may not be sent is left out of it, with an answer
    /// of its own; an error concerns the whole, of which nothing is written.
    fn enqueue_together(&self, room_id: &RoomId, messages: &[Message]) -> Result<Vec<Answer>, RoomError> {
        let room = self.require_room(room_id)?;
        if !self.is_server_joined(room.nid, &self.server_name)? {
            return Err(RoomError::not_in_room());
        }
        let mut staging = Staging::begin(self, room)?;
        let mut transactions: HashMap<_, OwnedEventId> = HashMap::new();
        let mut outcomes = Vec::with_capacity(messages.len());
        for Message { sender, draft } in messages {
            let transaction = draft.transaction.as_ref().map(|it| transaction_key(sender, room_id, it));
            let known = match transaction.as_ref().and_then(|key| transactions.get(key)) {
                Some(event_id) => Some(event_id.clone()),
                None => self.get_transaction(sender, room_id, draft.transaction.as_ref())?,
            };
            let outcome = match known {
                Some(event_id) => Ok((event_id, false)),
                None => staging.append_or_refuse(sender, draft)?.map(|event_id| (event_id, true)),
            };
            if let (Ok((event_id, _)), Some(key)) = (&outcome, transaction) {
                transactions.insert(key, event_id.clone());
            }
            outcomes.push(outcome);
        }
        let has_new = outcomes.iter().flatten().any(|(_, is_new)| *is_new);
        let ticket = if has_new { Some(staging.enqueue()?) } else { None };
        let answer = |outcome: Result<(OwnedEventId, bool), RoomError>| {
            outcome.map(|(event_id, is_new)| (Sent { event_id }, ticket.clone().filter(|_| is_new)))
        };
        Ok(outcomes.into_iter().map(answer).collect())
    }
}

impl Staging {
    /// Appends a message, or says why it may not be sent: the batch is then as it was. After an error it is not.
    fn append_or_refuse(
        &mut self,
        sender: &UserId,
        draft: &EventDraft,
    ) -> Result<Result<OwnedEventId, RoomError>, RoomError> {
        self.resolve_named_state()?;
        let pdu = match self.prepare_own(sender, draft) {
            Ok(pdu) => pdu,
            Err(refusal) => return Ok(Err(refusal)),
        };
        let event = self.append_prepared(sender, pdu, draft.transaction.as_ref())?;
        Ok(Ok(event.pdu.event_id.clone()))
    }
}
