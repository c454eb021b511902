//! Checks what the services store, beside what [`chappe_rooms::fsck`] checks of rooms: queues, one-time keys, tokens, and the files of
//! the media repository.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read},
    path::Path,
};

use chappe_rooms::fsck::{Check, Repair};
use chappe_store::{
    Direction,
    tables::{
        accounts::{ACCESS_TOKENS, ACCOUNTS, DEVICE_TOKENS, DEVICES, REFRESH_TOKENS, TokenKind},
        e2ee::{ONE_TIME_KEY_COUNTS, ONE_TIME_KEY_PLACES, ONE_TIME_KEYS},
        events::EVENTS,
        media::{CONTENT_MEDIA, MEDIA},
        outgoing::{OUTGOING, OutgoingItem},
        push::{PUSH_QUEUE, PUSHERS},
        to_device::TO_DEVICE,
    },
};
use serde::de::IgnoredAny;
use sha2::{Digest, Sha256};

use crate::media::store::content_path;

/// The name under which findings about media files are told.
const FILES: &str = "media";

/// Bytes of a file that are hashed at once.
const PIECE: usize = 1 << 16;

/// Checks everything that the services store in tables.
pub fn check_services(check: &mut Check<'_>) {
    check_queues(check);
    check_one_time_keys(check);
    check_accounts(check);
}

fn check_queues(check: &mut Check<'_>) {
    check.each(&OUTGOING, &(), |check, (server, position), item| match item {
        OutgoingItem::Pdu(nid) => {
            if !check.store.contains(&EVENTS, &nid).unwrap_or(false) {
                check.report(
                    &OUTGOING,
                    format!("{server}, position {position}: event {nid} is not stored"),
                    Repair::Derive,
                );
            }
        }
        OutgoingItem::Edu(edu) | OutgoingItem::CoalescedEdu { edu, .. } => {
            if serde_json::from_str::<IgnoredAny>(&edu).is_err() {
                check.report(&OUTGOING, format!("{server}, position {position}: is no JSON"), Repair::Restore);
            }
        }
    });
    check.each(&TO_DEVICE, &(), |check, (user, device, position), message| {
        if serde_json::from_str::<IgnoredAny>(&message).is_err() {
            check.report(&TO_DEVICE, format!("{user}, {device}, position {position}: is no JSON"), Repair::Restore);
        }
    });
    check.each(&PUSH_QUEUE, &(), |check, (user, app, key, position), _| {
        if check.get(&PUSHERS, &(user.clone(), app.clone(), key)).is_none() {
            check.report(&PUSH_QUEUE, format!("{user}, {app}, position {position}: no such pusher"), Repair::Derive);
        }
    });
}

fn check_one_time_keys(check: &mut Check<'_>) {
    check.each(&ONE_TIME_KEYS, &(), |check, (user, device, algorithm, position), key| {
        let place = (user.clone(), device.clone(), algorithm.clone(), key.key_id.clone());
        if check.get(&ONE_TIME_KEY_PLACES, &place) != Some(position) {
            let what = format!("{user}, {device}: {algorithm}:{} has no place", key.key_id);
            check.report(&ONE_TIME_KEY_PLACES, what, Repair::Derive);
        }
    });
    check.each(&ONE_TIME_KEY_PLACES, &(), |check, (user, device, algorithm, key_id), position| {
        let row = (user.clone(), device.clone(), algorithm.clone(), position);
        if check.get(&ONE_TIME_KEYS, &row).is_none_or(|key| key.key_id != key_id) {
            let what = format!("{user}, {device}: {algorithm}:{key_id} is not at its place");
            check.report(&ONE_TIME_KEY_PLACES, what, Repair::Derive);
        }
    });
    check.each(&ONE_TIME_KEY_COUNTS, &(), |check, (user, device, algorithm), count| {
        let kept =
            check.store.scan(&ONE_TIME_KEYS, &(user.clone(), device.clone(), algorithm.clone()), Direction::Forward);
        let kept = kept.count();
        if u64::try_from(kept).ok() != Some(count) {
            let what = format!("{user}, {device}: {kept} keys for {algorithm}, counted as {count}");
            check.report(&ONE_TIME_KEY_COUNTS, what, Repair::Derive);
        }
    });
}

fn check_accounts(check: &mut Check<'_>) {
    check.each(&DEVICES, &(), |check, (user, device), _| {
        if !check.store.contains(&ACCOUNTS, &user).unwrap_or(false) {
            check.report(&DEVICES, format!("{user}, {device}: no such account"), Repair::Derive);
        }
    });
    check.each(&DEVICE_TOKENS, &(), |check, (user, device, token), kind| {
        let is_there = match kind {
            TokenKind::Access => check.store.contains(&ACCESS_TOKENS, &token),
            TokenKind::Refresh => check.store.contains(&REFRESH_TOKENS, &token),
        };
        if !is_there.unwrap_or(false) {
            check.report(&DEVICE_TOKENS, format!("{user}, {device}: a token that is not there"), Repair::Derive);
        }
    });
    check.each(&ACCESS_TOKENS, &(), |check, token, record| {
        let (user, device) = (record.user_id, record.device_id);
        if !check.store.contains(&DEVICE_TOKENS, &(user.clone(), device.clone(), token)).unwrap_or(false) {
            check.report(&ACCESS_TOKENS, format!("{user}, {device}: its token would outlive it"), Repair::Derive);
        }
    });
}

/// Checks that the media of each row is on disk, whole. Reads every file.
pub fn check_media(check: &mut Check<'_>, root: &Path) {
    let mut contents = HashMap::new();
    check.each(&MEDIA, &(), |check, (server, id), record| {
        let Some(content) = record.content else { return };
        if !check.store.contains(&CONTENT_MEDIA, &(content.sha256, server.clone(), id.clone())).unwrap_or(false) {
            check.report(&CONTENT_MEDIA, format!("mxc://{server}/{id} has no row"), Repair::Derive);
        }
        let repair = if server == *check.server_name { Repair::Restore } else { Repair::Fetch };
        contents.insert(content.sha256, (content.size_bytes, format!("mxc://{server}/{id}"), repair));
    });
    check.each(&CONTENT_MEDIA, &(), |check, (sha256, server, id), ()| {
        let record = check.get(&MEDIA, &(server.clone(), id.clone()));
        if record.and_then(|record| record.content).is_none_or(|content| content.sha256 != sha256) {
            check.report(&CONTENT_MEDIA, format!("mxc://{server}/{id} has other content"), Repair::Derive);
        }
    });
    for (sha256, (size_bytes, uri, repair)) in contents {
        let path = content_path(root, &sha256);
        match digest(&path) {
            Ok((found, size)) if found == sha256 && size == size_bytes => {}
            Ok((_, size)) => {
                let what = format!("{}: {size} bytes that are not those of {uri}", path.display());
                check.report_at(FILES, what, repair);
            }
            Err(error) => check.report_at(FILES, format!("{} of {uri}: {error}", path.display()), repair),
        }
    }
}

fn digest(path: &Path) -> io::Result<([u8; 32], u64)> {
    let mut file = File::open(path)?;
    let (mut hasher, mut size) = (Sha256::new(), 0);
    let mut piece = vec![0; PIECE];
    loop {
        let count = file.read(&mut piece)?;
        if count == 0 {
            return Ok((hasher.finalize().into(), size));
        }
        hasher.update(piece.get(..count).unwrap_or_default());
        size += count as u64;
    }
}

#[cfg(test)]
mod tests {
    use chappe_rooms::fsck::Finding;
    use chappe_store::{
        Batch, EventNid, Position, Store,
        tables::media::{MediaContent, MediaRecord},
    };
    use ruma::{owned_device_id, owned_server_name, owned_user_id};

    use super::*;

    fn findings(store: &Store, check_with: impl Fn(&mut Check<'_>)) -> Vec<Finding> {
        let mut found = Vec::new();
        let mut note = |finding| found.push(finding);
        check_with(&mut Check::new(store, &owned_server_name!("one.example"), &mut note));
        found
    }

    #[tokio::test]
    async fn queued_events_that_are_not_stored_and_broken_messages_are_found() {
        let store = Store::in_memory();
        let mut batch = Batch::new();
        let server = owned_server_name!("two.example");
        batch.put(&OUTGOING, &(server.clone(), Position(1)), &OutgoingItem::Pdu(EventNid(7)));
        batch.put(&OUTGOING, &(server, Position(2)), &OutgoingItem::Edu("{}".to_owned()));
        let (user, device) = (owned_user_id!("@alice:one.example"), owned_device_id!("A"));
        batch.put(&TO_DEVICE, &(user.clone(), device.clone(), Position(3)), &"{".to_owned());
        let place = (user, device, "signed_curve25519".to_owned(), "AAAA".to_owned());
        batch.put(&ONE_TIME_KEY_PLACES, &place, &Position(4));
        batch.put(&ONE_TIME_KEY_COUNTS, &(place.0, place.1, place.2), &1);
        store.commit(batch).await.expect("stored");
        let places: Vec<_> = findings(&store, check_services).into_iter().map(|finding| finding.place).collect();
        assert_eq!(places, [OUTGOING.name, TO_DEVICE.name, ONE_TIME_KEY_PLACES.name, ONE_TIME_KEY_COUNTS.name]);
    }

    #[tokio::test]
    async fn files_that_are_missing_or_other_than_they_were_are_found() {
        let root = tempfile::tempdir().expect("a temporary directory");
        let store = Store::in_memory();
        let bytes = b"a picture";
        let sha256: [u8; 32] = Sha256::digest(bytes).into();
        let (server, id) = (owned_server_name!("one.example"), "media".to_owned());
        let record = MediaRecord {
            uploader: None,
            created_ms: 0,
            unused_expires_ms: None,
            authenticated_only: true,
            content: Some(MediaContent { sha256, size_bytes: 9, content_type: None, filename: None }),
        };
        let mut batch = Batch::new();
        batch.put(&MEDIA, &(server.clone(), id.clone()), &record);
        batch.put(&CONTENT_MEDIA, &(sha256, server, id), &());
        store.commit(batch).await.expect("stored");
        let check = || findings(&store, |check| check_media(check, root.path()));

        let found = check();
        assert!(matches!(&found[..], [one] if one.place == FILES && one.repair == Repair::Restore), "{found:?}");
        let path = content_path(root.path(), &sha256);
        std::fs::create_dir_all(path.parent().expect("a folder")).expect("folder");
        std::fs::write(&path, bytes).expect("written");
        assert_eq!(check(), []);
        std::fs::write(&path, b"A picture").expect("written");
        assert!(matches!(&check()[..], [one] if one.what.contains("not those of mxc://one.example/media")));
    }
}
