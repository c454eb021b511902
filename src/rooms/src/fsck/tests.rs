use chappe_store::{
    Batch, Direction, Store,
    tables::{
        events::{EVENT_JSON, EVENT_NIDS, EVENT_ORDERS, TIMELINE},
        rooms::{JOINED_SERVERS, MEMBERS, ROOMS, USER_ROOMS},
        state::{CURRENT_STATE, STATE_NODES},
    },
};
use ruma::RoomVersionId;

use super::{Check, Finding, Repair, check_rooms};
use crate::{
    Rooms,
    membership::MemberProfile,
    tests::network::{Network, public_room, set_topic, text, user},
};

/// A server in whose rooms much has happened: joins from elsewhere, forks, state, history.
async fn lived_in() -> Rooms {
    let network = Network::new();
    let (one, two) = (network.add("one.example"), network.add("two.example"));
    let (alice, bob) = (user(&one, "alice"), user(&two, "bob"));
    let room = public_room(&one, &alice, RoomVersionId::V11).await;
    two.join(&bob, &room, &[one.server_name().to_owned()], &MemberProfile::default(), None).await.expect("join");
    network.deliver().await;
    network.set_down(&two, true);
    for number in 0..20 {
        one.send(&alice, &room, set_topic(&format!("topic {number}"))).await.expect("send");
        two.send(&bob, &room, text(&format!("message {number}"))).await.expect("send");
    }
    network.set_down(&two, false);
    network.deliver().await;
    one.send(&alice, &room, text("together")).await.expect("send");
    network.deliver().await;
    two
}

fn findings(rooms: &Rooms) -> Vec<Finding> {
    let mut found = Vec::new();
    let mut note = |finding| found.push(finding);
    let mut check = Check::new(rooms.store(), rooms.server_name(), &mut note);
    check_rooms(&mut check);
    assert!(check.rows > 100, "{} rows looked at", check.rows);
    found
}

fn first<K: chappe_store::Key, V: chappe_store::Value>(store: &Store, table: &chappe_store::Table<K, V>) -> (K, V) {
    store.scan(table, &(), Direction::Forward).next().expect("a row").expect("readable")
}

#[tokio::test]
async fn nothing_is_found_where_nothing_is_wrong() {
    assert_eq!(findings(&lived_in().await), []);
}

#[tokio::test]
async fn each_kind_of_damage_is_found_where_it_is() {
    type Damage = (&'static str, Repair, fn(&Store, &mut Batch));
    let damages: [Damage; 9] = [
        (EVENT_JSON.name, Repair::Fetch, |store, batch| {
            let (nid, json) = first(store, &EVENT_JSON);
            batch.put(&EVENT_JSON, &nid, &json.replace("one.example", "two.example"));
        }),
        (EVENT_JSON.name, Repair::Fetch, |store, batch| batch.delete(&EVENT_JSON, &first(store, &EVENT_JSON).0)),
        (EVENT_NIDS.name, Repair::Derive, |store, batch| batch.delete(&EVENT_NIDS, &first(store, &EVENT_NIDS).0)),
        (TIMELINE.name, Repair::Derive, |store, batch| batch.delete(&TIMELINE, &first(store, &TIMELINE).0)),
        (TIMELINE.name, Repair::Derive, |store, batch| {
            batch.delete(&EVENT_ORDERS, &first(store, &TIMELINE).1);
        }),
        (STATE_NODES.name, Repair::Restore, |store, batch| batch.delete(&STATE_NODES, &first(store, &STATE_NODES).0)),
        (CURRENT_STATE.name, Repair::Derive, |store, batch| {
            batch.delete(&CURRENT_STATE, &first(store, &CURRENT_STATE).0);
        }),
        (USER_ROOMS.name, Repair::Derive, |store, batch| batch.delete(&USER_ROOMS, &first(store, &USER_ROOMS).0)),
        (JOINED_SERVERS.name, Repair::Derive, |store, batch| {
            batch.put(&JOINED_SERVERS, &first(store, &JOINED_SERVERS).0, &7);
        }),
    ];
    for (number, (place, repair, damage)) in damages.into_iter().enumerate() {
        let rooms = lived_in().await;
        let mut batch = Batch::new();
        damage(rooms.store(), &mut batch);
        rooms.store().commit(batch).await.expect("damaged");
        let found = findings(&rooms);
        assert!(
            found.iter().any(|finding| finding.place == place && finding.repair == repair),
            "damage {number} to {place}: {found:#?}"
        );
    }
}

#[tokio::test]
async fn a_head_that_is_not_the_end_is_found() {
    let rooms = lived_in().await;
    let (room, mut record) = first(rooms.store(), &ROOMS);
    let (_, oldest) = first(rooms.store(), &TIMELINE);
    let event = rooms.get_event_by_nid(oldest).expect("read").expect("event");
    record.forward_extremities.push((oldest, event.pdu.event_id.clone(), event.record.depth));
    let mut batch = Batch::new();
    batch.put(&ROOMS, &room, &record);
    let ((_, user), member) = first(rooms.store(), &MEMBERS);
    batch.delete(&MEMBERS, &(room, user.clone()));
    rooms.store().commit(batch).await.expect("damaged");
    let found = findings(&rooms);
    let says =
        |place: &str, words: &str| found.iter().any(|finding| finding.place == place && finding.what.contains(words));
    assert!(says(ROOMS.name, "is followed by accepted event"), "{found:#?}");
    assert!(says(MEMBERS.name, &format!("{user} is in the state, and has no row")), "{found:#?} {member:?}");
}
