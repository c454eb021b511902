//! From names to addresses: the hosts file, then DNS.
//!
//! Where a Matrix server name without a port leads is decided here too ([`matrix_server_addresses`]), because the HTTP client
//! asks for addresses only when it opens a connection.

use std::{
    collections::HashMap,
    future::Future,
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    pin::Pin,
    sync::Arc,
    time::{Duration, SystemTime},
};

use hickory_resolver::{
    TokioResolver,
    config::{LookupIpStrategy, ResolveHosts, ResolverConfig},
    net::runtime::TokioRuntimeProvider,
    proto::rr::RData,
};
use parking_lot::Mutex;

/// The port of a Matrix server that names none.
pub const DEFAULT_FEDERATION_PORT: u16 = 8448;

/// How many SRV targets of one name are tried.
const SRV_TARGETS_MAX: usize = 8;

/// Why a name has no address.
#[derive(Clone, Debug, thiserror::Error)]
pub enum DnsError {
    #[error("{0} does not exist")]
    NotFound(String),
    #[error("lookup failed: {0}")]
    Failed(String),
    #[error("the address {0} is not one this server connects to")]
    Denied(IpAddr),
}

/// One SRV record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SrvRecord {
    pub priority: u16,
    pub weight: u16,
    pub port: u16,
    pub target: String,
}

pub type DnsFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, DnsError>> + Send + 'a>>;

/// A source of names.
pub trait Dns: Send + Sync + 'static {
    /// The addresses of a host.
    fn lookup_ip<'a>(&'a self, host: &'a str) -> DnsFuture<'a, Vec<IpAddr>>;
    /// The SRV records of a name, such as `_matrix-fed._tcp.example.org`.
    fn lookup_srv<'a>(&'a self, name: &'a str) -> DnsFuture<'a, Vec<SrvRecord>>;
}

/// The addresses of a host, with a port.
pub(super) async fn host_addresses(dns: &dyn Dns, host: &str, port: u16) -> Result<Vec<SocketAddr>, DnsError> {
    let addresses = dns.lookup_ip(host).await?;
    Ok(addresses.into_iter().map(|address| SocketAddr::new(address, port)).collect())
}

/// Where a server name without a port is served: the targets of `_matrix-fed._tcp`, else of `_matrix._tcp`, else port 8448.
///
/// A lookup of SRV records that fails counts as "no records": name servers inside closed networks often answer errors for types
/// they do not know.
///
/// Spec: Server-Server API, Resolving server names, steps 3.3 to 3.5 and 4 to 6.
pub(super) async fn matrix_server_addresses(dns: &dyn Dns, host: &str) -> Result<Vec<SocketAddr>, DnsError> {
    let (current_name, old_name) = (format!("_matrix-fed._tcp.{host}"), format!("_matrix._tcp.{host}"));
    let (current, old) = tokio::join!(dns.lookup_srv(&current_name), dns.lookup_srv(&old_name));
    let records = match current {
        Ok(records) if !records.is_empty() => records,
        _ => old.unwrap_or_default(),
    };
    if records.is_empty() {
        return host_addresses(dns, host, DEFAULT_FEDERATION_PORT).await;
    }
    let mut found = Vec::new();
    let mut failure = DnsError::NotFound(host.to_owned());
    for record in in_srv_order(records).into_iter().take(SRV_TARGETS_MAX) {
        match host_addresses(dns, record.target.trim_end_matches('.'), record.port).await {
            Ok(addresses) => found.extend(addresses),
            Err(error) => failure = error,
        }
    }
    if found.is_empty() { Err(failure) } else { Ok(found) }
}

/// Lowest priority first; among equals a draw in which weight counts (RFC 2782).
fn in_srv_order(records: Vec<SrvRecord>) -> Vec<SrvRecord> {
    // "." as the target says that the service is decidedly not available.
    let mut drawn: Vec<(u16, f64, SrvRecord)> = records
        .into_iter()
        .filter(|record| record.target != "." && record.port != 0)
        .map(|record| {
            // Exponential keys: the smallest of them is each record with a probability proportional to its weight.
            let key = -rand::random::<f64>().max(f64::MIN_POSITIVE).ln() / f64::from(record.weight).max(0.01);
            (record.priority, key, record)
        })
        .collect();
    drawn.sort_by(|a, b| a.0.cmp(&b.0).then(a.1.total_cmp(&b.1)));
    drawn.into_iter().map(|(_, _, record)| record).collect()
}

/// The hosts file and the name servers of this machine.
pub struct SystemDns {
    resolver: Option<TokioResolver>,
    hosts: HostsFile,
}

impl SystemDns {
    /// Reads the system's resolver configuration. Without a usable one only the hosts file answers.
    pub fn new() -> Self {
        let built = TokioResolver::builder_tokio()
            .or_else(|error| {
                tracing::warn!(%error, "no usable resolver configuration: only the hosts file is read");
                Ok(TokioResolver::builder_with_config(ResolverConfig::default(), TokioRuntimeProvider::default()))
            })
            .and_then(|mut builder| {
                let options = builder.options_mut();
                options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
                options.use_hosts_file = ResolveHosts::Never;
                options.timeout = Duration::from_secs(3);
                options.attempts = 2;
                options.positive_max_ttl = Some(Duration::from_secs(3600));
                options.negative_max_ttl = Some(Duration::from_secs(60));
                builder.build()
            });
        let resolver =
            built.inspect_err(|error: &hickory_resolver::net::NetError| tracing::warn!(%error, "no DNS resolver")).ok();
        Self { resolver, hosts: HostsFile::new("/etc/hosts".into()) }
    }

    fn resolver(&self) -> Result<&TokioResolver, DnsError> {
        self.resolver.as_ref().ok_or_else(|| DnsError::Failed("no name servers are configured".to_owned()))
    }
}

impl Default for SystemDns {
    fn default() -> Self {
        Self::new()
    }
}

impl Dns for SystemDns {
    fn lookup_ip<'a>(&'a self, host: &'a str) -> DnsFuture<'a, Vec<IpAddr>> {
        Box::pin(async move {
            let listed = self.hosts.addresses(host);
            if !listed.is_empty() {
                return Ok(listed);
            }
            match self.resolver()?.lookup_ip(host).await {
                Ok(found) => Ok(found.iter().collect()),
                Err(error) if error.is_nx_domain() || error.is_no_records_found() => {
                    Err(DnsError::NotFound(host.to_owned()))
                }
                Err(error) => Err(DnsError::Failed(error.to_string())),
            }
        })
    }

    fn lookup_srv<'a>(&'a self, name: &'a str) -> DnsFuture<'a, Vec<SrvRecord>> {
        Box::pin(async move {
            // The final dot keeps search domains out of it.
            let found = match self.resolver()?.srv_lookup(format!("{name}.")).await {
                Ok(found) => found,
                Err(error) if error.is_nx_domain() || error.is_no_records_found() => return Ok(Vec::new()),
                Err(error) => return Err(DnsError::Failed(error.to_string())),
            };
            let records = found.answers().iter().filter_map(|record| match &record.data {
                RData::SRV(srv) => Some(SrvRecord {
                    priority: srv.priority,
                    weight: srv.weight,
                    port: srv.port,
                    target: srv.target.to_utf8(),
                }),
                _ => None,
            });
            Ok(records.collect())
        })
    }
}

type Hosts = HashMap<String, Vec<IpAddr>>;

/// The hosts file, read again when it changes.
struct HostsFile {
    path: PathBuf,
    read: Mutex<Option<(SystemTime, Arc<Hosts>)>>,
}

impl HostsFile {
    fn new(path: PathBuf) -> Self {
        Self { path, read: Mutex::new(None) }
    }

    fn addresses(&self, host: &str) -> Vec<IpAddr> {
        let host = host.trim_end_matches('.').to_ascii_lowercase();
        self.entries().get(&host).cloned().unwrap_or_default()
    }

    /// A small local file, read when a connection is opened: not worth a trip to the blocking pool.
    fn entries(&self) -> Arc<HashMap<String, Vec<IpAddr>>> {
        let Ok(changed) = std::fs::metadata(&self.path).and_then(|metadata| metadata.modified()) else {
            return Arc::default();
        };
        let mut read = self.read.lock();
        if let Some((seen, entries)) = &*read
            && *seen == changed
        {
            return entries.clone();
        }
        let text = std::fs::read_to_string(&self.path).unwrap_or_default();
        let entries = Arc::new(parse_hosts(&text));
        *read = Some((changed, entries.clone()));
        entries
    }
}

fn parse_hosts(text: &str) -> HashMap<String, Vec<IpAddr>> {
    let mut entries: HashMap<String, Vec<IpAddr>> = HashMap::new();
    for line in text.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_whitespace();
        let Some(address) = words.next().and_then(|word| word.parse::<IpAddr>().ok()) else { continue };
        for name in words {
            entries.entry(name.to_ascii_lowercase()).or_default().push(address);
        }
    }
    entries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct FakeDns {
        hosts: HashMap<&'static str, &'static str>,
        srv: HashMap<&'static str, Vec<SrvRecord>>,
        srv_fails: bool,
    }

    impl Dns for FakeDns {
        fn lookup_ip<'a>(&'a self, host: &'a str) -> DnsFuture<'a, Vec<IpAddr>> {
            Box::pin(async move {
                let address = self.hosts.get(host).ok_or_else(|| DnsError::NotFound(host.to_owned()))?;
                Ok(vec![address.parse().expect("a valid address")])
            })
        }

        fn lookup_srv<'a>(&'a self, name: &'a str) -> DnsFuture<'a, Vec<SrvRecord>> {
            Box::pin(async move {
                if self.srv_fails {
                    return Err(DnsError::Failed("SERVFAIL".to_owned()));
                }
                Ok(self.srv.get(name).cloned().unwrap_or_default())
            })
        }
    }

    fn srv(priority: u16, target: &str, port: u16) -> SrvRecord {
        SrvRecord { priority, weight: 0, port, target: target.to_owned() }
    }

    async fn addresses(dns: &FakeDns) -> Vec<String> {
        let found = matrix_server_addresses(dns, "example.org").await.expect("addresses");
        found.iter().map(ToString::to_string).collect()
    }

    #[tokio::test]
    async fn current_srv_name_comes_before_the_old_one_and_the_default_port() {
        let mut dns = FakeDns {
            hosts: HashMap::from([
                ("example.org", "1.0.0.1"),
                ("a.example.org", "1.0.0.2"),
                ("b.example.org", "1.0.0.3"),
            ]),
            srv: HashMap::from([
                ("_matrix-fed._tcp.example.org", vec![srv(20, "b.example.org.", 2), srv(10, "a.example.org.", 1)]),
                ("_matrix._tcp.example.org", vec![srv(0, "b.example.org", 3)]),
            ]),
            srv_fails: false,
        };
        assert_eq!(addresses(&dns).await, ["1.0.0.2:1", "1.0.0.3:2"]);
        dns.srv.remove("_matrix-fed._tcp.example.org");
        assert_eq!(addresses(&dns).await, ["1.0.0.3:3"]);
        dns.srv.clear();
        assert_eq!(addresses(&dns).await, ["1.0.0.1:8448"]);
    }

    #[tokio::test]
    async fn failing_srv_lookup_counts_as_no_records() {
        let dns = FakeDns { hosts: HashMap::from([("example.org", "1.0.0.1")]), srv_fails: true, ..FakeDns::default() };
        assert_eq!(addresses(&dns).await, ["1.0.0.1:8448"]);
    }

    #[tokio::test]
    async fn unreachable_srv_target_leaves_the_others() {
        let dns = FakeDns {
            hosts: HashMap::from([("b.example.org", "1.0.0.3")]),
            srv: HashMap::from([(
                "_matrix-fed._tcp.example.org",
                vec![srv(1, "gone.example.org", 1), srv(2, "b.example.org", 2)],
            )]),
            srv_fails: false,
        };
        assert_eq!(addresses(&dns).await, ["1.0.0.3:2"]);
    }

    #[tokio::test]
    async fn machine_knows_itself_without_asking_a_name_server() {
        let found = SystemDns::new().lookup_ip("LocalHost.").await.expect("an address");
        assert!(found.iter().all(IpAddr::is_loopback), "{found:?}");
    }

    #[test]
    fn hosts_file_is_read_with_comments_aliases_and_case() {
        let entries = parse_hosts(
            "127.0.0.1 localhost # comment\n#1.1.1.1 no\n172.17.0.1\tHost.Docker.Internal hs1\n::1 localhost\nbad x",
        );
        assert_eq!(entries.get("host.docker.internal").map(Vec::len), Some(1));
        assert_eq!(entries.get("hs1"), entries.get("host.docker.internal"));
        assert_eq!(entries.get("localhost").map(Vec::len), Some(2));
        assert_eq!(entries.len(), 3);
    }
}
