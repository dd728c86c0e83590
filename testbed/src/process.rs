//! Daemons as processes: started, signalled, looked at through `/proc`.

use std::{
    fs::{self, OpenOptions},
    os::unix::process::CommandExt as _,
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};

use crate::cluster::{Cluster, Node};

/// How often a condition is looked at while waiting for it.
const POLL: Duration = Duration::from_millis(20);

/// A process of ours, told from others that may get its pid later by when it started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Process {
    /// Its pid.
    pub pid: u32,
    /// Its start, in the kernel's ticks since boot.
    pub started: u64,
}

/// What `/proc/PID/stat` says of a process or thread.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// `R`, `S`, `D`, `T` (stopped), `Z` (dead, not yet reaped) and others.
    pub state: char,
    /// CPU time in user mode and in the kernel, in ticks.
    pub cpu_ticks: u64,
    /// When it started, in ticks since boot.
    pub started: u64,
}

impl Stat {
    /// Reads one line of `/proc/PID/stat` (man 5 proc_pid_stat).
    pub fn parse(line: &str) -> Option<Self> {
        // The command's name, in parentheses, may hold spaces and parentheses itself.
        let (_, rest) = line.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split_ascii_whitespace().collect();
        // Field 3 of the manual page is the first here.
        let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
        Some(Self {
            state: fields.first()?.chars().next()?,
            cpu_ticks: field(14)? + field(15)?,
            started: field(22)?,
        })
    }

    /// Of process `pid`; `None` when there is none.
    pub fn of(pid: u32) -> Option<Self> {
        Self::parse(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }
}

impl Process {
    /// The running process `pid`.
    pub fn of(pid: u32) -> Option<Self> {
        Some(Self { pid, started: Stat::of(pid)?.started })
    }

    /// What the kernel says of it; `None` when it is gone, or dead and not yet reaped.
    pub fn stat(&self) -> Option<Stat> {
        Stat::of(self.pid).filter(|stat| stat.started == self.started && stat.state != 'Z')
    }

    /// Whether it is there.
    pub fn is_alive(&self) -> bool {
        self.stat().is_some()
    }

    /// Whether all its threads are stopped.
    pub fn is_stopped(&self) -> bool {
        let Ok(threads) = fs::read_dir(format!("/proc/{}/task", self.pid)) else { return false };
        let stopped = |entry: fs::DirEntry| {
            let line = fs::read_to_string(entry.path().join("stat")).ok();
            // A thread that is gone by now does not run.
            line.and_then(|line| Stat::parse(&line)).is_none_or(|stat| stat.state == 'T')
        };
        self.is_alive() && threads.flatten().all(stopped)
    }

    /// Sends a signal, unless the process is gone.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        if !self.is_alive() {
            return Ok(());
        }
        let pid =
            i32::try_from(self.pid).ok().and_then(Pid::from_raw).context("pid out of range")?;
        kill_process(pid, signal).with_context(|| format!("signal process {}", self.pid))
    }

    /// SIGTERM (and SIGCONT, for a paused process to see it); SIGKILL when it is not gone in time.
    /// Whether SIGTERM sufficed.
    pub fn terminate(&self, patience: Duration) -> Result<bool> {
        self.signal(Signal::TERM)?;
        self.signal(Signal::CONT)?;
        if wait_until(patience, || !self.is_alive()) {
            return Ok(true);
        }
        self.kill()?;
        Ok(false)
    }

    /// SIGKILL, and wait until it is gone.
    pub fn kill(&self) -> Result<()> {
        self.signal(Signal::KILL)?;
        if !wait_until(Duration::from_secs(15), || !self.is_alive()) {
            bail!("process {} did not die of SIGKILL within 15 s", self.pid);
        }
        Ok(())
    }
}

/// Looks at `condition` until it holds or `patience` is over; whether it held.
pub fn wait_until(patience: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + patience;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(POLL);
    }
}

/// Starts a node's daemon, which writes to the node's log and outlives us. Of our environment it gets
/// no `HOLDFAST_` variable, so that an operator's settings do not leak into a test.
pub fn spawn(cluster: &Cluster, node: &Node) -> Result<(Child, Process)> {
    let mut options = OpenOptions::new();
    let log = options.create(true).append(true).open(node.log());
    let log = log.with_context(|| format!("open {}", node.log().display()))?;
    let mut command = Command::new(&cluster.holdfastd);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("HOLDFAST_") {
            command.env_remove(name);
        }
    }
    command.args(&node.args).envs(&cluster.env).current_dir(&node.dir);
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    // A group of its own: ctrl-c at the terminal is for us, who then take the cluster down in order.
    command.process_group(0);
    let child = command.spawn().with_context(|| {
        format!("start {}: build it, or say --holdfastd", cluster.holdfastd.display())
    })?;
    let process = Process::of(child.id()).context("a child is there until it is waited for")?;
    Ok((child, process))
}

/// The last lines of a log, for an error message.
pub fn log_tail(path: &Path) -> String {
    const LINES: usize = 20;
    let text = fs::read(path).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(LINES)..].join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sleeper() -> (Child, Process) {
        let child = Command::new("sleep").arg("60").spawn().expect("sleep is everywhere");
        let process = Process::of(child.id()).expect("it was just started");
        (child, process)
    }

    /// Goal: names with spaces and parentheses do not shift the fields. Method: a made-up line.
    #[test]
    fn stat_lines_are_read() {
        let line = "42 (a ) (b) S 1 42 42 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 9 0 12345 1 1";
        let stat = Stat::parse(line);
        assert_eq!(stat, Some(Stat { state: 'S', cpu_ticks: 300, started: 12345 }));
        assert_eq!(Stat::parse("42 (a"), None);
        assert_eq!(Stat::parse("42 (a) S 1 2"), None);
    }

    /// Goal: a process is paused, resumed and gone when we say so; a dead one that nobody has reaped
    /// counts as gone. Method: a real process, and looks at each step.
    #[test]
    fn signals_take_effect() {
        let (mut child, process) = sleeper();
        assert!(process.is_alive() && !process.is_stopped());
        process.signal(Signal::STOP).expect("stop");
        assert!(wait_until(Duration::from_secs(5), || process.is_stopped()));
        process.signal(Signal::CONT).expect("continue");
        assert!(wait_until(Duration::from_secs(5), || !process.is_stopped()));
        process.signal(Signal::STOP).expect("stop");
        assert!(process.terminate(Duration::from_secs(5)).expect("terminate"));
        assert!(!process.is_alive(), "a dead process that nobody has reaped yet is gone");
        child.wait().expect("reap");
        process.signal(Signal::TERM).expect("a signal to nobody is no error");
    }

    /// Goal: a stranger that got our process's pid is left alone. Method: a living process under
    /// another start time.
    #[test]
    fn strangers_are_left_alone() {
        let (mut child, process) = sleeper();
        let other = Process { started: process.started + 1, ..process };
        assert!(!other.is_alive());
        other.kill().expect("nothing to do");
        assert!(process.is_alive());
        process.kill().expect("kill");
        child.wait().expect("reap");
    }
}
