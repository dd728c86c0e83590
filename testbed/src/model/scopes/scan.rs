//! Scans, and what all drives say of a key.

use holdfast_register::{
    Answer, Basis, Candidate, HolderMask, Judgement, KeyView, Refusal, Reply, Round, Verdict,
    judge_latest,
};
use holdfast_types::BucketStamp;

use super::{
    super::drive::Request,
    coordinator::Coordinator,
    drive::{Answered, Ask, Guard, Key},
    ops::{At, Fail, is_put},
    sim::Inbox,
};

/// All drives are heard.
pub const EVERYONE: HolderMask = HolderMask(u16::MAX);

/// What a scan does with open entries.
pub enum OpenOnes {
    /// They are resolved; adopted only while a guard is met. Only these drives are heard.
    Resolve(Option<Guard>, HolderMask),
    /// They are shown as they are.
    Leave,
}

impl Coordinator {
    /// Asks drives; those that do not answer are left out, a newer stamp ends it.
    pub async fn ask(
        &self,
        stamp: BucketStamp,
        drives: Vec<u8>,
        ask: &Ask,
    ) -> Result<Vec<(u8, Answered)>, Fail> {
        let exchange = self.exchange();
        let mut left = drives.len();
        for drive in drives {
            self.call((exchange, Round(0), drive), stamp, ask.clone());
        }
        let mut answers = Vec::new();
        while left > 0 {
            let Inbox::Answer((of, _, drive), answered) = self.next(false).await else { continue };
            if of != exchange {
                continue;
            }
            left -= 1;
            match answered {
                Answered::Reply(Reply::Refused(
                    Refusal::BucketOutdated { .. } | Refusal::BucketNotLive { .. },
                )) => return Err(Fail::Changed),
                Answered::Reply(Reply::Silent | Reply::Refused(_)) => {}
                answered => answers.push((drive, answered)),
            }
        }
        Ok(answers)
    }

    /// The keys of a range that are not gone, each judged, and what is open resolved or left so.
    pub async fn scan(
        &self,
        stamp: BucketStamp,
        first: Key,
        last: Key,
        open: &OpenOnes,
    ) -> Result<Vec<(Key, Candidate)>, Fail> {
        let quorum = self.shared.borrow().quorum;
        let n = quorum.n();
        let by = self.shared.borrow_mut().rng.below(n.into()) as u8;
        let heard = match open {
            OpenOnes::Resolve(_, heard) => *heard,
            OpenOnes::Leave => HolderMask::full(n),
        };
        let order = (0..n).map(|at| (at + by) % n).filter(|drive| heard.has(*drive));
        let order: Vec<u8> = order.collect();
        let (near, far) = order.split_at(order.len().min(quorum.read().into()));
        let mut pages: Vec<(u8, Vec<(Key, KeyView)>)> = Vec::new();
        for batch in [near, far] {
            let ask = Ask::Scan { first, last };
            for (drive, answered) in self.ask(stamp, batch.to_vec(), &ask).await? {
                if let Answered::Page(page) = answered {
                    pages.push((drive, page));
                }
            }
            if pages.len() >= usize::from(quorum.read()) {
                break;
            }
        }
        let mut keys: Vec<Key> =
            pages.iter().flat_map(|(_, p)| p.iter().map(|(k, _)| *k)).collect();
        keys.sort_unstable();
        keys.dedup();
        let mut found = Vec::new();
        for key in keys {
            let mut answers = vec![Answer::None; usize::from(n)];
            for (drive, page) in &pages {
                let view = page.iter().find(|(of, _)| *of == key).map(|(_, view)| view.clone());
                let nothing = || KeyView { counts: true, ..KeyView::default() };
                answers[usize::from(*drive)] = Answer::View(view.unwrap_or_else(nothing));
            }
            let shown = match judge_latest(Basis::Reads, quorum, &answers) {
                Judgement::Unknown { .. } => return Err(Fail::Unavailable),
                Judgement::Absent => None,
                Judgement::Found(candidate) => match open {
                    OpenOnes::Resolve(guard, heard) if candidate.verdict == Verdict::Open => {
                        let at = At { stamp, key, until: None };
                        self.read_under(at, guard.clone(), *heard).await?
                    }
                    _ => Some(candidate),
                },
            };
            let gone = |c: &Candidate| c.verdict == Verdict::Settled && !is_put(c);
            found.extend(shown.filter(|c| !gone(c)).map(|candidate| (key, candidate)));
        }
        if pages.len() < usize::from(quorum.read()) {
            return Err(Fail::Unavailable);
        }
        Ok(found)
    }

    /// What all drives together say of a key, nothing resolved.
    pub async fn judged_by_all(&self, stamp: BucketStamp, key: Key) -> Result<Judgement, Fail> {
        let quorum = self.shared.borrow().quorum;
        let ask = Ask::Of { key, request: Request::Read, guard: None };
        let mut answers = vec![Answer::None; usize::from(quorum.n())];
        for (drive, answered) in self.ask(stamp, (0..quorum.n()).collect(), &ask).await? {
            if let Answered::Reply(Reply::View(view)) = answered {
                answers[usize::from(drive)] = Answer::View(view);
            }
        }
        Ok(judge_latest(Basis::Reads, quorum, &answers))
    }
}
