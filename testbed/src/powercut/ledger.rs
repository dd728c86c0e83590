//! What was asked of a drive and what it acknowledged, and what it must therefore show. Pure.
//!
//! The writer is killed with the power, so it says each step aloud (one line on its standard output)
//! before it asks and after it is answered; the ledger is what was heard.

use std::{collections::BTreeMap, str::FromStr};

/// Numbers an operation within a ledger, over all lives of the drive; later ones are larger.
pub type Op = u64;

/// What a writer says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// It is about to ask for an entry to be accepted: of which key, how many bytes (none: a
    /// tombstone), at which ballot time.
    Asks {
        /// The operation.
        op: Op,
        /// The key.
        key: u64,
        /// Bytes of its body; 0 for a tombstone.
        size: u64,
        /// The ballot's time.
        time: u64,
    },
    /// The accept was acknowledged.
    Acknowledged(Op),
    /// It is about to settle the operation: what lies below may go.
    Settles(Op),
    /// It is about to purge the key, whose settled head is this tombstone.
    Purges(Op),
}

impl std::fmt::Display for Step {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Asks { op, key, size, time } => write!(f, "asks {op} {key} {size} {time}"),
            Self::Acknowledged(op) => write!(f, "has {op} 0 0 0"),
            Self::Settles(op) => write!(f, "settles {op} 0 0 0"),
            Self::Purges(op) => write!(f, "purges {op} 0 0 0"),
        }
    }
}

impl FromStr for Step {
    type Err = ();

    fn from_str(line: &str) -> Result<Self, ()> {
        let mut words = line.split(' ');
        let verb = words.next().ok_or(())?;
        let mut number = || words.next().and_then(|word| word.parse::<u64>().ok()).ok_or(());
        let (op, key, size, time) = (number()?, number()?, number()?, number()?);
        match verb {
            "asks" => Ok(Self::Asks { op, key, size, time }),
            "has" => Ok(Self::Acknowledged(op)),
            "settles" => Ok(Self::Settles(op)),
            "purges" => Ok(Self::Purges(op)),
            _ => Err(()),
        }
    }
}

/// One operation.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Written {
    /// Its key.
    pub key: u64,
    /// Bytes of its body; 0 for a tombstone.
    pub size: u64,
    /// Its ballot's time.
    pub time: u64,
    /// Whether the drive acknowledged it.
    pub acknowledged: bool,
    /// Whether settling it was asked for.
    pub settled: bool,
    /// Whether purging it was asked for.
    pub purged: bool,
}

/// All that was said.
#[derive(Debug, Default)]
pub struct Ledger {
    /// Operations.
    pub ops: BTreeMap<Op, Written>,
}

/// An entry that a drive shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Shown {
    /// Its operation.
    pub op: Op,
    /// Its ballot's time.
    pub time: u64,
    /// Whether its bytes were read and are right; `true` for a tombstone.
    pub right: bool,
}

impl Ledger {
    /// Notes a step.
    pub fn note(&mut self, step: Step) {
        match step {
            Step::Asks { op, key, size, time } => {
                let written = Written { key, size, time, ..Written::default() };
                self.ops.insert(op, written);
            }
            Step::Acknowledged(op) => self.of(op, |written| written.acknowledged = true),
            Step::Settles(op) => self.of(op, |written| written.settled = true),
            Step::Purges(op) => self.of(op, |written| written.purged = true),
        }
    }

    fn of(&mut self, op: Op, change: impl FnOnce(&mut Written)) {
        if let Some(written) = self.ops.get_mut(&op) {
            change(written);
        }
    }

    /// Whether what a drive shows of a key, after a power cut, is possible: how many acknowledged
    /// operations were looked for, or what is wrong.
    pub fn check(&self, key: u64, shown: &[Shown]) -> Result<usize, String> {
        let of_key = || self.ops.iter().filter(|(_, written)| written.key == key);
        for entry in shown {
            let Some(written) = self.ops.get(&entry.op).filter(|written| written.key == key) else {
                return Err(format!(
                    "key {key} shows operation {}, which was never asked",
                    entry.op
                ));
            };
            if written.time != entry.time {
                return Err(format!("key {key}: operation {} has another ballot", entry.op));
            }
            if !entry.right {
                return Err(format!(
                    "key {key}: the bytes of operation {} are not right",
                    entry.op
                ));
            }
        }
        // What lies below a settled operation may be gone, what was purged with all below it, too.
        let settled = of_key().filter(|(_, written)| written.settled).map(|(op, _)| *op).max();
        let purged = of_key().filter(|(_, written)| written.purged).map(|(op, _)| *op + 1).max();
        self.demand(key, shown, settled.max(purged).unwrap_or(0))
    }

    /// Every acknowledged operation from `first` on is shown.
    fn demand(&self, key: u64, shown: &[Shown], first: Op) -> Result<usize, String> {
        let asked = self.ops.range(first..).filter(|(_, written)| written.key == key);
        let mut looked_for = 0;
        for (op, _) in asked.filter(|(_, written)| written.acknowledged) {
            looked_for += 1;
            if !shown.iter().any(|entry| entry.op == *op) {
                return Err(format!(
                    "key {key}: operation {op}, acknowledged, is gone; shown {shown:?}; asked {:?}",
                    asked_last(self.ops.iter().filter(|(_, written)| written.key == key))
                ));
            }
        }
        Ok(looked_for)
    }

    /// Takes over what the drive shows as the new beginning: what it does not show and has not to will
    /// never come, what it shows is durable.
    pub fn rebase(&mut self, key: u64, shown: &[Shown]) {
        let shows = |op: &Op| shown.iter().any(|entry| entry.op == *op);
        self.ops.retain(|op, written| written.key != key || shows(op));
        for entry in shown {
            self.of(entry.op, |written| written.acknowledged = true);
        }
    }
}

/// The last few operations of a key, for people.
fn asked_last<'a>(
    of_key: impl DoubleEndedIterator<Item = (&'a Op, &'a Written)>,
) -> Vec<(&'a Op, &'a Written)> {
    const TOLD: usize = 6;
    of_key.rev().take(TOLD).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ledger(steps: &[Step]) -> Ledger {
        let mut ledger = Ledger::default();
        steps.iter().for_each(|step| ledger.note(*step));
        ledger
    }

    const fn asks(op: Op, size: u64) -> Step {
        Step::Asks { op, key: 7, size, time: op * 10 }
    }

    const fn shown(op: Op) -> Shown {
        Shown { op, time: op * 10, right: true }
    }

    /// Goal: what was acknowledged must be there, what was not may be. Method: three operations on a
    /// key, the last not answered; every subset of them shown.
    #[test]
    fn the_acknowledged_must_be_shown() {
        let all = ledger(&[
            asks(1, 5),
            Step::Acknowledged(1),
            asks(2, 5),
            Step::Acknowledged(2),
            asks(3, 5),
        ]);
        assert_eq!(all.check(7, &[shown(1), shown(2)]), Ok(2));
        assert_eq!(all.check(7, &[shown(3), shown(2), shown(1)]), Ok(2));
        assert!(
            all.check(7, &[shown(2)]).unwrap_err().contains("operation 1, acknowledged, is gone")
        );
        assert!(all.check(7, &[]).is_err());
        // What lies below a settled one may go; the settled one may not.
        let settled = ledger(&[
            asks(1, 5),
            Step::Acknowledged(1),
            asks(2, 5),
            Step::Acknowledged(2),
            Step::Settles(2),
        ]);
        assert_eq!(settled.check(7, &[shown(2)]), Ok(1));
        assert_eq!(settled.check(7, &[shown(1), shown(2)]), Ok(1));
        assert!(settled.check(7, &[shown(1)]).is_err());
    }

    /// Goal: nothing appears that was not asked, and nothing wrong. Method: a stranger, another ballot,
    /// wrong bytes.
    #[test]
    fn nothing_else_is_shown() {
        let one = ledger(&[asks(1, 5)]);
        assert_eq!(one.check(7, &[shown(1)]), Ok(0));
        assert!(one.check(7, &[shown(2)]).is_err());
        assert!(one.check(8, &[shown(1)]).is_err());
        assert!(one.check(7, &[Shown { time: 11, ..shown(1) }]).is_err());
        assert!(one.check(7, &[Shown { right: false, ..shown(1) }]).is_err());
    }

    /// Goal: a purge lets all go that was there, and nothing after it. Method: with and without a
    /// write behind the purge.
    #[test]
    fn a_purge_lets_go_what_was_there() {
        let mut steps = vec![
            asks(1, 5),
            Step::Acknowledged(1),
            asks(2, 0),
            Step::Acknowledged(2),
            Step::Settles(2),
            Step::Purges(2),
        ];
        assert_eq!(ledger(&steps).check(7, &[]), Ok(0));
        assert_eq!(ledger(&steps).check(7, &[shown(2)]), Ok(0));
        steps.extend([asks(3, 5), Step::Acknowledged(3)]);
        assert!(ledger(&steps).check(7, &[]).is_err());
        assert_eq!(ledger(&steps).check(7, &[shown(3)]), Ok(1));
        // And what was settled since lets go what lies between.
        steps.extend([asks(4, 5), Step::Acknowledged(4), Step::Settles(4)]);
        assert_eq!(ledger(&steps).check(7, &[shown(4)]), Ok(1));
        assert!(ledger(&steps).check(7, &[shown(3)]).is_err());
    }

    /// Goal: steps come through as they were said, a line cut off does not count, and what a drive shows
    /// becomes the new beginning. Method: there and back; rebase and check again.
    #[test]
    fn steps_come_through_and_ledgers_begin_anew() {
        let steps = [
            asks(1, 5),
            Step::Acknowledged(1),
            asks(2, 0),
            Step::Acknowledged(2),
            Step::Settles(2),
            asks(3, 9),
        ];
        let mut one = ledger(&steps);
        for step in steps {
            assert_eq!(step.to_string().parse(), Ok(step));
        }
        assert_eq!("asks 1 7 5".parse::<Step>(), Err(()));
        one.rebase(7, &[shown(2), shown(3)]);
        assert_eq!(one.check(7, &[shown(2), shown(3)]), Ok(2), "3 was shown, so it is durable");
        assert!(one.check(7, &[shown(2)]).is_err());
    }
}
