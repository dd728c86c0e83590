//! [`RealClock`]: the machine's clocks, for what runs a drive inside this process.

use std::time::{Instant, SystemTime, UNIX_EPOCH};

use holdfast_types::seam::Clock;

/// The machine's clocks; the monotonic one counts from when it was made.
pub struct RealClock(Instant);

impl RealClock {
    /// From now on.
    pub fn new() -> Self {
        Self(Instant::now())
    }
}

impl Clock for RealClock {
    fn wall_micros(&self) -> u64 {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        since.as_micros() as u64
    }

    fn monotonic_micros(&self) -> u64 {
        self.0.elapsed().as_micros() as u64
    }
}
