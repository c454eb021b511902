//! Rooms, and what passes between those who are in them.

use std::sync::Arc;

use chappe_rooms::Rooms;
use chappe_services::{
    app_services::{
        client::AppServices,
        sender::{AppServiceSender, SenderError, SenderSources},
    },
    delayed_events::DelayedEvents,
    federation::{remote::FederationRemote, sender::Sender},
    invite_filter::InviteFilter,
    key_backup::KeyBackup,
    keys::{DeviceLists, Keys},
    media::Media,
    presence::Presence,
    previews::Previews,
    receipts::Receipts,
    to_device::ToDevice,
    typing::Typing,
};
use tokio_util::sync::CancellationToken;

use super::{Base, BuildError, Outside, People};
use crate::settings;

pub(super) struct Conversation {
    pub(super) rooms: Rooms,
    pub(super) delayed_events: Arc<DelayedEvents>,
    pub(super) app_services: AppServices,
    /// To other servers.
    pub(super) sender: Arc<Sender>,
    // Encryption.
    pub(super) keys: Keys,
    pub(super) device_lists: DeviceLists,
    pub(super) to_device: Arc<ToDevice>,
    pub(super) key_backup: KeyBackup,
    // What is no event.
    pub(super) typing: Arc<Typing>,
    pub(super) presence: Arc<Presence>,
    pub(super) receipts: Arc<Receipts>,
    pub(super) media: Media,
    pub(super) previews: Previews,
}

impl Conversation {
    pub(super) fn build(
        base: &Base<'_>,
        outside: &Outside,
        people: &People,
        stop: &CancellationToken,
    ) -> Result<Self, BuildError> {
        let Base { config, server_name, clock, data_dir, signer, store, .. } = base;
        let federation = Arc::new(outside.federation.clone());
        let rooms = Rooms::new(
            store.clone(),
            signer.clone(),
            clock.clone(),
            Arc::new(FederationRemote::new(outside.federation.clone(), outside.server_keys.clone())),
            outside.policy.clone(),
            people.profiles.clone(),
            settings::rooms(config),
        )
        .with_invite_gate(Arc::new(InviteFilter(people.account_data.clone())));
        let delayed_events =
            DelayedEvents::new(rooms.clone(), clock.clone(), settings::delayed_events(&config.delayed_events));
        let app_services = AppServices::new(outside.to_app_services.clone(), people.accounts.clone(), rooms.clone());
        let sender = Arc::new(Sender::start(
            server_name.clone(),
            store.clone(),
            clock.clone(),
            federation.clone(),
            outside.destinations.clone(),
            Arc::new(rooms.clone()),
            stop.clone(),
        )?);

        let keys = Keys::new(store.clone(), server_name.clone(), federation.clone())
            .sharing_device_names(config.federation.share_device_names)
            .noting_claims(clock.clone());
        let to_device = ToDevice::new(store.clone(), server_name.clone(), clock.clone(), keys.clone());

        let typing = Typing::new(store.clone(), server_name.clone(), clock.clone(), sender.clone());
        let presence =
            Presence::new(store.clone(), server_name.clone(), clock.clone(), sender.clone(), config.presence.enabled);

        let media = Media::open(
            &data_dir.media(),
            store.clone(),
            server_name.clone(),
            clock.clone(),
            federation,
            settings::media(&config.media),
        )
        .map_err(BuildError::Media)?;
        let previews = Previews::new(
            settings::previews(&config.media.previews),
            outside.to_pages.clone(),
            media.clone(),
            store.clone(),
            clock.clone(),
        );
        Ok(Self {
            rooms,
            delayed_events: Arc::new(delayed_events),
            app_services,
            sender,
            keys,
            device_lists: DeviceLists::new(store.clone()),
            to_device: Arc::new(to_device),
            key_backup: KeyBackup::new(store.clone()),
            typing: Arc::new(typing),
            presence: Arc::new(presence),
            receipts: Arc::new(Receipts::new(store.clone(), server_name.clone(), clock.clone())),
            media,
            previews,
        })
    }

    /// A task for each application service that is to be told anything.
    pub(super) async fn prepare_app_services(&self) -> Result<Vec<AppServiceSender>, SenderError> {
        let sources = SenderSources {
            app_services: self.app_services.clone(),
            rooms: self.rooms.clone(),
            typing: self.typing.clone(),
            receipts: self.receipts.clone(),
            presence: self.presence.clone(),
        };
        AppServiceSender::prepare(&sources).await
    }
}
