//! S3's additional checksums: computed over bodies as they pass, and combined over parts.
//!
//! Source: S3 user guide, "Checking object integrity for data uploads". CRC64NVME is always of the
//! full object, SHA-1 and SHA-256 of multipart objects are always composite, CRC32 and CRC32C can be
//! either.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use crc_fast::{CrcAlgorithm, checksum_combine};
use sha2::Digest as _;

use crate::meta::{Checksum, PartMeta};

/// A kind of additional checksum.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ChecksumAlgorithm {
    /// `CRC32` (ISO-HDLC).
    Crc32,
    /// `CRC32C` (Castagnoli).
    Crc32c,
    /// `CRC64NVME`.
    Crc64Nvme,
    /// `SHA1`.
    Sha1,
    /// `SHA256`.
    Sha256,
}

impl ChecksumAlgorithm {
    /// Every kind.
    pub const ALL: [Self; 5] =
        [Self::Crc32, Self::Crc32c, Self::Crc64Nvme, Self::Sha1, Self::Sha256];

    /// S3's name, which is also the stored one.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Crc32 => "CRC32",
            Self::Crc32c => "CRC32C",
            Self::Crc64Nvme => "CRC64NVME",
            Self::Sha1 => "SHA1",
            Self::Sha256 => "SHA256",
        }
    }

    /// The kind of that name, in any case.
    #[must_use]
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name().eq_ignore_ascii_case(name))
    }

    /// Bytes of a value of this kind.
    #[must_use]
    pub const fn value_bytes(self) -> usize {
        match self {
            Self::Crc32 | Self::Crc32c => 4,
            Self::Crc64Nvme => 8,
            Self::Sha1 => 20,
            Self::Sha256 => 32,
        }
    }

    /// Whether multipart objects are composite of this kind when the client does not say.
    #[must_use]
    pub const fn composite_by_default(self) -> bool {
        !matches!(self, Self::Crc64Nvme)
    }

    /// Whether multipart objects can have this kind in that form.
    #[must_use]
    pub const fn allows(self, composite: bool) -> bool {
        match self {
            Self::Crc32 | Self::Crc32c => true,
            Self::Crc64Nvme => !composite,
            Self::Sha1 | Self::Sha256 => composite,
        }
    }

    /// Whether `value` is base64 of the right length.
    #[must_use]
    pub fn accepts(self, value: &str) -> bool {
        BASE64.decode(value).is_ok_and(|raw| raw.len() == self.value_bytes())
    }

    const fn crc(self) -> Option<CrcAlgorithm> {
        match self {
            Self::Crc32 => Some(CrcAlgorithm::Crc32IsoHdlc),
            Self::Crc32c => Some(CrcAlgorithm::Crc32Iscsi),
            Self::Crc64Nvme => Some(CrcAlgorithm::Crc64Nvme),
            Self::Sha1 | Self::Sha256 => None,
        }
    }
}

/// A checksum under way.
pub struct ChecksumHasher {
    algorithm: ChecksumAlgorithm,
    state: State,
}

enum State {
    Crc(Box<crc_fast::Digest>),
    Sha1(sha1::Sha1),
    Sha256(sha2::Sha256),
}

impl ChecksumHasher {
    /// A checksum of nothing yet.
    #[must_use]
    pub fn new(algorithm: ChecksumAlgorithm) -> Self {
        let state = match (algorithm.crc(), algorithm) {
            (Some(crc), _) => State::Crc(Box::new(crc_fast::Digest::new(crc))),
            (None, ChecksumAlgorithm::Sha1) => State::Sha1(sha1::Sha1::default()),
            (None, _) => State::Sha256(sha2::Sha256::default()),
        };
        Self { algorithm, state }
    }

    /// What it computes.
    #[must_use]
    pub const fn algorithm(&self) -> ChecksumAlgorithm {
        self.algorithm
    }

    /// Takes in more of the body.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.state {
            State::Crc(digest) => digest.update(bytes),
            State::Sha1(digest) => digest.update(bytes),
            State::Sha256(digest) => digest.update(bytes),
        }
    }

    /// The value over everything taken in, as a checksum of a full object.
    #[must_use]
    pub fn finish(self) -> Checksum {
        let raw = match self.state {
            State::Crc(digest) => crc_bytes(self.algorithm, digest.finalize()),
            State::Sha1(digest) => digest.finalize().to_vec(),
            State::Sha256(digest) => digest.finalize().to_vec(),
        };
        Checksum {
            algorithm: self.algorithm.name().to_owned(),
            value: BASE64.encode(raw),
            composite: false,
        }
    }
}

/// The checksum of an object made of `parts`, in order. `None` when a part has no checksum of this
/// kind, or the kind cannot be had in that form.
#[must_use]
pub fn of_parts(
    algorithm: ChecksumAlgorithm,
    composite: bool,
    parts: &[PartMeta],
) -> Option<Checksum> {
    if !algorithm.allows(composite) {
        return None;
    }
    let values = parts.iter().map(|part| {
        let checksum = part.checksum.as_ref().filter(|sum| sum.algorithm == algorithm.name())?;
        let raw = BASE64.decode(&checksum.value).ok()?;
        (raw.len() == algorithm.value_bytes()).then_some((raw, part.size))
    });
    let value = if composite {
        let mut whole = ChecksumHasher::new(algorithm);
        for value in values {
            whole.update(&value?.0);
        }
        format!("{}-{}", whole.finish().value, parts.len())
    } else {
        let crc = algorithm.crc()?;
        let mut whole = crc_fast::Digest::new(crc).finalize();
        for value in values {
            let (raw, size) = value?;
            let part = raw.iter().fold(0, |sum, byte| (sum << 8) | u64::from(*byte));
            whole = checksum_combine(crc, whole, part, size);
        }
        BASE64.encode(crc_bytes(algorithm, whole))
    };
    Some(Checksum { algorithm: algorithm.name().to_owned(), value, composite })
}

/// S3 sends CRCs as big-endian bytes of their own width.
fn crc_bytes(algorithm: ChecksumAlgorithm, crc: u64) -> Vec<u8> {
    crc.to_be_bytes()[8 - algorithm.value_bytes()..].to_vec()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The check values of the CRC catalogue and of FIPS 180 for "123456789" and "abc".
    #[test]
    fn known_values() {
        let known = [
            (ChecksumAlgorithm::Crc32, "cbf43926"),
            (ChecksumAlgorithm::Crc32c, "e3069283"),
            (ChecksumAlgorithm::Crc64Nvme, "ae8b14860a799888"),
        ];
        for (algorithm, value) in known {
            let mut hasher = ChecksumHasher::new(algorithm);
            hasher.update(b"1234");
            hasher.update(b"56789");
            let raw = BASE64.decode(hasher.finish().value).unwrap();
            let hex: String = raw.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(hex, value, "{algorithm:?}");
        }
        let mut sha = ChecksumHasher::new(ChecksumAlgorithm::Sha1);
        sha.update(b"abc");
        assert_eq!(sha.finish().value, "qZk+NkcGgWq6PiVxeFDCbJzQ2J0=");
    }

    /// Goal: CRCs of a full object follow from its parts. Method: compare with one pass over all.
    #[test]
    fn full_object_crcs_combine_and_composites_count_parts() {
        let bodies: [&[u8]; 3] = [&[7; 1000], &[9; 1], &[3; 77]];
        for algorithm in ChecksumAlgorithm::ALL {
            let mut whole = ChecksumHasher::new(algorithm);
            let parts: Vec<PartMeta> = bodies
                .iter()
                .map(|body| {
                    whole.update(body);
                    let mut part = ChecksumHasher::new(algorithm);
                    part.update(body);
                    let size = body.len() as u64;
                    PartMeta { size, checksum: Some(part.finish()), ..PartMeta::default() }
                })
                .collect();
            let full = of_parts(algorithm, false, &parts);
            let expected = algorithm.allows(false).then(|| whole.finish());
            assert_eq!(full, expected, "{algorithm:?}");
            let composite = of_parts(algorithm, true, &parts);
            assert_eq!(composite.is_some(), algorithm.allows(true), "{algorithm:?}");
            if let Some(sum) = composite {
                assert!(sum.composite && sum.value.ends_with("-3"), "{sum:?}");
            }
        }
    }

    #[test]
    fn a_part_without_a_checksum_leaves_none() {
        let parts = [PartMeta { size: 1, ..PartMeta::default() }];
        assert_eq!(of_parts(ChecksumAlgorithm::Crc32, true, &parts), None);
        assert_eq!(of_parts(ChecksumAlgorithm::Crc64Nvme, false, &parts), None);
    }
}
