//! [`Certs`]: a certificates folder, renewed when its files change.

use std::{
    fmt, fs,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

use rustls::{
    CertificateError, ClientConfig, Error, RootCertStore, ServerConfig,
    client::{WebPkiServerVerifier, danger::ServerCertVerifier, verify_server_name},
    pki_types::{PrivateKeyDer, ServerName, UnixTime, pem, pem::PemObject},
    server::{ClientHello, ParsedCertificate, ResolvesServerCert},
    sign::CertifiedKey,
};
use time::OffsetDateTime;

use crate::{
    H2, HTTP_1, TlsError, provider,
    roots::{certificates, host_name, read, trust, trusting},
};

/// The node's certificate, within the folder.
pub const CERTIFICATE: &str = "public.crt";

/// Its key.
pub const KEY: &str = "private.key";

/// The folder of the authorities' certificates.
pub const AUTHORITIES: &str = "CAs";

/// Files of authorities at most.
const AUTHORITY_FILES_MAX: usize = 256;

/// A certificates folder. What its files say is in force from [`Certs::open`] or the last
/// [`Certs::reload`] that succeeded.
pub struct Certs {
    dir: PathBuf,
    current: RwLock<Arc<Loaded>>,
}

/// The files' bytes: what changes are told by.
#[derive(PartialEq, Eq)]
struct Files {
    certificate: Vec<u8>,
    key: Vec<u8>,
    authorities: Vec<(PathBuf, Vec<u8>)>,
}

/// What the files mean.
struct Loaded {
    files: Files,
    key: Arc<CertifiedKey>,
    /// For connections to peers; `None` without authorities.
    client: Option<Arc<ClientConfig>>,
}

impl fmt::Debug for Certs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Certs({})", self.dir.display())
    }
}

impl Certs {
    /// Reads and checks the folder.
    ///
    /// # Errors
    /// [`TlsError`] for the first thing that is wrong.
    pub fn open(dir: &Path) -> Result<Arc<Self>, TlsError> {
        let loaded = Loaded::of(dir, Files::read(dir)?)?;
        Ok(Arc::new(Self { dir: dir.to_owned(), current: RwLock::new(Arc::new(loaded)) }))
    }

    /// The folder.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Reads the files again; whether they were others than before. Connections made from now on see
    /// them.
    ///
    /// # Errors
    /// [`TlsError`] for the first thing that is wrong; what was in force stays so.
    pub fn reload(&self) -> Result<bool, TlsError> {
        let files = Files::read(&self.dir)?;
        if files == self.current().files {
            return Ok(false);
        }
        let loaded = Arc::new(Loaded::of(&self.dir, files)?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = loaded;
        Ok(true)
    }

    /// A server's configuration: TLS 1.2 and 1.3, resumption by tickets. It takes part in renewals by
    /// itself. HTTP/1.1 goes first: a client that has both gets a connection for each request in
    /// flight, so that large bodies do not stand in each other's way; peers offer nothing but HTTP/2.
    #[must_use]
    pub fn server_config(self: &Arc<Self>) -> Arc<ServerConfig> {
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_safe_default_protocol_versions()
            .expect("ring has suites for TLS 1.2 and 1.3")
            .with_no_client_auth()
            .with_cert_resolver(self.clone());
        config.alpn_protocols = vec![HTTP_1.to_vec(), H2.to_vec()];
        // Tickets cost the server no memory; without one (no randomness?) sessions are just not resumed.
        if let Ok(ticketer) = rustls::crypto::ring::Ticketer::new() {
            config.ticketer = ticketer;
        }
        Arc::new(config)
    }

    /// The configuration for connections to peers.
    ///
    /// # Errors
    /// [`TlsError::NoAuthorities`] when the folder has none.
    pub fn client_config(&self) -> Result<Arc<ClientConfig>, TlsError> {
        let path = self.dir.join(AUTHORITIES);
        self.current().client.clone().ok_or(TlsError::NoAuthorities { path })
    }

    /// Checks that the certificate is for `host`, by which peers reach this node.
    ///
    /// # Errors
    /// [`TlsError::OtherName`] when it is not.
    pub fn check_name(&self, host: &str) -> Result<(), TlsError> {
        let name = host_name(host)?;
        let key = self.current().key.clone();
        let parsed = key.cert.first().map(ParsedCertificate::try_from);
        let fits = parsed
            .is_some_and(|parsed| parsed.is_ok_and(|own| verify_server_name(&own, &name).is_ok()));
        let path = self.dir.join(CERTIFICATE);
        if fits { Ok(()) } else { Err(TlsError::OtherName { path, host: host.to_owned() }) }
    }

    /// When the certificate expires, if that is within `time` from now.
    #[must_use]
    pub fn expires_within(&self, time: Duration) -> Option<String> {
        let then =
            UnixTime::since_unix_epoch(Duration::from_secs(UnixTime::now().as_secs()) + time);
        match check_time(&self.dir.join(CERTIFICATE), &self.current().key, then) {
            Err(TlsError::Untimely { at, .. }) => Some(at),
            _ => None,
        }
    }

    fn current(&self) -> Arc<Loaded> {
        self.current.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl ResolvesServerCert for Certs {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(self.current().key.clone())
    }
}

impl Files {
    fn read(dir: &Path) -> Result<Self, TlsError> {
        Ok(Self {
            certificate: read(&dir.join(CERTIFICATE))?,
            key: read(&dir.join(KEY))?,
            authorities: authorities(&dir.join(AUTHORITIES))?,
        })
    }
}

/// The files of the authorities' folder in order of their names; none when it is not there.
fn authorities(dir: &Path) -> Result<Vec<(PathBuf, Vec<u8>)>, TlsError> {
    let unreadable = |cause: String| TlsError::Unreadable { path: dir.to_owned(), cause };
    let entries = match fs::read_dir(dir) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Vec::new()),
        other => other.map_err(|error| unreadable(error.to_string()))?,
    };
    let mut paths = Vec::new();
    for entry in entries {
        let path = entry.map_err(|error| unreadable(error.to_string()))?.path();
        // Kubernetes and editors keep hidden entries of their own beside the files.
        let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
        if !hidden && path.is_file() {
            paths.push(path);
        }
    }
    if paths.len() > AUTHORITY_FILES_MAX {
        return Err(unreadable(format!("{} files are too many", paths.len())));
    }
    paths.sort();
    paths.into_iter().map(|path| read(&path).map(|bytes| (path, bytes))).collect()
}

impl Loaded {
    fn of(dir: &Path, files: Files) -> Result<Self, TlsError> {
        let key = Arc::new(identity(dir, &files)?);
        check_time(&dir.join(CERTIFICATE), &key, UnixTime::now())?;
        let mut store = RootCertStore::empty();
        for (path, pem) in &files.authorities {
            trust(&mut store, path, pem)?;
        }
        let client = (!store.is_empty()).then(|| trusting(store, &[H2]));
        Ok(Self { files, key, client })
    }
}

/// Certificate and key, which belong together.
fn identity(dir: &Path, files: &Files) -> Result<CertifiedKey, TlsError> {
    let (certificate, key) = (dir.join(CERTIFICATE), dir.join(KEY));
    let chain = certificates(&certificate, &files.certificate)?;
    let no_key = |cause: String| TlsError::NoKey { path: key.clone(), cause };
    let private = PrivateKeyDer::from_pem_slice(&files.key).map_err(|error| {
        let encrypted = files.key.windows(9).any(|word| word == b"ENCRYPTED");
        match error {
            pem::Error::NoItemsFound if encrypted => no_key("it is encrypted".to_owned()),
            other => no_key(other.to_string()),
        }
    })?;
    CertifiedKey::from_der(chain, private, &provider()).map_err(|error| match error {
        Error::InconsistentKeys(_) => {
            TlsError::Mismatch { certificate: certificate.clone(), key: key.clone() }
        }
        Error::InvalidCertificate(why) => {
            TlsError::NoCertificate { path: certificate.clone(), cause: why.to_string() }
        }
        other => no_key(other.to_string()),
    })
}

/// Whether the node's certificate is valid at `time`. A verifier looks at that before it looks for an
/// issuer, so what it thinks of the issuer (trust nobody but the certificate itself) does not matter.
fn check_time(path: &Path, key: &CertifiedKey, time: UnixTime) -> Result<(), TlsError> {
    let Some(own) = key.cert.first() else { return Ok(()) };
    let mut store = RootCertStore::empty();
    let malformed = |cause: String| TlsError::NoCertificate { path: path.to_owned(), cause };
    store.add(own.clone()).map_err(|error| malformed(error.to_string()))?;
    let verifier = WebPkiServerVerifier::builder_with_provider(Arc::new(store), provider())
        .build()
        .map_err(|error| malformed(error.to_string()))?;
    let name = ServerName::try_from("any.name").expect("a name");
    let verdict = verifier.verify_server_cert(own, &[], &name, &[], time);
    let untimely = |state, at: Option<UnixTime>| {
        Err(TlsError::Untimely { path: path.to_owned(), state, at: day(at) })
    };
    match verdict {
        Err(Error::InvalidCertificate(why)) => match why {
            CertificateError::Expired => untimely("expired on", None),
            CertificateError::ExpiredContext { not_after, .. } => {
                untimely("expired on", Some(not_after))
            }
            CertificateError::NotValidYet => untimely("is valid only from", None),
            CertificateError::NotValidYetContext { not_before, .. } => {
                untimely("is valid only from", Some(not_before))
            }
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}

fn day(at: Option<UnixTime>) -> String {
    let at = at.and_then(|at| OffsetDateTime::from_unix_timestamp(at.as_secs() as i64).ok());
    at.map_or("an unknown day".to_owned(), |at| at.date().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Authority;

    const DAY: Duration = Duration::from_secs(86_400);

    /// Goal: every kind of bad folder is refused with cause and cure, and a good one taken. Method: a
    /// good folder, damaged in each way.
    #[test]
    fn bad_folders_are_refused_with_cause_and_cure() {
        let dir = tempfile::tempdir().expect("a folder");
        let dir = dir.path();
        let authority = Authority::new();
        let good = authority.issue(&["localhost", "127.0.0.1", "::1"], 30);
        let refused = |why: &str| {
            let error = Certs::open(dir).expect_err(why);
            let text = format!("{error} / {}", error.cure());
            assert!(text.contains(why) && !error.cure().is_empty(), "{why}: {text}");
            assert!(text.contains(&dir.display().to_string()), "{text}");
        };
        refused("No such file");
        let put = |name: &str, text: &str| fs::write(dir.join(name), text).expect("written");
        put(CERTIFICATE, &good.certificate);
        refused(KEY);
        put(
            KEY,
            "-----BEGIN ENCRYPTED PRIVATE KEY-----\nAA==\n-----END ENCRYPTED PRIVATE KEY-----\n",
        );
        refused("it is encrypted");
        put(KEY, &good.certificate);
        refused("no private key");
        put(KEY, &authority.issue(&["localhost"], 30).key);
        refused("is not that of");
        put(KEY, &good.key);
        put(CERTIFICATE, "rubbish");
        refused("no PEM certificate");
        put(CERTIFICATE, "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
        refused("no PEM certificate");
        let old = authority.issue(&["localhost"], -3);
        put(CERTIFICATE, &old.certificate);
        put(KEY, &old.key);
        refused("expired on 2");
        good.write(dir, &authority).expect("written");
        put("CAs/other.crt", "rubbish");
        refused("other.crt");
        fs::remove_file(dir.join("CAs/other.crt")).expect("removed");
        put("CAs/.hidden", "rubbish");
        let certs = Certs::open(dir).expect("a good folder");
        assert!(certs.client_config().is_ok());
        assert_eq!(
            (certs.check_name("localhost"), certs.check_name("127.0.0.1")),
            (Ok(()), Ok(()))
        );
        assert_eq!(certs.check_name("::1"), Ok(()));
        assert!(matches!(certs.check_name("n1"), Err(TlsError::OtherName { .. })));
        assert!(certs.expires_within(DAY * 7).is_none());
        assert!(certs.expires_within(DAY * 60).is_some());
        fs::remove_dir_all(dir.join(AUTHORITIES)).expect("removed");
        let alone = Certs::open(dir).expect("a single node trusts nobody");
        assert!(matches!(alone.client_config(), Err(TlsError::NoAuthorities { .. })));
    }

    /// Goal: a renewed certificate is in force without a restart, a broken one changes nothing. Method:
    /// reload unchanged, renewed, broken files.
    #[test]
    fn renewed_files_are_taken_over_and_broken_ones_are_not() {
        let dir = tempfile::tempdir().expect("a folder");
        let authority = Authority::new();
        authority.issue(&["localhost"], 30).write(dir.path(), &authority).expect("written");
        let certs = Certs::open(dir.path()).expect("good");
        let shown = |certs: &Certs| certs.current().key.cert[0].clone();
        let first = shown(&certs);
        assert_eq!(certs.reload(), Ok(false));
        authority.issue(&["localhost"], 60).write(dir.path(), &authority).expect("written");
        assert_eq!(certs.reload(), Ok(true));
        let second = shown(&certs);
        assert_ne!(second, first);
        fs::write(dir.path().join(KEY), "half a ke").expect("written");
        assert!(certs.reload().is_err());
        assert_eq!(shown(&certs), second);
    }
}
