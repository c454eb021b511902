//! [`KeyFederation`] over HTTP.

use std::{future::Future, time::Duration};

use futures_util::FutureExt;
use ruma::{
    ServerName,
    api::federation::{
        device::get_devices,
        keys::{claim_keys, get_keys},
    },
};
use serde_json::json;

use super::{FetchError, FetchFuture, KeyFederation};
use crate::federation::client::{FederationClient, FederationError};

impl KeyFederation for FederationClient {
    fn fetch_keys<'a>(
        &'a self,
        server: &'a ServerName,
        request: get_keys::v1::Request,
        timeout: Duration,
    ) -> FetchFuture<'a, get_keys::v1::Response> {
        async move { within(timeout, self.query_user_keys(server, &json!(request.device_keys))).await }.boxed()
    }

    fn fetch_claimed_keys<'a>(
        &'a self,
        server: &'a ServerName,
        request: claim_keys::v1::Request,
        timeout: Duration,
    ) -> FetchFuture<'a, claim_keys::v1::Response> {
        async move { within(timeout, self.claim_user_keys(server, &json!(request.one_time_keys))).await }.boxed()
    }

    fn fetch_devices<'a>(
        &'a self,
        server: &'a ServerName,
        request: get_devices::v1::Request,
        timeout: Duration,
    ) -> FetchFuture<'a, get_devices::v1::Response> {
        async move { within(timeout, self.fetch_user_devices(server, &request.user_id)).await }.boxed()
    }
}

async fn within<T>(
    timeout: Duration,
    fetch: impl Future<Output = Result<T, FederationError>>,
) -> Result<T, FetchError> {
    match tokio::time::timeout(timeout, fetch).await {
        Ok(fetched) => fetched.map_err(FetchError::from),
        Err(_) => Err(FederationError::Timeout.into()),
    }
}

impl From<FederationError> for FetchError {
    fn from(error: FederationError) -> Self {
        // What connecting failed of is the operator's to know, not a client's.
        let (message, status) = match &error {
            FederationError::Status { status, .. } => {
                (format!("the server answered with status {status}"), Some(*status))
            }
            FederationError::Timeout => ("the server did not answer in time".to_owned(), None),
            FederationError::Backoff { .. } => ("the server failed recently".to_owned(), None),
            FederationError::Policy(_) => ("federation with the server is not allowed".to_owned(), Some(403)),
            FederationError::Malformed(_) | FederationError::TooLarge { .. } => {
                ("the server's answer is malformed".to_owned(), Some(502))
            }
            _ => ("the server cannot be reached".to_owned(), None),
        };
        tracing::debug!(%error, "keys were not fetched");
        Self { message, status }
    }
}
