//! Planted bugs: what the evidence of docs/reliability.md has to catch before anyone believes it.
//!
//! Without the feature `sabotage`, which only test builds have, [`planted`] is the constant `false` and
//! the compiler removes what hangs on it: a release build holds no sabotage.

/// A bug that can be planted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Bug {
    /// A write is acknowledged when one drive fewer than the protocol demands has it.
    AckEarly = 1,
    /// Reads conclude from one answer fewer than R.
    ReadBelowQuorum,
    /// The healer restores a shard from bytes that are not the version's.
    HealStaleShard,
    /// What drives lack is recorded and never worked off.
    RepairsDropped,
    /// Drives take requests of an older set epoch.
    SetEpochIgnored,
    /// Drives take requests of an older bucket epoch.
    BucketEpochIgnored,
    /// Blocks of a volume are used again before the record that dropped them is durable.
    ExtentReusedEarly,
}

/// Every bug with its name on command lines and what it does.
pub const BUGS: [(Bug, &str, &str); 7] = [
    (Bug::AckEarly, "ack-early", "acknowledge a write at one drive fewer than A_v"),
    (Bug::ReadBelowQuorum, "read-below-quorum", "conclude from R - 1 answers"),
    (Bug::HealStaleShard, "heal-stale-shard", "restore a shard from another version's bytes"),
    (Bug::RepairsDropped, "repairs-dropped", "never work off repair records"),
    (Bug::SetEpochIgnored, "set-epoch-ignored", "accept requests of an older set epoch"),
    (Bug::BucketEpochIgnored, "bucket-epoch-ignored", "accept requests of an older bucket epoch"),
    (Bug::ExtentReusedEarly, "extent-reused-early", "reuse blocks before their drop is durable"),
];

/// The bug called `name`.
#[must_use]
pub fn named(name: &str) -> Option<Bug> {
    BUGS.iter().find(|(_, known, _)| *known == name).map(|(bug, ..)| *bug)
}

#[cfg(feature = "sabotage")]
static PLANTED: std::sync::atomic::AtomicU8 = std::sync::atomic::AtomicU8::new(0);

/// Plants `bug` in this process, once and for all.
#[cfg(feature = "sabotage")]
pub fn plant(bug: Bug) {
    PLANTED.store(bug as u8, std::sync::atomic::Ordering::Relaxed);
}

/// Whether `bug` is planted in this process.
#[cfg(feature = "sabotage")]
#[must_use]
pub fn planted(bug: Bug) -> bool {
    PLANTED.load(std::sync::atomic::Ordering::Relaxed) == bug as u8
}

/// Whether `bug` is planted: never, in this build.
#[cfg(not(feature = "sabotage"))]
#[must_use]
pub const fn planted(_: Bug) -> bool {
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: every bug has a name of its own that leads back to it. Method: the table.
    #[test]
    fn bugs_are_found_by_name() {
        for (bug, name, _) in BUGS {
            assert_eq!(named(name), Some(bug));
            assert!(!planted(bug), "nothing is planted unasked");
        }
        assert_eq!(named("none"), None);
    }
}
