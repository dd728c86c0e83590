//! The vocabulary's values as bytes fields and back. Nothing here panics on what the wire brings.

use bytes::Bytes;
use holdfast_types::{
    Ballot, BucketStamp, Entry, Geometry, RegisterKey, VersionId,
    codec::{CodecError, Reader, Writer},
    limits,
};

use crate::WireError;

/// Bytes of a register key at most: every byte of a key escaped, keyspace, bucket, terminators, an
/// upload id and a part number, escaped once more as a part's name.
const KEY_FIELD_BYTES_MAX: usize = 4 * limits::KEY_BYTES_MAX + 128;

/// Bytes of an entry's record at most: metadata, the longest part list, the fixed fields.
const ENTRY_FIELD_BYTES_MAX: usize = limits::METADATA_BYTES_MAX + limits::PARTS_MAX * 48 + 256;

/// An identifier (or version) as a field.
#[must_use]
pub fn id(bytes: [u8; 16]) -> Bytes {
    Bytes::copy_from_slice(&bytes)
}

/// The 16 bytes of an identifier.
///
/// # Errors
/// [`WireError::Malformed`] when there are not exactly 16.
pub fn read_id(bytes: &[u8], field: &'static str) -> Result<[u8; 16], WireError> {
    bytes.try_into().map_err(|_| WireError::Malformed(field))
}

/// A version as a field.
#[must_use]
pub fn version(version: VersionId) -> Bytes {
    id(version.0.to_be_bytes())
}

/// The inverse of [`version`].
///
/// # Errors
/// [`WireError::Malformed`] when there are not exactly 16 bytes.
pub fn read_version(bytes: &[u8]) -> Result<VersionId, WireError> {
    read_id(bytes, "version").map(|raw| VersionId(u128::from_be_bytes(raw)))
}

/// A ballot as a field.
#[must_use]
pub fn ballot(ballot: &Ballot) -> Bytes {
    written(28, |out| ballot.encode(out))
}

/// The inverse of [`ballot`].
///
/// # Errors
/// [`WireError`] when the bytes are no ballot.
pub fn read_ballot(bytes: &[u8]) -> Result<Ballot, WireError> {
    whole(bytes, "ballot", Ballot::decode)
}

/// A bucket stamp as a field.
#[must_use]
pub fn stamp(stamp: &BucketStamp) -> Bytes {
    written(28, |out| stamp.encode(out))
}

/// The inverse of [`stamp`].
///
/// # Errors
/// [`WireError`] when the bytes are no stamp.
pub fn read_stamp(bytes: &[u8]) -> Result<BucketStamp, WireError> {
    whole(bytes, "bucket stamp", BucketStamp::decode)
}

/// A geometry as a field.
#[must_use]
pub fn geometry(geometry: &Geometry) -> Bytes {
    written(16, |out| geometry.encode(out))
}

/// The inverse of [`geometry`].
///
/// # Errors
/// [`WireError`] when the bytes are no geometry.
pub fn read_geometry(bytes: &[u8]) -> Result<Geometry, WireError> {
    whole(bytes, "geometry", Geometry::decode)
}

/// A register key as a field.
#[must_use]
pub fn key(key: &RegisterKey) -> Bytes {
    key.encode().into()
}

/// The inverse of [`key`].
///
/// # Errors
/// [`WireError`] when the bytes are no key, or beyond the limit of keys.
pub fn read_key(bytes: &[u8]) -> Result<RegisterKey, WireError> {
    if bytes.len() > KEY_FIELD_BYTES_MAX {
        return Err(WireError::TooLong("key"));
    }
    whole(bytes, "key", RegisterKey::decode)
}

/// The inverse of [`Entry::to_bytes`].
///
/// # Errors
/// [`WireError`] when the bytes are no entry, or beyond the limit of entries.
pub fn read_entry(bytes: &[u8]) -> Result<Entry, WireError> {
    if bytes.len() > ENTRY_FIELD_BYTES_MAX {
        return Err(WireError::TooLong("entry"));
    }
    whole(bytes, "entry", Entry::decode)
}

/// A number that must fit a narrower type.
///
/// # Errors
/// [`WireError::Malformed`] when it does not.
pub fn narrow<T: TryFrom<u32>>(value: u32, field: &'static str) -> Result<T, WireError> {
    T::try_from(value).map_err(|_| WireError::Malformed(field))
}

fn written(capacity: usize, write: impl FnOnce(&mut Writer)) -> Bytes {
    let mut out = Writer::with_capacity(capacity);
    write(&mut out);
    out.into_bytes().into()
}

fn whole<T>(
    bytes: &[u8],
    field: &'static str,
    read: impl FnOnce(&mut Reader<'_>) -> Result<T, CodecError>,
) -> Result<T, WireError> {
    let wrap = |source| WireError::Record { field, source };
    let mut input = Reader::new(bytes);
    let value = read(&mut input).map_err(wrap)?;
    input.finish().map_err(wrap)?;
    Ok(value)
}

#[cfg(test)]
mod tests {
    use holdfast_types::{BucketId, HybridTime, OperationId, WriterId};

    use super::*;

    /// Goal: values come back as they went, and no cut or longer form passes. Method: one value of
    /// each kind, each of its proper prefixes, and one byte more.
    #[test]
    fn values_round_trip_and_nothing_else_is_read() {
        let sample =
            Ballot { generation: 3, time: HybridTime::from_micros(77), writer: WriterId(9) };
        let part = RegisterKey::part(BucketId(4), b"a\0/\xff", OperationId(8), 10_000);
        let shape = Geometry::new(12, 16, 1 << 33);
        check(ballot(&sample), &sample, read_ballot);
        check(stamp(&BucketStamp::REGISTRY), &BucketStamp::REGISTRY, read_stamp);
        check(geometry(&shape), &shape, read_geometry);
        check(key(&part), &part, read_key);
        check(version(VersionId(5)), &VersionId(5), read_version);
    }

    fn check<T: PartialEq + std::fmt::Debug>(
        bytes: Bytes,
        value: &T,
        read: impl Fn(&[u8]) -> Result<T, WireError>,
    ) {
        assert_eq!(read(&bytes).as_ref(), Ok(value));
        for cut in 0..bytes.len() {
            assert!(read(&bytes[..cut]).is_err(), "{value:?} cut at {cut}");
        }
        let longer = [&bytes[..], &[0]].concat();
        assert!(read(&longer).is_err(), "{value:?} with a trailing byte");
    }

    /// Goal: no field outgrows its limit. Method: the longest key there may be passes, a longer one
    /// is refused before it is read.
    #[test]
    fn limits_admit_the_longest_value_and_refuse_more() {
        let zeros = vec![0; limits::KEY_BYTES_MAX];
        let longest = RegisterKey::part(BucketId(4), &zeros, OperationId(0), 1);
        assert_eq!(read_key(&key(&longest)), Ok(longest));
        let beyond = vec![1; KEY_FIELD_BYTES_MAX + 1];
        assert_eq!(read_key(&beyond), Err(WireError::TooLong("key")));
        let beyond = vec![1; ENTRY_FIELD_BYTES_MAX + 1];
        assert_eq!(read_entry(&beyond), Err(WireError::TooLong("entry")));
    }
}
