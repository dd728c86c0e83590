//! `testbed down`: SIGTERM to all nodes at once, SIGKILL to those that are not gone in time.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Result;

use crate::cluster::Cluster;

/// How long nodes have to drain before they are killed.
const PATIENCE: Duration = Duration::from_secs(15);

/// Take a cluster down; its data stay.
#[derive(clap::Args)]
pub struct Args {
    /// The folder given to `testbed up`.
    #[arg(long)]
    dir: PathBuf,
}

/// Takes the cluster down. Taking down what is down already is no error.
pub fn run(args: &Args) -> Result<()> {
    take_down(&args.dir)
}

/// Stops every node of the cluster in `dir` and records that.
pub fn take_down(dir: &Path) -> Result<()> {
    let cluster = Cluster::load(dir)?;
    let running: Vec<(usize, _)> = (1..)
        .zip(&cluster.nodes)
        .filter_map(|(number, node)| Some((number, node.process()?)))
        .collect();
    std::thread::scope(|scope| {
        let stopping: Vec<_> = running
            .iter()
            .map(|(number, process)| (number, scope.spawn(|| process.terminate(PATIENCE))))
            .collect();
        for (number, stopped) in stopping {
            if !stopped.join().expect("terminate does not panic")? {
                eprintln!("testbed: node {number} ignored SIGTERM and was killed");
            }
        }
        anyhow::Ok(())
    })?;
    Cluster::update(dir, |cluster| {
        for node in &mut cluster.nodes {
            if node.process().is_some_and(|process| !process.is_alive()) {
                node.set_process(None);
            }
        }
        Ok(())
    })
}
