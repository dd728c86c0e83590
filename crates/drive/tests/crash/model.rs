//! The reference model: a drive as plain maps.

use std::collections::BTreeMap;

use bytes::Bytes;
use holdfast_drive::api::{Accept, Install, Prepare, Purge, Settle, ShardSource};
use holdfast_register::{
    AcceptVerdict, DriveView, Held, HolderMask, KeyState, Refusal, Remembered, SettleVerdict,
    ShardStatus, decide_accept, decide_install, decide_prepare, decide_purge, decide_settle,
};
use holdfast_types::{Ballot, Entry, HybridTime, OperationId, Quorum, RegisterKey, VersionId};

/// What a drive holds, after some prefix of the requests.
#[derive(Clone, Debug, Default)]
pub struct Model {
    pub keys: BTreeMap<RegisterKey, KeyState>,
    pub shards: BTreeMap<OperationId, Bytes>,
    pub purge_floor: Ballot,
    pub bucket_epoch: u64,
    pub floor: Ballot,
    pub since: HybridTime,
}

/// What the model answers, and whether its state has changed.
pub type Predicted = Result<Option<ShardStatus>, Refusal>;

impl Model {
    fn view(&self, now: HybridTime) -> DriveView {
        DriveView {
            now,
            floor: self.floor,
            purge_floor: self.purge_floor,
            set_epoch: holdfast_types::SetEpoch(0),
            memory_since: self.since,
        }
    }

    fn key(&self, key: &RegisterKey) -> KeyState {
        self.keys.get(key).cloned().unwrap_or_default()
    }

    fn status(&self, entry: &Entry, source: &ShardSource, uploaded: bool) -> ShardStatus {
        if !entry.geometry.has_data() {
            return ShardStatus::NoData;
        }
        let comes = matches!(source, ShardSource::Inline(_))
            || (matches!(source, ShardSource::Upload(_)) && uploaded);
        if comes || self.shards.contains_key(&entry.operation) {
            ShardStatus::Present
        } else {
            ShardStatus::Missing
        }
    }

    /// `shard` is what an upload or the request brings.
    pub fn accept(&mut self, accept: &Accept, shard: Option<Bytes>, now: HybridTime) -> Predicted {
        let entry = &accept.entry;
        let status = self.status(entry, &accept.source, shard.is_some());
        let named = matches!(accept.source, ShardSource::Upload(_) | ShardSource::Held);
        let lost = named && status == ShardStatus::Missing;
        if lost {
            return Err(Refusal::UploadLost);
        }
        let mut state = self.key(&accept.key);
        let verdict = decide_accept(&state, &self.view(now), accept.version, entry, status)?;
        if verdict == AcceptVerdict::Already {
            let held = state.registers.get(&accept.version);
            let held = held.and_then(|register| register.of_operation(entry.operation));
            return Ok(Some(held.map_or(
                if entry.geometry.has_data() { ShardStatus::Present } else { ShardStatus::NoData },
                |held| held.shard,
            )));
        }
        let held = Held {
            entry: entry.clone(),
            shard: status,
            settled: false,
            holders: HolderMask::default(),
        };
        state.apply_accept(accept.version, held);
        let (operation, ballot) = (entry.operation, entry.ballot);
        state.memory.push(Remembered { operation, ballot, at: now });
        if state.promise <= entry.ballot {
            state.promise = Ballot::ZERO;
        }
        self.put(&accept.key, state, status, entry.operation, shard);
        Ok(Some(status))
    }

    pub fn install(&mut self, install: &Install, now: HybridTime) -> Predicted {
        let entry = &install.entry;
        let status = self.status(entry, &install.source, false);
        let mut state = self.key(&install.key);
        let verdict = decide_install(&state, &self.view(now), install.version, entry, status)?;
        let held = |state: &KeyState| {
            let register = state.registers.get(&install.version)?;
            register.of_operation(entry.operation).map(|held| held.shard)
        };
        if verdict == AcceptVerdict::Already {
            return Ok(held(&state));
        }
        let new =
            Held { entry: entry.clone(), shard: status, settled: true, holders: install.holders };
        state.apply_accept(install.version, new);
        let shard = match &install.source {
            ShardSource::Inline(bytes) => Some(bytes.clone()),
            _ => None,
        };
        self.put(&install.key, state, status, entry.operation, shard);
        Ok(Some(status))
    }

    fn put(
        &mut self,
        key: &RegisterKey,
        state: KeyState,
        status: ShardStatus,
        operation: OperationId,
        shard: Option<Bytes>,
    ) {
        self.keys.insert(key.clone(), state);
        if let (ShardStatus::Present, Some(shard)) = (status, shard) {
            self.shards.entry(operation).or_insert(shard);
        }
        self.drop_unnamed();
    }

    pub fn prepare(&mut self, prepare: &Prepare, now: HybridTime) -> Result<(), Refusal> {
        let mut state = self.key(&prepare.key);
        decide_prepare(&state, &self.view(now), prepare.ballot)?;
        state.promise = prepare.ballot;
        self.keys.insert(prepare.key.clone(), state);
        Ok(())
    }

    /// Whether anything changed.
    pub fn settle(&mut self, settle: &Settle) -> bool {
        let Some(state) = self.keys.get_mut(&settle.key) else { return false };
        let quorum = Quorum::of(settle.set_size);
        let (version, operation) = (settle.version, settle.operation);
        match decide_settle(state, quorum, version, operation, settle.holders) {
            SettleVerdict::Ignore => false,
            SettleVerdict::Mark { drop_below } => {
                state.apply_settle(version, operation, settle.holders, drop_below);
                self.drop_unnamed();
                true
            }
        }
    }

    /// Whether anything changed.
    pub fn purge(&mut self, purge: &Purge) -> Result<bool, Refusal> {
        let mut state = self.key(&purge.key);
        if !decide_purge(&state, purge.version, purge.ballot)? {
            return Ok(false);
        }
        state.apply_purge(purge.version, purge.ballot);
        self.keys.insert(purge.key.clone(), state);
        self.purge_floor = self.purge_floor.max(purge.ballot);
        self.drop_unnamed();
        Ok(true)
    }

    /// Bytes go with the last entry that names them (INV-PLACE-1).
    fn drop_unnamed(&mut self) {
        let registers = self.keys.values().flat_map(|state| state.registers.values());
        let entries = registers.flat_map(|register| &register.entries);
        let named: std::collections::BTreeSet<OperationId> =
            entries.flat_map(|held| held.entry.data_operations()).collect();
        self.shards.retain(|operation, _| named.contains(operation));
    }

    /// What a restart forgets.
    pub fn restart(&mut self, floor: Ballot, now: HybridTime) {
        for state in self.keys.values_mut() {
            state.promise = Ballot::ZERO;
            state.memory.clear();
        }
        self.floor = floor;
        self.since = now;
    }

    /// Registers held.
    pub fn registers(&self) -> u64 {
        self.keys.values().map(|state| state.registers.len() as u64).sum()
    }

    /// The registers of a key.
    pub fn registers_of(
        &self,
        key: &RegisterKey,
    ) -> BTreeMap<VersionId, holdfast_register::RegisterState> {
        self.keys.get(key).map(|state| state.registers.clone()).unwrap_or_default()
    }
}
