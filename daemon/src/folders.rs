//! The drives' folders of this node before they are opened: what is on them, and the two steps of
//! formatting (see [`crate::forming`]). Blocks; belongs on a thread for it.
//!
//! On each drive: `identity` and `layout` once it is formatted, `layout.proposed` between the steps.

use std::{
    fs,
    os::unix::fs::DirBuilderExt,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use holdfast_drive::{
    Drive, DriveOptions, Identity,
    api::Standing,
    disk::{Disk, read_file, replace_file},
    disk_claim::is_taken,
    disk_real::RealDisk,
};
use holdfast_placement::layout::DOCUMENT_BYTES_MAX;
use holdfast_types::{DriveId, NodeIndex, SetIndex, seam::Clock};

use crate::{
    failure::Failure,
    forming::{Document, Found, REMAINS, Surveyed, may_format},
    places::{check_distinct, is_on_root},
};

/// The layout in force.
const LAYOUT: &str = "layout";
/// The layout proposed, kept until the drive is formatted by it.
const PROPOSED: &str = "layout.proposed";

/// Where the files of a drive are moved that lost its memory: nobody reads them but people.
const ASIDE: &str = "aside";

/// Names that a blank folder may have: what file systems and interrupted first steps leave, and what was
/// set aside.
const HARMLESS: [&str; 3] = ["lost+found", "layout.proposed.tmp", ASIDE];

/// Names that a drive's files have (docs/format/identity.md).
const OURS: [&str; 11] = [
    "identity",
    LAYOUT,
    PROPOSED,
    crate::opens::FILE,
    crate::quarantine::FILE,
    "log",
    "volumes",
    "runs",
    "manifest",
    "index",
    "index.aside",
];

/// Times files can be set aside on one drive before somebody has to look.
const ASIDE_MAX: u32 = 1000;

/// The folders of this node.
pub struct Folders {
    paths: Vec<String>,
    clock: Arc<dyn Clock>,
    allow_root_disk: bool,
    options: DriveOptions,
    /// Held while folders are changed: the first node's call and this node's own start may both
    /// complete a formatting, and a drive must not be formatted under one that is opened.
    changing: Mutex<()>,
    /// Until the drives are open, which claim their folders themselves and give them up when they fail,
    /// so that they can be unmounted.
    claims: Mutex<Vec<RealDisk>>,
}

impl Folders {
    /// The folders at `paths`; those that are not there are made.
    ///
    /// # Errors
    /// [`Failure`] for a folder on the root file system, unless that is allowed, and when another process
    /// uses all folders. One of several may hang on a process that cannot end: the others serve.
    pub fn prepare(
        paths: Vec<String>,
        allow_root_disk: bool,
        clock: Arc<dyn Clock>,
    ) -> Result<Self, Failure> {
        for path in &paths {
            if !allow_root_disk && is_on_root(Path::new(path)) {
                return Err(Failure::new(
                    format!("use drive {path}: it is on the root file system"),
                    "mount a drive there, or allow it for development and tests with \
                     --allow-root-disk",
                ));
            }
            // A folder that cannot be made shows as unusable when it is surveyed.
            let _ = fs::DirBuilder::new().recursive(true).mode(0o750).create(path);
        }
        check_distinct(&paths)?;
        if !paths.is_empty() && paths.iter().all(|path| is_taken(path)) {
            return Err(Failure::new(
                format!("use drive {}: another process uses it", paths[0]),
                "stop that process (`fuser -v` on the folder names it), or give this node folders of \
                 its own",
            ));
        }
        // A folder that cannot be claimed shows as unusable when it is surveyed.
        let claims = paths.iter().filter_map(|path| RealDisk::new(path).ok()).collect();
        let claims = Mutex::new(claims);
        let options = DriveOptions::default();
        Ok(Self { claims, paths, clock, allow_root_disk, options, changing: Mutex::default() })
    }

    /// Leaves the folders to the drives that are open in them.
    pub fn release(&self) {
        self.claims.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// The folders' paths.
    #[must_use]
    pub fn paths(&self) -> &[String] {
        &self.paths
    }

    /// What is on each folder.
    #[must_use]
    pub fn survey(&self) -> Vec<Surveyed> {
        let one = |path: &String| Surveyed { path: path.clone(), found: survey_folder(path) };
        self.paths.iter().map(one).collect()
    }

    /// Step 1 of formatting: every folder keeps `document` as proposed. A crash leaves some with it:
    /// the first node proposes again.
    ///
    /// # Errors
    /// What is in the way; nothing is formatted.
    pub fn propose(&self, document: &Document) -> Result<(), String> {
        let _alone = self.alone();
        for surveyed in self.survey() {
            match surveyed.found {
                Found::Blank | Found::Proposed(_) => {}
                Found::Unusable(why) => return Err(format!("{}: {why}", surveyed.path)),
                Found::Remains => return Err(format!("{}: {REMAINS}", surveyed.path)),
                Found::Formatted { drive, .. } => {
                    return Err(format!("{} is formatted already, as {drive}", surveyed.path));
                }
            }
        }
        for path in &self.paths {
            let disk = RealDisk::new(path).map_err(|error| error.to_string())?;
            replace_file(&disk, PROPOSED, &document.bytes).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    /// Step 2 of formatting: every folder that keeps `document` as proposed becomes the drive that
    /// it names. Repeating is harmless; other folders stay as they are.
    ///
    /// # Errors
    /// When a folder cannot be formatted; the others are all the same.
    pub fn commit(&self, document: &Document, me: NodeIndex) -> Result<(), String> {
        let _alone = self.alone();
        let mut failed = Vec::new();
        for surveyed in self.survey() {
            let done = match &surveyed.found {
                found if may_format(found, document) => self.format(&surveyed.path, document, me),
                Found::Formatted { cluster, .. } if *cluster == document.layout.cluster => {
                    settle_layout(&surveyed.path)
                }
                _ => Ok(()),
            };
            failed.extend(done.err());
        }
        if failed.is_empty() { Ok(()) } else { Err(failed.join("; ")) }
    }

    /// Makes a blank folder the drive `fresh` of a set that has a past: it joins. The layout first, the
    /// identity last: a crash in between leaves remains, which are set aside.
    ///
    /// # Errors
    /// When the folder is not blank, or on the root file system though that is not allowed.
    pub fn format_joining(
        &self,
        path: &str,
        fresh: DriveId,
        set: SetIndex,
        document: &Document,
    ) -> Result<(), String> {
        let _alone = self.alone();
        self.check_place(path)?;
        if survey_folder(path) != Found::Blank {
            return Err(format!("format drive {path}: it is not blank"));
        }
        let disk = RealDisk::new(path).map_err(|error| error.to_string())?;
        replace_file(&disk, LAYOUT, &document.bytes).map_err(|error| error.to_string())?;
        let identity = Identity {
            drive: fresh,
            cluster: document.layout.cluster,
            set: Some(set),
            formatted_at: self.clock.wall_micros(),
        };
        let disk: Arc<dyn Disk> = Arc::new(disk);
        Drive::format_as(&disk, &identity, &self.options, Standing::Joining)
            .map_err(|error| error.to_string())
    }

    /// Whether a new drive may be made at a path: not where a mount is missing.
    ///
    /// # Errors
    /// One line of cause and cure.
    pub fn check_place(&self, path: &str) -> Result<(), String> {
        if !self.allow_root_disk && is_on_root(Path::new(path)) {
            return Err(format!(
                "use drive {path}: it is on the root file system; mount a drive there"
            ));
        }
        Ok(())
    }

    /// Moves a drive's files aside within its folder, untouched, so that the folder is blank.
    ///
    /// # Errors
    /// When there is something that is not a drive's, or the file system fails.
    pub fn set_aside(&self, path: &str) -> Result<(), String> {
        let _alone = self.alone();
        let failed =
            |error: std::io::Error| format!("set the files of drive {path} aside: {error}");
        let root = Path::new(path);
        let aside = root.join(ASIDE);
        let free = (1..=ASIDE_MAX).map(|n| aside.join(n.to_string())).find(|to| !to.exists());
        let to = free.ok_or_else(|| format!("{path}/{ASIDE} is full; empty it"))?;
        let mut names = Vec::new();
        for entry in fs::read_dir(root).map_err(failed)? {
            let name = entry.map_err(failed)?.file_name();
            let text = name.to_string_lossy().into_owned();
            if is_ours(&text) {
                names.push(name);
            } else if !HARMLESS.contains(&text.as_str()) {
                return Err(format!(
                    "set the files of drive {path} aside: {text} is not a drive's"
                ));
            }
        }
        fs::DirBuilder::new().recursive(true).mode(0o750).create(&to).map_err(failed)?;
        // The identity goes first: a crash in between leaves remains, never half a drive.
        names.sort_by_key(|name| name != "identity");
        for name in names {
            fs::rename(root.join(&name), to.join(&name)).map_err(failed)?;
        }
        let disk = RealDisk::new(path).map_err(|error| error.to_string())?;
        disk.sync_dir("").map_err(|error| error.to_string())
    }

    /// Gives every drive of the cluster the layout that is in force now, if it has another.
    pub fn rewrite_layout(&self, document: &Document) {
        let _alone = self.alone();
        for surveyed in self.survey() {
            let Found::Formatted { cluster, document: known, .. } = &surveyed.found else {
                continue;
            };
            let same = known.as_ref().is_some_and(|known| known.layout == document.layout);
            if *cluster != document.layout.cluster || same {
                continue;
            }
            let written = RealDisk::new(&surveyed.path)
                .and_then(|disk| replace_file(&disk, LAYOUT, &document.bytes));
            if let Err(error) = written {
                tracing::warn!(path = surveyed.path, %error, "write the layout");
            }
        }
    }

    /// Writes a file into the folder of every drive; how many have it now, and why others do not.
    pub fn keep(&self, name: &str, bytes: &[u8]) -> (usize, Option<String>) {
        let _alone = self.alone();
        let (mut kept, mut why) = (0, None);
        for surveyed in self.survey() {
            if matches!(surveyed.found, Found::Formatted { .. }) {
                let disk = RealDisk::new(&surveyed.path);
                match disk.and_then(|disk| replace_file(&disk, name, bytes)) {
                    Ok(()) => kept += 1,
                    Err(error) => why = Some(error.to_string()),
                }
            }
        }
        (kept, why)
    }

    /// The lock guards no value that a panic could leave half changed.
    fn alone(&self) -> MutexGuard<'_, ()> {
        self.changing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// 1. The drive's files and, last, its identity: a crash before leaves a proposal, which is taken
    ///    up again; a crash after leaves a drive whose layout is still named proposed.
    /// 2. The layout gets its name.
    fn format(&self, path: &str, document: &Document, me: NodeIndex) -> Result<(), String> {
        let layout = &document.layout;
        let of_this_folder = layout.sets().find_map(|set| {
            let slot = set.drives.iter().find(|slot| slot.node == me && slot.path == path)?;
            Some((slot.drive, set.index))
        });
        let Some((drive, set)) = of_this_folder else {
            return Err(format!("format drive {path}: the layout has no drive there"));
        };
        let identity = Identity {
            drive,
            cluster: layout.cluster,
            set: Some(set),
            formatted_at: self.clock.wall_micros(),
        };
        let disk = RealDisk::new(path).map_err(|error| error.to_string())?;
        let disk: Arc<dyn Disk> = Arc::new(disk);
        Drive::format(&disk, &identity, &self.options).map_err(|error| error.to_string())?;
        settle_layout(path)
    }
}

/// Gives the layout of a formatted drive its name, if it still is named proposed.
fn settle_layout(path: &str) -> Result<(), String> {
    let disk = RealDisk::new(path).map_err(|error| error.to_string())?;
    match disk.rename(PROPOSED, LAYOUT) {
        Err(error) if error.is_not_found() => Ok(()),
        Err(error) => Err(error.to_string()),
        Ok(()) => disk.sync_dir("").map_err(|error| error.to_string()),
    }
}

fn survey_folder(path: &str) -> Found {
    let unusable = |error: &dyn std::fmt::Display| Found::Unusable(error.to_string());
    let disk = match RealDisk::new(path) {
        Ok(disk) => disk,
        Err(error) => return unusable(&error),
    };
    match Identity::load(&disk) {
        Err(fault) => unusable(&fault),
        Ok(Some(Identity { drive, cluster, .. })) => match document(&disk, &[LAYOUT, PROPOSED]) {
            Ok(document) => Found::Formatted { drive, cluster, document },
            // A drive of ours with a rotten layout: the others have it.
            Err(_) => Found::Formatted { drive, cluster, document: None },
        },
        Ok(None) => match document(&disk, &[PROPOSED]) {
            Ok(Some(document)) => Found::Proposed(document),
            // Cannot have been acknowledged, or it would be whole: as good as none.
            Err(_) => Found::Blank,
            Ok(None) => match disk.list("") {
                Err(error) => unusable(&error),
                Ok(names) => match names.iter().find(|name| !HARMLESS.contains(&name.as_str())) {
                    None => Found::Blank,
                    Some(_) if names.iter().all(|name| is_remains(name)) => Found::Remains,
                    Some(name) => Found::Unusable(format!(
                        "it is no drive of Holdfast and not empty ({name} is there)"
                    )),
                },
            },
        },
    }
}

/// Whether a name is one that a drive's files have.
fn is_ours(name: &str) -> bool {
    OURS.contains(&name.strip_suffix(".tmp").unwrap_or(name))
}

fn is_remains(name: &str) -> bool {
    is_ours(name) || HARMLESS.contains(&name)
}

/// The first of the named documents that is there.
fn document(disk: &RealDisk, names: &[&str]) -> Result<Option<Document>, String> {
    for name in names {
        match read_file(disk, name, DOCUMENT_BYTES_MAX as u64) {
            Err(error) if error.is_not_found() => {}
            Err(error) => return Err(error.to_string()),
            Ok(bytes) => {
                let document = Document::read(Bytes::from(bytes));
                return document.map(Some).map_err(|error| error.to_string());
            }
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use holdfast_placement::{Layout, parse_volumes};
    use holdfast_types::{
        ClusterId,
        seam::{ManualClock, SeededRandom},
    };

    use super::*;

    fn rig() -> (tempfile::TempDir, Folders, Document) {
        let dir = tempfile::tempdir().expect("a folder");
        let base = dir.path().display();
        let paths = (1..=2).map(|n| format!("{base}/d{n}")).collect();
        let clock = Arc::new(ManualClock::at(1_000_000));
        let mut folders = Folders::prepare(paths, true, clock).expect("prepared");
        folders.options.segment_bytes = 1 << 20;
        let pools = parse_volumes(&[format!("{base}/d{{1...2}}")]).expect("valid");
        let random = SeededRandom::new(1);
        let layout = Layout::plan(ClusterId(7), &pools, "http://me:1", &random).expect("planned");
        (dir, folders, Document::of(layout))
    }

    fn found(folders: &Folders) -> Vec<Found> {
        folders.survey().into_iter().map(|surveyed| surveyed.found).collect()
    }

    /// Goal: the two steps end in drives with the layout's identities, and neither formats what it must
    /// not. Method: commit before propose, propose, commit, both again.
    #[test]
    fn formatting_takes_two_steps_and_happens_once() {
        let (_dir, folders, document) = rig();
        let me = NodeIndex(0);
        folders.commit(&document, me).expect("nothing to do");
        assert_eq!(found(&folders), [Found::Blank, Found::Blank]);
        folders.propose(&document).expect("kept");
        let proposed = Found::Proposed(document.clone());
        assert_eq!(found(&folders), [proposed.clone(), proposed]);
        folders.commit(&document, me).expect("formatted");
        let formatted = found(&folders);
        let slots = &document.layout.first_set().drives;
        for (found, slot) in formatted.iter().zip(slots) {
            let document = Some(document.clone());
            let expected = Found::Formatted { drive: slot.drive, cluster: ClusterId(7), document };
            assert_eq!(*found, expected);
        }
        folders.commit(&document, me).expect("nothing to do");
        let refused = folders.propose(&document).expect_err("formatted already");
        assert!(refused.contains("formatted already"), "{refused}");
        assert_eq!(found(&folders), formatted);
    }

    /// Goal: a peer's call and one's own start may complete a formatting at the same time. Method: many
    /// threads commit at once; each drive is formatted by one of them, and none fails.
    #[test]
    fn concurrent_commits_format_once() {
        let (_dir, folders, document) = rig();
        folders.propose(&document).expect("kept");
        std::thread::scope(|scope| {
            let commit = || folders.commit(&document, NodeIndex(0));
            let all: Vec<_> = (0..8).map(|_| scope.spawn(commit)).collect();
            for one in all {
                assert_eq!(one.join().expect("no panic"), Ok(()));
            }
        });
        assert!(found(&folders).iter().all(|found| matches!(found, Found::Formatted { .. })));
    }

    /// Goal: a crash between the steps of one drive is completed. Method: its layout named as the crash
    /// leaves it; a wiped drive beside it stays blank.
    #[test]
    fn a_crash_within_step_two_is_completed_and_a_wiped_drive_stays_blank() {
        let (dir, folders, document) = rig();
        folders.propose(&document).expect("kept");
        folders.commit(&document, NodeIndex(0)).expect("formatted");
        let first = dir.path().join("d1");
        fs::rename(first.join(LAYOUT), first.join(PROPOSED)).expect("renamed");
        fs::remove_dir_all(dir.path().join("d2")).expect("wiped");
        fs::create_dir(dir.path().join("d2")).expect("made");
        assert!(matches!(&found(&folders)[0], Found::Formatted { document: Some(_), .. }));
        folders.commit(&document, NodeIndex(0)).expect("completed");
        assert!(first.join(LAYOUT).exists() && !first.join(PROPOSED).exists());
        assert_eq!(found(&folders)[1], Found::Blank);
    }

    /// Goal: nobody's files are taken for room. Method: a stray file; a file in the folder's place.
    #[test]
    fn folders_with_other_files_are_not_touched() {
        let (dir, folders, document) = rig();
        fs::write(dir.path().join("d1/thesis.tex"), "precious").expect("written");
        let Found::Unusable(why) = &found(&folders)[0] else { panic!("not empty") };
        assert!(why.contains("thesis.tex"), "{why}");
        assert!(folders.propose(&document).is_err());
        assert_eq!(found(&folders)[1], Found::Blank, "no folder keeps what not all can keep");
        fs::remove_dir_all(dir.path().join("d1")).expect("removed");
        fs::write(dir.path().join("d1"), "a file").expect("written");
        assert!(matches!(found(&folders)[0], Found::Unusable(_)));
    }

    #[test]
    fn the_root_file_system_is_refused_unless_allowed() {
        let clock = Arc::new(ManualClock::at(0));
        let path = "/holdfast-test-that-is-not-there/d1".to_owned();
        let failure = Folders::prepare(vec![path.clone()], false, clock).err().expect("refused");
        assert!(failure.cause.contains("root file system"), "{failure}");
        assert!(!Path::new(&path).exists(), "nothing is left behind");
    }
}
