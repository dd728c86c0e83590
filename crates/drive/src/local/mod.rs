//! [`LocalNode`]: the carrier to the drives of this process. Admission, deadlines and routing; never
//! a thread hop more than one a group (DESIGN section 5).
//!
//! Work is bounded at this edge, for mailboxes give no back-pressure: operations, bytes on their way
//! into the log and bytes of streams each have permits, which travel with the work and are dropped
//! with it. Who does not get them in time is told `Overloaded`.

mod gather;
mod reading;
mod uploading;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use holdfast_types::{DriveId, ErrorClass, limits};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use self::gather::Gather;
use crate::{
    actor::Batch,
    api::{
        DriveError, DriveReply, DriveRequest, DriveResult, MemberRequest, ShardRead, ShardSource,
        UploadTarget,
    },
    node::{BlockStream, Node, ShardUpload},
    supervisor::{NodeShared, Routes},
};

/// How long a request waits to be admitted: long enough for a burst to pass, short beside the
/// deadline of a call. `ADMISSION_WAIT * 4 <= CALL_MICROS`.
const ADMISSION_WAIT: Duration = Duration::from_millis(500);

/// What a caller hears that was not admitted in time.
const CROWDED: &str = "too much is under way on this node; repeat later";

const _: () = assert!(ADMISSION_WAIT.as_micros() as u64 * 4 <= limits::CALL_MICROS);

/// The drives of this process.
pub struct LocalNode {
    shared: Arc<NodeShared>,
}

impl LocalNode {
    /// A carrier over the supervisor's routes.
    #[must_use]
    pub(crate) const fn new(shared: Arc<NodeShared>) -> Self {
        Self { shared }
    }

    /// Admits `count` permits of `kind` or says `Overloaded`.
    async fn admit(
        kind: &Arc<Semaphore>,
        count: usize,
    ) -> Result<OwnedSemaphorePermit, &'static str> {
        let count = u32::try_from(count).map_err(|_| "the request is larger than a node takes")?;
        let acquired = Arc::clone(kind).acquire_many_owned(count);
        match tokio::time::timeout(ADMISSION_WAIT, acquired).await {
            Ok(Ok(permit)) => Ok(permit),
            Ok(Err(_)) => Err("the node is shutting down"),
            Err(_) => Err(CROWDED),
        }
    }

    /// Permits for a batch, by request: one an operation, and the bytes it brings into the log.
    async fn admit_batch(
        &self,
        batch: &[(DriveId, DriveRequest)],
    ) -> Result<Vec<Vec<OwnedSemaphorePermit>>, &'static str> {
        let bytes: usize = batch.iter().map(|(_, request)| log_bytes(request)).sum();
        if batch.len() > limits::BATCH_REQUESTS_MAX || bytes > self.shared.limits.inline_bytes {
            return Err("the request is larger than a node takes");
        }
        let mut operations = Self::admit(&self.shared.operations, batch.len()).await?;
        let mut bytes = Self::admit(&self.shared.inline_bytes, bytes).await?;
        let part = |(_, request): &(DriveId, DriveRequest)| {
            let operation = operations.split(1);
            operation.into_iter().chain(bytes.split(log_bytes(request))).collect()
        };
        Ok(batch.iter().map(part).collect())
    }

    /// Sends the requests to their groups, one message each.
    fn dispatch(
        &self,
        routes: &Routes,
        deadline_micros: u64,
        batch: Vec<(DriveId, DriveRequest)>,
        gather: &Arc<Gather>,
    ) {
        let mut groups: Vec<Vec<_>> = routes.groups.iter().map(|_| Vec::new()).collect();
        for (index, (drive, request)) in batch.into_iter().enumerate() {
            let reply = gather.reply(index, drive);
            match routes.route_to(drive) {
                Ok(route) => match Arc::clone(&route.under_way).try_acquire_owned() {
                    Ok(permit) => {
                        groups[route.group].push((route.slot, request, reply.completion(permit)));
                    }
                    // Its siblings are not held up by it.
                    Err(_) => reply.answer(Err(behind(drive))),
                },
                Err(error) => reply.answer(down(routes, drive, &request, error)),
            }
        }
        for (group, items) in routes.groups.iter().zip(groups) {
            if !items.is_empty() {
                let span = tracing::Span::current();
                group.do_send(Batch { items, deadline_micros, span });
            }
        }
    }
}

/// What is answered for a drive that has its share of the node's requests under way.
fn behind(drive: DriveId) -> DriveError {
    let message = "the drive is behind with what it was asked; repeat later";
    DriveError::failed(drive, ErrorClass::Overloaded, message)
}

/// What a drive that does not serve answers: what is known of it, or why it does not.
fn down(routes: &Routes, drive: DriveId, request: &DriveRequest, error: DriveError) -> DriveResult {
    match (request, routes.seat_of(drive)) {
        (DriveRequest::Facts, Some(seat)) => Ok(DriveReply::Facts(seat.facts())),
        _ => Err(error),
    }
}

/// Bytes a request brings into the log, roughly.
fn log_bytes(request: &DriveRequest) -> usize {
    /// An entry without metadata, its key and the record around them.
    const RECORD_BYTES: usize = 512;
    let (entry, source) = match request {
        DriveRequest::Accept(accept) => (&accept.entry, &accept.source),
        DriveRequest::Install(install) => (&install.entry, &install.source),
        DriveRequest::Member(MemberRequest::Restock(restock)) => {
            return RECORD_BYTES + inline_len(&restock.source);
        }
        _ => return 0,
    };
    RECORD_BYTES + entry.metadata.len() + entry.parts.len() * 32 + inline_len(source)
}

fn inline_len(source: &ShardSource) -> usize {
    if let ShardSource::Inline(bytes) = source { bytes.len() } else { 0 }
}

#[async_trait]
impl Node for LocalNode {
    fn name(&self) -> &str {
        &self.shared.name
    }

    async fn call(
        &self,
        deadline: Duration,
        batch: Vec<(DriveId, DriveRequest)>,
    ) -> Vec<DriveResult> {
        let drives: Vec<DriveId> = batch.iter().map(|(drive, _)| *drive).collect();
        let wait = u64::try_from(deadline.as_micros()).unwrap_or(u64::MAX);
        let until = self.shared.clock.monotonic_micros().saturating_add(wait);
        let late = tokio::time::sleep(deadline);
        tokio::pin!(late);
        let admitted = tokio::select! {
            admitted = self.admit_batch(&batch) => admitted,
            () = &mut late => Err(CROWDED),
        };
        let permits = match admitted {
            Ok(permits) => permits,
            Err(cause) => {
                let refuse = |drive| Err(DriveError::failed(drive, ErrorClass::Overloaded, cause));
                return drives.into_iter().map(refuse).collect();
            }
        };
        let (gather, complete) = Gather::new(drives.len(), permits);
        self.dispatch(&self.shared.routes(), until, batch, &gather);
        // Late answers find their places taken; what they mean is unknown to the caller.
        tokio::select! {
            _ = complete => {}
            () = &mut late => {}
        }
        gather.take(&drives)
    }

    async fn upload(&self, targets: Vec<UploadTarget>) -> Result<Box<dyn ShardUpload>, DriveError> {
        Ok(Box::new(uploading::LocalUpload::begin(&self.shared, targets)))
    }

    async fn read_shard(&self, read: ShardRead) -> Result<BlockStream, DriveError> {
        reading::open(&self.shared, read).await
    }
}
