//! Multipart uploads (PROTOCOL.md section 7): parts, completions, aborts, settlers of overdue
//! completions and sweepers, all of one upload; and PUTs of the same object.
//!
//! Mirrors the engine's `uploads`, `complete`, `upload_record` and `sweep`. A completion names all parts
//! that it finds frozen. What is asked of it is in [`super::upload_checks`].

use bytes::Bytes;
use holdfast_register::{Candidate, HolderMask, Judgement, Verdict};
use holdfast_types::{BucketStamp, EntryKind, OperationId, PartRef};

use super::{
    super::bugs::Bug,
    coordinator::Coordinator,
    drive::{Guard, Key},
    ops::{At, Draft, Fail, Ruling, is_put},
    scan::{EVERYONE, OpenOnes},
};

/// First byte of an upload's record.
pub const OPEN: u8 = 1;
const COMPLETING: u8 = 2;
const COMPLETED: u8 = 3;

/// As the engine's.
const COMPLETE_MICROS: u64 = 20_000_000;
/// As the engine's.
pub const SETTLE_AFTER_MICROS: u64 = 35_000_000;
/// As the engine's.
const ROUNDS_MAX: u32 = 4;

/// The object's key.
pub const OBJECT: At = of_key(Key::Object(1, 0));
/// The upload's key.
pub const UPLOAD: At = of_key(Key::Upload(0));
/// The bucket is always live here.
const STAMP: BucketStamp = BucketStamp::REGISTRY;

const fn of_key(key: Key) -> At {
    At { stamp: STAMP, key, until: None }
}

/// A part's key.
const fn part(number: u8) -> At {
    of_key(Key::Part(0, number))
}

/// Where the upload is in its life.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    Open,
    /// By whom, and from when on anybody settles it.
    Completing(OperationId, u64),
    Completed(OperationId),
}

impl Phase {
    fn of(candidate: Option<&Candidate>) -> Option<Self> {
        let bytes = &candidate.filter(|found| is_put(found))?.entry.metadata;
        let operation =
            || Some(OperationId(u128::from_be_bytes(bytes.get(1..17)?.try_into().ok()?)));
        Some(match *bytes.first()? {
            OPEN => Self::Open,
            COMPLETING => {
                let deadline = u64::from_be_bytes(bytes.get(17..25)?.try_into().ok()?);
                Self::Completing(operation()?, deadline)
            }
            _ => Self::Completed(operation()?),
        })
    }

    /// The record as stored; its beginning is what guards are held against.
    pub fn to_bytes(self) -> Bytes {
        match self {
            Self::Open => Bytes::from_static(&[OPEN]),
            Self::Completing(operation, deadline) => {
                let prefix = [&[COMPLETING][..], &operation.0.to_be_bytes()].concat();
                [&prefix[..], &deadline.to_be_bytes()].concat().into()
            }
            Self::Completed(operation) => {
                [&[COMPLETED][..], &operation.0.to_be_bytes()].concat().into()
            }
        }
    }

    fn guard(self) -> Guard {
        let bytes = self.to_bytes();
        let length = bytes.len().min(17);
        Guard { key: UPLOAD.key, prefix: bytes.slice(..length) }
    }
}

enum Freeze {
    Frozen(u64),
    Answered,
    Busy,
}

impl Coordinator {
    async fn phase(&self) -> Result<Option<Phase>, Fail> {
        Ok(Phase::of(self.read(UPLOAD).await?.as_ref()))
    }

    /// The phase once no completion is under way; an overdue one is settled.
    pub async fn settled_upload(&self) -> Result<Option<Phase>, Fail> {
        loop {
            match self.phase().await? {
                Some(Phase::Completing(operation, deadline)) => {
                    if self.now() > deadline {
                        self.settle_completion(operation).await?;
                    } else {
                        self.pause().await;
                    }
                }
                phase => return Ok(phase),
            }
        }
    }

    /// Writes a part.
    pub async fn put_part(&self, number: u8, operation: OperationId) -> Result<(), Fail> {
        match self.phase().await? {
            Some(Phase::Open | Phase::Completing(..)) => {}
            Some(Phase::Completed(_)) | None => return Err(Fail::Gone),
        }
        self.pause().await;
        loop {
            let guard = Some(Phase::Open.guard());
            let draft = Draft { guard, ..Draft::body(operation) };
            match self.write(part(number), draft).await {
                Err(Fail::UploadNotOpen) => {}
                outcome => return outcome,
            }
            if self.settled_upload().await? != Some(Phase::Open) {
                return Err(Fail::Gone);
            }
        }
    }

    /// Aborts the upload.
    pub async fn abort(&self) -> Result<(), Fail> {
        let draft = Draft::tombstone(self.operation());
        loop {
            let decide = |current: Option<&Candidate>| {
                if current.is_some_and(|found| found.entry.operation == draft.operation) {
                    return Ok(Ruling::Keep(true));
                }
                match Phase::of(current) {
                    Some(Phase::Open) => Ok(Ruling::Write(draft.clone(), true)),
                    Some(Phase::Completing(..)) => Ok(Ruling::Keep(false)),
                    Some(Phase::Completed(_)) | None => Err(Fail::Gone),
                }
            };
            if self.update(UPLOAD, decide).await? {
                break;
            }
            self.settled_upload().await?;
        }
        Ok(())
    }

    /// What an abort goes on to do once it is answered, or cannot do.
    pub async fn free_all(&self) {
        if let Ok(parts) = self.found_parts(&self.leave()).await {
            for (number, _) in parts {
                self.free(number).await;
            }
        }
    }

    async fn free(&self, number: u8) {
        let draft = Draft::tombstone(self.operation());
        if let Err(error) = self.write(part(number), draft).await {
            self.say(|| format!("part {number} is left over: {error:?}"));
        }
    }

    /// Who frees parts resolves none: the upload's phase allows it to nobody.
    fn leave(&self) -> OpenOnes {
        let resolves = self.has(Bug::AdoptionUnguarded);
        if resolves { OpenOnes::Resolve(None, EVERYONE) } else { OpenOnes::Leave }
    }

    async fn found_parts(&self, open: &OpenOnes) -> Result<Vec<(u8, Candidate)>, Fail> {
        let found = self.scan(STAMP, Key::Part(0, 0), Key::Part(0, u8::MAX), open).await?;
        let puts = found.into_iter().filter(|(_, found)| is_put(found));
        Ok(puts
            .filter_map(|(key, c)| if let Key::Part(_, n) = key { Some((n, c)) } else { None })
            .collect())
    }

    /// Completes the upload: the parts that the object is made of, nothing when it was complete before.
    pub async fn complete(
        &self,
        operation: OperationId,
        if_absent: bool,
    ) -> Result<Vec<PartRef>, Fail> {
        for _ in 0..ROUNDS_MAX {
            match self.freeze(operation).await? {
                Freeze::Frozen(deadline) => {
                    return self.complete_frozen(operation, deadline, if_absent).await;
                }
                Freeze::Answered => return Ok(Vec::new()),
                Freeze::Busy => {
                    self.settled_upload().await?;
                }
            }
        }
        Err(Fail::Unavailable)
    }

    async fn freeze(&self, operation: OperationId) -> Result<Freeze, Fail> {
        let deadline = self.now() + SETTLE_AFTER_MICROS;
        if self.has(Bug::NoFreeze) {
            let open = self.phase().await? == Some(Phase::Open);
            return if open { Ok(Freeze::Frozen(deadline)) } else { Err(Fail::Gone) };
        }
        let decide = |current: Option<&Candidate>| match Phase::of(current) {
            Some(Phase::Open) => {
                let frozen = Phase::Completing(operation, deadline);
                let draft = Draft::record(self.operation(), frozen.to_bytes());
                Ok(Ruling::Write(draft, Freeze::Frozen(deadline)))
            }
            Some(Phase::Completing(other, deadline)) if other == operation => {
                Ok(Ruling::Keep(Freeze::Frozen(deadline)))
            }
            Some(Phase::Completing(..)) => Ok(Ruling::Keep(Freeze::Busy)),
            Some(Phase::Completed(_)) => Ok(Ruling::Keep(Freeze::Answered)),
            None => Err(Fail::Gone),
        };
        self.update(UPLOAD, decide).await
    }

    async fn complete_frozen(
        &self,
        operation: OperationId,
        deadline: u64,
        if_absent: bool,
    ) -> Result<Vec<PartRef>, Fail> {
        let until = Some(deadline - SETTLE_AFTER_MICROS + COMPLETE_MICROS);
        match self.write_completed(operation, deadline, until, if_absent).await {
            Ok(parts) => {
                let marked = self.mark_completed(operation, true).await;
                self.say(|| format!("{operation:?} marked: {marked:?}"));
                Ok(parts)
            }
            Err(Fail::Mismatch) => {
                self.reopen(operation).await?;
                Err(Fail::Mismatch)
            }
            Err(Fail::UploadNotOpen) => {
                self.settle_completion(operation).await?.ok_or(Fail::Unavailable)
            }
            Err(error) => match self.settle_completion(operation).await {
                Ok(Some(parts)) => Ok(parts),
                _ => Err(error),
            },
        }
    }

    /// The drives that have frozen the upload for a completion: their word on its parts is final.
    async fn frozen(&self, operation: OperationId) -> Result<HolderMask, Fail> {
        if self.has(Bug::NoFreeze) || self.has(Bug::UnfrozenHeard) {
            return Ok(EVERYONE);
        }
        match self.judged_by_all(STAMP, UPLOAD.key).await? {
            Judgement::Found(found) if matches!(Phase::of(Some(&found)), Some(Phase::Completing(o, _)) if o == operation) => {
                Ok(found.holders)
            }
            Judgement::Found(_) | Judgement::Absent => Err(Fail::UploadNotOpen),
            Judgement::Unknown { .. } if self.has(Bug::SilentUploadGone) => Err(Fail::Gone),
            Judgement::Unknown { .. } => Err(Fail::Unavailable),
        }
    }

    async fn write_completed(
        &self,
        operation: OperationId,
        deadline: u64,
        until: Option<u64>,
        if_absent: bool,
    ) -> Result<Vec<PartRef>, Fail> {
        let frozen = Phase::Completing(operation, deadline);
        let guard = (!self.has(Bug::NoFreeze)).then(|| frozen.guard());
        let heard = self.frozen(operation).await?;
        let found = self.found_parts(&OpenOnes::Resolve(guard.clone(), heard)).await?;
        if found.is_empty() {
            return Err(Fail::Mismatch);
        }
        let name = |(number, c): (u8, Candidate)| {
            let (operation, geometry) = (c.entry.operation, c.entry.geometry);
            PartRef { number: number.into(), operation, geometry }
        };
        let parts: Vec<PartRef> = found.into_iter().map(name).collect();
        let record = Draft::record(operation, Bytes::new());
        let draft = Draft { parts: parts.clone(), guard, ..record };
        let at = At { until, ..OBJECT };
        if !if_absent {
            self.write(at, draft).await?;
            return Ok(parts);
        }
        let decide = |current: Option<&Candidate>| {
            if current.is_some_and(|found| found.entry.operation == operation) {
                return Ok(Ruling::Keep(()));
            }
            if current.is_some_and(is_put) {
                return Err(Fail::Mismatch);
            }
            Ok(Ruling::Write(draft.clone(), ()))
        };
        self.update(at, decide).await?;
        Ok(parts)
    }

    async fn mark_completed(&self, operation: OperationId, frozen: bool) -> Result<(), Fail> {
        let decide = |current: Option<&Candidate>| {
            let over = match Phase::of(current) {
                Some(Phase::Completing(other, _)) => other == operation,
                Some(Phase::Open) => frozen,
                Some(Phase::Completed(_)) | None => false,
            };
            let record = || Draft::record(self.operation(), Phase::Completed(operation).to_bytes());
            Ok(if over { Ruling::Write(record(), ()) } else { Ruling::Keep(()) })
        };
        self.update(UPLOAD, decide).await
    }

    async fn reopen(&self, operation: OperationId) -> Result<(), Fail> {
        let decide = |current: Option<&Candidate>| {
            let ours =
                matches!(Phase::of(current), Some(Phase::Completing(o, _)) if o == operation);
            let record = || Draft::record(self.operation(), Phase::Open.to_bytes());
            Ok(if ours { Ruling::Write(record(), true) } else { Ruling::Keep(false) })
        };
        if self.update(UPLOAD, decide).await? {
            self.say(|| format!("{operation:?} is rolled back"));
        }
        Ok(())
    }

    /// Brings a completion to its end that was left half-way.
    async fn settle_completion(
        &self,
        operation: OperationId,
    ) -> Result<Option<Vec<PartRef>>, Fail> {
        let sealed = !self.has(Bug::NoRollBackSeal);
        let current = if sealed { self.seal(OBJECT).await? } else { self.peek().await? };
        let written = current.filter(|c| c.entry.operation == operation && is_put(c));
        match &written {
            Some(_) => self.mark_completed(operation, false).await?,
            None => self.reopen(operation).await?,
        }
        Ok(written.map(|found| found.entry.parts))
    }

    /// What the object's key holds, by a read.
    async fn peek(&self) -> Result<Option<Candidate>, Fail> {
        self.read(OBJECT).await
    }

    /// Frees the parts of an upload that is completed or gone, those that may go.
    pub async fn sweep(&self) -> Result<(), Fail> {
        match self.phase().await? {
            None | Some(Phase::Completed(_)) => {}
            Some(_) => return Ok(()),
        }
        let parts = self.found_parts(&self.leave()).await?;
        let n = self.shared.borrow().quorum.n();
        let all = HolderMask::full(n);
        let (named, everywhere) = match self.judged_by_all(STAMP, OBJECT.key).await? {
            Judgement::Absent => (Vec::new(), true),
            // Under an open head lies what may turn out to be the object.
            Judgement::Found(found) if found.verdict == Verdict::Open => {
                return Err(Fail::Unavailable);
            }
            Judgement::Found(found) => (found.entry.parts, found.holders == all),
            Judgement::Unknown { .. } => return Err(Fail::Unavailable),
        };
        for (number, _) in parts {
            // By number: another's remains may head the register, over the part that is named.
            let named = named.iter().find(|part| part.number == u16::from(number));
            if let Some(named) = named.filter(|_| !self.has(Bug::FreeNamedParts)) {
                let judged = self.judged_by_all(STAMP, part(number).key).await;
                let whole = matches!(judged, Ok(Judgement::Found(found))
                    if found.shards == all && found.entry.operation == named.operation);
                if !(everywhere && whole) {
                    continue;
                }
            }
            self.say(|| format!("sweep frees part {number}"));
            self.free(number).await;
        }
        Ok(())
    }

    /// Begins the upload.
    pub async fn begin(&self) -> Result<(), Fail> {
        self.write(UPLOAD, Draft::record(self.operation(), Phase::Open.to_bytes())).await
    }

    /// A whole object.
    pub async fn put(&self, operation: OperationId) -> Result<(), Fail> {
        let draft = Draft::body(operation);
        debug_assert!(draft.kind == EntryKind::Put);
        self.write(OBJECT, draft).await
    }
}
