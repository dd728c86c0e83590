//! `testbed reliability`: docs/reliability.md, made of the JSON that torture and power cuts print.

use std::{fmt::Write as _, fs, path::PathBuf};

use anyhow::{Context as _, Result, bail};
use serde_json::Value as Json;

/// Make docs/reliability.md of reports.
#[derive(clap::Args)]
pub struct Args {
    /// Files, each the output of one `testbed torture --json` or `testbed powercut --json`.
    #[arg(long, num_args = 1.., required = true)]
    from: Vec<PathBuf>,
    /// The commit that was measured.
    #[arg(long)]
    commit: Option<String>,
}

/// Prints the document.
pub fn run(args: &Args) -> Result<()> {
    let mut reports = Vec::new();
    for file in &args.from {
        let text = fs::read(file).with_context(|| format!("read {}", file.display()))?;
        let json: Json = serde_json::from_slice(&text)
            .with_context(|| format!("read {}: not one JSON report", file.display()))?;
        reports.push(json);
    }
    print!("{}", document(&reports, args.commit.as_deref())?);
    Ok(())
}

fn text<'a>(report: &'a Json, field: &str) -> &'a str {
    report[field].as_str().unwrap_or_default()
}

fn number(report: &Json, field: &str) -> u64 {
    report[field].as_u64().unwrap_or(0)
}

fn violations(report: &Json) -> usize {
    report["violations"].as_array().map_or(0, Vec::len)
}

/// The whole document. Reports with a planted bug go into the tables of controls.
fn document(reports: &[Json], commit: Option<&str>) -> Result<String> {
    let known = ["torture", "powercut", "powercut-cluster"];
    if let Some(strange) = reports.iter().find(|report| !known.contains(&text(report, "kind"))) {
        bail!("a report of an unknown kind: {}", strange["kind"]);
    }
    let of = |kind: &'static str, planted: bool| {
        let fits = move |report: &&Json| {
            text(report, "kind") == kind
                && report["sabotage"].is_string() == planted
                && report["skipped"].is_null()
        };
        reports.iter().filter(fits).collect::<Vec<&Json>>()
    };
    let mut out = String::from("# Reliability: what has been seen\n\n");
    out += "Written by `testbed reliability` from the reports of the runs it tells of; never by hand.\n";
    if let Some(commit) = commit {
        writeln!(out, "Measured at commit {commit}.")?;
    }
    out += "\n## Torture\n\n";
    torture(&mut out, &of("torture", false))?;
    out += "\n## Power cuts\n\n";
    power(&mut out, &of("powercut", false), "one drive", "acknowledged records looked for")?;
    power(&mut out, &of("powercut-cluster", false), "4 x 4 daemons at once", "events checked")?;
    let skipped = reports.iter().filter(|report| report["skipped"].is_string());
    for report in skipped {
        writeln!(out, "- {}: skipped: {}", text(report, "kind"), text(report, "skipped"))?;
    }
    out += "\n## Planted bugs\n\n";
    out += "A bug that is not caught says that the test is too weak.\n\n";
    out += "| test | bug | seed | caught | after | first violation |\n|---|---|---|---|---|---|\n";
    for kind in known {
        for report in of(kind, true) {
            control(&mut out, kind, report)?;
        }
    }
    Ok(out)
}

fn torture(out: &mut String, reports: &[&Json]) -> Result<()> {
    if reports.is_empty() {
        *out += "No run.\n";
        return Ok(());
    }
    *out += "| seed | minutes | operations | checked | refused | unknown | keys | buckets | faults | full width after | violations |\n";
    *out += "|---|---|---|---|---|---|---|---|---|---|---|\n";
    let (mut minutes, mut operations, mut checked, mut unknown, mut bad) = (0.0, 0, 0, 0, 0);
    for report in reports {
        let spent = report["minutes"].as_f64().unwrap_or(0.0);
        let faults = report["faults"].as_object();
        let faults: u64 = faults.map_or(0, |faults| faults.values().filter_map(Json::as_u64).sum());
        writeln!(
            out,
            "| {} | {spent:.1} | {} | {} | {} | {} ({:.2} %) | {} | {} | {faults} | {:.1} s | {} |",
            number(report, "seed"),
            number(report, "operations"),
            number(report, "checked"),
            number(report, "refused"),
            number(report, "unknown"),
            report["unknown_percent"].as_f64().unwrap_or(0.0),
            number(report, "keys"),
            number(report, "bucket_lives"),
            report["full_width_seconds"].as_f64().unwrap_or(0.0),
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
        "torture" => format!("{:.1} minutes", report["minutes"].as_f64().unwrap_or(0.0)),
        _ => format!("{} cuts", number(report, "runs")),
    };
    let first = report["violations"][0].as_str().unwrap_or_default();
    let first: String = first.chars().take(110).collect::<String>().replace('|', "/");
    let (bug, seed) = (text(report, "sabotage"), number(report, "seed"));
    writeln!(out, "| {kind} | {bug} | {seed} | {caught} | {after} | {first} |")?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the document tells what the reports say, hides no violation, no bug that was missed and no
    /// run that was skipped. Method: one report of each sort.
    #[test]
    fn the_document_tells_what_the_reports_say() {
        let reports = [
            serde_json::json!({"kind": "torture", "seed": 4, "minutes": 2.0, "operations": 1000,
                "checked": 990, "unknown": 5, "unknown_percent": 0.5, "faults": {"kill": 2, "hang": 1},
                "violations": [], "sabotage": null}),
            serde_json::json!({"kind": "torture", "seed": 5, "minutes": 2.0, "sabotage": "ack-early",
                "violations": []}),
            serde_json::json!({"kind": "powercut", "runs": 20, "checked": 400, "violations": ["lost"],
                "skipped": null, "sabotage": null}),
            serde_json::json!({"kind": "powercut-cluster", "skipped": "it needs root",
                "violations": [], "sabotage": null}),
        ];
        let made = document(&reports, Some("abc")).expect("known kinds");
        for line in [
            "| 4 | 2.0 | 1000 | 990 | 0 | 5 (0.50 %) | 0 | 0 | 3 | 0.0 s | 0 |",
            "Together 2.0 minutes, 1000 operations, 990 checked, 5 unknown (0.50 %), **0 violations**.",
            "- one drive: 20 cuts, 400 acknowledged records looked for, **1 violations**.",
            "- powercut-cluster: skipped: it needs root",
            "| torture | ack-early | 5 | **no** | 2.0 minutes |  |",
            "commit abc",
        ] {
            assert!(made.contains(line), "{line}\n{made}");
        }
        assert!(document(&[serde_json::json!({"kind": "tale"})], None).is_err());
    }
}
