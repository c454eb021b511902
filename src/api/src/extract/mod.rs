//! What handlers take and return beside their services: parsed requests, who asks, from where, and typed responses.

mod address;
mod auth;
mod json;
mod request;
mod response;
mod signed;
mod step_up;

pub use address::{ClientAddress, PeerAddress, TrustedProxies};
pub use auth::{Active, Admin, AppService, Authenticated, EvenIfLocked, OptionalUser, Recognised, User};
pub use json::{JsonBody, JsonText, PathParams};
pub use request::Ruma;
pub use response::RumaResponse;
pub use signed::{PeerCertificate, Signed, SignedJson};
pub use step_up::StepUp;
