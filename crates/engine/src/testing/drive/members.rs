//! The drive in memory as a member of its set.

use std::mem;

use bytes::Bytes;
use holdfast_drive::api::{
    DriveError, DriveReply, DriveRequest, DriveResult, IndexEntry, IndexLine, IndexPage, Issue,
    Issued, ListIndex, MemberReply, MemberRequest, Restock, Standing,
};
use holdfast_register::{Held, Refusal, ShardStatus};
use holdfast_types::{DriveId, Entry, ErrorClass, HybridTime, RegisterKey, SetEpoch};

use super::MemoryDrive;

impl MemoryDrive {
    /// A blank drive of a new identity in this one's place: it joins.
    pub(in crate::testing) fn wiped(&mut self, fresh: DriveId, now: HybridTime) -> Self {
        let mut drive = Self::new(fresh, mem::take(&mut self.path), self.quorum.n(), SetEpoch(0));
        drive.standing = Standing::Joining;
        drive.counts = false;
        drive.memory_since = now;
        drive
    }

    /// Where it stands.
    #[must_use]
    pub const fn standing(&self) -> Standing {
        self.standing
    }

    /// The set epoch it has adopted.
    #[must_use]
    pub const fn set_epoch(&self) -> SetEpoch {
        self.set_epoch
    }

    /// The ballot at or below which it promises and accepts nothing.
    #[must_use]
    pub const fn floor(&self) -> holdfast_types::Ballot {
        self.floor
    }

    pub(super) fn check_joined(&self, request: &DriveRequest) -> Result<(), DriveError> {
        use DriveRequest::{Facts, Member};
        let may =
            matches!(request, Facts | Member(MemberRequest::Membership | MemberRequest::Begin(_)));
        if may || self.standing != Standing::Joining {
            return Ok(());
        }
        Err(DriveError::failed(self.id, ErrorClass::Unavailable, "joining"))
    }

    pub(super) fn member(&mut self, now: HybridTime, request: MemberRequest) -> DriveResult {
        match request {
            MemberRequest::Issue(issue) => {
                self.adopt(&issue)?;
                Ok(DriveReply::Member(MemberReply::Issued(self.issued())))
            }
            MemberRequest::Membership => Ok(DriveReply::Member(MemberReply::Membership {
                epoch: self.set_epoch,
                document: self.membership.clone(),
                standing: self.standing,
                unfilled: self.ranges().len() as u32,
            })),
            MemberRequest::Ranges => Ok(self.told_ranges()),
            MemberRequest::Fill(issue) => {
                self.adopt(&issue)?;
                self.open_holes(issue.epoch, now);
                Ok(DriveReply::Done)
            }
            MemberRequest::Filled(filled) => self.fill_holes(&filled),
            MemberRequest::Begin(begin) => {
                self.adopt(&begin.issue)?;
                if self.standing == Standing::Joining {
                    for stamp in begin.collected.buckets {
                        self.learn_bucket(stamp);
                    }
                    self.floor = self.floor.max(begin.collected.floor);
                    self.purge_floor = self.purge_floor.max(begin.collected.purge_floor);
                    self.standing = Standing::Rebuilding;
                }
                Ok(DriveReply::Done)
            }
            MemberRequest::Rebuilt(epoch) => {
                if epoch < self.set_epoch {
                    return Err(self.refused(Refusal::SetOutdated { current: self.set_epoch }));
                }
                self.standing = Standing::Counting;
                self.counts = true;
                Ok(DriveReply::Done)
            }
            MemberRequest::ListIndex(list) => {
                self.admit(now, list.scope, false)?;
                Ok(DriveReply::Member(MemberReply::Index(self.index(&list))))
            }
            MemberRequest::Restock(restock) => {
                self.admit(now, restock.scope, false)?;
                self.restock(&restock)
            }
        }
    }

    fn adopt(&mut self, issue: &Issue) -> Result<(), DriveError> {
        if issue.epoch < self.set_epoch {
            return Err(self.refused(Refusal::SetOutdated { current: self.set_epoch }));
        }
        self.set_epoch = issue.epoch;
        self.membership = issue.membership.clone();
        Ok(())
    }

    pub(super) fn issued(&self) -> Issued {
        let promised = |state: &holdfast_register::KeyState| state.promise.max(state.highest());
        let highest = self.keys.values().map(promised).max().unwrap_or_default();
        let buckets = self.buckets.values().copied().collect();
        Issued { floor: self.floor.max(highest), purge_floor: self.purge_floor, buckets }
    }

    fn index(&self, list: &ListIndex) -> IndexPage {
        let mut page = IndexPage { gaps: self.gaps_of_index(list), ..IndexPage::default() };
        for (key, state) in self.keys.iter().filter(|(key, _)| !self.is_hidden(key)) {
            for (version, register) in &state.registers {
                let place = Bytes::from(key.encode_register(*version));
                if place < list.start || list.end.as_ref().is_some_and(|end| place >= *end) {
                    continue;
                }
                if page.lines.len() == list.limit as usize {
                    page.next = Some(place);
                    return page;
                }
                let entries = register.entries.iter().map(|held| self.index_entry(held)).collect();
                page.lines.push(IndexLine { key: key.clone(), version: *version, entries });
            }
        }
        page
    }

    fn index_entry(&self, held: &Held) -> IndexEntry {
        let parts = held.entry.parts.iter().filter(|part| part.geometry.has_data());
        let missing = parts.filter(|part| !self.shards.contains_key(&part.operation)).count();
        IndexEntry {
            operation: held.entry.operation,
            ballot: held.entry.ballot,
            data_shards: held.entry.body_shards(),
            settled: held.settled,
            shard: held.shard,
            parts_missing: missing as u32,
        }
    }

    fn restock(&mut self, restock: &Restock) -> DriveResult {
        if self.is_whole(restock.operation) {
            return Ok(DriveReply::Accepted(ShardStatus::Present));
        }
        let part = part_entry(restock);
        let (status, stored) = self.shard_from(&part, restock.shard, &restock.source)?;
        if let Some(stored) = stored {
            self.shards.insert(restock.operation, stored);
            self.rotten.remove(&restock.operation);
        }
        Ok(DriveReply::Accepted(status))
    }

    /// Names of keys held in a keyspace, for tests that look.
    #[must_use]
    pub fn keys_held(&self) -> Vec<RegisterKey> {
        let held = self.keys.iter().filter(|(_, state)| !state.registers.is_empty());
        held.map(|(key, _)| key.clone()).collect()
    }
}

/// A part as an entry of its own, as far as its shard goes.
fn part_entry(restock: &Restock) -> Entry {
    Entry {
        ballot: holdfast_types::Ballot::ZERO,
        order: holdfast_types::Ballot::ZERO,
        operation: restock.operation,
        kind: holdfast_types::EntryKind::Put,
        geometry: restock.geometry,
        metadata: Bytes::new(),
        parts: Vec::new(),
    }
}
