//! `adminctl`: asks a Holdfast cluster how it is, and tells its nodes what to do about drives.
//!
//! Owns the command line, its tables and its JSON. Talks to nodes' S3 endpoints with signed requests;
//! what it changes is done by the node it is about.
//!
//! | module | holds |
//! |---|---|
//! | `client` | one signed request |
//! | `members` | drives, sets and healing: which nodes are asked |
//! | `quarantine` | versions that cannot be restored |
//! | `scrub` | the scrub: orders and its table |
//! | `sign` | signature version 4 of a request without a body |
//! | `tables` | tables for people |

mod client;
mod members;
mod quarantine;
mod scrub;
mod sign;
mod tables;

use std::{io::Write as _, path::PathBuf, process::ExitCode};

use clap::{Parser, Subcommand};
use client::{Client, ClientError};
use holdfast_types::view::{ClusterView, DriveView, ObjectView};
use serde::{Serialize, de::DeserializeOwned};

/// Asks a Holdfast cluster how it is, and tells it what to do about drives. Exit code 0 means that it answered, however ill it is.
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
    /// Sets.
    #[command(subcommand)]
    Set(SetCommand),
    /// Rebuilding and healing, at every node.
    #[command(subcommand)]
    Heal(HealCommand),
    /// The scrub of every drive, at every node: each live byte is read again, and rot that no reader met
    /// is found and healed.
    #[command(subcommand)]
    Scrub(ScrubCommand),
    /// Versions that too few good shards are left of to restore them. Nothing of them is deleted.
    #[command(subcommand)]
    Quarantine(QuarantineCommand),
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
    /// One drive.
    Show {
        /// Its id, or its path when that is the only one of its kind.
        drive: String,
    },
    /// Take a drive out of service until it is put back or its node restarts.
    Offline {
        /// Its id, or its path.
        drive: String,
    },
    /// Put it back.
    Online {
        /// Its id, or its path.
        drive: String,
    },
    /// Set a drive's files aside and rebuild it as a new drive in its folder.
    Replace {
        /// Its id, or its path.
        drive: String,
    },
}

#[derive(Subcommand)]
enum SetCommand {
    /// Every set, how much it survives, and what is being rebuilt.
    List,
    /// One set with its drives.
    Show {
        /// Its index.
        set: u32,
    },
    /// Give up drives that are gone for good, more of them than the set can do without. What has too few
    /// shards left is lost, and listed by the rebuilds of the drives that take their places.
    Recover {
        /// Its index.
        set: u32,
        /// The ids of the drives that are gone.
        #[arg(long, required = true, num_args = 1..)]
        dead: Vec<String>,
    },
}

#[derive(Subcommand)]
enum HealCommand {
    /// Heal what can be healed now; rebuilding begins by itself.
    Start,
    /// What is rebuilt and healed, how fast, and how long it takes.
    Status,
    /// Hold rebuilding.
    Pause,
    /// Let it go on.
    Resume,
    /// Bound what rebuilding brings at each node.
    Rate {
        /// Bytes a second; 0: no bound.
        bytes: u64,
    },
}

#[derive(Subcommand)]
enum ScrubCommand {
    /// Begin a pass now; one that is held goes on. Passes begin by themselves every seven days.
    Start,
    /// How far each drive is, what it found, and when it last read every live byte.
    Status,
    /// Hold it.
    Pause,
    /// Let it go on.
    Resume,
    /// How fast each drive reads.
    Rate {
        /// Bytes a second.
        bytes: u64,
    },
}

#[derive(Subcommand)]
enum QuarantineCommand {
    /// What every node has on record: what is whole again, or was overwritten or deleted, leaves by itself.
    List,
    /// One object.
    Show {
        /// The bucket.
        bucket: String,
        /// The key.
        key: String,
    },
    /// Try to restore it at once, and say what came of it: after drives that were away are back, say.
    Restore {
        /// The bucket.
        bucket: String,
        /// The key.
        key: String,
    },
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
    let arguments = Arguments::parse();
    let json = arguments.json;
    let (text, code) = match run(arguments).await {
        Ok(text) if json => (as_json(text), ExitCode::SUCCESS),
        Ok(text) => (text, ExitCode::SUCCESS),
        Err(error) => {
            eprintln!("adminctl: {error}\n{}", error.cure());
            if !json {
                return ExitCode::FAILURE;
            }
            let told = serde_json::json!({ "error": error.to_string(), "cure": error.cure() });
            (format!("{told:#}"), ExitCode::FAILURE)
        }
    };
    match writeln!(std::io::stdout(), "{text}") {
        // A reader that has seen enough (`| head`) is content.
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
            eprintln!("adminctl: write what was answered: {error}");
            ExitCode::FAILURE
        }
        _ => code,
    }
}

/// An order is answered by a line; a program gets it as `message`.
fn as_json(text: String) -> String {
    match serde_json::from_str::<serde::de::IgnoredAny>(&text) {
        Ok(_) => text,
        Err(_) => format!("{:#}", serde_json::json!({ "message": text })),
    }
}

async fn run(arguments: Arguments) -> Result<String, ClientError> {
    let (Some(user), Some(password)) = (arguments.user, arguments.password) else {
        return Err(ClientError::NoCredentials);
    };
    let client = Client::new(&arguments.endpoint, arguments.ca.as_deref(), user, password)?;
    let json = arguments.json;
    match arguments.subject {
        Subject::Drive(
            command @ (DriveCommand::Show { .. }
            | DriveCommand::Offline { .. }
            | DriveCommand::Online { .. }
            | DriveCommand::Replace { .. }),
        ) => members::drive(&client, &command, json).await,
        Subject::Set(command) => members::set(&client, command, json).await,
        Subject::Scrub(command) => scrub::scrub(&client, &command, json).await,
        Subject::Quarantine(command) => quarantine::quarantine(&client, &command, json).await,
        Subject::Heal(command) => members::heal(&client, &command, json).await,
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

    #[test]
    fn programs_get_json_whatever_was_asked() {
        assert_eq!(as_json("[1]".to_owned()), "[1]");
        let message: serde_json::Value =
            serde_json::from_str(&as_json("done \"x\"".to_owned())).unwrap();
        assert_eq!(message["message"], "done \"x\"");
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
