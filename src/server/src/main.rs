//! The binary `chappe`: the command line, the configuration, and the place where everything is put together.
//!
//! Start at [`commands::serve`](commands), which reads [`config`], builds the server in [`wiring`] and serves it
//! with [`listen`]. Nothing here knows a rule of Matrix.

mod cli;
mod commands;
mod config;
mod control;
mod data_dir;
mod listen;
mod metrics;
#[cfg(test)]
mod mutual_tls_tests;
mod registrations;
mod settings;
mod shutdown;
mod signing_key;
mod telemetry;
mod tls;
mod user_admin;
mod wiring;

use std::process::ExitCode;

use clap::Parser;

/// One allocator for Rust and for RocksDB's C++.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    commands::run(cli::Cli::parse())
}
