//! Which faults come and go, drawn from the seed. Pure.
//!
//! One episode at a time, with a pause behind each. An episode never takes more than the product
//! promises to survive: all that is away at one time stays within f drives of the set, but for two kinds
//! that promise 5 (below quorum the answer is an error) and promise 3 (any crash loses nothing) are
//! about: `dark` takes one drive more than f for a moment and then, every other time, everything, `crash`
//! all nodes at once. What rots is never more than m drives' worth of shards; a drive is wiped only when
//! everything is at full width.

use rand::{Rng, SeedableRng as _, seq::SliceRandom as _};
use rand_chacha::ChaCha8Rng;

/// Kinds of episodes.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, clap::ValueEnum, serde::Serialize,
)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// A node is killed and started again.
    Kill,
    /// A node is stopped in order and started again.
    Stop,
    /// A node is paused.
    Pause,
    /// Up to four drives hang.
    Hang,
    /// The link between two nodes is cut.
    Cut,
    /// A node is cut off from all others; clients still reach it.
    Isolate,
    /// A node is stopped, an index of it scribbled over, and it is started again.
    Scribble,
    /// Every node is killed at once.
    Crash,
    /// A node is killed while a drive of another hangs, one drive more than f. Then the drive goes on, or all
    /// other nodes are killed, too.
    Dark,
    /// Blocks of a drive's volumes rot.
    Rot,
    /// A drive's folder is emptied under its running node.
    Wipe,
}

/// What is drawn unless the caller says otherwise.
pub const DEFAULT: [Kind; 11] = [
    Kind::Kill,
    Kind::Stop,
    Kind::Pause,
    Kind::Hang,
    Kind::Cut,
    Kind::Isolate,
    Kind::Scribble,
    Kind::Crash,
    Kind::Dark,
    Kind::Rot,
    Kind::Wipe,
];

/// Drives that may rot in one run before what rots is known to be healed: a version at full width
/// stands m of them.
const ROTTEN_MAX: usize = 1;

/// An episode. Nodes and drives count from 1.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Episode {
    /// What it is.
    pub kind: Kind,
    /// When it begins.
    pub at_ms: u64,
    /// How long it lasts.
    pub lasts_ms: u64,
    /// The node it is about, where there is one.
    pub node: usize,
    /// The other node, of links.
    pub other: usize,
    /// Drives (node, drive) it is about.
    pub drives: Vec<(usize, usize)>,
}

impl Episode {
    /// Drives that do not serve, or are not reached by some, while it lasts: (node, drive).
    #[cfg(test)]
    fn away(&self, drives: usize) -> Vec<(usize, usize)> {
        let whole = |node: usize| (1..=drives).map(move |drive| (node, drive));
        let mut away = self.drives.clone();
        match self.kind {
            Kind::Kill | Kind::Stop | Kind::Pause | Kind::Isolate | Kind::Scribble | Kind::Dark => {
                away.extend(whole(self.node));
            }
            // Each of the two lacks the other's drives.
            Kind::Cut => away.extend(whole(self.node)),
            Kind::Hang | Kind::Crash | Kind::Rot | Kind::Wipe => {}
        }
        away.sort_unstable();
        away.dedup();
        away
    }
}

/// The shape of the cluster.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Nodes.
    pub nodes: usize,
    /// Drives of each.
    pub drives: usize,
    /// Drives that may be away.
    pub away: usize,
}

/// The faults of a run of `millis`.
pub fn plan(seed: u64, millis: u64, shape: Shape, kinds: &[Kind]) -> Vec<Episode> {
    let mut random = ChaCha8Rng::seed_from_u64(seed);
    let (mut episodes, mut at_ms, mut rotten) = (Vec::new(), 3_000, 0);
    let mut bag: Vec<Kind> = Vec::new();
    loop {
        if bag.is_empty() {
            // Every kind comes once before any comes again.
            bag = kinds.to_vec();
            bag.shuffle(&mut random);
        }
        let Some(kind) = bag.pop() else { return episodes };
        if kind == Kind::Rot && rotten == ROTTEN_MAX {
            if kinds.iter().all(|kind| *kind == Kind::Rot) {
                return episodes;
            }
            continue;
        }
        rotten += usize::from(kind == Kind::Rot);
        let episode = draw(kind, at_ms, shape, &mut random);
        at_ms += episode.lasts_ms + random.random_range(2_000..9_000);
        if episode.at_ms + episode.lasts_ms > millis {
            return episodes;
        }
        episodes.push(episode);
    }
}

fn draw(kind: Kind, at_ms: u64, shape: Shape, random: &mut ChaCha8Rng) -> Episode {
    let node = random.random_range(1..=shape.nodes);
    let other = (node + random.random_range(0..shape.nodes - 1)) % shape.nodes + 1;
    let any = |random: &mut ChaCha8Rng| {
        (random.random_range(1..=shape.nodes), random.random_range(1..=shape.drives))
    };
    let mut drives = Vec::new();
    let lasts_ms = match kind {
        Kind::Dark => {
            drives.push((other, random.random_range(1..=shape.drives)));
            random.random_range(300..4_000)
        }
        Kind::Hang => {
            for _ in 0..random.random_range(1..=shape.away) {
                drives.push(any(random));
            }
            drives.sort_unstable();
            drives.dedup();
            random.random_range(3_000..15_000)
        }
        Kind::Rot | Kind::Wipe => {
            drives.push(any(random));
            1_000
        }
        Kind::Scribble => {
            drives.push((node, random.random_range(1..=shape.drives)));
            random.random_range(1_000..4_000)
        }
        Kind::Crash => random.random_range(0..2_000),
        Kind::Kill | Kind::Stop | Kind::Pause | Kind::Cut | Kind::Isolate => {
            random.random_range(2_000..15_000)
        }
    };
    Episode { kind, at_ms, lasts_ms, node, other, drives }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHAPE: Shape = Shape { nodes: 4, drives: 4, away: 4 };
    const HOUR: u64 = 3_600_000;

    /// Goal: the schedule keeps within the promises, and an hour has all kinds many times. Method: many
    /// seeds; count what is away in each episode, and that episodes do not overlap.
    #[test]
    fn the_schedule_keeps_within_the_promises() {
        for seed in 0..200 {
            let episodes = plan(seed, HOUR, SHAPE, &DEFAULT);
            assert!(episodes.len() > 100, "{} episodes", episodes.len());
            let mut free_from = 0;
            for episode in &episodes {
                assert!(episode.at_ms >= free_from, "two at a time");
                free_from = episode.at_ms + episode.lasts_ms;
                let away = episode.away(SHAPE.drives).len();
                match episode.kind {
                    Kind::Dark => assert!(away == SHAPE.away + 1 && episode.lasts_ms < 4_000),
                    _ => assert!(away <= SHAPE.away, "{episode:?}"),
                }
                assert!((1..=4).contains(&episode.node) && (1..=4).contains(&episode.other));
                assert_ne!(episode.node, episode.other);
            }
            for kind in DEFAULT {
                let count = episodes.iter().filter(|episode| episode.kind == kind).count();
                assert!(
                    if kind == Kind::Rot { count == ROTTEN_MAX } else { count > 5 },
                    "{kind:?}"
                );
            }
        }
    }

    /// Goal: a seed is a schedule. Method: twice the same, another seed another one; nothing to draw.
    #[test]
    fn a_seed_is_a_schedule() {
        let of = |seed| plan(seed, 600_000, SHAPE, &DEFAULT);
        assert_eq!(of(1), of(1));
        assert_ne!(of(1), of(2));
        assert!(plan(1, HOUR, SHAPE, &[]).is_empty());
        assert_eq!(plan(1, HOUR, SHAPE, &[Kind::Rot]).len(), ROTTEN_MAX);
    }
}
