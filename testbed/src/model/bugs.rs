//! Planted bugs: each undoes one rule of the protocol in the model's own layer, around the real
//! decisions and machines. The model must find every one of them.

use super::config::Faults;

/// What is modelled.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default, clap::ValueEnum)]
pub enum Part {
    /// The registers of one key.
    #[default]
    Register,
    /// The same, with a drive whose shards or records rot.
    Rot,
    /// Bucket epochs.
    Buckets,
    /// Multipart uploads.
    Uploads,
}

/// A rule undone.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Bug {
    /// Success is answered at W - 1 accepts.
    EarlyAck,
    /// Success is answered at `A_v - 1` holders: no spare shard.
    ThinAck,
    /// A restarted drive forgets its promises.
    VolatilePromises,
    /// Adoption keeps the old ballot.
    AdoptOldBallot,
    /// After a mix of accepts and refusals a blind write is simply written again.
    RetryAfterRefusal,
    /// Holders under different ballots are counted together as settled.
    SettledAcrossBallots,
    /// A failed condition is answered without sealing the traces of its own Accept.
    NoSeal,
    /// A replaced drive does not raise the set epoch.
    NoSetEpoch,
    /// A rebuilding drive's empty answers count.
    RebuildingCounts,
    /// A replaced drive collects no floor.
    NoFloor,
    /// Drives remember no operations, and say so with certainty.
    NoMemory,
    /// A restarted drive answers "no" instead of "unknown" from its empty memory.
    RestartSaysNo,
    /// A silent drive is taken for an empty one.
    SilenceAsAbsence,
    /// Drives accept below the highest accepted ballot.
    AcceptBelowHighest,
    /// Readers take an open head for absent instead of resolving it.
    SkipOpen,
    /// Adoption gives the version a new place among the key's versions.
    AdoptionReorders,
    /// A settle drops what lies below even if too few drives hold the settled entry.
    ThinSettle,
    /// Tombstones are purged although a drive does not hold them.
    EarlyPurge,
    /// A condition is decided on an open head that was not adopted first.
    DecideOnOpen,
    /// Drives do not look at the stamp that a request carries.
    BucketEpochIgnored,
    /// A bucket is deleted without listing it again under the mark.
    NoSecondList,
    /// The second list takes an open entry for nothing.
    OpenIsEmpty,
    /// Drives accept parts whatever the phase of their upload.
    PartGuardIgnored,
    /// A completion does not freeze the upload.
    NoFreeze,
    /// A completion is rolled back without sealing the object's key.
    NoRollBackSeal,
    /// Parts of the object are freed before all drives hold it and them.
    FreeNamedParts,
    /// The phase of an upload does not bind adoptions of its parts.
    AdoptionUnguarded,
    /// A write begun again in another shape does not ask what its earlier ones did.
    ForgetShapes,
    /// A completion hears drives that have missed its freeze.
    UnfrozenHeard,
    /// A completion takes silence about its upload for its absence.
    SilentUploadGone,
    /// A rebuild installs what one drive lists, not what R drives do.
    InstallUnread,
    /// A drive whose records have rotted counts.
    RottenCounts,
    /// A drive vouches from memory for what has rotted away from it.
    RottenVouches,
    /// A writer that finishes gives its version a new place among the key's versions though it may have been
    /// read in the old one.
    WriterReorders,
}

impl Bug {
    /// All of them, with the name on the command line and what it breaks.
    pub const ALL: [(Self, &'static str, &'static str); 34] = [
        (Self::EarlyAck, "early-ack", "success answered at W - 1 accepts"),
        (Self::ThinAck, "thin-ack", "success answered at A_v - 1 holders"),
        (Self::VolatilePromises, "volatile-promises", "promises are lost in a restart"),
        (Self::AdoptOldBallot, "adopt-old-ballot", "adoption under the entry's old ballot"),
        (Self::RetryAfterRefusal, "retry-after-refusal", "written again after a partial refusal"),
        (Self::SettledAcrossBallots, "settled-across-ballots", "holders added up across ballots"),
        (Self::NoSeal, "no-seal", "a failed condition leaves its own traces open"),
        (Self::NoSetEpoch, "no-set-epoch", "a replaced drive raises no set epoch"),
        (Self::RebuildingCounts, "rebuilding-counts", "a rebuilding drive counts as absent"),
        (Self::NoFloor, "no-floor", "a replaced drive collects no floor"),
        (Self::NoMemory, "no-memory", "drives do not remember operations"),
        (Self::RestartSaysNo, "restart-says-no", "a restarted drive says no, not unknown"),
        (Self::SilenceAsAbsence, "silence-as-absence", "a silent drive counts as an empty one"),
        (Self::AcceptBelowHighest, "accept-below-highest", "older ballots are accepted"),
        (Self::SkipOpen, "skip-open", "a read skips an open head"),
        (Self::AdoptionReorders, "adoption-reorders", "adoption changes the order of versions"),
        (Self::ThinSettle, "thin-settle", "a settle below A_v drops older entries"),
        (Self::EarlyPurge, "early-purge", "a tombstone is purged before all hold it"),
        (Self::DecideOnOpen, "decide-on-open", "a condition rests on an open head"),
        (Self::BucketEpochIgnored, "bucket-epoch-ignored", "drives ignore the bucket's stamp"),
        (Self::NoSecondList, "no-second-list", "a bucket is not listed again under the mark"),
        (Self::OpenIsEmpty, "open-is-empty", "the second list skips open entries"),
        (Self::PartGuardIgnored, "part-guard-ignored", "parts are accepted in any phase"),
        (Self::NoFreeze, "no-freeze", "a completion does not freeze its upload"),
        (Self::NoRollBackSeal, "no-roll-back-seal", "a roll-back does not seal the object's key"),
        (Self::FreeNamedParts, "free-named-parts", "parts are freed before all drives hold them"),
        (Self::AdoptionUnguarded, "adoption-unguarded", "frozen parts are adopted by anybody"),
        (Self::ForgetShapes, "forget-shapes", "a write in another shape forgets its earlier ones"),
        (Self::UnfrozenHeard, "unfrozen-heard", "a completion hears drives that missed its freeze"),
        (Self::SilentUploadGone, "silent-upload-gone", "an upload nobody tells of counts as gone"),
        (Self::InstallUnread, "install-unread", "a rebuild installs what one drive lists"),
        (Self::RottenCounts, "rotten-counts", "a drive whose records have rotted counts"),
        (Self::RottenVouches, "rotten-vouches", "a drive remembers what has rotted away"),
        (Self::WriterReorders, "writer-reorders", "a writer that finishes moves its version up"),
    ];

    /// The bug of a name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.iter().find(|(_, known, _)| *known == name).map(|(bug, ..)| *bug)
    }

    /// The kind of faults that it takes to show, when one kind alone shows it: the search for a planted
    /// bug looks there only.
    pub fn needs(self) -> Option<Faults> {
        match self {
            Self::NoSetEpoch
            | Self::NoFloor
            | Self::RebuildingCounts
            | Self::ThinSettle
            | Self::InstallUnread => Some(Faults::Wipe),
            Self::VolatilePromises | Self::RestartSaysNo => Some(Faults::Restarts),
            _ => None,
        }
    }

    /// Where it shows.
    pub fn part(self) -> Part {
        match self {
            Self::RottenCounts | Self::RottenVouches => Part::Rot,
            Self::BucketEpochIgnored | Self::NoSecondList | Self::OpenIsEmpty => Part::Buckets,
            Self::PartGuardIgnored
            | Self::NoFreeze
            | Self::NoRollBackSeal
            | Self::FreeNamedParts
            | Self::AdoptionUnguarded
            | Self::UnfrozenHeard
            | Self::SilentUploadGone => Part::Uploads,
            _ => Part::Register,
        }
    }

    /// Its name.
    pub fn name(self) -> &'static str {
        Self::ALL.iter().find(|(bug, ..)| *bug == self).map_or("unknown", |(_, name, _)| name)
    }
}
