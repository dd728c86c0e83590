//! Drives on real XFS under a write cache that forgets.
//!
//! An outer XFS, in an image of its own, holds the drives' images; loop devices over these, *without*
//! direct I/O, carry the inner XFS drives. What a drive writes lies in the outer's page cache until a
//! flush reaches it: the volatile cache of a device. Shutting the outer down by its ioctl, without a
//! flush of its log, loses all that was not flushed, of all drives at once. Just before, random ranges
//! of the images are written back, as a real cache does that keeps a part.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use rand::Rng;

/// Bytes of a drive's image; sparse. Forty cuts of a cluster fill some 400 MiB.
const DRIVE_BYTES: u64 = 2 << 30;

/// Bytes of the outer image for each drive; sparse. All that a drive may fill, and the file system's own: an outer
/// that is full would be a failure of the rig.
const OUTER_PER_DRIVE: u64 = DRIVE_BYTES + (64 << 20);

/// Ranges of each image that are written back before a cut, at most.
const RANGES_MAX: usize = 12;

/// Unmounting is tried so often, with this pause: 20 seconds for a busy machine.
const UNMOUNT_TRIES: u32 = 100;

/// See [`UNMOUNT_TRIES`].
const UNMOUNT_PAUSE: Duration = Duration::from_millis(200);

/// The kernel writes dirty pages back after this long by itself: never, while the rig stands.
const WRITEBACK: &str = "/proc/sys/vm/dirty_writeback_centisecs";

/// What the rig needs beside root.
const TOOLS: [&str; 5] = ["mkfs.xfs", "xfs_io", "losetup", "mount", "umount"];

/// Why power cuts cannot be tried here; `None` when they can.
pub fn missing() -> Option<String> {
    if !rustix::process::geteuid().is_root() {
        return Some("it needs root".to_owned());
    }
    let has = |tool: &str| {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).any(|folder| folder.join(tool).exists())
    };
    if let Some(tool) = TOOLS.into_iter().find(|tool| !has(tool)) {
        return Some(format!("there is no {tool} (package xfsprogs or util-linux)"));
    }
    if !Path::new("/dev/loop-control").exists() {
        return Some("there are no loop devices".to_owned());
    }
    let known = fs::read_to_string("/proc/filesystems").unwrap_or_default();
    // A module that is not loaded yet shows when it is mounted; a container may still forbid that.
    (!known.contains("xfs")).then(|| "the kernel does not know XFS".to_owned())
}

/// The rig. Taken down when dropped.
pub struct Rig {
    outer_image: PathBuf,
    outer: PathBuf,
    drives: Vec<PathBuf>,
    /// Loop devices, the outer one's last, while they are attached.
    loops: Vec<String>,
    mounted: Vec<PathBuf>,
    writeback: Option<String>,
    /// Whether the images stay.
    stays: bool,
}

impl Rig {
    /// Makes the file systems: the images in `work`, the drives mounted at `drives`.
    pub fn new(work: &Path, drives: Vec<PathBuf>) -> Result<Self> {
        let mut rig = Self {
            outer_image: work.join("outer.img"),
            outer: work.join("outer"),
            drives,
            loops: Vec::new(),
            mounted: Vec::new(),
            writeback: None,
            stays: false,
        };
        fs::create_dir_all(&rig.outer)?;
        let count = rig.drives.len() as u64;
        make_image(&rig.outer_image, (count * OUTER_PER_DRIVE).max(512 << 20))?;
        rig.calm()?;
        rig.attach(true)?;
        Ok(rig)
    }

    /// Keeps the kernel from writing back by itself.
    fn calm(&mut self) -> Result<()> {
        let before = fs::read_to_string(WRITEBACK).context("read the write-back interval")?;
        fs::write(WRITEBACK, "0").context("stop periodic write-back")?;
        self.writeback = Some(before);
        Ok(())
    }

    fn image(&self, drive: usize) -> PathBuf {
        self.outer.join(format!("drive{drive}.img"))
    }

    /// Attaches and mounts everything, the first time on new file systems.
    fn attach(&mut self, new: bool) -> Result<()> {
        self.mount(&self.outer_image.clone(), &self.outer.clone(), new)?;
        for drive in 0..self.drives.len() {
            let (image, folder) = (self.image(drive), self.drives[drive].clone());
            if new {
                make_image(&image, DRIVE_BYTES)?;
            }
            fs::create_dir_all(&folder)?;
            self.mount(&image, &folder, new)?;
        }
        Ok(())
    }

    fn mount(&mut self, image: &Path, folder: &Path, new: bool) -> Result<()> {
        let device = run("losetup", &["--find", "--show", &text(image)])?;
        self.loops.push(device.trim().to_owned());
        let device = device.trim();
        if new {
            run("mkfs.xfs", &["-q", "-f", device])?;
        }
        run("mount", &[device, &text(folder)])?;
        self.mounted.push(folder.to_owned());
        Ok(())
    }

    /// Unmounts and detaches everything, in the reverse order.
    fn detach(&mut self) -> Result<()> {
        let mut failed = None;
        while let Some(folder) = self.mounted.pop() {
            let done = unmount(&text(&folder));
            failed = failed.or(done.err());
            if let Some(device) = self.loops.pop() {
                failed = failed.or(run("losetup", &["--detach", &device]).err());
            }
        }
        failed.map_or(Ok(()), Err)
    }

    /// Cuts the power of all drives at once: what was not flushed is gone, but for a random part. Whoever
    /// has files open there is to be killed next.
    pub fn cut(&self, random: &mut impl Rng) -> Result<()> {
        for drive in 0..self.drives.len() {
            if random.random_bool(0.5) {
                continue;
            }
            let commands: Vec<String> = (0..random.random_range(1..=RANGES_MAX))
                .map(|_| {
                    let from = random.random_range(0..DRIVE_BYTES / 4096) * 4096;
                    let len = random.random_range(1..2048) * 4096;
                    format!("sync_range -w {from} {len}")
                })
                .collect();
            let image = text(&self.image(drive));
            let mut arguments: Vec<&str> = Vec::new();
            for command in &commands {
                arguments.extend(["-c", command]);
            }
            arguments.push(&image);
            run("xfs_io", &arguments)?;
        }
        run("xfs_io", &["-x", "-c", "shutdown", &text(&self.outer)]).map(drop)
    }

    /// The images stay as they are, for whoever looks into what was seen on them; where.
    pub fn keep(&mut self) -> &Path {
        self.stays = true;
        &self.outer_image
    }

    /// The power is back: everything is mounted again, which recovers the file systems.
    pub fn restore(&mut self) -> Result<()> {
        self.detach()?;
        self.attach(false)
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        if let Err(error) = self.detach() {
            eprintln!("testbed: take the rig down: {error:#}");
        }
        if !self.stays {
            let _ = fs::remove_file(&self.outer_image);
        }
        if let Some(before) = &self.writeback {
            let _ = fs::write(WRITEBACK, before.trim());
        }
    }
}

/// Unmounts a folder. Threads of a process that was killed may hold its files for a while after it is gone.
fn unmount(folder: &str) -> Result<()> {
    let mut tries = 1;
    while let Err(error) = run("umount", &[folder]) {
        if tries == UNMOUNT_TRIES {
            return Err(error);
        }
        tries += 1;
        std::thread::sleep(UNMOUNT_PAUSE);
    }
    Ok(())
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

fn make_image(path: &Path, bytes: u64) -> Result<()> {
    let file = fs::File::create(path).with_context(|| format!("create {}", path.display()))?;
    file.set_len(bytes).with_context(|| format!("size {}", path.display()))
}

fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let done = Command::new(program).args(arguments).output();
    let done = done.with_context(|| format!("run {program}"))?;
    if !done.status.success() {
        let said = String::from_utf8_lossy(&done.stderr);
        bail!("{program} {}: {}", arguments.join(" "), said.trim());
    }
    Ok(String::from_utf8_lossy(&done.stdout).into_owned())
}
