//! A drive with several keys: [`SimDrive`] for each key, and around it what spans keys: the stamps of
//! buckets, the guards of uploads, and the bytes that entries of any key keep alive.

use std::collections::{BTreeMap, BTreeSet};

use bytes::Bytes;
use holdfast_register::{
    KeyView, Refusal, Reply, ShardStatus, Source,
    decide::{admit, newer_stamp},
};
use holdfast_types::{BucketId, BucketStamp, HybridTime, OperationId, Quorum, SetEpoch, VersionId};

use super::super::{
    bugs::Bug,
    drive::{Request, SimDrive},
};

/// The registers of these models.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Key {
    /// The registry's entry of the one bucket name.
    Registry,
    /// An object of a bucket's incarnation.
    Object(u128, u8),
    /// An upload to an object of that name.
    Upload(u8),
    /// A part of it.
    Part(u8, u8),
}

/// A drive accepts an entry only while the head of `key` begins with `prefix`.
#[derive(Clone, Debug)]
pub struct Guard {
    pub key: Key,
    pub prefix: Bytes,
}

/// What a message asks.
#[derive(Clone, Debug)]
pub enum Ask {
    /// Something of one key.
    Of { key: Key, request: Request, guard: Option<Guard> },
    /// All keys that the range holds.
    Scan { first: Key, last: Key },
    /// The stamp that comes with it.
    Install,
}

/// What it is answered.
#[derive(Clone, Debug)]
pub enum Answered {
    Reply(Reply),
    Page(Vec<(Key, KeyView)>),
    Done,
}

/// One drive.
#[derive(Debug, Default)]
pub struct Drive {
    pub keys: BTreeMap<Key, SimDrive>,
    pub stamps: BTreeMap<BucketId, BucketStamp>,
    /// Operations whose shard is on this drive's media.
    pub bytes: BTreeSet<OperationId>,
    pub down: bool,
}

impl Drive {
    /// Carries out a request under a stamp.
    pub fn handle(
        &mut self,
        stamp: BucketStamp,
        ask: Ask,
        now: HybridTime,
        quorum: Quorum,
        bug: Option<Bug>,
    ) -> Answered {
        let writes =
            |request: &Request| matches!(request, Request::Accept { .. } | Request::Prepare { .. });
        let writes = matches!(&ask, Ask::Of { request, .. } if writes(request));
        if let Err(refusal) = self.admit(stamp, writes, bug) {
            return Answered::Reply(Reply::Refused(refusal));
        }
        match ask {
            Ask::Install => Answered::Done,
            Ask::Scan { first, last } => {
                let page = self
                    .keys
                    .range_mut(first..=last)
                    .map(|(key, drive)| (*key, drive.state.view(drive.facts.floor, true, false)));
                Answered::Page(page.collect())
            }
            Ask::Of { key, request, guard } => {
                if guard.is_some_and(|guard| !self.meets(&guard, bug)) {
                    return Answered::Reply(Reply::Refused(Refusal::UploadNotOpen));
                }
                Answered::Reply(self.carry_out(key, request, now, quorum))
            }
        }
    }

    /// As the drive's own `admit`: a newer stamp is installed first, then the real rule.
    fn admit(&mut self, asked: BucketStamp, write: bool, bug: Option<Bug>) -> Result<(), Refusal> {
        if bug == Some(Bug::BucketEpochIgnored) {
            return Ok(());
        }
        let known = self.stamps.get(&asked.id).copied();
        if let Some(newer) = newer_stamp(known, asked) {
            self.stamps.insert(newer.id, newer);
        }
        let facts = SimDrive::new().facts;
        admit(&facts, known, asked, SetEpoch(0), write)
    }

    /// As the drive's own `check_guard`.
    fn meets(&self, guard: &Guard, bug: Option<Bug>) -> bool {
        let open = guard.prefix.first() == Some(&super::uploads::OPEN);
        let ignored = open && bug == Some(Bug::PartGuardIgnored);
        let upload =
            self.keys.get(&guard.key).and_then(|d| d.state.registers.get(&VersionId::NULL));
        let head = upload.and_then(|register| register.head());
        ignored || head.is_some_and(|held| held.entry.metadata.starts_with(&guard.prefix))
    }

    fn carry_out(&mut self, key: Key, request: Request, now: HybridTime, quorum: Quorum) -> Reply {
        let request = match request {
            // Bytes are found by operation, whatever register names them.
            Request::Accept { version, entry, source: Source::Held } => {
                let here = self.bytes.contains(&entry.operation);
                let source = if here { Source::Own } else { Source::Held };
                Request::Accept { version, entry, source }
            }
            other => other,
        };
        let operation = match &request {
            Request::Accept { entry, .. } => Some(entry.operation),
            _ => None,
        };
        let drive = self.keys.entry(key).or_insert_with(SimDrive::new);
        drive.facts.now = now;
        let reply = drive.handle(request, SetEpoch(0), quorum, None);
        if let (Some(operation), Reply::Accepted(ShardStatus::Present)) = (operation, &reply) {
            self.bytes.insert(operation);
        }
        self.free();
        reply
    }

    /// Bytes go with the last entry that names them.
    fn free(&mut self) {
        let registers = self.keys.values().flat_map(|drive| drive.state.registers.values());
        let entries = registers.flat_map(|register| &register.entries);
        let named: BTreeSet<OperationId> =
            entries.flat_map(|held| held.entry.data_operations()).collect();
        self.bytes.retain(|operation| named.contains(operation));
    }

    /// Power off and on.
    pub fn restart(&mut self, now: HybridTime) {
        for drive in self.keys.values_mut() {
            drive.facts.now = now;
            drive.restart(None);
        }
    }
}
