//! Faults that the daemon brings about itself: it is told by control files in the cluster's folder
//! `faults`, and tells by a file of the same name with `.on` added that it has seen them.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context as _, Result, bail};

use super::drive_path;
use crate::{
    cluster::{Cluster, FAULTS_FOLDER},
    process::wait_until,
};

/// How long a daemon may take to see a control file.
const PATIENCE: Duration = Duration::from_secs(20);

/// Makes a drive hang, or go on.
pub(super) fn hang(dir: &Path, node: usize, drive: usize, on: bool) -> Result<()> {
    let path = drive_path(dir, node, drive)?;
    let name = format!("hang-{}", path.display().to_string().replace('/', "%"));
    tell(dir, node, &name, on)
}

/// Cuts the link between two nodes, both ways, or mends it.
pub(super) fn cut(dir: &Path, node: usize, other: usize, on: bool) -> Result<()> {
    let cluster = Cluster::load(dir)?;
    let name_of = |number: usize| -> Result<String> {
        let endpoint = &cluster.endpoints[cluster.place(number)?];
        Ok(endpoint.trim_start_matches("http://").trim_start_matches("https://").to_owned())
    };
    if node == other {
        bail!("node {node} has no link to itself");
    }
    let (one, two) = (name_of(node)?, name_of(other)?);
    write(dir, &format!("cut-{two}-{one}"), on)?;
    tell(dir, node, &format!("cut-{one}-{two}"), on)?;
    seen(dir, other, &format!("cut-{two}-{one}"), on)
}

/// Changes a control file, and waits until the node has seen that.
fn tell(dir: &Path, node: usize, name: &str, on: bool) -> Result<()> {
    write(dir, name, on)?;
    seen(dir, node, name, on)
}

fn write(dir: &Path, name: &str, on: bool) -> Result<()> {
    let file = dir.join(FAULTS_FOLDER).join(name);
    let done = match on {
        true => fs::write(&file, ""),
        false => fs::remove_file(&file).or_else(|error| match error.kind() {
            std::io::ErrorKind::NotFound => Ok(()),
            _ => Err(error),
        }),
    };
    done.with_context(|| format!("tell {}", file.display()))
}

/// Waits until a node that runs has seen it. One that does not sees it when it starts.
fn seen(dir: &Path, node: usize, name: &str, on: bool) -> Result<()> {
    let cluster = Cluster::load(dir)?;
    let process = cluster.nodes[cluster.place(node)?].process();
    let runs = || process.is_some_and(|process| process.is_alive() && !process.is_stopped());
    let told: PathBuf = dir.join(FAULTS_FOLDER).join(format!("{name}.on"));
    if !wait_until(PATIENCE, || !runs() || told.exists() == on) {
        bail!(
            "node {node} did not see {name} within {} s: was it started by `testbed up`?",
            PATIENCE.as_secs()
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::tests::example;

    /// Goal: the control files are those the daemon looks for, both directions of a link are cut, and
    /// mending removes them. Method: a cluster whose nodes do not run; look at the folder.
    #[test]
    fn control_files_come_and_go() {
        let folder = tempfile::tempdir().expect("temporary folder");
        let dir = folder.path();
        example(dir).store(dir).expect("store");
        let faults = dir.join(FAULTS_FOLDER);
        fs::create_dir(&faults).expect("create");
        let names = || {
            let mut names: Vec<String> = fs::read_dir(&faults)
                .expect("list")
                .map(|entry| entry.expect("entry").file_name().into_string().expect("UTF-8"))
                .collect();
            names.sort();
            names
        };
        cut(dir, 1, 2, true).expect("cut");
        assert_eq!(names(), ["cut-127.0.0.1:1-127.0.0.1:2", "cut-127.0.0.1:2-127.0.0.1:1"]);
        cut(dir, 2, 1, false).expect("mend");
        hang(dir, 2, 1, true).expect("hang");
        let drive = drive_path(dir, 2, 1).expect("there").display().to_string().replace('/', "%");
        assert_eq!(names(), [format!("hang-{drive}")]);
        hang(dir, 2, 1, false).expect("resume");
        hang(dir, 2, 1, false).expect("twice is no error");
        assert!(names().is_empty());
        assert!(cut(dir, 1, 1, true).is_err() && hang(dir, 1, 9, true).is_err());
    }
}
