//! Whether an operation took effect: from what drives remember and hold (PROTOCOL.md section 3,
//! *finish*).

use std::collections::BTreeSet;

use holdfast_types::{Ballot, OperationId, Quorum};

use crate::judge::Answer;

/// What the drives' memory says about one operation.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub enum Effect {
    /// It was accepted by a write quorum under each of these ballots: chosen.
    Took(Vec<Ballot>),
    /// Under no ballot below the promised one was it chosen, nor can it be any more.
    None,
    /// Drives that are silent, restarted or rebuilding might know.
    Unknown,
}

/// Judges the answers to a Prepare whose `since` is the operation's first ballot.
///
/// A drive speaks for a ballot when it remembers the operation or holds it whole at it; it speaks against
/// when it counts, its memory is complete, and it does neither. All others might have accepted it: among
/// them a drive that holds it without its shard. Too few shards may have been left since for the operation
/// to count as chosen for those who judged (ADR 0003), and others may have built on that (ADR 0021).
#[must_use]
pub fn effect(quorum: Quorum, answers: &[Answer], operation: OperationId) -> Effect {
    let mut ballots = BTreeSet::new();
    for answer in answers {
        let Answer::View(view) = answer else { continue };
        ballots.extend(view.memory.iter().filter(|m| m.operation == operation).map(|m| m.ballot));
        let held = view.registers.values().flat_map(|r| &r.entries);
        ballots.extend(held.filter(|h| h.entry.operation == operation).map(|h| h.entry.ballot));
    }
    let needed = usize::from(quorum.write());
    let mut took = Vec::new();
    let mut possible = answers.iter().filter(|a| !speaks(a, operation)).count() >= needed;
    for ballot in ballots {
        let yes = answers.iter().filter(|a| took_part(a, operation, ballot)).count();
        let silent = |a: &&Answer| !speaks(a, operation) && !took_part(a, operation, ballot);
        let maybe = answers.iter().filter(silent).count();
        if yes >= needed {
            took.push(ballot);
        }
        possible |= yes + maybe >= needed;
    }
    match (took.is_empty(), possible) {
        (false, _) => Effect::Took(took),
        (true, true) => Effect::Unknown,
        (true, false) => Effect::None,
    }
}

/// Whether the absence of an operation from an answer means that it was not accepted.
fn speaks(answer: &Answer, operation: OperationId) -> bool {
    let Answer::View(view) = answer else { return false };
    let mut held = view.registers.values().flat_map(|r| &r.entries);
    let short = held.any(|h| h.entry.operation == operation && !h.is_whole());
    view.counts && view.remembers && !short
}

fn took_part(answer: &Answer, operation: OperationId, ballot: Ballot) -> bool {
    let Answer::View(view) = answer else { return false };
    view.memory.iter().any(|m| m.operation == operation && m.ballot == ballot)
        || view
            .registers
            .values()
            .flat_map(|r| &r.entries)
            .any(|h| h.entry.operation == operation && h.entry.ballot == ballot && h.is_whole())
}
