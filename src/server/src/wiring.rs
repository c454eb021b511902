//! Builds the server, top to bottom: what stands further down may use what stands above, and not the other way round.
//!
//! Here configuration becomes the plain values each part takes. Nothing else in the server sees both sides.

use std::{io, sync::Arc};

use axum::Router;
use chappe_api::{App, client::discovery::DiscoveryConfig, extract::TrustedProxies, rate_limit::RateLimits};
use chappe_protocol::clock::{Clock, SystemClock};
use chappe_rooms::Rooms;
use chappe_services::{
    account_data::AccountData,
    accounts::{Accounts, HashError},
    app_services::{
        Registrations,
        client::AppServices,
        sender::{AppServiceSender, SenderError, SenderSources},
    },
    connector::{Connector, ConnectorBuildError, ConnectorConfig},
    delayed_events::{DelayedEvents, Overtaken},
    deliveries,
    devices::Devices,
    directory::Directory,
    emails::Emails,
    event_follower::EventFollower,
    federation::{
        client::FederationClient, destinations::Destinations, incoming::RequestVerifier, keys::ServerKeys, left_out,
        remote::FederationRemote, resolver::Resolver, sender::Sender, transactions::Transactions,
    },
    filters::Filters,
    guests::Guests,
    invite_filter::InviteFilter,
    key_backup::KeyBackup,
    keys::{DeviceLists, Introductions, Keys},
    mail::{Mail, MailBuildError},
    media::Media,
    policy::FederationPolicy,
    presence::Presence,
    previews::Previews,
    profile::Profiles,
    push::{
        delivery::Deliveries,
        follower::{PushFollower, PushSources},
        pushers::Pushers,
        rules::PushRules,
    },
    readers::{ReaderSources, Readers},
    receipts::Receipts,
    reports::Reports,
    room_upgrades::RoomUpgrades,
    search::{IndexError, Search, SearchIndex},
    server_notices::ServerNotices,
    spaces::Spaces,
    sync::waiters::Waiters,
    to_device::ToDevice,
    turn::Turn,
    typing::Typing,
    uia::Uia,
    user_directory::UserDirectory,
};
use chappe_store::{Engine, EngineError, Store, StoreError, log::OpenError};
use chappe_store_rocksdb::RocksEngine;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::{
    config::{Config, Secret},
    control,
    data_dir::{DataDir, DataDirError},
    metrics::Metrics,
    registrations::{self, ReadRegistrationsError},
    settings,
    signing_key::{self, SigningKeyError},
    tls::{self, TlsError},
    user_admin::UserAdmin,
};

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
    user_admin: Arc<UserAdmin>,
    tasks: Vec<JoinHandle<()>>,
    data_dir: DataDir,
}

/// The ways out.
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

/// Opens the data and builds everything on it. What runs in the background ends with `stop`.
pub async fn build(config: &Config, stop: CancellationToken) -> Result<Server, BuildError> {
    let server_name = config.server_name.clone();
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);

    let app_services = registrations::read(&server_name, &config.appservices.registrations)?;

    // What lies on disk.
    let data_dir = DataDir::open(&config.data_dir, &server_name)?;
    let signer = Arc::new(signing_key::load_or_generate(&data_dir, server_name.clone())?);
    let old_keys = signing_key::load_old(&data_dir)?;
    let engine: Arc<dyn Engine> =
        Arc::new(RocksEngine::open(&data_dir.database(), &settings::engine(&config.storage))?);
    let store = Store::open(engine, &data_dir.log(), settings::durability(&config.storage))?;

    // The way out.
    let Connectors { connector, to_app_services, to_pages, to_servers } = Connectors::build(config, &app_services)?;
    let extra_roots = tls::read_extra_roots(&config.tls)?;
    let mail = settings::mail(config, extra_roots).map(Mail::new).transpose()?.map(Arc::new);
    let policy = Arc::new(settings::federation_policy(config));
    let destinations = Destinations::load(store.clone(), clock.clone())?;
    let resolver = Resolver::new(Arc::new(to_servers.clone()), clock.clone());
    let federation = FederationClient::new(to_servers, resolver, signer.clone(), policy.clone(), destinations.clone());
    let server_keys = ServerKeys::new(
        signer.clone(),
        federation.clone(),
        store.clone(),
        clock.clone(),
        settings::server_keys(config, old_keys),
    );

    // Accounts.
    let accounts = Arc::new(Accounts::new(store.clone(), clock.clone(), settings::accounts(config, app_services))?);
    let emails = Emails::new(store.clone(), clock.clone(), mail, settings::public_url(config)?);
    let emails = Arc::new(emails.with_next_link_hosts(config.mail.next_link_hosts.clone()));
    let uia = Arc::new(Uia::new(accounts.clone(), emails.clone(), clock.clone()));
    let devices =
        Arc::new(Devices::new(store.clone(), clock.clone()).sharing_names(config.federation.share_device_names));
    let profiles = Arc::new(Profiles::new(store.clone(), server_name.clone(), Arc::new(federation.clone())));
    let account_data = Arc::new(AccountData::new(store.clone()));
    let filters = Arc::new(Filters::new(store.clone()));
    let push_rules = Arc::new(PushRules::new(store.clone()));

    // Rooms.
    let rooms = Rooms::new(
        store.clone(),
        signer.clone(),
        clock.clone(),
        Arc::new(FederationRemote::new(federation.clone(), server_keys.clone())),
        policy.clone(),
        profiles.clone(),
        settings::rooms(&config.rooms, &config.data_dir),
    )
    .with_invite_gate(Arc::new(InviteFilter(account_data.clone())));
    let delayed_events =
        Arc::new(DelayedEvents::new(rooms.clone(), clock.clone(), settings::delayed_events(&config.delayed_events)));

    let app_services = AppServices::new(to_app_services, accounts.clone(), rooms.clone());
    let sender = Arc::new(Sender::start(
        server_name.clone(),
        store.clone(),
        clock.clone(),
        Arc::new(federation.clone()),
        destinations.clone(),
        Arc::new(rooms.clone()),
        stop.clone(),
    )?);

    let directory = Arc::new(Directory::new(rooms.clone(), federation.clone()));
    let spaces = Arc::new(Spaces::new(rooms.clone(), Arc::new(federation.clone()), clock.clone()));

    // Encryption.
    let keys = Keys::new(store.clone(), server_name.clone(), Arc::new(federation.clone()))
        .sharing_device_names(config.federation.share_device_names)
        .noting_claims(clock.clone());
    let device_lists = DeviceLists::new(store.clone());
    let to_device = Arc::new(ToDevice::new(store.clone(), server_name.clone(), clock.clone(), keys.clone()));
    let key_backup = KeyBackup::new(store.clone());

    // What passes.
    let typing = Arc::new(Typing::new(store.clone(), server_name.clone(), clock.clone(), sender.clone()));
    let presence = Arc::new(Presence::new(
        store.clone(),
        server_name.clone(),
        clock.clone(),
        sender.clone(),
        config.presence.enabled,
    ));
    let receipts = Arc::new(Receipts::new(store.clone(), server_name.clone(), clock.clone()));

    let media = Media::open(
        &data_dir.media(),
        store.clone(),
        server_name.clone(),
        clock.clone(),
        Arc::new(federation.clone()),
        settings::media(&config.media),
    )
    .map_err(BuildError::Media)?;

    let previews = Previews::new(
        settings::previews(&config.media.previews),
        to_pages,
        media.clone(),
        store.clone(),
        clock.clone(),
    );
    // What can be found.
    let search_index = config.search.enabled.then(|| SearchIndex::open(&data_dir.search())).transpose()?;
    let search = Arc::new(Search::new(rooms.clone(), search_index));
    let user_directory = Arc::new(UserDirectory::new(rooms.clone(), profiles.clone()));

    // What operators tell users, and are told by them.
    let server_notices = Arc::new(ServerNotices::new(rooms.clone(), settings::server_notices(config)));
    let reports = Arc::new(Reports::new(rooms.clone(), clock.clone()));

    // What clients are told.
    let Readers { candidates, notifications, sliding_sync, sync, thread_subscriptions, unread, waiters } =
        Readers::new(ReaderSources {
            rooms: rooms.clone(),
            clock: clock.clone(),
            account_data: account_data.clone(),
            device_lists: device_lists.clone(),
            filters: filters.clone(),
            presence: presence.clone(),
            push_rules: push_rules.clone(),
            receipts: receipts.clone(),
            to_device: to_device.clone(),
            typing: typing.clone(),
        });

    // What clients are told that do not ask.
    let pushers = Arc::new(Pushers::load(store.clone(), clock.clone())?);
    let deliveries = Deliveries::new(
        rooms.clone(),
        pushers.clone(),
        unread.clone(),
        Arc::new(connector.clone()),
        emails.clone(),
        clock.clone(),
        stop.clone(),
    );
    let push_follower = PushFollower::open(PushSources {
        rooms: rooms.clone(),
        account_data: account_data.clone(),
        rules: push_rules.clone(),
        candidates,
        pushers: pushers.clone(),
        deliveries: deliveries.clone(),
        clock: clock.clone(),
    })?;
    deliveries.wake_on_read(&receipts);
    deliveries.resume()?;

    // The way in.
    let verifier =
        Arc::new(RequestVerifier::new(server_name.clone(), server_keys.clone(), policy.clone(), destinations.clone()));
    let transactions = Arc::new(Transactions {
        rooms: rooms.clone(),
        typing: typing.clone(),
        receipts: receipts.clone(),
        presence: presence.clone(),
        keys: keys.clone(),
        to_device: to_device.clone(),
    });
    let discovery: Arc<DiscoveryConfig> = Arc::new(settings::discovery(config));
    let rate_limits = Arc::new(RateLimits::new(settings::rate_limits(&config.rate_limits), clock.clone()));
    let turn = Arc::new(Turn::new(settings::turn(&config.turn), clock.clone()));
    let trusted_proxies = Arc::new(TrustedProxies(config.listen.trusted_proxies.clone()));

    let sources = SenderSources {
        app_services: app_services.clone(),
        rooms: rooms.clone(),
        typing: typing.clone(),
        receipts: receipts.clone(),
        presence: presence.clone(),
    };
    let app_service_senders = AppServiceSender::prepare(&sources).await?;

    let user_admin = Arc::new(UserAdmin::new(accounts.clone(), rooms.clone(), reports.clone(), keys.clone()));

    let app = App {
        account_data,
        accounts,
        app_services,
        clock,
        delayed_events,
        device_lists,
        devices,
        directory,
        discovery,
        emails,
        filters,
        key_backup,
        keys,
        media,
        notifications,
        presence,
        previews,
        profiles,
        push_rules,
        pushers,
        rate_limits,
        receipts,
        reports,
        rooms,
        search,
        sender: sender.clone(),
        server_keys: Arc::new(server_keys),
        server_notices,
        spaces,
        sliding_sync,
        sync,
        thread_subscriptions,
        to_device,
        transactions,
        trusted_proxies,
        turn,
        typing,
        uia,
        user_directory,
        verifier,
    };
    let mut tasks = Tasks { stop, running: Vec::new() };
    tasks.start_services(&app);
    tasks.start_followers(&app, push_follower)?;
    app_service_senders.into_iter().for_each(|sender| tasks.start(sender.run()));
    // Waiting polls are answered, so that their connections can close.
    let (closing, polls) = (tasks.stop.clone(), waiters.clone());
    tasks.running.push(tokio::spawn(async move {
        closing.cancelled().await;
        polls.close();
    }));
    Ok(Server {
        clock: app.clock.clone(),
        router: chappe_api::router(app),
        store,
        waiters,
        policy,
        sender,
        user_admin,
        tasks: tasks.running,
        data_dir,
    })
}

/// What runs in the background until the server stops.
struct Tasks {
    stop: CancellationToken,
    running: Vec<JoinHandle<()>>,
}

impl Tasks {
    fn start(&mut self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.running.push(tokio::spawn(async move {
            tokio::select! {
                () = task => {}
                () = stop.cancelled() => {}
            }
        }));
    }

    /// What services do by themselves.
    fn start_services(&mut self, app: &App) {
        self.start(app.typing.clone().run());
        self.start(app.presence.clone().run());
        self.start(app.keys.clone().run());
        self.start(deliveries::run(app.rooms.store().clone(), app.clock.clone()));
        self.start(app.keys.clone().run_after_resyncs(app.rooms.clone()));
        self.start(app.sliding_sync.clone().run());
        self.start(app.delayed_events.clone().run());
        self.start(app.search.clone().run());
        self.start(app.media.clone().run());
        self.start(app.previews.clone().run());
        self.start(app.emails.clone().run());
        if let Some(mail) = app.emails.mail() {
            self.start(mail.clone().run());
        }
        self.start(left_out::run(app.rooms.clone()));
        self.start(app.rooms.clone().run_resyncs());
        self.start(app.rooms.clone().run_refills());
    }

    /// What follows the event log.
    fn start_followers(&mut self, app: &App, push_follower: PushFollower) -> Result<(), StoreError> {
        let rooms = &app.rooms;
        let guests = Guests::new(app.accounts.clone(), rooms.clone());
        let introductions = Introductions::new(app.keys.clone(), rooms.clone());
        let upgrades = RoomUpgrades::new(rooms.clone(), app.account_data.clone(), app.push_rules.clone());
        let directory = (*app.user_directory).clone().follow();
        self.start(EventFollower::open("delayed_events", rooms)?.run(Overtaken(app.delayed_events.clone())));
        self.start(EventFollower::open("devices_of_newly_sharing", rooms)?.run(introductions));
        self.start(EventFollower::open("guests", rooms)?.run(guests));
        self.start(EventFollower::open("push", rooms)?.run(push_follower));
        self.start(EventFollower::open("room_upgrades", rooms)?.run(upgrades));
        self.start(EventFollower::open_from_start("user_directory", rooms)?.run(directory));
        Ok(())
    }
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

    /// Takes over what of a new configuration can change while the server runs: who takes part in the federation.
    pub fn reload(&self, config: &Config) -> Result<(), StoreError> {
        let section = &config.federation;
        self.policy.replace(section.enabled, &section.allow, &section.deny);
        self.sender.look_again()
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
