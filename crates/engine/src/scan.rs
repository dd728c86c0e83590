//! Scanning a keyspace of one set: the ordered entries of R drives that count, merged and judged key
//! by key (PROTOCOL.md section 8).

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use holdfast_drive::api::{DriveReply, DriveRequest, Gap, Scan, ScanPage};
use holdfast_register::{Answer, Basis, Candidate, Judgement, KeyView, Verdict, judge_latest};
use holdfast_types::{BucketPhase, BucketStamp, EntryKind, Keyspace, RegisterKey};

use crate::{
    compare::HIDDEN,
    draft::ScanResult,
    error::StoreError,
    read::{Question, check_scope},
    set::{Frozen, SetHandle, SetShared, Slot, describe, name_after},
};

/// What a scan does about entries that are open by the word of the drives that showed them.
#[derive(Clone, Debug)]
pub(crate) enum OpenOnes {
    /// They are resolved.
    Resolve,
    /// They are resolved by the completion that has frozen them, and only drives that are frozen are
    /// heard.
    Frozen(Frozen),
    /// They are returned as they are, open tombstones included.
    Leave,
}

/// What is scanned.
#[derive(Clone, Debug)]
struct Range {
    scope: BucketStamp,
    space: Keyspace,
    start: Bytes,
    end: Option<Bytes>,
    limit: usize,
    open: OpenOnes,
}

/// A drive whose page came: what it says of names that its page covers and does not show.
struct Asked {
    slot: usize,
    counts: bool,
    gaps: Vec<Gap>,
}

/// Pages of several drives, merged: by name, the view of each slot that showed the key.
struct Merged {
    keys: BTreeMap<Bytes, BTreeMap<usize, KeyView>>,
    /// Nothing beyond this name is known of every drive; `None` when the range is exhausted.
    next: Option<Bytes>,
}

impl SetHandle {
    /// One page of a keyspace of this set, in key order: names from `start` up to, not including,
    /// `end`. Every key is judged, and resolved when it is open, but under a bucket in phase
    /// `Deleting`, where open entries are returned as they are. Keys that are gone are left out; part
    /// lists are left out of entries.
    ///
    /// # Errors
    /// [`StoreError::BelowQuorum`] when fewer than R drives that count answer.
    #[tracing::instrument(name = "set.scan", target = "holdfast_trace", skip_all, fields(set = %self.index(), ?space))]
    pub async fn scan(
        &self,
        scope: BucketStamp,
        space: Keyspace,
        start: Bytes,
        end: Option<Bytes>,
        limit: usize,
    ) -> Result<ScanResult, StoreError> {
        let deleting = scope.phase == BucketPhase::Deleting;
        let open = if deleting { OpenOnes::Leave } else { OpenOnes::Resolve };
        self.scan_with(scope, space, (start, end), limit, open).await
    }

    /// As [`Self::scan`] over the names from the first of `names` up to the second, with a say in what
    /// is done about open entries.
    pub(crate) async fn scan_with(
        &self,
        scope: BucketStamp,
        space: Keyspace,
        names: (Bytes, Option<Bytes>),
        limit: usize,
        open: OpenOnes,
    ) -> Result<ScanResult, StoreError> {
        let (start, end) = names;
        let range = Range { scope, space, start, end, limit: limit.max(1), open };
        let pages = self.shared.pages(&range).await?;
        let asked = |(slot, page): &(usize, ScanPage)| Asked {
            slot: *slot,
            counts: page.counts,
            gaps: page.gaps.clone(),
        };
        let asked: Vec<Asked> = pages.iter().map(asked).collect();
        let merged = merge(pages);
        let mut entries = Vec::with_capacity(merged.keys.len());
        for (name, views) in merged.keys {
            let key = RegisterKey { space, bucket: scope.id, name };
            if let Some(candidate) = self.shared.judge_scanned(&range, &key, views, &asked).await? {
                entries.push((key, candidate));
            }
        }
        Ok(ScanResult { entries, next: merged.next })
    }
}

impl SetShared {
    /// Pages of at least R drives that count, for every name.
    async fn pages(self: &Arc<Self>, range: &Range) -> Result<Vec<(usize, ScanPage)>, StoreError> {
        let mut order = self.slots_nearest();
        if let OpenOnes::Frozen(frozen) = &range.open {
            order.retain(|slot| frozen.slots.has(*slot as u8));
        }
        let need = usize::from(self.quorum.read());
        let (first, rest) = order.split_at(order.len().min(need));
        let mut pages = Vec::new();
        let mut failures = Vec::new();
        for batch in [first, rest] {
            let requests = batch.iter().map(|slot| (*slot, range.request(self))).collect();
            for (slot, result) in self.ask_slots(requests).await {
                match result {
                    Ok(DriveReply::Page(page)) => pages.push((slot, page)),
                    Ok(_) => failures.push((slot, "unexpected reply".to_owned())),
                    Err(error) => {
                        check_scope(&error)?;
                        failures.push((slot, describe(&error)));
                    }
                }
            }
            if fewest(&pages) >= need {
                return Ok(pages);
            }
        }
        let hidden = pages.iter().filter(|(_, page)| !page.gaps.is_empty());
        failures.extend(hidden.map(|(slot, _)| (*slot, HIDDEN.to_owned())));
        Err(self.below_quorum(self.quorum.read(), fewest(&pages) as u8, &failures))
    }

    /// Slots by nearness: local ones first, then node by node, those that are slow or down last.
    fn slots_nearest(&self) -> Vec<usize> {
        let mut slots: Vec<usize> = (0..usize::from(self.n())).collect();
        let members = self.members.now();
        let rank = |slot: usize| {
            let Slot { node, rebuilding, .. } = members.slots[slot];
            let health = (self.health.is_down(slot), rebuilding, self.health.is_suspect(slot));
            (health, Some(node) != self.local, node)
        };
        slots.sort_by_key(|slot| rank(*slot));
        slots
    }

    /// The key's latest version by what the pages showed, or by asking anew when that is not enough.
    async fn judge_scanned(
        self: &Arc<Self>,
        range: &Range,
        key: &RegisterKey,
        mut views: BTreeMap<usize, KeyView>,
        asked: &[Asked],
    ) -> Result<Option<Candidate>, StoreError> {
        let malformed = |e| StoreError::Internal { message: format!("scan: {e}") };
        key.placing_name().map_err(malformed)?;
        let route = self.route(key)?;
        let mut answers = vec![Answer::None; usize::from(self.n())];
        for Asked { slot, counts, gaps } in asked {
            // A drive whose page covers the name and does not show it holds nothing; in a gap it is silent.
            let is_silent = gaps.iter().any(|gap| gap.holds(&key.name));
            let nothing =
                || (!is_silent).then(|| KeyView { counts: *counts, ..KeyView::default() });
            if let Some(view) = views.remove(slot).or_else(nothing) {
                answers[usize::from(route.shard_of(*slot))] = Answer::View(view);
            }
        }
        let shown = match judge_latest(Basis::Reads, self.quorum, &answers) {
            Judgement::Found(candidate) if candidate.verdict == Verdict::Open => {
                let route = match &range.open {
                    OpenOnes::Leave => return Ok(Some(candidate)),
                    OpenOnes::Resolve => route,
                    OpenOnes::Frozen(frozen) => route.of_completion(frozen),
                };
                let scope = range.scope;
                let question = Question { scope, route, version: None, inline: false };
                self.look(&question).await?.map(|found| found.candidate)
            }
            Judgement::Found(candidate) => Some(candidate),
            Judgement::Absent => None,
            Judgement::Unknown { have, need } => return Err(self.below_quorum(need, have, &[])),
        };
        let gone =
            |c: &Candidate| c.verdict == Verdict::Settled && c.entry.kind == EntryKind::Tombstone;
        Ok(shown.filter(|candidate| !gone(candidate)))
    }
}

impl Range {
    fn request(&self, set: &SetShared) -> DriveRequest {
        DriveRequest::Scan(Scan {
            scope: set.scope(self.scope),
            space: self.space,
            start: self.start.clone(),
            end: self.end.clone(),
            limit: self.limit as u32,
            metadata: true,
        })
    }
}

/// The fewest drives that count and show what they hold, over all names: where a gap begins, and nowhere
/// else, their number falls.
fn fewest(pages: &[(usize, ScanPage)]) -> usize {
    let counting = || pages.iter().map(|(_, page)| page).filter(|page| page.counts);
    let gaps = || pages.iter().flat_map(|(_, page)| &page.gaps);
    let shows = |page: &&ScanPage, name: &Bytes| !page.gaps.iter().any(|gap| gap.holds(name));
    let at = |name: &Bytes| counting().filter(|page| shows(page, name)).count();
    gaps().map(|gap| at(&gap.first)).chain([counting().count()]).min().unwrap_or(0)
}

/// Merges pages. A page that has more covers names up to its last one: nothing beyond the smallest
/// such end is known of every drive, so nothing beyond it is returned.
fn merge(pages: Vec<(usize, ScanPage)>) -> Merged {
    let ends = pages.iter().filter(|(_, page)| page.more);
    // A page that says "more" and shows nothing would cover nothing; drives never send it.
    let end = ends.filter_map(|(_, page)| page.keys.last().map(|key| key.name.clone())).min();
    let mut keys: BTreeMap<Bytes, BTreeMap<usize, KeyView>> = BTreeMap::new();
    for (slot, page) in pages {
        for scanned in page.keys {
            if end.as_ref().is_none_or(|end| scanned.name <= *end) {
                keys.entry(scanned.name).or_default().insert(slot, scanned.view);
            }
        }
    }
    Merged { keys, next: end.map(|end| name_after(&end)) }
}
