//! CopyObject.

use bytes::Bytes;
use holdfast_engine::{StoreError, api};
use holdfast_types::limits::PART_BYTES_MAX;
use s3s::{S3Request, S3Response, S3Result, dto::*};

use crate::{
    attributes, conditions,
    convert::{checksum_type, etag, set_checksum, timestamp, version, version_header},
    digests,
    error::{invalid, not_implemented, s3_error},
    s3::Gateway,
    told::Told,
};

pub(crate) async fn copy(
    gateway: &Gateway,
    request: S3Request<CopyObjectInput>,
) -> S3Result<S3Response<CopyObjectOutput>> {
    let told = Told::of(&request);
    let (of_source, of_target) = (conditions::of_source(&told)?, conditions::of_write(&told)?);
    let attributes = attributes::from_request(&told, request.input.metadata.clone());
    let input = request.input;
    let mut source = source(&input.copy_source)?;
    check_tagging(input.tagging_directive.as_ref())?;
    let replace = match input.metadata_directive.as_ref().map(MetadataDirective::as_str) {
        None | Some(MetadataDirective::COPY) => None,
        Some(MetadataDirective::REPLACE) => Some(attributes?),
        Some(_) => {
            return Err(invalid("InvalidArgument", "metadata directive is COPY or REPLACE"));
        }
    };
    let itself = source.bucket == input.bucket && source.key == input.key.as_bytes();
    if itself && source.version.is_none() && replace.is_none() {
        return Err(invalid(
            "InvalidRequest",
            "this copies an object to itself without changing its metadata: replace them, or name \
             another key",
        ));
    }
    source.conditions = of_source;
    let checksum = digests::asked(&request.headers)?;
    let copy = api::CopyObject {
        source,
        bucket: input.bucket,
        key: Bytes::from(input.key),
        replace,
        conditions: of_target,
        checksum_algorithm: checksum.map(|algorithm| algorithm.name().to_owned()),
    };
    let info = gateway.store.copy_object(copy).await.map_err(source_error)?;
    let mut result = CopyObjectResult {
        e_tag: Some(etag(&info.meta.etag)),
        last_modified: Some(timestamp(info.meta.modified_micros)),
        ..Default::default()
    };
    set_checksum!(result, &info.meta.checksum);
    result.checksum_type = info.meta.checksum.map(|checksum| checksum_type(checksum.composite));
    let output = CopyObjectOutput {
        copy_object_result: Some(result),
        version_id: version_header(info.version, false),
        ..Default::default()
    };
    Ok(S3Response::new(output))
}

/// What `x-amz-copy-source` names.
pub(crate) fn source(source: &CopySource) -> S3Result<api::GetObject> {
    let CopySource::Bucket { bucket, key, version_id } = source else {
        return Err(not_implemented("copying from access points"));
    };
    Ok(api::GetObject {
        bucket: bucket.to_string(),
        key: Bytes::copy_from_slice(key.as_bytes()),
        version: version(version_id.as_deref())?,
        ..Default::default()
    })
}

/// S3 answers every failed condition on a copy's source with 412, and a source that is too large for one
/// request otherwise than a body: here is none.
pub(crate) fn source_error(error: StoreError) -> s3s::S3Error {
    s3_error(match error {
        StoreError::NotModified { .. } => {
            StoreError::PreconditionFailed { condition: "x-amz-copy-source-if-none-match" }
        }
        StoreError::EntityTooLarge => {
            let message = format!(
                "the copy source is larger than one request may copy, {PART_BYTES_MAX} bytes: copy it in \
                 parts"
            );
            StoreError::InvalidRequest { message }
        }
        other => other,
    })
}

/// No object has tags, so that both directives come to the same.
fn check_tagging(directive: Option<&TaggingDirective>) -> S3Result<()> {
    match directive.map(TaggingDirective::as_str) {
        None | Some(TaggingDirective::COPY | TaggingDirective::REPLACE) => Ok(()),
        Some(_) => Err(invalid("InvalidArgument", "tagging directive is COPY or REPLACE")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: what is wrong with a source is said of the source. The story: a copy of 5.4 GB was told that
    /// its body is too large. Method: the errors that mean another thing for a body.
    #[test]
    fn errors_of_sources_speak_of_sources() {
        let large = source_error(StoreError::EntityTooLarge);
        assert_eq!(large.code().as_str(), "InvalidRequest");
        assert!(large.message().is_some_and(|text| text.contains("copy source")), "{large:?}");
        let unmodified = StoreError::NotModified { etag: "e".to_owned(), modified_micros: 1 };
        assert_eq!(source_error(unmodified).code().as_str(), "PreconditionFailed");
    }
}
