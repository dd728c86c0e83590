//! The quorum table of PROTOCOL.md section 1.
//!
//! | name | meaning |
//! |---|---|
//! | n, m, k | drives of the set, parity, n - m |
//! | f | drives that may be away while writes go on: `min(m, (n-1)/2)` |
//! | W, R | write quorum `n - f`, read quorum `f + 1`: `W + R > n`, `2W > n` |
//! | d | drives known to be down when a write begins |
//! | `k_v` | data shards of one version |
//! | `T_v` | drives that must accept one ballot before the version is *chosen* |
//! | `A_v` | drives that must hold it before it is *acknowledged* |

use crate::sabotage::{Bug, planted};

/// The largest set there is; shard masks are `u16`.
pub const DRIVES_MAX: u8 = 16;

/// The quorums of a set of `n` drives.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Quorum {
    n: u8,
}

impl Quorum {
    /// The quorums of a set of `n` drives, 1 to 16.
    ///
    /// # Panics
    /// When `n` is outside 1 to 16: set sizes are checked where layouts are made and read.
    #[must_use]
    pub const fn of(n: u8) -> Self {
        assert!(n >= 1 && n <= DRIVES_MAX);
        Self { n }
    }

    /// Drives of the set.
    #[must_use]
    pub const fn n(self) -> u8 {
        self.n
    }

    /// Parity m: how many shards of a version at full width may be lost.
    #[must_use]
    pub const fn parity(self) -> u8 {
        match self.n {
            1 => 0,
            2..=3 => 1,
            4..=5 => 2,
            6..=7 => 3,
            _ => 4,
        }
    }

    /// Data shards of a version written with all drives there: k = n - m.
    #[must_use]
    pub const fn data(self) -> u8 {
        self.n - self.parity()
    }

    /// Drives that may be away while writes go on: f.
    #[must_use]
    pub const fn away(self) -> u8 {
        let half = (self.n - 1) / 2;
        if self.parity() < half { self.parity() } else { half }
    }

    /// Write quorum W.
    #[must_use]
    pub const fn write(self) -> u8 {
        self.n - self.away()
    }

    /// Read quorum R.
    #[must_use]
    pub fn read(self) -> u8 {
        self.away() + 1 - u8::from(planted(Bug::ReadBelowQuorum))
    }

    /// Data shards `k_v` of a new version while `down` drives are known to be down.
    #[must_use]
    pub fn data_shards(self, down: u8) -> u8 {
        if self.parity() == 0 {
            return self.data();
        }
        let narrow = self.data().saturating_sub(down).max(self.n.div_ceil(2));
        narrow.min((self.n - 1).saturating_sub(down)).max(1)
    }

    /// Data shards `k_v` of a tiny version: few enough that a read quorum restores it.
    #[must_use]
    pub fn data_shards_tiny(self, down: u8) -> u8 {
        self.data_shards(down).min(self.read())
    }

    /// `T_v`: acceptances under one ballot that make a version of `data_shards` chosen.
    #[must_use]
    pub fn chosen(self, data_shards: u8) -> u8 {
        self.write().max(data_shards)
    }

    /// `A_v`: holders of data that a version of `data_shards` needs before success is answered.
    #[must_use]
    pub fn acknowledged(self, data_shards: u8) -> u8 {
        let early = u8::from(planted(Bug::AckEarly));
        self.n.min(self.write().max(data_shards + 1)) - early
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_the_protocol() {
        // n, m, k, f, W, R as PROTOCOL.md section 1 gives them.
        let rows = [
            (1, 0, 1, 0, 1, 1),
            (2, 1, 1, 0, 2, 1),
            (3, 1, 2, 1, 2, 2),
            (4, 2, 2, 1, 3, 2),
            (5, 2, 3, 2, 3, 3),
            (6, 3, 3, 2, 4, 3),
            (7, 3, 4, 3, 4, 4),
            (8, 4, 4, 3, 5, 4),
            (9, 4, 5, 4, 5, 5),
            (10, 4, 6, 4, 6, 5),
            (11, 4, 7, 4, 7, 5),
            (12, 4, 8, 4, 8, 5),
            (13, 4, 9, 4, 9, 5),
            (14, 4, 10, 4, 10, 5),
            (15, 4, 11, 4, 11, 5),
            (16, 4, 12, 4, 12, 5),
        ];
        for (n, m, k, f, w, r) in rows {
            let q = Quorum::of(n);
            let got = (q.n(), q.parity(), q.data(), q.away(), q.write(), q.read());
            assert_eq!(got, (n, m, k, f, w, r));
        }
    }

    #[test]
    fn quorums_intersect_and_acknowledged_bytes_have_a_spare() {
        for n in 1..=DRIVES_MAX {
            let q = Quorum::of(n);
            assert!(q.write() + q.read() > n && 2 * q.write() > n);
            for down in 0..=q.away() {
                for k in [q.data_shards(down), q.data_shards_tiny(down)] {
                    assert!(k >= 1 && k <= q.data());
                    assert!(q.chosen(k) >= k && q.acknowledged(k) >= q.chosen(k));
                    // INV-QUORUM-2: for n > 1 success means one holder more than the bytes need, and
                    // the drives that are up can give it.
                    if n > 1 {
                        assert!(q.acknowledged(k) > k, "n {n} down {down}");
                    }
                    assert!(q.acknowledged(k) <= n - down, "n {n} down {down} k {k}");
                }
            }
        }
    }
}
