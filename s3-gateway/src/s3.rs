//! The table of operations. What is not in it, s3s answers with NotImplemented.

use std::sync::Arc;

use async_trait::async_trait;
use holdfast_engine::ObjectStore;
use s3s::{S3, S3Request, S3Response, S3Result, dto::*};

use crate::{
    config::OwnerName,
    ops::{bucket, copy, delete, inspect, list, multipart, parts, put, read, unconfigured},
};

/// What operations need.
#[derive(Clone)]
pub(crate) struct Gateway {
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) region: String,
    pub(crate) owner: OwnerName,
    /// How clients reach the gateway: of the URLs that answers name.
    pub(crate) scheme: &'static str,
}

impl Gateway {
    /// The owner of everything, as listings show it.
    pub(crate) fn owner(&self) -> Owner {
        Owner {
            id: Some(self.owner.id.clone()),
            display_name: Some(self.owner.display_name.clone()),
        }
    }
}

/// One line an operation: `method: Input => Output = module::function`.
macro_rules! operations {
    ($($method:ident: $input:ident => $output:ident = $call:path;)*) => {
        #[async_trait]
        impl S3 for Gateway {
            $(
                async fn $method(
                    &self,
                    request: S3Request<$input>,
                ) -> S3Result<S3Response<$output>> {
                    $call(self, request).await
                }
            )*
        }
    };
}

operations! {
    create_bucket: CreateBucketInput => CreateBucketOutput = bucket::create;
    head_bucket: HeadBucketInput => HeadBucketOutput = bucket::head;
    list_buckets: ListBucketsInput => ListBucketsOutput = bucket::list;
    delete_bucket: DeleteBucketInput => DeleteBucketOutput = bucket::delete;
    get_bucket_location: GetBucketLocationInput => GetBucketLocationOutput = bucket::location;

    put_object: PutObjectInput => PutObjectOutput = put::put;
    get_object: GetObjectInput => GetObjectOutput = read::get;
    head_object: HeadObjectInput => HeadObjectOutput = read::head;
    get_object_attributes: GetObjectAttributesInput => GetObjectAttributesOutput = inspect::attributes;
    copy_object: CopyObjectInput => CopyObjectOutput = copy::copy;
    delete_object: DeleteObjectInput => DeleteObjectOutput = delete::one;
    delete_objects: DeleteObjectsInput => DeleteObjectsOutput = delete::many;

    list_objects: ListObjectsInput => ListObjectsOutput = list::version_1;
    list_objects_v2: ListObjectsV2Input => ListObjectsV2Output = list::version_2;
    list_object_versions: ListObjectVersionsInput => ListObjectVersionsOutput = list::versions;

    create_multipart_upload: CreateMultipartUploadInput => CreateMultipartUploadOutput = multipart::create;
    complete_multipart_upload: CompleteMultipartUploadInput => CompleteMultipartUploadOutput = multipart::complete;
    abort_multipart_upload: AbortMultipartUploadInput => AbortMultipartUploadOutput = multipart::abort;
    list_multipart_uploads: ListMultipartUploadsInput => ListMultipartUploadsOutput = multipart::list;
    upload_part: UploadPartInput => UploadPartOutput = parts::upload;
    upload_part_copy: UploadPartCopyInput => UploadPartCopyOutput = parts::copy;
    list_parts: ListPartsInput => ListPartsOutput = parts::list;

    get_bucket_versioning: GetBucketVersioningInput => GetBucketVersioningOutput = unconfigured::versioning;
    get_bucket_acl: GetBucketAclInput => GetBucketAclOutput = unconfigured::bucket_acl;
    get_object_acl: GetObjectAclInput => GetObjectAclOutput = unconfigured::object_acl;
    get_object_tagging: GetObjectTaggingInput => GetObjectTaggingOutput = unconfigured::object_tagging;
    get_bucket_logging: GetBucketLoggingInput => GetBucketLoggingOutput = unconfigured::logging;
    get_bucket_notification_configuration: GetBucketNotificationConfigurationInput => GetBucketNotificationConfigurationOutput = unconfigured::notification;
    get_bucket_request_payment: GetBucketRequestPaymentInput => GetBucketRequestPaymentOutput = unconfigured::request_payment;
    get_bucket_accelerate_configuration: GetBucketAccelerateConfigurationInput => GetBucketAccelerateConfigurationOutput = unconfigured::accelerate;
    get_bucket_ownership_controls: GetBucketOwnershipControlsInput => GetBucketOwnershipControlsOutput = unconfigured::ownership;
    get_bucket_policy: GetBucketPolicyInput => GetBucketPolicyOutput = unconfigured::policy;
    get_bucket_policy_status: GetBucketPolicyStatusInput => GetBucketPolicyStatusOutput = unconfigured::policy_status;
    get_bucket_tagging: GetBucketTaggingInput => GetBucketTaggingOutput = unconfigured::bucket_tagging;
    get_bucket_cors: GetBucketCorsInput => GetBucketCorsOutput = unconfigured::cors;
    get_bucket_encryption: GetBucketEncryptionInput => GetBucketEncryptionOutput = unconfigured::encryption;
    get_bucket_lifecycle_configuration: GetBucketLifecycleConfigurationInput => GetBucketLifecycleConfigurationOutput = unconfigured::lifecycle;
    get_bucket_website: GetBucketWebsiteInput => GetBucketWebsiteOutput = unconfigured::website;
    get_bucket_replication: GetBucketReplicationInput => GetBucketReplicationOutput = unconfigured::replication;
    get_object_lock_configuration: GetObjectLockConfigurationInput => GetObjectLockConfigurationOutput = unconfigured::object_lock;
    get_public_access_block: GetPublicAccessBlockInput => GetPublicAccessBlockOutput = unconfigured::public_access_block;
}
