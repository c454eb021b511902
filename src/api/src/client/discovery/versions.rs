//! GET /_matrix/client/versions (client-server API, "API Versions").

use std::collections::BTreeMap;

use axum::Json;
use serde_json::{Value as JsonValue, json};

/// Versions of the specification whose client-server API this server speaks.
const VERSIONS: [&str; 27] = [
    "r0.0.1", "r0.1.0", "r0.2.0", "r0.3.0", "r0.4.0", "r0.5.0", "r0.6.0", "r0.6.1", "v1.1", "v1.2", "v1.3", "v1.4",
    "v1.5", "v1.6", "v1.7", "v1.8", "v1.9", "v1.10", "v1.11", "v1.12", "v1.13", "v1.14", "v1.15", "v1.16", "v1.17",
    "v1.18", "v1.19",
];

/// Features that clients look for by their unstable names, and that this server has.
const UNSTABLE_FEATURES: [&str; 30] = [
    "com.beeper.msc4169",
    "org.matrix.e2e_cross_signing",
    "org.matrix.msc2285.stable",
    "org.matrix.msc2836",
    "org.matrix.msc3030",
    "org.matrix.msc3391",
    "org.matrix.msc3440.stable",
    "org.matrix.msc3757",
    "org.matrix.msc3771",
    "org.matrix.msc3773",
    "org.matrix.msc3814",
    "org.matrix.msc3827.stable",
    "org.matrix.msc3874",
    "org.matrix.msc3882",
    "org.matrix.msc3916.stable",
    "org.matrix.msc3981",
    "org.matrix.msc4140",
    "org.matrix.msc4155",
    "org.matrix.msc4222",
    "org.matrix.msc4306",
    "org.matrix.msc4308",
    "org.matrix.msc4326",
    "org.matrix.msc4380",
    "org.matrix.msc4380.stable",
    "org.matrix.simplified_msc3575",
    "uk.half-shot.msc2666.query_mutual_rooms",
    "uk.half-shot.msc2666.query_mutual_rooms.stable",
    "uk.tcpip.msc4133",
    "uk.tcpip.msc4133.stable",
    "uk.timedout.msc4323",
];

pub async fn handle() -> Json<JsonValue> {
    let unstable_features: BTreeMap<&str, bool> =
        UNSTABLE_FEATURES.into_iter().map(|feature| (feature, true)).collect();
    Json(json!({ "versions": VERSIONS, "unstable_features": unstable_features }))
}
