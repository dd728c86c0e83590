//! Faults brought about on purpose (docs/testbed.md): drives that hang, links that are cut.
//!
//! Nothing of it is in the way unless `HOLDFAST_FAULTS` names a folder, which only `testbed up` does.
//! A fault is in effect while its control file lies there; a file of the same name with `.on` added
//! says that this process has seen it. The folder is looked at by one thread, so what is wrapped pays
//! for a flag in memory.
//!
//! | control file | effect |
//! |---|---|
//! | `hang-%path%of%drive` | every call to the drive's files waits |
//! | `cut-HOST:PORT-HOST:PORT` | what the first node dials to the second neither connects nor moves |

mod disk;
mod link;

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use holdfast_drive::{
    disk::Disk,
    fabric::{Dialer, TcpDialer},
};

use holdfast_tls::Certs;

use crate::tls::TlsDialer;
use disk::HangingDisk;
use link::CutDialer;

/// The setting.
const SETTING: &str = "HOLDFAST_FAULTS";

/// How often the folder is looked at, and how long what is in effect waits before it looks again.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// One fault that may be in effect.
#[derive(Debug, Default)]
pub struct Switch(AtomicBool);

impl Switch {
    /// Whether the fault is in effect.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// Waits until it is not.
    fn wait(&self) {
        while self.is_on() {
            std::thread::sleep(LOOK_AGAIN);
        }
    }
}

/// The faults of this process.
#[derive(Debug, Default)]
pub struct Faults {
    folder: Option<PathBuf>,
    switches: Mutex<BTreeMap<String, Arc<Switch>>>,
}

impl Faults {
    /// As the environment says; none by default.
    #[must_use]
    pub fn from_env(env: &HashMap<String, String>) -> Arc<Self> {
        let folder = env.get(SETTING).filter(|folder| !folder.is_empty());
        folder.map_or_else(Arc::default, |folder| Self::watching(folder.into()))
    }

    /// Those whose control files lie in `folder`.
    fn watching(folder: PathBuf) -> Arc<Self> {
        tracing::warn!(folder = %folder.display(), "faults may be brought about in this process");
        let faults = Arc::new(Self { folder: Some(folder), ..Self::default() });
        let watched = Arc::downgrade(&faults);
        std::thread::spawn(move || {
            while let Some(faults) = watched.upgrade() {
                faults.look();
                drop(faults);
                std::thread::sleep(LOOK_AGAIN);
            }
        });
        faults
    }

    /// `disk`, which hangs when it is told to.
    pub fn disk(&self, path: &str, disk: Arc<dyn Disk>) -> Arc<dyn Disk> {
        match self.switch(|| format!("hang-{}", path.replace('/', "%"))) {
            Some(hang) => Arc::new(HangingDisk::new(disk, hang)),
            None => disk,
        }
    }

    /// Connections of the node called `name`, over TLS with `certs`; cut when it is told so.
    pub fn dialer(self: &Arc<Self>, name: &str, certs: Option<Arc<Certs>>) -> Arc<dyn Dialer> {
        match (&self.folder, certs) {
            (Some(_), certs) => Arc::new(CutDialer::new(self.clone(), authority(name), certs)),
            (None, Some(certs)) => Arc::new(TlsDialer(certs)),
            (None, None) => Arc::new(TcpDialer),
        }
    }

    fn switch(&self, name: impl FnOnce() -> String) -> Option<Arc<Switch>> {
        self.folder.as_ref()?;
        let switch = self.switches().entry(name()).or_default().clone();
        self.look();
        Some(switch)
    }

    /// Takes over what the folder says.
    fn look(&self) {
        let Some(folder) = &self.folder else { return };
        for (name, switch) in &*self.switches() {
            let wanted = folder.join(name).exists();
            let seen = folder.join(format!("{name}.on"));
            if wanted == switch.is_on() && wanted == seen.exists() {
                continue;
            }
            switch.0.store(wanted, Ordering::Relaxed);
            let told = if wanted { fs::write(&seen, "") } else { fs::remove_file(&seen) };
            if let Err(error) = told {
                tracing::debug!(%error, "tell that a fault was seen");
            }
            tracing::warn!(name, wanted, "a fault was told");
        }
    }

    /// No panic leaves the map half changed.
    fn switches(&self) -> MutexGuard<'_, BTreeMap<String, Arc<Switch>>> {
        self.switches.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `host:port` of a node's URL.
fn authority(url: &str) -> String {
    url.split_once("://").map_or(url, |(_, rest)| rest).trim_end_matches('/').to_owned()
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use holdfast_drive::{
        disk::{Access, read_file},
        disk_real::RealDisk,
    };

    use super::*;

    fn until(what: &str, mut holds: impl FnMut() -> bool) {
        let begin = Instant::now();
        while !holds() {
            assert!(begin.elapsed() < Duration::from_secs(10), "{what}");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Goal: nothing is wrapped unasked. Method: no setting; the disk that comes back is the one given.
    #[test]
    fn without_the_setting_nothing_is_in_the_way() {
        let folder = tempfile::tempdir().expect("a folder");
        let disk: Arc<dyn Disk> = Arc::new(RealDisk::new(folder.path()).expect("a folder"));
        let same = Faults::from_env(&HashMap::new()).disk("/d", disk.clone());
        assert!(Arc::ptr_eq(&disk, &same));
    }

    /// Goal: a drive hangs while its control file is there, waits and does not fail, and goes on after.
    /// Method: a thread that reads; the file comes and goes; reads without waiting say so.
    #[test]
    fn a_drive_hangs_and_goes_on() {
        let (control, folder) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let env = HashMap::from([(SETTING.to_owned(), control.path().display().to_string())]);
        let faults = Faults::from_env(&env);
        let real: Arc<dyn Disk> = Arc::new(RealDisk::new(folder.path()).unwrap());
        let disk = faults.disk("/mnt/d1", real);
        let file = disk.create("f", Access::Cached).expect("created");
        file.write_at(0, b"bytes").expect("written");
        let (asked, seen) =
            (control.path().join("hang-%mnt%d1"), control.path().join("hang-%mnt%d1.on"));
        fs::write(&asked, "").unwrap();
        until("the fault is seen", || seen.exists());
        let mut buf = [0; 5];
        assert_eq!(file.try_read_at(0, &mut buf), Ok(false), "it would have to wait");
        let reader = std::thread::spawn(move || read_file(&*disk, "f", 100));
        std::thread::sleep(Duration::from_millis(60));
        assert!(!reader.is_finished());
        fs::remove_file(&asked).unwrap();
        until("the end is seen", || !seen.exists());
        assert_eq!(reader.join().unwrap().unwrap(), b"bytes");
    }
}
