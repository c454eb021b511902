//! `make test-interop`: this server beside a real Synapse, with TLS between them, through rooms of several versions made on either
//! side; at the end of each, state and timeline must be the same on both, event by event. Exits with 1 if anything is not.

use std::{path::PathBuf, process::ExitCode, time::Instant};

use chappe_tests::{Failure, authority::Authority, client::Client, server::Server};
use clap::Parser;

use crate::{link::Link, scenario::Side, synapse::Synapse};

mod encrypted;
mod link;
mod scenario;
mod synapse;

#[derive(Parser)]
struct Arguments {
    /// Where Synapse is installed, and looked for.
    #[arg(long)]
    environment: PathBuf,
    /// Room versions to go through.
    #[arg(long, value_delimiter = ',', default_values_t = [6, 9, 10, 11, 12])]
    versions: Vec<u32>,
    /// Keep both servers' directories, with their logs.
    #[arg(long)]
    keep: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Arguments::parse()).await {
        Ok(0) => ExitCode::SUCCESS,
        Ok(failed) => {
            println!("{failed} runs failed");
            ExitCode::FAILURE
        }
        Err(failure) => {
            eprintln!("the run itself failed: {failure}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> Result<usize, Failure> {
    let python = synapse::install(&arguments.environment)?;
    let directory = tempfile::tempdir()?;
    let authority = Authority::create(directory.path().to_owned())?;
    let (our_link, their_link) = (Link::lay().await?, Link::lay().await?);
    let our_name = format!("localhost:{}", our_link.outer_port);
    let their_name = format!("localhost:{}", their_link.outer_port);
    let ours = directory.path().join("chappe");
    let chappe = Server::start_as(&ours, &our_name, our_link.inner_port, &authority, "").await?;
    let theirs = directory.path().join("synapse");
    let synapse = Synapse::start(&python, &theirs, &their_name, their_link.inner_port, &authority).await?;
    println!("chappe is {our_name}, Synapse is {their_name}");

    let mut failed = 0;
    for version in &arguments.versions {
        let side = |server_name: &str, url: &str, made_by: &str| -> Result<Side, Failure> {
            let prefix = format!("v{version}{made_by}");
            Ok(Side { server_name: server_name.to_owned(), nobody: Client::at(url)?, prefix })
        };
        for made_by in ["chappe", "synapse"] {
            let ours = side(&our_name, &chappe.client_url, made_by)?;
            let theirs = side(&their_name, &synapse.client_url, made_by)?;
            let begun = Instant::now();
            let result = match made_by {
                "chappe" => scenario::play(&ours, &theirs, *version, &[&our_link, &their_link]).await,
                _ => scenario::play(&theirs, &ours, *version, &[&our_link, &their_link]).await,
            };
            let seconds = begun.elapsed().as_secs_f64();
            match result {
                Ok(()) => println!("version {version}, made by {made_by}: the same on both ({seconds:.0} s)"),
                Err(failure) => {
                    failed += 1;
                    [&our_link, &their_link].into_iter().for_each(Link::mend);
                    println!("version {version}, made by {made_by}: FAILED: {failure}");
                }
            }
        }
    }
    for (made_by, home_url, away_url) in
        [("chappe", &chappe.client_url, &synapse.client_url), ("synapse", &synapse.client_url, &chappe.client_url)]
    {
        match encrypted::play(home_url, away_url, &format!("e2e{made_by}")).await {
            Ok(()) => println!("encrypted room, made by {made_by}: everything was decrypted"),
            Err(failure) => {
                failed += 1;
                println!("encrypted room, made by {made_by}: FAILED: {failure}");
            }
        }
    }
    if arguments.keep {
        println!("kept: {}", directory.keep().display());
    }
    if failed > 0 {
        println!("--- chappe ---\n{}\n--- Synapse ---\n{}", chappe.log(), synapse.log());
    }
    Ok(failed)
}
