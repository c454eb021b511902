//! Servers of this code over a network that delays, loses, repeats, reorders and parts, and that are started anew now and then, all by a
//! seed. Once the network is whole again and everybody has spoken, they must hold the same events and the same state ([`world`]). And whatever
//! the order in which a server is told of the events of a room, it takes each for the same, after the same state ([`orders`]).
//!
//! `make sim SEEDS=1000` runs as many as wanted, `FIRST` says from where on; a seed that fails is printed, and `make sim SEED=<seed>` runs it
//! again. Room ids up to version 11 are random, so that in those versions what ties by event id can differ between two runs.

mod orders;
mod world;

use std::{
    any::Any,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::atomic::{AtomicU64, Ordering},
    thread,
    time::{Duration, Instant},
};

use parking_lot::Mutex;

use self::world::{Scale, World};

/// How many seeds a run without arguments tries.
const SEEDS: u64 = 48;
/// For how many seeds one is also told in several orders, which costs a few times as much.
const SEEDS_PER_ORDER: u64 = 8;
/// How long one seed may take before it counts as hanging.
const SEED_TIME_MAX: Duration = Duration::from_secs(120);

async fn simulate(seed: u64) -> Result<(), String> {
    let mut world = World::new(seed, Scale::of(seed)).await;
    world.run().await;
    world.come_together().await;
    world.check().await
}

fn number_from_environment(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn message_of(panic: &(dyn Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().cloned();
    text.or_else(|| panic.downcast_ref::<&str>().map(ToString::to_string)).unwrap_or_default()
}

/// Runs the seeds that the environment asks for, or one of `share` of them, on all cores, and says which fail.
fn run_seeds<F: Future<Output = Result<(), String>>>(share: u64, run: impl Fn(u64) -> F + Sync) {
    let one = number_from_environment("SIM_SEED");
    let first = one.or_else(|| number_from_environment("SIM_FIRST")).unwrap_or(0);
    let count = one.map(|_| 1).or_else(|| number_from_environment("SIM_SEEDS")).unwrap_or(SEEDS);
    let count = count.div_ceil(share);
    let begun = Instant::now();
    let (next, failed) = (AtomicU64::new(first), Mutex::new(Vec::new()));
    let work = || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + count {
                return;
            }
            let one = async { tokio::time::timeout(SEED_TIME_MAX, run(seed)).await };
            let outcome = match catch_unwind(AssertUnwindSafe(|| runtime.block_on(one))) {
                Ok(Ok(outcome)) => outcome,
                Ok(Err(_)) => Err("does not come to an end".to_owned()),
                Err(panic) => Err(message_of(&*panic)),
            };
            if let Err(what) = outcome {
                println!("seed {seed} fails: {what}; run it again with make sim SEED={seed}");
                failed.lock().push(seed);
            }
        }
    };
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, usize::from) {
            scope.spawn(work);
        }
    });
    let mut failed = failed.into_inner();
    failed.sort_unstable();
    println!("{count} seeds from {first} on in {:?}, {} failed", begun.elapsed(), failed.len());
    assert!(failed.is_empty(), "seeds that fail: {failed:?}");
}

#[test]
fn servers_agree_after_any_weather() {
    run_seeds(1, simulate);
}

#[test]
fn any_order_of_delivery_gives_each_event_the_same_state() {
    run_seeds(SEEDS_PER_ORDER, orders::compare_orders);
}
