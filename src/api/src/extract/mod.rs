//! What handlers take and return beside their services: parsed requests, who asks, from where, and typed responses.

mod address;
mod auth;
mod request;
mod response;

pub use address::{ClientAddress, PeerAddress, TrustedProxies};
pub use auth::{Authenticated, OptionalUser, User};
pub use request::Ruma;
pub use response::RumaResponse;
