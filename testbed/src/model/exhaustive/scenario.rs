//! What is searched exhaustively: set sizes, who is at work, and what goes wrong.

use super::super::config::{Budgets, Config, Faults, Plan, Settles};

/// Who is at work: a name, whether the bucket is versioned, the clients' scripts.
type Mix = (&'static str, bool, &'static [&'static [Plan]]);

const MIXES: [Mix; 10] = [
    ("put", false, &[&[Plan::Put]]),
    ("put-get", false, &[&[Plan::Put], &[Plan::Get]]),
    ("put-get-get", false, &[&[Plan::Put], &[Plan::Get, Plan::Get]]),
    ("put-put", false, &[&[Plan::Put], &[Plan::Put]]),
    ("put-delete", false, &[&[Plan::Put], &[Plan::Delete]]),
    ("put-then-delete", false, &[&[Plan::Put, Plan::Delete]]),
    ("put-create", false, &[&[Plan::Put], &[Plan::Create]]),
    ("create-create", false, &[&[Plan::Create], &[Plan::Create]]),
    ("versions", true, &[&[Plan::Put], &[Plan::Put]]),
    ("version-gone", true, &[&[Plan::Put, Plan::DeleteVersion]]),
];

/// What goes wrong: a name, lost messages, restarts of drives, clients that vanish, and whether what was
/// chosen is settled. A lost message is given up by its caller and stays on its way, so that it stands
/// for a late one as well.
type Trouble = (&'static str, u32, u32, u32, Settles);

const TROUBLES: [Trouble; 5] = [
    ("quiet", 0, 0, 0, Settles::Never),
    ("lost", 1, 0, 0, Settles::Never),
    ("restart", 0, 1, 0, Settles::Never),
    ("crash", 0, 0, 1, Settles::Never),
    ("settled", 0, 0, 0, Settles::Always),
];

/// Ballots drawn anew by all coordinators together, by the size of the set.
const REDRAWS: [u32; 3] = [1, 0, 0];

/// The sizes of sets.
const DRIVES: std::ops::RangeInclusive<u8> = 3..=5;

/// The scenarios: `n4-put-delete-lost` is four drives, a writer beside a deleter, one message lost.
pub fn names() -> Vec<String> {
    let mut names = Vec::new();
    for drives in DRIVES {
        for (mix, ..) in MIXES {
            names.extend(TROUBLES.map(|(trouble, ..)| format!("n{drives}-{mix}-{trouble}")));
        }
    }
    names
}

/// The configuration of a name.
pub fn config(name: &str) -> Option<Config> {
    let (drives, rest) = name.strip_prefix('n')?.split_once('-')?;
    let drives = drives.parse().ok().filter(|drives| DRIVES.contains(drives))?;
    let (mix, trouble) = rest.rsplit_once('-')?;
    let (_, versioned, scripts) = *MIXES.iter().find(|(name, ..)| *name == mix)?;
    let found = TROUBLES.iter().find(|(name, ..)| *name == trouble)?;
    let (_, timeouts, restarts, crashes, settles) = *found;
    let redraws = REDRAWS[usize::from(drives - 3)];
    let budgets = Budgets { timeouts, restarts, crashes, redraws, ..Budgets::NONE };
    let scripts = scripts.iter().map(|script| script.to_vec()).collect();
    let faults = Faults::Restarts;
    Some(Config { drives, versioned, faults, scripts, budgets, drawn: false, settles })
}
