//! Rigs for tests against the real binary: certification authority, servers as processes, people on real clients, and the
//! scenarios they play. Shared by the suite (`tests/suite`) and the demonstration (`tests/demo.rs`).

pub mod authority;
pub mod conversation;
pub mod device;
pub mod person;
pub mod server;

pub use chappe_http_client::{self as client, Failure};
