//! Which operation comes next in a mixed run.

use std::{fmt, str::FromStr};

use super::load::{Operation, scatter};

/// Shares of operations, as in `get=70,put=25,stat=5`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mix(Vec<(Operation, u64)>);

impl Mix {
    /// What request `number` does: the same for every run, in the shares given.
    pub fn of(&self, number: u64) -> Operation {
        // Another sequence than that of the objects, so that shares hold for every object.
        let mut place = scatter(number ^ 0x6d69_7865_6400) % self.total();
        for (operation, share) in &self.0 {
            match place.checked_sub(*share) {
                None => return *operation,
                Some(rest) => place = rest,
            }
        }
        unreachable!("the shares add up to their total")
    }

    fn total(&self) -> u64 {
        self.0.iter().map(|(_, share)| share).sum()
    }
}

impl FromStr for Mix {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut shares = Vec::new();
        for part in text.split(',') {
            let (name, share) = part.split_once('=').ok_or("write shares as get=70,put=30")?;
            let operation = match name {
                "put" => Operation::Put,
                "get" => Operation::Get,
                "stat" => Operation::Stat,
                _ => return Err(format!("{name} cannot be mixed: use put, get and stat")),
            };
            let share = share.parse().ok().filter(|share| (1..=1_000_000).contains(share));
            let share = share.ok_or(format!("the share of {name} is no number from 1"))?;
            if shares.iter().any(|(other, _)| *other == operation) {
                return Err(format!("{name} is named twice"));
            }
            shares.push((operation, share));
        }
        Ok(Self(shares))
    }
}

impl fmt::Display for Mix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let part = |(operation, share): &(Operation, u64)| format!("{}={share}", operation.name());
        f.write_str(&self.0.iter().map(part).collect::<Vec<_>>().join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: shares are kept, and nonsense is refused. Method: count ten thousand; odd texts.
    #[test]
    fn shares_are_kept() {
        let mix: Mix = "get=70,put=25,stat=5".parse().expect("valid");
        let count = |wanted| (0..10_000).filter(|number| mix.of(*number) == wanted).count();
        for (operation, share) in [(Operation::Get, 7_000), (Operation::Put, 2_500)] {
            assert!(count(operation).abs_diff(share) < 200, "{operation:?}: {}", count(operation));
        }
        assert_eq!(mix.to_string(), "get=70,put=25,stat=5");
        for bad in ["", "get", "get=0", "get=1,get=2", "delete=1", "get=x"] {
            assert!(bad.parse::<Mix>().is_err(), "{bad}");
        }
    }
}
