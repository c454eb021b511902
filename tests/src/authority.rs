//! A throwaway certification authority.

use std::{fs, path::PathBuf};

use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};

use crate::Failure;

pub struct Authority {
    directory: PathBuf,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes an authority whose certificate lies in `directory`.
    pub fn create(directory: PathBuf) -> Result<Self, Failure> {
        let key = KeyPair::generate()?;
        let mut params = CertificateParams::new(Vec::new())?;
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.distinguished_name.push(DnType::CommonName, "Throwaway test authority");
        fs::write(directory.join("ca.pem"), params.self_signed(&key)?.pem())?;
        Ok(Self { directory, issuer: Issuer::new(params, key) })
    }

    /// The authority's own certificate, as PEM.
    pub fn certificate(&self) -> PathBuf {
        self.directory.join("ca.pem")
    }

    /// Issues a certificate for a host name: the files of the certificate and of its private key.
    pub fn issue(&self, host: &str) -> Result<(PathBuf, PathBuf), Failure> {
        let key = KeyPair::generate()?;
        let certificate = CertificateParams::new(vec![host.to_owned()])?.signed_by(&key, &self.issuer)?;
        let (certificate_file, key_file) =
            (self.directory.join(format!("{host}.pem")), self.directory.join(format!("{host}.key")));
        fs::write(&certificate_file, certificate.pem())?;
        fs::write(&key_file, key.serialize_pem())?;
        Ok((certificate_file, key_file))
    }
}
