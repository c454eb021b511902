//! Who is asking: checks the signature of a request that another server makes.

use std::sync::Arc;

use http::Method;
use ruma::OwnedServerName;
use serde_json::Value;

use super::{
    destinations::Destinations,
    keys::ServerKeys,
    xmatrix::{SignedRequest, XMatrix, XMatrixError},
};
use crate::{
    StoreError,
    policy::{FederationPolicy, PolicyRejection},
};

/// Why a request is not believed to come from the server it names.
#[derive(Debug, thiserror::Error)]
pub enum RequestRejection {
    /// 401 `M_UNAUTHORIZED`.
    #[error("no X-Matrix authorization header")]
    Unsigned,
    /// 401 `M_UNAUTHORIZED`.
    #[error(transparent)]
    Header(#[from] XMatrixError),
    /// 401 `M_UNAUTHORIZED`.
    #[error("the request is meant for {0}")]
    OtherDestination(OwnedServerName),
    /// 403 `M_FORBIDDEN`.
    #[error(transparent)]
    Policy(#[from] PolicyRejection),
    /// 401 `M_UNAUTHORIZED`: the origin's key could not be had, or may not be used any more.
    #[error("no valid key of {0} to check the request with")]
    NoKey(OwnedServerName),
    /// 401 `M_UNAUTHORIZED`.
    #[error("the signature of {0} is wrong")]
    Signature(OwnedServerName),
    /// 401 `M_UNAUTHORIZED`.
    #[error("the client certificate of the connection is not one of {0}")]
    Certificate(OwnedServerName),
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Checks incoming requests. Cheap to clone.
#[derive(Clone)]
pub struct RequestVerifier {
    own_name: OwnedServerName,
    keys: ServerKeys,
    policy: Arc<FederationPolicy>,
    destinations: Destinations,
}

impl RequestVerifier {
    pub fn new(
        own_name: OwnedServerName,
        keys: ServerKeys,
        policy: Arc<FederationPolicy>,
        destinations: Destinations,
    ) -> Self {
        Self { own_name, keys, policy, destinations }
    }

    /// The server that made this request, proven.
    ///
    /// `authorization` are the values of all `Authorization` headers; `uri` is the path and query as received; `content` the JSON
    /// body, if there is one. Where there are several headers one good signature is enough.
    ///
    /// Spec: Server-Server API, Request Authentication.
    pub async fn verify<'a>(
        &self,
        authorization: impl IntoIterator<Item = &'a str>,
        method: &Method,
        uri: &str,
        content: Option<&Value>,
    ) -> Result<OwnedServerName, RequestRejection> {
        let mut rejection = RequestRejection::Unsigned;
        // Each may cost a fetch of keys: a handful covers every server that signs with more than one.
        for header in authorization.into_iter().take(4) {
            match self.verify_one(header, method, uri, content).await {
                Ok(origin) => return Ok(origin),
                Err(error) => rejection = error,
            }
        }
        Err(rejection)
    }

    async fn verify_one(
        &self,
        header: &str,
        method: &Method,
        uri: &str,
        content: Option<&Value>,
    ) -> Result<OwnedServerName, RequestRejection> {
        let header = XMatrix::parse(header)?;
        if let Some(destination) = &header.destination
            && *destination != self.own_name
        {
            return Err(RequestRejection::OtherDestination(destination.clone()));
        }
        self.policy.check(&header.origin)?;
        let keys = self.keys.get_keys_for_request(&header.origin, &header.key).await?;
        if keys.is_empty() {
            return Err(RequestRejection::NoKey(header.origin));
        }
        // Where older servers leave the parameter out, what they signed names us all the same.
        let destination = &self.own_name;
        let request = SignedRequest { method: method.as_str(), uri, origin: &header.origin, destination, content };
        let verified = request.verify(&header, &keys);
        if verified.is_err() {
            return Err(RequestRejection::Signature(header.origin));
        }
        Ok(header.origin)
    }

    /// The state of other servers, for whoever wants to know that one was heard from.
    pub fn destinations(&self) -> &Destinations {
        &self.destinations
    }
}
