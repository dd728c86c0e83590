//! What finished uploads leave behind: registers of parts, and kept answers past their time.
//!
//! INV-UPLOAD-4: the register of a part that an object is made of goes only when every drive holds both
//! the object's entry and its shard of the part. Until then the part's register is what keeps the bytes
//! on drives that have not heard of the object, and what the healer restores missing shards by.

use std::{future::ready, sync::Weak, time::Duration};

use bytes::Bytes;
use futures::stream::{self, StreamExt};
use holdfast_register::{HolderMask, Judgement, Verdict};
use holdfast_types::{
    BucketPhase, BucketStamp, EntryKind, Keyspace, NodeIndex, OperationId, PartRef, RegisterKey,
    VersionId,
};

use crate::{
    bucket_record::BucketRecord,
    cork,
    draft::Draft,
    engine::Engine,
    error::StoreError,
    scan::OpenOnes,
    set::SetHandle,
    task,
    upload_record::{UploadPhase, UploadState},
    uploads::{PARTS_AT_ONCE, UploadAt, damaged},
};

/// When a finished upload is looked at again, seconds after its completion; what is left then is found
/// by [`Engine::sweep_uploads`].
const LOOKS_SECONDS: [u64; 5] = [1, 5, 30, 120, 600];

/// How often some node of the cluster sweeps.
const SWEEP_EVERY: Duration = Duration::from_secs(3600);

/// Registers looked at in one scan of a sweep.
const SWEEP_NAMES: usize = 1_000;

impl SetHandle {
    /// Frees a finished upload's parts in the background, as soon as the drives allow.
    pub(crate) fn sweep_soon(&self, at: UploadAt) {
        let set = self.clone();
        task::detach(async move {
            for seconds in LOOKS_SECONDS {
                tokio::time::sleep(Duration::from_secs(seconds)).await;
                match set.sweep_upload(&at).await {
                    Ok(true) => return,
                    Ok(false) => {}
                    Err(error) => tracing::debug!(upload = %at.upload, %error, "sweep"),
                }
            }
        });
    }

    /// Frees the parts of an upload that is completed or gone, those that may go now. Whether nothing
    /// is left of them.
    ///
    /// # Errors
    /// [`StoreError`] when the set cannot answer.
    pub(crate) async fn sweep_upload(&self, at: &UploadAt) -> Result<bool, StoreError> {
        let register = at.register();
        let found = self.read(at.stamp, &register, Some(VersionId::NULL)).await?;
        let state = UploadState::of(found.as_ref()).map_err(|e| damaged(&register, &e))?;
        if state.is_some_and(|state| state.phase != UploadPhase::Completed) {
            return Ok(false);
        }
        let held = self.numbers_held(at).await?;
        let named = self.named_by_object(at).await?;
        // By number: the remains of another operation may head the register of the part that is named,
        // and a tombstone over them would take that along (ADR 0005).
        let (kept, mut free): (Vec<u16>, Vec<u16>) =
            held.into_iter().partition(|number| named.operation_of(*number).is_some());
        let wanted: Vec<(u16, Option<OperationId>)> =
            kept.iter().map(|number| (*number, named.operation_of(*number))).collect();
        let wanted = if named.everywhere { wanted } else { Vec::new() };
        let whole =
            stream::iter(wanted).map(|(number, named)| self.is_everywhere(at, number, named));
        let whole: Vec<Option<u16>> =
            cork::gathered(whole.buffer_unordered(PARTS_AT_ONCE).collect()).await;
        let whole: Vec<u16> = whole.into_iter().flatten().collect();
        let is_done = whole.len() == kept.len();
        free.extend(whole);
        self.free_parts(at, free).await;
        Ok(is_done)
    }

    /// What the object's key holds now, by the word of all drives.
    async fn named_by_object(&self, at: &UploadAt) -> Result<Named, StoreError> {
        let found = match self.judged_by_all(at.stamp, &at.object()).await? {
            Judgement::Absent => return Ok(Named { parts: Vec::new(), everywhere: true }),
            // What an open write would replace may still be the object.
            Judgement::Found(found) if found.verdict == Verdict::Open => {
                let message = "free parts: the object is being written".to_owned();
                return Err(StoreError::Unknown { message });
            }
            Judgement::Found(found) => found,
            Judgement::Unknown { have, need } => {
                return Err(self.shared.below_quorum(need, have, &[]));
            }
        };
        let all = HolderMask::full(self.shared.n());
        Ok(Named { parts: found.entry.parts, everywhere: found.holders == all })
    }

    /// The part's number, when its value is `operation` and every drive holds its shard.
    async fn is_everywhere(
        &self,
        at: &UploadAt,
        number: u16,
        operation: Option<OperationId>,
    ) -> Option<u16> {
        let judged = self.judged_by_all(at.stamp, &at.part(number)).await;
        let all = HolderMask::full(self.shared.n());
        let whole = matches!(judged, Ok(Judgement::Found(found))
            if found.shards == all && Some(found.entry.operation) == operation);
        whole.then_some(number)
    }

    /// Gives the registers of parts back; their bytes go with the last entry that names them. What
    /// fails is found by the next sweep.
    pub(crate) async fn free_parts(&self, at: &UploadAt, numbers: Vec<u16>) {
        let free = |number| self.free_part(at, number);
        let freeing = stream::iter(numbers).map(free).buffer_unordered(PARTS_AT_ONCE);
        let failed = freeing.filter(|outcome| ready(outcome.is_err()));
        let failed = cork::gathered(failed.count()).await;
        if failed > 0 {
            tracing::info!(upload = %at.upload, failed, "parts of a finished upload are left over");
        }
    }

    async fn free_part(&self, at: &UploadAt, number: u16) -> Result<(), StoreError> {
        let draft = Draft::tombstone(OperationId::draw(self.shared.random.as_ref()));
        // The upload is over: its phase allows changes to nobody else.
        let route = self.shared.route(&at.part(number))?.unguarded();
        self.write_on(at.stamp, &route, VersionId::NULL, draft).await.map(|_| ())
    }
}

/// Sweeps what uploads left behind, every node in its turn: each begins at another time, and one sweep
/// of all is enough an hour.
pub(crate) fn start(engine: Weak<Engine>, node: NodeIndex, nodes: usize) {
    task::detach(async move {
        tokio::time::sleep(SWEEP_EVERY * (u32::from(node.0) + 1)).await;
        loop {
            let Some(engine) = engine.upgrade() else { return };
            if let Err(error) = engine.sweep_uploads().await {
                tracing::info!(%error, "sweep of finished uploads left for later");
            }
            drop(engine);
            tokio::time::sleep(SWEEP_EVERY * nodes.max(1) as u32).await;
        }
    });
}

/// The parts that an object is made of.
struct Named {
    parts: Vec<PartRef>,
    /// Whether every drive holds the object's entry.
    everywhere: bool,
}

impl Named {
    fn operation_of(&self, number: u16) -> Option<OperationId> {
        self.parts.iter().find(|part| part.number == number).map(|part| part.operation)
    }
}

impl Engine {
    /// Frees what finished and aborted uploads of all buckets left behind, and forgets kept answers
    /// past their time.
    ///
    /// # Errors
    /// [`StoreError`] when a set cannot answer.
    pub async fn sweep_uploads(&self) -> Result<(), StoreError> {
        let mut start = Some(Bytes::new());
        while let Some(from) = start {
            let (scope, space) = (BucketStamp::REGISTRY, Keyspace::Bucket);
            let page = self.first_set().scan(scope, space, from, None, SWEEP_NAMES).await?;
            for (key, candidate) in page.entries {
                let record = BucketRecord::of(Some(&candidate)).map_err(|e| damaged(&key, &e))?;
                let live = record.filter(|record| record.phase() == BucketPhase::Live);
                if let Some(record) = live {
                    self.sweep_bucket(record.stamp()).await?;
                }
            }
            start = page.next;
        }
        Ok(())
    }

    async fn sweep_bucket(&self, stamp: BucketStamp) -> Result<(), StoreError> {
        for set in self.sets() {
            for space in [Keyspace::Part, Keyspace::Upload] {
                let mut start = Some(Bytes::new());
                let mut last = None;
                while let Some(from) = start {
                    let names = (from, None);
                    let page =
                        set.scan_with(stamp, space, names, SWEEP_NAMES, OpenOnes::Leave).await?;
                    for (register, _) in page.entries {
                        let split = register.upload_parts().map_err(|e| damaged(&register, &e))?;
                        let at = UploadAt::new(stamp, &split.0, split.1);
                        if last != Some(at.upload) {
                            last = Some(at.upload);
                            self.sweep_one(set, &at, space).await?;
                        }
                    }
                    start = page.next;
                }
            }
        }
        Ok(())
    }

    async fn sweep_one(
        &self,
        set: &SetHandle,
        at: &UploadAt,
        space: Keyspace,
    ) -> Result<(), StoreError> {
        let clean = set.sweep_upload(at).await?;
        let register: RegisterKey = at.register();
        if space == Keyspace::Part || !clean {
            return Ok(());
        }
        let decide = |current: Option<&holdfast_register::Candidate>| {
            let state = UploadState::of(current).map_err(|e| damaged(&register, &e))?;
            let past = |state: &UploadState| {
                state.phase == UploadPhase::Completed && state.is_overdue(self.now_micros())
            };
            let draft = Draft::tombstone(self.draw_operation());
            debug_assert!(draft.kind == EntryKind::Tombstone);
            Ok(match state.filter(past) {
                Some(_) => crate::draft::Decision::Write(draft, ()),
                None => crate::draft::Decision::Keep(()),
            })
        };
        set.update(at.stamp, register.clone(), VersionId::NULL, decide).await
    }
}
