//! Authorities, and the client's configuration that trusts them and nobody else.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, ServerName, pem::PemObject},
};

use crate::{TlsError, provider};

/// Bytes of a PEM file at most: the bundle of a whole operating system has a quarter of that.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Where operating systems keep the authorities they trust: Debian, Red Hat, Alpine.
const SYSTEM_BUNDLES: [&str; 3] =
    ["/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem"];

/// Reads a whole file of bounded size.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, TlsError> {
    let unreadable = |cause: String| TlsError::Unreadable { path: path.to_owned(), cause };
    let length = fs::metadata(path).map_err(|error| unreadable(error.to_string()))?.len();
    if length > FILE_BYTES_MAX {
        return Err(unreadable(format!("{length} bytes are too many for a PEM file")));
    }
    fs::read(path).map_err(|error| unreadable(error.to_string()))
}

/// The certificates of a PEM text, in order; at least one.
pub(crate) fn certificates(
    path: &Path,
    pem: &[u8],
) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let none = |cause: String| TlsError::NoCertificate { path: path.to_owned(), cause };
    let read: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match read {
        Err(error) => Err(none(error.to_string())),
        Ok(none_there) if none_there.is_empty() => Err(none("no such section".to_owned())),
        Ok(some) => Ok(some),
    }
}

/// Adds a file's certificates to those trusted.
pub(crate) fn trust(store: &mut RootCertStore, path: &Path, pem: &[u8]) -> Result<(), TlsError> {
    for certificate in certificates(path, pem)? {
        store.add(certificate).map_err(|error| TlsError::NoCertificate {
            path: path.to_owned(),
            cause: error.to_string(),
        })?;
    }
    Ok(())
}

/// A client's configuration that trusts the authorities of one PEM file; those of the operating system
/// when none is named. `alpn`: the protocols it offers.
///
/// # Errors
/// [`TlsError`] when the file cannot be read or holds no certificate.
pub fn client_config(ca: Option<&Path>, alpn: &[&[u8]]) -> Result<Arc<ClientConfig>, TlsError> {
    let mut store = RootCertStore::empty();
    match ca {
        Some(path) => trust(&mut store, path, &read(path)?)?,
        None => {
            let bundles = || SYSTEM_BUNDLES.iter().map(PathBuf::from);
            let path = bundles().find(|path| path.exists());
            let path = path.ok_or_else(|| TlsError::NoAuthorities {
                path: PathBuf::from(SYSTEM_BUNDLES[0]),
            })?;
            let pem = read(&path)?;
            // One odd certificate of hundreds is no reason to trust none.
            store.add_parsable_certificates(certificates(&path, &pem)?);
        }
    }
    Ok(trusting(store, alpn))
}

pub(crate) fn trusting(store: RootCertStore, alpn: &[&[u8]]) -> Arc<ClientConfig> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_safe_default_protocol_versions()
        .expect("ring has suites for TLS 1.2 and 1.3")
        .with_root_certificates(store)
        .with_no_client_auth();
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    Arc::new(config)
}

/// The name that a server's certificate has to be for: the host of an `authority`, without port and
/// brackets.
///
/// # Errors
/// [`TlsError::Name`] when it is none.
pub fn server_name(authority: &str) -> Result<ServerName<'static>, TlsError> {
    let host = match authority.rsplit_once(':') {
        Some((host, port)) if !port.ends_with(']') => host,
        _ => authority,
    };
    host_name(host.trim_start_matches('[').trim_end_matches(']'))
}

/// A host's name or address, without port and brackets, as certificates have it.
///
/// # Errors
/// [`TlsError::Name`] when it is none.
pub fn host_name(host: &str) -> Result<ServerName<'static>, TlsError> {
    ServerName::try_from(host.to_owned()).map_err(|_| TlsError::Name { host: host.to_owned() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_from_authorities() {
        let name = |authority| server_name(authority).map(|name| name.to_str().into_owned());
        assert_eq!(name("node1:9000"), Ok("node1".to_owned()));
        assert_eq!(name("10.0.0.1:9000"), Ok("10.0.0.1".to_owned()));
        assert_eq!(name("[::1]:9000"), Ok("::1".to_owned()));
        assert_eq!(name("[::1]"), Ok("::1".to_owned()));
        assert!(matches!(server_name("no host"), Err(TlsError::Name { .. })));
    }

    /// Goal: a client trusts what it is told to or says why not. Method: no file, no certificate, too
    /// large a file, a good one.
    #[test]
    fn authorities_come_from_a_file() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("ca");
        let config = || client_config(Some(&path), &[crate::H2]);
        assert!(matches!(config(), Err(TlsError::Unreadable { .. })));
        fs::write(&path, "nothing").expect("written");
        assert!(matches!(config(), Err(TlsError::NoCertificate { .. })));
        fs::write(&path, vec![b'x'; 2 << 20]).expect("written");
        assert!(matches!(config(), Err(TlsError::Unreadable { .. })));
        fs::write(&path, crate::testing::Authority::new().pem()).expect("written");
        assert_eq!(config().expect("trusted").alpn_protocols, [b"h2".to_vec()]);
    }
}
