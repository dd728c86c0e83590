//! Copies: what is read is written, verified on the way, as an object or a part of its own (PROTOCOL.md
//! section 8). Keys never share bytes. A copy onto itself that changes the metadata alone is
//! conditional on the operation it read.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use futures::{
    Stream, StreamExt,
    stream::{self, BoxStream},
};
use holdfast_register::{Candidate, HolderMask};
use holdfast_types::{BucketStamp, EntryKind, PartRef, RegisterKey, VersionId};
use parking_lot::Mutex;

use crate::{
    api::{
        Body, BodyDigest, BoxBody, ByteStream, CopyObject, GetObject, ObjectAttributes, ObjectInfo,
        ObjectRead, PartInfo, PutObject, PutPart, Wanted,
    },
    bulk::damaged,
    checksum::{Algorithm, Digester},
    conditions::{as_copy_source, check_copy_source, check_write},
    draft::{Decision, Draft},
    engine::Engine,
    error::StoreError,
    meta::ObjectMeta,
    object::check_key,
    read::{Found, Question},
    staged::rides_inline,
    task,
    uploads::check_number,
};

/// Times a copy onto itself starts again because another write came in between.
const ROUNDS_MAX: u32 = 4;

/// From this size on hashing a chunk takes longer than a task may hold a worker (about 500 us at
/// 0.67 GB/s).
const HEAVY_BYTES: usize = 256 << 10;

impl Engine {
    /// S3: `CopyObject`.
    pub(crate) async fn object_copy(&self, copy: CopyObject) -> Result<ObjectInfo, StoreError> {
        check_key(&copy.key)?;
        let _permit = self.admit().await?;
        let onto_itself = copy.source.bucket == copy.bucket && copy.source.key == copy.key;
        if onto_itself && copy.source.version.is_none_or(|version| version == VersionId::NULL) {
            if copy.replace.is_none() && copy.checksum_algorithm.is_none() {
                return Err(StoreError::BodyRejected {
                    code: "InvalidRequest",
                    message: "a copy of an object onto itself must change something".to_owned(),
                });
            }
            return self.with_bucket(&copy.bucket, |stamp| self.rewrite(stamp, &copy)).await;
        }
        let algorithm = wanted_algorithm(&copy)?;
        let read = self.read_source(&copy.source).await?;
        let meta = read.info.meta;
        let algorithm = algorithm.or_else(|| algorithm_of(&meta));
        let attributes = copy.replace.unwrap_or_else(|| attributes_of(&meta));
        let put = PutObject {
            bucket: copy.bucket,
            key: copy.key,
            attributes,
            conditions: copy.conditions,
            length: Some(read.range.end - read.range.start),
        };
        let stamp = self.bucket_scope(&put.bucket).await?;
        self.put_under(stamp, put, digested(read.body, algorithm)).await
    }

    /// S3: `UploadPartCopy`. The range must lie within the source.
    pub(crate) async fn part_copy(
        &self,
        source: GetObject,
        put: PutPart,
    ) -> Result<PartInfo, StoreError> {
        check_number(put.number)?;
        let upload = self.upload_info(&put.bucket, &put.key, put.upload).await?;
        let algorithm = upload.checksum_algorithm.as_deref().and_then(Algorithm::by_name);
        let read = self.read_source(&source).await?;
        let size = read.info.meta.size;
        if let Wanted::Range { last: Some(last), .. } = source.wanted
            && last >= size
        {
            return Err(StoreError::InvalidRange { size });
        }
        let length = Some(read.range.end - read.range.start);
        let put = PutPart { length, checksum: algorithm, ..put };
        self.part_put(put, digested(read.body, algorithm)).await
    }

    /// The source of a copy: one operation's bytes, pinned, under the copy-source conditions.
    async fn read_source(&self, source: &GetObject) -> Result<ObjectRead, StoreError> {
        let read = |stamp| self.get_under(stamp, source);
        self.with_bucket(&source.bucket, read).await.map_err(as_copy_source)
    }

    /// A copy onto itself: the same bytes under other metadata, if nobody wrote in between.
    async fn rewrite(
        &self,
        stamp: BucketStamp,
        copy: &CopyObject,
    ) -> Result<ObjectInfo, StoreError> {
        let algorithm = wanted_algorithm(copy)?;
        let key = RegisterKey::object(stamp.id, copy.key.clone());
        let set = self.set_for(&key);
        let route = set.shared.route(&key)?;
        let question = Question { scope: stamp, route, version: None, inline: true };
        for _ in 0..ROUNDS_MAX {
            let found = set.shared.look(&question).await?;
            let live = found.filter(|found| found.candidate.entry.kind == EntryKind::Put);
            let found = live.ok_or(StoreError::NoSuchKey { delete_marker: false })?;
            let read = found.candidate.entry.operation;
            let old = ObjectMeta::from_bytes(&found.candidate.entry.metadata);
            let old = old.map_err(|e| damaged(&e))?;
            check_copy_source(&copy.source.conditions, &old)?;
            check_write(&copy.conditions, Some(&old))?;
            let (draft, meta) = self.rewritten(&question, found, &old, copy, algorithm).await?;
            let decide = |current: Option<&Candidate>| {
                let holds = |operation| current.is_some_and(|c| c.entry.operation == operation);
                Ok(if holds(read) {
                    Decision::Write(draft.clone(), true)
                } else {
                    Decision::Keep(holds(draft.operation))
                })
            };
            if set.update(stamp, key.clone(), VersionId::NULL, decide).await? {
                return Ok(ObjectInfo { version: VersionId::NULL, meta });
            }
        }
        Err(StoreError::ConditionalConflict)
    }

    /// The entry that replaces `found`: by reference to its bytes where every drive has them, so that
    /// no shard is left that only the old entry's repair record knows to be missing; else anew.
    async fn rewritten(
        &self,
        question: &Question,
        found: Found,
        old: &ObjectMeta,
        copy: &CopyObject,
        algorithm: Option<Algorithm>,
    ) -> Result<(Draft, ObjectMeta), StoreError> {
        let operation = self.draw_operation();
        let ObjectAttributes { headers, user } =
            copy.replace.clone().unwrap_or_else(|| attributes_of(old));
        let renamed =
            ObjectMeta { headers, user, modified_micros: self.now_micros(), ..old.clone() };
        let same_checksum = algorithm.is_none() || algorithm == algorithm_of(old);
        if let Some(parts) = self.shareable(question, &found.candidate).await?
            && same_checksum
        {
            let draft = Draft::record(operation, renamed.to_bytes()).with_parts(parts);
            return Ok((draft, renamed));
        }
        let size = old.size;
        let body = self.open_found(question, found, 0..size).await?;
        let body = digested(body, algorithm.or_else(|| algorithm_of(old)));
        let key = &question.route.key;
        let set = self.set_for(key);
        let received = set.receive(question.scope, key, operation, body, Some(size)).await?;
        let meta = ObjectMeta {
            etag: received.digest.etag,
            checksum: received.digest.checksum,
            parts: Vec::new(),
            ..renamed
        };
        Ok((Draft::record(operation, meta.to_bytes()).with_data(received.data), meta))
    }

    /// The bytes of an entry as parts of another one, when every drive holds the entry with its shard.
    /// Small bodies are not worth it, and bodies in parts keep shards that the entry does not count.
    async fn shareable(
        &self,
        question: &Question,
        found: &Candidate,
    ) -> Result<Option<Vec<PartRef>>, StoreError> {
        let entry = &found.entry;
        if !entry.parts.is_empty() || rides_inline(&entry.geometry) {
            return Ok(None);
        }
        let set = self.set_for(&question.route.key);
        let judged = set.judged_by_all(question.scope, &question.route.key).await?;
        let all = HolderMask::full(set.quorum().n());
        let whole = match judged {
            holdfast_register::Judgement::Found(now) => {
                now.entry.operation == entry.operation && now.shards == all
            }
            _ => false,
        };
        let (operation, geometry) = (entry.operation, entry.geometry);
        Ok(whole.then(|| vec![PartRef { number: 1, operation, geometry }]))
    }
}

fn wanted_algorithm(copy: &CopyObject) -> Result<Option<Algorithm>, StoreError> {
    let Some(name) = copy.checksum_algorithm.as_deref() else { return Ok(None) };
    let unknown = || StoreError::InvalidArgument { message: format!("checksum algorithm {name}") };
    Algorithm::by_name(name).map(Some).ok_or_else(unknown)
}

fn algorithm_of(meta: &ObjectMeta) -> Option<Algorithm> {
    meta.checksum.as_ref().and_then(|checksum| Algorithm::by_name(&checksum.algorithm))
}

fn attributes_of(meta: &ObjectMeta) -> ObjectAttributes {
    ObjectAttributes { headers: meta.headers.clone(), user: meta.user.clone() }
}

/// Bytes on their way from one object to another, digested as they pass.
struct CopyBody {
    chunks: BoxStream<'static, Result<Bytes, StoreError>>,
    digest: Arc<Mutex<Option<BodyDigest>>>,
}

fn digested(source: ByteStream, algorithm: Option<Algorithm>) -> BoxBody {
    let digest = Arc::new(Mutex::new(None));
    let state = (source, Digester::new(algorithm), digest.clone());
    let chunks = stream::try_unfold(state, |(mut source, digester, digest)| async move {
        let Some(chunk) = source.next().await else {
            *digest.lock() = Some(digester.finish());
            return Ok(None);
        };
        let chunk: Bytes = chunk?;
        let digester = absorb(digester, chunk.clone()).await;
        Ok(Some((chunk, (source, digester, digest))))
    });
    Box::pin(CopyBody { chunks: chunks.boxed(), digest })
}

async fn absorb(mut digester: Digester, chunk: Bytes) -> Digester {
    if chunk.len() < HEAVY_BYTES {
        digester.update(&chunk);
        return digester;
    }
    let work = move || {
        digester.update(&chunk);
        digester
    };
    task::heavy(work).await
}

impl Stream for CopyBody {
    type Item = Result<Bytes, StoreError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.chunks.as_mut().poll_next(cx)
    }
}

impl Body for CopyBody {
    fn digest(&mut self) -> BodyDigest {
        self.digest.lock().take().expect("called once, after the stream ended without an error")
    }
}
