//! Which drives are slow against their siblings (DRIVE.md, "States"): [`Meter`] measures what a drive's
//! own threads wait for its device, [`Suspicion`] is the verdict, a pure function of it.
//!
//! ```text
//!             slow, WINDOWS_IN in a row; or it hangs
//!   healthy ----------------------------------------> suspect
//!           <----------------------------------------
//!             calm, WINDOWS_OUT in a row
//! ```
//!
//! Between slow and calm lies a band in which nothing changes, so that a drive at the border does not
//! flicker. What is measured is the device alone, not the queue before it: a drive is not suspect for
//! being asked more than others.

use std::{collections::BTreeMap, sync::Arc};

use holdfast_types::seam::Clock;
use parking_lot::{Mutex, RwLock};

/// How often drives are judged.
pub const WINDOW_MICROS: u64 = 1_000_000;

/// Slow: so many times the median of the siblings. Drives of one kind differ by less, bursts included.
const SLOW_FACTOR: u64 = 8;

/// Calm: at most so many times the median of the siblings.
const CALM_FACTOR: u64 = 3;

/// Nothing below this is slow, whatever the siblings do: a reader's hedge hides it.
const SLOW_MICROS_MIN: u64 = 40_000;

/// A call under way for this long hangs, whatever the siblings do.
const HANG_MICROS: u64 = 2_000_000;

/// Slow windows in a row until a drive is suspect.
const WINDOWS_IN: u8 = 3;

/// Calm windows in a row until it is not any more.
const WINDOWS_OUT: u8 = 5;

/// Percent of calls that the quantile covers.
const QUANTILE_PERCENT: u64 = 95;

const _: () = assert!(CALM_FACTOR < SLOW_FACTOR && HANG_MICROS > SLOW_MICROS_MIN);

/// What one window showed of a drive.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Latency {
    /// Calls that ended.
    pub calls: u64,
    /// Most of them took no longer than this, rounded up to a power of two.
    pub quantile_micros: u64,
    /// How long the oldest call under way has been.
    pub oldest_micros: u64,
}

impl Latency {
    /// The one figure that is compared.
    const fn effective(self) -> u64 {
        if self.oldest_micros > self.quantile_micros {
            self.oldest_micros
        } else {
            self.quantile_micros
        }
    }
}

/// The verdict on one drive.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Suspicion {
    /// Whether it is slow against its siblings.
    pub is_suspect: bool,
    /// Windows in a row that speak against the verdict.
    streak: u8,
}

impl Suspicion {
    /// The verdict after one more window, beside what the window showed of the siblings.
    #[must_use]
    pub fn judge(self, own: Latency, siblings: &[Latency]) -> Self {
        let hangs = own.oldest_micros >= HANG_MICROS;
        let (usual, took) = (median(siblings), own.effective());
        let slow = hangs || took > (usual * SLOW_FACTOR).max(SLOW_MICROS_MIN);
        let calm = !hangs && took <= (usual * CALM_FACTOR).max(SLOW_MICROS_MIN / 2);
        let (against, needed) =
            if self.is_suspect { (calm, WINDOWS_OUT) } else { (slow, WINDOWS_IN) };
        let streak = if against { self.streak + 1 } else { 0 };
        let turns = streak >= needed || (hangs && !self.is_suspect);
        if turns {
            Self { is_suspect: !self.is_suspect, streak: 0 }
        } else {
            Self { streak, ..self }
        }
    }
}

/// The median of the siblings that did something: without one, nothing but the floor is slow.
fn median(siblings: &[Latency]) -> u64 {
    let busy = siblings.iter().filter(|sibling| sibling.calls > 0);
    let mut all: Vec<u64> = busy.map(|sibling| sibling.quantile_micros).collect();
    all.sort_unstable();
    // The lower one of two, so that of two drives the slow one does not excuse itself.
    all.get(all.len().saturating_sub(1) / 2).copied().unwrap_or(0)
}

/// Measures the calls to one drive's device, and tells its verdict to whoever asks the drive.
pub struct Meter {
    clock: Arc<dyn Clock>,
    state: Mutex<MeterState>,
    verdict: RwLock<Option<String>>,
}

#[derive(Default)]
struct MeterState {
    /// Calls that took less than 2^i microseconds, by i.
    ended: [u64; 32],
    /// Calls under way, by number: when they began.
    under_way: BTreeMap<u64, u64>,
    next: u64,
}

/// A call under way; it ends when this is dropped.
pub struct Call {
    meter: Arc<Meter>,
    number: u64,
}

impl Meter {
    /// A meter that has seen nothing.
    #[must_use]
    pub fn new(clock: Arc<dyn Clock>) -> Arc<Self> {
        let (state, verdict) = (Mutex::default(), RwLock::new(None));
        Arc::new(Self { clock, state, verdict })
    }

    /// A call begins.
    #[must_use]
    pub fn begin(self: &Arc<Self>) -> Call {
        let now = self.clock.monotonic_micros();
        let mut state = self.state.lock();
        let number = state.next;
        state.next += 1;
        state.under_way.insert(number, now);
        Call { meter: Arc::clone(self), number }
    }

    /// What was seen since this was asked last.
    #[must_use]
    pub fn window(&self) -> Latency {
        let now = self.clock.monotonic_micros();
        let mut state = self.state.lock();
        let ended = std::mem::take(&mut state.ended);
        let oldest = state.under_way.values().next().map_or(0, |began| now.saturating_sub(*began));
        let calls: u64 = ended.iter().sum();
        let wanted = (calls * QUANTILE_PERCENT).div_ceil(100);
        let mut seen = 0;
        let covers = |count: &u64| {
            seen += count;
            seen >= wanted
        };
        let at = ended.iter().position(covers).unwrap_or(0);
        let quantile_micros = if calls == 0 { 0 } else { 1 << at };
        Latency { calls, quantile_micros, oldest_micros: oldest }
    }

    /// Sets the verdict: why the drive is suspect, `None` when it is not.
    pub fn set_verdict(&self, reason: Option<String>) {
        *self.verdict.write() = reason;
    }

    /// Why the drive is suspect, when it is.
    #[must_use]
    pub fn verdict(&self) -> Option<String> {
        self.verdict.read().clone()
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let now = self.meter.clock.monotonic_micros();
        let mut state = self.meter.state.lock();
        if let Some(began) = state.under_way.remove(&self.number) {
            let took = now.saturating_sub(began);
            let bucket = (u64::BITS - took.leading_zeros()) as usize;
            let last = state.ended.len() - 1;
            state.ended[bucket.min(last)] += 1;
        }
    }
}

/// One line of cause and cure for a suspect drive.
#[must_use]
pub fn reason(own: Latency) -> String {
    let took = own.effective() / 1000;
    format!(
        "its device takes {took} ms where its siblings are far quicker; look at its kernel log and SMART \
         values, replace it if that goes on"
    )
}

#[cfg(test)]
mod tests {
    use holdfast_types::seam::ManualClock;

    use super::*;

    fn of(micros: u64) -> Latency {
        Latency { calls: 10, quantile_micros: micros, oldest_micros: 0 }
    }

    fn after(mut suspicion: Suspicion, windows: u8, own: Latency, others: &[Latency]) -> Suspicion {
        for _ in 0..windows {
            suspicion = suspicion.judge(own, others);
        }
        suspicion
    }

    /// Goal: the drawing of the module: slow against siblings for a while, never for one burst, not
    /// when all are slow, back when calm, no flicker between. Method: a table of windows.
    #[test]
    fn slow_against_siblings_with_hysteresis() {
        let fresh = Suspicion::default();
        let quick = [of(1_000), of(2_000), of(1_000)];
        assert!(!after(fresh, WINDOWS_IN - 1, of(200_000), &quick).is_suspect);
        let suspect = after(fresh, WINDOWS_IN, of(200_000), &quick);
        assert!(suspect.is_suspect);
        let burst = after(fresh, 2, of(200_000), &quick).judge(of(1_000), &quick);
        assert!(!after(burst, 2, of(200_000), &quick).is_suspect, "windows in a row");
        assert!(
            !after(fresh, 20, of(30_000), &quick).is_suspect,
            "nothing below the floor is slow"
        );
        let slow = [of(100_000), of(150_000), of(100_000)];
        assert!(!after(fresh, 20, of(200_000), &slow).is_suspect, "all are slow: a busy node");
        assert!(after(suspect, WINDOWS_OUT - 1, of(2_000), &quick).is_suspect);
        assert!(!after(suspect, WINDOWS_OUT, of(2_000), &quick).is_suspect);
        assert!(after(suspect, 50, of(30_000), &quick).is_suspect, "neither slow nor calm");
        assert!(
            !after(suspect, WINDOWS_OUT, Latency::default(), &quick).is_suspect,
            "idle is calm"
        );
    }

    /// Goal: a hang is seen at once, with or without siblings; of two drives the slow one is found.
    #[test]
    fn a_hang_is_seen_at_once() {
        let hung = Latency { calls: 0, quantile_micros: 0, oldest_micros: HANG_MICROS };
        assert!(Suspicion::default().judge(hung, &[]).is_suspect);
        assert!(after(Suspicion::default(), 40, hung, &[of(9_000_000)]).is_suspect);
        let slow = after(Suspicion::default(), WINDOWS_IN, of(1_000_000), &[of(1_000)]);
        assert!(slow.is_suspect);
        assert!(!after(Suspicion::default(), 20, of(1_000), &[of(1_000_000)]).is_suspect);
    }

    /// Goal: the meter covers the quantile, forgets each window, and sees what is under way.
    #[test]
    fn the_meter_measures() {
        let clock = ManualClock::at(1_000_000);
        let meter = Meter::new(Arc::new(clock.clone()));
        assert_eq!(meter.window(), Latency::default());
        for n in 0..100 {
            let call = meter.begin();
            clock.advance_micros(if n < 96 { 100 } else { 50_000 });
            drop(call);
        }
        let open = meter.begin();
        clock.advance_micros(7_000);
        let window = meter.window();
        assert_eq!(window, Latency { calls: 100, quantile_micros: 128, oldest_micros: 7_000 });
        drop(open);
        assert_eq!(meter.window(), Latency { calls: 1, quantile_micros: 8_192, oldest_micros: 0 });
    }
}
