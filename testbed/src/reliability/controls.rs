//! The planted bugs, each in the test that must catch it, in a bounded time.

use anyhow::{Result, bail};
use serde_json::Value as Json;

use super::{Args, command, keep};

/// A control: the bug, and the command that must exit with a violation.
struct Control {
    bug: &'static str,
    line: &'static [&'static str],
}

/// Seeds that are tried, one after the other, until the bug is caught. Whether a bug shows in one of them is chance.
const SEEDS: [&str; 5] = ["1", "2", "3", "4", "5"];

/// Every bug, with the faults under which it shows: others only take time.
const CONTROLS: [Control; 9] = [
    Control { bug: "skip-log-sync", line: &["powercut", "--runs", "40"] },
    Control { bug: "skip-volume-sync", line: &["powercut", "--runs", "40"] },
    Control { bug: "extent-reused-early", line: &["powercut", "--runs", "60"] },
    Control { bug: "ack-early", line: &["torture", "--minutes", "1", "--faults", "dark,crash"] },
    Control {
        bug: "read-below-quorum",
        line: &["torture", "--minutes", "1", "--faults", "kill,stop,isolate"],
    },
    Control {
        bug: "heal-stale-shard",
        line: &["torture", "--minutes", "1", "--faults", "kill,stop,isolate"],
    },
    Control {
        bug: "repairs-dropped",
        line: &["torture", "--minutes", "0.5", "--faults", "kill,stop,isolate"],
    },
    Control { bug: "set-epoch-ignored", line: &["torture", "--minutes", "2", "--faults", "wipe"] },
    Control {
        bug: "bucket-epoch-ignored",
        line: &["torture", "--minutes", "1", "--faults", "kill,isolate"],
    },
];

/// Runs them; the reports, one of each bug: of the seed that caught it, or of the last.
pub fn run(args: &Args) -> Result<Vec<Json>> {
    if let Some(wrong) =
        args.bugs.iter().flatten().find(|bug| !CONTROLS.iter().any(|control| control.bug == **bug))
    {
        bail!("no bug is called {wrong}");
    }
    let wanted = |control: &&Control| {
        args.bugs.as_ref().is_none_or(|bugs| bugs.iter().any(|bug| bug == control.bug))
    };
    let mut reports = Vec::new();
    for control in CONTROLS.iter().filter(wanted) {
        let mut tries = 0;
        let mut report = Json::Null;
        for seed in SEEDS {
            let line = [control.line, &["--seed", seed, "--sabotage", control.bug]].concat();
            eprintln!("testbed: {}", line.join(" "));
            // The bug is in the binaries that were built for it: --holdfastd names those without.
            report = command(&Args { holdfastd: None, ..args.clone() }, &line)?;
            tries += 1;
            let caught = report["violations"].as_array().is_some_and(|all| !all.is_empty());
            if caught || report["skipped"].is_string() {
                break;
            }
        }
        report["tries"] = tries.into();
        reports.push(keep(args, &format!("control-{}", control.bug), report)?);
    }
    Ok(reports)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    /// Goal: every bug that can be planted has a control. Method: the product's own table.
    #[test]
    fn every_bug_has_a_control() {
        let controlled: BTreeSet<&str> = CONTROLS.iter().map(|control| control.bug).collect();
        assert_eq!(controlled.len(), CONTROLS.len());
        for (_, bug, _) in holdfast_types::sabotage::BUGS {
            assert!(controlled.contains(bug), "{bug} has none");
        }
    }
}
