//! [`ObjectStore`] for [`Engine`]: each method is one operation of a module of its own.

use async_trait::async_trait;
use holdfast_types::OperationId;

use crate::{
    api::{
        BoxBody, BucketInfo, BucketPage, CompleteUpload, CopyObject, CreateUpload, DeleteKey,
        Deleted, GetObject, ListObjects, ListUploads, ObjectInfo, ObjectPage, ObjectRead,
        ObjectStore, PartInfo, PartPage, PutObject, PutPart, UploadInfo, UploadPage,
    },
    engine::Engine,
    error::StoreError,
};

#[async_trait]
impl ObjectStore for Engine {
    async fn create_bucket(&self, name: &str, location: &str) -> Result<BucketInfo, StoreError> {
        let _permit = self.admit().await?;
        self.bucket_create(name, location).await
    }

    async fn bucket(&self, name: &str) -> Result<BucketInfo, StoreError> {
        let _permit = self.admit().await?;
        self.bucket_head(name).await
    }

    async fn delete_bucket(&self, name: &str) -> Result<(), StoreError> {
        let _permit = self.admit().await?;
        self.bucket_delete(name).await
    }

    async fn list_buckets(
        &self,
        prefix: &str,
        after: &str,
        limit: usize,
    ) -> Result<BucketPage, StoreError> {
        let _permit = self.admit().await?;
        self.buckets_list(prefix, after, limit).await
    }

    async fn put_object(&self, put: PutObject, body: BoxBody) -> Result<ObjectInfo, StoreError> {
        self.object_put(put, body).await
    }

    async fn head_object(&self, get: GetObject) -> Result<ObjectRead, StoreError> {
        self.object_head(&get).await
    }

    async fn get_object(&self, get: GetObject) -> Result<ObjectRead, StoreError> {
        self.object_get(&get).await
    }

    async fn delete_object(&self, bucket: &str, key: DeleteKey) -> Result<Deleted, StoreError> {
        self.object_delete(bucket, &key).await
    }

    async fn delete_objects(
        &self,
        bucket: &str,
        keys: Vec<DeleteKey>,
    ) -> Result<Vec<Result<Deleted, StoreError>>, StoreError> {
        let _permit = self.admit().await?;
        self.objects_delete(bucket, keys).await
    }

    async fn copy_object(&self, copy: CopyObject) -> Result<ObjectInfo, StoreError> {
        self.object_copy(copy).await
    }

    async fn list_objects(&self, list: ListObjects) -> Result<ObjectPage, StoreError> {
        let _permit = self.admit().await?;
        self.objects_list(&list).await
    }

    async fn create_upload(&self, create: CreateUpload) -> Result<UploadInfo, StoreError> {
        let _permit = self.admit().await?;
        self.upload_create(create).await
    }

    async fn upload(
        &self,
        bucket: &str,
        key: &[u8],
        upload: OperationId,
    ) -> Result<UploadInfo, StoreError> {
        let _permit = self.admit().await?;
        self.upload_info(bucket, key, upload).await
    }

    async fn put_part(&self, put: PutPart, body: BoxBody) -> Result<PartInfo, StoreError> {
        let _permit = self.admit().await?;
        self.part_put(put, body).await
    }

    async fn copy_part(&self, source: GetObject, put: PutPart) -> Result<PartInfo, StoreError> {
        let _permit = self.admit().await?;
        self.part_copy(source, put).await
    }

    async fn list_parts(
        &self,
        bucket: &str,
        key: &[u8],
        upload: OperationId,
        after: u16,
        limit: usize,
    ) -> Result<PartPage, StoreError> {
        let _permit = self.admit().await?;
        self.parts_list(bucket, key, upload, after, limit).await
    }

    async fn list_uploads(&self, list: ListUploads) -> Result<UploadPage, StoreError> {
        let _permit = self.admit().await?;
        self.uploads_list(&list).await
    }

    async fn complete_upload(&self, complete: CompleteUpload) -> Result<ObjectInfo, StoreError> {
        let _permit = self.admit().await?;
        self.upload_complete(complete).await
    }

    async fn abort_upload(
        &self,
        bucket: &str,
        key: &[u8],
        upload: OperationId,
    ) -> Result<(), StoreError> {
        let _permit = self.admit().await?;
        self.upload_abort(bucket, key, upload).await
    }
}
