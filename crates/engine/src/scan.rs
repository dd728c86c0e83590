//! Scanning a keyspace of one set: the ordered entries of R drives that count, merged and judged key
//! by key (PROTOCOL.md section 8).

use std::{sync::Arc, vec};

use bytes::Bytes;
use holdfast_drive::api::{DriveReply, DriveRequest, Gap, Scan, ScanPage, ScannedKey};
use holdfast_register::{
    Answer, Basis, Candidate, Judgement, KeyView, Verdict, judge_latest, judge_plain,
};
use holdfast_types::{BucketPhase, BucketStamp, EntryKind, Keyspace, RegisterKey, limits};

use crate::{
    compare::HIDDEN,
    draft::ScanResult,
    error::StoreError,
    read::{Question, check_scope},
    set::{Frozen, SetHandle, SetShared, Slot, describe, name_after, shard_in},
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

/// Pages of several drives being merged, each in the order of its names.
struct Pages {
    rest: Vec<vec::IntoIter<ScannedKey>>,
    /// Nothing beyond this name is known of every drive; `None` when the range is exhausted.
    end: Option<Bytes>,
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
        let mut pages = Pages::of(pages);
        let mut entries = Vec::with_capacity(limit.min(limits::PAGE_KEYS_MAX));
        let mut shown = Vec::with_capacity(asked.len());
        while let Some(name) = pages.next_name(&mut shown) {
            let key = RegisterKey { space, bucket: scope.id, name };
            let order = self.shared.order(&key)?;
            let views = views(&key, &order, &asked, &mut shown);
            let judged = match judge_plain(self.shared.quorum, &views) {
                Some(Judgement::Found(candidate)) => Some(candidate),
                Some(_) => None,
                None => self.shared.judge_scanned(&range, &key, views).await?,
            };
            entries.extend(judged.map(|candidate| (key, candidate)));
        }
        Ok(ScanResult { entries, next: pages.end.map(|end| name_after(&end)) })
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
                    Ok(DriveReply::Page(page)) if is_in_order(&page) => pages.push((slot, page)),
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
        views: Vec<(u8, KeyView)>,
    ) -> Result<Option<Candidate>, StoreError> {
        let route = self.route(key)?;
        let mut answers = vec![Answer::None; usize::from(self.n())];
        for (shard, view) in views {
            answers[usize::from(shard)] = Answer::View(view);
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

/// Whether names rise, as drives send them: merging rests on it.
fn is_in_order(page: &ScanPage) -> bool {
    page.keys.is_sorted_by(|one, next| one.name < next.name)
}

/// What was said of a key, by shard index. `shown` is what each page shows of it.
fn views(
    key: &RegisterKey,
    order: &[usize],
    asked: &[Asked],
    shown: &mut Vec<Option<KeyView>>,
) -> Vec<(u8, KeyView)> {
    let said = asked.iter().zip(shown.drain(..)).filter_map(|(asked, view)| {
        let Asked { slot, counts, gaps } = asked;
        // A drive whose page covers the name and does not show it holds nothing; in a gap it is silent.
        let is_silent = || gaps.iter().any(|gap| gap.holds(&key.name));
        let nothing = || (!is_silent()).then(|| KeyView { counts: *counts, ..KeyView::default() });
        Some((shard_in(order, *slot), view.or_else(nothing)?))
    });
    said.collect()
}

impl Pages {
    /// A page that has more covers names up to its last one: nothing beyond the smallest such end is
    /// known of every drive, so nothing beyond it is returned.
    fn of(pages: Vec<(usize, ScanPage)>) -> Self {
        let ends = pages.iter().filter(|(_, page)| page.more);
        // A page that says "more" and shows nothing would cover nothing; drives never send it.
        let end = ends.filter_map(|(_, page)| page.keys.last().map(|key| key.name.clone())).min();
        Self { rest: pages.into_iter().map(|(_, page)| page.keys.into_iter()).collect(), end }
    }

    /// The next name, and in `shown` what each page shows of it, in the order of the pages.
    fn next_name(&mut self, shown: &mut Vec<Option<KeyView>>) -> Option<Bytes> {
        let heads = self.rest.iter().filter_map(|page| page.as_slice().first());
        let name = heads.map(|key| &key.name).min()?.clone();
        if self.end.as_ref().is_some_and(|end| name > *end) {
            return None;
        }
        let of_page = |page: &mut vec::IntoIter<ScannedKey>| {
            let shows = page.as_slice().first().is_some_and(|key| key.name == name);
            if shows { page.next().map(|key| key.view) } else { None }
        };
        shown.clear();
        shown.extend(self.rest.iter_mut().map(of_page));
        Some(name)
    }
}
