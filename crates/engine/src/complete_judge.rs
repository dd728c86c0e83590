//! Whether the parts a client names make an object, and which. Pure.
//!
//! S3 API, CompleteMultipartUpload: InvalidPart, InvalidPartOrder, EntityTooSmall; BadDigest when the
//! checksum of the whole that the client announced is not that of the parts, InvalidRequest when its size
//! is not, or when the upload has no checksum of that kind to compare with.

use std::collections::BTreeMap;

use bytes::Bytes;
use holdfast_types::{Geometry, OperationId, PartRef, codec::CodecError, limits};
use prost::Message;
use sha2::{Digest as _, Sha256};

use crate::{
    api::{AnnouncedObject, CompletedPart, NamedChecksum, PartInfo},
    checksum::{Algorithm, PartSum, multipart_etag, of_parts},
    error::StoreError,
    meta::{Checksum, ObjectMeta, PartMeta},
    upload_record::UploadRecord,
};

/// The engine's record of a part: the metadata of its register. Never reuse a number.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct PartRecord {
    /// Number, size, entity tag, checksum.
    #[prost(message, required, tag = "1")]
    pub part: PartMeta,
    /// When it was sent, microseconds since the Unix epoch.
    #[prost(uint64, tag = "2")]
    pub modified_micros: u64,
}

impl PartRecord {
    /// The stored form.
    #[must_use]
    pub fn to_bytes(&self) -> Bytes {
        self.encode_to_vec().into()
    }

    /// Reads the stored form.
    ///
    /// # Errors
    /// [`CodecError`] when the bytes are no such record.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, CodecError> {
        Self::decode(bytes).map_err(|_| CodecError::Unknown("part record"))
    }

    /// What a client sees of it.
    #[must_use]
    pub fn info(&self) -> PartInfo {
        PartInfo { part: self.part.clone(), modified_micros: self.modified_micros }
    }
}

/// A part as it stands in its register.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FrozenPart {
    /// Its record.
    pub record: PartRecord,
    /// The operation that wrote its bytes.
    pub operation: OperationId,
    /// Their shape.
    pub geometry: Geometry,
}

/// The object that parts make.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Assembled {
    /// Its record; the time of writing is the caller's to set.
    pub meta: ObjectMeta,
    /// Its bytes.
    pub parts: Vec<PartRef>,
}

/// Identifies what a Complete asks for, so that a repeated call is recognised.
#[must_use]
pub fn request_digest(named: &[CompletedPart]) -> Bytes {
    let mut sha = Sha256::new();
    for part in named {
        sha.update(part.number.to_be_bytes());
        sha.update((part.etag.len() as u64).to_be_bytes());
        sha.update(&part.etag);
    }
    sha.finalize().to_vec().into()
}

/// What the client names, checked as far as that goes without the parts. A number named twice in a
/// row counts as named the second time, as with S3.
///
/// # Errors
/// [`StoreError::InvalidPartOrder`], [`StoreError::InvalidPart`], [`StoreError::InvalidArgument`].
pub fn check_request(named: &[CompletedPart]) -> Result<Vec<&CompletedPart>, StoreError> {
    if named.is_empty() || named.len() > limits::PARTS_MAX {
        let message =
            format!("{} parts named; 1 to {} make an object", named.len(), limits::PARTS_MAX);
        return Err(StoreError::InvalidArgument { message });
    }
    let mut distinct: Vec<&CompletedPart> = Vec::with_capacity(named.len());
    for part in named {
        if part.number == 0 || usize::from(part.number) > limits::PARTS_MAX {
            return Err(StoreError::InvalidPart { number: part.number });
        }
        match distinct.last_mut() {
            Some(last) if last.number > part.number => return Err(StoreError::InvalidPartOrder),
            Some(last) if last.number == part.number => *last = part,
            _ => distinct.push(part),
        }
    }
    Ok(distinct)
}

/// Makes an object of the parts named, or says why not.
///
/// # Errors
/// [`StoreError`]; see the module's description.
pub fn assemble(
    upload: &UploadRecord,
    frozen: &BTreeMap<u16, FrozenPart>,
    named: &[CompletedPart],
    announced: &AnnouncedObject,
) -> Result<Assembled, StoreError> {
    let named = check_request(named)?;
    check_kind(upload, announced)?;
    let mut chosen = Vec::with_capacity(named.len());
    for part in &named {
        let found = frozen.get(&part.number).filter(|found| matches(found, part));
        chosen.push(found.ok_or(StoreError::InvalidPart { number: part.number })?);
    }
    let (_, all_but_last) = chosen.split_last().expect("at least one part is named");
    let too_small = |part: &&&FrozenPart| part.record.part.size < limits::PART_BYTES_MIN;
    if let Some(part) = all_but_last.iter().find(too_small) {
        return Err(StoreError::PartTooSmall { number: part.record.part.number as u16 });
    }
    let size = chosen.iter().map(|part| part.record.part.size).sum();
    if size > limits::OBJECT_BYTES_MAX {
        return Err(StoreError::EntityTooLarge);
    }
    if let Some(announced) = announced.size.filter(|announced| *announced != size) {
        let message = format!("the parts make {size} bytes, {announced} were announced");
        return Err(StoreError::InvalidRequest { message });
    }
    let checksum = object_checksum(upload, &chosen)?;
    check_value(checksum.as_ref(), announced.checksum.as_ref())?;
    let etag = multipart_etag(chosen.iter().map(|part| part.record.part.etag.as_str()))
        .ok_or_else(|| StoreError::Internal { message: "a part's tag is no MD5".to_owned() })?;
    let meta = ObjectMeta {
        size,
        etag,
        modified_micros: 0,
        headers: upload.headers.clone(),
        user: upload.user.clone(),
        checksum,
        parts: chosen.iter().map(|part| part.record.part.clone()).collect(),
    };
    let as_ref = |part: &&FrozenPart| PartRef {
        number: part.record.part.number as u16,
        operation: part.operation,
        geometry: part.geometry,
    };
    let parts = chosen.iter().filter(|part| part.geometry.has_data()).map(as_ref).collect();
    Ok(Assembled { meta, parts })
}

/// Whether the part found is the one the client means. A checksum that is named and was never taken of the
/// part is a mismatch: to pass it over would be to confirm it.
fn matches(found: &FrozenPart, named: &CompletedPart) -> bool {
    let part = &found.record.part;
    let confirms = |named: &NamedChecksum| {
        part.checksum.as_ref().is_some_and(|stored| {
            stored.algorithm == named.algorithm.name() && stored.value == named.value
        })
    };
    part.etag == named.etag && named.checksum.as_ref().is_none_or(confirms)
}

/// Whether the checksum announced is of the upload's kind: another one would not be compared.
fn check_kind(upload: &UploadRecord, announced: &AnnouncedObject) -> Result<(), StoreError> {
    let mismatch = |expected: &str, actual: &str| {
        let message =
            format!("the upload was created with checksum {expected}, {actual} was announced");
        Err(StoreError::InvalidRequest { message })
    };
    let of_upload = upload.checksum_algorithm.as_deref().unwrap_or("none");
    if let Some(NamedChecksum { algorithm, .. }) = announced.checksum
        && algorithm.name() != of_upload
    {
        return mismatch(of_upload, algorithm.name());
    }
    let kind = |composite| if composite { "COMPOSITE" } else { "FULL_OBJECT" };
    match (announced.composite, upload.checksum_algorithm.is_some()) {
        (Some(composite), false) => mismatch("none", kind(composite)),
        (Some(composite), true) if composite != upload.checksum_composite => {
            mismatch(kind(upload.checksum_composite), kind(composite))
        }
        _ => Ok(()),
    }
}

/// The checksum of the object, when the upload has an algorithm.
fn object_checksum(
    upload: &UploadRecord,
    parts: &[&FrozenPart],
) -> Result<Option<Checksum>, StoreError> {
    let name = upload.checksum_algorithm.as_deref();
    let Some(algorithm) = name.and_then(Algorithm::by_name) else { return Ok(None) };
    let sum_of = |part: &&FrozenPart| {
        let meta = &part.record.part;
        let checksum = meta.checksum.as_ref().filter(|sum| sum.algorithm == algorithm.name());
        let value = checksum.and_then(|sum| algorithm.parse_value(&sum.value));
        let value = value.ok_or(StoreError::InvalidPart { number: meta.number as u16 })?;
        Ok(PartSum { size: meta.size, value })
    };
    let sums = parts.iter().map(sum_of).collect::<Result<Vec<_>, StoreError>>()?;
    Ok(Some(of_parts(algorithm, upload.checksum_composite, &sums)))
}

/// Whether the checksum of the whole that the client announced is the one computed. A composite one may
/// come without the number of parts.
fn check_value(
    computed: Option<&Checksum>,
    announced: Option<&NamedChecksum>,
) -> Result<(), StoreError> {
    let (Some(computed), Some(announced)) = (computed, announced) else { return Ok(()) };
    let bare = computed.value.rsplit_once('-').map_or(computed.value.as_str(), |(bare, _)| bare);
    if announced.value == computed.value || (computed.composite && announced.value == bare) {
        return Ok(());
    }
    Err(StoreError::BodyRejected {
        code: "BadDigest",
        message: format!("the {} of the parts is not the one announced", computed.algorithm),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum::Digester;

    const MIB: u64 = 1 << 20;

    fn frozen(number: u16, size: u64, algorithm: Option<Algorithm>) -> FrozenPart {
        let mut digester = Digester::new(algorithm);
        digester.update(&number.to_be_bytes());
        let digest = digester.finish();
        let part =
            PartMeta { number: number.into(), size, etag: digest.etag, checksum: digest.checksum };
        FrozenPart {
            record: PartRecord { part, modified_micros: 3 },
            operation: OperationId(number.into()),
            geometry: Geometry::new(2, 4, size),
        }
    }

    fn parts(sizes: &[(u16, u64)], algorithm: Option<Algorithm>) -> BTreeMap<u16, FrozenPart> {
        sizes.iter().map(|(number, size)| (*number, frozen(*number, *size, algorithm))).collect()
    }

    fn named(frozen: &BTreeMap<u16, FrozenPart>) -> Vec<CompletedPart> {
        let name = |(number, part): (&u16, &FrozenPart)| CompletedPart {
            number: *number,
            etag: part.record.part.etag.clone(),
            checksum: None,
        };
        frozen.iter().map(name).collect()
    }

    fn crc32(value: &str) -> Option<NamedChecksum> {
        Some(NamedChecksum { algorithm: Algorithm::Crc32, value: value.to_owned() })
    }

    fn created_with(algorithm: Algorithm, composite: bool) -> UploadRecord {
        UploadRecord {
            checksum_algorithm: Some(algorithm.name().to_owned()),
            checksum_composite: composite,
            ..UploadRecord::default()
        }
    }

    fn judge(
        frozen: &BTreeMap<u16, FrozenPart>,
        named: &[CompletedPart],
    ) -> Result<Assembled, StoreError> {
        assemble(&UploadRecord::default(), frozen, named, &AnnouncedObject::default())
    }

    /// Goal: the object is made of the parts named, in order, each with its own shape. Method: three
    /// parts with a gap, of which two are named.
    #[test]
    fn an_object_is_made_of_the_parts_named() {
        let all = parts(&[(1, 5 * MIB), (4, 6 * MIB), (9, 1)], None);
        let two = named(&all).into_iter().filter(|part| part.number != 4).collect::<Vec<_>>();
        let made = judge(&all, &two).expect("both parts fit");
        assert_eq!(made.meta.size, 5 * MIB + 1);
        assert!(made.meta.etag.ends_with("-2"));
        let numbers: Vec<_> = made.parts.iter().map(|p| (p.number, p.geometry.size)).collect();
        assert_eq!(numbers, [(1, 5 * MIB), (9, 1)]);
    }

    /// Goal: each mismatch has S3's error. Method: one wrong request each.
    #[test]
    fn mismatches_are_told_apart() {
        let all = parts(&[(1, 5 * MIB), (2, 4 * MIB), (3, 1)], None);
        let right = named(&all);
        assert_eq!(judge(&all, &right), Err(StoreError::PartTooSmall { number: 2 }));
        let mut wrong_tag = right.clone();
        wrong_tag[2].etag = "f".repeat(32);
        assert_eq!(judge(&all, &wrong_tag), Err(StoreError::InvalidPart { number: 3 }));
        let mut missing = right.clone();
        missing[2].number = 9;
        assert_eq!(judge(&all, &missing), Err(StoreError::InvalidPart { number: 9 }));
        let mut order = right.clone();
        order.swap(0, 1);
        assert_eq!(judge(&all, &order), Err(StoreError::InvalidPartOrder));
        assert!(matches!(judge(&all, &[]), Err(StoreError::InvalidArgument { .. })));
        let mut sum = right.clone();
        sum[0].checksum = crc32("AAAAAA==");
        let none_was_taken = Err(StoreError::InvalidPart { number: 1 });
        assert_eq!(judge(&all, &sum[..1]), none_was_taken);
        assert_ne!(request_digest(&right), request_digest(&order));
    }

    /// Goal: a number named twice in a row means its last mention (ceph/s3-tests:
    /// `test_multipart_resend_first_finishes_last`). Method: name an overwritten tag first.
    #[test]
    fn the_last_mention_of_a_number_counts() {
        let all = parts(&[(1, 8)], None);
        let mut twice = named(&all);
        twice.insert(0, CompletedPart { etag: "0".repeat(32), ..twice[0].clone() });
        assert_eq!(judge(&all, &twice).map(|made| made.parts.len()), Ok(1));
    }

    /// Goal: the checksum of the whole is computed and held against the announced one. Method: CRC
    /// of the full object and composite SHA-256, announced rightly and wrongly.
    #[test]
    fn announced_checksums_are_verified() {
        for (algorithm, composite) in [(Algorithm::Crc32, false), (Algorithm::Sha256, true)] {
            let all = parts(&[(1, 5 * MIB), (2, 7)], Some(algorithm));
            let upload = created_with(algorithm, composite);
            let request = named(&all);
            let make = |named: &[CompletedPart], value: Option<&str>| {
                let checksum =
                    value.map(|value| NamedChecksum { algorithm, value: value.to_owned() });
                let announced = AnnouncedObject { checksum, ..AnnouncedObject::default() };
                assemble(&upload, &all, named, &announced)
            };
            let made = make(&request, None).expect("parts fit");
            let value = made.meta.checksum.expect("computed").value;
            assert!(make(&request, Some(&value)).is_ok());
            let wrong = make(&request, Some("bad"));
            assert!(matches!(wrong, Err(StoreError::BodyRejected { code: "BadDigest", .. })));
            let mut named_wrong = request.clone();
            named_wrong[1].checksum = crc32("AAAAAA==");
            assert_eq!(make(&named_wrong, None), Err(StoreError::InvalidPart { number: 2 }));
        }
    }

    /// Goal: nothing announced is passed over. The story: a checksum of the whole was taken and not
    /// looked at when the upload had none, or another kind, and a wrong size always. Method: the table.
    #[test]
    fn what_cannot_be_compared_is_refused() {
        let sum = crc32("AAAAAA==");
        let rows = [
            (None, false, AnnouncedObject { checksum: sum.clone(), ..Default::default() }),
            (None, false, AnnouncedObject { composite: Some(false), ..Default::default() }),
            (None, false, AnnouncedObject { size: Some(5 * MIB), ..Default::default() }),
            (Some(Algorithm::Sha1), true, AnnouncedObject { checksum: sum, ..Default::default() }),
            (
                Some(Algorithm::Crc32),
                false,
                AnnouncedObject { composite: Some(true), ..Default::default() },
            ),
            (
                Some(Algorithm::Crc32),
                true,
                AnnouncedObject { composite: Some(false), ..Default::default() },
            ),
        ];
        for (algorithm, composite, announced) in rows {
            let all = parts(&[(1, 5 * MIB), (2, 7)], algorithm);
            let created = |algorithm| created_with(algorithm, composite);
            let upload = algorithm.map_or_else(UploadRecord::default, created);
            let made = assemble(&upload, &all, &named(&all), &announced);
            assert!(matches!(made, Err(StoreError::InvalidRequest { .. })), "{announced:?}");
        }
        let all = parts(&[(1, 5 * MIB), (2, 7)], Some(Algorithm::Crc32));
        let right = AnnouncedObject {
            composite: Some(false),
            size: Some(5 * MIB + 7),
            ..AnnouncedObject::default()
        };
        let upload = created_with(Algorithm::Crc32, false);
        assert!(assemble(&upload, &all, &named(&all), &right).is_ok());
    }
}
