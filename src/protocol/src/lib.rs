//! Matrix rules as pure functions: event formats, hashes, signatures, redaction, authorization, state
//! resolution, power levels, visibility and server ACLs.
//!
//! Nothing here does I/O, reads a global clock or draws randomness: what a rule needs from the room's past is
//! asked of a closure, and every function may be called from a simulator. Start with [`pdu::Pdu`], the one
//! event type of the server, then [`room_version::rules`], which every rule takes.

pub mod acl;
pub mod auth;
pub mod client_format;
pub mod clock;
pub mod format;
pub mod glob;
pub mod json;
pub mod owned_state;
pub mod pdu;
pub mod power;
pub mod redact;
pub mod room_version;
pub mod sign;
pub mod state_res;
mod state_res_v1;
pub mod third_party;
pub mod verify;
pub mod visibility;

pub use pdu::Pdu;

#[cfg(test)]
mod test_room;
