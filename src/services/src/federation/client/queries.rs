//! Asking other servers about their users, devices, aliases and public rooms.

use std::time::Duration;

use futures_util::future::BoxFuture;
use http::Method;
use ruma::{
    RoomAliasId, RoomId, ServerName, UserId,
    api::federation::{
        device::get_devices,
        discovery::get_server_version,
        keys::{claim_keys, get_keys},
        openid::get_openid_userinfo,
        query::get_room_information,
    },
};
use serde_json::{Value, json};

use super::{FEDERATION_V1, FederationClient, FederationError, FederationRequest, path, with_query};
use crate::{
    directory::PublicRooms,
    profile::{FetchProfileError, Profile, RemoteProfiles},
    spaces::Hierarchy,
};

/// How long one server is waited for while a client waits for a whole tree of rooms.
const HIERARCHY_TIMEOUT: Duration = Duration::from_secs(10);

impl FederationClient {
    /// `GET /_matrix/federation/v1/query/profile`. `field`: only this one.
    pub async fn query_profile(
        &self,
        server: &ServerName,
        user: &UserId,
        field: Option<&str>,
    ) -> Result<Profile, FederationError> {
        let pairs = [("user_id", user.as_str())].into_iter().chain(field.map(|field| ("field", field)));
        let path = with_query(path(FEDERATION_V1, ["query", "profile"]), pairs);
        self.request(server, FederationRequest::get(path)).await
    }

    /// `GET /_matrix/federation/v1/query/directory`.
    pub async fn query_directory(
        &self,
        server: &ServerName,
        alias: &RoomAliasId,
    ) -> Result<get_room_information::v1::Response, FederationError> {
        let path = with_query(path(FEDERATION_V1, ["query", "directory"]), [("room_alias", alias.as_str())]);
        self.request_typed(server, FederationRequest::get(path)).await
    }

    /// `GET /_matrix/federation/v1/user/devices/{userId}`.
    pub async fn fetch_user_devices(
        &self,
        server: &ServerName,
        user: &UserId,
    ) -> Result<get_devices::v1::Response, FederationError> {
        self.request_typed(server, FederationRequest::get(path(FEDERATION_V1, ["user", "devices", user.as_str()])))
            .await
    }

    /// `POST /_matrix/federation/v1/user/keys/query`. `device_keys`: user -> devices, an empty list for all.
    pub async fn query_user_keys(
        &self,
        server: &ServerName,
        device_keys: &Value,
    ) -> Result<get_keys::v1::Response, FederationError> {
        let request = FederationRequest::new(Method::POST, path(FEDERATION_V1, ["user", "keys", "query"]));
        self.request_typed(server, request.with_body(json!({ "device_keys": device_keys }))).await
    }

    /// `POST /_matrix/federation/v1/user/keys/claim`. `one_time_keys`: user -> device -> algorithm.
    pub async fn claim_user_keys(
        &self,
        server: &ServerName,
        one_time_keys: &Value,
    ) -> Result<claim_keys::v1::Response, FederationError> {
        let request = FederationRequest::new(Method::POST, path(FEDERATION_V1, ["user", "keys", "claim"]));
        self.request_typed(server, request.with_body(json!({ "one_time_keys": one_time_keys }))).await
    }

    /// `POST /_matrix/federation/v1/publicRooms`. `query`: the body as the specification has it.
    pub async fn fetch_public_rooms(&self, server: &ServerName, query: Value) -> Result<PublicRooms, FederationError> {
        let request = FederationRequest::new(Method::POST, path(FEDERATION_V1, ["publicRooms"]));
        self.request(server, request.with_body(query)).await
    }

    /// `GET /_matrix/federation/v1/hierarchy/{roomId}`. Not asked of a server that is failing.
    pub async fn fetch_hierarchy(
        &self,
        server: &ServerName,
        room_id: &RoomId,
        suggested_only: bool,
    ) -> Result<Hierarchy, FederationError> {
        let suggested_only = if suggested_only { "true" } else { "false" };
        let path = path(FEDERATION_V1, ["hierarchy", room_id.as_str()]);
        let request = FederationRequest::get(with_query(path, [("suggested_only", suggested_only)])).in_background();
        self.request(server, FederationRequest { timeout: HIERARCHY_TIMEOUT, ..request }).await
    }

    /// `GET /_matrix/federation/v1/openid/userinfo`: whose token this is. Not signed.
    pub async fn fetch_openid_userinfo(
        &self,
        server: &ServerName,
        access_token: &str,
    ) -> Result<get_openid_userinfo::v1::Response, FederationError> {
        let path = with_query(path(FEDERATION_V1, ["openid", "userinfo"]), [("access_token", access_token)]);
        let answer: UserInfo = self.request_unsigned(server, FederationRequest::get(path)).await?;
        Ok(get_openid_userinfo::v1::Response::new(answer.sub))
    }

    /// `GET /_matrix/federation/v1/version`. Not signed.
    pub async fn fetch_version(
        &self,
        server: &ServerName,
    ) -> Result<Option<get_server_version::v1::Server>, FederationError> {
        let answer: VersionAnswer =
            self.request_unsigned(server, FederationRequest::get(path(FEDERATION_V1, ["version"]))).await?;
        Ok(answer.server)
    }
}

impl RemoteProfiles for FederationClient {
    fn fetch_profile<'a>(
        &'a self,
        user_id: &'a UserId,
        field: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Option<Profile>, FetchProfileError>> {
        Box::pin(async move {
            match self.query_profile(user_id.server_name(), user_id, field).await {
                Ok(profile) => Ok(Some(profile)),
                Err(FederationError::Status { status: 404, .. }) => Ok(None),
                Err(FederationError::Policy(_)) => Err(FetchProfileError::Denied),
                Err(error) => Err(FetchProfileError::NoAnswer(error.to_string())),
            }
        })
    }
}

#[derive(serde::Deserialize)]
struct UserInfo {
    sub: ruma::OwnedUserId,
}

#[derive(serde::Deserialize)]
struct VersionAnswer {
    server: Option<get_server_version::v1::Server>,
}
