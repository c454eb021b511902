//! Tests against the real binary: real clients, real TLS, real kills. One binary, as each links a whole Matrix client.

mod client;
mod crash;
mod federation;
mod sliding_sync;
