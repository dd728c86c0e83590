//! `testbed`: the model checker now; local clusters, faults and benchmarks with their modules.

mod model;

use clap::{Parser, Subcommand};

#[derive(Parser, Debug)]
#[command(name = "testbed", about = "Checks, breaks and measures Holdfast.")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Check the register protocol with the model checker.
    Model(model::Args),
}

fn main() -> anyhow::Result<std::process::ExitCode> {
    let fine = match Cli::parse().command {
        Command::Model(args) => model::command(&args)?,
    };
    Ok(if fine { std::process::ExitCode::SUCCESS } else { std::process::ExitCode::FAILURE })
}
