//! GetObjectAttributes.

use bytes::Bytes;
use holdfast_engine::{api, meta::ObjectMeta};
use holdfast_types::limits::PAGE_KEYS_MAX;
use s3s::{S3Request, S3Response, S3Result, dto::*};

use crate::{
    convert::{checksum_type, etag, set_checksum, timestamp, version, version_header},
    error::{invalid, s3_error},
    response::PlainEtag,
    s3::Gateway,
};

pub(crate) async fn attributes(
    gateway: &Gateway,
    request: S3Request<GetObjectAttributesInput>,
) -> S3Result<S3Response<GetObjectAttributesOutput>> {
    let input = request.input;
    let asked = version(input.version_id.as_deref())?;
    let names = asked_for(&input.object_attributes)?;
    let get = api::GetObject {
        bucket: input.bucket,
        key: Bytes::from(input.key),
        version: asked,
        ..Default::default()
    };
    let info = gateway.store.head_object(get).await.map_err(s3_error)?.info;
    let meta = &info.meta;
    let wants = |name: &str| names.iter().any(|asked| asked == name);
    let mut output = GetObjectAttributesOutput {
        last_modified: Some(timestamp(meta.modified_micros)),
        version_id: version_header(info.version, asked.is_some()),
        ..Default::default()
    };
    output.e_tag = wants(ObjectAttributes::ETAG).then(|| etag(&meta.etag));
    output.object_size =
        wants(ObjectAttributes::OBJECT_SIZE).then(|| i64::try_from(meta.size).ok()).flatten();
    output.storage_class = wants(ObjectAttributes::STORAGE_CLASS)
        .then(|| StorageClass::from_static(StorageClass::STANDARD));
    if wants(ObjectAttributes::CHECKSUM) {
        output.checksum = checksum(meta);
    }
    if wants(ObjectAttributes::OBJECT_PARTS) && !meta.parts.is_empty() {
        output.object_parts = Some(parts(meta, input.part_number_marker, input.max_parts)?);
    }
    let mut answer = S3Response::new(output);
    answer.extensions.insert(PlainEtag);
    Ok(answer)
}

/// The header is a list, which may come in one line or in several.
fn asked_for(list: &ObjectAttributesList) -> S3Result<Vec<String>> {
    let names: Vec<String> = list
        .iter()
        .flat_map(|entry| entry.as_str().split(','))
        .map(|name| name.trim().to_owned())
        .filter(|name| !name.is_empty())
        .collect();
    let known = [
        ObjectAttributes::ETAG,
        ObjectAttributes::CHECKSUM,
        ObjectAttributes::OBJECT_PARTS,
        ObjectAttributes::STORAGE_CLASS,
        ObjectAttributes::OBJECT_SIZE,
    ];
    match names.iter().find(|name| !known.contains(&name.as_str())) {
        Some(_) => Err(invalid("InvalidArgument", "invalid attribute name specified")),
        None if names.is_empty() => {
            Err(invalid("InvalidArgument", "the x-amz-object-attributes header is empty"))
        }
        None => Ok(names),
    }
}

fn checksum(meta: &ObjectMeta) -> Option<Checksum> {
    let found = meta.checksum.as_ref()?;
    let mut shown = Checksum::default();
    set_checksum!(shown, Some(found));
    shown.checksum_type = Some(checksum_type(found.composite));
    Some(shown)
}

/// S3 shows the parts themselves only when they have checksums.
fn parts(
    meta: &ObjectMeta,
    marker: Option<i32>,
    limit: Option<i32>,
) -> S3Result<GetObjectAttributesParts> {
    let bad = |name| invalid("InvalidArgument", format!("{name} must not be negative"));
    let after = u32::try_from(marker.unwrap_or(0)).map_err(|_| bad("part-number-marker"))?;
    let limit = limit.map_or(Ok(PAGE_KEYS_MAX), usize::try_from).map_err(|_| bad("max-parts"))?;
    let limit = limit.min(PAGE_KEYS_MAX);
    let rest = meta.parts.iter().filter(|part| part.number > after);
    let page: Vec<_> = rest.clone().take(limit).collect();
    let truncated = rest.count() > page.len();
    let shown = page.iter().map(|part| {
        let mut shown = ObjectPart {
            part_number: i32::try_from(part.number).ok(),
            size: i64::try_from(part.size).ok(),
            ..Default::default()
        };
        set_checksum!(shown, &part.checksum);
        shown
    });
    let last = page.last().and_then(|part| i32::try_from(part.number).ok());
    Ok(GetObjectAttributesParts {
        is_truncated: Some(truncated),
        max_parts: i32::try_from(limit).ok(),
        next_part_number_marker: last,
        part_number_marker: i32::try_from(after).ok(),
        parts: Some(shown.collect()),
        total_parts_count: i32::try_from(meta.parts.len()).ok(),
    })
}
