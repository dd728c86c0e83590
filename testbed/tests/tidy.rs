//! Goal: the house stays as ARCHITECTURE.md draws it. Method: read every source file of the workspace
//! as text and check caps, crate edges, banned calls and leftovers (STYLE rules 2, 12, 25).
//!
//! The checks work on text, not on syntax trees: a file that is formatted by rustfmt has its functions
//! opened and closed at the same indentation, which is all that the caps need.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

const FILE_LINES_MAX: usize = 500;
const FUNCTION_LINES_MAX: usize = 70;

/// Which crates of ours each crate may depend on (ARCHITECTURE.md, "Edges").
const EDGES: &[(&str, &[&str])] = &[
    ("crates/types", &[]),
    ("crates/erasure", &["types"]),
    ("crates/placement", &["types"]),
    ("crates/register", &["types"]),
    ("crates/tls", &[]),
    ("crates/md5", &[]),
    ("crates/trace", &[]),
    ("proto", &["types"]),
    ("crates/drive", &["types", "erasure", "placement", "register", "trace", "proto"]),
    (
        "crates/engine",
        &["types", "erasure", "placement", "register", "md5", "trace", "proto", "drive"],
    ),
    ("s3-gateway", &["types", "trace", "engine"]),
    (
        "daemon",
        &[
            "types",
            "erasure",
            "placement",
            "register",
            "tls",
            "trace",
            "proto",
            "drive",
            "engine",
            "s3-gateway",
        ],
    ),
    ("admin-cli", &["types", "tls", "proto"]),
    (
        "testbed",
        &[
            "types",
            "erasure",
            "placement",
            "register",
            "tls",
            "trace",
            "proto",
            "drive",
            "engine",
            "s3-gateway",
            "daemon",
        ],
    ),
];

/// Calls that belong to one home each: everything else gets them through a seam.
/// (needle, why, path prefixes that may use it)
const BANNED: &[(&str, &str, &[&str])] = &[
    (
        "Instant::now",
        "time comes through types::seam::Clock",
        &["daemon/", "testbed/", "admin-cli/", "crates/drive/src/disk_real"],
    ),
    (
        "SystemTime::now",
        "time comes through types::seam::Clock",
        &["daemon/", "testbed/", "admin-cli/"],
    ),
    ("thread_rng", "randomness comes through types::seam::Random", &[]),
    ("panic = \"abort\"", "a drive's panic must not take the node down (DESIGN section 5)", &[]),
    ("SyncArbiter", "it dies on a panic and its queue is unbounded (DESIGN section 5)", &[]),
    (
        "std::fs",
        "files are reached through the device seam",
        &[
            "daemon/",
            "testbed/",
            "admin-cli/",
            "crates/tls/",
            "crates/drive/src/disk_real",
            "crates/drive/src/meta_index/sled",
        ],
    ),
    ("todo!(", "nothing is left for later where a user would stand", &[]),
    ("unimplemented!(", "nothing is left for later where a user would stand", &[]),
    ("TODO", "nothing is left for later where a user would stand", &[]),
    ("FIXME", "nothing is left for later where a user would stand", &[]),
    ("#[ignore", "a test that does not run proves nothing", &[]),
    ("dbg!(", "left over from debugging", &[]),
];

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("testbed lies in the workspace").into()
}

/// All Rust sources of the workspace by path relative to it.
fn sources() -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let root = root();
    for (member, _) in EDGES {
        collect(&root, &root.join(member), &mut found);
    }
    assert!(found.len() > 20, "the walk found only {} files", found.len());
    found
}

fn collect(root: &Path, dir: &Path, found: &mut BTreeMap<String, String>) {
    for entry in fs::read_dir(dir).unwrap_or_else(|e| panic!("read {}: {e}", dir.display())) {
        let path = entry.expect("directory entries are readable").path();
        if path.is_dir() && !path.ends_with("target") {
            collect(root, &path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            let name = path.strip_prefix(root).expect("below the root").display().to_string();
            found.insert(name, fs::read_to_string(&path).expect("sources are UTF-8"));
        }
    }
}

/// The part of a file above its unit tests.
fn product(text: &str) -> &str {
    text.split("#[cfg(test)]\nmod tests").next().unwrap_or(text)
}

fn is_test_file(name: &str) -> bool {
    ["/tests/", "/examples/", "/testing/", "tests/", "tests.rs"].iter().any(|t| name.contains(t))
}

fn report(what: &str, broken: &[String]) {
    assert!(broken.is_empty(), "{what}:\n  {}", broken.join("\n  "));
}

#[test]
fn files_are_at_most_500_lines() {
    let long = |(name, text): (&String, &String)| {
        let lines = text.lines().count();
        (lines > FILE_LINES_MAX).then(|| format!("{name}: {lines} lines"))
    };
    report("files too long", &sources().iter().filter_map(long).collect::<Vec<_>>());
}

#[test]
fn functions_are_at_most_70_lines() {
    let mut broken = Vec::new();
    for (name, text) in &sources() {
        broken.extend(long_functions(text).into_iter().map(|f| format!("{name}: {f}")));
    }
    report("functions too long", &broken);
}

/// Functions longer than the cap, as `name (lines)`.
fn long_functions(text: &str) -> Vec<String> {
    let lines: Vec<&str> = text.lines().collect();
    let mut long = Vec::new();
    for (start, line) in lines.iter().enumerate() {
        let code = line.trim_start();
        let head = ["fn ", "pub fn ", "async fn ", "pub async fn ", "const fn ", "pub const fn "]
            .iter()
            .chain(["pub(crate) fn ", "pub(crate) async fn ", "pub(super) fn "].iter())
            .find_map(|prefix| code.strip_prefix(prefix));
        let Some(rest) = head else { continue };
        let indent = &line[..line.len() - code.len()];
        let close = format!("{indent}}}");
        let one_line = code.ends_with('}') || code.ends_with(';');
        let end = lines[start..].iter().position(|l| *l == close);
        let len = if one_line { 1 } else { end.unwrap_or(0) + 1 };
        if len > FUNCTION_LINES_MAX {
            let name = rest.split(['(', '<']).next().unwrap_or(rest);
            long.push(format!("{name} ({len} lines)"));
        }
    }
    long
}

#[test]
fn the_function_cap_sees_a_long_function() {
    let body = "    let x = 1;\n".repeat(FUNCTION_LINES_MAX);
    let text = format!("impl A {{\n    pub fn long() {{\n{body}    }}\n}}\nfn short() {{}}\n");
    assert_eq!(long_functions(&text), ["long (72 lines)"]);
}

#[test]
fn crates_depend_one_way() {
    let mut broken = Vec::new();
    for (member, allowed) in EDGES {
        let manifest = fs::read_to_string(root().join(member).join("Cargo.toml"))
            .unwrap_or_else(|e| panic!("read manifest of {member}: {e}"));
        let product = manifest.split("[dev-dependencies]").next().unwrap_or(&manifest);
        for line in product.lines() {
            let Some(dependency) = line.strip_prefix("holdfast-") else { continue };
            let dependency = dependency.split(['.', ' ', '=']).next().unwrap_or(dependency);
            if !allowed.contains(&dependency) {
                broken.push(format!("{member} -> {dependency}"));
            }
        }
    }
    report("edges against ARCHITECTURE.md", &broken);
}

#[test]
fn only_the_gateway_knows_s3s() {
    let uses = |(name, text): (&String, &String)| {
        let outside = !name.starts_with("s3-gateway/") && !name.starts_with("testbed/tests/");
        (outside && text.contains("s3s::")).then(|| name.clone())
    };
    report("s3s outside the gateway", &sources().iter().filter_map(uses).collect::<Vec<_>>());
}

#[test]
fn banned_calls_stay_in_their_homes() {
    let mut broken = Vec::new();
    for (name, text) in &sources() {
        if is_test_file(name) {
            continue;
        }
        for (needle, why, homes) in BANNED {
            let at_home = homes.iter().any(|home| name.starts_with(home));
            let code = product(text).lines().filter(|l| !l.trim_start().starts_with("//"));
            if !at_home && code.into_iter().any(|line| line.contains(needle)) {
                broken.push(format!("{name}: {needle}: {why}"));
            }
        }
    }
    report("banned calls", &broken);
}

#[test]
fn every_crate_says_what_it_owns() {
    let mut broken = Vec::new();
    for (name, text) in &sources() {
        if name.ends_with("src/lib.rs") && !text.starts_with("//! ") {
            broken.push(name.clone());
        }
    }
    report("crates without a head", &broken);
}

#[test]
fn cited_invariants_exist() {
    let known = fs::read_to_string(root().join("INVARIANTS.md")).expect("INVARIANTS.md is there");
    let mut broken = Vec::new();
    for (name, text) in &sources() {
        for piece in text.split("INV-").skip(1) {
            let end =
                piece.find(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '-'));
            let id = format!("INV-{}", piece[..end.unwrap_or(piece.len())].trim_end_matches('-'));
            if id.len() > 4 && !known.contains(&id) {
                broken.push(format!("{name}: {id}"));
            }
        }
    }
    report("invariants cited but not listed in INVARIANTS.md", &broken);
}
