//! TLS configurations from PEM files, and what is wrong with them in words.
//!
//! Owns the choice of protocol versions and crypto provider, and the certificates folder:
//!
//! ```text
//! C/public.crt    this node's certificate, followed by those between it and its authority
//! C/private.key   its key
//! C/CAs/*         certificates of the authorities that peers' certificates are checked against
//! ```
//! Never opens a socket, never reads a clock but rustls's own, never falls back to unchecked.
//!
//! | module | holds |
//! |---|---|
//! | [`certs`] | [`Certs`], the folder, renewed when its files change |
//! | [`roots`] | authorities, and the client's configuration that trusts them |
//! | [`error`] | [`TlsError`]: cause and cure |
//! | [`peer`] | why a handshake failed, in words |
//! | `testing` | certificates made on the spot (feature `testing`) |

pub mod certs;
pub mod error;
pub mod peer;
pub mod roots;
#[cfg(feature = "testing")]
pub mod testing;

use std::sync::Arc;

pub use certs::Certs;
pub use error::TlsError;
use rustls::crypto::CryptoProvider;

/// HTTP/2, which the fabric speaks.
pub const H2: &[u8] = b"h2";

/// HTTP/1.1.
pub const HTTP_1: &[u8] = b"http/1.1";

/// ring: it builds with the C compiler that the codec needs anyway (ADR 0012). Never installed for the
/// whole process: who makes a configuration says with what.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
