//! `testbed bench compare A B`: two files of reports, row by row, as ratios.

use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

/// Compare two files of `--json` reports: B against A.
#[derive(clap::Args)]
pub struct Args {
    /// Before: one report, or several after each other.
    a: PathBuf,
    /// After.
    b: PathBuf,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// What is compared: its name and where it is in a report.
const ROWS: [(&str, &str); 15] = [
    ("objects/s", "/objects_per_second"),
    ("MiB/s", "/mib_per_second"),
    ("mean ms", "/latency_ms/mean"),
    ("p50 ms", "/latency_ms/p50"),
    ("p90 ms", "/latency_ms/p90"),
    ("p99 ms", "/latency_ms/p99"),
    ("p99.9 ms", "/latency_ms/p999"),
    ("p99.99 ms", "/latency_ms/p9999"),
    ("max ms", "/latency_ms/max"),
    ("server CPU ms/object", "/server_cpu_ms_per_object"),
    ("machine CPU ms/object", "/machine_cpu_ms_per_object"),
    ("drive KiB written/object", "/written_kib_per_object"),
    ("drive KiB read/object", "/read_kib_per_object"),
    ("servers' peaks MiB", "/server_peak_mib_together"),
    ("errors", "/errors"),
];

/// Prints the comparison.
pub fn run(args: &Args) -> Result<()> {
    let pairs = pairs(&read(&args.a)?, &read(&args.b)?)?;
    if args.json {
        let rows: Vec<Value> = pairs.iter().map(Pair::json).collect();
        println!("{}", serde_json::to_string_pretty(&rows)?);
    } else {
        for pair in &pairs {
            print!("{}", pair.table());
        }
    }
    Ok(())
}

/// All reports of a file.
fn read(path: &Path) -> Result<Vec<Value>> {
    let text = fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?;
    let values = serde_json::Deserializer::from_str(&text).into_iter::<Value>();
    let mut reports = Vec::new();
    for value in values {
        match value.with_context(|| format!("read {}", path.display()))? {
            Value::Array(several) => reports.extend(several),
            one => reports.push(one),
        }
    }
    if reports.is_empty() {
        bail!("{} holds no report", path.display());
    }
    Ok(reports)
}

/// What makes two reports comparable: the same load.
fn load_of(report: &Value) -> String {
    let text = |name: &str| report[name].to_string().trim_matches('"').to_owned();
    let mut load =
        format!("{} {} B, {} at a time", text("operation"), text("size"), text("concurrency"));
    for (name, unit) in [("rate", "/s"), ("mix", "")] {
        if !report[name].is_null() {
            load = format!("{load}, {}{unit}", text(name));
        }
    }
    load
}

struct Pair {
    load: String,
    /// Name, A, B.
    rows: Vec<(&'static str, f64, f64)>,
}

/// Each load of both files once; of several reports of one load the medians.
fn pairs(a: &[Value], b: &[Value]) -> Result<Vec<Pair>> {
    let mut pairs: Vec<Pair> = Vec::new();
    for report in a {
        let load = load_of(report);
        let same = |reports: &[Value]| -> Vec<Value> {
            reports.iter().filter(|it| load_of(it) == load).cloned().collect()
        };
        let (before, after) = (same(a), same(b));
        if after.is_empty() || pairs.iter().any(|pair| pair.load == load) {
            continue;
        }
        let row = |(name, at): &(&'static str, &str)| {
            Some((*name, median(&before, at)?, median(&after, at)?))
        };
        pairs.push(Pair { load, rows: ROWS.iter().filter_map(row).collect() });
    }
    if pairs.is_empty() {
        bail!("the files have no load in common");
    }
    Ok(pairs)
}

fn median(reports: &[Value], at: &str) -> Option<f64> {
    let mut values: Vec<f64> =
        reports.iter().filter_map(|report| report.pointer(at)?.as_f64()).collect();
    values.sort_by(f64::total_cmp);
    let (len, half) = (values.len(), values.len() / 2);
    match len {
        0 => None,
        _ if len % 2 == 1 => Some(values[half]),
        _ => Some(f64::midpoint(values[half - 1], values[half])),
    }
}

/// B / A; none where there is nothing to divide by.
fn ratio(a: f64, b: f64) -> Option<f64> {
    (a != 0.0).then(|| b / a)
}

impl Pair {
    fn json(&self) -> Value {
        let row = |(name, a, b): &(&str, f64, f64)| json!({ "name": name, "a": a, "b": b, "ratio": ratio(*a, *b) });
        json!({ "load": self.load, "rows": self.rows.iter().map(row).collect::<Vec<_>>() })
    }

    fn table(&self) -> String {
        let mut out = format!("{}\n", self.load);
        for (name, a, b) in &self.rows {
            let ratio = ratio(*a, *b).map_or("-".to_owned(), |ratio| format!("{ratio:.3}"));
            writeln!(out, "  {name:<26}{a:>14.3}{b:>14.3}{ratio:>9}").expect("a String takes all");
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(operation: &str, objects: f64, p50: f64) -> Value {
        json!({
            "operation": operation, "size": 10, "concurrency": 4, "rate": null, "mix": null,
            "objects_per_second": objects, "latency_ms": { "p50": p50 }, "errors": 0,
        })
    }

    /// Goal: loads meet their like, medians are compared, ratios are B over A. Method: files of several
    /// reports, one load in A alone.
    #[test]
    fn ratios_are_of_medians_of_the_same_load() {
        let dir = tempfile::tempdir().expect("temporary folder");
        let file = |name: &str, reports: &[Value]| {
            let text: String = reports.iter().map(|it| format!("{it}\n")).collect();
            let path = dir.path().join(name);
            fs::write(&path, text).expect("written");
            read(&path).expect("read")
        };
        let a = file(
            "a",
            &[report("put", 100.0, 2.0), report("put", 300.0, 4.0), report("get", 1.0, 1.0)],
        );
        let b = file("b", &[report("put", 400.0, 1.5)]);
        let pairs = pairs(&a, &b).expect("put is in both");
        assert_eq!(pairs.len(), 1);
        assert_eq!(pairs[0].rows[0], ("objects/s", 200.0, 400.0));
        let json = pairs[0].json();
        assert_eq!(json["rows"][0]["ratio"], 2.0);
        assert_eq!(json["rows"][1]["ratio"], 0.5);
        assert!(json["rows"][2]["ratio"].is_null(), "0 errors have no ratio");
        assert!(pairs[0].table().contains("2.000"), "{}", pairs[0].table());
        assert!(super::pairs(&a[2..], &b).is_err());
        fs::write(dir.path().join("bad"), "{").expect("written");
        assert!(read(&dir.path().join("bad")).is_err());
    }
}
