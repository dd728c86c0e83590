//! How often each drive of the cluster was opened, as far as this node was told: so that a drive which comes back older
//! than it was is known for what it is (INV-MEMBER-3, ADR 0023).
//!
//! ```text
//! start: own folders' files, and the peers' word  -->  each drive opens only behind what is remembered of it
//!     -->  its new count is kept on this node's drives and told to the peers, who keep it on theirs  -->  it serves
//! ```
//!
//! The file `opens` in each drive's folder: a line `<drive> <count>` for each drive, by rising id; written whole and durably.
//! One that is not readable says nothing: the others have it, too.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use futures::future::join_all;
use holdfast_drive::{api::DriveFacts, disk::read_file, disk_real::RealDisk, fabric::RemoteNode};
use holdfast_placement::Layout;
use holdfast_proto::{v1, value};
use holdfast_types::DriveId;

use crate::folders::Folders;

/// The file in each drive's folder.
pub const FILE: &str = "opens";

/// Bytes of it at most: as many drives as there ever are in a cluster, and those that left it since the last start.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Peers are given this long to answer before a drive is opened, and before it serves. Those that are away say
/// nothing; a node that is told to start starts.
pub const PATIENCE: Duration = Duration::from_secs(2);

/// A peer that is not connected yet is asked again after this time.
const AGAIN: Duration = Duration::from_millis(100);

/// What is remembered.
#[derive(Default)]
pub struct Opens {
    known: Mutex<Known>,
    /// Held while files are written.
    writing: Mutex<()>,
}

#[derive(Default)]
struct Known {
    counts: BTreeMap<DriveId, u64>,
    /// What the files say may be less.
    is_dirty: bool,
}

impl Opens {
    /// What the folders' files say, the most of each drive: one that is older says less.
    #[must_use]
    pub fn load(paths: &[String]) -> Arc<Self> {
        let opens = Self::default();
        for path in paths {
            let read = RealDisk::new(path).and_then(|disk| read_file(&disk, FILE, FILE_BYTES_MAX));
            if let Ok(bytes) = read {
                opens.learn(parse(&bytes));
            }
        }
        Arc::new(opens)
    }

    /// The lock guards no value that a panic could leave half changed.
    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How often a drive was opened; 0 when nobody said.
    #[must_use]
    pub fn of(&self, drive: DriveId) -> u64 {
        self.known().counts.get(&drive).copied().unwrap_or(0)
    }

    /// Takes in what somebody says. A count never falls.
    pub fn learn(&self, told: impl IntoIterator<Item = (DriveId, u64)>) {
        let mut known = self.known();
        for (drive, count) in told {
            let kept = known.counts.entry(drive).or_default();
            if count > *kept {
                *kept = count;
                known.is_dirty = true;
            }
        }
    }

    /// Takes in what a message says; what is malformed says nothing.
    pub fn learn_wire(&self, told: Vec<v1::DriveOpens>) {
        let read = |one: v1::DriveOpens| {
            let id = value::read_id(&one.drive, "drive").ok()?;
            Some((DriveId::from_bytes(id), one.opens))
        };
        self.learn(told.into_iter().filter_map(read));
    }

    /// Everything, as a message.
    #[must_use]
    pub fn to_wire(&self) -> Vec<v1::DriveOpens> {
        self.known().counts.iter().map(|(drive, count)| wire(*drive, *count)).collect()
    }

    /// Forgets drives that a layout does not know: they never serve again under their identity.
    pub fn retain(&self, layout: &Layout) {
        let mut known = self.known();
        let before = known.counts.len();
        known.counts.retain(|drive, _| layout.slot_of(*drive).is_some());
        known.is_dirty |= known.counts.len() < before;
    }

    /// Writes what was learnt to every drive of this node. Blocks.
    ///
    /// # Errors
    /// When no drive could keep it: whoever told it must know.
    pub fn keep(&self, folders: &Folders) -> Result<(), String> {
        // Whoever finds nothing to write must know that it is written.
        let _alone = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let text = {
            let mut known = self.known();
            if !std::mem::take(&mut known.is_dirty) {
                return Ok(());
            }
            text(&known.counts)
        };
        let (kept, why) = folders.keep(FILE, text.as_bytes());
        if kept > 0 {
            return Ok(());
        }
        // Not on any drive yet: those that are being formatted get it with the next change, or look.
        self.known().is_dirty = true;
        why.map_or(Ok(()), |why| Err(format!("keep how often drives were opened: {why}")))
    }
}

/// What facts say of drives that serve.
#[must_use]
pub fn of_facts(facts: &[DriveFacts]) -> Vec<(DriveId, u64)> {
    let serving = facts.iter().filter(|facts| facts.state.serves());
    serving.map(|facts| (facts.drive, facts.open_count)).collect()
}

/// Tells every peer that answers within `patience` how often drives of this node were opened, which they keep, and hears
/// what they know.
pub async fn exchange(
    opens: &Opens,
    peers: &[Arc<RemoteNode>],
    own: &[(DriveId, u64)],
    patience: Duration,
) {
    let told: Vec<_> = own.iter().map(|(drive, count)| wire(*drive, *count)).collect();
    let each = peers.iter().map(|peer| async {
        let answered = async {
            loop {
                if let Ok(reply) = peer.survey(told.clone()).await {
                    return reply;
                }
                tokio::time::sleep(AGAIN).await;
            }
        };
        if let Ok(reply) = tokio::time::timeout(patience, answered).await {
            opens.learn_wire(reply.opens);
        }
    });
    join_all(each).await;
}

fn wire(drive: DriveId, opens: u64) -> v1::DriveOpens {
    v1::DriveOpens { drive: value::id(drive.to_bytes()), opens }
}

fn text(counts: &BTreeMap<DriveId, u64>) -> String {
    let mut text = String::new();
    for (drive, count) in counts {
        writeln!(text, "{drive} {count}").expect("a string takes everything");
    }
    text
}

/// What a file says; lines that are not whole say nothing.
fn parse(bytes: &[u8]) -> Vec<(DriveId, u64)> {
    let line = |line: &str| {
        let (drive, count) = line.split_once(' ')?;
        Some((drive.parse().ok()?, count.parse().ok()?))
    };
    String::from_utf8_lossy(bytes).lines().filter_map(line).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: the most that anyone said of a drive counts, whoever says it last, and survives file and wire. Method:
    /// learn out of order; files of two folders, one older, one torn.
    #[test]
    fn the_most_that_anyone_said_counts() {
        let opens = Opens::default();
        opens.learn([(DriveId(1), 4), (DriveId(2), 9)]);
        opens.learn([(DriveId(1), 3), (DriveId(3), 1)]);
        assert_eq!([1, 2, 3, 4].map(|n| opens.of(DriveId(n))), [4, 9, 1, 0]);
        let heard = Opens::default();
        heard.learn_wire(opens.to_wire());
        heard.learn_wire(vec![v1::DriveOpens { drive: vec![1, 2].into(), opens: 7 }]);
        assert_eq!(heard.to_wire(), opens.to_wire());

        let dir = tempfile::tempdir().expect("a folder");
        let path = |n: u32| dir.path().join(n.to_string()).display().to_string();
        let paths = [1, 2, 3].map(path);
        let whole = text(&opens.known().counts);
        let older = text(&[(DriveId(1), 2), (DriveId(2), 8), (DriveId(5), 6)].into());
        for (path, text) in paths.iter().zip([&whole, &older]) {
            std::fs::create_dir(path).expect("created");
            std::fs::write(format!("{path}/{FILE}"), format!("{text}0000 torn")).expect("written");
        }
        let read = Opens::load(&paths);
        assert_eq!([1, 2, 3, 5].map(|n| read.of(DriveId(n))), [4, 9, 1, 6]);
    }
}
