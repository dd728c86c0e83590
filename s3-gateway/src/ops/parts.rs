//! Parts of multipart uploads: upload, copy, list.

use bytes::Bytes;
use holdfast_engine::{
    api::{self, PartInfo, Wanted},
    checksum::Algorithm,
};
use holdfast_types::limits::PAGE_KEYS_MAX;
use s3s::{S3Request, S3Response, S3Result, dto::*};

use crate::{
    body::UploadBody,
    conditions,
    convert::{etag, part_number, set_checksum, timestamp, upload_id},
    digests::{Announced, ChecksumSource},
    error::{invalid, s3_error},
    ops::{copy::source, copy::source_error, multipart::shown_type, put::check_length},
    s3::Gateway,
    told::{self, Told},
};

pub(crate) async fn upload(
    gateway: &Gateway,
    request: S3Request<UploadPartInput>,
) -> S3Result<S3Response<UploadPartOutput>> {
    let mut announced = Announced::from_headers(&request.headers)?;
    check_length(&announced)?;
    let trailers = told::trailers(&request);
    let input = request.input;
    let mut put = api::PutPart {
        bucket: input.bucket,
        key: Bytes::from(input.key),
        upload: upload_id(&input.upload_id)?,
        number: part_number(input.part_number)?,
        length: announced.length,
        checksum: None,
    };
    if announced.checksum.is_none() {
        // A part without a checksum would leave the whole without one.
        let upload = gateway.store.upload(&put.bucket, &put.key, put.upload).await;
        let algorithm = upload.map_err(s3_error)?.checksum_algorithm;
        announced.checksum = algorithm
            .and_then(|name| Algorithm::by_name(&name))
            .map(|algorithm| (algorithm, ChecksumSource::Computed));
    }
    put.checksum = announced.checksum.as_ref().map(|(algorithm, _)| *algorithm);
    let body = UploadBody::new(input.body, trailers, announced);
    let part = gateway.store.put_part(put, Box::pin(body)).await.map_err(s3_error)?.part;
    let mut output = UploadPartOutput { e_tag: Some(etag(&part.etag)), ..Default::default() };
    set_checksum!(output, &part.checksum);
    Ok(S3Response::new(output))
}

pub(crate) async fn copy(
    gateway: &Gateway,
    request: S3Request<UploadPartCopyInput>,
) -> S3Result<S3Response<UploadPartCopyOutput>> {
    let conditions = conditions::of_source(&Told::of(&request))?;
    let input = request.input;
    let mut source = source(&input.copy_source)?;
    source.conditions = conditions;
    source.wanted = input.copy_source_range.as_deref().map_or(Ok(Wanted::Whole), copied_range)?;
    let put = api::PutPart {
        bucket: input.bucket,
        key: Bytes::from(input.key),
        upload: upload_id(&input.upload_id)?,
        number: part_number(input.part_number)?,
        ..Default::default()
    };
    let part = gateway.store.copy_part(source, put).await.map_err(source_error)?;
    let mut result = CopyPartResult {
        e_tag: Some(etag(&part.part.etag)),
        last_modified: Some(timestamp(part.modified_micros)),
        ..Default::default()
    };
    set_checksum!(result, &part.part.checksum);
    let output = UploadPartCopyOutput { copy_part_result: Some(result), ..Default::default() };
    Ok(S3Response::new(output))
}

/// S3: `bytes=first-last`, both ends named.
fn copied_range(text: &str) -> S3Result<Wanted> {
    match Range::parse(text) {
        Ok(Range::Int { first, last: Some(last) }) => Ok(Wanted::Range { first, last: Some(last) }),
        _ => Err(invalid(
            "InvalidArgument",
            "the x-amz-copy-source-range value must be of the form bytes=first-last, where first \
             and last are the zero-based offsets of the first and last bytes to copy",
        )),
    }
}

pub(crate) async fn list(
    gateway: &Gateway,
    request: S3Request<ListPartsInput>,
) -> S3Result<S3Response<ListPartsOutput>> {
    let input = request.input;
    let limit = input.max_parts.map_or(Ok(PAGE_KEYS_MAX), usize::try_from);
    let limit = limit.map_err(|_| invalid("InvalidArgument", "max-parts must not be negative"))?;
    let limit = limit.min(PAGE_KEYS_MAX);
    let marker = input.part_number_marker.unwrap_or(0);
    let after = u16::try_from(marker)
        .map_err(|_| invalid("InvalidArgument", "part-number-marker is out of range"))?;
    let upload = upload_id(&input.upload_id)?;
    let key = input.key.as_bytes();
    let page = gateway.store.list_parts(&input.bucket, key, upload, after, limit).await;
    let page = page.map_err(s3_error)?;
    let owner = gateway.owner();
    let next = page.parts.last().and_then(|last| i32::try_from(last.part.number).ok());
    Ok(S3Response::new(ListPartsOutput {
        bucket: Some(input.bucket),
        checksum_algorithm: page.upload.checksum_algorithm.clone().map(ChecksumAlgorithm::from),
        checksum_type: shown_type(&page.upload),
        initiator: Some(Initiator {
            id: owner.id.clone(),
            display_name: owner.display_name.clone(),
        }),
        is_truncated: Some(page.truncated),
        key: Some(input.key),
        max_parts: i32::try_from(limit).ok(),
        next_part_number_marker: Some(next.unwrap_or(0)),
        owner: Some(owner),
        part_number_marker: Some(marker),
        parts: Some(page.parts.iter().map(shown).collect()),
        storage_class: Some(StorageClass::from_static(StorageClass::STANDARD)),
        upload_id: Some(input.upload_id),
        ..Default::default()
    }))
}

fn shown(info: &PartInfo) -> Part {
    let mut part = Part {
        e_tag: Some(etag(&info.part.etag)),
        last_modified: Some(timestamp(info.modified_micros)),
        part_number: i32::try_from(info.part.number).ok(),
        size: i64::try_from(info.part.size).ok(),
        ..Default::default()
    };
    set_checksum!(part, &info.part.checksum);
    part
}
