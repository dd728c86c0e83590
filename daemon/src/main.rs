//! `holdfastd`: the process of a node or a gateway.

use std::{collections::HashMap, process::ExitCode};

use clap::Parser;
use holdfast_daemon::{
    allocator,
    cli::Cli,
    config::Config,
    failure::Failure,
    run::{self, Stop},
    telemetry,
};
use tokio::signal::unix::{SignalKind, signal};

#[global_allocator]
static ALLOCATOR: allocator::Allocator = allocator::Allocator;

fn main() -> ExitCode {
    allocator::start();
    match start(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("holdfastd: {}\n  cure: {}", failure.cause, failure.cure);
            ExitCode::FAILURE
        }
    }
}

fn start(cli: &Cli) -> Result<(), Failure> {
    let machine = |what: &str, error: std::io::Error| {
        Failure::new(format!("{what}: {error}"), "check the machine's limits and start again")
    };
    let env: HashMap<String, String> = std::env::vars_os()
        .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
        .collect();
    plant(&env)?;
    let base = std::env::current_dir().map_err(|e| machine("read the working directory", e))?;
    let config = Config::read(cli, &env, &base.to_string_lossy())?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(|e| machine("start threads", e))?;
    let within = runtime.enter();
    let telemetry = telemetry::start(&env, &config.listen.to_string())?;
    drop(within);
    let outcome = runtime.block_on(async {
        let stop = stop_signal().map_err(|e| machine("listen to signals", e))?;
        run::run(config, &env, stop).await
    });
    telemetry.end();
    // What still runs is background work that a crash would end just so.
    runtime.shutdown_background();
    outcome
}

/// Plants the bug that the environment names: in test builds alone.
#[cfg(feature = "sabotage")]
fn plant(env: &HashMap<String, String>) -> Result<(), Failure> {
    let Some(name) = env.get("HOLDFAST_SABOTAGE") else { return Ok(()) };
    let bug = holdfast_types::sabotage::named(name).ok_or_else(|| {
        Failure::new(format!("plant {name}: there is no such bug"), "see `testbed torture --help`")
    })?;
    tracing::warn!(?bug, "a bug is planted in this process");
    holdfast_types::sabotage::plant(bug);
    Ok(())
}

/// This build has no bugs to plant: one that is asked for must not seem to be there.
#[cfg(not(feature = "sabotage"))]
fn plant(env: &HashMap<String, String>) -> Result<(), Failure> {
    match env.get("HOLDFAST_SABOTAGE") {
        None => Ok(()),
        Some(name) => Err(Failure::new(
            format!("plant {name}: this build holds no sabotage"),
            "build holdfastd with `--features sabotage`",
        )),
    }
}

/// Resolves with the first SIGTERM or SIGINT.
fn stop_signal() -> std::io::Result<Stop> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(Box::pin(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    }))
}
