//! What S3 answers where nothing is configured, and nothing can be: the true state of every bucket
//! here. Each asks for the bucket first, because a bucket that is not there has no state.

use bytes::Bytes;
use holdfast_engine::api;
use http::StatusCode;
use s3s::{S3Request, S3Response, S3Result, dto::*};

use crate::{
    convert::version,
    error::{coded, s3_error},
    s3::Gateway,
};

async fn bucket_is_there(gateway: &Gateway, bucket: &str) -> S3Result<()> {
    gateway.store.bucket(bucket).await.map(drop).map_err(s3_error)
}

async fn object_is_there(
    gateway: &Gateway,
    bucket: String,
    key: String,
    version_id: Option<&str>,
) -> S3Result<()> {
    let version = version(version_id)?;
    let get = api::GetObject { bucket, key: Bytes::from(key), version, ..Default::default() };
    gateway.store.head_object(get).await.map(drop).map_err(s3_error)
}

/// Buckets whose configuration is empty.
macro_rules! empty {
    ($($name:ident: $input:ident => $output:ident;)*) => {
        $(
            pub(crate) async fn $name(
                gateway: &Gateway,
                request: S3Request<$input>,
            ) -> S3Result<S3Response<$output>> {
                bucket_is_there(gateway, &request.input.bucket).await?;
                Ok(S3Response::new($output::default()))
            }
        )*
    };
}

empty! {
    versioning: GetBucketVersioningInput => GetBucketVersioningOutput;
    logging: GetBucketLoggingInput => GetBucketLoggingOutput;
    notification: GetBucketNotificationConfigurationInput => GetBucketNotificationConfigurationOutput;
    accelerate: GetBucketAccelerateConfigurationInput => GetBucketAccelerateConfigurationOutput;
}

/// Buckets without a configuration that S3 reports as an error.
macro_rules! missing {
    ($($name:ident: $input:ident => $output:ident, $code:literal;)*) => {
        $(
            pub(crate) async fn $name(
                gateway: &Gateway,
                request: S3Request<$input>,
            ) -> S3Result<S3Response<$output>> {
                bucket_is_there(gateway, &request.input.bucket).await?;
                let message = "the bucket has no such configuration";
                Err(coded($code, StatusCode::NOT_FOUND, message))
            }
        )*
    };
}

missing! {
    policy: GetBucketPolicyInput => GetBucketPolicyOutput, "NoSuchBucketPolicy";
    policy_status: GetBucketPolicyStatusInput => GetBucketPolicyStatusOutput, "NoSuchBucketPolicy";
    bucket_tagging: GetBucketTaggingInput => GetBucketTaggingOutput, "NoSuchTagSet";
    cors: GetBucketCorsInput => GetBucketCorsOutput, "NoSuchCORSConfiguration";
    encryption: GetBucketEncryptionInput => GetBucketEncryptionOutput, "ServerSideEncryptionConfigurationNotFoundError";
    lifecycle: GetBucketLifecycleConfigurationInput => GetBucketLifecycleConfigurationOutput, "NoSuchLifecycleConfiguration";
    website: GetBucketWebsiteInput => GetBucketWebsiteOutput, "NoSuchWebsiteConfiguration";
    replication: GetBucketReplicationInput => GetBucketReplicationOutput, "ReplicationConfigurationNotFoundError";
    object_lock: GetObjectLockConfigurationInput => GetObjectLockConfigurationOutput, "ObjectLockConfigurationNotFoundError";
    public_access_block: GetPublicAccessBlockInput => GetPublicAccessBlockOutput, "NoSuchPublicAccessBlockConfiguration";
}

/// The owner pays: there is nobody else.
pub(crate) async fn request_payment(
    gateway: &Gateway,
    request: S3Request<GetBucketRequestPaymentInput>,
) -> S3Result<S3Response<GetBucketRequestPaymentOutput>> {
    bucket_is_there(gateway, &request.input.bucket).await?;
    let payer = Some(Payer::from_static(Payer::BUCKET_OWNER));
    Ok(S3Response::new(GetBucketRequestPaymentOutput { payer }))
}

/// Access control lists are off, as in every new bucket of S3.
pub(crate) async fn ownership(
    gateway: &Gateway,
    request: S3Request<GetBucketOwnershipControlsInput>,
) -> S3Result<S3Response<GetBucketOwnershipControlsOutput>> {
    bucket_is_there(gateway, &request.input.bucket).await?;
    let object_ownership = ObjectOwnership::from_static(ObjectOwnership::BUCKET_OWNER_ENFORCED);
    let rules = vec![OwnershipControlsRule { object_ownership }];
    let ownership_controls = Some(OwnershipControls { rules });
    Ok(S3Response::new(GetBucketOwnershipControlsOutput { ownership_controls }))
}

/// The owner may do everything; nobody else has a grant.
fn grants(gateway: &Gateway) -> (Owner, Grants) {
    let owner = gateway.owner();
    let grantee = Grantee {
        display_name: owner.display_name.clone(),
        email_address: None,
        id: owner.id.clone(),
        type_: Type::from_static(Type::CANONICAL_USER),
        uri: None,
    };
    let permission = Some(Permission::from_static(Permission::FULL_CONTROL));
    (owner, vec![Grant { grantee: Some(grantee), permission }])
}

pub(crate) async fn bucket_acl(
    gateway: &Gateway,
    request: S3Request<GetBucketAclInput>,
) -> S3Result<S3Response<GetBucketAclOutput>> {
    bucket_is_there(gateway, &request.input.bucket).await?;
    let (owner, grants) = grants(gateway);
    Ok(S3Response::new(GetBucketAclOutput { grants: Some(grants), owner: Some(owner) }))
}

pub(crate) async fn object_acl(
    gateway: &Gateway,
    request: S3Request<GetObjectAclInput>,
) -> S3Result<S3Response<GetObjectAclOutput>> {
    let input = request.input;
    object_is_there(gateway, input.bucket, input.key, input.version_id.as_deref()).await?;
    let (owner, grants) = grants(gateway);
    let output =
        GetObjectAclOutput { grants: Some(grants), owner: Some(owner), request_charged: None };
    Ok(S3Response::new(output))
}

pub(crate) async fn object_tagging(
    gateway: &Gateway,
    request: S3Request<GetObjectTaggingInput>,
) -> S3Result<S3Response<GetObjectTaggingOutput>> {
    let input = request.input;
    object_is_there(gateway, input.bucket, input.key, input.version_id.as_deref()).await?;
    Ok(S3Response::new(GetObjectTaggingOutput { tag_set: Vec::new(), version_id: None }))
}
