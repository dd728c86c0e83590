//! Who may call: everybody who knows the cluster secret, and each call once.
//!
//! ```text
//! client                                     server
//!   | Handshake, MAC under the secret ------> | window of time, nonce not seen before
//!   | <------ its nonce, session, proof       | session key = HMAC(secret, both nonces)
//!   | call n of the session, MAC under        |
//!   | the session's key --------------------> | window of time, n not seen before
//! ```
//!
//! A MAC covers method, time, nonce (or session and number) and the digest of the first message, so a
//! captured call is worth nothing: not twice, not later, not on another method, and not at another
//! node or after a restart, which have other sessions (INV-FAB-3). A stream is authenticated by its
//! first message; tampering on the path is TLS's business.

use hmac::{Hmac, Mac};
use holdfast_types::limits;
use http::{HeaderMap, HeaderValue};
use sha2::{Digest, Sha256};

/// Header: the sender's wall clock in microseconds.
const TIME: &str = "holdfast-time";
/// Header: session (32 hex digits) and the call's number within it.
const SESSION: &str = "holdfast-session";
/// Header: the MAC, 64 hex digits.
const MAC: &str = "holdfast-mac";

/// Bytes of a secret at least, so that it is not guessed from a captured handshake.
pub const SECRET_BYTES_MIN: usize = 16;

/// A key under which calls are signed. Never printed.
#[derive(Clone)]
pub struct Key([u8; 32]);

impl std::fmt::Debug for Key {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Key(..)")
    }
}

/// What a refusal for a skewed clock contains, wherever it was made.
pub const SKEW_MARK: &str = "the clocks of the two nodes differ";

/// Why a call was not let in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthError {
    /// No MAC, or a malformed one.
    #[error(
        "authenticate call: it carries no valid signature; only nodes of this cluster may call, with \
         HOLDFAST_CLUSTER_SECRET set alike everywhere"
    )]
    Unsigned,
    /// The MAC is of another key.
    #[error(
        "authenticate call: the signature is of another cluster secret; set HOLDFAST_CLUSTER_SECRET \
         to the same value on all nodes"
    )]
    WrongSecret,
    /// The clocks differ too much.
    #[error(
        "authenticate call: {SKEW_MARK} by {} s, at most {} s are allowed; synchronise them (NTP)",
        .skew_micros / 1_000_000,
        limits::CLOCK_SKEW_MICROS_MAX / 1_000_000
    )]
    Skewed {
        /// By how much.
        skew_micros: u64,
    },
    /// Seen before, or older than what is remembered.
    #[error("authenticate call: it was sent before")]
    Replayed,
    /// The session is not known here: the node was restarted since, say.
    #[error("authenticate call: the session is not known")]
    UnknownSession,
}

impl Key {
    /// The key that nodes with this cluster secret share.
    #[must_use]
    pub fn of_secret(secret: &[u8]) -> Self {
        Self(mac(secret, &[b"holdfast fabric 1: handshake"]))
    }

    /// The key of a session, from both sides' nonces.
    #[must_use]
    pub fn of_session(&self, client: &[u8], server: &[u8]) -> Self {
        Self(mac(&self.0, &[b"session", client, server]))
    }

    /// What the server shows to prove that it knows the secret.
    #[must_use]
    pub fn proof(&self, client: &[u8], server: &[u8]) -> [u8; 32] {
        mac(&self.0, &[b"proof", client, server])
    }

    /// Whether `shown` is the server's proof.
    #[must_use]
    pub fn proves(&self, client: &[u8], server: &[u8], shown: &[u8]) -> bool {
        same(&self.proof(client, server), shown)
    }
}

/// What a signature is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stamp {
    /// The sender's wall clock.
    pub time_micros: u64,
    /// The session; nil in a handshake.
    pub session: u128,
    /// The call's number within the session; 0 in a handshake.
    pub number: u64,
}

/// Signs a call: the headers that go with `first_message` to `path`.
pub fn sign(key: &Key, path: &str, stamp: Stamp, first_message: &[u8], headers: &mut HeaderMap) {
    let session = format!("{:032x}-{}", stamp.session, stamp.number);
    let code = call_mac(key, path, &stamp.time_micros.to_string(), &session, first_message);
    let mut put = |name: &'static str, value: String| {
        let value = HeaderValue::try_from(value).expect("digits and hex are header text");
        headers.insert(name, value);
    };
    put(TIME, stamp.time_micros.to_string());
    put(SESSION, session);
    put(MAC, hex(&code));
}

/// Reads what a call says of itself; nothing of it is trusted before [`verify`].
///
/// # Errors
/// [`AuthError::Unsigned`] when a header is missing or malformed.
pub fn stamp_of(headers: &HeaderMap) -> Result<Stamp, AuthError> {
    let time_micros = text(headers, TIME)?.parse().map_err(|_| AuthError::Unsigned)?;
    let (session, number) = text(headers, SESSION)?.split_once('-').ok_or(AuthError::Unsigned)?;
    let session = u128::from_str_radix(session, 16).map_err(|_| AuthError::Unsigned)?;
    let number = number.parse().map_err(|_| AuthError::Unsigned)?;
    Ok(Stamp { time_micros, session, number })
}

/// Checks the signature of a call.
///
/// # Errors
/// [`AuthError::WrongSecret`] when it is not of this key, path and message.
pub fn verify(
    key: &Key,
    path: &str,
    headers: &HeaderMap,
    first_message: &[u8],
) -> Result<(), AuthError> {
    let (time, session) = (text(headers, TIME)?, text(headers, SESSION)?);
    let expected = call_mac(key, path, time, session, first_message);
    let shown = unhex(text(headers, MAC)?).ok_or(AuthError::Unsigned)?;
    if same(&expected, &shown) { Ok(()) } else { Err(AuthError::WrongSecret) }
}

/// Bytes of a MAC.
pub const MAC_BYTES: usize = 32;

/// Which way the frames of an exchange go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// From caller to node.
    Ask,
    /// From node to caller.
    Answer,
}

/// Signs or verifies the frames of one direction of one exchange, each at its place in the stream: none
/// can be changed, repeated, left out or carried elsewhere (INV-FAB-3).
pub struct FrameMac {
    /// The stream's key, taken in once.
    keyed: Hmac<Sha256>,
    next: u64,
}

impl FrameMac {
    /// For the exchange that was opened as call `number` of the session with this key.
    #[must_use]
    pub fn new(session: &Key, direction: Direction, number: u64) -> Self {
        let way: &[u8] = match direction {
            Direction::Ask => b"ask",
            Direction::Answer => b"answer",
        };
        let key = mac(&session.0, &[b"exchange", way, &number.to_be_bytes()]);
        let keyed = Hmac::new_from_slice(&key).expect("HMAC takes keys of any length");
        Self { keyed, next: 0 }
    }

    /// The MAC of the next frame.
    pub fn sign(&mut self, time_micros: u64, content: &[u8]) -> [u8; MAC_BYTES] {
        let mut code = self.keyed.clone();
        code.update(&self.next.to_be_bytes());
        code.update(&time_micros.to_be_bytes());
        code.update(content);
        self.next += 1;
        code.finalize().into_bytes().into()
    }

    /// Whether `shown` is the MAC of the next frame. After a frame that was not, none is.
    pub fn verify(&mut self, time_micros: u64, content: &[u8], shown: &[u8]) -> bool {
        same(&self.sign(time_micros, content), shown)
    }
}

/// Checks that a sender's clock agrees with ours.
///
/// # Errors
/// [`AuthError::Skewed`] beyond [`limits::CLOCK_SKEW_MICROS_MAX`].
pub const fn check_clock(ours_micros: u64, theirs_micros: u64) -> Result<(), AuthError> {
    let skew_micros = ours_micros.abs_diff(theirs_micros);
    if skew_micros <= limits::CLOCK_SKEW_MICROS_MAX {
        Ok(())
    } else {
        Err(AuthError::Skewed { skew_micros })
    }
}

fn call_mac(key: &Key, path: &str, time: &str, session: &str, first_message: &[u8]) -> [u8; 32] {
    let digest = Sha256::digest(first_message);
    let fields: [&[u8]; 5] =
        [b"call", path.as_bytes(), time.as_bytes(), session.as_bytes(), &digest];
    mac(&key.0, &fields)
}

/// HMAC over fields, each preceded by its length, so that no two lists of fields read alike.
fn mac(key: &[u8], fields: &[&[u8]]) -> [u8; 32] {
    let mut code = Hmac::<Sha256>::new_from_slice(key).expect("HMAC takes keys of any length");
    for field in fields {
        code.update(&(field.len() as u64).to_be_bytes());
        code.update(field);
    }
    code.finalize().into_bytes().into()
}

/// Comparison in constant time: how far a guess is right does not show.
fn same(expected: &[u8; 32], shown: &[u8]) -> bool {
    shown.len() == expected.len()
        && expected.iter().zip(shown).fold(0, |diff, (a, b)| diff | (a ^ b)) == 0
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Result<&'a str, AuthError> {
    headers.get(name).and_then(|value| value.to_str().ok()).ok_or(AuthError::Unsigned)
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::with_capacity(2 * bytes.len()), |mut out, byte| {
        write!(out, "{byte:02x}").expect("writing to a String cannot fail");
        out
    })
}

fn unhex(text: &str) -> Option<Vec<u8>> {
    let bytes = text.as_bytes();
    let digit = |byte: u8| char::from(byte).to_digit(16);
    let pairs = bytes.chunks(2).map(|pair| match pair {
        [high, low] => u8::try_from(digit(*high)? << 4 | digit(*low)?).ok(),
        _ => None,
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const STAMP: Stamp = Stamp { time_micros: 5_000_000, session: 7, number: 3 };

    fn signed(key: &Key) -> HeaderMap {
        let mut headers = HeaderMap::new();
        sign(key, "/a/Call", STAMP, b"body", &mut headers);
        headers
    }

    /// Goal: a signature holds for exactly what was signed. Method: verify it against each field
    /// changed in turn.
    #[test]
    fn a_signature_covers_key_method_stamp_and_message() {
        let key = Key::of_secret(b"the secret of this cluster");
        let headers = signed(&key);
        assert_eq!(stamp_of(&headers), Ok(STAMP));
        assert_eq!(verify(&key, "/a/Call", &headers, b"body"), Ok(()));
        let wrong = Err(AuthError::WrongSecret);
        assert_eq!(verify(&key, "/a/Upload", &headers, b"body"), wrong);
        assert_eq!(verify(&key, "/a/Call", &headers, b"bodY"), wrong);
        let other = Key::of_secret(b"the secret of that cluster");
        assert_eq!(verify(&other, "/a/Call", &headers, b"body"), wrong);
        for (name, value) in [(TIME, "5000001"), (SESSION, "7-3")] {
            let mut changed = headers.clone();
            changed.insert(name, HeaderValue::from_static(value));
            assert_eq!(verify(&key, "/a/Call", &changed, b"body"), wrong, "{name}");
        }
        for name in [TIME, SESSION, MAC] {
            let mut cut = headers.clone();
            cut.remove(name);
            assert_eq!(verify(&key, "/a/Call", &cut, b"body"), Err(AuthError::Unsigned), "{name}");
        }
    }

    #[test]
    fn session_keys_and_proofs_depend_on_both_nonces() {
        let key = Key::of_secret(b"the secret of this cluster");
        let proof = key.proof(b"client", b"server");
        assert!(key.proves(b"client", b"server", &proof));
        assert!(!key.proves(b"clients", b"erver", &proof));
        assert!(!key.proves(b"client", b"server", &proof[..31]));
        assert_ne!(key.of_session(b"a", b"b").0, key.of_session(b"b", b"a").0);
        assert_eq!(format!("{key:?}"), "Key(..)");
    }

    #[test]
    fn clocks_may_differ_by_the_bound_and_no_more() {
        let bound = limits::CLOCK_SKEW_MICROS_MAX;
        assert_eq!(check_clock(bound, 0), Ok(()));
        assert_eq!(check_clock(0, bound), Ok(()));
        let skew_micros = bound + 1;
        assert_eq!(check_clock(0, bound + 1), Err(AuthError::Skewed { skew_micros }));
    }
}
