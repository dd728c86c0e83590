//! Rot of a drive in memory: how it comes about, and how it is found out.

use holdfast_drive::api::{DriveReply, DriveResult, Verify};
use holdfast_erasure::{Salt, open_block};
use holdfast_register::{Held, ShardStatus};
use holdfast_types::{Entry, Geometry, HybridTime, OperationId, RegisterKey, VersionId};

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
