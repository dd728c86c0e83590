//! DeleteObject and DeleteObjects.

use bytes::Bytes;
use holdfast_engine::{StoreError, api};
use holdfast_types::limits::PAGE_KEYS_MAX;
use s3s::{S3Error, S3Request, S3Response, S3Result, dto::*};

use crate::{
    conditions,
    convert::{version, version_header},
    error::{invalid, not_implemented, s3_error},
    s3::Gateway,
    told::Told,
};

pub(crate) async fn one(
    gateway: &Gateway,
    request: S3Request<DeleteObjectInput>,
) -> S3Result<S3Response<DeleteObjectOutput>> {
    let conditions = conditions::of_write(&Told::of(&request))?;
    let input = request.input;
    if input.if_match_size.is_some() || input.if_match_last_modified_time.is_some() {
        return Err(not_implemented("deleting on condition of size or time"));
    }
    let key = Bytes::from(input.key);
    let version = version(input.version_id.as_deref())?;
    let delete = api::DeleteKey { key, version, conditions };
    let deleted = gateway.store.delete_object(&input.bucket, delete).await.map_err(s3_error)?;
    let output = DeleteObjectOutput {
        delete_marker: deleted.delete_marker.then_some(true),
        version_id: deleted.version.and_then(|version| version_header(version, false)),
        ..Default::default()
    };
    Ok(S3Response::with_status(output, http::StatusCode::NO_CONTENT))
}

pub(crate) async fn many(
    gateway: &Gateway,
    request: S3Request<DeleteObjectsInput>,
) -> S3Result<S3Response<DeleteObjectsOutput>> {
    let input = request.input;
    let quiet = input.delete.quiet.unwrap_or(false);
    let objects = input.delete.objects;
    if objects.is_empty() || objects.len() > PAGE_KEYS_MAX {
        let message = format!("name 1 to {PAGE_KEYS_MAX} keys to delete");
        return Err(invalid("MalformedXML", message));
    }
    if objects.iter().any(|object| object.key.is_empty()) {
        return Err(invalid("MalformedXML", "a key to delete is empty"));
    }
    let mut output = DeleteObjectsOutput::default();
    let (mut deleted, mut errors) = (Vec::new(), Vec::new());
    // What is wrong with one key is said of that key; the others are deleted.
    let (mut keys, mut asked) = (Vec::new(), Vec::new());
    for object in objects {
        match to_delete(&object) {
            Ok(key) => {
                keys.push(key);
                asked.push(object);
            }
            Err(error) => errors.push(refused(object, &error)),
        }
    }
    let results = gateway.store.delete_objects(&input.bucket, keys).await.map_err(s3_error)?;
    for (object, result) in asked.into_iter().zip(results) {
        match result {
            Ok(done) if !quiet => deleted.push(success(object, &done)),
            Ok(_) => {}
            Err(error) => errors.push(refused(object, &s3_error(error))),
        }
    }
    output.deleted = (!deleted.is_empty()).then_some(deleted);
    output.errors = (!errors.is_empty()).then_some(errors);
    Ok(S3Response::new(output))
}

fn to_delete(object: &ObjectIdentifier) -> S3Result<api::DeleteKey> {
    if object.size.is_some() || object.last_modified_time.is_some() {
        return Err(not_implemented("deleting on condition of size or time"));
    }
    if object.key.len() > holdfast_types::limits::KEY_BYTES_MAX {
        return Err(s3_error(StoreError::KeyTooLong));
    }
    let if_match = object.e_tag.clone().map(|tag| match tag.value() {
        "*" => api::EtagCondition::Any,
        tag => api::EtagCondition::Tags(vec![tag.to_owned()]),
    });
    Ok(api::DeleteKey {
        key: Bytes::from(object.key.clone()),
        version: version(object.version_id.as_deref())?,
        conditions: api::Conditions { if_match, ..Default::default() },
    })
}

fn success(object: ObjectIdentifier, done: &api::Deleted) -> DeletedObject {
    let marker = done.version.filter(|_| done.delete_marker);
    DeletedObject {
        delete_marker: done.delete_marker.then_some(true),
        delete_marker_version_id: marker.map(|version| version.to_string()),
        key: Some(object.key),
        version_id: object.version_id,
    }
}

fn refused(object: ObjectIdentifier, error: &S3Error) -> s3s::dto::Error {
    s3s::dto::Error {
        code: Some(error.code().as_str().to_owned()),
        key: Some(object.key),
        message: error.message().map(str::to_owned),
        version_id: object.version_id,
    }
}
