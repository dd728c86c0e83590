//! What a drive in memory lists: pages of keys, and work for the background.

use bytes::Bytes;
use holdfast_drive::api::{
    Chore, ChoreKind, DriveReply, DriveResult, ListChores, Scan, ScanPage, ScannedKey,
};
use holdfast_register::{Held, HolderMask, RegisterState, ShardStatus};
use holdfast_types::{
    Ballot, BucketPhase, BucketStamp, EntryKind, HybridTime, OperationId, RegisterKey, VersionId,
};

use super::MemoryDrive;

impl MemoryDrive {
    pub(super) fn scan(&mut self, now: HybridTime, scan: Scan) -> DriveResult {
        self.admit(now, scan.scope, false)?;
        let gaps = self.gaps_of_scan(&scan);
        let from =
            RegisterKey { space: scan.space, bucket: scan.scope.bucket.id, name: scan.start };
        let within = |key: &RegisterKey| {
            key.space == from.space
                && key.bucket == from.bucket
                && scan.end.as_ref().is_none_or(|end| key.name < *end)
        };
        let keys = self.keys.range(from.clone()..).take_while(|(key, _)| within(key));
        let shown = |(key, state): &(&RegisterKey, &holdfast_register::KeyState)| {
            !state.registers.is_empty() && !self.is_unfilled(key)
        };
        let mut keys = keys.filter(shown).peekable();
        let mut page = ScanPage { counts: self.counts, gaps, ..ScanPage::default() };
        while let Some((key, state)) = keys.next_if(|_| page.keys.len() < scan.limit as usize) {
            let mut view = state.view(self.floor, self.counts, true);
            view.memory.clear();
            for held in view.registers.values_mut().flat_map(|r| &mut r.entries) {
                held.entry.parts.clear();
                if !scan.metadata {
                    held.entry.metadata = Bytes::new();
                }
            }
            page.keys.push(ScannedKey { name: key.name.clone(), view });
        }
        page.more = keys.peek().is_some();
        Ok(DriveReply::Page(page))
    }

    pub(super) fn chores(&self, now: HybridTime, list: &ListChores) -> Vec<Chore> {
        if list.kind == ChoreKind::Buckets {
            return self.known_buckets(list);
        }
        let mut found = Vec::new();
        for (key, state) in self.keys.iter().filter(|(key, _)| !self.is_hidden(key)) {
            for (version, register) in &state.registers {
                let cursor = Bytes::from(key.encode_register(*version));
                if list.after.as_ref().is_some_and(|after| cursor <= *after) {
                    continue;
                }
                let Some((held, missing)) = self.chore_of(now, list, *version, register) else {
                    continue;
                };
                found.push(Chore {
                    cursor,
                    key: key.clone(),
                    version: *version,
                    operation: held.entry.operation,
                    ballot: held.entry.ballot,
                    missing,
                });
            }
        }
        found.truncate(list.limit as usize);
        found
    }

    fn known_buckets(&self, list: &ListChores) -> Vec<Chore> {
        let known = self.buckets.values().filter(|stamp| stamp.phase != BucketPhase::Deleted);
        let chore = |stamp: &BucketStamp| Chore {
            cursor: Bytes::copy_from_slice(&stamp.id.to_bytes()),
            key: RegisterKey::object(stamp.id, Bytes::new()),
            version: VersionId::NULL,
            operation: OperationId::NIL,
            ballot: Ballot::ZERO,
            missing: HolderMask::default(),
        };
        let mut found: Vec<Chore> = known.map(chore).collect();
        found.sort_by(|a, b| a.cursor.cmp(&b.cursor));
        found.retain(|chore| list.after.as_ref().is_none_or(|after| chore.cursor > *after));
        found.truncate(list.limit as usize);
        found
    }

    fn chore_of<'a>(
        &self,
        now: HybridTime,
        list: &ListChores,
        version: VersionId,
        register: &'a RegisterState,
    ) -> Option<(&'a Held, HolderMask)> {
        let old = |at: u64| at + list.age_micros <= now.micros();
        let none = HolderMask::default();
        match list.kind {
            ChoreKind::Repairs => {
                let settled = register.settled()?;
                let full = HolderMask::full(self.quorum.n());
                let mut missing = HolderMask(full.0 & !settled.holders.0);
                if settled.shard == ShardStatus::Missing {
                    // Which one it would be is known of those found rotten; the others are listed by
                    // the drives that hold theirs.
                    let mut operations = settled.entry.data_operations();
                    let own = operations.find_map(|operation| self.rotten.get(&operation));
                    missing = own.map_or(missing, |own| missing.with(own.0));
                }
                (missing != none).then_some((settled, missing))
            }
            ChoreKind::Unsettled => {
                let accepted = |held: &Held| {
                    let id = (held.entry.operation, version);
                    self.accepted_at.get(&id).copied().unwrap_or_default()
                };
                let mut open = register.entries.iter().filter(|held| !held.settled);
                open.find(|held| old(accepted(held))).map(|held| (held, none))
            }
            ChoreKind::Buckets => None,
            ChoreKind::Tombstones => {
                let head = register.head()?;
                let gone = head.settled && head.entry.kind == EntryKind::Tombstone;
                (gone && old(head.entry.ballot.time.micros())).then_some((head, none))
            }
        }
    }
}
