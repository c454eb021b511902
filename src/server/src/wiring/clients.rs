//! What clients are told, when they ask and when they do not.

use std::sync::Arc;

use chappe_services::{
    push::{
        delivery::Deliveries,
        follower::{PushFollower, PushSources},
        pushers::Pushers,
    },
    readers::{ReaderSources, Readers},
};
use chappe_store::StoreError;
use tokio_util::sync::CancellationToken;

use super::{Base, Conversation, Outside, People};

/// What reads rooms for those who ask.
pub(super) fn readers(base: &Base<'_>, people: &People, conversation: &Conversation) -> Readers {
    Readers::new(ReaderSources {
        rooms: conversation.rooms.clone(),
        clock: base.clock.clone(),
        account_data: people.account_data.clone(),
        device_lists: conversation.device_lists.clone(),
        filters: people.filters.clone(),
        presence: conversation.presence.clone(),
        push_rules: people.push_rules.clone(),
        receipts: conversation.receipts.clone(),
        to_device: conversation.to_device.clone(),
        typing: conversation.typing.clone(),
    })
}

/// What tells those who do not ask.
pub(super) struct Push {
    pub(super) pushers: Arc<Pushers>,
    pub(super) follower: PushFollower,
}

impl Push {
    pub(super) fn build(
        base: &Base<'_>,
        outside: &Outside,
        people: &People,
        conversation: &Conversation,
        readers: &Readers,
        stop: &CancellationToken,
    ) -> Result<Self, StoreError> {
        let Conversation { rooms, receipts, .. } = conversation;
        let pushers = Arc::new(Pushers::load(base.store.clone(), base.clock.clone())?);
        let deliveries = Deliveries::new(
            rooms.clone(),
            pushers.clone(),
            readers.unread.clone(),
            Arc::new(outside.connector.clone()),
            people.emails.clone(),
            base.clock.clone(),
            stop.clone(),
        );
        let follower = PushFollower::open(PushSources {
            rooms: rooms.clone(),
            account_data: people.account_data.clone(),
            rules: people.push_rules.clone(),
            candidates: readers.candidates.clone(),
            pushers: pushers.clone(),
            deliveries: deliveries.clone(),
            clock: base.clock.clone(),
        })?;
        deliveries.wake_on_read(receipts);
        deliveries.resume()?;
        Ok(Self { pushers, follower })
    }
}
