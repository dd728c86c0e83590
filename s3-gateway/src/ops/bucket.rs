//! Buckets.

use holdfast_engine::StoreError;
use s3s::{S3Request, S3Response, S3Result, dto::*};

use crate::{
    auth::is_bucket_name,
    convert::timestamp,
    error::{invalid, not_implemented, s3_error},
    s3::Gateway,
};

/// S3: at most 10,000 buckets a page.
const BUCKETS_PAGE_MAX: usize = 10_000;

/// Longer than every region's name.
const LOCATION_BYTES_MAX: usize = 64;

pub(crate) async fn create(
    gateway: &Gateway,
    request: S3Request<CreateBucketInput>,
) -> S3Result<S3Response<CreateBucketOutput>> {
    let input = request.input;
    if !is_bucket_name(&input.bucket) {
        return Err(invalid("InvalidBucketName", "the bucket name is not valid in S3"));
    }
    if is_reserved(&input.bucket) {
        let message = "the bucket's name begins or ends with what S3 keeps for itself";
        return Err(invalid("InvalidBucketName", message));
    }
    let configuration = input.create_bucket_configuration;
    if configuration
        .as_ref()
        .is_some_and(|asked| asked.bucket.is_some() || asked.location.is_some())
    {
        return Err(not_implemented("directory buckets"));
    }
    let location = configuration
        .and_then(|configuration| configuration.location_constraint)
        .map(|location| location.as_str().to_owned())
        .unwrap_or_default();
    if location.len() > LOCATION_BYTES_MAX || !location.is_ascii() {
        return Err(invalid("InvalidLocationConstraint", "the location constraint is no region"));
    }
    match gateway.store.create_bucket(&input.bucket, &location).await {
        // S3 in us-east-1 (API reference, CreateBucket, BucketAlreadyOwnedByYou): creating a bucket
        // again that is one's own succeeds and changes nothing.
        Ok(_) | Err(StoreError::BucketExists { .. }) => {}
        Err(error) => return Err(s3_error(error)),
    }
    let location = Some(format!("/{}", input.bucket));
    Ok(S3Response::new(CreateBucketOutput { location }))
}

/// S3 user guide, "Bucket naming rules": beginnings and ends by which S3 tells aliases and other kinds of
/// buckets.
fn is_reserved(name: &str) -> bool {
    let starts = ["xn--", "sthree-", "amzn-s3-demo-"];
    let ends = ["-s3alias", "--ol-s3", ".mrap", "--x-s3", "--table-s3"];
    starts.iter().any(|start| name.starts_with(start)) || ends.iter().any(|end| name.ends_with(end))
}

pub(crate) async fn head(
    gateway: &Gateway,
    request: S3Request<HeadBucketInput>,
) -> S3Result<S3Response<HeadBucketOutput>> {
    let bucket = gateway.store.bucket(&request.input.bucket).await.map_err(s3_error)?;
    let region = if bucket.location.is_empty() { gateway.region.clone() } else { bucket.location };
    let output = HeadBucketOutput { bucket_region: Some(region), ..Default::default() };
    Ok(S3Response::new(output))
}

pub(crate) async fn location(
    gateway: &Gateway,
    request: S3Request<GetBucketLocationInput>,
) -> S3Result<S3Response<GetBucketLocationOutput>> {
    let bucket = gateway.store.bucket(&request.input.bucket).await.map_err(s3_error)?;
    let location_constraint = Some(BucketLocationConstraint::from(bucket.location));
    Ok(S3Response::new(GetBucketLocationOutput { location_constraint }))
}

pub(crate) async fn delete(
    gateway: &Gateway,
    request: S3Request<DeleteBucketInput>,
) -> S3Result<S3Response<DeleteBucketOutput>> {
    gateway.store.delete_bucket(&request.input.bucket).await.map_err(s3_error)?;
    Ok(S3Response::with_status(DeleteBucketOutput {}, http::StatusCode::NO_CONTENT))
}

/// The continuation token is the last name: names are no secret to who may list them.
pub(crate) async fn list(
    gateway: &Gateway,
    request: S3Request<ListBucketsInput>,
) -> S3Result<S3Response<ListBucketsOutput>> {
    let input = request.input;
    let limit = match input.max_buckets {
        None => BUCKETS_PAGE_MAX,
        Some(count) => usize::try_from(count)
            .ok()
            .filter(|count| (1..=BUCKETS_PAGE_MAX).contains(count))
            .ok_or_else(|| invalid("InvalidArgument", "max-buckets must be 1 to 10000"))?,
    };
    let prefix = input.prefix.clone().unwrap_or_default();
    let after = input.continuation_token.unwrap_or_default();
    let page = gateway.store.list_buckets(&prefix, &after, limit).await.map_err(s3_error)?;
    let region = |location: String| {
        if location.is_empty() { gateway.region.clone() } else { location }
    };
    let buckets = page.buckets.into_iter().map(|bucket| Bucket {
        bucket_region: Some(region(bucket.location)),
        creation_date: Some(timestamp(bucket.created_micros)),
        name: Some(bucket.name),
    });
    // A page may be short, as with S3; the token says whether more follow.
    let wanted = |bucket: &Bucket| {
        input.bucket_region.is_none() || bucket.bucket_region == input.bucket_region
    };
    let buckets = buckets.filter(wanted);
    Ok(S3Response::new(ListBucketsOutput {
        buckets: Some(buckets.collect()),
        continuation_token: page.next,
        owner: Some(gateway.owner()),
        prefix: input.prefix,
    }))
}
