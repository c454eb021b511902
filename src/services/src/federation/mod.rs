//! Talking to other servers: finding them, proving who asks, asking, and sending them what happens here.
//!
//! What other servers ask of this one is answered in the api crate; the rules of events live in the room engine. Start with
//! [`client::FederationClient`]; [`remote`] is what the room engine uses of it, [`incoming`] checks who asks us something, and
//! [`sender`] follows the log.

pub mod client;
pub mod destinations;
pub mod incoming;
pub mod keys;
pub mod left_out;
pub mod remote;
pub mod resolver;
pub mod sender;
pub mod transactions;
pub mod xmatrix;
