//! The log: one subscriber on standard error, so that the output of commands stays on standard output.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::{LogFormat, LogSection};

/// Starts the log. Called once, before anything is worth logging; panics are logged too, and not only printed.
pub fn start(section: &LogSection) {
    // The authorization rules log several lines for each event, at the level "info", and push rules open a span for each field of it.
    let filter = EnvFilter::try_new(format!("ruma_state_res=warn,ruma_common=warn,{}", section.level))
        .unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let started = match section.format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    if let Err(error) = started {
        eprintln!("the log was already started: {error}");
    }
    std::panic::set_hook(Box::new(|panic| {
        let backtrace = std::backtrace::Backtrace::capture();
        tracing::error!(%panic, %backtrace, "a task panicked");
    }));
}

/// The log of a command that is not the server: only what goes wrong.
pub fn start_for_command() {
    start(&LogSection { level: "warn".to_owned(), format: LogFormat::Text });
}
