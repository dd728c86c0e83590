//! Drives as operators and coordinators see them.

use serde::{Deserialize, Serialize};

/// Raised whenever a set's membership changes; a drive refuses requests of an older one.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default, Serialize, Deserialize,
)]
pub struct SetEpoch(pub u64);

/// What a drive's scrub is told. The scrub reads every live byte again, to find rot that no reader met.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ScrubOrder {
    /// Nothing: how does it stand?
    Status,
    /// Begin a pass now; one that is held goes on.
    Start,
    /// Hold it, passes that would be due as well.
    Pause,
    /// Let it go on.
    Resume,
    /// Read so many bytes a second, from now on and for good.
    Rate(u64),
}

/// The state of a drive.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DriveState {
    /// Serves.
    Healthy,
    /// Serves, but slow against its siblings.
    Suspect,
    /// Its node does not answer, or an operator took it out.
    Offline,
    /// Failed, foreign, stale, blank or amnesic: serves nothing until an operator or a rebuild acts.
    Faulty,
    /// Serves from its runs while the local index is built anew.
    Reindexing,
    /// Takes writes, counts as unknown for reads.
    Rebuilding,
    /// Taken out for good.
    Retired,
}

impl DriveState {
    /// Whether requests are sent to it at all.
    #[must_use]
    pub const fn serves(self) -> bool {
        matches!(self, Self::Healthy | Self::Suspect | Self::Reindexing | Self::Rebuilding)
    }

    /// Whether its answers count for reads, promises and memory (PROTOCOL.md section 5).
    #[must_use]
    pub const fn counts(self) -> bool {
        matches!(self, Self::Healthy | Self::Suspect | Self::Reindexing)
    }

    /// The name used in tables and JSON.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Suspect => "suspect",
            Self::Offline => "offline",
            Self::Faulty => "faulty",
            Self::Reindexing => "reindexing",
            Self::Rebuilding => "rebuilding",
            Self::Retired => "retired",
        }
    }
}
