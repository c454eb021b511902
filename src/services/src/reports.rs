//! Complaints of users about events, rooms and users, kept for the operator to read (client-server API, "Reporting Content").
//!
//! Nobody learns by reporting what there is: a report of something unknown is thanked for like any other. Only events are different,
//! since whoever reports one has to see it.

use std::sync::Arc;

use chappe_protocol::clock::Clock;
use chappe_rooms::{RoomError, Rooms};
use chappe_store::{
    CommitError, Direction, Domain, Store, StoreError,
    tables::{
        accounts::ACCOUNTS,
        moderation::{REPORTS, ReportRecord},
    },
};
use ruma::{EventId, OwnedUserId, RoomId, UserId};

use crate::guarded::commit_guarded;

/// Longest reason, in bytes.
const REASON_BYTES_MAX: usize = 4_096;
/// How many reports of one user are kept.
const REPORTS_PER_USER_MAX: usize = 500;

/// A report that was not taken.
#[derive(Debug, thiserror::Error)]
pub enum ReportError {
    #[error("the event was not found, or you are not in its room")]
    NotFound,
    #[error("the reason is longer than {REASON_BYTES_MAX} bytes")]
    TooLong,
    #[error(transparent)]
    Room(#[from] RoomError),
    #[error(transparent)]
    Read(#[from] StoreError),
    #[error(transparent)]
    Write(#[from] CommitError),
}

/// A report, as the operator reads it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    pub reporter: OwnedUserId,
    pub at_ms: u64,
    pub room_id: Option<String>,
    pub event_id: Option<String>,
    pub user_id: Option<String>,
    pub reason: String,
}

pub struct Reports {
    rooms: Rooms,
    clock: Arc<dyn Clock>,
}

impl Reports {
    pub fn new(rooms: Rooms, clock: Arc<dyn Clock>) -> Self {
        Self { rooms, clock }
    }

    fn store(&self) -> &Store {
        self.rooms.store()
    }

    /// Reports an event of a room that the reporter is joined to.
    pub async fn report_event(
        &self,
        reporter: &UserId,
        room_id: &RoomId,
        event_id: &EventId,
        reason: String,
    ) -> Result<(), ReportError> {
        check_reason(&reason)?;
        let room = self.rooms.get_room(room_id)?.ok_or(ReportError::NotFound)?;
        if !self.rooms.is_joined(room.nid, reporter)? {
            return Err(ReportError::NotFound);
        }
        let event = self.rooms.get_visible_event(&room, reporter, event_id)?.ok_or(ReportError::NotFound)?;
        let record = ReportRecord {
            room_id: Some(room_id.to_string()),
            event_id: Some(event_id.to_string()),
            user_id: Some(event.pdu.sender.to_string()),
            ..self.new_record(reason)
        };
        self.put(reporter, record).await
    }

    /// Reports a room. The reporter need not be in it.
    pub async fn report_room(&self, reporter: &UserId, room_id: &RoomId, reason: String) -> Result<(), ReportError> {
        check_reason(&reason)?;
        if self.rooms.get_room_nid(room_id)?.is_none() {
            return Ok(self.store().barrier().await?);
        }
        let record = ReportRecord { room_id: Some(room_id.to_string()), ..self.new_record(reason) };
        self.put(reporter, record).await
    }

    /// Reports a user, of this server or another.
    pub async fn report_user(&self, reporter: &UserId, user_id: &UserId, reason: String) -> Result<(), ReportError> {
        check_reason(&reason)?;
        let is_local = user_id.server_name() == self.rooms.server_name();
        if is_local && !self.store().contains(&ACCOUNTS, &user_id.to_owned())? {
            return Ok(self.store().barrier().await?);
        }
        let record = ReportRecord { user_id: Some(user_id.to_string()), ..self.new_record(reason) };
        self.put(reporter, record).await
    }

    /// Every report that is kept, the oldest first.
    pub fn list(&self) -> Result<Vec<Report>, StoreError> {
        let mut reports = Vec::new();
        for row in self.store().scan(&REPORTS, &(), Direction::Forward) {
            let ((reporter, position), record) = row?;
            let ReportRecord { at_ms, room_id, event_id, user_id, reason } = record;
            reports.push((position, Report { reporter, at_ms, room_id, event_id, user_id, reason }));
        }
        reports.sort_by_key(|(position, _)| *position);
        Ok(reports.into_iter().map(|(_, report)| report).collect())
    }

    fn new_record(&self, reason: String) -> ReportRecord {
        ReportRecord { at_ms: self.clock.now_ms(), room_id: None, event_id: None, user_id: None, reason }
    }

    async fn put(&self, reporter: &UserId, record: ReportRecord) -> Result<(), ReportError> {
        let domain = Domain::Named { kind: "reports", id: reporter.to_string() };
        commit_guarded(self.store(), domain, |batch| {
            let kept = self.store().scan(&REPORTS, &(reporter.to_owned(),), Direction::Reverse);
            for row in kept.skip(REPORTS_PER_USER_MAX - 1) {
                batch.delete(&REPORTS, &row?.0);
            }
            let position = batch.next_position();
            batch.put(&REPORTS, &(reporter.to_owned(), position), &record);
            Ok(())
        })
        .await
    }
}

fn check_reason(reason: &str) -> Result<(), ReportError> {
    if reason.len() > REASON_BYTES_MAX { Err(ReportError::TooLong) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use chappe_protocol::clock::ManualClock;
    use chappe_rooms::create::Preset;
    use ruma::{room_id, user_id};

    use super::*;
    use crate::test_rooms;

    #[tokio::test]
    async fn reports_are_kept_in_order_and_bounded() {
        let clock = Arc::new(ManualClock::new(1_700_000_000_000));
        let rooms = test_rooms::rooms(&Store::in_memory(), clock.clone());
        let reports = Reports::new(rooms.clone(), clock);
        let (alice, bob) = (user_id!("@alice:here.example"), user_id!("@bob:here.example"));
        let room = test_rooms::create(&rooms, alice, Preset::PrivateChat).await;
        let said = test_rooms::say(&rooms, alice, &room, "rude").await;

        reports.report_event(alice, &room, &said, "it is rude".to_owned()).await.unwrap();
        let stranger = reports.report_event(bob, &room, &said, String::new()).await;
        assert!(matches!(stranger, Err(ReportError::NotFound)));
        reports.report_room(bob, &room, "bad".to_owned()).await.unwrap();
        reports.report_room(bob, room_id!("!unknown:here.example"), "bad".to_owned()).await.unwrap();
        reports.report_user(bob, user_id!("@eve:there.example"), "spam".to_owned()).await.unwrap();
        reports.report_user(bob, user_id!("@nobody:here.example"), "spam".to_owned()).await.unwrap();
        let long = reports.report_room(bob, &room, "x".repeat(REASON_BYTES_MAX + 1)).await;
        assert!(matches!(long, Err(ReportError::TooLong)));

        let listed = reports.list().unwrap();
        let about: Vec<_> = listed.iter().map(|report| (report.reporter.as_str(), report.reason.as_str())).collect();
        assert_eq!(about, [(alice.as_str(), "it is rude"), (bob.as_str(), "bad"), (bob.as_str(), "spam")]);
        assert_eq!(listed[0].user_id.as_deref(), Some(alice.as_str()), "an event's report names its sender");

        for number in 0..REPORTS_PER_USER_MAX {
            reports.report_room(bob, &room, number.to_string()).await.unwrap();
        }
        let listed = reports.list().unwrap();
        assert_eq!(listed.len(), REPORTS_PER_USER_MAX + 1, "Alice's is not pushed out by Bob's");
        assert_eq!(listed[1].reason, "0");
    }
}
