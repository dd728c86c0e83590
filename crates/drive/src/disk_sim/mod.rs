//! [`SimDisk`]: a disk in memory that misbehaves on demand. For tests and simulations.
//!
//! What it can do: switch off at the N-th call and lose, keep or tear each unsynced block on its own
//! ([`SimDisk::crash`]), forget unsynced names, flip bits ([`SimDisk::rot`]), fail the N-th call, fill
//! up, hang. Blocks of zeros cost no memory.
//!
//! Model: bytes are seen by reads at once; on "media" lies, for each block, what the last successful
//! sync found. A crash picks for each block written since: the old bytes, the new ones, or a mix of
//! sectors. Names not synced: a prefix of the changes survives, as from a journal.

mod media;

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    sync::Arc,
};

use holdfast_types::seam::Random;
use parking_lot::{Condvar, Mutex, MutexGuard};

use self::media::{Inode, NameChange};
use crate::disk::{
    Access, BLOCK, BLOCK_U64, Disk, DiskError, DiskErrorKind, DiskFile, Space, folder_of,
};

/// What happens at a chosen call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mishap {
    /// The call fails, and the next ones work again.
    Fail,
    /// As [`Self::Fail`], for want of a descriptor; for calls that create a file.
    Exhausted,
    /// Power goes: a write may be done in part, and every later call fails until
    /// [`SimDisk::crash`].
    PowerOff,
}

#[derive(Debug, Default, Clone)]
struct State {
    inodes: BTreeMap<u64, Inode>,
    next_inode: u64,
    seen: BTreeMap<String, u64>,
    media: BTreeMap<String, u64>,
    unsynced: Vec<NameChange>,
    folders: BTreeSet<String>,
    calls: u64,
    syncs: u64,
    reads: u64,
    refusals: u64,
    mishap: Option<(u64, Mishap)>,
    off: bool,
    hung: bool,
    cold: bool,
    capacity: u64,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    woken: Condvar,
}

/// A disk in memory; clones show the same disk.
#[derive(Debug, Clone)]
pub struct SimDisk {
    shared: Arc<Shared>,
}

impl SimDisk {
    /// An empty disk of `capacity` bytes.
    #[must_use]
    pub fn new(capacity: u64) -> Self {
        let state = State { capacity, ..State::default() };
        Self { shared: Arc::new(Shared { state: Mutex::new(state), woken: Condvar::new() }) }
    }

    /// A disk of its own with the same content.
    #[must_use]
    pub fn fork(&self) -> Self {
        let state = self.shared.state.lock().clone();
        Self { shared: Arc::new(Shared { state: Mutex::new(state), woken: Condvar::new() }) }
    }

    /// Calls made so far that change something or sync.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.shared.state.lock().calls
    }

    /// File syncs that succeeded.
    #[must_use]
    pub fn syncs(&self) -> u64 {
        self.shared.state.lock().syncs
    }

    /// Writes refused for want of space so far.
    #[must_use]
    pub fn refusals(&self) -> u64 {
        self.shared.state.lock().refusals
    }

    /// Reads of files so far.
    #[must_use]
    pub fn reads(&self) -> u64 {
        self.shared.state.lock().reads
    }

    /// Lets `mishap` happen at the `calls`-th changing call from now (0 is the next).
    pub fn plan(&self, calls: u64, mishap: Mishap) {
        let mut state = self.shared.state.lock();
        state.mishap = Some((state.calls + calls, mishap));
    }

    /// Takes a planned mishap back.
    pub fn plan_nothing(&self) {
        self.shared.state.lock().mishap = None;
    }

    /// Whether power is off.
    #[must_use]
    pub fn is_off(&self) -> bool {
        self.shared.state.lock().off
    }

    /// Sets the capacity, to fill the disk up or make room.
    pub fn set_capacity(&self, capacity: u64) {
        self.shared.state.lock().capacity = capacity;
    }

    /// Lets every call hang until [`Self::resume`].
    pub fn hang(&self) {
        self.shared.state.lock().hung = true;
    }

    /// Lets reads that are not to wait find nothing in memory, as on a disk just mounted.
    pub fn set_cold(&self, cold: bool) {
        self.shared.state.lock().cold = cold;
    }

    /// Ends the hang.
    pub fn resume(&self) {
        self.shared.state.lock().hung = false;
        self.shared.woken.notify_all();
    }

    /// Power loss and power on: what was not synced is lost, kept or torn at `random`'s choice.
    pub fn crash(&self, random: &dyn Random) {
        let mut state = self.shared.state.lock();
        let state = &mut *state;
        let kept = below(random, state.unsynced.len() as u64 + 1) as usize;
        for change in state.unsynced.drain(..).take(kept) {
            change.apply(&mut state.media);
        }
        state.seen = state.media.clone();
        let named: BTreeSet<u64> = state.media.values().copied().collect();
        state.inodes.retain(|inode, _| named.contains(inode));
        for inode in state.inodes.values_mut() {
            inode.crash(random);
        }
        state.off = false;
        state.mishap = None;
    }

    /// Flips bits of one byte, as rot does.
    ///
    /// # Panics
    /// When there is no such file.
    pub fn rot(&self, path: &str, offset: u64, bits: u8) {
        let mut state = self.shared.state.lock();
        let inode = *state.seen.get(path).expect("rot needs an existing file");
        let inode = state.inodes.get_mut(&inode).expect("every name has an inode");
        let (block, within) = (offset / BLOCK_U64, (offset % BLOCK_U64) as usize);
        for side in [&mut inode.seen, &mut inode.media] {
            let bytes = side.entry(block).or_insert_with(|| Arc::new([0; BLOCK]));
            Arc::make_mut(bytes)[within] ^= bits;
        }
    }

    /// Length of a file, without counting as a call.
    #[must_use]
    pub fn len_of(&self, path: &str) -> Option<u64> {
        let state = self.shared.state.lock();
        state.seen.get(path).map(|inode| state.inodes[inode].len)
    }

    /// Every file there is, without counting as a call.
    #[must_use]
    pub fn files(&self) -> Vec<String> {
        self.shared.state.lock().seen.keys().cloned().collect()
    }

    /// Waits while hung, refuses while off.
    fn enter(&self, call: &'static str, path: &str) -> Result<MutexGuard<'_, State>, DiskError> {
        let mut state = self.shared.state.lock();
        while state.hung {
            self.shared.woken.wait(&mut state);
        }
        if state.off {
            return Err(DiskError::new(DiskErrorKind::Failed, call, path, "power is off"));
        }
        Ok(state)
    }

    /// [`Self::enter`] for a call that changes something. `Err` after the mishap; a write whose power
    /// goes is told by [`DiskErrorKind::Failed`] with `off` set, and may have been done in part.
    fn enter_change(
        &self,
        call: &'static str,
        path: &str,
    ) -> Result<(MutexGuard<'_, State>, Option<DiskError>), DiskError> {
        let mut state = self.enter(call, path)?;
        let number = state.calls;
        state.calls += 1;
        let Some((at, mishap)) = state.mishap.filter(|(at, _)| *at == number) else {
            return Ok((state, None));
        };
        state.mishap = None;
        let kind = match mishap {
            Mishap::Exhausted => DiskErrorKind::Exhausted,
            Mishap::Fail | Mishap::PowerOff => DiskErrorKind::Failed,
        };
        let error = DiskError::new(kind, call, path, format!("planned mishap at call {at}"));
        match mishap {
            Mishap::Fail | Mishap::Exhausted => Err(error),
            Mishap::PowerOff => {
                state.off = true;
                Ok((state, Some(error)))
            }
        }
    }

    fn file(&self, inode: u64, path: &str) -> Arc<dyn DiskFile> {
        Arc::new(SimFile { disk: self.clone(), inode, path: path.to_owned() })
    }
}

/// A number below `bound`.
fn below(random: &dyn Random, bound: u64) -> u64 {
    random.next_u64() % bound
}

impl State {
    fn used(&self) -> u64 {
        self.inodes.values().map(|inode| inode.len.next_multiple_of(BLOCK_U64)).sum()
    }

    fn lookup(&self, call: &'static str, path: &str) -> Result<u64, DiskError> {
        let found = self.seen.get(path).copied();
        found.ok_or_else(|| DiskError::new(DiskErrorKind::NotFound, call, path, "no such file"))
    }
}

impl Disk for SimDisk {
    fn name(&self) -> &str {
        "simulated disk"
    }

    fn local_path(&self) -> Option<&Path> {
        None
    }

    fn open(&self, path: &str, _: Access) -> Result<Arc<dyn DiskFile>, DiskError> {
        let inode = self.enter("open", path)?.lookup("open", path)?;
        Ok(self.file(inode, path))
    }

    fn create(&self, path: &str, _: Access) -> Result<Arc<dyn DiskFile>, DiskError> {
        let (mut state, mishap) = self.enter_change("create", path)?;
        let folder = folder_of(path);
        if !folder.is_empty() && !state.folders.contains(folder) {
            let message = "no such folder";
            return Err(DiskError::new(DiskErrorKind::NotFound, "create", path, message));
        }
        if state.seen.contains_key(path) {
            return Err(DiskError::new(DiskErrorKind::Exists, "create", path, "file exists"));
        }
        let inode = state.next_inode;
        state.next_inode += 1;
        state.inodes.insert(inode, Inode::default());
        state.seen.insert(path.to_owned(), inode);
        state.unsynced.push(NameChange::Create(path.to_owned(), inode));
        drop(state);
        mishap.map_or_else(|| Ok(self.file(inode, path)), Err)
    }

    fn rename(&self, from: &str, to: &str) -> Result<(), DiskError> {
        let (mut state, mishap) = self.enter_change("rename", from)?;
        state.lookup("rename", from)?;
        let change = NameChange::Rename(from.to_owned(), to.to_owned());
        change.apply(&mut state.seen);
        state.unsynced.push(change);
        mishap.map_or(Ok(()), Err)
    }

    fn remove(&self, path: &str) -> Result<(), DiskError> {
        let (mut state, mishap) = self.enter_change("remove", path)?;
        let inode = state.lookup("remove", path)?;
        let change = NameChange::Remove(path.to_owned());
        change.apply(&mut state.seen);
        state.unsynced.push(change);
        // The space counts as given back at once; the bytes stay for a crash that undoes the removal.
        if !state.media.values().any(|other| *other == inode) {
            state.inodes.remove(&inode);
        }
        mishap.map_or(Ok(()), Err)
    }

    fn list(&self, folder: &str) -> Result<Vec<String>, DiskError> {
        let state = self.enter("list", folder)?;
        if !folder.is_empty() && !state.folders.contains(folder) {
            let message = "no such folder";
            return Err(DiskError::new(DiskErrorKind::NotFound, "list", folder, message));
        }
        let mut names = BTreeSet::new();
        for path in state.seen.keys().chain(&state.folders) {
            if folder_of(path) == folder && !path.is_empty() {
                names.insert(path.rsplit('/').next().unwrap_or(path).to_owned());
            }
        }
        Ok(names.into_iter().collect())
    }

    /// Folders are durable at once: drives create them only when they are formatted.
    fn create_dir(&self, folder: &str) -> Result<(), DiskError> {
        let mut state = self.enter("create folder", folder)?;
        let mut at = folder;
        while !at.is_empty() {
            state.folders.insert(at.to_owned());
            at = folder_of(at);
        }
        Ok(())
    }

    fn sync_dir(&self, folder: &str) -> Result<(), DiskError> {
        let (mut state, mishap) = self.enter_change("sync folder", folder)?;
        if let Some(error) = mishap {
            return Err(error);
        }
        let state = &mut *state;
        let changes = std::mem::take(&mut state.unsynced);
        for change in changes {
            if change.touches(folder) {
                change.apply(&mut state.media);
            } else {
                state.unsynced.push(change);
            }
        }
        let named: BTreeSet<u64> =
            state.media.values().chain(state.seen.values()).copied().collect();
        state.inodes.retain(|inode, _| named.contains(inode));
        Ok(())
    }

    fn space(&self) -> Result<Space, DiskError> {
        let state = self.enter("statvfs", "")?;
        let free_bytes = state.capacity.saturating_sub(state.used());
        Ok(Space { capacity_bytes: state.capacity, free_bytes })
    }
}

/// One open file of a [`SimDisk`].
struct SimFile {
    disk: SimDisk,
    inode: u64,
    path: String,
}

impl SimFile {
    fn gone(&self, call: &'static str) -> DiskError {
        DiskError::new(DiskErrorKind::Failed, call, &self.path, "stale handle")
    }

    fn room(&self, state: &mut State, end: u64) -> Result<(), DiskError> {
        let len = state.inodes.get(&self.inode).map_or(0, |inode| inode.len);
        let grows = end.next_multiple_of(BLOCK_U64).saturating_sub(len.next_multiple_of(BLOCK_U64));
        if grows > 0 && state.used() + grows > state.capacity {
            state.refusals += 1;
            let message = "no space left on device";
            return Err(DiskError::new(DiskErrorKind::Full, "write", &self.path, message));
        }
        Ok(())
    }
}

impl DiskFile for SimFile {
    fn len(&self) -> Result<u64, DiskError> {
        let state = self.disk.enter("stat", &self.path)?;
        state.inodes.get(&self.inode).map(|inode| inode.len).ok_or_else(|| self.gone("stat"))
    }

    fn read_at(&self, offset: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        let mut state = self.disk.enter("read", &self.path)?;
        state.reads += 1;
        let inode = state.inodes.get(&self.inode).ok_or_else(|| self.gone("read"))?;
        if offset + buf.len() as u64 > inode.len {
            let message = "end of file";
            return Err(DiskError::new(DiskErrorKind::Short, "read", &self.path, message));
        }
        let mut at = offset;
        let mut rest = buf;
        while !rest.is_empty() {
            let (block, within) = (at / BLOCK_U64, (at % BLOCK_U64) as usize);
            let step = rest.len().min(BLOCK - within);
            let (head, tail) = rest.split_at_mut(step);
            match inode.seen.get(&block) {
                Some(bytes) => head.copy_from_slice(&bytes[within..within + step]),
                None => head.fill(0),
            }
            at += step as u64;
            rest = tail;
        }
        Ok(())
    }

    fn read_medium(&self, offset: u64, buf: &mut [u8]) -> Result<(), DiskError> {
        self.read_at(offset, buf)
    }

    fn try_read_at(&self, offset: u64, buf: &mut [u8]) -> Result<bool, DiskError> {
        {
            let state = self.disk.shared.state.lock();
            if state.cold || state.hung {
                return Ok(false);
            }
        }
        self.read_at(offset, buf).map(|()| true)
    }

    fn write_at(&self, offset: u64, bytes: &[u8]) -> Result<(), DiskError> {
        let (mut state, mishap) = self.disk.enter_change("write", &self.path)?;
        self.room(&mut state, offset + bytes.len() as u64)?;
        let inode = state.inodes.get_mut(&self.inode).ok_or_else(|| self.gone("write"))?;
        inode.write(offset, bytes);
        mishap.map_or(Ok(()), Err)
    }

    fn write_zeros(&self, offset: u64, len: u64) -> Result<(), DiskError> {
        let (mut state, mishap) = self.disk.enter_change("write zeros", &self.path)?;
        self.room(&mut state, offset + len)?;
        let inode = state.inodes.get_mut(&self.inode).ok_or_else(|| self.gone("write zeros"))?;
        assert!(offset.is_multiple_of(BLOCK_U64) && len.is_multiple_of(BLOCK_U64));
        let (first, end) = (offset / BLOCK_U64, (offset + len) / BLOCK_U64);
        let stale: Vec<u64> = inode.seen.range(first..end).map(|(block, _)| *block).collect();
        for block in stale {
            inode.seen.remove(&block);
            inode.dirty.insert(block);
        }
        inode.len = inode.len.max(offset + len);
        mishap.map_or(Ok(()), Err)
    }

    fn sync(&self) -> Result<(), DiskError> {
        let (mut state, mishap) = self.disk.enter_change("fdatasync", &self.path)?;
        if let Some(error) = mishap {
            return Err(error);
        }
        state.syncs += 1;
        let inode = state.inodes.get_mut(&self.inode).ok_or_else(|| self.gone("fdatasync"))?;
        inode.sync();
        Ok(())
    }
}
