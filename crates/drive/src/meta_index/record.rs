//! The form of a value inside an index (docs/format/index.md), and the digest of a whole index.
//!
//! ```text
//! format u8 = 1 | form u8: 1 value, 2 in runs | lsn u64 | value | checksum 16
//! checksum = XXH3-128 over key length u32, key and all before it
//! ```

use bytes::Bytes;
use holdfast_types::codec::{CodecError, Reader, Writer};
use xxhash_rust::xxh3::Xxh3;

use super::{INDEX_VALUE_BYTES_MAX, IndexError, Lookup, Lsn};

const FORMAT: u8 = 1;
const FORM_VALUE: u8 = 1;
const FORM_IN_RUNS: u8 = 2;
const CHECKSUM_BYTES: usize = 16;
const HEADER_BYTES: usize = 10;

/// The record kept for `value` under `key`: the value itself, or a pointer when it is too long.
#[must_use]
pub fn seal(key: &[u8], lsn: Lsn, value: &[u8]) -> Vec<u8> {
    let fits = value.len() <= INDEX_VALUE_BYTES_MAX;
    let kept = if fits { value } else { &[] };
    let mut out = Writer::with_capacity(HEADER_BYTES + kept.len() + CHECKSUM_BYTES);
    out.u8(FORMAT);
    out.u8(if fits { FORM_VALUE } else { FORM_IN_RUNS });
    out.raw(&lsn.0.to_be_bytes());
    out.raw(kept);
    let mut bytes = out.into_bytes();
    let sum = checksum(key, &bytes);
    bytes.extend_from_slice(&sum.to_be_bytes());
    bytes
}

/// The inverse of [`seal`].
///
/// # Errors
/// [`IndexError::Damaged`] when the record is not one sealed under `key`.
pub fn open(key: &[u8], record: &[u8]) -> Result<Lookup, IndexError> {
    let split = record.len().checked_sub(CHECKSUM_BYTES).filter(|at| *at >= HEADER_BYTES);
    let Some(split) = split else {
        return Err(IndexError::damaged(format!("a record of {} bytes", record.len())));
    };
    let (body, sum) = record.split_at(split);
    if checksum(key, body).to_be_bytes() != sum {
        return Err(IndexError::damaged("a record fails its checksum"));
    }
    parse(body).map_err(|error| IndexError::damaged(error.to_string()))
}

fn parse(body: &[u8]) -> Result<Lookup, CodecError> {
    let mut input = Reader::new(body);
    if input.u8()? != FORMAT {
        return Err(CodecError::Unknown("index record format"));
    }
    let form = input.u8()?;
    let lsn = Lsn(u64::from_be_bytes(input.array()?));
    match form {
        FORM_VALUE => {
            let bytes = Bytes::copy_from_slice(input.raw(input.remaining())?);
            Ok(Lookup::Value { lsn, bytes })
        }
        FORM_IN_RUNS => input.finish().map(|()| Lookup::InRuns { lsn }),
        _ => Err(CodecError::Unknown("index record form")),
    }
}

fn checksum(key: &[u8], body: &[u8]) -> u128 {
    let mut hash = Xxh3::new();
    hash.update(&(key.len() as u32).to_be_bytes());
    hash.update(key);
    hash.update(body);
    hash.digest128()
}

/// Count and digest of an index's records, kept up to date with every change: the sum (modulo 2^128)
/// of the records' checksums, which do not depend on the order in which they came.
///
/// A lost, stale or doubled record changes the sum; two different contents of equal sum have
/// probability 2^-128 a pair.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Digest {
    /// Records there are.
    pub count: u64,
    /// The sum of their checksums.
    pub sum: u128,
}

impl Digest {
    /// Counts a record in.
    pub fn add(&mut self, record: &[u8]) {
        self.count += 1;
        self.sum = self.sum.wrapping_add(stored_checksum(record));
    }

    /// Counts a record out.
    pub fn subtract(&mut self, record: &[u8]) {
        self.count = self.count.wrapping_sub(1);
        self.sum = self.sum.wrapping_sub(stored_checksum(record));
    }
}

/// The checksum a record ends with; callers have verified it, or verify it against the digest's own
/// certificate later.
fn stored_checksum(record: &[u8]) -> u128 {
    record.last_chunk::<CHECKSUM_BYTES>().map_or(0, |sum| u128::from_be_bytes(*sum))
}

/// What [`super::MetaIndex::certify`] writes and opening verifies.
///
/// ```text
/// magic 8 = "HFIXCRT1" | lsn u64 | count u64 | sum 16 | checksum 16 (XXH3-128 over all before it)
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Certificate {
    /// Everything up to here is in.
    pub lsn: Lsn,
    /// The content.
    pub digest: Digest,
}

const CERTIFICATE_MAGIC: [u8; 8] = *b"HFIXCRT1";

impl Certificate {
    /// The 56-byte form.
    #[must_use]
    pub fn to_bytes(self) -> Vec<u8> {
        let mut out = Writer::with_capacity(56);
        out.raw(&CERTIFICATE_MAGIC);
        out.raw(&self.lsn.0.to_be_bytes());
        out.raw(&self.digest.count.to_be_bytes());
        out.raw(&self.digest.sum.to_be_bytes());
        let mut bytes = out.into_bytes();
        let sum = xxhash_rust::xxh3::xxh3_128(&bytes);
        bytes.extend_from_slice(&sum.to_be_bytes());
        bytes
    }

    /// The inverse of [`Self::to_bytes`].
    ///
    /// # Errors
    /// [`IndexError::Mismatch`] when the bytes are not a certificate.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, IndexError> {
        let mismatch = |what: &str| IndexError::Mismatch { what: what.to_owned() };
        let split = bytes.len().checked_sub(CHECKSUM_BYTES);
        let split = split.ok_or_else(|| mismatch("the certificate is cut"))?;
        let (body, sum) = bytes.split_at(split);
        if xxhash_rust::xxh3::xxh3_128(body).to_be_bytes() != sum {
            return Err(mismatch("the certificate fails its checksum"));
        }
        let mut input = Reader::new(body);
        let read = |input: &mut Reader<'_>| -> Result<Self, CodecError> {
            if input.array::<8>()? != CERTIFICATE_MAGIC {
                return Err(CodecError::Unknown("certificate magic"));
            }
            let lsn = Lsn(u64::from_be_bytes(input.array()?));
            let count = u64::from_be_bytes(input.array()?);
            let sum = u128::from_be_bytes(input.array()?);
            Ok(Self { lsn, digest: Digest { count, sum } })
        };
        let certificate = read(&mut input).map_err(|error| mismatch(&error.to_string()))?;
        input.finish().map_err(|error| mismatch(&error.to_string()))?;
        Ok(certificate)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: no cut, flipped bit or foreign key passes for a record. Method: try each.
    #[test]
    fn only_the_record_sealed_under_the_key_opens() {
        let record = seal(b"key", Lsn(7), b"value");
        let value = Lookup::Value { lsn: Lsn(7), bytes: Bytes::from_static(b"value") };
        assert_eq!(open(b"key", &record), Ok(value));
        assert!(open(b"kez", &record).is_err());
        for cut in 0..record.len() {
            assert!(open(b"key", &record[..cut]).is_err(), "cut at {cut}");
        }
        for bit in 0..record.len() * 8 {
            let mut rotten = record.clone();
            rotten[bit / 8] ^= 1 << (bit % 8);
            assert!(open(b"key", &rotten).is_err(), "bit {bit}");
        }
    }

    /// Goal: long values become pointers. Method: one byte on either side of the border.
    #[test]
    fn values_beyond_the_limit_are_pointers() {
        let long = vec![9; INDEX_VALUE_BYTES_MAX + 1];
        assert_eq!(open(b"k", &seal(b"k", Lsn(3), &long)), Ok(Lookup::InRuns { lsn: Lsn(3) }));
        let fits = &long[..INDEX_VALUE_BYTES_MAX];
        let opened = open(b"k", &seal(b"k", Lsn(3), fits)).unwrap();
        assert!(matches!(opened, Lookup::Value { bytes, .. } if bytes == fits));
    }

    /// Goal: a certificate is read back whole or not at all. Method: round trip, every cut and bit.
    #[test]
    fn certificates_round_trip_and_refuse_rot() {
        let digest = Digest { count: 5, sum: 1 << 100 };
        let certificate = Certificate { lsn: Lsn(44), digest };
        let bytes = certificate.to_bytes();
        assert_eq!(Certificate::from_bytes(&bytes), Ok(certificate));
        for cut in 0..bytes.len() {
            assert!(Certificate::from_bytes(&bytes[..cut]).is_err());
        }
        for bit in 0..bytes.len() * 8 {
            let mut rotten = bytes.clone();
            rotten[bit / 8] ^= 1 << (bit % 8);
            assert!(Certificate::from_bytes(&rotten).is_err());
        }
    }
}
