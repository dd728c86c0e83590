//! The indexes of a set's drives side by side, register by register: what one of them lacks, and how
//! many good shards each version has.

use std::collections::VecDeque;

use bytes::Bytes;
use holdfast_drive::api::{
    DriveReply, DriveRequest, Gap, IndexEntry, IndexLine, ListIndex, MemberReply, MemberRequest,
};
use holdfast_types::{BucketStamp, OperationId, RegisterKey, VersionId};

use crate::{
    error::StoreError,
    set::{SetHandle, describe},
};

/// Why a drive does not show what lies in a gap.
pub(crate) const HIDDEN: &str = "rot in its records hid what it knew";

/// Lines asked of each drive at once: some hundred bytes each.
const LINES: u32 = 512;

/// A register as the drives of a set hold it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Compared {
    pub(crate) key: RegisterKey,
    pub(crate) version: VersionId,
    /// By slot: what it holds of the register. Slots that hold nothing are left out.
    pub(crate) held: Vec<(usize, Vec<IndexEntry>)>,
}

impl Compared {
    /// The operation that rules as far as indexes tell: the settled one of highest ballot, else the
    /// highest.
    pub(crate) fn head(&self) -> Option<IndexEntry> {
        let all = || self.held.iter().flat_map(|(_, entries)| entries).copied();
        let settled = all().filter(|entry| entry.settled).max_by_key(|entry| entry.ballot);
        settled.or_else(|| all().max_by_key(|entry| entry.ballot))
    }

    /// The slots that hold all they should of an operation.
    pub(crate) fn whole(&self, operation: OperationId) -> Vec<usize> {
        let holds = |entries: &[IndexEntry]| {
            entries.iter().any(|entry| entry.operation == operation && entry.is_whole())
        };
        self.held.iter().filter(|(_, entries)| holds(entries)).map(|(slot, _)| *slot).collect()
    }

    /// Whether `slot` may lack something: it does not hold the head whole, or not the highest entry
    /// that others hold.
    pub(crate) fn is_lacking(&self, slot: usize) -> bool {
        let Some(head) = self.head() else { return false };
        let highest = self.held.iter().flat_map(|(_, entries)| entries).max_by_key(|e| e.ballot);
        let highest = highest.map_or(head.operation, |entry| entry.operation);
        ![head.operation, highest].iter().all(|operation| self.whole(*operation).contains(&slot))
    }

    /// Shards that may still be lost before the head is: at or below zero nothing may.
    pub(crate) fn margin(&self) -> i32 {
        self.head()
            .map_or(0, |head| self.whole(head.operation).len() as i32 - i32::from(head.data_shards))
    }
}

/// One drive's index as it comes in.
struct Source {
    slot: usize,
    lines: VecDeque<IndexLine>,
    /// Where the next page starts; `None` when the index is exhausted.
    next: Option<Bytes>,
    /// Why it ended early.
    failed: Option<String>,
    /// Registers about which it says nothing.
    gaps: Vec<Gap>,
}

/// The indexes of all drives of a set, merged.
pub(crate) struct Comparison {
    set: SetHandle,
    sources: Vec<Source>,
    /// The first register, and the first that is not compared any more.
    over: Gap,
}

impl Comparison {
    /// Of all registers in `over`.
    pub(crate) fn new(set: &SetHandle, over: Gap) -> Self {
        let (next, lines) = (Some(over.first.clone()), VecDeque::new);
        let source = |slot| Source {
            slot,
            lines: lines(),
            next: next.clone(),
            failed: None,
            gaps: Vec::new(),
        };
        let sources = (0..usize::from(set.shared.n())).map(source).collect();
        Self { set: set.clone(), sources, over }
    }

    /// Why a slot did not show what it holds of a register, if it did not.
    pub(crate) fn silence(&self, slot: usize, compared: &Compared) -> Option<&str> {
        let register = compared.key.encode_register(compared.version);
        self.sources[slot].silence(&register)
    }

    /// Whether every drive of the set has shown what it holds of a register.
    pub(crate) fn is_shown(&self, compared: &Compared) -> bool {
        let register = compared.key.encode_register(compared.version);
        self.sources.iter().all(|source| source.silence(&register).is_none())
    }

    /// Fails unless enough drives whose answers count have shown all they hold, of each register, beside
    /// `slot`: what a read quorum does not show was never chosen, and cannot be, for each of them has
    /// adopted the epoch it was asked under (INV-MEMBER-2).
    pub(crate) fn check(&self, slot: usize) -> Result<(), StoreError> {
        // Where a gap begins, and nowhere else, the number of those that show falls.
        let gaps = self.sources.iter().flat_map(|source| &source.gaps);
        let first = gaps.map(|gap| &gap.first[..]).filter(|first| self.over.holds(first));
        let mut places = first.chain([&self.over.first[..]]);
        places.try_for_each(|register| self.check_at(slot, register))
    }

    fn check_at(&self, slot: usize, register: &[u8]) -> Result<(), StoreError> {
        let shared = &self.set.shared;
        let members = shared.members.now();
        let counts = |source: &&Source| {
            let silent = source.silence(register).is_some();
            source.slot != slot && !silent && !members.slots[source.slot].rebuilding
        };
        let have = self.sources.iter().filter(counts).count() as u8;
        let need = shared.quorum.read().min(shared.n() - 1);
        if have >= need {
            return Ok(());
        }
        let why =
            self.sources.iter().filter_map(|s| Some((s.slot, s.silence(register)?.to_owned())));
        Err(shared.below_quorum(need, have, &why.collect::<Vec<_>>()))
    }

    /// The next registers in order; empty when all indexes are exhausted.
    pub(crate) async fn next(&mut self) -> Vec<Compared> {
        loop {
            self.fill().await;
            let batch = self.take();
            if !batch.is_empty() || self.sources.iter().all(Source::is_over) {
                return batch;
            }
        }
    }

    /// Asks every drive whose lines have run out for the next page, all at once.
    async fn fill(&mut self) {
        let shared = &self.set.shared;
        let empty = self.sources.iter().filter(|s| s.lines.is_empty() && s.next.is_some());
        let request = |source: &Source| {
            let start = source.next.clone().unwrap_or_default();
            let scope = shared.scope(BucketStamp::REGISTRY);
            let list = ListIndex { scope, start, end: self.over.end.clone(), limit: LINES };
            (source.slot, DriveRequest::Member(MemberRequest::ListIndex(list)))
        };
        let requests: Vec<_> = empty.map(request).collect();
        if requests.is_empty() {
            return;
        }
        for (slot, result) in shared.ask_slots(requests).await {
            let source = &mut self.sources[slot];
            match result {
                Ok(DriveReply::Member(MemberReply::Index(page))) => {
                    source.lines = page.lines.into();
                    source.next = page.next;
                    source.gaps.extend(page.gaps);
                }
                Ok(_) => source.fail("unexpected reply".to_owned()),
                Err(error) => source.fail(describe(&error)),
            }
        }
    }

    /// Takes the registers that are known of every drive.
    fn take(&mut self) -> Vec<Compared> {
        let mut batch = Vec::new();
        loop {
            if self.sources.iter().any(|s| s.lines.is_empty() && s.next.is_some()) {
                return batch;
            }
            let heads = self.sources.iter().filter_map(|source| source.lines.front());
            let Some(least) = heads.map(place).min() else { return batch };
            let mut held = Vec::new();
            let mut named = None;
            for source in &mut self.sources {
                if source.lines.front().is_some_and(|line| place(line) == least)
                    && let Some(line) = source.lines.pop_front()
                {
                    held.push((source.slot, line.entries));
                    named = Some((line.key, line.version));
                }
            }
            let Some((key, version)) = named else { return batch };
            batch.push(Compared { key, version, held });
        }
    }
}

impl Source {
    fn fail(&mut self, why: String) {
        self.failed = Some(why);
        self.next = None;
    }

    fn silence(&self, register: &[u8]) -> Option<&str> {
        let is_hidden = self.gaps.iter().any(|gap| gap.holds(register));
        self.failed.as_deref().or_else(|| is_hidden.then_some(HIDDEN))
    }

    fn is_over(&self) -> bool {
        self.lines.is_empty() && self.next.is_none()
    }
}

/// The place of a line in every index.
fn place(line: &IndexLine) -> Vec<u8> {
    line.key.encode_register(line.version)
}

#[cfg(test)]
mod tests {
    use holdfast_register::ShardStatus;
    use holdfast_types::{Ballot, HybridTime};

    use super::*;

    fn entry(operation: u128, time: u64, settled: bool, shard: ShardStatus) -> IndexEntry {
        let ballot = Ballot { time: HybridTime(time), ..Ballot::ZERO };
        let operation = OperationId(operation);
        IndexEntry { operation, ballot, data_shards: 2, settled, shard, parts_missing: 0 }
    }

    fn compared(held: Vec<(usize, Vec<IndexEntry>)>) -> Compared {
        Compared { key: RegisterKey::bucket("b"), version: VersionId::NULL, held }
    }

    /// Goal: what a drive lacks is found, and nothing else. Method: the table of what three drives may
    /// show of a register.
    #[test]
    fn what_a_drive_lacks() {
        use ShardStatus::{Missing, Present};
        let whole = || vec![entry(1, 5, true, Present)];
        let all = compared(vec![(0, whole()), (1, whole()), (2, whole())]);
        assert!(!all.is_lacking(2) && all.margin() == 1);
        let blank = compared(vec![(0, whole()), (1, whole())]);
        assert!(blank.is_lacking(2) && !blank.is_lacking(0) && blank.margin() == 0);
        let short = compared(vec![(0, whole()), (2, vec![entry(1, 5, true, Missing)])]);
        assert!(short.is_lacking(2) && short.margin() == -1);
        let newer = vec![entry(2, 9, false, Present), entry(1, 5, true, Present)];
        let open = compared(vec![(0, newer), (2, whole())]);
        assert!(open.is_lacking(2), "what is open above may have been chosen");
        assert_eq!(open.head().map(|head| head.operation), Some(OperationId(1)));
        let parts = IndexEntry { parts_missing: 1, ..entry(1, 5, true, ShardStatus::NoData) };
        assert!(compared(vec![(0, whole()), (2, vec![parts])]).is_lacking(2));
    }
}
