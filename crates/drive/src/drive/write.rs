//! Accept, Install, Settle, Purge and buckets: what changes the drive's state.

use bytes::Bytes;
use holdfast_erasure::{Salt, open_block};
use holdfast_register::{
    AcceptVerdict, Held, HolderMask, KeyState, Refusal, RegisterState, Remembered, SettleVerdict,
    ShardStatus, decide_accept, decide_install, decide_purge, decide_settle,
};
use holdfast_types::{
    BucketPhase, Entry, EntryKind, ErrorClass, Quorum, RegisterKey, ShardIndex, VersionId, limits,
};

use crate::{
    api::{Accept, DriveReply, Guard, Install, Purge, Scope, Settle, ShardSource, UploadHandle},
    log::record::{NewShard, Record},
    table::status,
    value::{Note, Place, PlaceRecord},
    volume::upload::fits,
};

use super::{Decision, Drive, Stop};

/// Bytes of an object key, escaped upload and part names included.
const NAME_BYTES_MAX: usize = 2 * limits::KEY_BYTES_MAX + 64;

/// The shard that comes with an entry, as far as it is known before the decision.
pub(super) struct Incoming {
    pub(super) status: ShardStatus,
    pub(super) shard: NewShard,
    pub(super) upload: Option<UploadHandle>,
}

impl Drive {
    pub(super) fn accept(&mut self, accept: &Accept, gate: &mut u64) -> Decision {
        self.admit(&accept.scope, true, gate)?;
        check_entry(&accept.key, &accept.entry, accept.shard)?;
        if let Some(guard) = &accept.guard {
            self.check_guard(guard, gate)?;
        }
        let key = accept.key.encode();
        let mut found = self.table.key(&accept.key)?;
        *gate = (*gate).max(found.gate);
        self.volatile.complete(&key, &mut found.state);
        let register = found.state.registers.get(&accept.version);
        let incoming = self.incoming(&accept.entry, accept.shard, &accept.source)?;
        let incoming = self.with_parts(incoming, register, &accept.entry)?;
        if accept.source == ShardSource::Held && incoming.status == ShardStatus::Missing {
            // The shard was here when the sender looked, and a Settle has dropped it since. Taken as
            // missing, the entry could be chosen with fewer shards than restore it (ADR 0003).
            return Err(Refusal::UploadLost.into());
        }
        let view = self.view();
        let (version, entry) = (accept.version, &accept.entry);
        let verdict = decide_accept(&found.state, &view, version, entry, incoming.status)?;
        if verdict == AcceptVerdict::Already {
            return Ok(DriveReply::Accepted(held_status(&found.state, version, entry)));
        }
        self.check_room()?;
        self.check_space(&accept.entry)?;
        let at = view.now;
        let ballot = entry.ballot;
        let remembered = Remembered { operation: entry.operation, ballot, at };
        let note = Note { shard: accept.shard, set_size: 0, at: at.micros() };
        let held = Held {
            entry: accept.entry.clone(),
            shard: incoming.status,
            settled: false,
            holders: HolderMask::default(),
        };
        let status = self.store(&accept.key, version, held, note, incoming, gate)?;
        self.volatile.accepted(&key, remembered);
        Ok(DriveReply::Accepted(status))
    }

    pub(super) fn install(&mut self, install: &Install, gate: &mut u64) -> Decision {
        self.admit(&install.scope, false, gate)?;
        check_entry(&install.key, &install.entry, install.shard)?;
        let found = self.table.key(&install.key)?;
        *gate = (*gate).max(found.gate);
        let register = found.state.registers.get(&install.version);
        let incoming = self.incoming(&install.entry, install.shard, &install.source)?;
        let incoming = self.with_parts(incoming, register, &install.entry)?;
        let view = self.view();
        let (version, entry) = (install.version, &install.entry);
        let verdict = decide_install(&found.state, &view, version, entry, incoming.status)?;
        if verdict == AcceptVerdict::Already {
            return Ok(DriveReply::Accepted(held_status(&found.state, version, entry)));
        }
        self.check_room()?;
        self.check_space(&install.entry)?;
        let set_size = entry.geometry.total_shards;
        let note = Note { shard: install.shard, set_size, at: view.now.micros() };
        let held = Held {
            entry: install.entry.clone(),
            shard: incoming.status,
            settled: true,
            holders: install.holders,
        };
        let status = self.store(&install.key, version, held, note, incoming, gate)?;
        Ok(DriveReply::Accepted(status))
    }

    /// Logs and applies an accepted or installed entry; an upload that it names becomes its shard.
    fn store(
        &mut self,
        key: &RegisterKey,
        version: VersionId,
        held: Held,
        note: Note,
        incoming: Incoming,
        gate: &mut u64,
    ) -> Result<ShardStatus, Stop> {
        let register = Bytes::from(key.encode_register(version));
        let status = held.shard;
        let record = Record::Accept { register, held, note, shard: incoming.shard };
        let appended = self.record(&record, true)?;
        if let Some(handle) = incoming.upload {
            // From here on the extents belong to the record.
            self.uploads.take(handle);
        }
        *gate = (*gate).max(appended.batch);
        Ok(status)
    }

    /// Finds out whether the entry's shard is here, or comes with the request.
    pub(super) fn incoming(
        &self,
        entry: &Entry,
        shard: ShardIndex,
        source: &ShardSource,
    ) -> Result<Incoming, Stop> {
        let none = |status| Incoming { status, shard: NewShard::None, upload: None };
        if !entry.geometry.has_data() {
            return Ok(none(ShardStatus::NoData));
        }
        let (record, _) = self.table.place(entry.operation)?;
        if record.is_whole() {
            // Bytes of another shape under the same operation would never verify as this entry's.
            let same = record.shard == shard && record.place.len() == entry.geometry.shard_len();
            return if same {
                Ok(none(ShardStatus::Present))
            } else {
                Err(Refusal::UploadLost.into())
            };
        }
        match source {
            ShardSource::NoData => {
                Err(Stop::invalid("accept: the entry has data, the source none"))
            }
            ShardSource::Held | ShardSource::Missing => Ok(none(status(true, false))),
            ShardSource::Inline(bytes) => {
                self.check_inline(entry, shard, bytes)?;
                Ok(Incoming {
                    status: ShardStatus::Present,
                    shard: NewShard::Inline(bytes.clone()),
                    upload: None,
                })
            }
            ShardSource::Upload(handle) => {
                let uploaded = self.uploads.find(*handle);
                let right = |up: &crate::volume::upload::Uploaded| {
                    fits(up, entry.operation, shard, &entry.geometry)
                };
                let uploaded = uploaded.filter(right).ok_or(Refusal::UploadLost)?;
                let place = Place::Extents { len: uploaded.len, extents: uploaded.extents };
                Ok(Incoming {
                    status: ShardStatus::Present,
                    shard: NewShard::At(place),
                    upload: Some(*handle),
                })
            }
        }
    }

    /// An entry that is short for the sake of a part stays so until every part's shard is here.
    fn with_parts(
        &self,
        incoming: Incoming,
        register: Option<&RegisterState>,
        entry: &Entry,
    ) -> Result<Incoming, Stop> {
        let held = register.and_then(|register| register.of_operation(entry.operation));
        if entry.parts.is_empty() || held.is_none_or(Held::is_whole) {
            return Ok(incoming);
        }
        let parts = entry.parts.iter().filter(|part| part.geometry.has_data());
        let keys = parts.clone().map(|part| PlaceRecord::key(part.operation).into());
        self.table.layers.ready(keys)?;
        for part in parts {
            if !self.table.place(part.operation)?.0.is_whole() {
                return Ok(Incoming { status: ShardStatus::Missing, ..incoming });
            }
        }
        Ok(incoming)
    }

    /// Every block of an inline shard verifies, and they are the entry's.
    fn check_inline(&self, entry: &Entry, shard: ShardIndex, bytes: &Bytes) -> Result<(), Stop> {
        let geometry = &entry.geometry;
        let max = limits::INLINE_SHARD_BYTES_MAX + u64::from(geometry.block_bytes.min(4096));
        if bytes.len() as u64 != geometry.shard_len() || bytes.len() as u64 > max {
            let (have, want) = (bytes.len(), geometry.shard_len());
            return Err(Stop::invalid(format!(
                "accept: {have} bytes inline, the shard has {want}, at most {max} may ride inline"
            )));
        }
        let salt = Salt { operation: entry.operation, drive: self.id(), shard };
        for block in 0..geometry.stripe_count() {
            let at = geometry.block_offset(block) as usize;
            let end = at + geometry.block_len(block) as usize;
            open_block(&salt, block, &bytes[at..end])
                .map_err(|e| Stop::Failed(e.class(), e.to_string()))?;
        }
        Ok(())
    }

    /// The guarded register's head begins with what the guard says.
    fn check_guard(&self, guard: &Guard, gate: &mut u64) -> Result<(), Stop> {
        let register = guard.key.encode_register(VersionId::NULL);
        let (record, guard_gate) = self.table.register(&register)?;
        *gate = (*gate).max(guard_gate);
        let head = record.state.head();
        if head.is_some_and(|held| held.entry.metadata.starts_with(&guard.prefix)) {
            Ok(())
        } else {
            Err(Refusal::UploadNotOpen.into())
        }
    }

    /// On a full drive only entries that take nothing away from the reserve pass: those without data,
    /// deletes first of all.
    pub(super) fn check_space(&self, entry: &Entry) -> Result<(), Stop> {
        let low =
            self.space.free_bytes < self.options.volumes.reserve && self.log.free_segments() == 0;
        if low && entry.kind == EntryKind::Put {
            let message = "accept: only the drive's reserve is left; delete, or add drives";
            return Err(Stop::Failed(ErrorClass::Full, message.to_owned()));
        }
        Ok(())
    }

    /// Marks an operation settled. The answer does not wait for the log.
    pub(super) fn settle(&mut self, settle: &Settle) -> Decision {
        self.admit(&settle.scope, false, &mut 0)?;
        if !(1..=16).contains(&settle.set_size) {
            return Err(Stop::invalid("settle: a set has 1 to 16 drives"));
        }
        let register = Bytes::from(settle.key.encode_register(settle.version));
        let (record, _) = self.table.register(&register)?;
        let known_size = record.note_of(settle.operation).map_or(0, |note| note.set_size);
        let mut state = KeyState::default();
        state.registers.insert(settle.version, record.state);
        let quorum = Quorum::of(settle.set_size);
        let verdict =
            decide_settle(&state, quorum, settle.version, settle.operation, settle.holders);
        let drop_below = match verdict {
            SettleVerdict::Mark { drop_below } => drop_below,
            SettleVerdict::Ignore if known_size == settle.set_size => return Ok(DriveReply::Done),
            SettleVerdict::Ignore => false,
        };
        let held = state.registers[&settle.version].of_operation(settle.operation);
        if held.is_none() {
            return Ok(DriveReply::Done);
        }
        let &Settle { operation, holders, set_size, .. } = settle;
        let record = Record::Settle { register, operation, holders, set_size, drop_below };
        self.record(&record, false)?;
        Ok(DriveReply::Done)
    }

    /// Removes a settled tombstone. The answer does not wait for the log.
    pub(super) fn purge(&mut self, purge: &Purge) -> Decision {
        self.admit(&purge.scope, false, &mut 0)?;
        let register = Bytes::from(purge.key.encode_register(purge.version));
        let (record, _) = self.table.register(&register)?;
        let mut state = KeyState::default();
        if !record.notes.is_empty() {
            state.registers.insert(purge.version, record.state);
        }
        if decide_purge(&state, purge.version, purge.ballot)? {
            self.record(&Record::Purge { register, ballot: purge.ballot }, false)?;
        }
        Ok(DriveReply::Done)
    }

    /// Installs a bucket's stamp.
    pub(super) fn install_bucket(&mut self, scope: &Scope, gate: &mut u64) -> Decision {
        match self.admit(scope, false, gate) {
            // A deleted bucket takes no requests, but that it is deleted is what was asked for.
            Err(Stop::Refused(Refusal::BucketNotLive { current }))
                if current == scope.bucket && current.phase == BucketPhase::Deleted =>
            {
                Ok(DriveReply::Done)
            }
            other => other.map(|()| DriveReply::Done),
        }
    }
}

/// The status of an entry's shard as it is held; an entry overtaken since was accepted, too.
fn held_status(state: &KeyState, version: VersionId, entry: &Entry) -> ShardStatus {
    let register = state.registers.get(&version);
    let held = register.and_then(|register| register.of_operation(entry.operation));
    held.map_or_else(|| status(entry.geometry.has_data(), true), |held| held.shard)
}

/// Limits that the drive relies on, whoever sent the entry.
fn check_entry(key: &RegisterKey, entry: &Entry, shard: ShardIndex) -> Result<(), Stop> {
    let geometry = &entry.geometry;
    let blocks_fit = !geometry.has_data()
        || (geometry.data_shards >= 1
            && geometry.block_bytes > 16
            && geometry.block_bytes <= limits::BLOCK_BYTES_MAX);
    if key.name.len() > NAME_BYTES_MAX || shard.0 >= 16 || !blocks_fit {
        return Err(Stop::invalid("accept: name, shard or geometry beyond its limit"));
    }
    if entry.metadata.len() > limits::METADATA_BYTES_MAX || entry.parts.len() > limits::PARTS_MAX {
        return Err(Stop::invalid("accept: metadata or part list beyond its limit"));
    }
    Ok(())
}
