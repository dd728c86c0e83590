//! The seams for time and chance. The real ones are chosen in the daemon alone; simulations and
//! tests bring their own.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

/// Two clocks in one: wall time for ballots and Last-Modified, monotonic time for deadlines.
pub trait Clock: Send + Sync + 'static {
    /// Microseconds since the Unix epoch. May step backwards when an operator sets the clock.
    fn wall_micros(&self) -> u64;

    /// Microseconds since some fixed point of this process. Never goes backwards.
    fn monotonic_micros(&self) -> u64;
}

/// A source of random bits. Identifiers need 128 unpredictable ones; nothing here draws secrets.
pub trait Random: Send + Sync + 'static {
    /// 64 random bits.
    fn next_u64(&self) -> u64;

    /// 128 random bits.
    fn next_u128(&self) -> u128 {
        (u128::from(self.next_u64()) << 64) | u128::from(self.next_u64())
    }
}

/// A clock that stands still until told to move. For tests and simulations.
#[derive(Debug, Clone, Default)]
pub struct ManualClock {
    micros: Arc<AtomicU64>,
}

impl ManualClock {
    /// A clock that shows `micros` on both faces.
    #[must_use]
    pub fn at(micros: u64) -> Self {
        Self { micros: Arc::new(AtomicU64::new(micros)) }
    }

    /// Moves both faces forward by `micros`.
    pub fn advance_micros(&self, micros: u64) {
        self.micros.fetch_add(micros, Ordering::SeqCst);
    }
}

impl Clock for ManualClock {
    fn wall_micros(&self) -> u64 {
        self.micros.load(Ordering::SeqCst)
    }

    fn monotonic_micros(&self) -> u64 {
        self.micros.load(Ordering::SeqCst)
    }
}

/// A reproducible source (`SplitMix64`). For tests and simulations: its draws are predictable.
#[derive(Debug)]
pub struct SeededRandom {
    state: AtomicU64,
}

impl SeededRandom {
    /// The sequence that belongs to `seed`.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self { state: AtomicU64::new(seed) }
    }
}

impl Random for SeededRandom {
    fn next_u64(&self) -> u64 {
        const GAMMA: u64 = 0x9e37_79b9_7f4a_7c15;
        let mut z = self.state.fetch_add(GAMMA, Ordering::SeqCst).wrapping_add(GAMMA);
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}
