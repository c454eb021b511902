//! The ways out: connectors, mail, and other servers.

use std::sync::Arc;

use chappe_services::{
    app_services::Registrations,
    connector::{Connector, ConnectorConfig},
    federation::{client::FederationClient, destinations::Destinations, keys::ServerKeys, resolver::Resolver},
    mail::Mail,
    policy::FederationPolicy,
};

use super::{Base, BuildError};
use crate::{config::Config, settings, tls};

pub(super) struct Outside {
    pub(super) connector: Connector,
    pub(super) to_app_services: Connector,
    pub(super) to_pages: Connector,
    pub(super) mail: Option<Arc<Mail>>,
    pub(super) policy: Arc<FederationPolicy>,
    pub(super) destinations: Destinations,
    pub(super) federation: FederationClient,
    pub(super) server_keys: ServerKeys,
    pub(super) to_servers: Connector,
}

impl Outside {
    pub(super) fn build(base: &Base<'_>, app_services: &Registrations) -> Result<Self, BuildError> {
        let Base { config, clock, signer, old_keys, store, .. } = base;
        let Connectors { connector, to_app_services, to_pages, to_servers } = Connectors::build(config, app_services)?;
        let extra_roots = tls::read_extra_roots(&config.tls)?;
        let mail = settings::mail(config, extra_roots).map(Mail::new).transpose()?.map(Arc::new);
        let policy = Arc::new(settings::federation_policy(config));
        let destinations = Destinations::load(store.clone(), clock.clone())?;
        let resolver = Resolver::new(Arc::new(to_servers.clone()), clock.clone());
        let federation =
            FederationClient::new(to_servers.clone(), resolver, signer.clone(), policy.clone(), destinations.clone());
        let server_keys = ServerKeys::new(
            signer.clone(),
            federation.clone(),
            store.clone(),
            clock.clone(),
            settings::server_keys(config, old_keys.clone()),
        );
        Ok(Self {
            connector,
            to_app_services,
            to_pages,
            mail,
            policy,
            destinations,
            federation,
            server_keys,
            to_servers,
        })
    }
}

/// One connector for each kind of destination.
struct Connectors {
    connector: Connector,
    to_app_services: Connector,
    to_pages: Connector,
    to_servers: Connector,
}

impl Connectors {
    fn build(config: &Config, app_services: &Registrations) -> Result<Self, BuildError> {
        let to_others = settings::connector(config, tls::read_extra_roots(&config.tls)?);
        let registered_urls = app_services.iter().filter_map(|service| service.url.as_ref());
        // Pages are fetched for users: being open to other servers' networks does not open these.
        let to_pages =
            ConnectorConfig { allow_networks: config.media.previews.allow_networks.clone(), ..to_others.clone() };
        // Only other servers are shown the certificate for them.
        let to_servers = ConnectorConfig { identity: tls::read_client_identity(&config.tls)?, ..to_others.clone() };
        Ok(Self {
            to_app_services: Connector::for_origins(to_others.clone(), registered_urls)?,
            to_pages: Connector::new(to_pages)?,
            to_servers: Connector::new(to_servers)?,
            connector: Connector::new(to_others)?,
        })
    }
}
