//! s3s asks here for secrets, and whether an operation is allowed.

use std::sync::Arc;

use s3s::{
    S3Result,
    access::{S3Access, S3AccessContext},
    auth::{S3Auth, SecretKey},
    s3_error,
    validation::NameValidation,
};

use crate::{accepted, config::Credentials};

/// Secrets by access key.
pub(crate) struct Secrets(pub(crate) Arc<dyn Credentials>);

#[async_trait::async_trait]
impl S3Auth for Secrets {
    async fn get_secret_key(&self, access_key: &str) -> S3Result<SecretKey> {
        match self.0.secret_key(access_key).await {
            Some(secret) => Ok(SecretKey::from(secret)),
            None => Err(s3_error!(
                InvalidAccessKeyId,
                "the access key id is not known here: check the credentials of the client"
            )),
        }
    }
}

/// Who may do what. Everyone who signed may do everything, as long as there is only root; policies
/// are evaluated here when there are users.
pub(crate) struct SignedOnly;

#[async_trait::async_trait]
impl S3Access for SignedOnly {
    async fn check(&self, context: &mut S3AccessContext<'_>) -> S3Result<()> {
        match context.credentials() {
            Some(_) => accepted::check(context),
            None => Err(s3_error!(AccessDenied, "anonymous access is off: sign the request")),
        }
    }
}

/// For requests whose signature was verified before: nobody can sign here.
pub(crate) struct NoSecrets;

#[async_trait::async_trait]
impl S3Auth for NoSecrets {
    async fn get_secret_key(&self, _: &str) -> S3Result<SecretKey> {
        Err(s3_error!(InvalidAccessKeyId, "the signature was verified already"))
    }
}

/// S3's rules for bucket names, and the one name that is ours: [`crate::admin::PREFIX`].
pub(crate) struct BucketNames;

impl NameValidation for BucketNames {
    fn validate_bucket_name(&self, name: &str) -> bool {
        name == crate::admin::BUCKET || is_bucket_name(name)
    }
}

/// S3 user guide, "Bucket naming rules"; s3s knows them but for labels that begin or end with a hyphen.
pub(crate) fn is_bucket_name(name: &str) -> bool {
    let is_label = |label: &str| !label.starts_with('-') && !label.ends_with('-');
    s3s::path::check_bucket_name(name) && name.split('.').all(is_label)
}
