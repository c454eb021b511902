//! Certificates: loading this server's from PEM files, loading them again while running, and issuing them from
//! an authority of one's own. Public authorities (ACME) are left to the tools that renew `tls.certificate`.

use std::{
    fs, io,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use chappe_services::secret::Secret;
use parking_lot::RwLock;
use rcgen::{
    BasicConstraints, CertificateParams, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    SanType,
};
use ruma::ServerName;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    server::{ClientHello, ParsedCertificate, ResolvesServerCert, VerifierBuilderError, WebPkiClientVerifier},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, pem::PemObject};

use crate::config::TlsSection;

/// Days for which a certificate issued at the start of a test rig is valid.
const ISSUED_AT_START_DAYS: u32 = 30;

/// Years for which a certification authority made by `chappe tls authority` is valid.
const AUTHORITY_DAYS: u32 = 3650;

/// Clocks of peers may run behind by this much.
const CLOCK_SKEW: Duration = Duration::from_secs(24 * 3600);

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("{key}: {}: {error}", .path.display())]
    Pem { key: &'static str, path: PathBuf, error: rustls_pki_types::pem::Error },
    #[error("{key}: {}: found no certificate in it; allowed: a PEM file with at least one", .path.display())]
    NoCertificate { key: &'static str, path: PathBuf },
    #[error("tls.private_key: the key does not fit the certificate, or is of no supported kind: {0}")]
    Key(rustls::Error),
    #[error("tls.client_roots: {0}")]
    ClientRoots(#[from] VerifierBuilderError),
    #[error("{}: {error}", .path.display())]
    File { path: PathBuf, error: io::Error },
    #[error("the certification authority cannot issue a certificate: {0}")]
    Issue(#[from] rcgen::Error),
    #[error("{}: found something else than a private key in PEM: {error}", .path.display())]
    AuthorityKey { path: PathBuf, error: rcgen::Error },
}

/// Chooses the implementation of cryptography for the whole process; before any TLS is spoken.
pub fn install_provider() {
    // Fails only when one is installed already, which is then the same.
    let _ = aws_lc_rs::default_provider().install_default();
}

/// This server's side of TLS. Cloning shares the certificate, which can be replaced while in use.
#[derive(Clone, Debug)]
pub struct ServerTls {
    section: TlsSection,
    current: Arc<CurrentCertificate>,
    config: Arc<ServerConfig>,
}

impl ServerTls {
    /// Loads or issues the certificate, `None` when none is configured.
    pub fn load(section: &TlsSection, server_name: &ServerName, now_ms: u64) -> Result<Option<Self>, TlsError> {
        let Some(key) = certified_key(section, server_name, now_ms)? else { return Ok(None) };
        let current = Arc::new(CurrentCertificate(RwLock::new(Arc::new(key))));
        let builder = match client_roots(section)? {
            None => ServerConfig::builder().with_no_client_auth(),
            Some(roots) => {
                let verifier = WebPkiClientVerifier::builder(Arc::new(roots));
                let verifier = match section.require_client_certificate {
                    true => verifier,
                    false => verifier.allow_unauthenticated(),
                };
                ServerConfig::builder().with_client_cert_verifier(verifier.build()?)
            }
        };
        let mut config = builder.with_cert_resolver(current.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        Ok(Some(Self { section: section.clone(), current, config: Arc::new(config) }))
    }

    /// Reads the files again; connections made from now on use what they hold. On error the old one stays.
    pub fn reload(&self, server_name: &ServerName, now_ms: u64) -> Result<(), TlsError> {
        if let Some(key) = certified_key(&self.section, server_name, now_ms)? {
            *self.current.0.write() = Arc::new(key);
        }
        Ok(())
    }

    pub fn acceptor(&self) -> tokio_rustls::TlsAcceptor {
        tokio_rustls::TlsAcceptor::from(self.config.clone())
    }
}

#[derive(Debug)]
struct CurrentCertificate(RwLock<Arc<CertifiedKey>>);

impl ResolvesServerCert for CurrentCertificate {
    fn resolve(&self, _client_hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.0.read().clone())
    }
}

fn certified_key(
    section: &TlsSection,
    server_name: &ServerName,
    now_ms: u64,
) -> Result<Option<CertifiedKey>, TlsError> {
    let (chain, key) = if let (Some(certificate), Some(key)) = (&section.certificate, &section.private_key) {
        let chain = read_certificates("tls.certificate", certificate)?;
        let key = PrivateKeyDer::from_pem_file(key).map_err(pem_error("tls.private_key", key))?;
        (chain, key)
    } else if let (Some(certificate), Some(key)) = (&section.issue_from_ca_certificate, &section.issue_from_ca_key) {
        let names = [server_name.host().to_owned()];
        let issued = issue(certificate, key, &names, ISSUED_AT_START_DAYS, now_ms)?;
        let mut chain = vec![issued.certificate];
        chain.extend(read_certificates("tls.issue_from_ca_certificate", certificate)?);
        (chain, PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(issued.key.serialize_der())))
    } else {
        return Ok(None);
    };
    let provider: &CryptoProvider = &aws_lc_rs::default_provider();
    CertifiedKey::from_der(chain, key, provider).map(Some).map_err(TlsError::Key)
}

/// The PEM texts of `tls.extra_roots`, each checked to hold a certificate, for the outgoing connector.
pub fn read_extra_roots(section: &TlsSection) -> Result<Vec<Vec<u8>>, TlsError> {
    let mut roots = Vec::new();
    for path in &section.extra_roots {
        read_certificates("tls.extra_roots", path)?;
        roots.push(read_text(path)?.into_bytes());
    }
    Ok(roots)
}

/// The PEM text of the certificate and the key that other servers are shown, checked to fit each other; `None` when none is configured.
pub fn read_client_identity(section: &TlsSection) -> Result<Option<Secret>, TlsError> {
    let (Some(certificate), Some(key)) = (&section.client_certificate, &section.client_private_key) else {
        return Ok(None);
    };
    let chain = read_certificates("tls.client_certificate", certificate)?;
    let parsed = PrivateKeyDer::from_pem_file(key).map_err(pem_error("tls.client_private_key", key))?;
    CertifiedKey::from_der(chain, parsed, &aws_lc_rs::default_provider()).map_err(TlsError::Key)?;
    Ok(Some(Secret::new(format!("{}\n{}", read_text(certificate)?, read_text(key)?))))
}

/// Whether a certificate, which has been verified, is that of a server: its host is among the certificate's names.
pub fn is_certificate_of(certificate: &CertificateDer<'_>, server: &ServerName) -> bool {
    let host = server.host().trim_start_matches('[').trim_end_matches(']');
    let Ok(name) = rustls_pki_types::ServerName::try_from(host) else { return false };
    ParsedCertificate::try_from(certificate)
        .and_then(|certificate| rustls::client::verify_server_name(&certificate, &name))
        .is_ok()
}

fn client_roots(section: &TlsSection) -> Result<Option<RootCertStore>, TlsError> {
    if section.client_roots.is_empty() {
        return Ok(None);
    }
    let mut roots = RootCertStore::empty();
    for path in &section.client_roots {
        for certificate in read_certificates("tls.client_roots", path)? {
            roots.add(certificate).map_err(TlsError::Key)?;
        }
    }
    Ok(Some(roots))
}

fn read_certificates(key: &'static str, path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let certificates = CertificateDer::pem_file_iter(path).map_err(pem_error(key, path))?;
    let certificates = certificates.collect::<Result<Vec<_>, _>>().map_err(pem_error(key, path))?;
    if certificates.is_empty() {
        return Err(TlsError::NoCertificate { key, path: path.to_owned() });
    }
    Ok(certificates)
}

fn pem_error(key: &'static str, path: &Path) -> impl FnOnce(rustls_pki_types::pem::Error) -> TlsError {
    let path = path.to_owned();
    move |error| TlsError::Pem { key, path, error }
}

struct Issued {
    certificate: CertificateDer<'static>,
    certificate_pem: String,
    key: KeyPair,
}

/// Issues a certificate for `names`, host names or addresses, valid from yesterday for `days`.
fn issue(ca_certificate: &Path, ca_key: &Path, names: &[String], days: u32, now_ms: u64) -> Result<Issued, TlsError> {
    let authority_key = KeyPair::from_pem(&read_text(ca_key)?)
        .map_err(|error| TlsError::AuthorityKey { path: ca_key.to_owned(), error })?;
    let issuer = Issuer::from_ca_cert_pem(&read_text(ca_certificate)?, authority_key)?;

    let mut params = CertificateParams::default();
    for name in names {
        let bare = name.trim_start_matches('[').trim_end_matches(']');
        params.subject_alt_names.push(match bare.parse::<IpAddr>() {
            Ok(address) => SanType::IpAddress(address),
            Err(_) => SanType::DnsName(name.as_str().try_into()?),
        });
    }
    if let Some(first) = names.first() {
        params.distinguished_name.push(DnType::CommonName, first.as_str());
    }
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    set_validity(&mut params, days, now_ms);

    let key = KeyPair::generate()?;
    let certificate = params.signed_by(&key, &issuer)?;
    Ok(Issued { certificate: certificate.der().clone(), certificate_pem: certificate.pem(), key })
}

fn set_validity(params: &mut CertificateParams, days: u32, now_ms: u64) {
    let now = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_millis(now_ms);
    params.not_before = now - CLOCK_SKEW;
    params.not_after = now + Duration::from_secs(u64::from(days) * 24 * 3600);
}

/// Writes a server's certificate and key, issued from an authority.
pub fn write_issued(
    (ca_certificate, ca_key): (&Path, &Path),
    names: &[String],
    days: u32,
    now_ms: u64,
    (out_certificate, out_key): (&Path, &Path),
) -> Result<(), TlsError> {
    let issued = issue(ca_certificate, ca_key, names, days, now_ms)?;
    write_private(out_key, &issued.key.serialize_pem())?;
    write_text(out_certificate, &issued.certificate_pem)
}

/// Writes a new certification authority: its certificate and its key.
pub fn write_authority(name: &str, now_ms: u64, out_certificate: &Path, out_key: &Path) -> Result<(), TlsError> {
    let mut params = CertificateParams::default();
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    set_validity(&mut params, AUTHORITY_DAYS, now_ms);
    let key = KeyPair::generate()?;
    let certificate = params.self_signed(&key)?;
    write_private(out_key, &key.serialize_pem())?;
    write_text(out_certificate, &certificate.pem())
}

fn read_text(path: &Path) -> Result<String, TlsError> {
    fs::read_to_string(path).map_err(|error| TlsError::File { path: path.to_owned(), error })
}

fn write_text(path: &Path, text: &str) -> Result<(), TlsError> {
    fs::write(path, text).map_err(|error| TlsError::File { path: path.to_owned(), error })
}

/// Writes a file that only its owner may read, from its first byte on.
fn write_private(path: &Path, text: &str) -> Result<(), TlsError> {
    use std::{io::Write, os::unix::fs::OpenOptionsExt};
    let write = || -> io::Result<()> {
        let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)?;
        file.write_all(text.as_bytes())?;
        file.sync_all()
    };
    write().map_err(|error| TlsError::File { path: path.to_owned(), error })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 1_790_000_000_000;

    struct Authority {
        dir: tempfile::TempDir,
    }

    impl Authority {
        fn new() -> Self {
            install_provider();
            let dir = tempfile::tempdir().expect("a temporary directory");
            write_authority("Test", NOW_MS, &dir.path().join("ca.crt"), &dir.path().join("ca.key"))
                .expect("an authority");
            Self { dir }
        }

        fn path(&self, name: &str) -> PathBuf {
            self.dir.path().join(name)
        }
    }

    /// Lets a client that trusts only `root` verify the chain for `name`.
    fn check_trusted(root: &Path, chain: &[CertificateDer<'static>], name: &str) -> Result<(), rustls::Error> {
        use rustls::client::{WebPkiServerVerifier, danger::ServerCertVerifier};
        let mut roots = RootCertStore::empty();
        for certificate in read_certificates("test", root).expect("readable") {
            roots.add(certificate).expect("a root");
        }
        let verifier = WebPkiServerVerifier::builder(Arc::new(roots)).build().expect("a verifier");
        let now = rustls_pki_types::UnixTime::since_unix_epoch(Duration::from_millis(NOW_MS));
        let name = rustls_pki_types::ServerName::try_from(name.to_owned()).expect("a name");
        verifier.verify_server_cert(&chain[0], &chain[1..], &name, &[], now).map(drop)
    }

    #[test]
    fn an_issued_certificate_is_trusted_for_its_name_only() {
        let authority = Authority::new();
        let names = ["agence.example".to_owned(), "192.0.2.7".to_owned()];
        write_issued(
            (&authority.path("ca.crt"), &authority.path("ca.key")),
            &names,
            7,
            NOW_MS,
            (&authority.path("leaf.crt"), &authority.path("leaf.key")),
        )
        .expect("issued");
        let chain = read_certificates("test", &authority.path("leaf.crt")).expect("readable");
        assert_eq!(check_trusted(&authority.path("ca.crt"), &chain, "agence.example"), Ok(()));
        assert_eq!(check_trusted(&authority.path("ca.crt"), &chain, "192.0.2.7"), Ok(()));
        assert!(check_trusted(&authority.path("ca.crt"), &chain, "other.example").is_err());
    }

    #[test]
    fn a_test_rig_issues_its_certificate_at_start_for_a_name_without_dots() {
        let authority = Authority::new();
        let section = TlsSection {
            issue_from_ca_certificate: Some(authority.path("ca.crt")),
            issue_from_ca_key: Some(authority.path("ca.key")),
            ..TlsSection::default()
        };
        let name = ruma::owned_server_name!("hs1:8448");
        let key = certified_key(&section, &name, NOW_MS).expect("issued").expect("configured");
        assert_eq!(check_trusted(&authority.path("ca.crt"), &key.cert, "hs1"), Ok(()));
    }

    #[test]
    fn private_keys_are_readable_by_their_owner_only() {
        use std::os::unix::fs::PermissionsExt;
        let authority = Authority::new();
        let mode = fs::metadata(authority.path("ca.key")).expect("exists").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }

    #[test]
    fn a_key_of_another_certificate_is_refused() {
        let (one, other) = (Authority::new(), Authority::new());
        let section = TlsSection {
            certificate: Some(one.path("ca.crt")),
            private_key: Some(other.path("ca.key")),
            ..TlsSection::default()
        };
        let refused = ServerTls::load(&section, &ruma::owned_server_name!("a.example"), NOW_MS);
        assert!(matches!(refused, Err(TlsError::Key(_))));
    }

    #[test]
    fn without_certificate_there_is_no_tls() {
        let section = TlsSection::default();
        assert!(ServerTls::load(&section, &ruma::owned_server_name!("a.example"), NOW_MS).expect("fine").is_none());
    }
}
