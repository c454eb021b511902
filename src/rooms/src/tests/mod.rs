//! The room engine as a whole: several servers in one process, over a network in memory.

mod closed;
mod erasure;
mod federation;
mod local;
pub(crate) mod network;
mod paging;
mod partial;
mod permits;
mod simulation;
mod together;
