//! What a run is made of: set size, kind of bucket, faults, and the clients' scripts.

use super::rng::Rng;

/// What may go wrong beside slow, lost and doubled messages.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Faults {
    /// Clients that vanish.
    Steady,
    /// And drives that restart.
    Restarts,
    /// And a drive that is down for a while, known or not.
    Outage,
    /// And one drive that is replaced by a blank one and rebuilt.
    Wipe,
    /// Instead, one drive whose shards or records of the key rot.
    Rot,
}

/// What a client is going to ask.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Plan {
    Put,
    Delete,
    DeleteVersion,
    Create,
    Replace,
    Get,
    GetVersion,
}

/// How often each event of a kind may happen in a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Budgets {
    pub timeouts: u32,
    pub drops: u32,
    pub doubles: u32,
    pub crashes: u32,
    pub restarts: u32,
    pub outages: u32,
    pub wipes: u32,
    pub sweeps: u32,
    pub heals: u32,
    pub purges: u32,
    pub leaps: u32,
    /// Ballots that coordinators draw anew, all together; whoever needs one more is gone. Coordinators
    /// that disturb each other make the deepest runs.
    pub redraws: u32,
    /// Drives whose shards or records rot.
    pub rots: u32,
}

impl Budgets {
    /// Nothing goes wrong.
    pub const NONE: Self = Self {
        timeouts: 0,
        drops: 0,
        doubles: 0,
        crashes: 0,
        restarts: 0,
        outages: 0,
        wipes: 0,
        sweeps: 0,
        heals: 0,
        purges: 0,
        leaps: 0,
        redraws: 0,
        rots: 0,
    };
}

/// When readers and the coordinators of an exhaustive search settle what was chosen.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub enum Settles {
    /// Sometimes.
    Drawn,
    Never,
    Always,
}

/// How much a run leans to one kind of event or another: walks that all lean the same way miss what
/// needs three restarts in a row, or one message that is late by a whole rebuild.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct Swarm {
    /// One in so many calls is slow, both ways; 0 for none.
    pub slow_every: u64,
    /// Which ones.
    pub salt: u64,
    /// Weights of restarts, wipes and timeouts, over the usual ones.
    pub restarts: u64,
    pub wipes: u64,
    pub timeouts: u64,
    /// Percent of writes without data.
    pub empty: u64,
}

impl Swarm {
    /// No leaning.
    pub const EVEN: Self =
        Self { slow_every: 0, salt: 0, restarts: 1, wipes: 1, timeouts: 1, empty: 0 };

    /// Some leaning.
    pub fn draw(rng: &mut Rng) -> Self {
        let mut pick = |from: &[u64]| from[rng.below(from.len() as u64) as usize];
        Self {
            slow_every: pick(&[0, 2, 3, 5]),
            salt: pick(&[1, 2, 3, 5, 7, 11, 13]),
            restarts: pick(&[1, 1, 6]),
            wipes: pick(&[1, 4, 16]),
            timeouts: pick(&[1, 1, 3]),
            empty: pick(&[0, 30, 100]),
        }
    }

    /// Whether a task's calls to a drive are slow.
    pub fn is_slow(&self, task: u32, drive: u8) -> bool {
        let mixed = (u64::from(task) * 31 + u64::from(drive) * 17 + self.salt) * 0x9e37_79b9;
        self.slow_every > 0 && (mixed >> 7).is_multiple_of(self.slow_every)
    }
}

/// A configuration.
#[derive(Clone, PartialEq, Eq, Debug, Hash)]
pub struct Config {
    pub drives: u8,
    pub versioned: bool,
    pub faults: Faults,
    pub scripts: Vec<Vec<Plan>>,
    pub budgets: Budgets,
    /// Whether choices within an event (clock skew, known-down drives, tiny objects) are drawn.
    pub drawn: bool,
    pub settles: Settles,
}

const FAULTS: [(Faults, &str); 5] = [
    (Faults::Steady, "steady"),
    (Faults::Restarts, "restarts"),
    (Faults::Outage, "outage"),
    (Faults::Wipe, "wipe"),
    (Faults::Rot, "rot"),
];

/// Configurations there are: 3 set sizes, 2 kinds of bucket, 4 kinds of faults.
pub const COUNT: u64 = 24;

/// Those that come after them, with rot: a part of their own.
pub const ROTTEN: u64 = 6;

/// Whether configuration `index` has faults of a kind.
pub fn has(index: u64, faults: Faults) -> bool {
    FAULTS[(index / 6) as usize].0 == faults
}

/// The name of configuration `index` (of [`COUNT`] and [`ROTTEN`]).
pub fn name(index: u64) -> String {
    let kind = if index / 3 % 2 == 1 { "versioned" } else { "plain" };
    format!("n{}-{kind}-{}", 3 + index % 3, FAULTS[(index / 6) as usize].1)
}

impl Config {
    /// Configuration `index` (of [`COUNT`] and [`ROTTEN`]) with scripts and budgets drawn.
    pub fn draw(index: u64, rng: &mut Rng) -> Self {
        let faults = FAULTS[(index / 6) as usize].0;
        let versioned = index / 3 % 2 == 1;
        let few = |rng: &mut Rng, most: u64| rng.below(most + 1) as u32;
        let wild = faults != Faults::Steady;
        let budgets = Budgets {
            timeouts: few(rng, 10),
            drops: few(rng, 8),
            doubles: few(rng, 4),
            crashes: few(rng, 2),
            restarts: if wild { few(rng, 4) } else { 0 },
            outages: if faults == Faults::Outage { 1 + few(rng, 2) } else { 0 },
            wipes: u32::from(faults == Faults::Wipe),
            sweeps: few(rng, 2),
            heals: few(rng, 2),
            purges: few(rng, 1),
            leaps: few(rng, 4),
            redraws: u32::MAX,
            rots: u32::from(faults == Faults::Rot),
        };
        let scripts = draw_scripts(versioned, rng);
        let (drives, settles) = (3 + (index % 3) as u8, Settles::Drawn);
        Self { drives, versioned, faults, scripts, budgets, drawn: true, settles }
    }
}

/// Two blind writers, a deleter, a conditional writer, two readers; some of them absent.
fn draw_scripts(versioned: bool, rng: &mut Rng) -> Vec<Vec<Plan>> {
    let mut scripts = Vec::new();
    if rng.chance(30) {
        // A nearly idle key: nothing but what is late disturbs what is late.
        let one = |rng: &mut Rng| match rng.below(4) {
            0 => Plan::Create,
            1 => {
                if versioned {
                    Plan::DeleteVersion
                } else {
                    Plan::Delete
                }
            }
            _ => Plan::Put,
        };
        let writers = 1 + rng.below(2);
        scripts.extend((0..writers).map(|_| vec![one(rng)]));
        scripts.push(vec![Plan::Get; 1 + rng.below(2) as usize]);
        return scripts;
    }
    for _ in 0..2 {
        scripts.push(vec![Plan::Put; 1 + rng.below(2) as usize]);
    }
    if rng.chance(70) {
        let delete = if versioned { Plan::DeleteVersion } else { Plan::Delete };
        scripts.push(vec![delete; 1 + rng.below(2) as usize]);
    }
    for _ in 0..rng.below(3) {
        let one = |rng: &mut Rng| if rng.chance(50) { Plan::Create } else { Plan::Replace };
        scripts.push((0..1 + rng.below(2)).map(|_| one(rng)).collect());
    }
    for _ in 0..1 + rng.below(2) {
        let one = |rng: &mut Rng| {
            if versioned && rng.chance(30) { Plan::GetVersion } else { Plan::Get }
        };
        scripts.push((0..1 + rng.below(3)).map(|_| one(rng)).collect());
    }
    scripts
}
