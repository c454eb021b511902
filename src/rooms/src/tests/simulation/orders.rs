//! One graph of events, told to several servers in several orders.

use std::collections::BTreeMap;

use chappe_store::{
    Direction, EventNid,
    tables::events::{EVENTS, EventStatus},
};
use rand::seq::SliceRandom;
use ruma::OwnedEventId;

use super::world::{Scale, World};
use crate::Rooms;

/// In how many orders a graph is told.
const ORDERS: usize = 3;

/// What a server makes of an event: whether it is rejected, and the state before it.
type Taken = (bool, Vec<OwnedEventId>);

/// Makes a room with forks, and tells servers that have been in it from the beginning of its events, each in another order.
///
/// Whether an event soft-fails does depend on what is known when it comes; what it is in the graph does not.
pub(super) async fn compare_orders(seed: u64) -> Result<(), String> {
    let mut world = World::new(seed, Scale { users: 1, ..Scale::of(seed) }).await;
    let listeners = world.add_listeners(ORDERS).await;
    // What came before their joins is history to the listeners, and nobody's to push.
    let before = taken(&world.servers[0], &world);
    world.run().await;
    world.come_together().await;
    let teller = world.servers[0].clone();
    let mut graph = taken(&teller, &world);
    graph.retain(|id, _| !before.contains_key(id));
    let mut told: Vec<_> = graph.keys().cloned().collect();
    for listener in &listeners {
        world.network.set_down(listener, false);
        told.shuffle(&mut world.rng);
        for id in &told {
            let event = teller.get_event(id).expect("read").expect("event");
            let raw = event.pdu.to_federation_raw().expect("raw");
            if let Err(error) = listener.receive_pdu(teller.server_name(), &world.room_id, &raw).await {
                return Err(format!("{id} is refused by {}: {error}", listener.server_name()));
            }
        }
        world.network.clock.advance(24 * 3_600_000);
        listener.retry_left_out().await.expect("retry");
        let of_listener = taken(listener, &world);
        for (id, wanted) in &graph {
            match of_listener.get(id) {
                None => return Err(format!("{} has no place on {}", id, listener.server_name())),
                Some(taken) if taken != wanted => {
                    return Err(format!(
                        "{id} is taken otherwise on {}: {taken:?} and not {wanted:?}",
                        listener.server_name()
                    ));
                }
                Some(_) => {}
            }
        }
    }
    Ok(())
}

/// The events with a place in the room.
fn taken(server: &Rooms, world: &World) -> BTreeMap<OwnedEventId, Taken> {
    let room = server.require_room(&world.room_id).expect("room");
    let rows = server.store().scan(&EVENTS, &(), Direction::Forward).map(|row| row.expect("an event"));
    let id_of = |nid: EventNid| server.get_event_by_nid(nid).expect("read").expect("event").pdu.event_id.clone();
    let placed = rows.filter(|(_, record)| record.room == room.nid).filter_map(|(_, record)| {
        let entries = server.trees.entries(room.nid, record.state_before?).expect("state");
        let mut state: Vec<_> = entries.into_iter().map(|(_, nid)| id_of(nid)).collect();
        state.sort();
        Some((record.event_id, (record.status == EventStatus::Rejected, state)))
    });
    placed.collect()
}
