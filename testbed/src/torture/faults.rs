//! Brings the episodes of a plan into effect, and mends them.

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use anyhow::Result;

use super::{
    client::{Shared, Worker},
    plan::{Episode, Kind},
    wiping,
};
use crate::fault::{Area, Fault, bring_about};

/// Blocks that rot in one episode.
const ROTTEN_BLOCKS: usize = 60;

/// Between episodes at least, when one took longer than planned.
const PAUSE: Duration = Duration::from_secs(1);

/// What was done, by kind.
pub type Done = BTreeMap<Kind, u32>;

/// Runs `episodes` from now on until `end`. A fault that cannot be brought about, or a node that does
/// not come back, is a violation: it was promised that it does.
pub async fn run(
    dir: PathBuf,
    episodes: Vec<Episode>,
    nodes: usize,
    shared: Arc<Shared>,
    end: Instant,
) -> Done {
    let begin = Instant::now();
    let mut admin = Worker::admin(shared.clone());
    let mut done = Done::new();
    for episode in episodes {
        let at = begin + Duration::from_millis(episode.at_ms);
        if at >= end {
            break;
        }
        tokio::time::sleep_until(at.into()).await;
        // Episodes that took longer than planned push the rest back.
        if Instant::now() >= end {
            break;
        }
        let wiped = match episode.kind {
            // A drive that is wiped while another is away or not rebuilt is more than was promised.
            Kind::Wipe => match wiping::before(&mut admin, &dir, &episode).await {
                Some(wiped) => Some(wiped),
                None => continue,
            },
            _ => None,
        };
        eprintln!("testbed: {:6.1} s {}", begin.elapsed().as_secs_f64(), told(&episode));
        let (folder, kind) = (dir.clone(), episode.kind);
        let acted = tokio::task::spawn_blocking(move || act(&folder, &episode, nodes)).await;
        match acted.expect("faults do not panic") {
            Ok(()) => *done.entry(kind).or_default() += 1,
            Err(error) => shared.book.violation(format!("{kind:?}: {error:#}")),
        }
        if let Some(wiped) = wiped
            && let Err(why) = wiping::after(&mut admin, &wiped).await
        {
            shared.book.violation(why);
        }
        tokio::time::sleep(PAUSE).await;
    }
    done
}

fn told(episode: &Episode) -> String {
    let Episode { kind, lasts_ms, node, other, drives, .. } = episode;
    match kind {
        Kind::Crash => "crash".to_owned(),
        Kind::Cut => format!("cut {node}-{other} for {lasts_ms} ms"),
        Kind::Hang | Kind::Rot | Kind::Wipe => format!("{kind:?} {drives:?} for {lasts_ms} ms"),
        _ => format!("{kind:?} node {node} {drives:?} for {lasts_ms} ms"),
    }
}

/// One episode, from its beginning to its end.
fn act(dir: &Path, episode: &Episode, nodes: usize) -> Result<()> {
    let Episode { kind, node, other, drives, .. } = episode;
    let (node, other) = (*node, *other);
    let each = |make: fn(usize, usize) -> Fault| {
        drives.iter().map(move |(node, drive)| make(*node, *drive)).collect::<Vec<_>>()
    };
    let hang = each(|node, drive| Fault::HangDrive { node, drive });
    let resume = each(|node, drive| Fault::ResumeDrive { node, drive });
    let others = (1..=nodes).filter(|other| *other != node);
    let all = 1..=nodes;
    let (begin, mend) = match kind {
        Kind::Kill => (vec![Fault::KillNode { node }], vec![Fault::StartNode { node }]),
        Kind::Stop => (vec![Fault::StopNode { node }], vec![Fault::StartNode { node }]),
        Kind::Pause => (vec![Fault::PauseNode { node }], vec![Fault::ResumeNode { node }]),
        Kind::Hang => (hang, resume),
        Kind::Cut => (vec![Fault::CutLink { node, other }], vec![Fault::MendLink { node, other }]),
        Kind::Isolate => (
            others.clone().map(|other| Fault::CutLink { node, other }).collect(),
            others.map(|other| Fault::MendLink { node, other }).collect(),
        ),
        Kind::Scribble => {
            let scribble = each(|node, drive| Fault::ScribbleIndex { node, drive });
            let begin = std::iter::once(Fault::StopNode { node }).chain(scribble);
            (begin.collect(), vec![Fault::StartNode { node }])
        }
        Kind::Dark => {
            let begin = hang.into_iter().chain([Fault::KillNode { node }]);
            // As often as not everything dies before the drive goes on, and what waits in it is lost;
            // else it comes late, to a cluster that has refused it (ADR 0013).
            let mend = if dies(episode) {
                let rest = all.clone().filter(|alive| *alive != node);
                rest.map(|node| Fault::KillNode { node }).chain(resume).collect()
            } else {
                resume.into_iter().chain([Fault::StartNode { node }]).collect()
            };
            (begin.collect(), mend)
        }
        Kind::Crash => (all.clone().map(|node| Fault::KillNode { node }).collect(), Vec::new()),
        Kind::Rot => {
            let rot = drives.iter().map(|(node, drive)| Fault::Rot {
                node: *node,
                drive: *drive,
                count: ROTTEN_BLOCKS,
                area: Area::Volumes,
            });
            (rot.collect(), Vec::new())
        }
        Kind::Wipe => (each(|node, drive| Fault::WipeDrive { node, drive }), Vec::new()),
    };
    let bring = |fault: Fault| bring_about(dir, fault).map(drop);
    let began = begin.into_iter().try_for_each(bring);
    std::thread::sleep(Duration::from_millis(episode.lasts_ms));
    // Whatever failed: what follows must not meet a node that is still away.
    let mending: Vec<Result<()>> = mend.into_iter().map(bring).collect();
    let mut mended = mending.into_iter().collect::<Result<()>>();
    if *kind == Kind::Crash || (*kind == Kind::Dark && dies(episode)) {
        mended = mended.and(start_all(dir, all.collect()));
    }
    // A drive that has no large shards has nothing that can rot, an index not flushed yet no files.
    if matches!(kind, Kind::Rot | Kind::Scribble) { mended } else { began.and(mended) }
}

/// Whether a dark episode ends with the death of all nodes.
const fn dies(episode: &Episode) -> bool {
    episode.lasts_ms.is_multiple_of(2)
}

/// Starts nodes that need each other to be ready, all at the same time.
pub fn start_all(dir: &Path, nodes: Vec<usize>) -> Result<()> {
    std::thread::scope(|scope| {
        let start = |node| scope.spawn(move || bring_about(dir, Fault::StartNode { node }));
        let starting: Vec<_> = nodes.into_iter().map(start).collect();
        starting.into_iter().try_for_each(|one| one.join().expect("no panic").map(drop))
    })
}
