//! `make crash`: people use two servers that federate, one of which is killed again and again; at the end, everything it ever acknowledged
//! must be there. Exits with 1 if anything was lost, repeated or altered.
//!
//! [`harm::Variant`] says how it comes to harm. Seeded: the same seed strikes after the same times.

use std::{
    process::ExitCode,
    sync::{Arc, atomic::AtomicBool},
    time::{Duration, Instant},
};

use chappe_tests::{Failure, authority::Authority, client::Client, server::Server};
use clap::Parser;
use rand::{RngExt, SeedableRng, rngs::StdRng};
use tokio::task::JoinSet;

use crate::{
    actors::Stop,
    harm::{Harm, Variant},
    ledger::Ledger,
    oracle::Witnesses,
};

mod actors;
mod harm;
mod ledger;
mod oracle;
mod power;

#[derive(Parser)]
struct Arguments {
    /// How often the server is killed.
    #[arg(long, default_value_t = 20)]
    cycles: u32,
    /// Of the times between kills.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    #[arg(long, value_enum, default_value_t = Variant::Kill)]
    variant: Variant,
}

/// How long the server lives between kills, in milliseconds.
const LIFE_MS: std::ops::Range<u64> = 20..600;

/// How many faults the last word names one by one.
const FAULTS_SHOWN: usize = 20;

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments).await {
        Ok(faults) if faults.is_empty() => {
            println!("Nothing that was acknowledged is lost, repeated or altered.");
            ExitCode::SUCCESS
        }
        Ok(faults) => {
            println!("{} faults (seed {}):", faults.len(), arguments.seed);
            faults.iter().take(FAULTS_SHOWN).for_each(|fault| println!("  {fault}"));
            ExitCode::FAILURE
        }
        Err(failure) => {
            eprintln!("the run itself failed: {failure}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> Result<Vec<String>, Failure> {
    let directory = tempfile::tempdir()?;
    let authority = Authority::create(directory.path().to_owned())?;
    let data = directory.path().join("killed.localhost/data");
    let harm = Harm::prepare(arguments.variant, directory.path(), &data)?;
    let mut killed = Server::start_in(directory.path(), "killed.localhost", &authority, "", harm.environment()).await?;
    let spared = Server::start(directory.path(), "spared.localhost", &authority, "").await?;
    let outcome = play(arguments, &mut killed, &spared, &harm).await;
    outcome.map_err(|failure| format!("{failure}\n--- the killed server ---\n{}", killed.log()).into())
}

async fn play(
    arguments: &Arguments,
    killed: &mut Server,
    spared: &Server,
    harm: &Harm,
) -> Result<Vec<String>, Failure> {
    let here = Client::at(&killed.client_url)?;
    let alice = here.register("alice").await?;
    let bob = here.register("bob").await?;
    let carol = here.register("carol").await?;
    let eve = here.register("eve").await?;
    let dave = Client::at(&spared.client_url)?.register("dave").await?;
    let mut rooms = Vec::new();
    for _ in 0..3 {
        let room = alice.create_room().await?;
        bob.join(&room, None).await?;
        carol.join(&room, None).await?;
        rooms.push(room);
    }
    let shared_room = rooms[0].clone();
    dave.join(&shared_room, Some(&killed.name)).await?;

    let ledger = Ledger::default();
    let stop: Stop = Arc::new(AtomicBool::new(false));
    let mut people = JoinSet::new();
    let (l, s) = (|| ledger.clone(), || stop.clone());
    people.spawn(actors::send_messages(alice.clone(), "alice".to_owned(), rooms.clone(), l(), s()));
    people.spawn(actors::send_messages(carol.clone(), "carol".to_owned(), rooms.clone(), l(), s()));
    people.spawn(actors::send_messages(dave.clone(), "dave".to_owned(), vec![shared_room.clone()], l(), s()));
    people.spawn(actors::set_state(alice.clone(), rooms[1].clone(), l(), s()));
    people.spawn(actors::come_and_go(eve.clone(), rooms[2].clone(), l(), s()));
    people.spawn(actors::send_to_device(alice.clone(), bob.clone(), l(), s()));
    people.spawn(actors::upload_keys(bob.clone(), l(), s()));
    people.spawn(actors::claim_keys(alice.clone(), bob.clone(), l(), s()));
    people.spawn(actors::set_account_data(carol.clone(), l(), s()));
    let syncing_until: Stop = Arc::new(AtomicBool::new(false));
    let syncer = tokio::spawn(actors::Syncer::new(bob.clone(), ledger.clone()).run(syncing_until.clone()));

    let mut random = StdRng::seed_from_u64(arguments.seed);
    let begun = Instant::now();
    for cycle in 1..=arguments.cycles {
        tokio::time::sleep(Duration::from_millis(random.random_range(LIFE_MS))).await;
        harm.strike(killed, &carol, &ledger, &mut random).await?;
        if cycle % 10 == 0 || cycle == arguments.cycles {
            let acked = ledger.write(|entries| entries.events.len()).await;
            println!("{:>7.1} s  {cycle} kills, {acked} events acknowledged", begun.elapsed().as_secs_f64());
        }
    }
    stop.store(true, std::sync::atomic::Ordering::Relaxed);
    while let Some(ended) = people.join_next().await {
        ended??;
    }
    let reader = bob.clone();
    let witnesses = Witnesses { reader: bob, visitor: eve, counter: carol, abroad: dave, shared_room };
    oracle::wait_for_agreement(&ledger, &witnesses).await?;
    syncing_until.store(true, std::sync::atomic::Ordering::Relaxed);
    syncer.await??;
    oracle::check(&ledger, &witnesses).await?;
    harm.finish(killed, &reader, &ledger).await?;
    let faults = ledger
        .write(|entries| {
            println!(
                "{} events, {} to-device messages, {} one-time keys ({} claimed) were acknowledged over {} kills in {:.0} s",
                entries.events.len(),
                entries.to_device.len(),
                entries.one_time_keys.len(),
                entries.claimed_keys.len(),
                arguments.cycles,
                begun.elapsed().as_secs_f64(),
            );
            std::mem::take(&mut entries.faults)
        })
        .await;
    Ok(faults)
}
