//! One daemon as a child process.

use std::{
    fs::File,
    net::{SocketAddr, TcpListener},
    path::Path,
    process::{Child, Command, ExitStatus},
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use rustls::ClientConfig;

use crate::client::{PASSWORD, USER, get_over};

/// Longer than anything takes on a busy machine; the promises of 10 s are measured where they are made.
const PATIENCE: Duration = Duration::from_secs(60);

pub struct Node {
    pub address: SocketAddr,
    /// How its health is asked for.
    pub tls: Option<Arc<ClientConfig>>,
    child: Child,
}

/// A port that nobody had a moment ago.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind loopback");
    listener.local_addr().expect("bound").port()
}

/// The daemon with nothing of the environment but what tests give it.
pub fn holdfastd(folder: &Path, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_holdfastd"));
    command.args(args).current_dir(folder).env_clear();
    command
}

impl Node {
    /// Starts `holdfastd` with `args` at a port of loopback; its log goes to `folder`.
    pub fn start(folder: &Path, port: u16, args: &[&str], env: &[(&str, &str)]) -> Self {
        let address = SocketAddr::from(([127, 0, 0, 1], port));
        let mut command = holdfastd(folder, args);
        command.args(["--address", &address.to_string()]).envs(env.iter().copied());
        let log = |name: String| {
            let path = folder.join(name);
            File::options().create(true).append(true).open(path).expect("log file")
        };
        command.stderr(log(format!("log-{port}"))).stdout(log(format!("out-{port}")));
        Self { address, tls: None, child: command.spawn().expect("started") }
    }

    /// With root's keys as [`crate::client::Client`] has them.
    pub fn start_with_keys(folder: &Path, port: u16, args: &[&str]) -> Self {
        Self::start_with_env(folder, port, args, &[])
    }

    /// The same with more environment.
    pub fn start_with_env(folder: &Path, port: u16, args: &[&str], more: &[(&str, &str)]) -> Self {
        let mut env = vec![
            ("HOLDFAST_ROOT_USER", USER),
            ("HOLDFAST_ROOT_PASSWORD", PASSWORD),
            ("HOLDFAST_CLUSTER_SECRET", "a secret of sixteen or more"),
        ];
        env.extend(more);
        Self::start(folder, port, args, &env)
    }

    /// Waits until it says that it is ready; returns how long that took.
    pub fn wait_ready(&mut self) -> Duration {
        let started = Instant::now();
        while get_over(self.address, self.tls.as_ref(), "/_health/ready").0 != 200 {
            if let Some(status) = self.child.try_wait().expect("a child") {
                panic!("the daemon at {} ended: {status}", self.address);
            }
            assert!(started.elapsed() < PATIENCE, "{} is not ready", self.address);
            std::thread::sleep(Duration::from_millis(50));
        }
        started.elapsed()
    }

    /// SIGTERM; how it ended and how long that took.
    pub fn terminate(mut self) -> (ExitStatus, Duration) {
        let started = Instant::now();
        kill_process(self.pid(), Signal::TERM).expect("it runs");
        while started.elapsed() < PATIENCE {
            if let Some(status) = self.child.try_wait().expect("a child") {
                return (status, started.elapsed());
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        panic!("{} did not end", self.address);
    }

    /// SIGKILL.
    pub fn kill(mut self) {
        self.child.kill().expect("it runs");
        self.child.wait().expect("a child");
    }

    /// Sends a signal.
    pub fn signal(&self, signal: Signal) {
        kill_process(self.pid(), signal).expect("it runs");
    }

    fn pid(&self) -> Pid {
        Pid::from_child(&self.child)
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
