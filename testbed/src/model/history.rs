//! What clients asked and were told, and whether one order of events explains it (Wing and Gong's
//! search with memory).
//!
//! The specification of a key is the stack of its versions, latest on top. In an unversioned bucket
//! the stack has at most one. An operation whose effect is unknown takes effect at any later time or
//! never, and its version at any depth: an adoption keeps the order of a write that was given up. In a
//! versioned bucket it may do so after its condition has ceased to hold (ADR 0004).

use std::collections::HashSet;

/// An operation of the history, and the version or value it writes: its place in the history.
pub type Id = usize;

/// What a client asked.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Ask {
    /// Write a value (a version of its own in a versioned bucket).
    Put,
    /// Remove the key (unversioned).
    Delete,
    /// Remove one version.
    DeleteVersion(Id),
    /// Write if there is nothing.
    Create,
    /// Write if this is current.
    Replace(Id),
    /// The latest.
    Get,
    /// One version.
    GetVersion(Id),
}

/// What it was told.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Told {
    /// Nothing yet, or that the effect is unknown.
    Open,
    /// An error that says that nothing was done.
    Void,
    /// Done.
    Done,
    /// The condition failed on this.
    Kept(Option<Id>),
    /// Read this.
    Value(Option<Id>),
}

/// One operation.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Op {
    /// What was asked.
    pub ask: Ask,
    /// When.
    pub from: u32,
    /// What was told.
    pub told: Told,
    /// When; nothing yet at `u32::MAX`.
    pub to: u32,
}

/// All operations on one key.
#[derive(Clone, Debug, Default, Hash)]
pub struct History {
    /// In order of invocation.
    pub ops: Vec<Op>,
    clock: u32,
}

impl History {
    /// A client asks.
    pub fn ask(&mut self, ask: Ask) -> Id {
        self.clock += 1;
        self.ops.push(Op { ask, from: self.clock, told: Told::Open, to: u32::MAX });
        self.ops.len() - 1
    }

    /// A client is told.
    pub fn tell(&mut self, id: Id, told: Told) {
        self.clock += 1;
        self.ops[id].told = told;
        if told != Told::Open {
            self.ops[id].to = self.clock;
        }
    }

    /// Whether a client was told of a version: that it was written, or by reading it.
    pub fn is_known(&self, version: Id) -> bool {
        let seen = |told| matches!(told, Told::Value(Some(seen)) | Told::Kept(Some(seen)) if seen == version);
        self.ops[version].told == Told::Done || self.ops.iter().any(|op| seen(op.told))
    }

    /// All that its judgement rests on: what was asked and told, and which operations had returned before
    /// which others began, whatever the order of returns among each other.
    pub fn outline(&self) -> Vec<(Ask, Told, u64)> {
        let before = |from: u32| {
            let returned = self.ops.iter().enumerate().filter(|(_, op)| op.to <= from);
            returned.fold(0, |mask, (id, _)| mask | 1 << id)
        };
        self.ops.iter().map(|op| (op.ask, op.told, before(op.from))).collect()
    }

    /// Whether some order of the operations that keeps real time explains everything told.
    pub fn is_linearizable(&self, versioned: bool) -> bool {
        let needed = |op: &Op| !matches!(op.told, Told::Open | Told::Void);
        let mask = |keep: &dyn Fn(&Op) -> bool| {
            let bits = self.ops.iter().enumerate().filter(|(_, op)| keep(op)).map(|(i, _)| 1 << i);
            bits.fold(0_u64, |all, bit| all | bit)
        };
        let goal = mask(&needed);
        let usable = mask(&|op| {
            let reads = matches!(op.ask, Ask::Get | Ask::GetVersion(_));
            op.told != Told::Void && !(reads && op.told == Told::Open)
        });
        let mut seen = HashSet::new();
        let mut work = vec![(0_u64, Vec::<Id>::new())];
        while let Some((done, stack)) = work.pop() {
            if done & goal == goal {
                return true;
            }
            if !seen.insert((done, stack.clone())) {
                continue;
            }
            let left = self.ops.iter().enumerate().filter(|(i, _)| goal & !done & (1 << i) != 0);
            let deadline = left.map(|(_, op)| op.to).min().unwrap_or(u32::MAX);
            for (id, op) in self.ops.iter().enumerate() {
                if usable & !done & (1 << id) != 0 && op.from < deadline {
                    for next in apply(id, *op, &stack, versioned) {
                        work.push((done | (1 << id), next));
                    }
                }
            }
        }
        false
    }
}

/// The stacks that an operation may leave, none when it cannot happen now.
fn apply(id: Id, op: Op, stack: &[Id], versioned: bool) -> Vec<Vec<Id>> {
    let top = stack.last().copied();
    let open = op.told == Told::Open;
    match (op.ask, op.told) {
        (Ask::Get, Told::Value(value)) => same(value == top, stack),
        (Ask::GetVersion(version), Told::Value(value)) => {
            let there = stack.contains(&version);
            same(value == there.then_some(version), stack)
        }
        (_, Told::Kept(current)) => {
            let fails = match op.ask {
                Ask::Create => top.is_some(),
                Ask::Replace(wanted) => top != Some(wanted),
                _ => false,
            };
            same(current == top && fails, stack)
        }
        (Ask::Put, _) => written(id, stack, versioned, open),
        (Ask::Create | Ask::Replace(_), Told::Open) if versioned => written(id, stack, true, true),
        (Ask::Create, _) if top.is_none() => written(id, stack, versioned, open),
        (Ask::Replace(wanted), _) if top == Some(wanted) => written(id, stack, versioned, open),
        (Ask::Delete, _) => vec![Vec::new()],
        (Ask::DeleteVersion(gone), _) => {
            vec![stack.iter().copied().filter(|version| *version != gone).collect()]
        }
        _ => Vec::new(),
    }
}

fn same(holds: bool, stack: &[Id]) -> Vec<Vec<Id>> {
    if holds { vec![stack.to_vec()] } else { Vec::new() }
}

fn written(id: Id, stack: &[Id], versioned: bool, open: bool) -> Vec<Vec<Id>> {
    if !versioned {
        return vec![vec![id]];
    }
    let lowest = if open { 0 } else { stack.len() };
    let at = |depth: usize| {
        let mut next = stack.to_vec();
        next.insert(depth, id);
        next
    };
    (lowest..=stack.len()).map(at).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the checker accepts what is linearizable and refuses what is not. Method: small histories
    /// written by hand, the second of each pair one fact away from the first.
    #[test]
    fn stale_reads_and_lost_writes_are_refused() {
        for (last, fine) in [(Some(1), true), (Some(0), false), (None, false)] {
            let mut history = History::default();
            for _ in 0..2 {
                let put = history.ask(Ask::Put);
                history.tell(put, Told::Done);
            }
            let get = history.ask(Ask::Get);
            history.tell(get, Told::Value(last));
            assert_eq!(history.is_linearizable(false), fine, "{last:?}");
        }
    }

    /// Goal: an operation of unknown effect may show or not, but not show and vanish. Method: two
    /// reads after it, in all four combinations.
    #[test]
    fn unknown_writes_happen_once_or_never() {
        for (first, second, fine) in
            [(false, false, true), (false, true, true), (true, true, true), (true, false, false)]
        {
            let mut history = History::default();
            let put = history.ask(Ask::Put);
            history.tell(put, Told::Open);
            for seen in [first, second] {
                let get = history.ask(Ask::Get);
                history.tell(get, Told::Value(seen.then_some(put)));
            }
            assert_eq!(history.is_linearizable(false), fine, "{first} {second}");
        }
    }

    /// Goal: versions stack, and only writes of unknown effect slip below others. Method: two puts, the
    /// first unknown or acknowledged, then a read of the first as if it lay below the second.
    #[test]
    fn only_unknown_versions_slip_below() {
        for (told, fine) in [(Told::Open, true), (Told::Void, false)] {
            let mut history = History::default();
            let below = history.ask(Ask::Put);
            history.tell(below, told);
            let above = history.ask(Ask::Put);
            history.tell(above, Told::Done);
            let get = history.ask(Ask::GetVersion(below));
            history.tell(get, Told::Value(Some(below)));
            let latest = history.ask(Ask::Get);
            history.tell(latest, Told::Value(Some(above)));
            assert_eq!(history.is_linearizable(true), fine, "{told:?}");
        }
    }
}
