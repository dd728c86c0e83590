//! Multipart uploads: create, complete, abort, list.

use bytes::Bytes;
use holdfast_engine::{
    StoreError,
    api::{self, UploadInfo},
    checksum::Algorithm,
};
use holdfast_types::limits::{PAGE_KEYS_MAX, PARTS_MAX};
use s3s::{S3Request, S3Response, S3Result, dto::*};

use crate::{
    attributes, conditions,
    convert::{
        KeyText, any_checksum, checksum_type, etag, part_number, set_checksum, timestamp,
        upload_id, version_header,
    },
    digests,
    error::{invalid, s3_error},
    s3::Gateway,
    told::Told,
};

pub(crate) async fn create(
    gateway: &Gateway,
    request: S3Request<CreateMultipartUploadInput>,
) -> S3Result<S3Response<CreateMultipartUploadOutput>> {
    let algorithm = digests::asked(&request.headers)?;
    let told = Told::of(&request);
    let attributes = attributes::from_request(&told, request.input.metadata.clone())?;
    let input = request.input;
    let composite = composite(algorithm, input.checksum_type.as_ref())?;
    let create = api::CreateUpload {
        bucket: input.bucket.clone(),
        key: Bytes::from(input.key.clone()),
        attributes,
        checksum_algorithm: algorithm.map(|algorithm| algorithm.name().to_owned()),
        checksum_composite: composite,
    };
    let upload = gateway.store.create_upload(create).await.map_err(s3_error)?;
    Ok(S3Response::new(CreateMultipartUploadOutput {
        bucket: Some(input.bucket),
        checksum_algorithm: upload.checksum_algorithm.clone().map(ChecksumAlgorithm::from),
        checksum_type: shown_type(&upload),
        key: Some(input.key),
        upload_id: Some(upload.upload.to_string()),
        ..Default::default()
    }))
}

fn composite(algorithm: Option<Algorithm>, kind: Option<&ChecksumType>) -> S3Result<bool> {
    let Some(algorithm) = algorithm else {
        return match kind {
            None => Ok(false),
            Some(_) => Err(invalid(
                "InvalidRequest",
                "x-amz-checksum-type can only be used with x-amz-checksum-algorithm",
            )),
        };
    };
    // S3: CRC64NVME is of the full object, all others are composite unless told otherwise.
    let composite = kind.map_or(Ok(algorithm != Algorithm::Crc64Nvme), is_composite)?;
    if algorithm.allows(composite) {
        return Ok(composite);
    }
    let kind = checksum_type(composite);
    let message = format!(
        "the {} checksum type cannot be used with the {} checksum algorithm",
        kind.as_str(),
        algorithm.name().to_lowercase()
    );
    Err(invalid("InvalidRequest", message))
}

fn is_composite(kind: &ChecksumType) -> S3Result<bool> {
    match kind.as_str() {
        ChecksumType::COMPOSITE => Ok(true),
        ChecksumType::FULL_OBJECT => Ok(false),
        _ => Err(invalid("InvalidRequest", "x-amz-checksum-type is COMPOSITE or FULL_OBJECT")),
    }
}

/// S3: `x-amz-mp-object-size`, by which a client is refused whose parts make another object than it
/// thinks. Read here because s3s takes the digits and passes over what is behind them.
fn announced_size(headers: &http::HeaderMap) -> S3Result<Option<u64>> {
    let Some(value) = headers.get("x-amz-mp-object-size") else { return Ok(None) };
    let size = value.to_str().ok().and_then(|text| text.trim().parse().ok());
    size.map(Some).ok_or_else(|| invalid("InvalidArgument", "x-amz-mp-object-size is no number"))
}

pub(crate) fn shown_type(upload: &UploadInfo) -> Option<ChecksumType> {
    upload.checksum_algorithm.as_ref().map(|_| checksum_type(upload.checksum_composite))
}

pub(crate) async fn complete(
    gateway: &Gateway,
    request: S3Request<CompleteMultipartUploadInput>,
) -> S3Result<S3Response<CompleteMultipartUploadOutput>> {
    let conditions = conditions::of_write(&Told::of(&request))?;
    let input = request.input;
    let upload = upload_id(&input.upload_id)?;
    let announced = api::AnnouncedObject {
        checksum: any_checksum!(input),
        composite: input.checksum_type.as_ref().map(is_composite).transpose()?,
        size: announced_size(&request.headers)?,
    };
    let listed = input.multipart_upload.and_then(|upload| upload.parts).unwrap_or_default();
    let parts = completed(listed)?;
    let complete = api::CompleteUpload {
        bucket: input.bucket.clone(),
        key: Bytes::from(input.key.clone()),
        upload,
        parts,
        conditions,
        announced,
    };
    let info = gateway.store.complete_upload(complete).await.map_err(s3_error)?;
    let host = request.headers.get(http::header::HOST).and_then(|host| host.to_str().ok());
    let path = request.uri.path();
    let mut output = CompleteMultipartUploadOutput {
        bucket: Some(input.bucket),
        e_tag: Some(etag(&info.meta.etag)),
        key: Some(input.key),
        location: host.map(|host| format!("{}://{host}{path}", gateway.scheme)),
        version_id: version_header(info.version, false),
        ..Default::default()
    };
    set_checksum!(output, &info.meta.checksum);
    output.checksum_type = info.meta.checksum.map(|checksum| checksum_type(checksum.composite));
    Ok(S3Response::new(output))
}

fn completed(listed: Vec<CompletedPart>) -> S3Result<Vec<api::CompletedPart>> {
    if listed.is_empty() || listed.len() > PARTS_MAX {
        let message = format!("name 1 to {PARTS_MAX} parts to complete the upload of");
        return Err(invalid("MalformedXML", message));
    }
    let parts = listed.into_iter().map(|part| {
        let number = part.part_number.map(part_number).transpose()?;
        let (Some(number), Some(tag)) = (number, part.e_tag) else {
            return Err(invalid("MalformedXML", "every part has a PartNumber and an ETag"));
        };
        let checksum = any_checksum!(part);
        Ok(api::CompletedPart { number, etag: tag.into_value(), checksum })
    });
    let mut parts = parts.collect::<S3Result<Vec<_>>>()?;
    if !parts.is_sorted_by_key(|part| part.number) {
        return Err(s3_error(StoreError::InvalidPartOrder));
    }
    // A part that was sent twice may be named twice: the later one counts.
    parts.reverse();
    parts.dedup_by_key(|part| part.number);
    parts.reverse();
    Ok(parts)
}

pub(crate) async fn abort(
    gateway: &Gateway,
    request: S3Request<AbortMultipartUploadInput>,
) -> S3Result<S3Response<AbortMultipartUploadOutput>> {
    let input = request.input;
    if input.if_match_initiated_time.is_some() {
        return Err(crate::error::not_implemented("aborting on condition of time"));
    }
    let upload = upload_id(&input.upload_id)?;
    let key = input.key.as_bytes();
    gateway.store.abort_upload(&input.bucket, key, upload).await.map_err(s3_error)?;
    Ok(S3Response::new(AbortMultipartUploadOutput::default()))
}

pub(crate) async fn list(
    gateway: &Gateway,
    request: S3Request<ListMultipartUploadsInput>,
) -> S3Result<S3Response<ListMultipartUploadsOutput>> {
    let input = request.input;
    let keys = KeyText::new(input.encoding_type.as_ref().map(EncodingType::as_str))?;
    let limit = input.max_uploads.map_or(Ok(PAGE_KEYS_MAX), usize::try_from);
    let limit =
        limit.map_err(|_| invalid("InvalidArgument", "max-uploads must not be negative"))?;
    let limit = limit.min(PAGE_KEYS_MAX);
    let key_marker = input.key_marker.unwrap_or_default();
    // Without a key marker the upload-id marker is ignored (S3: ListMultipartUploads).
    let upload_marker = input.upload_id_marker.filter(|marker| !marker.is_empty());
    let after_upload =
        match &upload_marker {
            Some(marker) if !key_marker.is_empty() => Some(marker.parse().map_err(|_| {
                invalid("InvalidArgument", "the upload-id marker is not one of ours")
            })?),
            _ => None,
        };
    let bytes = |text: &Option<String>| Bytes::from(text.clone().unwrap_or_default());
    let list = api::ListUploads {
        bucket: input.bucket.clone(),
        prefix: bytes(&input.prefix),
        delimiter: bytes(&input.delimiter),
        after_key: Bytes::from(key_marker.clone()),
        after_upload,
        limit,
    };
    let page = gateway.store.list_uploads(list).await.map_err(s3_error)?;
    let next_key = page
        .uploads
        .last()
        .map(|upload| upload.key.clone())
        .max(page.prefixes.last().cloned())
        .filter(|_| page.truncated);
    let next_upload = page
        .uploads
        .last()
        .filter(|last| next_key.as_ref() == Some(&last.key))
        .map(|last| last.upload.to_string());
    let prefixes =
        page.prefixes.iter().map(|prefix| CommonPrefix { prefix: Some(keys.bytes(prefix)) });
    let uploads = page.uploads.iter().map(|upload| shown(gateway, keys, upload));
    Ok(S3Response::new(ListMultipartUploadsOutput {
        bucket: Some(input.bucket),
        common_prefixes: (!page.prefixes.is_empty()).then(|| prefixes.collect()),
        delimiter: input.delimiter.as_deref().map(|delimiter| keys.text(delimiter)),
        encoding_type: input.encoding_type,
        is_truncated: Some(page.truncated),
        key_marker: Some(keys.text(&key_marker)),
        max_uploads: i32::try_from(limit).ok(),
        next_key_marker: next_key.as_ref().map(|key| keys.bytes(key)),
        next_upload_id_marker: next_upload,
        prefix: Some(keys.text(&input.prefix.unwrap_or_default())),
        request_charged: None,
        upload_id_marker: Some(upload_marker.unwrap_or_default()),
        uploads: (!page.uploads.is_empty()).then(|| uploads.collect()),
    }))
}

fn shown(gateway: &Gateway, keys: KeyText, upload: &UploadInfo) -> MultipartUpload {
    let owner = gateway.owner();
    MultipartUpload {
        checksum_algorithm: upload.checksum_algorithm.clone().map(ChecksumAlgorithm::from),
        checksum_type: shown_type(upload),
        initiated: Some(timestamp(upload.created_micros)),
        initiator: Some(Initiator {
            id: owner.id.clone(),
            display_name: owner.display_name.clone(),
        }),
        key: Some(keys.bytes(&upload.key)),
        owner: Some(owner),
        storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
        upload_id: Some(upload.upload.to_string()),
    }
}
