//! `adminctl`: asks a Holdfast cluster how it is.
//!
//! Owns the command line, its tables and its JSON. Talks to any node's S3 endpoint with signed requests
//! and never changes anything.
//!
//! | module | holds |
//! |---|---|
//! | `client` | one signed GET |
//! | `sign` | signature version 4 of a GET without a body |
//! | `tables` | tables for people |

mod client;
mod sign;
mod tables;

use std::{path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use client::{Client, ClientError};
use holdfast_types::view::{ClusterView, DriveView, ObjectView};
use serde::{Serialize, de::DeserializeOwned};

/// Asks a Holdfast cluster how it is. Exit code 0 means that it answered, however ill it is.
#[derive(Parser)]
#[command(name = "adminctl", version)]
struct Arguments {
    /// S3 endpoint of any node.
    #[arg(long, global = true, env = "HOLDFAST_ENDPOINT", default_value = "http://127.0.0.1:9000")]
    endpoint: String,
    /// The authority (PEM) that the endpoint's certificate is checked against, for https://; those of the
    /// operating system when left out.
    #[arg(long, global = true, env = "HOLDFAST_CA", value_name = "FILE")]
    ca: Option<PathBuf>,
    /// Print JSON for programs instead of tables for people.
    #[arg(long, global = true)]
    json: bool,
    /// Access key.
    #[arg(long, global = true, env = "HOLDFAST_ROOT_USER")]
    user: Option<String>,
    /// Secret key. The environment keeps it out of the list of processes.
    #[arg(long, global = true, env = "HOLDFAST_ROOT_PASSWORD", hide_env_values = true)]
    password: Option<String>,
    #[command(subcommand)]
    subject: Subject,
}

#[derive(Subcommand)]
enum Subject {
    /// The cluster as a whole.
    #[command(subcommand)]
    Cluster(ClusterCommand),
    /// Drives.
    #[command(subcommand)]
    Drive(DriveCommand),
    /// Objects.
    #[command(subcommand)]
    Object(ObjectCommand),
}

#[derive(Subcommand)]
enum ClusterCommand {
    /// Nodes, pools, sets, capacity, and how many more failures each set survives.
    Info,
}

#[derive(Subcommand)]
enum DriveCommand {
    /// Every drive with its state.
    List,
}

#[derive(Subcommand)]
enum ObjectCommand {
    /// Where each shard of an object lies.
    Locate {
        /// The bucket.
        bucket: String,
        /// The key.
        key: String,
    },
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    match run(Arguments::parse()).await {
        Ok(text) => {
            println!("{text}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("adminctl: {error}\n{}", error.cure());
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: Arguments) -> Result<String, ClientError> {
    let (Some(user), Some(password)) = (arguments.user, arguments.password) else {
        return Err(ClientError::NoCredentials);
    };
    let client = Client::new(&arguments.endpoint, arguments.ca.as_deref(), user, password)?;
    let json = arguments.json;
    match arguments.subject {
        Subject::Cluster(ClusterCommand::Info) => {
            let view = client.get("/_admin/v1/cluster", &[]).await?;
            shown::<ClusterView>(&view, json, tables::cluster)
        }
        Subject::Drive(DriveCommand::List) => {
            let view = client.get("/_admin/v1/drives", &[]).await?;
            shown::<Vec<DriveView>>(&view, json, |drives| tables::drives(drives))
        }
        Subject::Object(ObjectCommand::Locate { bucket, key }) => {
            let query = [("bucket", bucket.as_str()), ("key", key.as_str())];
            let view = client.get("/_admin/v1/object", &query).await?;
            shown::<ObjectView>(&view, json, tables::object)
        }
    }
}

/// JSON passes through as the server wrote it, so that newer fields reach newer programs.
fn shown<T: DeserializeOwned + Serialize>(
    answer: &[u8],
    json: bool,
    table: impl FnOnce(&T) -> String,
) -> Result<String, ClientError> {
    let bad = |error: serde_json::Error| ClientError::Strange { detail: error.to_string() };
    if json {
        let value: serde_json::Value = serde_json::from_slice(answer).map_err(bad)?;
        return serde_json::to_string_pretty(&value).map_err(bad);
    }
    serde_json::from_slice(answer).map(|view| table(&view)).map_err(bad)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn flags_stand_anywhere() {
        let line = ["adminctl", "object", "locate", "b", "k//..", "--json", "--user", "u"];
        let parsed = Arguments::try_parse_from(line).unwrap();
        assert!(parsed.json);
        let Subject::Object(ObjectCommand::Locate { key, .. }) = parsed.subject else {
            panic!("another command");
        };
        assert_eq!(key, "k//..");
    }

    /// Goal: JSON keeps what this version does not know; tables do not mind it.
    #[test]
    fn unknown_fields_pass() {
        let answer = br#"{"cluster":"c","weather":"fine","drives":[]}"#;
        let json = shown::<ClusterView>(answer, true, tables::cluster).unwrap();
        assert!(json.contains("weather"));
        let table = shown::<ClusterView>(answer, false, tables::cluster).unwrap();
        assert!(table.contains("cluster c"), "{table}");
    }
}
