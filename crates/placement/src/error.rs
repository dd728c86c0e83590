//! Refusals, each with a line of cause ([`std::fmt::Display`]) and a line of cure
//! ([`PlacementError::cure`]): operators meet them at the first start of a cluster.

use holdfast_types::ErrorClass;

/// Why arguments or a layout document are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlacementError {
    // ---- the operator changes an argument ----------------------------------------------------
    /// No arguments at all.
    #[error("read volumes: none given")]
    NoVolumes,
    /// Braces that are not `{a...b}`.
    #[error("read volume {argument}: braces must hold a range like {{1...8}}")]
    Braces {
        /// The argument.
        argument: String,
    },
    /// Bounds that are neither decimal nor hexadecimal numbers.
    #[error("read volume {argument}: {range} is not a range of decimal or hexadecimal numbers")]
    RangeBounds {
        /// The argument.
        argument: String,
        /// The range.
        range: String,
    },
    /// The first bound is above the second.
    #[error("read volume {argument}: range {range} ends before it begins")]
    RangeOrder {
        /// The argument.
        argument: String,
        /// The range.
        range: String,
    },
    /// Zero padding that leaves open how wide the numbers are.
    #[error("read volume {argument}: range {range} pads its bounds to different widths")]
    RangePadding {
        /// The argument.
        argument: String,
        /// The range.
        range: String,
    },
    /// More drives than a cluster has.
    #[error("read volume {argument}: expands to more than {max} drives")]
    TooMany {
        /// The argument.
        argument: String,
        /// The limit.
        max: usize,
    },
    /// A scheme other than `http` and `https`.
    #[error("read volume {argument}: scheme {scheme} is not supported")]
    Scheme {
        /// The argument.
        argument: String,
        /// What stands before `://`.
        scheme: String,
    },
    /// A host or port that is none.
    #[error("read volume {argument}: {host} is not a host with an optional port")]
    Host {
        /// The argument.
        argument: String,
        /// What stands where the host should be.
        host: String,
    },
    /// A path that names no folder.
    #[error("read volume {argument}: {cause}")]
    Path {
        /// The argument.
        argument: String,
        /// What is wrong with the path.
        cause: &'static str,
    },
    /// Arguments with and without ranges.
    #[error("read volumes: {pattern} has a range and {plain} has none")]
    MixedNotation {
        /// One with a range.
        pattern: String,
        /// One without.
        plain: String,
    },
    /// Arguments with and without hosts.
    #[error("read volumes: {url} names a host and {path} names none")]
    MixedHosts {
        /// One with a host.
        url: String,
        /// One without.
        path: String,
    },
    /// Arguments with http and with https.
    #[error("read volumes: {http} is without TLS and {https} is with it")]
    MixedSchemes {
        /// One with http.
        http: String,
        /// One with https.
        https: String,
    },
    /// The same drive twice.
    #[error("read volumes: {endpoint} is named twice")]
    Duplicate {
        /// The drive.
        endpoint: String,
    },
    /// One folder of one host for two nodes.
    #[error("read volumes: folder {path} of host {host} is given to two nodes")]
    SharedFolder {
        /// The host.
        host: String,
        /// The folder.
        path: String,
    },
    /// Hosts of one pool with different numbers of drives.
    #[error("plan sets: {host} has {have} drives where {other} has {need}")]
    Uneven {
        /// One node.
        host: String,
        /// Its drives.
        have: usize,
        /// Another node of the pool.
        other: String,
        /// Its drives.
        need: usize,
    },
    /// No set size divides the pool.
    #[error(
        "plan sets: no set of 2 to 16 drives divides {hosts} hosts with {drives} drives each evenly"
    )]
    SetSize {
        /// Hosts of the pool.
        hosts: usize,
        /// Drives of each.
        drives: usize,
    },

    // ---- the document is damaged or not ours -------------------------------------------------
    /// Not a layout document.
    #[error("read layout document: {cause}")]
    DocumentSyntax {
        /// What the parser met.
        cause: String,
    },
    /// A format of another release.
    #[error("read layout document: format version {found} is unknown")]
    DocumentVersion {
        /// The version found.
        found: u64,
    },
    /// Changed after it was written.
    #[error("read layout document: checksum differs")]
    DocumentChecksum,
    /// Well formed, but not a layout.
    #[error("read layout document: {cause}")]
    DocumentInvalid {
        /// What is wrong, and with what.
        cause: String,
    },

    /// A drive of a set is to be replaced while another one does not count yet.
    #[error("replace a drive: drive {drive} ({path}) of its set is still being rebuilt")]
    MemberRebuilding {
        /// The drive that does not count yet.
        drive: holdfast_types::DriveId,
        /// Its path.
        path: String,
    },
}

impl PlacementError {
    /// What to do about it, one line.
    #[must_use]
    pub const fn cure(&self) -> &'static str {
        match self {
            Self::NoVolumes => "name the drives, for example /mnt/holdfast{1...4}",
            Self::Braces { .. } => "write ranges with three dots, for example {1...8}, not nested",
            Self::RangeBounds { .. } => {
                "give both bounds as decimal digits or hexadecimal digits of one case"
            }
            Self::RangeOrder { .. } => "put the smaller bound first",
            Self::RangePadding { .. } => "pad both bounds to one width, for example {01...16}",
            Self::TooMany { .. } => "check the ranges' bounds",
            Self::Scheme { .. } => "use http://, or https:// with --certs-dir",
            Self::Host { .. } => "write http://host:port/path, without user, query or fragment",
            Self::Path { .. } => "give the folder of one drive, for example /mnt/holdfast1",
            Self::MixedNotation { .. } => {
                "give every pool as one argument with ranges, or every drive as one without"
            }
            Self::MixedSchemes { .. } => "write https:// for every node, or http:// for every node",
            Self::MixedHosts { .. } => "name the host of every drive, or of none (a single node)",
            Self::Duplicate { .. } => "name every drive once",
            Self::SharedFolder { .. } => "give each node of a host folders of its own",
            Self::Uneven { .. } => "give every node of a pool equally many drives",
            Self::SetSize { .. } => {
                "use numbers of hosts and drives with a common structure, for example 4, 8, 12 or \
                 16 hosts, or split the hosts into several pools"
            }
            Self::MemberRebuilding { .. } => "wait until it counts, or bring it back",
            Self::DocumentVersion { .. } => "run the release that wrote it, or a newer one",
            Self::DocumentSyntax { .. } | Self::DocumentChecksum | Self::DocumentInvalid { .. } => {
                "take the document from another drive of the cluster; it is never edited by hand"
            }
        }
    }

    /// What a caller can do.
    #[must_use]
    pub const fn class(&self) -> ErrorClass {
        match self {
            Self::DocumentSyntax { .. } | Self::DocumentChecksum | Self::DocumentInvalid { .. } => {
                ErrorClass::Damaged
            }
            Self::DocumentVersion { .. } => ErrorClass::Unsupported,
            Self::MemberRebuilding { .. } => ErrorClass::Unavailable,
            _ => ErrorClass::Invalid,
        }
    }
}
