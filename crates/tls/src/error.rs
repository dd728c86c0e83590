//! Why there is no TLS: one line of cause, one of cure.

use std::path::PathBuf;

/// What is wrong with the files.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TlsError {
    /// A file or folder cannot be read.
    #[error("read {}: {cause}", .path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        cause: String,
    },
    /// A file holds no certificate.
    #[error("read {}: it holds no PEM certificate: {cause}", .path.display())]
    NoCertificate {
        /// The file.
        path: PathBuf,
        /// What was found instead.
        cause: String,
    },
    /// The key's file holds no key that can be used.
    #[error("read {}: it holds no private key that can be used: {cause}", .path.display())]
    NoKey {
        /// The file.
        path: PathBuf,
        /// What was found instead.
        cause: String,
    },
    /// Certificate and key do not belong together.
    #[error("read {}: its key is not that of {}", .key.display(), .certificate.display())]
    Mismatch {
        /// The certificate's file.
        certificate: PathBuf,
        /// The key's file.
        key: PathBuf,
    },
    /// A certificate's time is over or has not come.
    #[error("read {}: the certificate {state} {at}", .path.display())]
    Untimely {
        /// The file.
        path: PathBuf,
        /// `expired on` or `is valid only from`.
        state: &'static str,
        /// When, UTC.
        at: String,
    },
    /// The folder has no authorities.
    #[error("read {}: no certificate of an authority is there", .path.display())]
    NoAuthorities {
        /// The folder.
        path: PathBuf,
    },
    /// A name that no certificate can be for.
    #[error("check certificates of {host}: that is no host name or address")]
    Name {
        /// The name.
        host: String,
    },
    /// The certificate is for other names.
    #[error("read {}: the certificate is not for {host}", .path.display())]
    OtherName {
        /// The file.
        path: PathBuf,
        /// The name it should have.
        host: String,
    },
}

impl TlsError {
    /// What to do next.
    #[must_use]
    pub const fn cure(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } => {
                "put public.crt and private.key (PEM) there, readable for this user, or leave \
                 --certs-dir out to serve without TLS"
            }
            Self::NoCertificate { .. } => {
                "write the certificate in PEM (-----BEGIN CERTIFICATE-----), the node's own first"
            }
            Self::NoKey { .. } => {
                "write the key in PEM, unencrypted: ECDSA P-256 or P-384, Ed25519, or RSA of 2048 \
                 bits or more"
            }
            Self::Mismatch { .. } => "put the key there that the certificate was issued for",
            Self::Untimely { .. } => "renew the certificate, or correct this machine's clock",
            Self::NoAuthorities { .. } => {
                "put the certificate of the authority that issued the nodes' certificates there; a \
                 self-signed one is its own"
            }
            Self::Name { .. } => "write a host name or an IP address",
            Self::OtherName { .. } => {
                "issue it with that name or address among its subject alternative names, or start the \
                 nodes with the names that it has"
            }
        }
    }
}
