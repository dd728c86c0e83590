//! Rot of a drive in memory: how it comes about, and how it is found out.

use holdfast_drive::{
    api::{DriveReply, DriveResult, Scope, Verify},
    scrub::{Count, Ledger, ScrubStatus},
};
use holdfast_erasure::{Salt, open_block};
use holdfast_register::{Held, ShardStatus};
use holdfast_types::{
    BucketStamp, Entry, Geometry, HybridTime, OperationId, RegisterKey, ScrubOrder, SetIndex,
    VersionId,
};

use super::MemoryDrive;

impl MemoryDrive {
    /// Flips a byte of the operation's shard. False when it is not here.
    pub fn rot(&mut self, operation: OperationId) -> bool {
        let middle = self.shards.get(&operation).map_or(0, |stored| stored.bytes.len() / 2);
        self.rot_at(operation, middle)
    }

    /// Flips a byte of the operation's shard at `offset`. False when it is not here.
    pub fn rot_at(&mut self, operation: OperationId, offset: usize) -> bool {
        let Some(stored) = self.shards.get_mut(&operation) else { return false };
        let mut bytes = stored.bytes.to_vec();
        bytes[offset] ^= 0x40;
        stored.bytes = bytes.into();
        true
    }

    /// Loses the operation's shard, the entry stays.
    pub fn lose_shard(&mut self, operation: OperationId) -> bool {
        self.shards.remove(&operation).is_some()
    }

    /// Shards found rotten, and not healed yet.
    #[must_use]
    pub fn rotten_count(&self) -> usize {
        self.rotten.len()
    }

    /// Reads every shard that an entry names, at once; rotten ones are missing from then on.
    pub(super) fn scrub(&mut self, now: HybridTime, order: ScrubOrder) -> ScrubStatus {
        match order {
            ScrubOrder::Rate(rate) => self.scrubbed.rate = rate,
            ScrubOrder::Pause => self.scrubbed.paused = true,
            ScrubOrder::Resume => self.scrubbed.paused = false,
            ScrubOrder::Start => {
                let bytes = self.shards.values().map(|stored| stored.bytes.len() as u64).sum();
                self.scrubbed
                    .begin(Count { shards: self.shards.len() as u64, bytes }, now.micros());
                self.scrubbed.pass.found = self.condemn_rotten(now);
                self.scrubbed.pass.read = self.scrubbed.ledger.owed();
                self.scrubbed.ledger = Ledger::default();
                self.scrubbed.begin_runs(0);
                self.scrubbed.finish(now.micros());
            }
            ScrubOrder::Status => {}
        }
        self.scrubbed.status(0)
    }

    fn condemn_rotten(&mut self, now: HybridTime) -> u64 {
        let mut named = Vec::new();
        for (key, state) in &self.keys {
            for (version, register) in &state.registers {
                let operations =
                    register.entries.iter().flat_map(|held| held.entry.data_operations());
                named.extend(operations.map(|operation| (key.clone(), *version, operation)));
            }
        }
        let before = self.rotten.len();
        for (key, version, operation) in named {
            let stamp = self.buckets.get(&key.bucket).copied().unwrap_or(BucketStamp::REGISTRY);
            let scope = Scope { bucket: stamp, set: SetIndex(0), set_epoch: self.set_epoch };
            let Some(shard) = self.shards.get(&operation).map(|stored| stored.shard) else {
                continue;
            };
            let verify = Verify { scope, key, version, operation, shard };
            drop(self.verify(now, &verify));
        }
        (self.rotten.len() - before) as u64
    }

    /// Whether the operation's shard is here, as far as is known.
    pub(super) fn is_whole(&self, operation: OperationId) -> bool {
        self.shards.contains_key(&operation) && !self.rotten.contains_key(&operation)
    }

    pub(super) fn verify(&mut self, now: HybridTime, verify: &Verify) -> DriveResult {
        self.admit(now, verify.scope, false)?;
        let operation = verify.operation;
        let registers = self.keys.get(&verify.key).map(|state| &state.registers);
        let register = registers.and_then(|registers| registers.get(&verify.version));
        let held = register.and_then(|register| register.of_operation(operation));
        let named = register
            .and_then(|register| register.entries.iter().find_map(|held| shape(held, operation)));
        let Some(geometry) =
            held.map(|held| held.entry.geometry).filter(Geometry::has_data).or(named)
        else {
            return Ok(DriveReply::Done);
        };
        let salt = Salt { operation, drive: self.id, shard: verify.shard };
        let bytes = self.shards.get(&operation).map(|stored| stored.bytes.clone());
        let right = |block: u64| {
            let from = geometry.block_offset(block) as usize;
            let to = from + geometry.block_len(block) as usize;
            let block_bytes = bytes.as_ref().and_then(|bytes| bytes.get(from..to));
            block_bytes.is_some_and(|bytes| open_block(&salt, block, bytes).is_ok())
        };
        if !self.rotten.contains_key(&operation) && (0..geometry.stripe_count()).all(right) {
            return Ok(DriveReply::Accepted(ShardStatus::Present));
        }
        self.rotten.insert(operation, verify.shard);
        if self.keys.get_mut(&verify.key).is_some_and(|state| state.apply_loss(operation)) {
            self.memory_since = self.memory_since.max(now);
        }
        let states = self.keys.get_mut(&verify.key).into_iter();
        let registers = states.flat_map(|state| state.registers.values_mut());
        for held in registers.flat_map(|register| &mut register.entries) {
            if held.settled && shape(held, operation).is_some() {
                held.shard = ShardStatus::Missing;
            }
        }
        Ok(DriveReply::Accepted(ShardStatus::Missing))
    }

    /// An entry that is short for the sake of a part stays so until every part's shard is here.
    pub(super) fn with_parts(
        &self,
        key: &RegisterKey,
        version: VersionId,
        entry: &Entry,
        status: ShardStatus,
    ) -> ShardStatus {
        let register = self.keys.get(key).and_then(|state| state.registers.get(&version));
        let held = register.and_then(|register| register.of_operation(entry.operation));
        let mut parts = entry.parts.iter().filter(|part| part.geometry.has_data());
        let short = held.is_some_and(|held| !held.is_whole());
        if short && parts.any(|part| !self.is_whole(part.operation)) {
            return ShardStatus::Missing;
        }
        status
    }
}

/// The shape of a part that an entry names.
fn shape(held: &Held, operation: OperationId) -> Option<Geometry> {
    let part = held.entry.parts.iter().find(|part| part.operation == operation);
    part.map(|part| part.geometry)
}
