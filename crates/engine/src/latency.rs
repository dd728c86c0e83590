//! How long a drive's answers take, as far back as a window of samples: real quantiles, by which a late
//! answer is told.

use std::time::Duration;

/// Samples kept: some seconds of a busy drive.
const WINDOW: usize = 256;

/// Samples before a quantile means anything.
const SAMPLES_MIN: usize = 32;

/// The quantile is computed anew every so many samples.
const REFRESH_EVERY: usize = 16;

/// Answers later than this share of those before are late: 2 of 100 are asked of a spare as well.
const LATE_PERCENT: usize = 98;

/// The last latencies of one kind of answer.
#[derive(Default)]
pub(crate) struct Latencies {
    micros: Vec<u32>,
    next: usize,
    unseen: usize,
    late: Option<u32>,
}

impl Latencies {
    pub(crate) fn sample(&mut self, took: Duration) {
        let micros = u32::try_from(took.as_micros()).unwrap_or(u32::MAX);
        if self.micros.len() < WINDOW {
            self.micros.push(micros);
        } else {
            self.micros[self.next] = micros;
            self.next = (self.next + 1) % WINDOW;
        }
        self.unseen += 1;
        if self.micros.len() >= SAMPLES_MIN && self.unseen >= REFRESH_EVERY {
            self.unseen = 0;
            self.late = Some(quantile(&self.micros));
        }
    }

    /// The latency that [`LATE_PERCENT`] of the window's answers did not exceed; `None` while there are
    /// too few.
    pub(crate) fn late(&self) -> Option<Duration> {
        self.late.map(|micros| Duration::from_micros(micros.into()))
    }
}

fn quantile(micros: &[u32]) -> u32 {
    let mut sorted = micros.to_vec();
    let at = (sorted.len() * LATE_PERCENT / 100).min(sorted.len() - 1);
    *sorted.select_nth_unstable(at).1
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: late is a quantile of what was seen, and follows it. Method: known distributions.
    #[test]
    fn late_is_the_observed_quantile() {
        let mut latencies = Latencies::default();
        for at in 0..31 {
            latencies.sample(Duration::from_micros(at));
        }
        assert_eq!(latencies.late(), None, "too few");
        // 97 fast ones and 3 slow ones of every 100: the slow ones are late by their own measure only.
        for at in 0..400_u64 {
            latencies.sample(Duration::from_micros(if at % 100 < 97 { 100 } else { 9_000 }));
        }
        assert_eq!(latencies.late(), Some(Duration::from_millis(9)));
        for at in 0..400_u64 {
            latencies.sample(Duration::from_micros(if at % 100 == 0 { 9_000 } else { 100 }));
        }
        assert_eq!(
            latencies.late(),
            Some(Duration::from_micros(100)),
            "1 of 100 does not raise it"
        );
        for _ in 0..WINDOW {
            latencies.sample(Duration::from_millis(50));
        }
        assert_eq!(latencies.late(), Some(Duration::from_millis(50)), "it follows a slow drive");
    }
}
