//! The drive as a member of its set: set epochs, floors, the index to compare, parts brought back
//! (PROTOCOL.md section 5, INV-MEMBER-1).

use holdfast_register::{Refusal, ShardStatus};
use holdfast_types::{Entry, EntryKind, ErrorClass, RegisterKey, SetEpoch};

use crate::{
    api::{
        Begin, DriveReply, Gap, IndexEntry, IndexLine, IndexPage, Issue, Issued, ListIndex,
        MemberReply, MemberRequest, Restock, Standing,
    },
    log::record::Record,
    member::INDEX_LINES_MAX,
    overlay::prefix_end,
    value::{PLACE_SPACE, PlaceRecord, Value},
};

use super::{Decision, Drive, Stop, write::Incoming};

/// Bytes of a membership document at most: 16 drives with the longest paths.
pub const MEMBERSHIP_BYTES_MAX: usize = 256 << 10;

/// Parts of one entry that an index line looks for.
const PARTS_LOOKED_AT: usize = 32;

/// Parts looked for at which an index page ends.
const PARTS_LOOKED_MAX: usize = 128;

impl Drive {
    pub(super) fn member(&mut self, request: &MemberRequest, gate: &mut u64) -> Decision {
        match request {
            MemberRequest::Issue(issue) => self.issue(issue, gate),
            MemberRequest::Membership => {
                *gate = (*gate).max(self.epoch_gate);
                Ok(DriveReply::Member(MemberReply::Membership {
                    epoch: self.table.facts.set_epoch,
                    document: self.table.membership.clone(),
                    standing: self.table.facts.standing,
                    unfilled: self.unfilled() as u32,
                }))
            }
            MemberRequest::Begin(begin) => self.begin_rebuild(begin, gate),
            MemberRequest::Rebuilt(epoch) => self.rebuilt(*epoch, gate),
            MemberRequest::Ranges => {
                let ranges = self.table.layers.rot().all().to_vec();
                Ok(DriveReply::Member(MemberReply::Ranges(ranges)))
            }
            MemberRequest::Fill(issue) => self.fill(issue, gate),
            MemberRequest::Filled(filled) => self.filled(filled, gate),
            MemberRequest::ListIndex(list) => self.list_index(list, gate),
            MemberRequest::Restock(restock) => self.restock(restock, gate),
        }
    }

    /// Whether its answers count, where rot hid nothing.
    pub(super) fn counts(&self) -> bool {
        self.table.facts.standing == Standing::Counting
    }

    /// Whether its answers about a key count: it stands so, and no register of it lies in a range that is
    /// still to be filled (INV-FILL-1).
    pub(super) fn counts_for(&self, key: &[u8]) -> bool {
        let end = prefix_end(key);
        let unfilled = self.table.layers.rot().first_unfilled_in(key, end.as_deref());
        self.counts() && unfilled.is_none()
    }

    /// A joining drive has no floor: whatever it said could contradict what it forgot.
    pub(super) fn check_joined(&self, request: &crate::api::DriveRequest) -> Result<(), Stop> {
        use crate::api::DriveRequest::{Facts, Member};
        let may =
            matches!(request, Facts | Member(MemberRequest::Membership | MemberRequest::Begin(_)));
        if may || self.table.facts.standing != Standing::Joining {
            return Ok(());
        }
        let message = "it is new in its set, and the others have not taken it in yet";
        Err(Stop::Failed(ErrorClass::Unavailable, message.to_owned()))
    }

    /// Adopts the epoch of a request that is ahead: from here on older ones are refused. Without it
    /// what one drive refuses could still be chosen by others (INV-MEMBER-1).
    pub(super) fn meet_epoch(&mut self, asked: SetEpoch, gate: &mut u64) -> Result<(), Stop> {
        if asked > self.table.facts.set_epoch {
            self.adopt_epoch(asked, bytes::Bytes::new())?;
        }
        *gate = (*gate).max(self.epoch_gate);
        Ok(())
    }

    fn adopt_epoch(&mut self, epoch: SetEpoch, membership: bytes::Bytes) -> Result<(), Stop> {
        let appended = self.record(&Record::Member { epoch, membership }, true)?;
        self.epoch_gate = self.epoch_gate.max(appended.batch);
        Ok(())
    }

    /// Adopts a membership. A newer epoch than the drive's, or the document of the one it has by
    /// number only.
    pub(super) fn take_membership(&mut self, issue: &Issue) -> Result<(), Stop> {
        if issue.membership.len() > MEMBERSHIP_BYTES_MAX {
            return Err(Stop::invalid("issue: the membership document is too long"));
        }
        let current = self.table.facts.set_epoch;
        let differs = self.table.membership != issue.membership;
        if issue.epoch < current || (issue.epoch == self.document_epoch && differs) {
            return Err(Refusal::SetOutdated { current }.into());
        }
        if issue.epoch > current || differs {
            self.adopt_epoch(issue.epoch, issue.membership.clone())?;
        }
        self.document_epoch = issue.epoch;
        Ok(())
    }

    /// One step: the epoch, and the highest ballots as of it. The answer waits for its record.
    fn issue(&mut self, issue: &Issue, gate: &mut u64) -> Decision {
        self.take_membership(issue)?;
        *gate = (*gate).max(self.epoch_gate);
        let facts = &self.table.facts;
        Ok(DriveReply::Member(MemberReply::Issued(Issued {
            floor: self.volatile.highest().max(self.table.highest).max(facts.floor),
            purge_floor: facts.purge_floor,
            buckets: self.table.buckets.values().map(|known| known.stamp).collect(),
        })))
    }

    /// The standing comes last: a crash before it leaves a joining drive, which begins again.
    fn begin_rebuild(&mut self, begin: &Begin, gate: &mut u64) -> Decision {
        self.take_membership(&begin.issue)?;
        *gate = (*gate).max(self.epoch_gate);
        if self.table.facts.standing != Standing::Joining {
            return Ok(DriveReply::Done);
        }
        for stamp in &begin.collected.buckets {
            let known = self.table.buckets.get(&stamp.id).map(|known| known.stamp);
            if let Some(newer) = holdfast_register::decide::newer_stamp(known, *stamp) {
                self.record(&Record::Bucket(newer), true)?;
            }
        }
        let floor = begin.collected.floor;
        let purge_floor = begin.collected.purge_floor;
        let stand = Record::Stand { standing: Standing::Rebuilding, floor, purge_floor };
        let appended = self.record(&stand, true)?;
        self.volatile.floor = self.volatile.floor.max(floor);
        *gate = (*gate).max(appended.batch);
        Ok(DriveReply::Done)
    }

    fn rebuilt(&mut self, epoch: SetEpoch, gate: &mut u64) -> Decision {
        let facts = self.table.facts;
        if epoch < facts.set_epoch {
            // The set has changed since the proof was begun: it may have missed something.
            return Err(Refusal::SetOutdated { current: facts.set_epoch }.into());
        }
        if facts.standing == Standing::Rebuilding {
            let (floor, purge_floor) = (facts.floor, facts.purge_floor);
            let stand = Record::Stand { standing: Standing::Counting, floor, purge_floor };
            let appended = self.record(&stand, true)?;
            *gate = (*gate).max(appended.batch);
        }
        Ok(DriveReply::Done)
    }

    fn list_index(&mut self, list: &ListIndex, gate: &mut u64) -> Decision {
        self.admit(&list.scope, false, gate)?;
        let limit = list.limit.clamp(1, INDEX_LINES_MAX) as usize;
        // The drive's own records lie behind the registers'.
        let end = list.end.as_deref().unwrap_or(&[PLACE_SPACE]).min(&[PLACE_SPACE]);
        let page = self.table.layers.scan(&list.start, Some(end), limit)?;
        *gate = (*gate).max(page.gate);
        // What it shows of an open range it holds; what it does not show there says nothing.
        let mut gaps: Vec<Gap> = page.gap.into_iter().collect();
        let behind = page.next.as_deref().unwrap_or(end);
        gaps.extend(self.table.layers.rot().open_in(&list.start, behind));
        // What is not in memory is brought up by one trip to the I/O threads, not by one a part.
        let records = page.items.iter().filter_map(|(_, value)| match &**value {
            Value::Register(record) => Some(record),
            _ => None,
        });
        let entries = records.flat_map(|record| &record.state.entries);
        let parts = entries.flat_map(|held| held.entry.parts.iter().take(PARTS_LOOKED_AT));
        let keys = parts.filter(|part| part.geometry.has_data());
        let keys = keys.map(|part| PlaceRecord::key(part.operation).into());
        self.table.layers.ready(keys.take(PARTS_LOOKED_MAX + PARTS_LOOKED_AT))?;
        let mut lines = Vec::with_capacity(page.items.len());
        let mut looked = 0;
        let mut next = page.next;
        for (register, value) in page.items {
            let Value::Register(record) = &*value else { continue };
            if looked > PARTS_LOOKED_MAX {
                next = Some(register);
                break;
            }
            let decoded = RegisterKey::decode_register(&register);
            let (key, version) =
                decoded.map_err(|error| Stop::Failed(ErrorClass::Damaged, error.to_string()))?;
            let mut entries = Vec::with_capacity(record.state.entries.len());
            for held in &record.state.entries {
                looked += held.entry.parts.len().min(PARTS_LOOKED_AT);
                entries.push(IndexEntry {
                    operation: held.entry.operation,
                    ballot: held.entry.ballot,
                    data_shards: held.entry.body_shards(),
                    settled: held.settled,
                    shard: held.shard,
                    parts_missing: self.parts_missing(&held.entry)?,
                });
            }
            lines.push(IndexLine { key, version, entries });
        }
        Ok(DriveReply::Member(MemberReply::Index(IndexPage { lines, gaps, next })))
    }

    /// Parts that an entry names and whose shard is not here: of the first [`PARTS_LOOKED_AT`], for a
    /// page must be decided with what the cache of blocks holds. Who brings parts brings the last first.
    fn parts_missing(&self, entry: &Entry) -> Result<u32, Stop> {
        let mut missing = 0;
        for part in entry.parts.iter().take(PARTS_LOOKED_AT).filter(|p| p.geometry.has_data()) {
            let (record, _) = self.table.place(part.operation)?;
            missing += u32::from(!record.is_whole());
        }
        Ok(missing)
    }

    /// Takes the shard of a part that an entry held here names.
    fn restock(&mut self, restock: &Restock, gate: &mut u64) -> Decision {
        self.admit(&restock.scope, false, gate)?;
        let register = restock.key.encode_register(restock.version);
        let (record, register_gate) = self.table.register(&register)?;
        *gate = (*gate).max(register_gate);
        let names = |entry: &Entry| {
            entry.parts.iter().any(|part| {
                part.operation == restock.operation && part.geometry == restock.geometry
            })
        };
        if !record.state.entries.iter().any(|held| names(&held.entry)) {
            return Err(Stop::invalid("restock: nothing held here names the part"));
        }
        // The part as an entry of its own, as far as its shard goes.
        let part = Entry {
            ballot: holdfast_types::Ballot::ZERO,
            order: holdfast_types::Ballot::ZERO,
            operation: restock.operation,
            kind: EntryKind::Put,
            geometry: restock.geometry,
            metadata: bytes::Bytes::new(),
            parts: Vec::new(),
        };
        let Incoming { status, shard, upload } =
            self.incoming(&part, restock.shard, &restock.source)?;
        if status != ShardStatus::Present || matches!(shard, crate::log::record::NewShard::None) {
            // Here already, or nothing came.
            return Ok(DriveReply::Accepted(status));
        }
        self.check_room()?;
        self.check_space(part.kind)?;
        // From nowhere, or from where it was found rotten.
        let old = self.table.place(restock.operation)?.0.place;
        let record = Record::Move { operation: restock.operation, old, new: shard };
        let appended = self.record(&record, true)?;
        if let Some(handle) = upload {
            self.uploads.take(handle);
        }
        *gate = (*gate).max(appended.batch);
        Ok(DriveReply::Accepted(ShardStatus::Present))
    }
}
