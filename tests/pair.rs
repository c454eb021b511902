//! `pair`: two servers that federate, for the load program and for trials by hand. Says where they are, and stops them at Ctrl-C.

use std::process::ExitCode;

use chappe_tests::{Failure, authority::Authority, server::Server};

#[tokio::main]
async fn main() -> ExitCode {
    match run().await {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            ExitCode::FAILURE
        }
    }
}

async fn run() -> Result<(), Failure> {
    let directory = tempfile::tempdir()?;
    let authority = Authority::create(directory.path().to_owned())?;
    let mut servers = Vec::new();
    for host in ["first.localhost", "second.localhost"] {
        let server = Server::start(directory.path(), host, &authority, "[log]\nlevel = \"warn\"").await?;
        let pid = server.pid().map_or_else(|| "-".to_owned(), |pid| pid.to_string());
        println!("{}: clients at {}, process {pid}", server.name, server.client_url);
        servers.push(server);
    }
    println!("They stop at Ctrl-C.");
    Ok(tokio::signal::ctrl_c().await?)
}
