//! A whole server in memory for endpoint tests: requests go in as HTTP and come out as status and JSON. No network is used.

use std::sync::Arc;

use axum::{Router, body::Body};
use chappe_protocol::{clock::ManualClock, sign::ServerSigner};
use chappe_rooms::{Rooms, RoomsConfig};
use chappe_services::{
    account_data::AccountData,
    accounts::{Accounts, AccountsConfig, PasswordHashing},
    app_services::client::AppServices,
    connector::{Connector, ConnectorConfig, dns::Dns},
    delayed_events::{DelayedEvents, DelayedEventsConfig},
    devices::Devices,
    directory::Directory,
    emails::Emails,
    federation::{
        client::FederationClient,
        destinations::Destinations,
        incoming::RequestVerifier,
        keys::{ServerKeys, ServerKeysConfig},
        remote::FederationRemote,
        resolver::Resolver,
        sender::Sender,
        transactions::Transactions,
    },
    filters::Filters,
    invite_filter::InviteFilter,
    key_backup::KeyBackup,
    keys::{DeviceLists, Keys},
    mail::{Mail, MailConfig},
    media::{Media, MediaConfig},
    policy::FederationPolicy,
    presence::Presence,
    previews::{Previews, PreviewsConfig},
    profile::{FetchProfileError, Profile, Profiles, RemoteProfiles},
    push::{pushers::Pushers, rules::PushRules},
    readers::{ReaderSources, Readers},
    receipts::Receipts,
    registration::{RegistrationMode, SharedSecretRegistration, shared_secret_mac_hex},
    reports::Reports,
    search::{Search, SearchIndex},
    secret::Secret,
    server_notices::{ServerNotices, ServerNoticesConfig},
    spaces::Spaces,
    to_device::ToDevice,
    turn::{Turn, TurnConfig, TurnLogin},
    typing::Typing,
    uia::Uia,
    user_directory::UserDirectory,
};
use chappe_store::Store;
use futures_util::future::BoxFuture;
use http::{Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use ipnet::IpNet;
use ruma::{OwnedServerName, RoomVersionId, UserId, owned_server_name};
use serde_json::{Value as JsonValue, json};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt;

use crate::{
    App, Services,
    client::discovery::{DiscoveryConfig, Stability},
    extract::TrustedProxies,
    rate_limit::{RateLimits, RateLimitsConfig},
};

/// The one remote user there is, for profile look-ups.
struct OneRemoteUser;

impl RemoteProfiles for OneRemoteUser {
    fn fetch_profile<'a>(
        &'a self,
        user_id: &'a UserId,
        _: Option<&'a str>,
    ) -> BoxFuture<'a, Result<Option<Profile>, FetchProfileError>> {
        let profile = match user_id.as_str() {
            "@remote:elsewhere.example" => Ok(json!({ "displayname": "Remote" }).as_object().cloned()),
            "@silent:elsewhere.example" => Err(FetchProfileError::NoAnswer("no answer".to_owned())),
            _ => Ok(None),
        };
        Box::pin(async move { profile })
    }
}

/// What tests may want otherwise.
pub(crate) struct TestConfig {
    pub(crate) accounts: AccountsConfig,
    /// Where names of other servers are looked up, in place of the system: other servers are then asked for profiles too.
    pub(crate) dns: Option<Arc<dyn Dns>>,
    pub(crate) federation_allow: Vec<String>,
    pub(crate) mail: Option<MailConfig>,
    /// Networks whose pages are previewed; none: previews are switched off.
    pub(crate) preview_networks: Vec<IpNet>,
    pub(crate) rate_limits: RateLimitsConfig,
    pub(crate) server_keys: ServerKeysConfig,
}

impl Default for TestConfig {
    fn default() -> Self {
        let mut accounts = AccountsConfig::new(owned_server_name!("chappe.example"));
        accounts.registration.mode = RegistrationMode::Open;
        accounts.registration.shared_secret = Some(Secret::new("shared"));
        accounts.password_hashing = PasswordHashing { memory_kib: 64, passes: 1, lanes: 1, concurrent_max: 4 };
        Self {
            accounts,
            dns: None,
            federation_allow: Vec::new(),
            mail: None,
            preview_networks: Vec::new(),
            rate_limits: RateLimitsConfig { enabled: false, ..Default::default() },
            server_keys: ServerKeysConfig::default(),
        }
    }
}

fn turn() -> TurnConfig {
    TurnConfig {
        uris: vec!["turn:turn.chappe.example".to_owned()],
        login: TurnLogin::Fixed { username: "shared".to_owned(), password: Secret::new("password") },
        lifetime_s: 3600,
        allow_guests: false,
    }
}

/// A server under test.
pub(crate) struct TestApp {
    pub(crate) app: App,
    pub(crate) clock: Arc<ManualClock>,
    router: Router,
    _media: tempfile::TempDir,
}

impl TestApp {
    pub(crate) fn new() -> Self {
        Self::with(TestConfig::default())
    }

    pub(crate) fn with(config: TestConfig) -> Self {
        let store = Store::in_memory();
        let clock = Arc::new(ManualClock::new(1_700_000_000_000));
        let name: OwnedServerName = config.accounts.server_name.clone();
        let accounts = Arc::new(Accounts::new(store.clone(), clock.clone(), config.accounts).unwrap());
        let signer = Arc::new(ServerSigner::from_seed(name.clone(), "test", &[7; 32]).unwrap());
        let policy = Arc::new(FederationPolicy::new(name.clone(), true, &config.federation_allow, &[]));
        let destinations = Destinations::load(store.clone(), clock.clone()).unwrap();
        let registered_urls = accounts.app_services().iter().filter_map(|service| service.url.as_ref());
        let to_app_services = Connector::for_origins(ConnectorConfig::default(), registered_urls).unwrap();
        let connector = match &config.dns {
            Some(dns) => Connector::with_dns(ConnectorConfig::default(), dns.clone()).unwrap(),
            None => Connector::new(ConnectorConfig::default()).unwrap(),
        };
        let resolver = Resolver::new(Arc::new(connector.clone()), clock.clone());
        let client = FederationClient::new(connector, resolver, signer.clone(), policy.clone(), destinations.clone());
        let remote_profiles: Arc<dyn RemoteProfiles> = match &config.dns {
            Some(_) => Arc::new(client.clone()),
            None => Arc::new(OneRemoteUser),
        };
        let profiles = Arc::new(Profiles::new(store.clone(), name.clone(), remote_profiles));
        let server_keys =
            ServerKeys::new(signer.clone(), client.clone(), store.clone(), clock.clone(), config.server_keys);
        let remote = Arc::new(FederationRemote::new(client.clone(), server_keys.clone()));
        let account_data = Arc::new(AccountData::new(store.clone()));
        let rooms = Rooms::new(
            store.clone(),
            signer,
            clock.clone(),
            remote,
            policy.clone(),
            profiles.clone(),
            RoomsConfig::default(),
        )
        .with_invite_gate(Arc::new(InviteFilter(account_data.clone())));
        let transport = Arc::new(client.clone());
        let sender = Sender::start(
            name.clone(),
            store.clone(),
            clock.clone(),
            transport,
            destinations.clone(),
            Arc::new(rooms.clone()),
            CancellationToken::new(),
        )
        .unwrap();
        let edus = Arc::new(sender.clone());
        let keys = Keys::new(store.clone(), name.clone(), Arc::new(client.clone()));
        let to_device = Arc::new(ToDevice::new(store.clone(), name.clone(), clock.clone(), keys.clone()));
        let typing = Arc::new(Typing::new(store.clone(), name.clone(), clock.clone(), edus.clone()));
        let receipts = Arc::new(Receipts::new(store.clone(), name.clone(), clock.clone()));
        let presence = Arc::new(Presence::new(store.clone(), name.clone(), clock.clone(), edus, true));
        let transactions = Arc::new(Transactions {
            rooms: rooms.clone(),
            typing: typing.clone(),
            receipts: receipts.clone(),
            presence: presence.clone(),
            keys: keys.clone(),
            to_device: to_device.clone(),
        });
        let directory_client = client.clone();
        let spaces = Arc::new(Spaces::new(rooms.clone(), Arc::new(client.clone()), clock.clone()));
        let media_root = tempfile::tempdir().unwrap();
        let media = Media::open(
            media_root.path(),
            store.clone(),
            name.clone(),
            clock.clone(),
            Arc::new(client),
            MediaConfig::default(),
        )
        .unwrap();
        let to_pages =
            ConnectorConfig { allow_networks: config.preview_networks.clone(), ..ConnectorConfig::default() };
        let previews = Previews::new(
            PreviewsConfig { enabled: !config.preview_networks.is_empty(), ..PreviewsConfig::default() },
            Connector::new(to_pages).unwrap(),
            media.clone(),
            store.clone(),
            clock.clone(),
        );
        let mail = config.mail.map(|config| Arc::new(Mail::new(config).unwrap()));
        if let Some(mail) = &mail {
            tokio::spawn(mail.clone().run());
        }
        let public_url = "https://matrix.chappe.example/".parse().unwrap();
        let emails = Arc::new(Emails::new(store.clone(), clock.clone(), mail, public_url));
        let discovery = DiscoveryConfig {
            client_base_url: Some("https://matrix.chappe.example".to_owned()),
            federation_host: None,
            support_contacts: Vec::new(),
            support_page: None,
            room_version_default: RoomVersionId::V12,
            room_versions: vec![(RoomVersionId::V11, Stability::Stable), (RoomVersionId::V12, Stability::Stable)],
        };
        let filters = Arc::new(Filters::new(store.clone()));
        let device_lists = DeviceLists::new(store.clone());
        let push_rules = Arc::new(PushRules::new(store.clone()));
        let readers = Readers::new(ReaderSources {
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
        let server_notices = ServerNoticesConfig {
            sender: UserId::parse_with_server_name("_server", &name).unwrap(),
            display_name: None,
            avatar_url: None,
            room_name: Some("Server notices".to_owned()),
        };
        let user_directory_profiles = profiles.clone();
        let app = App::new(Services {
            account_data,
            app_services: AppServices::new(to_app_services, accounts.clone(), rooms.clone()),
            uia: Arc::new(Uia::new(accounts.clone(), emails.clone(), clock.clone())),
            emails,
            accounts,
            clock: clock.clone(),
            delayed_events: Arc::new(DelayedEvents::new(rooms.clone(), clock.clone(), DelayedEventsConfig::default())),
            device_lists,
            devices: Arc::new(Devices::new(store.clone(), clock.clone())),
            directory: Arc::new(Directory::new(rooms.clone(), directory_client)),
            discovery: Arc::new(discovery),
            filters,
            key_backup: KeyBackup::new(store.clone()),
            keys,
            media,
            notifications: readers.notifications,
            presence,
            previews,
            profiles,
            push_rules,
            pushers: Arc::new(Pushers::load(store.clone(), clock.clone()).unwrap()),
            rate_limits: Arc::new(RateLimits::new(config.rate_limits, clock.clone())),
            receipts,
            reports: Arc::new(Reports::new(rooms.clone(), clock.clone())),
            server_notices: Arc::new(ServerNotices::new(rooms.clone(), Some(server_notices))),
            search: Arc::new(Search::new(rooms.clone(), Some(SearchIndex::in_memory().unwrap()))),
            user_directory: Arc::new(UserDirectory::new(rooms.clone(), user_directory_profiles)),
            rooms,
            sender: Arc::new(sender),
            verifier: Arc::new(RequestVerifier::new(name, server_keys.clone(), policy, destinations)),
            server_keys: Arc::new(server_keys),
            spaces,
            sliding_sync: readers.sliding_sync,
            sync: readers.sync,
            thread_subscriptions: readers.thread_subscriptions,
            to_device,
            transactions,
            trusted_proxies: Arc::new(TrustedProxies::default()),
            turn: Arc::new(Turn::new(Some(turn()), clock.clone())),
            typing,
        });
        let router = crate::router(app.clone());
        Self { app, clock, router, _media: media_root }
    }

    /// Sends a request as it is.
    pub(crate) async fn send(&self, request: Request<Body>) -> http::Response<Body> {
        let Ok(response) = self.router.clone().oneshot(request).await;
        response
    }

    /// Sends JSON, with an access token if there is one; the answer is the status and the body, `null` if it is no JSON.
    pub(crate) async fn call(
        &self,
        method: Method,
        path: &str,
        token: Option<&str>,
        body: JsonValue,
    ) -> (StatusCode, JsonValue) {
        let mut request = Request::builder().method(method).uri(path);
        if let Some(token) = token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let body = if body.is_null() { Body::empty() } else { Body::from(body.to_string()) };
        let response = self.send(request.body(body).unwrap()).await;
        let status = response.status();
        let bytes = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&bytes).unwrap_or_default())
    }

    pub(crate) async fn get(&self, path: &str, token: Option<&str>) -> (StatusCode, JsonValue) {
        self.call(Method::GET, path, token, JsonValue::Null).await
    }

    pub(crate) async fn post(&self, path: &str, token: Option<&str>, body: JsonValue) -> (StatusCode, JsonValue) {
        self.call(Method::POST, path, token, body).await
    }

    pub(crate) async fn put(&self, path: &str, token: Option<&str>, body: JsonValue) -> (StatusCode, JsonValue) {
        self.call(Method::PUT, path, token, body).await
    }

    /// Registers a user with the password `secret`; the answer is the access token.
    pub(crate) async fn register(&self, username: &str) -> String {
        let request = json!({ "username": username, "password": "secret", "auth": { "type": "m.login.dummy" } });
        let (status, answer) = self.post("/_matrix/client/v3/register", None, request).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer["access_token"].as_str().unwrap().to_owned()
    }

    /// Registers an administrator with the password `secret`; the answer is the access token.
    pub(crate) async fn register_admin(&self, username: &str) -> String {
        let path = "/_synapse/admin/v1/register";
        let nonce = self.get(path, None).await.1["nonce"].as_str().unwrap().to_owned();
        let mut registration = SharedSecretRegistration {
            nonce,
            username: username.to_owned(),
            password: "secret".to_owned(),
            admin: true,
            user_type: None,
            mac: String::new(),
        };
        registration.mac = shared_secret_mac_hex(&Secret::new("shared"), &registration).unwrap();
        let request = json!({
            "nonce": registration.nonce, "username": username, "password": "secret", "admin": true, "mac": registration.mac,
        });
        let (status, answer) = self.post(path, None, request).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        answer["access_token"].as_str().unwrap().to_owned()
    }
}
