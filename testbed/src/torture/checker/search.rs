//! The search for an order (Wing and Gong's, with Lowe's memory of where it has been).
//!
//! An operation takes effect at one moment between its call and its return. One whose outcome is unknown
//! (a timeout, a 503) stays open: it may take effect at any later moment, or never. An order explains
//! a history when every returned operation got the answer that the copy would have given.

use std::{collections::HashSet, hash::Hash};

/// What is checked: one copy of something.
pub trait Spec {
    /// The copy.
    type State: Clone + Eq + Hash;
    /// An operation with the answer it got.
    type Op: PartialEq;

    /// The copy after `op`, when it would have given this answer.
    fn step(state: &Self::State, op: &Self::Op) -> Option<Self::State>;

    /// Whether `op` leaves every copy as it is: then it can be taken as soon as its answer fits.
    fn is_read(op: &Self::Op) -> bool;
}

/// An operation of a history. Times come from one clock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event<O> {
    /// When the client called.
    pub called: u64,
    /// When it had its answer; `None` when the outcome is unknown.
    pub returned: Option<u64>,
    /// What it did and saw.
    pub op: O,
}

/// What came of a check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// An order explains the history.
    Explained,
    /// None does. The longest explanation leaves these events, of which the first to return is the one
    /// that cannot be: places in the history.
    Impossible(Vec<usize>),
    /// The search was given up: too many orders.
    TooHard,
}

/// Which events an explanation has taken.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Taken(Vec<u64>);

impl Taken {
    fn has(&self, place: usize) -> bool {
        self.0[place / 64] & (1 << (place % 64)) != 0
    }

    fn take(&mut self, place: usize) {
        self.0[place / 64] |= 1 << (place % 64);
    }
}

/// A branch of the search.
struct Node<S> {
    taken: Taken,
    state: S,
    /// The operation of unknown outcome that was taken last, with the state before it.
    opened: Option<(S, usize)>,
}

/// Checks a history from `initial` on, looking at no more than `nodes_max` partial orders.
pub fn check<S: Spec>(initial: S::State, events: &[Event<S::Op>], nodes_max: usize) -> Verdict {
    let mut by_call: Vec<usize> = (0..events.len()).collect();
    by_call.sort_by_key(|place| events[*place].called);
    let mut been = HashSet::new();
    let mut best: Option<(usize, Vec<usize>)> = None;
    let words = events.len().div_ceil(64);
    let root = Node { taken: Taken(vec![0; words]), state: initial, opened: None };
    let mut open = vec![root];
    while let Some(mut node) = open.pop() {
        let next = settle::<S>(&mut node, events, &by_call);
        if !been.insert((node.taken.clone(), node.state.clone())) {
            continue;
        }
        if been.len() > nodes_max {
            return Verdict::TooHard;
        }
        let left = left_of(&node.taken, events);
        if left.is_empty() {
            return Verdict::Explained;
        }
        if best.as_ref().is_none_or(|(fewest, _)| left.len() < *fewest) {
            best = Some((left.len(), left));
        }
        // The last pushed is looked at first: those that returned, in the order of their calls, before
        // those that may never have taken effect.
        let (mut unknown, returned): (Vec<usize>, Vec<usize>) =
            next.into_iter().partition(|place| events[*place].returned.is_none());
        // Of operations alike the one called first can do whatever a later one can.
        let mut kinds: Vec<&S::Op> = Vec::new();
        unknown.retain(|place| {
            let op = &events[*place].op;
            let new = !kinds.contains(&op);
            kinds.push(op);
            new
        });
        for place in unknown.into_iter().rev().chain(returned.into_iter().rev()) {
            let Some(state) = S::step(&node.state, &events[place].op) else { continue };
            if is_needless::<S>(&node, events, place, &state) {
                continue;
            }
            let mut taken = node.taken.clone();
            taken.take(place);
            let unknown = events[place].returned.is_none();
            let opened = unknown.then(|| (node.state.clone(), place));
            open.push(Node { taken, state, opened });
        }
    }
    Verdict::Impossible(best.map(|(_, left)| left).unwrap_or_default())
}

/// Takes all reads whose turn it may be and whose answers fit; returns what else may come next.
fn settle<S: Spec>(
    node: &mut Node<S::State>,
    events: &[Event<S::Op>],
    by_call: &[usize],
) -> Vec<usize> {
    loop {
        let next = next_of(&node.taken, events, by_call);
        let fits = |place: &&usize| {
            let event = &events[**place];
            S::is_read(&event.op) && S::step(&node.state, &event.op).is_some()
        };
        let reads: Vec<usize> = next.iter().filter(fits).copied().collect();
        if reads.is_empty() {
            return next.into_iter().filter(|place| !S::is_read(&events[*place].op)).collect();
        }
        reads.into_iter().for_each(|place| node.taken.take(place));
        // What was seen may have needed it.
        node.opened = None;
    }
}

/// Whether `place`, which leads to `state`, need not follow the operation of unknown outcome that was
/// taken just before: without that one it leads to the same state, or the two lead there in the other
/// order as well. An operation of unknown outcome can always come later or never, so what is passed
/// over here is looked at elsewhere, and histories with many of them stay searchable.
fn is_needless<S: Spec>(
    node: &Node<S::State>,
    events: &[Event<S::Op>],
    place: usize,
    state: &S::State,
) -> bool {
    let Some((before, opened)) = &node.opened else { return false };
    let Some(without) = S::step(before, &events[place].op) else { return false };
    without == *state || S::step(&without, &events[*opened].op).as_ref() == Some(state)
}

/// Events that no other one must precede: called before any event left had returned.
fn next_of<O>(taken: &Taken, events: &[Event<O>], by_call: &[usize]) -> Vec<usize> {
    let mut next = Vec::new();
    let mut first_return = u64::MAX;
    for place in by_call.iter().copied().filter(|place| !taken.has(*place)) {
        let event = &events[place];
        if event.called > first_return {
            break;
        }
        first_return = first_return.min(event.returned.unwrap_or(u64::MAX));
        next.push(place);
    }
    next
}

/// Returned events that are not taken, the first to return first.
fn left_of<O>(taken: &Taken, events: &[Event<O>]) -> Vec<usize> {
    let waits = |place: &usize| events[*place].returned.is_some() && !taken.has(*place);
    let mut left: Vec<usize> = (0..events.len()).filter(waits).collect();
    left.sort_by_key(|place| events[*place].returned);
    left
}
