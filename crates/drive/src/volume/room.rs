//! Volumes that take no more, and volumes that go.

use std::sync::atomic::Ordering;

use crate::disk::DiskError;

use super::{VOLUME_FOLDER, VolumeSet, plan::Fill, volume_path};

impl VolumeSet {
    /// What new volumes leave free, and whether uploads are refused.
    pub fn set_limits(&self, reserve: u64, full: bool) {
        self.reserve.store(reserve, Ordering::Relaxed);
        self.full.store(full, Ordering::Relaxed);
    }

    /// Whether uploads are refused: their Accepts would be.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.full.load(Ordering::Relaxed)
    }

    /// How full the volumes are, by number.
    #[must_use]
    pub fn fills(&self) -> Vec<Fill> {
        let inner = self.inner.lock();
        let fill = |(id, volume): (&u32, &super::Volume)| Fill {
            volume: *id,
            blocks: volume.taken.len(),
            taken: volume.taken.len() - volume.taken.clear_count(),
            closed: volume.closed,
        };
        inner.volumes.iter().map(fill).collect()
    }

    /// Puts nothing into a volume any more, so that it can be emptied.
    pub fn close(&self, volume: u32) {
        if let Some(volume) = self.inner.lock().volumes.get_mut(&volume) {
            volume.closed = true;
        }
    }

    /// Puts shards into closed volumes again. Whether there were any.
    pub fn open_closed(&self) -> bool {
        let mut inner = self.inner.lock();
        let mut any = false;
        for volume in inner.volumes.values_mut().filter(|volume| volume.closed) {
            volume.closed = false;
            any = true;
        }
        any
    }

    /// Forgets a volume that holds nothing, unless it is the last one, whose number the next one's
    /// follows. Whether it is forgotten: then its file is to be removed.
    ///
    /// Nothing durable names a block of it: its blocks are free, so the records that dropped what lay
    /// there are durable (INV-VOL-1), and whichever manifest a replay starts from, it ends behind them.
    pub fn take_out(&self, volume: u32) -> bool {
        let mut inner = self.inner.lock();
        let is_last = inner.volumes.keys().next_back() == Some(&volume);
        let is_empty = inner
            .volumes
            .get(&volume)
            .is_some_and(|volume| volume.taken.clear_count() == volume.taken.len());
        let goes = is_empty && !is_last && !inner.growing;
        if goes {
            inner.volumes.remove(&volume);
        }
        goes
    }

    /// Removes the file of a volume that was taken out. A crash before the folder is synced may leave
    /// it: then it is a volume without a taken block again.
    ///
    /// # Errors
    /// When the device fails.
    pub fn remove_file(&self, volume: u32) -> Result<(), DiskError> {
        self.disk.remove(&volume_path(volume))?;
        self.disk.sync_dir(VOLUME_FOLDER)
    }
}
