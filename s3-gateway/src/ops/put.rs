//! PutObject.

use bytes::Bytes;
use holdfast_engine::{StoreError, api};
use holdfast_types::limits::PART_BYTES_MAX;
use s3s::{S3Request, S3Response, S3Result, dto::*};

use crate::{
    attributes,
    body::UploadBody,
    conditions,
    convert::{checksum_type, etag, set_checksum, version_header},
    digests::Announced,
    error::{coded, s3_error},
    s3::Gateway,
    told::{self, Told},
};

pub(crate) async fn put(
    gateway: &Gateway,
    request: S3Request<PutObjectInput>,
) -> S3Result<S3Response<PutObjectOutput>> {
    let announced = Announced::from_headers(&request.headers)?;
    check_length(&announced)?;
    let told = Told::of(&request);
    let conditions = conditions::of_write(&told)?;
    let attributes = attributes::from_request(&told, request.input.metadata.clone())?;
    let trailers = told::trailers(&request);
    let input = request.input;
    let put = api::PutObject {
        bucket: input.bucket,
        key: Bytes::from(input.key),
        attributes,
        conditions,
        length: announced.length,
    };
    let body = UploadBody::new(input.body, trailers, announced);
    let info = gateway.store.put_object(put, Box::pin(body)).await.map_err(s3_error)?;
    let mut output = PutObjectOutput {
        e_tag: Some(etag(&info.meta.etag)),
        version_id: version_header(info.version, false),
        ..Default::default()
    };
    set_checksum!(output, &info.meta.checksum);
    output.checksum_type = info.meta.checksum.map(|checksum| checksum_type(checksum.composite));
    Ok(S3Response::new(output))
}

/// S3 wants to know how much is coming, and takes at most 5 GiB at once.
pub(crate) fn check_length(announced: &Announced) -> S3Result<()> {
    match announced.length {
        None => Err(coded(
            "MissingContentLength",
            http::StatusCode::LENGTH_REQUIRED,
            "you must provide the Content-Length header",
        )),
        Some(length) if length > PART_BYTES_MAX => Err(s3_error(StoreError::EntityTooLarge)),
        Some(_) => Ok(()),
    }
}
