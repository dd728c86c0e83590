//! Multipart uploads.

use std::collections::BTreeMap;

use holdfast_engine::{
    StoreError,
    api::*,
    checksum::{Algorithm, PartSum, multipart_etag, of_parts},
    meta::{Checksum, ObjectMeta, PartMeta},
};
use holdfast_types::{OperationId, limits::PART_BYTES_MIN};

use super::{Chunks, MemoryStore, Object, Part, Upload, select, store::info};

impl MemoryStore {
    pub(super) fn begin_upload(&self, create: CreateUpload) -> Result<UploadInfo, StoreError> {
        let info = UploadInfo {
            key: create.key.clone(),
            upload: OperationId::draw(&*self.random),
            created_micros: self.now(),
            checksum_algorithm: create.checksum_algorithm,
            checksum_composite: create.checksum_composite,
            attributes: create.attributes,
        };
        self.with(&create.bucket, |bucket| {
            let upload = Upload { info: info.clone(), parts: BTreeMap::new() };
            bucket.uploads.insert((create.key, info.upload), upload);
            Ok(info)
        })
    }

    pub(super) fn keep_part(
        &self,
        put: &PutPart,
        body: Chunks,
        digest: BodyDigest,
    ) -> Result<PartInfo, StoreError> {
        let meta = PartMeta {
            number: u32::from(put.number),
            size: body.iter().map(|chunk| chunk.len() as u64).sum(),
            etag: digest.etag,
            checksum: digest.checksum,
        };
        let modified_micros = self.now();
        self.with(&put.bucket, |bucket| {
            let upload = bucket.upload(&put.key, put.upload)?;
            let part = Part { meta: meta.clone(), modified_micros, body };
            upload.parts.insert(put.number, part);
            Ok(PartInfo { part: meta, modified_micros })
        })
    }

    pub(super) fn part_page(
        &self,
        bucket: &str,
        key: &[u8],
        upload: OperationId,
        after: u16,
        limit: usize,
    ) -> Result<PartPage, StoreError> {
        self.with(bucket, |bucket| {
            let upload = bucket.upload(key, upload)?;
            let mut rest = upload.parts.iter().filter(|(number, _)| **number > after);
            let parts = rest.by_ref().take(limit).map(|(_, part)| PartInfo {
                part: part.meta.clone(),
                modified_micros: part.modified_micros,
            });
            let parts = parts.collect();
            Ok(PartPage { upload: upload.info.clone(), parts, truncated: rest.next().is_some() })
        })
    }

    pub(super) fn upload_page(&self, list: &ListUploads) -> Result<UploadPage, StoreError> {
        self.with(&list.bucket, |bucket| {
            let after = (list.after_key.clone(), list.after_upload);
            let page = select::page(
                &bucket.uploads,
                (&list.prefix, &list.delimiter, list.limit),
                |(key, _)| key,
                |(key, id)| match after.1 {
                    Some(upload) => (key, *id) > (&after.0, upload),
                    None => *key > after.0,
                },
                &list.after_key,
                |_, upload| upload.info.clone(),
            );
            Ok(UploadPage {
                uploads: page.items,
                prefixes: page.prefixes,
                truncated: page.next.is_some(),
            })
        })
    }

    pub(super) fn finish_upload(&self, complete: CompleteUpload) -> Result<ObjectInfo, StoreError> {
        let modified_micros = self.now();
        self.with(&complete.bucket, |bucket| {
            if let Some((parts, answer)) = bucket.completed.get(&complete.upload)
                && *parts == complete.parts
            {
                return Ok(answer.clone());
            }
            let upload = bucket.upload(&complete.key, complete.upload)?;
            check_kind(&upload.info, &complete.announced)?;
            let (parts, body) = named_parts(upload, &complete)?;
            let size: u64 = parts.iter().map(|part| part.size).sum();
            if complete.announced.size.is_some_and(|announced| announced != size) {
                return Err(contradiction("another size was announced"));
            }
            let value = complete.announced.checksum.as_ref().map(|sum| sum.value.as_str());
            let checksum = whole_checksum(upload, &parts, value)?;
            let etag = multipart_etag(parts.iter().map(|part| part.etag.as_str()));
            let meta = ObjectMeta {
                size,
                etag: etag.unwrap_or_default(),
                modified_micros,
                headers: upload.info.attributes.headers.clone(),
                user: upload.info.attributes.user.clone(),
                checksum,
                parts,
            };
            let current = bucket.objects.get(&complete.key).map(|object| &object.meta);
            select::check_write(&complete.conditions, current)?;
            let answer = info(&meta);
            bucket.uploads.remove(&(complete.key.clone(), complete.upload));
            bucket.objects.insert(complete.key.clone(), Object { meta, body });
            bucket.completed.insert(complete.upload, (complete.parts.clone(), answer.clone()));
            Ok(answer)
        })
    }
}

fn contradiction(message: &str) -> StoreError {
    StoreError::InvalidRequest { message: message.to_owned() }
}

fn check_kind(upload: &UploadInfo, announced: &AnnouncedObject) -> Result<(), StoreError> {
    let kind = announced.checksum.as_ref().map(|sum| sum.algorithm.name());
    if kind.is_some() && kind != upload.checksum_algorithm.as_deref() {
        return Err(contradiction("a checksum of another kind was announced"));
    }
    let composite = upload.checksum_algorithm.as_ref().map(|_| upload.checksum_composite);
    match announced.composite {
        Some(announced) if Some(announced) != composite => {
            Err(contradiction("another checksum type was announced"))
        }
        _ => Ok(()),
    }
}

/// The parts that a client names, when they are what it thinks they are.
fn named_parts(
    upload: &Upload,
    complete: &CompleteUpload,
) -> Result<(Vec<PartMeta>, Chunks), StoreError> {
    let (mut parts, mut body) = (Vec::new(), Chunks::new());
    for named in &complete.parts {
        let number = named.number;
        let invalid = StoreError::InvalidPart { number };
        let Some(part) = upload.parts.get(&number) else { return Err(invalid) };
        let stored = part.meta.checksum.as_ref();
        let stored = stored.map(|sum| (sum.algorithm.as_str(), &sum.value));
        let differs = named
            .checksum
            .as_ref()
            .is_some_and(|sum| Some((sum.algorithm.name(), &sum.value)) != stored);
        if part.meta.etag != named.etag || differs {
            return Err(invalid);
        }
        parts.push(part.meta.clone());
        body.extend(part.body.iter().cloned());
    }
    let but_last = parts.split_last().map_or(&[][..], |(_, rest)| rest);
    match but_last.iter().find(|part| part.size < PART_BYTES_MIN) {
        Some(part) => Err(StoreError::PartTooSmall { number: part.number as u16 }),
        None => Ok((parts, body)),
    }
}

fn whole_checksum(
    upload: &Upload,
    parts: &[PartMeta],
    announced: Option<&str>,
) -> Result<Option<Checksum>, StoreError> {
    let name = upload.info.checksum_algorithm.as_deref();
    let Some(algorithm) = name.and_then(Algorithm::by_name) else { return Ok(None) };
    let sums = parts.iter().map(|part| {
        let value = part.checksum.as_ref().and_then(|sum| algorithm.parse_value(&sum.value));
        let number = part.number as u16;
        let value = value.ok_or(StoreError::InvalidPart { number })?;
        Ok(PartSum { size: part.size, value })
    });
    let sums = sums.collect::<Result<Vec<_>, StoreError>>()?;
    let whole = of_parts(algorithm, upload.info.checksum_composite, &sums);
    match announced {
        Some(value) if value != whole.value => Err(StoreError::BodyRejected {
            code: "BadDigest",
            message: "the checksum of the whole does not match that of its parts".to_owned(),
        }),
        _ => Ok(Some(whole)),
    }
}
