//! From a layout to open drives.

use std::sync::Arc;

use holdfast_drive::{
    DriveOptions,
    disk::{Disk, DiskError},
    disk_real::RealDisk,
    supervisor::{DiskFactory, NodeConfig, NodeHandle, NodeLimits, Seat, start_supervisor},
};
use holdfast_placement::Layout;
use holdfast_types::{DriveId, NodeIndex, seam::Clock};

use crate::{
    failure::Failure,
    faults::Faults,
    forming::{Found, Surveyed},
    opens::Opens,
};

/// How often each drive reads every live byte again: in the week the field's arrays are told to.
const SCRUB_EVERY_MICROS: u64 = 7 * 24 * 3600 * 1_000_000;

/// Opens this node's drives in the background.
///
/// # Errors
/// [`Failure`] when the machine gives no threads. A drive that does not open is faulty; the others
/// serve.
pub fn open(
    layout: &Layout,
    me: NodeIndex,
    surveyed: &[Surveyed],
    arbiters: Option<usize>,
    clock: Arc<dyn Clock>,
    faults: &Arc<Faults>,
    opens: &Arc<Opens>,
) -> Result<NodeHandle, Failure> {
    let seat = |surveyed: &Surveyed| Seat {
        path: surveyed.path.clone(),
        disk: device(surveyed.path.clone(), faults),
        expected: expected(layout, me, surveyed),
    };
    let config = NodeConfig {
        name: layout.nodes[me.get()].url.clone(),
        cluster: layout.cluster,
        seats: surveyed.iter().map(seat).collect(),
        options: DriveOptions {
            scrub_every_micros: Some(SCRUB_EVERY_MICROS),
            ..DriveOptions::default()
        },
        remembered: Arc::new({
            let opens = opens.clone();
            move |drive| opens.of(drive)
        }),
        limits: NodeLimits::default(),
        arbiters,
        clock,
    };
    start_supervisor(config).map_err(|error| {
        Failure::new(error.to_string(), "raise the limit of threads of this user (`ulimit -u`)")
    })
}

fn device(path: String, faults: &Arc<Faults>) -> DiskFactory {
    let faults = faults.clone();
    Arc::new(move || {
        let disk: Result<RealDisk, DiskError> = RealDisk::new(&path);
        disk.map(|disk| faults.disk(&path, Arc::new(disk) as Arc<dyn Disk>))
    })
}

/// Which drive has to be in a folder: the layout's. A drive of this node that was mounted at another
/// one's path is itself wherever it is; one of another node has to be taken over first
/// ([`crate::keeper`]).
fn expected(layout: &Layout, me: NodeIndex, surveyed: &Surveyed) -> Option<DriveId> {
    let mine = || layout.sets().flat_map(|set| &set.drives).filter(|slot| slot.node == me);
    if let Found::Formatted { drive, .. } = &surveyed.found
        && let Some(slot) = mine().find(|slot| slot.drive == *drive)
    {
        if slot.path != surveyed.path {
            tracing::info!(%drive, "drive moved from {} to {}", slot.path, surveyed.path);
        }
        return Some(*drive);
    }
    mine().find(|slot| slot.path == surveyed.path).map(|slot| slot.drive)
}

#[cfg(test)]
mod tests {
    use holdfast_placement::parse_volumes;
    use holdfast_types::{ClusterId, seam::SeededRandom};

    use super::*;

    /// Goal: the layout says who is where, and a drive of ours keeps its identity when it moves.
    #[test]
    fn a_moved_drive_is_itself_and_a_foreign_one_is_not_expected() {
        let pools = parse_volumes(&["/d{1...2}".to_owned()]).expect("valid");
        let random = SeededRandom::new(1);
        let layout = Layout::plan(ClusterId(7), &pools, "http://me:1", &random).expect("planned");
        let [one, two] = [0, 1].map(|n| layout.first_set().drives[n].drive);
        let at_one =
            |found| expected(&layout, NodeIndex(0), &Surveyed { path: "/d1".to_owned(), found });
        let drive = |drive| Found::Formatted { drive, cluster: ClusterId(7), document: None };
        assert_eq!(at_one(drive(one)), Some(one));
        assert_eq!(at_one(drive(two)), Some(two));
        assert_eq!(at_one(drive(DriveId(99))), Some(one));
        assert_eq!(at_one(Found::Blank), Some(one));
    }
}
