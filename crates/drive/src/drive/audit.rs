//! Checks that what the drive counts is what it holds: for tests, and for an operator who doubts.

use std::collections::{BTreeMap, BTreeSet};

use holdfast_types::OperationId;

use crate::{
    checkpoint::DurableFacts,
    disk::BLOCK_U64,
    scrub::Phase,
    value::{Extent, PLACE_SPACE, Place, PlaceRecord, REPAIR_SPACE, TOMBSTONE_SPACE, Value},
};

use super::Drive;

/// What a walk over all records counts.
#[derive(Default)]
struct Count {
    registers: u64,
    references: BTreeMap<OperationId, u64>,
    chores: BTreeSet<Vec<u8>>,
    places: BTreeMap<OperationId, PlaceRecord>,
    used_bytes: u64,
    live: BTreeMap<u32, (u64, u64)>,
    blocks: BTreeSet<(u32, u32)>,
}

impl Drive {
    /// The facts a checkpoint would keep now.
    #[must_use]
    pub const fn durable_facts(&self) -> DurableFacts {
        self.table.facts
    }

    /// Walks over all records and compares counters, chores, references and blocks with them. Takes
    /// as long as that takes.
    ///
    /// # Errors
    /// The first disagreement, in words.
    pub fn audit(&self) -> Result<(), String> {
        let mut count = Count::default();
        self.walk(&[1], &[PLACE_SPACE], |key, value| count.register(key, value))?;
        self.walk(&[PLACE_SPACE], &[REPAIR_SPACE], |key, value| count.place(key, value))?;
        let mut chores = BTreeSet::new();
        self.walk(&[REPAIR_SPACE], &[TOMBSTONE_SPACE + 1], |key, _| {
            chores.insert(key.to_vec());
            Ok(())
        })?;
        same("chores", &chores, &count.chores)?;
        let named: BTreeMap<OperationId, u64> =
            count.places.iter().map(|(op, record)| (*op, record.references)).collect();
        same("references", &named, &count.references)?;
        let facts = &self.table.facts;
        let shards = count.places.values().filter(|record| !record.place.is_none()).count() as u64;
        same("shards", &facts.shards, &shards)?;
        if self.table.scrub.phase == Phase::Shards {
            let ledger = &self.table.scrub.ledger;
            let ahead =
                |(op, _): &(&OperationId, _)| PlaceRecord::key(**op)[..] >= ledger.from()[..];
            let mut owed = crate::scrub::Count::default();
            for (_, record) in count.places.iter().filter(ahead).filter(|(_, r)| !r.place.is_none())
            {
                owed.add(crate::scrub::Count::one(record.place.len()));
            }
            same("what the scrub owes", &ledger.owed(), &owed)?;
        }
        same("registers", &facts.registers, &count.registers)?;
        same("used bytes", &facts.used_bytes, &count.used_bytes)?;
        let repairs = chores.iter().filter(|key| key[0] == REPAIR_SPACE).count() as u64;
        same("repairs", &facts.repairs, &repairs)?;
        let live = self.table.segments.iter().filter(|(_, used)| used.live_shards > 0);
        let live = live.map(|(id, used)| (*id, (used.live_shards, used.live_bytes))).collect();
        same("live shards of segments", &live, &count.live)?;
        let recorded = self.table.recorded.runs().into_iter().flat_map(blocks).collect();
        same("blocks of volumes", &recorded, &count.blocks)
    }

    /// Whether every block that is taken belongs to a shard: holds when nothing is being uploaded,
    /// read, pinned or dropped.
    ///
    /// # Errors
    /// How many are taken, and how many should be.
    pub fn audit_blocks(&self) -> Result<(), String> {
        let recorded: u64 =
            self.table.recorded.runs().iter().map(|extent| u64::from(extent.blocks)).sum();
        let total = self.volumes.total_bytes() / BLOCK_U64;
        same("taken blocks", &(total - self.volumes.free_blocks()), &recorded)
    }

    /// Whether no block belongs to two shards, as far as rot lets places be known.
    ///
    /// # Errors
    /// The first that does, or that there is rot that no merge has passed by yet.
    pub fn audit_claims(&self) -> Result<(), String> {
        let mut count = Count::default();
        self.walk(&[PLACE_SPACE], &[REPAIR_SPACE], |key, value| count.place(key, value))
    }

    fn walk(
        &self,
        start: &[u8],
        end: &[u8],
        mut visit: impl FnMut(&[u8], &Value) -> Result<(), String>,
    ) -> Result<(), String> {
        let mut start = start.to_vec();
        loop {
            let page = self.table.layers.scan_patiently(&start, Some(end));
            let page = page.map_err(|e| e.to_string())?;
            if let Some(gap) = &page.gap {
                return Err(format!("rot that no merge has passed by hides records: {gap:?}"));
            }
            for (key, value) in &page.items {
                visit(key, value)?;
            }
            match page.next {
                Some(next) => start = next.to_vec(),
                None => return Ok(()),
            }
        }
    }
}

impl Count {
    fn register(&mut self, key: &[u8], value: &Value) -> Result<(), String> {
        let Value::Register(record) = value else { return Err(format!("{key:?}: no register")) };
        self.registers += 1;
        self.chores.extend(record.chores(key));
        for operation in record.state.entries.iter().flat_map(|held| held.entry.data_operations()) {
            *self.references.entry(operation).or_default() += 1;
        }
        Ok(())
    }

    fn place(&mut self, key: &[u8], value: &Value) -> Result<(), String> {
        let (Value::Place(record), Ok(operation)) = (value, key[1..].try_into()) else {
            return Err(format!("{key:?}: no place"));
        };
        let operation = OperationId::from_bytes(operation);
        self.used_bytes += record.place.len();
        match &record.place {
            Place::None => {}
            Place::Inline { segment, len, .. } => {
                let live = self.live.entry(*segment).or_default();
                live.0 += 1;
                live.1 += u64::from(*len);
            }
            Place::Extents { extents, .. } => {
                for block in extents.iter().copied().flat_map(blocks) {
                    if !self.blocks.insert(block) {
                        return Err(format!("block {block:?} belongs to two shards"));
                    }
                }
            }
        }
        self.places.insert(operation, record.clone());
        Ok(())
    }
}

fn blocks(extent: Extent) -> impl Iterator<Item = (u32, u32)> {
    (extent.block..extent.block + extent.blocks).map(move |block| (extent.volume, block))
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, kept: &T, counted: &T) -> Result<(), String> {
    if kept == counted {
        Ok(())
    } else {
        Err(format!("{what}: kept {kept:?}, counted {counted:?}"))
    }
}
