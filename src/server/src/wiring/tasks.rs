//! What runs in the background until the server stops.

use chappe_api::App;
use chappe_services::{
    delayed_events::Overtaken, deliveries, event_follower::EventFollower, federation::left_out, guests::Guests,
    keys::Introductions, push::follower::PushFollower, room_upgrades::RoomUpgrades, sync::waiters::Waiters,
};
use chappe_store::StoreError;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

pub(super) struct Tasks {
    pub(super) stop: CancellationToken,
    pub(super) running: Vec<JoinHandle<()>>,
}

impl Tasks {
    pub(super) fn start(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.running.push(tokio::spawn(async move {
            tokio::select! {
                () = task => {}
                () = stop.cancelled() => {}
            }
        }));
    }

    /// What services do by themselves.
    pub(super) fn start_services(&mut self, app: &App) {
        self.start(app.typing.clone().run());
        self.start(app.presence.clone().run());
        self.start(app.keys.clone().run());
        self.start(deliveries::run(app.rooms.store().clone(), app.clock.clone()));
        self.start(app.keys.clone().run_after_resyncs(app.rooms.clone()));
        self.start(app.sliding_sync.clone().run());
        self.start(app.delayed_events.clone().run());
        self.start(app.search.clone().run());
        self.start(app.media.clone().run());
        self.start(app.previews.clone().run());
        self.start(app.emails.clone().run());
        if let Some(mail) = app.emails.mail() {
            self.start(mail.clone().run());
        }
        self.start(left_out::run(app.rooms.clone()));
        self.start(app.rooms.clone().run_resyncs());
        self.start(app.rooms.clone().run_refills());
    }

    /// What follows the event log.
    pub(super) fn start_followers(&mut self, app: &App, push_follower: PushFollower) -> Result<(), StoreError> {
        let rooms = &app.rooms;
        let guests = Guests::new(app.accounts.clone(), rooms.clone());
        let introductions = Introductions::new(app.keys.clone(), rooms.clone());
        let upgrades = RoomUpgrades::new(rooms.clone(), app.account_data.clone(), app.push_rules.clone());
        let directory = (*app.user_directory).clone().follow();
        self.start(EventFollower::open("delayed_events", rooms)?.run(Overtaken(app.delayed_events.clone())));
        self.start(EventFollower::open("devices_of_newly_sharing", rooms)?.run(introductions));
        self.start(EventFollower::open("guests", rooms)?.run(guests));
        self.start(EventFollower::open("push", rooms)?.run(push_follower));
        self.start(EventFollower::open("room_upgrades", rooms)?.run(upgrades));
        self.start(EventFollower::open_from_start("user_directory", rooms)?.run(directory));
        Ok(())
    }

    /// Waiting polls are answered, so that their connections can close.
    pub(super) fn answer_polls_at_stop(&mut self, waiters: Waiters) {
        let closing = self.stop.clone();
        self.running.push(tokio::spawn(async move {
            closing.cancelled().await;
            waiters.close();
        }));
    }
}
