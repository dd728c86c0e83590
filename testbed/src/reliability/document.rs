//! docs/reliability.md, made of the JSON that the sections print.

use std::{collections::BTreeSet, fmt::Write as _};

use anyhow::{Result, bail};
use serde_json::Value as Json;

/// What a report may be about.
const KINDS: [&str; 6] = ["rebuild", "powercut", "powercut-cluster", "torture", "rot", "hang"];

fn text<'a>(report: &'a Json, field: &str) -> &'a str {
    report[field].as_str().unwrap_or_default()
}

fn number(report: &Json, field: &str) -> u64 {
    report[field].as_u64().unwrap_or(0)
}

fn float(report: &Json, field: &str) -> f64 {
    report[field].as_f64().unwrap_or(0.0)
}

fn violations(report: &Json) -> usize {
    report["violations"].as_array().map_or(0, Vec::len)
}

/// Whether a report says what it should: nothing wrong; of a planted bug, something.
pub(super) fn is_fine(report: &Json) -> bool {
    report["skipped"].is_string() || (violations(report) > 0) == report["sabotage"].is_string()
}

/// Reports of one kind, of runs with or without a planted bug, that were run.
fn of<'a>(reports: &'a [Json], kind: &str, planted: bool) -> Vec<&'a Json> {
    let fits = |report: &&Json| {
        text(report, "kind") == kind
            && report["sabotage"].is_string() == planted
            && !report["skipped"].is_string()
    };
    reports.iter().filter(fits).collect()
}

/// The whole document. Reports with a planted bug go into the table of controls.
pub(super) fn document(reports: &[Json], commit: Option<&str>) -> Result<String> {
    if let Some(strange) = reports.iter().find(|report| !KINDS.contains(&text(report, "kind"))) {
        bail!("a report of an unknown kind: {}", strange["kind"]);
    }
    let mut out = String::from("# Reliability: what has been seen\n\n");
    out += "Written by `testbed reliability` from the reports of the runs it tells of; never by hand. Latencies in milliseconds.\n";
    if let Some(commit) = commit {
        writeln!(out, "Measured at commit {commit}.")?;
    }
    section(&mut out, "Drives wiped under load", &of(reports, "rebuild", false), rebuild)?;
    let cuts = [of(reports, "powercut", false), of(reports, "powercut-cluster", false)];
    section(&mut out, "Power cuts", &cuts.concat(), |out, _| {
        power(out, &cuts[0], "one drive", "acknowledged records looked for")?;
        power(out, &cuts[1], "4 x 4 daemons at once", "events checked")
    })?;
    section(&mut out, "Torture", &of(reports, "torture", false), torture)?;
    section(&mut out, "Rotten blocks", &of(reports, "rot", false), rot)?;
    let hung = of(reports, "hang", false);
    section(&mut out, "A drive that hangs, a node that is paused", &hung, hang)?;
    for report in reports.iter().filter(|report| report["skipped"].is_string()) {
        writeln!(out, "\nSkipped: {}: {}", text(report, "kind"), text(report, "skipped"))?;
    }
    out += "\n## Planted bugs\n\n";
    out += "A bug that is not caught says that the test is too weak.\n\n";
    out +=
        "| test | bug | caught | by seed | after | first violation |\n|---|---|---|---|---|---|\n";
    for kind in KINDS {
        for report in of(reports, kind, true) {
            control(&mut out, kind, report)?;
        }
    }
    Ok(out)
}

/// A section: what was measured where, what was wrong, and what `tell` tells.
fn section(
    out: &mut String,
    title: &str,
    reports: &[&Json],
    tell: impl FnOnce(&mut String, &[&Json]) -> Result<()>,
) -> Result<()> {
    writeln!(out, "\n## {title}\n")?;
    if reports.is_empty() {
        *out += "No run.\n";
        return Ok(());
    }
    tell(out, reports)?;
    let mut bad = reports.iter().flat_map(|report| report["violations"].as_array()).flatten();
    let runs: BTreeSet<String> = reports
        .iter()
        .filter(|report| report["commit"].is_string())
        .map(|report| {
            let (commit, day) = (text(report, "commit"), text(report, "day"));
            format!("{commit} ({} build, {day})", text(report, "build"))
        })
        .collect();
    if !runs.is_empty() {
        let runs: Vec<String> = runs.into_iter().collect();
        writeln!(out, "\nMeasured at commit {}.", runs.join(", "))?;
    }
    if let Some(first) = bad.next() {
        let first: String = first.as_str().unwrap_or_default().chars().take(300).collect();
        writeln!(
            out,
            "\n**{} violations**, the first: {}",
            bad.count() + 1,
            first.replace('|', "/")
        )?;
    }
    Ok(())
}

fn felt_header(out: &mut String, what: &str) {
    *out += &format!(
        "| {what} | requests | failed | read p50 | read p99 | write p50 | write p99 | longest |\n"
    );
    *out += "|---|---|---|---|---|---|---|---|\n";
}

fn felt(out: &mut String, when: &str, felt: &Json) -> Result<()> {
    let (read, write) = (&felt["read"], &felt["write"]);
    writeln!(
        out,
        "| {when} | {} | {} | {:.1} | {:.1} | {:.1} | {:.1} | {:.0} |",
        number(felt, "requests"),
        number(felt, "failed"),
        float(read, "p50"),
        float(read, "p99"),
        float(write, "p50"),
        float(write, "p99"),
        float(read, "max").max(float(write, "max")),
    )?;
    Ok(())
}

fn mib(bytes: u64) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

fn rebuild(out: &mut String, reports: &[&Json]) -> Result<()> {
    for report in reports {
        writeln!(
            out,
            "{} objects, {:.0} MiB, {} requests a second meanwhile. Drives are wiped one after the other, the last two at once; all are of \
             one set.\n",
            number(report, "objects"),
            mib(number(report, "object_bytes")),
            number(report, "rate"),
        )?;
        *out += "| drive | counts again after | rebuild | brought | MiB a second | proof: versions | whole | short |\n";
        *out += "|---|---|---|---|---|---|---|---|\n";
        for (place, one) in (1..).zip(report["rebuilds"].as_array().into_iter().flatten()) {
            writeln!(
                out,
                "| {place} | {:.1} s | {} s | {:.0} MiB | {:.1} | {} | {} | {} |",
                float(one, "seconds"),
                number(one, "rebuild_seconds"),
                mib(number(one, "bytes")),
                mib(number(one, "bytes_per_second")),
                number(one, "versions"),
                number(one, "whole"),
                number(one, "short"),
            )?;
        }
        *out += "\n`short` counts what lacked shards on other drives at that moment: those being written, or wiped.\n\n";
        felt_header(out, "clients");
        felt(out, "before", &report["before"])?;
        felt(out, "while drives were wiped and rebuilt", &report["during"])?;
        felt(out, "after", &report["after"])?;
        writeln!(
            out,
            "\nAfterwards a scrub of all drives read {} shards, {:.0} MiB, and found {} rotten; {} reads, every object from every node, were \
             compared byte by byte. **{} violations.**",
            number(&report["scrub"], "shards"),
            mib(number(&report["scrub"], "bytes")),
            number(&report["scrub"], "found"),
            number(report, "reads_after"),
            violations(report),
        )?;
    }
    Ok(())
}

fn rot(out: &mut String, reports: &[&Json]) -> Result<()> {
    for report in reports {
        let damage = &report["damage"];
        writeln!(
            out,
            "- {} blocks of live shards changed in {} rounds, one drive of each node a round: {} flipped, {} zeroed, {} swapped; {} of them in \
             logs. They were of {} shards.",
            number(report, "blocks"),
            number(report, "rounds"),
            number(damage, "flipped"),
            number(damage, "zeroed"),
            number(damage, "swapped"),
            number(damage, "in_log"),
            number(report, "shards"),
        )?;
        let last = &report["last_pass"];
        writeln!(
            out,
            "- Detected: {} shards were found rotten while passes of the scrub were under way, by readers and by the scrub. The last pass of \
             all {} drives, each with a complete ledger, read {} shards, {:.0} MiB, and found {} rotten.",
            number(report, "found"),
            number(last, "drives"),
            number(last, "shards"),
            mib(number(last, "bytes")),
            number(last, "found"),
        )?;
        writeln!(
            out,
            "- Served: {} reads of whole objects from all nodes while they were rotten, {} failed, every byte compared.",
            number(report, "reads"),
            number(report, "failed"),
        )?;
        writeln!(
            out,
            "- Healed: full width {:.1} s after a pass at most; then {} reads, every object from every node. **{} violations.**",
            float(report, "full_width_seconds"),
            number(report, "reads_after"),
            violations(report),
        )?;
    }
    Ok(())
}

fn hang(out: &mut String, reports: &[&Json]) -> Result<()> {
    for report in reports {
        writeln!(
            out,
            "{} requests a second, an open loop; nothing is retried. \"At first\" is the first 5 s of the fault.\n",
            number(report, "rate"),
        )?;
        felt_header(out, "fault, when");
        let faults = report["faults"].as_array();
        for fault in faults.into_iter().flatten() {
            let what = text(fault, "fault");
            felt(out, &format!("{what}: before"), &fault["before"])?;
            felt(out, &format!("{what}: at first"), &fault["at_detection"])?;
            felt(out, &format!("{what}: after"), &fault["after"])?;
            felt(out, &format!("{what}: mended"), &fault["mended"])?;
        }
        *out += "\n";
        for fault in faults.into_iter().flatten() {
            let noticed = match fault["noticed_seconds"].as_f64() {
                Some(seconds) => format!("shown by the cluster after {seconds:.1} s"),
                None => "not shown by the cluster".to_owned(),
            };
            let held = fault["within_bound"] == true;
            let held = if held { "within" } else { "**not within**" };
            let what = text(fault, "fault");
            writeln!(
                out,
                "- {what}: {noticed}; p99 after detection is {held} twice the healthy value."
            )?;
        }
        writeln!(
            out,
            "\nThen {} reads, every object from every node, were compared byte by byte. **{} violations.**",
            number(report, "reads_after"),
            violations(report),
        )?;
    }
    Ok(())
}

fn torture(out: &mut String, reports: &[&Json]) -> Result<()> {
    *out += "| seed | minutes | operations | checked | refused | unknown | keys | buckets | faults | scrubbed at the end | rotten | full width after | violations |\n";
    *out += "|---|---|---|---|---|---|---|---|---|---|---|---|---|\n";
    let (mut minutes, mut operations, mut checked, mut unknown, mut bad) = (0.0, 0, 0, 0, 0);
    let mut sorted = reports.to_vec();
    sorted.sort_by_key(|report| number(report, "seed"));
    for report in sorted {
        let spent = float(report, "minutes");
        let faults = report["faults"].as_object();
        let faults: u64 = faults.map_or(0, |faults| faults.values().filter_map(Json::as_u64).sum());
        writeln!(
            out,
            "| {} | {spent:.1} | {} | {} | {} | {} ({:.2} %) | {} | {} | {faults} | {} shards | {} | {:.1} s | {} |",
            number(report, "seed"),
            number(report, "operations"),
            number(report, "checked"),
            number(report, "refused"),
            number(report, "unknown"),
            float(report, "unknown_percent"),
            number(report, "keys"),
            number(report, "bucket_lives"),
            number(&report["scrub"], "shards"),
            number(&report["scrub"], "found"),
            float(report, "full_width_seconds"),
            violations(report),
        )?;
        minutes += spent;
        operations += number(report, "operations");
        checked += number(report, "checked");
        unknown += number(report, "unknown");
        bad += violations(report);
    }
    let percent = 100.0 * unknown as f64 / operations.max(1) as f64;
    writeln!(
        out,
        "\nTogether {minutes:.1} minutes, {operations} operations, {checked} checked, {unknown} unknown \
         ({percent:.2} %), **{bad} violations**."
    )?;
    Ok(())
}

fn power(out: &mut String, reports: &[&Json], what: &str, unit: &str) -> Result<()> {
    let sum = |field| reports.iter().map(|report| number(report, field)).sum::<u64>();
    let bad: usize = reports.iter().map(|report| violations(report)).sum();
    let (runs, checked) = (sum("runs"), sum("checked"));
    writeln!(out, "- {what}: {runs} cuts, {checked} {unit}, **{bad} violations**.")?;
    Ok(())
}

fn control(out: &mut String, kind: &str, report: &Json) -> Result<()> {
    let caught = if violations(report) > 0 { "yes" } else { "**no**" };
    let after = match kind {
        "torture" => format!("{:.1} minutes of clients", float(report, "minutes")),
        _ => format!("{} cuts", number(report, "runs")),
    };
    let first = report["violations"][0].as_str().unwrap_or_default();
    let first: String = first.chars().take(110).collect::<String>().replace('|', "/");
    let tries = match number(report, "tries") {
        0 => String::new(),
        tries => format!(" (the {tries}. tried)"),
    };
    let (bug, seed) = (text(report, "sabotage"), number(report, "seed"));
    writeln!(out, "| {kind} | {bug} | {caught} | {seed}{tries} | {after} | {first} |")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the document tells what the reports say, hides no violation, no bug that was missed and no
    /// run that was skipped. Method: reports of each sort.
    #[test]
    fn the_document_tells_what_the_reports_say() {
        let reports = [
            serde_json::json!({"kind": "torture", "seed": 4, "minutes": 2.0, "operations": 1000,
                "checked": 990, "unknown": 5, "unknown_percent": 0.5, "faults": {"kill": 2, "hang": 1},
                "scrub": {"shards": 77, "found": 3}, "violations": [], "sabotage": null,
                "commit": "c0ffee", "day": "2026-11-28", "build": "release"}),
            serde_json::json!({"kind": "torture", "seed": 5, "minutes": 2.0, "sabotage": "ack-early",
                "violations": [], "tries": 3}),
            serde_json::json!({"kind": "powercut", "runs": 20, "checked": 400, "violations": ["lost"],
                "skipped": null, "sabotage": null}),
            serde_json::json!({"kind": "powercut-cluster", "skipped": "it needs root",
                "violations": [], "sabotage": null}),
            serde_json::json!({"kind": "rot", "blocks": 90, "shards": 31, "found": 30, "reads": 500,
                "damage": {"flipped": 40, "zeroed": 30, "swapped": 20}, "violations": []}),
            serde_json::json!({"kind": "hang", "violations": [], "faults": [{"fault": "one drive hung",
                "within_bound": false, "before": {"requests": 7, "read": {"p99": 4.25}}}]}),
        ];
        let made = document(&reports, Some("abc")).expect("known kinds");
        for line in [
            "| 4 | 2.0 | 1000 | 990 | 0 | 5 (0.50 %) | 0 | 0 | 3 | 77 shards | 3 | 0.0 s | 0 |",
            "Together 2.0 minutes, 1000 operations, 990 checked, 5 unknown (0.50 %), **0 violations**.",
            "- one drive: 20 cuts, 400 acknowledged records looked for, **1 violations**.",
            "**1 violations**, the first: lost",
            "Skipped: powercut-cluster: it needs root",
            "| torture | ack-early | **no** | 5 (the 3. tried) | 2.0 minutes of clients |  |",
            "at commit abc",
            "at commit c0ffee (release build, 2026-11-28)",
            "40 flipped, 30 zeroed, 20 swapped",
            "| one drive hung: before | 7 | 0 | 0.0 | 4.2 |",
            "not shown by the cluster; p99 after detection is **not within** twice",
            "## Drives wiped under load\n\nNo run.",
        ] {
            assert!(made.contains(line), "{line}\n{made}");
        }
        assert!(document(&[serde_json::json!({"kind": "tale"})], None).is_err());
    }

    /// Goal: a run with violations is not fine, nor is a bug that was missed. Method: the four cases, and a skip.
    #[test]
    fn a_bug_must_be_caught_and_nothing_else_be_wrong() {
        let report = |sabotage: Option<&str>, violations: &[&str]| serde_json::json!({"sabotage": sabotage, "violations": violations});
        assert!(is_fine(&report(None, &[])) && !is_fine(&report(None, &["lost"])));
        assert!(is_fine(&report(Some("bug"), &["lost"])) && !is_fine(&report(Some("bug"), &[])));
        assert!(is_fine(
            &serde_json::json!({"skipped": "no root", "sabotage": "bug", "violations": []})
        ));
    }
}
