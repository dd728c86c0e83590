//! S3's additional checksums: of bytes as they pass, of objects completed from parts. Pure.
//!
//! An object completed from parts has either the checksum of its whole body, computed from those of
//! its parts (`FULL_OBJECT`; only CRCs can be combined), or the hash of its parts' hashes with the
//! number of parts behind it (`COMPOSITE`). S3 user guide, "Checking object integrity".

use base64::{Engine as _, engine::general_purpose::STANDARD};
use crc_fast::CrcAlgorithm;
use holdfast_md5::{Md5, update_many};
use sha1::{Digest as _, Sha1};
use sha2::Sha256;

use crate::{api::BodyDigest, meta::Checksum};

/// A kind of additional checksum.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Algorithm {
    /// CRC-32 as in zlib.
    Crc32,
    /// CRC-32C (Castagnoli).
    Crc32c,
    /// CRC-64/NVME.
    Crc64Nvme,
    /// SHA-1.
    Sha1,
    /// SHA-256.
    Sha256,
}

impl Algorithm {
    /// Every algorithm.
    pub const ALL: [Self; 5] =
        [Self::Crc32, Self::Crc32c, Self::Crc64Nvme, Self::Sha1, Self::Sha256];

    /// By S3's name of it.
    #[must_use]
    pub fn by_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }

    /// S3's name of it.
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

    /// Whether an upload may ask for this kind: CRC64NVME is always of the full object, SHA never.
    #[must_use]
    pub const fn allows(self, composite: bool) -> bool {
        match self {
            Self::Crc32 | Self::Crc32c => true,
            Self::Crc64Nvme => !composite,
            Self::Sha1 | Self::Sha256 => composite,
        }
    }

    /// Bytes of a value.
    #[must_use]
    pub const fn value_len(self) -> usize {
        match self {
            Self::Crc32 | Self::Crc32c => 4,
            Self::Crc64Nvme => 8,
            Self::Sha1 => 20,
            Self::Sha256 => 32,
        }
    }

    /// The bytes of a value in base64; `None` when they are not of this kind.
    #[must_use]
    pub fn parse_value(self, text: &str) -> Option<Vec<u8>> {
        STANDARD.decode(text).ok().filter(|bytes| bytes.len() == self.value_len())
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

/// Computes one checksum of bytes as they pass.
enum Hasher {
    Crc(crc_fast::Digest),
    Sha1(Sha1),
    Sha256(Sha256),
}

impl Hasher {
    fn new(algorithm: Algorithm) -> Self {
        match (algorithm, algorithm.crc()) {
            (_, Some(crc)) => Self::Crc(crc_fast::Digest::new(crc)),
            (Algorithm::Sha1, None) => Self::Sha1(Sha1::new()),
            (_, None) => Self::Sha256(Sha256::new()),
        }
    }

    fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Crc(crc) => crc.update(bytes),
            Self::Sha1(sha) => sha.update(bytes),
            Self::Sha256(sha) => sha.update(bytes),
        }
    }

    fn finish(self, algorithm: Algorithm) -> Vec<u8> {
        match self {
            Self::Crc(crc) => crc_bytes(algorithm, crc.finalize()),
            Self::Sha1(sha) => sha.finalize().to_vec(),
            Self::Sha256(sha) => sha.finalize().to_vec(),
        }
    }
}

fn crc_bytes(algorithm: Algorithm, value: u64) -> Vec<u8> {
    value.to_be_bytes()[8 - algorithm.value_len()..].to_vec()
}

fn crc_value(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0, |value, byte| value << 8 | u64::from(*byte))
}

/// Computes what is stored of a body as its bytes pass: MD5, and one checksum more if wanted.
pub struct Digester {
    md5: Md5,
    additional: Option<(Algorithm, Hasher)>,
}

impl Digester {
    /// A digester of no bytes yet.
    #[must_use]
    pub fn new(additional: Option<Algorithm>) -> Self {
        let additional = additional.map(|algorithm| (algorithm, Hasher::new(algorithm)));
        Self { md5: Md5::new(), additional }
    }

    /// Takes the next bytes in.
    pub fn update(&mut self, bytes: &[u8]) {
        self.md5.update(bytes);
        if let Some((_, hasher)) = &mut self.additional {
            hasher.update(bytes);
        }
    }

    /// Takes the next bytes of several bodies in, as [`Self::update`] of each: their MD5s are computed
    /// together, at a fraction of the work.
    pub fn update_many(bodies: &mut [(&mut Self, &[u8])]) {
        for (digester, bytes) in bodies.iter_mut() {
            if let Some((_, hasher)) = &mut digester.additional {
                hasher.update(bytes);
            }
        }
        let streams = bodies.iter_mut().map(|(digester, bytes)| (&mut digester.md5, *bytes));
        update_many(&mut streams.collect::<Vec<_>>());
    }

    /// Whether the additional checksum costs so much that it would hold up bodies hashed together.
    #[must_use]
    pub const fn is_slow(&self) -> bool {
        matches!(self.additional, Some((Algorithm::Sha1 | Algorithm::Sha256, _)))
    }

    /// What the bytes turned out to be.
    #[must_use]
    pub fn finish(self) -> BodyDigest {
        let checksum = self.additional.map(|(algorithm, hasher)| Checksum {
            algorithm: algorithm.name().to_owned(),
            value: STANDARD.encode(hasher.finish(algorithm)),
            composite: false,
        });
        BodyDigest { etag: hex(&self.md5.finish()), checksum }
    }
}

/// A part's share in the checksum of the object.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct PartSum {
    /// Bytes of the part.
    pub size: u64,
    /// The checksum's bytes.
    pub value: Vec<u8>,
}

/// The checksum of an object completed from `parts`.
///
/// # Panics
/// When `algorithm` does not allow the kind; uploads are checked when they are created.
#[must_use]
pub fn of_parts(algorithm: Algorithm, composite: bool, parts: &[PartSum]) -> Checksum {
    assert!(algorithm.allows(composite), "uploads are checked when they are created");
    let value = if composite {
        let mut hasher = Hasher::new(algorithm);
        for part in parts {
            hasher.update(&part.value);
        }
        format!("{}-{}", STANDARD.encode(hasher.finish(algorithm)), parts.len())
    } else {
        STANDARD.encode(combined(algorithm, parts))
    };
    Checksum { algorithm: algorithm.name().to_owned(), value, composite }
}

/// The CRC of the parts' bytes behind each other.
fn combined(algorithm: Algorithm, parts: &[PartSum]) -> Vec<u8> {
    let crc = algorithm.crc().expect("only CRCs are of the full object");
    let join = |sum: Option<u64>, part: &PartSum| {
        let value = crc_value(&part.value);
        Some(sum.map_or(value, |sum| crc_fast::checksum_combine(crc, sum, value, part.size)))
    };
    let empty = crc_fast::checksum(crc, &[]);
    crc_bytes(algorithm, parts.iter().fold(None, join).unwrap_or(empty))
}

/// S3's entity tag of an object completed from parts: the MD5 of the parts' MD5s, and their number.
/// `None` when a part's tag is no MD5 in hex.
#[must_use]
pub fn multipart_etag<'e>(etags: impl Iterator<Item = &'e str>) -> Option<String> {
    let mut md5 = Md5::new();
    let mut count = 0_usize;
    for etag in etags {
        md5.update(&parse_hex(etag)?);
        count += 1;
    }
    Some(format!("{}-{count}", hex(&md5.finish())))
}

/// Lower-case hex.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn parse_hex(text: &str) -> Option<[u8; 16]> {
    let digits = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    let value = u128::from_str_radix(text, 16).ok().filter(|_| digits)?;
    Some(value.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sum(algorithm: Algorithm, bytes: &[u8]) -> PartSum {
        let mut hasher = Hasher::new(algorithm);
        hasher.update(bytes);
        PartSum { size: bytes.len() as u64, value: hasher.finish(algorithm) }
    }

    /// Goal: the CRC of a whole body follows from its parts'. Method: cut a body everywhere, empty
    /// parts included, and compare with the CRC over all bytes.
    #[test]
    fn crcs_of_parts_combine_to_the_crc_of_the_whole() {
        let body: Vec<u8> = (0..200_u32).map(|i| (i * 37 + i / 7) as u8).collect();
        for algorithm in [Algorithm::Crc32, Algorithm::Crc32c, Algorithm::Crc64Nvme] {
            let whole = STANDARD.encode(sum(algorithm, &body).value);
            for cut in [0, 1, 63, 64, 199, 200] {
                let (head, tail) = body.split_at(cut);
                let (middle, end) = tail.split_at(tail.len() / 2);
                let parts = [head, middle, end].map(|bytes| sum(algorithm, bytes));
                assert_eq!(of_parts(algorithm, false, &parts).value, whole, "{algorithm:?} {cut}");
            }
        }
    }

    /// Goal: our values are those other implementations compute. Method: the published check values
    /// over "123456789", and the values ceph/s3-tests expect of three parts of 5 MiB of A, B, C.
    #[test]
    fn values_are_those_of_the_standards() {
        let checks = [
            (Algorithm::Crc32, "cbf43926"),
            (Algorithm::Crc32c, "e3069283"),
            (Algorithm::Crc64Nvme, "ae8b14860a799888"),
            (Algorithm::Sha1, "f7c3bc1d808e04732adf679965ccc34ca7ae3441"),
        ];
        for (algorithm, expected) in checks {
            assert_eq!(hex(&sum(algorithm, b"123456789").value), expected, "{algorithm:?}");
            assert_eq!(Algorithm::by_name(algorithm.name()), Some(algorithm));
        }
        let parse = |values: [&str; 3], algorithm: Algorithm| {
            values.map(|text| PartSum {
                size: 5 << 20,
                value: algorithm.parse_value(text).expect("a value of this kind"),
            })
        };
        let crcs = parse(["JRTCyQ==", "QoZTGg==", "YAgjqw=="], Algorithm::Crc32);
        assert_eq!(of_parts(Algorithm::Crc32, false, &crcs).value, "WgDhBQ==");
        let shas = [
            "275VF5loJr1YYawit0XSHREhkFXYkkPKGuoK0x9VKxI=",
            "mrHwOfjTL5Zwfj74F05HOQGLdUb7E5szdCbxgUSq6NM=",
            "Vw7oB/nKQ5xWb3hNgbyfkvDiivl+U+/Dft48nfJfDow=",
        ];
        let composite = of_parts(Algorithm::Sha256, true, &parse(shas, Algorithm::Sha256));
        assert_eq!(composite.value, "uWBwpe1dxI4Vw8Gf0X9ynOdw/SS6VBzfWm9giiv1sf4=-3");
        assert_eq!(sum(Algorithm::Sha256, b"").value.len(), Algorithm::Sha256.value_len());
    }

    /// Goal: entity tags of multipart objects are S3's. Method: parts of 5 MiB of A, B and C, whose
    /// tag ceph/s3-tests names.
    #[test]
    fn multipart_tags_are_those_of_s3() {
        let tag = |byte: u8| {
            let mut digester = Digester::new(None);
            digester.update(&vec![byte; 5 << 20]);
            digester.finish().etag
        };
        let tags = [tag(b'A'), tag(b'B'), tag(b'C')];
        let etag = multipart_etag(tags.iter().map(String::as_str));
        assert_eq!(etag.as_deref(), Some("b2add96cc9702bbf4efb0ccdfc6b7747-3"));
        assert_eq!(multipart_etag(["+1111111111111111111111111111111"].into_iter()), None);
    }

    /// Goal: a digester computes both digests of a body however it is cut, and whoever shares its
    /// lanes. Method: one pass in one piece, one byte by byte, one beside another body.
    #[test]
    fn a_digester_does_not_care_how_bytes_are_cut() {
        for algorithm in Algorithm::ALL {
            let mut whole = Digester::new(Some(algorithm));
            let mut bytewise = Digester::new(Some(algorithm));
            whole.update(b"the rock");
            let mut other = Digester::new(Some(Algorithm::Crc64Nvme));
            let mut together = Digester::new(Some(algorithm));
            for (rock, pool) in [(&b"the "[..], &b"a tide pool"[..]), (b"rock", b"")] {
                Digester::update_many(&mut [(&mut together, rock), (&mut other, pool)]);
            }
            b"the rock".iter().for_each(|byte| bytewise.update(&[*byte]));
            let whole = whole.finish();
            assert_eq!(whole, bytewise.finish());
            assert_eq!(whole, together.finish());
        }
    }
}
