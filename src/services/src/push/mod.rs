//! Push: which events a user is notified of, and how many of them are unread.
//!
//! [`rules`] keeps what users want, [`evaluate`] says what it means for an event (and `triage` of which events it need not be
//! asked), [`unread`] counts. [`pushers`] keeps where users want
//! to be told; [`follower`] queues what they are to be told of, and [`delivery`] brings it to the push gateways and
//! into mails, which [`unsubscribe`] can end. [`notifications`] lists them. Rules follow their user into rooms that replace others by
//! [`crate::room_upgrades`].

pub mod delivery;
pub mod evaluate;
pub mod follower;
pub mod gateway;
pub mod notifications;
pub mod pushers;
pub mod rules;
mod triage;
pub mod unread;
pub mod unsubscribe;
