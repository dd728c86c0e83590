//! `testbed`: local clusters of real daemons, faults, benchmarks. Sees all; nothing sees it.
//!
//! Owns everything that is done *to* a cluster from outside: starting and stopping it, hurting it on
//! purpose, measuring it. Never part of the product: nothing depends on it, and it speaks to daemons
//! only as operators and S3 clients do.
//!
//! | module | command |
//! |---|---|
//! | [`up`], [`down`] | `testbed up`, `testbed down`: a cluster on free loopback ports |
//! | [`certs`] | `testbed certs`: a certificates folder for test clusters with TLS |
//! | [`fault`] | `testbed fault`: what may happen to nodes, drives and links |
//! | [`torture`] | `testbed torture`: clients and faults, and a checker of all that was seen |
//! | [`powercut`] | `testbed powercut`: power that goes under load, on real XFS |
//! | [`reliability`] | `testbed reliability`: all that must be survived, and docs/reliability.md made of it |
//! | [`bench`] | `testbed bench`: load with verified content, latencies, the servers' CPU |
//! | [`model`] | `testbed model`: the model checker of the register protocol |
//! | [`admin`] | what operators ask of a cluster, for the commands above |
//! | [`clock`] | the machine's clocks, for drives inside this process |
//! | [`cluster`] | `cluster.json`, what the commands know of a cluster |
//! | [`process`], [`health`], [`ports`] | daemons as processes, their readiness, their ports |

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod admin;
mod bench;
mod certs;
mod clock;
mod cluster;
mod down;
mod fault;
mod health;
mod model;
mod ports;
mod powercut;
mod process;
mod reliability;
mod torture;
mod up;

/// The daemon's: `bench index` runs a drive in this process.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Local Holdfast clusters: start, hurt, measure.
#[derive(Parser)]
#[command(name = "testbed", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start a cluster of real daemons on free loopback ports; returns (or waits) when all are ready.
    Up(up::Args),
    /// Take a cluster down: SIGTERM, then SIGKILL.
    Down(down::Args),
    /// Make a certificates folder: an authority of its own and one certificate for all nodes. For tests.
    Certs(certs::Args),
    /// Do something bad to a node, or undo it; returns when it is in effect.
    Fault(fault::Args),
    /// Torture a cluster and check everything its clients saw.
    Torture(torture::Args),
    /// Cut the power under load and look for everything that was acknowledged.
    Powercut(powercut::Args),
    /// The process that dies with the power.
    #[command(hide = true)]
    PowercutDrive(powercut::writer::Args),
    /// Bring about what must be survived, and make docs/reliability.md of what came of it.
    Reliability(Box<reliability::Args>),
    /// Put load on a cluster and measure it, or compare two measurements.
    Bench(bench::Bench),
    /// Check the register protocol with the model checker.
    Model(model::Args),
}

fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Up(args) => up::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Down(args) => down::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Certs(args) => certs::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Fault(args) => fault::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Torture(args) => torture::run(&args),
        Command::Powercut(args) => powercut::run(&args),
        Command::PowercutDrive(args) => powercut::writer::run(&args).map(|()| ExitCode::SUCCESS),
        Command::Reliability(args) => reliability::run(&args),
        Command::Bench(args) => bench::command(&args),
        Command::Model(args) => model::command(&args).map(as_exit),
    };
    done.unwrap_or_else(|error| {
        eprintln!("testbed: {error:#}");
        ExitCode::FAILURE
    })
}

/// The exit code of a command that finds something or does not.
fn as_exit(fine: bool) -> ExitCode {
    if fine { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
