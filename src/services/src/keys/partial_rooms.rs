//! Device lists and rooms whose members are not all known yet (see `chappe_rooms::partial`).
//!
//! While it cannot be told whether a remote user is in such a room, nothing of the user is cached, and that an update came is only
//! remembered. Once all members are known, local users are told of those updates, and of the users whose lists were known here before;
//! and the servers of which nobody had said that they are in the room are told of the updates of local users that they have missed.

use std::collections::BTreeSet;

use chappe_rooms::Rooms;
use chappe_store::{
    Batch, CommitError, Direction, Position, Stamped, StoreError,
    tables::{
        e2ee::{DEVICE_LIST_LATEST, REMOTE_DEVICE_LISTS},
        partial_rooms::{FINISHED_RESYNCS, FinishedResync, PARTIAL_ROOMS, PARTIAL_SERVERS, PENDING_DEVICE_LISTS},
        rooms::MEMBERS,
    },
};
use ruma::UserId;

use super::{
    Keys,
    device_lists::{queue_list_reminder, queue_remote_list_changed},
    remote_lists::EduError,
    sharing::JOIN,
};

impl Keys {
    /// Remembers that an update came of a user who may be in a room not all of whose members are known.
    pub(super) async fn note_pending_list(&self, user: &UserId) -> Result<(), EduError> {
        let mut batch = Batch::new();
        for row in self.store.scan(&PARTIAL_ROOMS, &(), Direction::Forward) {
            let (room, _) = row?;
            if self.store.contains(&PARTIAL_SERVERS, &(room, user.server_name().to_owned()))? {
                batch.put(&PENDING_DEVICE_LISTS, &(room, user.to_owned()), &());
            }
        }
        if !batch.is_empty() {
            self.store.commit(batch).await?;
        }
        Ok(())
    }

    /// Does what is left to be done for rooms all of whose members have become known, for as long as it is polled.
    pub async fn run_after_resyncs(self, rooms: Rooms) {
        let mut more = rooms.subscribe_resyncs();
        loop {
            let finished: Result<Vec<_>, _> = rooms.scan_finished_resyncs().collect();
            match finished {
                Ok(finished) => {
                    for (at, finished) in finished {
                        if let Err(error) = self.apply_finished_resync(at, finished).await {
                            tracing::error!(%error, "device lists of a room that is complete now are not told");
                        }
                    }
                }
                Err(error) => tracing::error!(%error, "finished joins cannot be read"),
            }
            if more.changed().await.is_err() {
                return;
            }
        }
    }

    async fn apply_finished_resync(&self, at: Position, finished: Stamped<FinishedResync>) -> Result<(), CommitError> {
        let (joined_at, FinishedResync { room, missed, updated_users }) = (finished.position, finished.value);
        let (mut batch, mut changed, mut local) = (Batch::new(), BTreeSet::new(), Vec::new());
        for row in self.store.scan(&MEMBERS, &(room,), Direction::Forward) {
            let ((_, user), member) = row?;
            if member.value.membership != JOIN {
                continue;
            }
            if self.is_local(&user) {
                local.push(user);
            } else if updated_users.contains(&user) || (member.position > joined_at && self.is_known_list(&user)?) {
                changed.insert(user);
            }
        }
        for user in changed {
            queue_remote_list_changed(&self.store, &mut batch, &self.server_name, &user)?;
        }
        for user in local {
            let latest = self.store.get(&DEVICE_LIST_LATEST, &user)?;
            if latest.is_some_and(|latest| latest > joined_at) {
                for server in &missed {
                    queue_list_reminder(&self.store, &mut batch, &user, server)?;
                }
            }
        }
        batch.delete(&FINISHED_RESYNCS, &at);
        self.store.commit(batch).await?;
        Ok(())
    }

    /// Whether clients here may hold a device list of a remote user from earlier: of one of whom nothing was ever heard they do not.
    fn is_known_list(&self, user: &UserId) -> Result<bool, StoreError> {
        let user = user.to_owned();
        Ok(self.store.contains(&REMOTE_DEVICE_LISTS, &user)? || self.store.contains(&DEVICE_LIST_LATEST, &user)?)
    }
}
