//! Endpoints of the family `room_keys`: the server-side backup of room keys.

use std::collections::BTreeMap;

use axum::Router;
use chappe_services::key_backup::{BackupError, BackupVersion, JsonObject};
use http::StatusCode;
use ruma::{
    api::{
        client::backup::{self as ruma_backup, BackupAlgorithm, KeyBackupData},
        error::ErrorCode,
    },
    serde::Raw,
};
use serde::Deserialize;

use crate::{App, error::ApiError, route::Endpoints};

mod create_version;
mod delete_keys;
mod delete_keys_for_room;
mod delete_keys_for_session;
mod delete_version;
mod get_current_version;
mod get_keys;
mod get_keys_for_room;
mod get_keys_for_session;
mod get_version;
mod put_keys;
mod put_keys_for_room;
mod put_keys_for_session;
#[cfg(test)]
mod tests;
mod update_version;

pub fn router() -> Router<App> {
    Router::new()
        .endpoint::<ruma_backup::create_backup_version::v3::Request, _>(create_version::handle)
        .endpoint::<ruma_backup::delete_backup_keys::v3::Request, _>(delete_keys::handle)
        .endpoint::<ruma_backup::delete_backup_keys_for_room::v3::Request, _>(delete_keys_for_room::handle)
        .endpoint::<ruma_backup::delete_backup_keys_for_session::v3::Request, _>(delete_keys_for_session::handle)
        .endpoint::<ruma_backup::delete_backup_version::v3::Request, _>(delete_version::handle)
        .endpoint::<ruma_backup::get_latest_backup_info::v3::Request, _>(get_current_version::handle)
        .endpoint::<ruma_backup::get_backup_keys::v3::Request, _>(get_keys::handle)
        .endpoint::<ruma_backup::get_backup_keys_for_room::v3::Request, _>(get_keys_for_room::handle)
        .endpoint::<ruma_backup::get_backup_keys_for_session::v3::Request, _>(get_keys_for_session::handle)
        .endpoint::<ruma_backup::get_backup_info::v3::Request, _>(get_version::handle)
        .endpoint::<ruma_backup::add_backup_keys::v3::Request, _>(put_keys::handle)
        .endpoint::<ruma_backup::add_backup_keys_for_room::v3::Request, _>(put_keys_for_room::handle)
        .endpoint::<ruma_backup::add_backup_keys_for_session::v3::Request, _>(put_keys_for_session::handle)
        .endpoint::<ruma_backup::update_backup_version::v3::Request, _>(update_version::handle)
}

/// The description of a backup version, as clients send it.
#[derive(Deserialize)]
struct Algorithm {
    algorithm: String,
    auth_data: JsonObject,
}

/// The name of a version's algorithm and its data, kept as they were sent: unknown algorithms and fields included.
fn parse_algorithm(raw: &Raw<BackupAlgorithm>) -> Result<(String, JsonObject), ApiError> {
    let Algorithm { algorithm, auth_data } =
        serde_json::from_str(raw.json().get()).map_err(|error| ApiError::bad_json(error.to_string()))?;
    Ok((algorithm, auth_data))
}

fn algorithm_json(version: &BackupVersion) -> Result<Raw<BackupAlgorithm>, ApiError> {
    let json = serde_json::json!({ "algorithm": version.algorithm, "auth_data": version.auth_data });
    Ok(Raw::from_json(serde_json::value::to_raw_value(&json).map_err(ApiError::internal)?))
}

fn parse_sessions(sessions: BTreeMap<String, Raw<KeyBackupData>>) -> Result<BTreeMap<String, JsonObject>, ApiError> {
    let parse = |key: Raw<KeyBackupData>| {
        serde_json::from_str(key.json().get()).map_err(|error| ApiError::bad_json(error.to_string()))
    };
    sessions.into_iter().map(|(session, key)| Ok((session, parse(key)?))).collect()
}

fn raw_sessions(sessions: BTreeMap<String, JsonObject>) -> BTreeMap<String, Raw<KeyBackupData>> {
    let raw = |key: &JsonObject| serde_json::value::to_raw_value(key).ok().map(Raw::from_json);
    sessions.into_iter().filter_map(|(session, key)| Some((session, raw(&key)?))).collect()
}

impl From<BackupError> for ApiError {
    fn from(error: BackupError) -> Self {
        match error {
            BackupError::UnknownVersion | BackupError::UnknownKey => Self::not_found(error.to_string()),
            BackupError::WrongVersion { ref current_version } => {
                Self::new(StatusCode::FORBIDDEN, ErrorCode::from("M_WRONG_ROOM_KEYS_VERSION"), error.to_string())
                    .with("current_version", current_version.as_str())
            }
            BackupError::AlgorithmChanged => Self::invalid_param(error.to_string()),
            BackupError::BadKey { .. } => Self::bad_json(error.to_string()),
            BackupError::Store(error) => error.into(),
            BackupError::Commit(error) => error.into(),
        }
    }
}
