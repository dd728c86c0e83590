//! ListObjects, ListObjectsV2, ListObjectVersions.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use bytes::Bytes;
use holdfast_engine::api::{self, ListedObject, ObjectPage};
use holdfast_types::limits::PAGE_KEYS_MAX;
use s3s::{S3Request, S3Response, S3Result, dto::*};

use crate::{
    convert::{KeyText, checksum_type, etag, timestamp, version},
    error::{invalid, s3_error},
    s3::Gateway,
};

/// What the three operations have in common.
struct Asked {
    bucket: String,
    prefix: Option<String>,
    delimiter: Option<String>,
    limit: usize,
    encoding: Option<EncodingType>,
    keys: KeyText,
}

/// What the inputs of all three ask, their fields being of one name.
macro_rules! asked {
    ($input:ident) => {
        Asked::new(
            $input.bucket,
            $input.prefix,
            $input.delimiter,
            $input.max_keys,
            $input.encoding_type,
        )?
    };
}

/// The output of one of the three: what they have in common, and its own fields.
macro_rules! answer {
    ($output:ident { $($field:ident: $value:expr,)* }, $asked:ident, $page:ident) => {
        S3Response::new($output {
            common_prefixes: $asked.prefixes(&$page),
            delimiter: $asked.shown(&$asked.delimiter),
            is_truncated: Some($page.next.is_some()),
            max_keys: i32::try_from($asked.limit).ok(),
            request_charged: None,
            $($field: $value,)*
            name: Some($asked.bucket),
            encoding_type: $asked.encoding,
        })
    };
}

impl Asked {
    fn new(
        bucket: String,
        prefix: Option<String>,
        delimiter: Option<String>,
        limit: Option<i32>,
        encoding: Option<EncodingType>,
    ) -> S3Result<Self> {
        let limit = limit.map_or(Ok(PAGE_KEYS_MAX), usize::try_from);
        let limit =
            limit.map_err(|_| invalid("InvalidArgument", "max-keys must not be negative"))?;
        Ok(Self {
            bucket,
            prefix,
            delimiter: delimiter.filter(|delimiter| !delimiter.is_empty()),
            limit: limit.min(PAGE_KEYS_MAX),
            keys: KeyText::new(encoding.as_ref().map(EncodingType::as_str))?,
            encoding,
        })
    }

    async fn page(&self, gateway: &Gateway, after: Bytes) -> S3Result<ObjectPage> {
        let bytes = |text: &Option<String>| Bytes::from(text.clone().unwrap_or_default());
        let list = api::ListObjects {
            bucket: self.bucket.clone(),
            prefix: bytes(&self.prefix),
            delimiter: bytes(&self.delimiter),
            after,
            limit: self.limit,
        };
        gateway.store.list_objects(list).await.map_err(s3_error)
    }

    fn shown(&self, text: &Option<String>) -> Option<String> {
        text.as_deref().map(|text| self.keys.text(text))
    }

    /// The prefix asked for, empty when none was.
    fn shown_prefix(&self) -> Option<String> {
        self.shown(&Some(self.prefix.clone().unwrap_or_default()))
    }

    /// What a next page goes on with.
    fn next(&self, page: &ObjectPage) -> Option<String> {
        page.next.as_ref().map(|next| self.keys.bytes(next))
    }

    fn prefixes(&self, page: &ObjectPage) -> Option<Vec<CommonPrefix>> {
        let shown = page
            .prefixes
            .iter()
            .map(|prefix| CommonPrefix { prefix: Some(self.keys.bytes(prefix)) });
        (!page.prefixes.is_empty()).then(|| shown.collect())
    }

    fn objects(&self, page: &ObjectPage, owner: Option<&Owner>) -> Option<Vec<Object>> {
        let shown = page.objects.iter().map(|object| self.object(object, owner));
        (!page.objects.is_empty()).then(|| shown.collect())
    }

    fn object(&self, listed: &ListedObject, owner: Option<&Owner>) -> Object {
        let meta = &listed.meta;
        let checksum = meta.checksum.as_ref();
        Object {
            checksum_algorithm: checksum
                .map(|checksum| vec![ChecksumAlgorithm::from(checksum.algorithm.clone())]),
            checksum_type: checksum.map(|checksum| checksum_type(checksum.composite)),
            e_tag: Some(etag(&meta.etag)),
            key: Some(self.keys.bytes(&listed.key)),
            last_modified: Some(timestamp(meta.modified_micros)),
            owner: owner.cloned(),
            restore_status: None,
            size: i64::try_from(meta.size).ok(),
            storage_class: Some(ObjectStorageClass::from_static(ObjectStorageClass::STANDARD)),
        }
    }

    fn version(&self, listed: &ListedObject, owner: &Owner) -> ObjectVersion {
        let object = self.object(listed, Some(owner));
        ObjectVersion {
            checksum_algorithm: object.checksum_algorithm,
            checksum_type: object.checksum_type,
            e_tag: object.e_tag,
            is_latest: Some(true),
            key: object.key,
            last_modified: object.last_modified,
            owner: object.owner,
            restore_status: None,
            size: object.size,
            storage_class: Some(ObjectVersionStorageClass::from_static(
                ObjectVersionStorageClass::STANDARD,
            )),
            version_id: Some(listed.version.to_string()),
        }
    }
}

pub(crate) async fn version_1(
    gateway: &Gateway,
    request: S3Request<ListObjectsInput>,
) -> S3Result<S3Response<ListObjectsOutput>> {
    let input = request.input;
    let asked = asked!(input);
    let marker = input.marker.unwrap_or_default();
    let page = asked.page(gateway, Bytes::from(marker.clone())).await?;
    let owner = gateway.owner();
    let output = answer!(
        ListObjectsOutput {
            contents: asked.objects(&page, Some(&owner)),
            marker: Some(asked.keys.text(&marker)),
            // S3 names the next marker only under a delimiter; clients take the last key otherwise. Ours is
            // there always, which all of them understand.
            next_marker: asked.next(&page),
            // As it was sent, even under encoding-type=url: SDKs do not decode it here.
            prefix: Some(asked.prefix.clone().unwrap_or_default()),
        },
        asked,
        page
    );
    Ok(output)
}

pub(crate) async fn version_2(
    gateway: &Gateway,
    request: S3Request<ListObjectsV2Input>,
) -> S3Result<S3Response<ListObjectsV2Output>> {
    let input = request.input;
    let asked = asked!(input);
    let after = match input.continuation_token.as_deref().filter(|token| !token.is_empty()) {
        Some(token) => BASE64
            .decode(token)
            .map(Bytes::from)
            .map_err(|_| invalid("InvalidArgument", "the continuation token is not one of ours"))?,
        None => Bytes::from(input.start_after.clone().unwrap_or_default()),
    };
    let page = asked.page(gateway, after).await?;
    let owner = input.fetch_owner.unwrap_or(false).then(|| gateway.owner());
    let count = page.objects.len() + page.prefixes.len();
    let output = answer!(
        ListObjectsV2Output {
            contents: asked.objects(&page, owner.as_ref()),
            continuation_token: input.continuation_token,
            key_count: i32::try_from(count).ok(),
            next_continuation_token: page.next.as_ref().map(|next| BASE64.encode(next)),
            prefix: asked.shown_prefix(),
            start_after: asked.shown(&input.start_after),
        },
        asked,
        page
    );
    Ok(output)
}

/// Every object of an unversioned bucket is its only version, `null`.
pub(crate) async fn versions(
    gateway: &Gateway,
    request: S3Request<ListObjectVersionsInput>,
) -> S3Result<S3Response<ListObjectVersionsOutput>> {
    let input = request.input;
    let asked = asked!(input);
    let key_marker = input.key_marker.unwrap_or_default();
    let version_marker = input.version_id_marker.filter(|marker| !marker.is_empty());
    if version_marker.is_some() && key_marker.is_empty() {
        let message = "a version-id marker cannot be specified without a key marker";
        return Err(invalid("InvalidArgument", message));
    }
    // Of a key's versions `null` is the last one, so that any other goes on where it does.
    version(version_marker.as_deref())?;
    let page = asked.page(gateway, Bytes::from(key_marker.clone())).await?;
    let owner = gateway.owner();
    let versions = page.objects.iter().map(|object| asked.version(object, &owner));
    let last_is_object = page
        .next
        .as_ref()
        .is_some_and(|next| page.objects.last().is_some_and(|last| last.key == *next));
    let output = answer!(
        ListObjectVersionsOutput {
            delete_markers: None,
            key_marker: Some(asked.keys.text(&key_marker)),
            next_key_marker: asked.next(&page),
            next_version_id_marker: last_is_object.then(|| "null".to_owned()),
            prefix: asked.shown_prefix(),
            version_id_marker: Some(version_marker.unwrap_or_default()),
            versions: (!page.objects.is_empty()).then(|| versions.collect()),
        },
        asked,
        page
    );
    Ok(output)
}
