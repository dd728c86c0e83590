//! What a coordinator concludes from the drives' answers about one key (PROTOCOL.md section 4).

use std::collections::BTreeMap;

use holdfast_types::{Ballot, Entry, EntryKind, OperationId, Quorum, VersionId};

use crate::state::{Held, HolderMask, KeyView};

/// What came back from one drive of the set, by shard index.
#[derive(Clone, PartialEq, Eq, Debug, Default, Hash)]
pub enum Answer {
    /// Nothing, or an error: unknown.
    #[default]
    None,
    /// What it holds.
    View(KeyView),
}

/// What the answers are to: whether they show the drives at one moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Basis {
    /// Reads and pages of scans: each answer shows its drive at a moment of its own, and the drive may have
    /// accepted anything since.
    Reads,
    /// One and the same Prepare: since a drive answered it has accepted nothing below its ballot, and all
    /// that was shown lies below it.
    Prepare,
}

/// Where a candidate stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Verdict {
    /// Chosen for all time.
    Settled,
    /// May have been chosen, may yet be.
    Open,
}

/// An operation that drives hold for a register.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub struct Candidate {
    /// The version it is of.
    pub version: VersionId,
    /// Its entry under the highest ballot seen.
    pub entry: Entry,
    /// Drives that hold it under any ballot, by shard index.
    pub holders: HolderMask,
    /// Drives whose shard is there, by shard index (all holders when it has no data).
    pub shards: HolderMask,
    /// Whether a drive flagged it settled.
    pub flagged: bool,
    /// Settled or open.
    pub verdict: Verdict,
}

impl Candidate {
    /// What no drive holds yet: an entry about to be written under a promise.
    #[must_use]
    pub fn new(version: VersionId, entry: Entry) -> Self {
        let none = HolderMask::default();
        let verdict = Verdict::Open;
        Self { version, entry, holders: none, shards: none, flagged: false, verdict }
    }

    /// Counts a drive that holds it.
    fn note(&mut self, index: u8, held: &Held) {
        self.holders = self.holders.with(index);
        if held.is_whole() {
            self.shards = self.shards.with(index);
        }
        self.flagged |= held.settled;
    }

    /// Whether success may rest on it: it is settled, and it was or is held by `A_v` drives. What was
    /// chosen by fewer may still be lost with one drive, and with it what it replaced.
    #[must_use]
    pub fn is_firm(&self, quorum: Quorum) -> bool {
        let need = quorum.acknowledged(self.entry.data_shards());
        self.verdict == Verdict::Settled && (self.flagged || self.shards.count() >= need)
    }
}

/// The conclusion for one register.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub enum Judgement {
    /// No candidate can have been chosen: the register is empty.
    Absent,
    /// The best candidate that is not out.
    Found(Candidate),
    /// Too few drives answered to conclude anything: fewer than R that count.
    Unknown {
        /// Counting answers there are.
        have: u8,
        /// Counting answers needed.
        need: u8,
    },
}

/// Judges one register.
///
/// By highest ballot: *settled* if flagged, or held under one ballot by `T_v` drives, `k_v` shards being
/// there; *out* if `j + u < T_v`, j counting holders under any ballot and u the drives that did not answer,
/// or do not count and do not hold it; else *open*.
///
/// One more candidate is out: when every drive answered one and the same Prepare, fewer than `k_v` of its
/// shards are left and `j + u < A_v`. It was never acknowledged and nobody can ever read it, so it must not
/// hide what is below it for ever (ADR 0003), whether its shards went with their drives or rotted away
/// (ADR 0021). Reads never show that.
#[must_use]
pub fn judge(basis: Basis, quorum: Quorum, answers: &[Answer], version: VersionId) -> Judgement {
    judge_without(basis, quorum, answers, version, &[])
}

/// As [`judge`], blind to the operations of `ignored`: ones known not to have been chosen.
#[must_use]
pub fn judge_without(
    basis: Basis,
    quorum: Quorum,
    answers: &[Answer],
    version: VersionId,
    ignored: &[OperationId],
) -> Judgement {
    assert_eq!(answers.len(), usize::from(quorum.n()), "one answer for each drive of the set");
    let counting = answers.iter().filter(|a| matches!(a, Answer::View(v) if v.counts)).count();
    let mut candidates = collect(answers, version);
    candidates.retain(|tally| !ignored.contains(&tally.candidate.entry.operation));
    candidates.sort_by_key(|c| std::cmp::Reverse(c.candidate.entry.ballot));
    if counting < usize::from(quorum.read()) {
        return Judgement::Unknown { have: counting as u8, need: quorum.read() };
    }
    for tally in candidates {
        let needed = quorum.chosen(tally.candidate.entry.data_shards());
        let unknown = unknown_for(answers, &tally.candidate);
        if tally.is_settled(needed) {
            return Judgement::Found(tally.into_candidate(Verdict::Settled));
        }
        let lost = is_lost(basis, quorum, answers, &tally.candidate, unknown);
        if tally.candidate.holders.count() + unknown >= needed && !lost {
            return Judgement::Found(tally.into_candidate(Verdict::Open));
        }
    }
    Judgement::Absent
}

/// Judges every register of a key that any drive holds and finds the latest: the live one of highest
/// order (PROTOCOL.md section 2). An open register of higher order comes first, for it must be
/// resolved before anything below it may be answered. Of a key with versions only those answers are heard
/// that show one state of it (see `one_view`); when they are too few the head is called open, too: a
/// Prepare makes them.
#[must_use]
pub fn judge_latest(basis: Basis, quorum: Quorum, answers: &[Answer]) -> Judgement {
    judge_latest_without(basis, quorum, answers, &[])
}

/// As [`judge_latest`], blind to the operations of `ignored`.
#[must_use]
pub fn judge_latest_without(
    basis: Basis,
    quorum: Quorum,
    answers: &[Answer],
    ignored: &[OperationId],
) -> Judgement {
    let versions = versions_held(answers);
    if versions.is_empty() {
        return judge_without(basis, quorum, answers, VersionId::NULL, ignored);
    }
    let heads = match heads(basis, quorum, answers, &versions, ignored) {
        Ok(heads) => heads,
        Err(unknown) => return unknown,
    };
    // A version that stands alone in these answers may have others beside it that they came too early for;
    // what has no versions has one register.
    let several = versions.iter().any(|version| *version != VersionId::NULL);
    let newest = heads.iter().max_by_key(|head| head.entry.ballot);
    let Some(newest) = newest.filter(|_| several).cloned() else { return latest_of(heads) };
    let view = one_view(answers, newest.entry.ballot);
    if view == answers {
        return latest_of(heads);
    }
    match self::heads(basis, quorum, &view, &versions, ignored) {
        Ok(heads) => latest_of(heads),
        Err(_) => {
            let head = match latest_of(heads) {
                Judgement::Found(head) => head,
                Judgement::Absent | Judgement::Unknown { .. } => newest,
            };
            Judgement::Found(Candidate { verdict: Verdict::Open, ..head })
        }
    }
}

/// [`judge_latest`] where it is plain to see: all drives that answered, by shard index, that show anything
/// show the same one entry of a key without versions, under one ballot, and it is settled. `None` where more
/// has to be looked at. Nearly every key of a list is such, and this costs a tenth.
#[must_use]
pub fn judge_plain(quorum: Quorum, views: &[(u8, KeyView)]) -> Option<Judgement> {
    let mut found: Option<Candidate> = None;
    for (index, view) in views {
        let Some((version, register)) = view.registers.first_key_value() else { continue };
        let [held] = &register.entries[..] else { return None };
        if *version != VersionId::NULL || view.registers.len() > 1 {
            return None;
        }
        let candidate = found.get_or_insert_with(|| Candidate::new(*version, held.entry.clone()));
        let same = candidate.entry.operation == held.entry.operation
            && candidate.entry.ballot == held.entry.ballot;
        if !same {
            return None;
        }
        candidate.note(*index, held);
    }
    let counting = views.iter().filter(|(_, view)| view.counts).count();
    let found = found.filter(|_| counting >= usize::from(quorum.read()))?;
    let (data, by_one_ballot) = (found.entry.data_shards(), found.holders.count());
    let is_readable = found.shards.count() >= data;
    if !(found.flagged || (is_readable && by_one_ballot >= quorum.chosen(data))) {
        return None;
    }
    let is_gone = found.entry.kind == EntryKind::Tombstone;
    let settled = Candidate { verdict: Verdict::Settled, ..found };
    Some(if is_gone { Judgement::Absent } else { Judgement::Found(settled) })
}

/// What heads each register; too few counting answers for that are an error.
fn heads(
    basis: Basis,
    quorum: Quorum,
    answers: &[Answer],
    versions: &[VersionId],
    ignored: &[OperationId],
) -> Result<Vec<Candidate>, Judgement> {
    let judged = versions.iter().map(|v| judge_without(basis, quorum, answers, *v, ignored));
    let found = judged.filter_map(|judgement| match judgement {
        Judgement::Found(candidate) => Some(Ok(candidate)),
        Judgement::Absent => None,
        Judgement::Unknown { .. } => Some(Err(judgement)),
    });
    found.collect()
}

/// The one of highest order that is not settled as gone.
fn latest_of(heads: Vec<Candidate>) -> Judgement {
    let gone = |head: &Candidate| {
        head.verdict == Verdict::Settled && head.entry.kind == EntryKind::Tombstone
    };
    let live = heads.into_iter().filter(|head| !gone(head));
    live.max_by_key(|head| head.entry.order).map_or(Judgement::Absent, Judgement::Found)
}

/// Of answers that came at different times those that show one state of the key: they know of `ballot` or
/// bar everything below it. The others say nothing: one drive may show a version that was adopted late, and
/// another have answered before it accepted one that outranks it.
fn one_view(answers: &[Answer], ballot: Ballot) -> Vec<Answer> {
    let knows =
        |answer: &Answer| matches!(answer, Answer::View(v) if v.highest.max(v.promise) >= ballot);
    let of = |answer: &Answer| if knows(answer) { answer.clone() } else { Answer::None };
    answers.iter().map(of).collect()
}

/// A candidate with its holders under each ballot.
struct Tally {
    candidate: Candidate,
    by_ballot: BTreeMap<Ballot, u8>,
}

impl Tally {
    fn is_settled(&self, needed: u8) -> bool {
        let Candidate { entry, shards, flagged, .. } = &self.candidate;
        let readable = shards.count() >= entry.data_shards();
        *flagged || (readable && self.by_ballot.values().any(|count| *count >= needed))
    }

    fn into_candidate(self, verdict: Verdict) -> Candidate {
        Candidate { verdict, ..self.candidate }
    }
}

/// Gathers the candidates of a register over all answers.
fn collect(answers: &[Answer], version: VersionId) -> Vec<Tally> {
    let mut tallies: BTreeMap<OperationId, Tally> = BTreeMap::new();
    for (index, answer) in answers.iter().enumerate() {
        let Answer::View(view) = answer else { continue };
        let Some(register) = view.registers.get(&version) else { continue };
        for held in &register.entries {
            let tally = tallies.entry(held.entry.operation).or_insert_with(|| Tally {
                candidate: Candidate::new(version, held.entry.clone()),
                by_ballot: BTreeMap::new(),
            });
            let candidate = &mut tally.candidate;
            if held.entry.ballot > candidate.entry.ballot {
                candidate.entry = held.entry.clone();
            }
            candidate.note(index as u8, held);
            *tally.by_ballot.entry(held.entry.ballot).or_default() += 1;
        }
    }
    tallies.into_values().collect()
}

/// Drives that may hold the candidate without our knowing: silent ones, and uncounted ones that do
/// not show it.
fn unknown_for(answers: &[Answer], candidate: &Candidate) -> u8 {
    let unknown = answers.iter().enumerate().filter(|(index, answer)| match answer {
        Answer::None => true,
        Answer::View(view) => !view.counts && !candidate.holders.has(*index as u8),
    });
    unknown.count() as u8
}

/// Whether a candidate can neither have been acknowledged nor ever be read again (INV-REG-6). Answers to Reads come at
/// different times: a drive that did not hold it then may be the one that made it acknowledged before another
/// lost its shard, even if it shows a ballot above it, for that may be of an adoption which it saw later than
/// others (ADR 0021). After one Prepare what any drive did not hold it can never hold below the ballot.
fn is_lost(
    basis: Basis,
    quorum: Quorum,
    answers: &[Answer],
    candidate: &Candidate,
    unknown: u8,
) -> bool {
    let data = candidate.entry.data_shards();
    basis == Basis::Prepare
        && answers.iter().all(|answer| matches!(answer, Answer::View(_)))
        && candidate.shards.count() < data
        && candidate.holders.count() + unknown < quorum.acknowledged(data)
}

/// Whether another register of the key has a version of higher order than `order`, or a tombstone:
/// what it removed may have been the latest above that order, and read as such (ADR 0006).
#[must_use]
pub fn outranked(
    basis: Basis,
    quorum: Quorum,
    answers: &[Answer],
    version: VersionId,
    order: Ballot,
) -> bool {
    let mut others = versions_held(answers);
    others.retain(|other| *other != version);
    others.into_iter().any(|other| match judge(basis, quorum, answers, other) {
        Judgement::Found(candidate) => candidate.entry.order > order,
        Judgement::Absent | Judgement::Unknown { .. } => false,
    })
}

/// The highest ballot of what other registers of the key may hold, tombstones included: whatever was
/// decided under a lower ballot may not hold any more.
#[must_use]
pub fn newest_elsewhere(
    basis: Basis,
    quorum: Quorum,
    answers: &[Answer],
    version: VersionId,
) -> Ballot {
    let others = versions_held(answers).into_iter().filter(|other| *other != version);
    let found = others.filter_map(|other| match judge(basis, quorum, answers, other) {
        Judgement::Found(candidate) => Some(candidate.entry.ballot),
        Judgement::Absent | Judgement::Unknown { .. } => None,
    });
    found.max().unwrap_or(Ballot::ZERO)
}

/// The registers of the key that any drive holds, each once.
#[must_use]
pub fn versions_held(answers: &[Answer]) -> Vec<VersionId> {
    let views = answers.iter().filter_map(|a| if let Answer::View(v) = a { Some(v) } else { None });
    let mut versions: Vec<VersionId> = views.flat_map(|v| v.registers.keys().copied()).collect();
    versions.sort_unstable();
    versions.dedup();
    versions
}
