//! LIST over all sets (PROTOCOL.md section 8): each set's scan is judged and resolved by the set, and
//! [`crate::list_merge`] makes one rolled-up list of them.

use bytes::Bytes;
use holdfast_register::Candidate;
use holdfast_types::{BucketStamp, EntryKind, Keyspace, OperationId, RegisterKey, limits};

use crate::{
    api::{ListObjects, ListUploads, ListedObject, ObjectPage, UploadPage},
    draft::ScanResult,
    engine::Engine,
    error::StoreError,
    list_merge::{Fetch, Merger, Names, Page, Query, Step},
    meta::ListedMeta,
    upload_record::UploadState,
};

impl Engine {
    /// S3: ListObjects, `ListObjectsV2`, `ListObjectVersions` of an unversioned bucket.
    pub(crate) async fn objects_list(&self, list: &ListObjects) -> Result<ObjectPage, StoreError> {
        let query = Query {
            names: Names::Objects,
            prefix: list.prefix.clone(),
            delimiter: list.delimiter.clone(),
            after: list.after.clone(),
            after_name: None,
            limit: list.limit.min(limits::PAGE_KEYS_MAX),
        };
        let look = |key: &RegisterKey, candidate: &Candidate| listed_object(key, candidate);
        let work = |stamp| self.merged(stamp, Keyspace::Object, query.clone(), look);
        let page = self.with_bucket(&list.bucket, work).await?;
        let next = page.last.filter(|_| page.truncated);
        let objects = page.items.into_iter().map(|(_, object)| object).collect();
        Ok(ObjectPage { objects, prefixes: page.prefixes, next })
    }

    /// S3: `ListMultipartUploads`.
    pub(crate) async fn uploads_list(&self, list: &ListUploads) -> Result<UploadPage, StoreError> {
        let marker = |upload: OperationId| RegisterKey::upload_name(&list.after_key, upload);
        let query = Query {
            names: Names::Uploads,
            prefix: list.prefix.clone(),
            delimiter: list.delimiter.clone(),
            after: list.after_key.clone(),
            after_name: list.after_upload.filter(|_| !list.after_key.is_empty()).map(marker),
            limit: list.limit.min(limits::PAGE_KEYS_MAX),
        };
        let look = |key: &RegisterKey, candidate: &Candidate| {
            let (name, upload, _) = key.upload_parts().map_err(|e| malformed(key, &e))?;
            let state = UploadState::of(Some(candidate)).map_err(|e| malformed(key, &e))?;
            let visible = state.filter(UploadState::is_visible);
            Ok(visible.map(|state| state.info(name, upload)))
        };
        let work = |stamp| self.merged(stamp, Keyspace::Upload, query.clone(), look);
        let page = self.with_bucket(&list.bucket, work).await?;
        let uploads = page.items.into_iter().map(|(_, upload)| upload).collect();
        Ok(UploadPage { uploads, prefixes: page.prefixes, truncated: page.truncated })
    }

    /// One page of a keyspace over all sets. `look` turns what is there into what is listed; what it
    /// makes nothing of is as if it were not there.
    async fn merged<T: Send>(
        &self,
        stamp: BucketStamp,
        space: Keyspace,
        query: Query,
        look: impl Fn(&RegisterKey, &Candidate) -> Result<Option<T>, StoreError> + Send,
    ) -> Result<Page<T>, StoreError> {
        let mut merger = Merger::new(query, self.sets().len());
        while let Step::Fetch(fetches) = merger.step() {
            let scans = fetches.iter().map(|fetch| {
                let (start, end) = (fetch.start.clone(), fetch.end.clone());
                self.sets()[fetch.source].scan(stamp, space, start, end, fetch.limit)
            });
            let pages = futures::future::try_join_all(scans).await?;
            for (fetch, page) in fetches.into_iter().zip(pages) {
                check_page(&fetch, &page)?;
                let mut names = Vec::with_capacity(page.entries.len());
                for (key, candidate) in page.entries {
                    let found = look(&key, &candidate)?;
                    names.extend(found.map(|found| (key.name, found)));
                }
                merger.feed(fetch.source, names, page.next);
            }
        }
        Ok(merger.into_page())
    }
}

/// Whether a page is an answer to its request: it comes from drives, which may be wrong.
fn check_page(fetch: &Fetch, page: &ScanResult) -> Result<(), StoreError> {
    let names = || page.entries.iter().map(|(key, _)| &key.name);
    let in_order = names().zip(names().skip(1)).all(|(one, next)| one < next);
    let begins = names().next().is_none_or(|first| *first >= fetch.start);
    let last: Option<&Bytes> = names().last();
    let goes_on = page.next.as_ref().is_none_or(|next| *next > fetch.start && Some(next) > last);
    if in_order && begins && goes_on {
        return Ok(());
    }
    Err(StoreError::Internal {
        message: format!("scan of set {}: names out of order", fetch.source),
    })
}

fn listed_object(
    key: &RegisterKey,
    candidate: &Candidate,
) -> Result<Option<ListedObject>, StoreError> {
    if candidate.entry.kind != EntryKind::Put {
        return Ok(None);
    }
    let meta = ListedMeta::from_bytes(&candidate.entry.metadata).map_err(|e| malformed(key, &e))?;
    Ok(Some(ListedObject { key: key.name.clone(), version: candidate.version, meta }))
}

fn malformed(key: &RegisterKey, error: &holdfast_types::codec::CodecError) -> StoreError {
    StoreError::Internal { message: format!("list {key:?}: {error}") }
}
