//! Builds the server, top to bottom: what stands further down may use what stands above, and not the other way round.
//!
//! Here configuration becomes the plain values each part takes. Nothing else in the server sees both sides. [`build`] is the table of
//! contents: each section that it names is a file.

use std::{io, sync::Arc};

use axum::Router;
use chappe_api::{App, Services, extract::TrustedProxies, rate_limit::RateLimits};
use chappe_protocol::clock::Clock;
use chappe_services::{
    accounts::HashError,
    app_services::sender::SenderError,
    connector::{Connector, ConnectorBuildError},
    directory::Directory,
    federation::{incoming::RequestVerifier, keys::ServerKeys, sender::Sender, transactions::Transactions},
    mail::MailBuildError,
    policy::FederationPolicy,
    readers::Readers,
    reports::Reports,
    search::{IndexError, Search, SearchIndex},
    server_notices::ServerNotices,
    spaces::Spaces,
    sync::waiters::Waiters,
    turn::Turn,
    user_directory::UserDirectory,
};
use chappe_store::{EngineError, Store, StoreError, log::OpenError};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use self::{base::Base, clients::Push, conversation::Conversation, outside::Outside, people::People, tasks::Tasks};
use crate::{
    config::{Config, Secret},
    control,
    data_dir::{DataDir, DataDirError},
    metrics::Metrics,
    registrations::{self, ReadRegistrationsError},
    settings,
    signing_key::SigningKeyError,
    tls::{self, TlsError},
    user_admin::UserAdmin,
};

mod base;
mod clients;
mod conversation;
mod outside;
mod people;
mod tasks;

#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    #[error(transparent)]
    SigningKey(#[from] SigningKeyError),
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error("the database: {0}")]
    Engine(#[from] EngineError),
    #[error("the log of writes: {0}")]
    Log(#[from] OpenError),
    #[error("the database cannot be read: {0}")]
    Store(#[from] StoreError),
    #[error(transparent)]
    Registrations(#[from] ReadRegistrationsError),
    #[error("application services: {0}")]
    AppServices(#[from] SenderError),
    #[error("mail: {0}")]
    Mail(#[from] MailBuildError),
    #[error("mail: the public URL of this server: {0}")]
    PublicUrl(#[from] url::ParseError),
    #[error("outgoing requests: {0}")]
    Connector(#[from] ConnectorBuildError),
    #[error("passwords: {0}")]
    Hash(#[from] HashError),
    #[error("the media directory: {0}")]
    Media(io::Error),
    #[error("the search index: {0}")]
    Search(#[from] IndexError),
    #[error("a task of the server ended before its time: {0}")]
    Task(#[from] tokio::task::JoinError),
}

/// A server that is built and not yet reachable.
pub struct Server {
    router: Router,
    store: Store,
    clock: Arc<dyn Clock>,
    waiters: Waiters,
    policy: Arc<FederationPolicy>,
    sender: Arc<Sender>,
    server_keys: ServerKeys,
    to_servers: Connector,
    user_admin: Arc<UserAdmin>,
    tasks: Vec<JoinHandle<()>>,
    data_dir: DataDir,
}

/// Opens the data and builds everything on it. What runs in the background ends with `stop`.
pub async fn build(config: &Config, stop: CancellationToken) -> Result<Server, BuildError> {
    let registrations = registrations::read(&config.server_name, &config.appservices.registrations)?;
    let base = Base::open(config)?;
    let outside = Outside::build(&base, &registrations)?;
    let people = People::build(&base, &outside, registrations)?;
    let conversation = Conversation::build(&base, &outside, &people, &stop)?;
    let readers = clients::readers(&base, &people, &conversation);
    let push = Push::build(&base, &outside, &people, &conversation, &readers, &stop)?;
    let app_services = conversation.prepare_app_services().await?;

    let (waiters, policy) = (readers.waiters.clone(), outside.policy.clone());
    let (server_keys, to_servers) = (outside.server_keys.clone(), outside.to_servers.clone());
    let app = app(&base, outside, people, conversation, readers, push.pushers)?;
    let Base { data_dir, store, .. } = base;

    let mut tasks = Tasks { stop, running: Vec::new() };
    tasks.start_services(&app);
    tasks.start_followers(&app, push.follower)?;
    app_services.into_iter().for_each(|sender| tasks.start(sender.run()));
    tasks.answer_polls_at_stop(waiters.clone());
    let user_admin = UserAdmin::new(app.accounts.clone(), app.rooms.clone(), app.reports.clone(), app.keys.clone());
    Ok(Server {
        clock: app.clock.clone(),
        sender: app.sender.clone(),
        user_admin: Arc::new(user_admin),
        router: chappe_api::router(app),
        store,
        waiters,
        policy,
        server_keys,
        to_servers,
        tasks: tasks.running,
        data_dir,
    })
}

/// What endpoints use: the sections above, and what only they need.
fn app(
    base: &Base<'_>,
    outside: Outside,
    people: People,
    conversation: Conversation,
    readers: Readers,
    pushers: Arc<chappe_services::push::pushers::Pushers>,
) -> Result<App, BuildError> {
    let Base { config, server_name, clock, data_dir, .. } = base;
    let Outside { policy, destinations, federation, server_keys, .. } = outside;
    let People { accounts, emails, uia, devices, profiles, account_data, filters, push_rules } = people;
    let Conversation {
        rooms,
        delayed_events,
        app_services,
        sender,
        keys,
        device_lists,
        to_device,
        key_backup,
        typing,
        presence,
        receipts,
        media,
        previews,
    } = conversation;
    let Readers { notifications, sliding_sync, sync, thread_subscriptions, .. } = readers;
    let search_index = config.search.enabled.then(|| SearchIndex::open(&data_dir.search())).transpose()?;
    let transactions = Transactions {
        rooms: rooms.clone(),
        typing: typing.clone(),
        receipts: receipts.clone(),
        presence: presence.clone(),
        keys: keys.clone(),
        to_device: to_device.clone(),
    };
    let verifier = RequestVerifier::new(server_name.clone(), server_keys.clone(), policy, destinations);
    Ok(App::new(Services {
        account_data,
        accounts,
        app_services,
        clock: clock.clone(),
        delayed_events,
        device_lists,
        devices,
        directory: Arc::new(Directory::new(rooms.clone(), federation.clone())),
        discovery: Arc::new(settings::discovery(config)),
        emails,
        filters,
        key_backup,
        keys,
        media,
        notifications,
        presence,
        previews,
        push_rules,
        pushers,
        rate_limits: Arc::new(RateLimits::new(settings::rate_limits(&config.rate_limits), clock.clone())),
        receipts,
        reports: Arc::new(Reports::new(rooms.clone(), clock.clone())),
        search: Arc::new(Search::new(rooms.clone(), search_index)),
        sender,
        server_keys: Arc::new(server_keys),
        server_notices: Arc::new(ServerNotices::new(rooms.clone(), settings::server_notices(config))),
        sliding_sync,
        spaces: Arc::new(Spaces::new(rooms.clone(), Arc::new(federation), clock.clone())),
        sync,
        thread_subscriptions,
        to_device,
        transactions: Arc::new(transactions),
        trusted_proxies: Arc::new(TrustedProxies(config.listen.trusted_proxies.clone())),
        turn: Arc::new(Turn::new(settings::turn(&config.turn), clock.clone())),
        typing,
        uia,
        user_directory: Arc::new(UserDirectory::new(rooms.clone(), profiles.clone())),
        verifier: Arc::new(verifier),
        profiles,
        rooms,
    }))
}

impl Server {
    pub fn router(&self) -> Router {
        self.router.clone()
    }

    /// The figures of this server, for who shows the token.
    pub fn metrics(&self, token: Option<Secret>) -> Metrics {
        Metrics::new(self.store.clone(), self.waiters.clone(), self.clock.clone(), token)
    }

    pub fn user_admin(&self) -> &Arc<UserAdmin> {
        &self.user_admin
    }

    /// Takes over what of a new configuration can change while the server runs: who takes part in the federation, which keys are
    /// pinned, and the certificate that other servers are shown.
    pub fn reload(&self, config: &Config) -> Result<(), BuildError> {
        let section = &config.federation;
        self.policy.replace(section.enabled, &section.allow, &section.deny);
        self.server_keys.replace_pinned_keys(section.parse_pinned_keys());
        self.sender.look_again()?;
        Ok(self.to_servers.replace_identity(tls::read_client_identity(&config.tls)?)?)
    }

    /// Opens the control socket, through which `chappe user` reaches this server.
    pub fn open_control_socket(&mut self, stop: CancellationToken) {
        let (path, admin) = (self.data_dir.path().to_owned(), self.user_admin.clone());
        self.tasks.push(tokio::spawn(async move { control::serve(&path, admin, stop).await }));
    }

    /// Waits for the background to end, and writes out what is still in memory. Only after `stop`.
    pub async fn close(self) -> Result<(), BuildError> {
        for task in self.tasks {
            task.await?;
        }
        let store = self.store;
        Ok(tokio::task::spawn_blocking(move || store.close()).await??)
    }
}
