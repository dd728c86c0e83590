//! A 4 x 4 cluster of real daemons for one section, and the objects in it.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};

use crate::{
    admin::Admin,
    bench::{
        client::{Client, Target},
        content::Content,
    },
    cluster::Cluster,
    down, torture, up,
};

/// Writers and readers of all objects at a time.
const AT_ONCE: usize = 8;

/// A write that is refused while nodes have only just found each other is tried again this often.
const TRIES: usize = 5;

/// The objects of a section: no two alike, none written twice.
pub struct Objects {
    /// Keys and sizes.
    pub all: Vec<(String, u64)>,
    /// What they hold.
    pub content: Arc<Content>,
}

/// A running cluster.
pub struct Home {
    /// Its folder.
    pub dir: PathBuf,
    /// What is known of it.
    pub cluster: Cluster,
    /// Its nodes.
    pub targets: Vec<Target>,
    /// Its operator.
    pub admin: Admin,
    passing: bool,
}

impl Home {
    /// Starts one in `dir`, or in a folder of its own that goes afterwards.
    pub fn up(dir: Option<&Path>, holdfastd: Option<PathBuf>, what: &str) -> Result<Self> {
        let passing = dir.is_none();
        let own = || std::env::temp_dir().join(format!("holdfast-{what}-{}", std::process::id()));
        let dir = dir.map_or_else(own, |dir| dir.join(what));
        let (cluster, dir, _) = up::bring_up(&up::Args::detached(&dir, holdfastd))?;
        let targets = torture::targets(&cluster)?;
        let admin = Admin::new(&targets);
        Ok(Self { dir, cluster, targets, admin, passing })
    }

    /// Takes it down. Its folder stays when something was wrong.
    pub fn down(self, fine: bool) -> Result<()> {
        down::take_down(&self.dir)?;
        if self.passing && fine {
            std::fs::remove_dir_all(&self.dir)
                .with_context(|| format!("remove {}", self.dir.display()))?;
        } else {
            eprintln!("testbed: logs and drives stay in {}", self.dir.display());
        }
        Ok(())
    }

    /// Writes objects of these sizes.
    pub async fn fill(&self, seed: u64, sizes: Vec<u64>) -> Result<Arc<Objects>> {
        torture::create_bucket(&mut Client::new(self.targets[0].clone())).await?;
        let named = |(number, size)| (format!("o/{number:06}"), size);
        let all = sizes.into_iter().enumerate().map(named).collect();
        let objects = Arc::new(Objects { all, content: Content::new(seed) });
        let next = Arc::new(AtomicUsize::new(0));
        let mut writers = tokio::task::JoinSet::new();
        for place in 0..AT_ONCE {
            let (objects, next) = (objects.clone(), next.clone());
            let mut client = Client::new(self.targets[place % self.targets.len()].clone());
            writers.spawn(async move {
                while let Some((key, size)) = objects.all.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    let mut tries = 0;
                    while let Err(error) = client.put(key, objects.content.of(key, *size)).await {
                        tries += 1;
                        if tries == TRIES {
                            bail!("write {key}: {error}");
                        }
                        tokio::time::sleep(Duration::from_secs(1)).await;
                    }
                }
                Ok(())
            });
        }
        while let Some(done) = writers.join_next().await {
            done.context("a writer")??;
        }
        Ok(objects)
    }

    /// Reads every object from every node and compares every byte; how many reads, and what was wrong.
    pub async fn read_everywhere(&self, objects: &Arc<Objects>) -> Result<(u64, Vec<String>)> {
        let next = Arc::new(AtomicUsize::new(0));
        let mut readers = tokio::task::JoinSet::new();
        for _ in 0..AT_ONCE {
            let (objects, next) = (objects.clone(), next.clone());
            let mut clients: Vec<Client> = self.targets.iter().cloned().map(Client::new).collect();
            readers.spawn(async move {
                let (mut reads, mut wrong) = (0, Vec::new());
                while let Some((key, size)) = objects.all.get(next.fetch_add(1, Ordering::Relaxed))
                {
                    for (node, client) in (1..).zip(&mut clients) {
                        reads += 1;
                        if let Err(error) = client.get(key, objects.content.of(key, *size)).await {
                            wrong.push(format!("{key} from node {node}: {error}"));
                        }
                    }
                }
                (reads, wrong)
            });
        }
        let (mut reads, mut wrong) = (0, Vec::new());
        while let Some(done) = readers.join_next().await {
            let (read, found) = done.context("a reader")?;
            reads += read;
            wrong.extend(found);
        }
        Ok((reads, wrong))
    }

    /// Waits until every object is at full width; what the last one lacks when that takes longer than `within`.
    pub async fn full_width(
        &mut self,
        objects: &Objects,
        within: Duration,
    ) -> Result<Duration, String> {
        let begin = Instant::now();
        let bucket = self.targets[0].bucket.clone();
        for (key, _) in &objects.all {
            while let Some(why) = self.admin.lacks(&bucket, key).await {
                if begin.elapsed() > within {
                    let seconds = within.as_secs();
                    return Err(format!("not at full width within {seconds} s: {why}"));
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
        Ok(begin.elapsed())
    }
}
