//! An authority and certificates of its own, made on the spot: for test clusters, never for others.

use std::{fs, io, path::Path};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    KeyPair, KeyUsagePurpose,
};
use time::{Duration, OffsetDateTime};

use crate::certs::{AUTHORITIES, CERTIFICATE, KEY};

/// An authority with a fresh key.
pub struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate and its key, in PEM.
pub struct Issued {
    /// The certificate.
    pub certificate: String,
    /// The key.
    pub key: String,
}

impl Default for Authority {
    fn default() -> Self {
        Self::new()
    }
}

impl Authority {
    /// A new authority.
    #[must_use]
    pub fn new() -> Self {
        let mut params = params(&[], 3650);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        params.distinguished_name.push(DnType::CommonName, "Holdfast test authority");
        Self(CertifiedIssuer::self_signed(params, key()).expect("the parameters are sound"))
    }

    /// Its certificate in PEM.
    #[must_use]
    pub fn pem(&self) -> String {
        self.0.pem()
    }

    /// Issues a certificate for `hosts` that is valid for `days` from yesterday; expired when negative.
    #[must_use]
    pub fn issue(&self, hosts: &[&str], days: i64) -> Issued {
        let mut params = params(hosts, days);
        params.extended_key_usages =
            vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.distinguished_name.push(DnType::CommonName, "Holdfast test node");
        let key = key();
        let certificate = params.signed_by(&key, &self.0).expect("the parameters are sound");
        Issued { certificate: certificate.pem(), key: key.serialize_pem() }
    }
}

impl Issued {
    /// Writes a certificates folder that trusts `authority`.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub fn write(&self, dir: &Path, authority: &Authority) -> io::Result<()> {
        fs::create_dir_all(dir.join(AUTHORITIES))?;
        fs::write(dir.join(AUTHORITIES).join("ca.crt"), authority.pem())?;
        fs::write(dir.join(KEY), &self.key)?;
        fs::write(dir.join(CERTIFICATE), &self.certificate)
    }
}

fn key() -> KeyPair {
    KeyPair::generate().expect("ring makes keys")
}

fn params(hosts: &[&str], days: i64) -> CertificateParams {
    let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let mut params = CertificateParams::new(hosts).expect("hosts are names or addresses");
    let now = OffsetDateTime::now_utc();
    let first = now - Duration::days(1);
    params.not_after = first + Duration::days(days);
    params.not_before = first.min(params.not_after - Duration::days(1));
    params
}
