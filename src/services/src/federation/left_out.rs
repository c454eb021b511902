//! Tries again, every now and then, the events that were left out because what is before them could not be had.
//!
//! What is due, and how it is tried, is `chappe_rooms`' business.

use std::time::Duration;

use chappe_rooms::Rooms;

/// How often it is looked whether something is due.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Never ends.
pub async fn run(rooms: Rooms) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        match rooms.retry_left_out().await {
            Ok(0) => {}
            Ok(placed) => tracing::info!(placed, "events that had been left out found their place"),
            Err(error) => tracing::error!(%error, "events that were left out cannot be tried again"),
        }
    }
}
