//! What each command does; the words it is called with are in [`crate::cli`].

mod check_config;
mod fsck;
mod health;
mod serve;
mod signing_key;
mod tls;
mod user;

use std::{error::Error, io::Write, path::Path, process::ExitCode};

use crate::{
    cli::{Cli, Command},
    config::{self, Loaded},
};

/// Runs the command; an error is for the operator, and the process ends with 1.
pub fn run(cli: Cli) -> ExitCode {
    let config = cli.config.as_deref();
    let result = match cli.command.unwrap_or(Command::Serve) {
        Command::Serve => load(config).and_then(|loaded| serve::run(&loaded)),
        Command::CheckConfig => load(config).and_then(|loaded| check_config::run(&loaded)),
        Command::Fsck { skip_media } => load(config).and_then(|loaded| fsck::run(&loaded.config, skip_media)),
        Command::SigningKey(command) => load(config).and_then(|loaded| signing_key::run(&loaded.config, &command)),
        Command::User(command) => load(config).and_then(|loaded| user::run(&loaded.config, command)),
        Command::Reports(command) => load(config).and_then(|loaded| user::run_reports(&loaded.config, &command)),
        Command::ExplainDelivery { event, user, device } => {
            load(config).and_then(|loaded| user::explain_delivery(&loaded.config, event, user, device))
        }
        Command::Tls(command) => tls::run(&command),
        Command::Health { url } => health::run(config, url.as_deref()),
        Command::Version => print(concat!("chappe ", env!("CARGO_PKG_VERSION"), "\n")),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("chappe: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Writes to standard output. Whoever reads it may stop reading, as `head` does; that is no error.
fn print(text: &str) -> CommandResult {
    match std::io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(()),
    }
}

/// The result of a command: an error's text is what the operator reads.
type CommandResult = Result<(), Box<dyn Error>>;

fn load(explicit: Option<&Path>) -> Result<Loaded, Box<dyn Error>> {
    Ok(config::load(explicit)?)
}
