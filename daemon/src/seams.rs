//! The real clock and the real source of randomness; nothing else in the product has them.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use holdfast_types::seam::{Clock, Random};
use rand::{RngCore, TryRngCore, rngs::OsRng};

/// The machine's clocks.
#[derive(Debug, Clone, Copy)]
pub struct SystemClock {
    started: Instant,
}

impl Default for SystemClock {
    fn default() -> Self {
        Self { started: Instant::now() }
    }
}

impl Clock for SystemClock {
    fn wall_micros(&self) -> u64 {
        // A clock before 1970 is refused at the start by its being far off.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
    }

    fn monotonic_micros(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX)
    }
}

/// The thread's generator, seeded and reseeded by the kernel.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemRandom;

impl Random for SystemRandom {
    fn next_u64(&self) -> u64 {
        rand::rng().next_u64()
    }
}

/// `length` letters and digits for a secret, straight from the kernel.
///
/// # Errors
/// When the kernel has no randomness to give.
pub fn draw_secret(length: usize) -> std::io::Result<String> {
    /// 64 characters, so that six bits choose one without a bias.
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut bytes = vec![0; length];
    OsRng.try_fill_bytes(&mut bytes).map_err(std::io::Error::other)?;
    Ok(bytes.iter().map(|byte| char::from(ALPHABET[usize::from(byte & 63)])).collect())
}
