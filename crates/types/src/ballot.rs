//! Ballots: what orders all writes to a key.

use std::{fmt, sync::Arc};

use crate::{
    codec::{CodecError, Reader, Writer},
    id::WriterId,
    limits,
    seam::Clock,
};

/// Hybrid logical time: microseconds since the Unix epoch in the upper 52 bits, a counter in the
/// lower 12, so that several ballots may be drawn in one microsecond and time never goes back.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct HybridTime(pub u64);

impl HybridTime {
    /// Bits of the counter below the microseconds.
    pub const COUNTER_BITS: u32 = 12;
    /// The latest time there is.
    pub const MAX: Self = Self(u64::MAX);

    /// The first time of a microsecond.
    #[must_use]
    pub const fn from_micros(micros: u64) -> Self {
        Self(micros << Self::COUNTER_BITS)
    }

    /// The microsecond this time lies in.
    #[must_use]
    pub const fn micros(self) -> u64 {
        self.0 >> Self::COUNTER_BITS
    }

    /// The next time there is: one tick later.
    #[must_use]
    pub const fn tick(self) -> Self {
        Self(self.0.saturating_add(1))
    }
}

impl fmt::Debug for HybridTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}us+{}", self.micros(), self.0 & ((1 << Self::COUNTER_BITS) - 1))
    }
}

/// Orders writes: (layout generation, hybrid time, writer), compared in this order. Two ballots drawn
/// by one [`BallotClock`] differ; two clocks differ in their writer.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Ballot {
    /// Generation of the layout under which it was drawn.
    pub generation: u32,
    /// When it was drawn.
    pub time: HybridTime,
    /// Who drew it.
    pub writer: WriterId,
}

impl Ballot {
    /// Below every ballot that is ever drawn.
    pub const ZERO: Self = Self { generation: 0, time: HybridTime(0), writer: WriterId(0) };

    /// The ownerless ballot at `time`: above every drawn ballot of that time.
    #[must_use]
    pub const fn ceiling(generation: u32, time: HybridTime) -> Self {
        Self { generation, time, writer: WriterId(u128::MAX) }
    }

    /// Appends the 28-byte form: generation u32, time u64, writer u128, each big-endian, so that byte
    /// order is ballot order.
    pub fn encode(&self, out: &mut Writer) {
        out.raw(&self.generation.to_be_bytes());
        out.raw(&self.time.0.to_be_bytes());
        out.raw(&self.writer.to_bytes());
    }

    /// The inverse of [`Self::encode`].
    ///
    /// # Errors
    /// [`CodecError`] when fewer than 28 bytes are left.
    pub fn decode(input: &mut Reader<'_>) -> Result<Self, CodecError> {
        Ok(Self {
            generation: u32::from_be_bytes(input.array()?),
            time: HybridTime(u64::from_be_bytes(input.array()?)),
            writer: WriterId::from_bytes(input.array()?),
        })
    }
}

/// Draws ballots for one writer: each above all it drew or was shown before.
pub struct BallotClock {
    writer: WriterId,
    clock: Arc<dyn Clock>,
    last: std::sync::atomic::AtomicU64,
}

impl BallotClock {
    /// A clock for `writer`, which must be drawn afresh at every process start.
    #[must_use]
    pub fn new(writer: WriterId, clock: Arc<dyn Clock>) -> Self {
        Self { writer, clock, last: std::sync::atomic::AtomicU64::new(0) }
    }

    /// The writer whose ballots these are.
    #[must_use]
    pub const fn writer(&self) -> WriterId {
        self.writer
    }

    /// A ballot above every earlier one of this clock and at or above the wall clock.
    #[must_use]
    pub fn draw(&self, generation: u32) -> Ballot {
        self.draw_above(generation, HybridTime(0))
    }

    /// A ballot above every earlier one of this clock and strictly above `floor`. The clock follows a
    /// floor only for this ballot when it lies beyond the skew bound, so that one wild clock in the
    /// cluster does not carry the others away.
    #[must_use]
    pub fn draw_above(&self, generation: u32, floor: HybridTime) -> Ballot {
        use std::sync::atomic::Ordering::SeqCst;
        let wall = HybridTime::from_micros(self.clock.wall_micros());
        let bound = HybridTime::from_micros(wall.micros() + limits::CLOCK_SKEW_MICROS_MAX);
        let mut drawn = wall;
        self.last
            .fetch_update(SeqCst, SeqCst, |last| {
                drawn = HybridTime(last).tick().max(wall);
                if floor <= bound {
                    drawn = drawn.max(floor.tick());
                }
                Some(drawn.0)
            })
            .expect("the closure always returns Some");
        Ballot { generation, time: drawn.max(floor.tick()), writer: self.writer }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seam::ManualClock;

    #[test]
    fn ballots_rise_even_when_the_wall_clock_stands_still() {
        let clock = BallotClock::new(WriterId(7), Arc::new(ManualClock::at(1_000)));
        let first = clock.draw(1);
        let second = clock.draw(1);
        assert!(second > first);
        assert_eq!(first.time.micros(), 1_000);
        let above = clock.draw_above(1, HybridTime::from_micros(2_000));
        assert!(above.time > HybridTime::from_micros(2_000));
        assert!(clock.draw(1) > above);
    }

    #[test]
    fn a_wild_floor_does_not_carry_the_clock_away() {
        let clock = BallotClock::new(WriterId(7), Arc::new(ManualClock::at(1_000)));
        let wild = HybridTime::from_micros(1_000 + limits::CLOCK_SKEW_MICROS_MAX * 100);
        assert!(clock.draw_above(1, wild).time > wild);
        assert!(clock.draw(1).time < wild);
    }

    #[test]
    fn byte_order_is_ballot_order() {
        let encode = |b: &Ballot| {
            let mut out = Writer::new();
            b.encode(&mut out);
            out.into_bytes()
        };
        let low = Ballot { generation: 1, time: HybridTime(9), writer: WriterId(u128::MAX) };
        let high = Ballot { generation: 1, time: HybridTime(10), writer: WriterId(1) };
        assert!(low < high && encode(&low) < encode(&high));
        assert_eq!(Ballot::decode(&mut Reader::new(&encode(&high))), Ok(high));
    }
}
