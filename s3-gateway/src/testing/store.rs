//! The operations.

use std::collections::BTreeMap;

use async_trait::async_trait;
use bytes::Bytes;
use futures::StreamExt;
use holdfast_engine::{ObjectStore, StoreError, api::*, checksum, meta::ObjectMeta};
use holdfast_types::{OperationId, VersionId, limits::KEY_BYTES_MAX};

use super::{Bucket, Chunks, MemoryStore, Object, drain, select};

impl MemoryStore {
    fn read(&self, get: &GetObject) -> Result<(ObjectRead, Chunks), StoreError> {
        self.with(&get.bucket, |bucket| {
            let object = bucket.object(&get.key)?;
            if get.version.is_some_and(|version| version != VersionId::NULL) {
                return Err(StoreError::NoSuchVersion);
            }
            select::check_read(&get.conditions, &object.meta)?;
            let range = select::range(get.wanted, &object.meta)?;
            let chunks = select::cut(&object.body, &range);
            let body = futures::stream::iter(chunks.clone().into_iter().map(Ok)).boxed();
            Ok((ObjectRead { info: info(&object.meta), range, body }, chunks))
        })
    }

    /// Bytes of a copy's source.
    pub(super) fn source(&self, get: &GetObject) -> Result<(ObjectMeta, Chunks), StoreError> {
        let (read, chunks) = self.read(get)?;
        // S3: the range of UploadPartCopy must lie inside the source.
        if let Wanted::Range { last: Some(last), .. } = get.wanted
            && last >= read.info.meta.size
        {
            return Err(StoreError::InvalidRange { size: read.info.meta.size });
        }
        Ok((read.info.meta, chunks))
    }

    fn delete(&self, bucket: &str, delete: &DeleteKey) -> Result<Deleted, StoreError> {
        self.with(bucket, |bucket| {
            let current = bucket.objects.get(&delete.key).map(|object| &object.meta);
            select::check_write(&delete.conditions, current)?;
            if delete.version.is_none_or(|version| version == VersionId::NULL) {
                bucket.objects.remove(&delete.key);
            }
            Ok(Deleted::default())
        })
    }
}

pub(super) fn info(meta: &ObjectMeta) -> ObjectInfo {
    ObjectInfo { version: VersionId::NULL, meta: meta.clone() }
}

fn check_key(key: &[u8]) -> Result<(), StoreError> {
    if key.len() > KEY_BYTES_MAX { Err(StoreError::KeyTooLong) } else { Ok(()) }
}

/// What a copy's bytes turn out to be.
pub(super) fn digest(chunks: &Chunks, algorithm: Option<&str>) -> BodyDigest {
    let algorithm = algorithm.and_then(checksum::Algorithm::by_name);
    let mut digester = checksum::Digester::new(algorithm);
    chunks.iter().for_each(|chunk| digester.update(chunk));
    digester.finish()
}

#[async_trait]
impl ObjectStore for MemoryStore {
    async fn create_bucket(&self, name: &str, location: &str) -> Result<BucketInfo, StoreError> {
        let info = BucketInfo {
            name: name.to_owned(),
            created_micros: self.now(),
            location: location.to_owned(),
        };
        let mut buckets = self.buckets();
        if buckets.contains_key(name) {
            return Err(StoreError::BucketExists { bucket: name.to_owned() });
        }
        let bucket = Bucket {
            info: info.clone(),
            objects: BTreeMap::new(),
            uploads: BTreeMap::new(),
            completed: BTreeMap::new(),
        };
        buckets.insert(name.to_owned(), bucket);
        Ok(info)
    }

    async fn bucket(&self, name: &str) -> Result<BucketInfo, StoreError> {
        self.with(name, |bucket| Ok(bucket.info.clone()))
    }

    async fn delete_bucket(&self, name: &str) -> Result<(), StoreError> {
        self.with(name, |bucket| match bucket.objects.is_empty() {
            true => Ok(()),
            false => Err(StoreError::BucketNotEmpty { bucket: name.to_owned() }),
        })?;
        self.buckets().remove(name);
        Ok(())
    }

    async fn list_buckets(
        &self,
        prefix: &str,
        after: &str,
        limit: usize,
    ) -> Result<BucketPage, StoreError> {
        let buckets = self.buckets();
        let mut found = buckets
            .values()
            .map(|bucket| bucket.info.clone())
            .filter(|info| info.name.starts_with(prefix) && info.name.as_str() > after);
        let page: Vec<BucketInfo> = found.by_ref().take(limit).collect();
        let next = found.next().and_then(|_| page.last().map(|last| last.name.clone()));
        Ok(BucketPage { buckets: page, next })
    }

    async fn put_object(&self, put: PutObject, body: BoxBody) -> Result<ObjectInfo, StoreError> {
        check_key(&put.key)?;
        // Looked at twice: refuse early, before the bytes are here; decide when they are.
        self.with(&put.bucket, |bucket| {
            let current = bucket.objects.get(&put.key).map(|object| &object.meta);
            select::check_write(&put.conditions, current)
        })?;
        let (body, size, digest) = drain(body).await?;
        let meta = ObjectMeta {
            size,
            etag: digest.etag,
            modified_micros: self.now(),
            headers: put.attributes.headers,
            user: put.attributes.user,
            checksum: digest.checksum,
            parts: Vec::new(),
        };
        self.with(&put.bucket, |bucket| {
            let current = bucket.objects.get(&put.key).map(|object| &object.meta);
            select::check_write(&put.conditions, current)?;
            let answer = info(&meta);
            bucket.objects.insert(put.key, Object { meta, body });
            Ok(answer)
        })
    }

    async fn head_object(&self, get: GetObject) -> Result<ObjectRead, StoreError> {
        let (mut read, _) = self.read(&get)?;
        read.body = futures::stream::empty().boxed();
        Ok(read)
    }

    async fn get_object(&self, get: GetObject) -> Result<ObjectRead, StoreError> {
        self.read(&get).map(|(read, _)| read)
    }

    async fn delete_object(&self, bucket: &str, key: DeleteKey) -> Result<Deleted, StoreError> {
        self.delete(bucket, &key)
    }

    async fn delete_objects(
        &self,
        bucket: &str,
        keys: Vec<DeleteKey>,
    ) -> Result<Vec<Result<Deleted, StoreError>>, StoreError> {
        self.with(bucket, |_| Ok(()))?;
        Ok(keys.iter().map(|key| self.delete(bucket, key)).collect())
    }

    async fn copy_object(&self, copy: CopyObject) -> Result<ObjectInfo, StoreError> {
        check_key(&copy.key)?;
        let (source, body) = self.source(&copy.source)?;
        let kept = source.checksum.as_ref().map(|checksum| checksum.algorithm.clone());
        let digest = digest(&body, copy.checksum_algorithm.or(kept).as_deref());
        let replace =
            copy.replace.unwrap_or(ObjectAttributes { headers: source.headers, user: source.user });
        let meta = ObjectMeta {
            size: source.size,
            etag: digest.etag,
            modified_micros: self.now(),
            headers: replace.headers,
            user: replace.user,
            checksum: digest.checksum,
            parts: Vec::new(),
        };
        self.with(&copy.bucket, |bucket| {
            let current = bucket.objects.get(&copy.key).map(|object| &object.meta);
            select::check_write(&copy.conditions, current)?;
            let answer = info(&meta);
            bucket.objects.insert(copy.key, Object { meta, body });
            Ok(answer)
        })
    }

    async fn list_objects(&self, list: ListObjects) -> Result<ObjectPage, StoreError> {
        self.with(&list.bucket, |bucket| {
            let page = select::page(
                &bucket.objects,
                (&list.prefix, &list.delimiter, list.limit),
                |key| key,
                |key| *key > list.after,
                &list.after,
                |key, object| {
                    let (version, meta) = (VersionId::NULL, object.meta.clone().into());
                    ListedObject { key: key.clone(), version, meta }
                },
            );
            Ok(ObjectPage { objects: page.items, prefixes: page.prefixes, next: page.next })
        })
    }

    async fn create_upload(&self, create: CreateUpload) -> Result<UploadInfo, StoreError> {
        check_key(&create.key)?;
        self.begin_upload(create)
    }

    async fn upload(
        &self,
        bucket: &str,
        key: &[u8],
        upload: OperationId,
    ) -> Result<UploadInfo, StoreError> {
        self.with(bucket, |bucket| Ok(bucket.upload(key, upload)?.info.clone()))
    }

    async fn put_part(&self, put: PutPart, body: BoxBody) -> Result<PartInfo, StoreError> {
        let upload = self.upload(&put.bucket, &put.key, put.upload).await?;
        let (of_upload, sent) = (upload.checksum_algorithm, put.checksum);
        if let (Some(expected), Some(sent)) = (of_upload, sent.map(checksum::Algorithm::name))
            && expected != sent
        {
            let message = format!("the upload wants {expected}, the part came with {sent}");
            return Err(StoreError::InvalidRequest { message });
        }
        let (body, _, digest) = drain(body).await?;
        self.keep_part(&put, body, digest)
    }

    async fn copy_part(&self, source: GetObject, put: PutPart) -> Result<PartInfo, StoreError> {
        let upload = self.upload(&put.bucket, &put.key, put.upload).await?;
        let (_, body) = self.source(&source)?;
        let digest = digest(&body, upload.checksum_algorithm.as_deref());
        self.keep_part(&put, body, digest)
    }

    async fn list_parts(
        &self,
        bucket: &str,
        key: &[u8],
        upload: OperationId,
        after: u16,
        limit: usize,
    ) -> Result<PartPage, StoreError> {
        self.part_page(bucket, key, upload, after, limit)
    }

    async fn list_uploads(&self, list: ListUploads) -> Result<UploadPage, StoreError> {
        self.upload_page(&list)
    }

    async fn complete_upload(&self, complete: CompleteUpload) -> Result<ObjectInfo, StoreError> {
        self.finish_upload(complete)
    }

    async fn abort_upload(
        &self,
        bucket: &str,
        key: &[u8],
        upload: OperationId,
    ) -> Result<(), StoreError> {
        let place = (Bytes::copy_from_slice(key), upload);
        self.with(bucket, |bucket| match bucket.uploads.remove(&place) {
            Some(_) => Ok(()),
            None => Err(StoreError::NoSuchUpload),
        })
    }
}
