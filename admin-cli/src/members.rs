//! Drives, sets and healing: what is asked of which node. A command about a drive goes to the drive's
//! node; healing is every node's own, so every node is asked.

use holdfast_types::view::{ClusterView, DriveView, HealView};
use serde::Serialize;

use crate::{
    DriveCommand, HealCommand, SetCommand,
    client::{Client, ClientError},
    tables,
};

/// One drive: shown, or told what to do.
pub(crate) async fn drive(
    client: &Client,
    command: &DriveCommand,
    json: bool,
) -> Result<String, ClientError> {
    let (wanted, action) = match command {
        DriveCommand::Show { drive } => (drive, None),
        DriveCommand::Offline { drive } => (drive, Some("offline")),
        DriveCommand::Online { drive } => (drive, Some("online")),
        DriveCommand::Replace { drive } => (drive, Some("replace")),
        DriveCommand::List => return Err(ClientError::Unknown("no drive is named".to_owned())),
    };
    let view = cluster(client).await?;
    let found = find(&view.drives, wanted)?;
    let Some(action) = action else {
        return print(json, found, || tables::drives(std::slice::from_ref(found)));
    };
    let query = [("drive", found.drive.as_str())];
    let path = format!("/_admin/v1/drive/{action}");
    client.at(&found.node)?.post(&path, &query).await
}

/// Sets: listed, shown, recovered.
pub(crate) async fn set(
    client: &Client,
    command: SetCommand,
    json: bool,
) -> Result<String, ClientError> {
    match command {
        SetCommand::List => {
            let view = cluster(client).await?;
            print(json, &view.sets, || tables::sets(&view.sets))
        }
        SetCommand::Show { set } => {
            let view = cluster(client).await?;
            let sets: Vec<_> = view.sets.into_iter().filter(|found| found.set == set).collect();
            if sets.is_empty() {
                return Err(ClientError::Unknown(format!("there is no set {set}")));
            }
            let drives: Vec<_> = view.drives.into_iter().filter(|found| found.set == set).collect();
            let table = || format!("{}\n{}", tables::sets(&sets), tables::drives(&drives));
            print(json, &serde_json::json!({ "set": sets[0], "drives": drives }), table)
        }
        SetCommand::Recover { set, dead } => {
            let (dead, set) = (dead.join(","), set.to_string());
            client.post("/_admin/v1/set/recover", &[("dead", &dead), ("set", &set)]).await
        }
    }
}

/// Healing at every node.
pub(crate) async fn heal(
    client: &Client,
    command: &HealCommand,
    json: bool,
) -> Result<String, ClientError> {
    let view = cluster(client).await?;
    let nodes = view.nodes.iter().map(|node| node.node.as_str());
    let rate;
    let (path, query) = match command {
        HealCommand::Status => {
            let mut all = Vec::new();
            for node in nodes {
                all.push(status(client, node).await);
            }
            return print(json, &all, || tables::heal(&all));
        }
        HealCommand::Start => ("/_admin/v1/heal/start", Vec::new()),
        HealCommand::Pause => ("/_admin/v1/heal/pause", Vec::new()),
        HealCommand::Resume => ("/_admin/v1/heal/resume", Vec::new()),
        HealCommand::Rate { bytes } => {
            rate = bytes.to_string();
            ("/_admin/v1/heal/rate", vec![("bytes", rate.as_str())])
        }
    };
    let (mut lines, mut took) = (Vec::new(), 0);
    for node in nodes {
        let done = match client.at(node) {
            Ok(there) => there.post(path, &query).await,
            Err(error) => Err(error),
        };
        took += u32::from(done.is_ok());
        lines.push(format!("{node}: {}", done.unwrap_or_else(|error| error.to_string())));
    }
    let text = lines.join("\n");
    // An order that nobody took was not carried out.
    if took == 0 { Err(ClientError::Nobody(text)) } else { Ok(text) }
}

/// What a node says; why it says nothing.
async fn status(client: &Client, node: &str) -> HealView {
    let asked = async { client.at(node)?.get("/_admin/v1/heal", &[]).await };
    let view = match asked.await {
        Ok(answer) => serde_json::from_slice(&answer).map_err(|error| error.to_string()),
        Err(error) => Err(error.to_string()),
    };
    let silent = |error| HealView { error, ..HealView::default() };
    HealView { node: node.to_owned(), ..view.unwrap_or_else(silent) }
}

async fn cluster(client: &Client) -> Result<ClusterView, ClientError> {
    let answer = client.get("/_admin/v1/cluster", &[]).await?;
    let strange = |error: serde_json::Error| ClientError::Strange { detail: error.to_string() };
    serde_json::from_slice(&answer).map_err(strange)
}

/// The drive of an id, or of a path that no other drive has.
fn find<'a>(drives: &'a [DriveView], wanted: &str) -> Result<&'a DriveView, ClientError> {
    if let Some(found) = drives.iter().find(|drive| drive.drive == wanted) {
        return Ok(found);
    }
    let mut at = drives
        .iter()
        .filter(|drive| drive.path == wanted || format!("{}{}", drive.node, drive.path) == wanted);
    match (at.next(), at.next()) {
        (Some(found), None) => Ok(found),
        (Some(_), Some(_)) => Err(ClientError::Unknown(format!(
            "several nodes have a drive at {wanted}: give its id"
        ))),
        (None, _) => Err(ClientError::Unknown(format!("there is no drive {wanted}"))),
    }
}

fn print<T: Serialize + ?Sized>(
    json: bool,
    view: &T,
    table: impl FnOnce() -> String,
) -> Result<String, ClientError> {
    let strange = |error: serde_json::Error| ClientError::Strange { detail: error.to_string() };
    if json { serde_json::to_string_pretty(view).map_err(strange) } else { Ok(table()) }
}

#[cfg(test)]
mod tests {
    use holdfast_types::DriveState;

    use super::*;

    fn at(node: &str, path: &str, drive: &str) -> DriveView {
        DriveView {
            node: node.to_owned(),
            drive: drive.to_owned(),
            path: path.to_owned(),
            state: DriveState::Healthy,
            set: 0,
            capacity_bytes: 0,
            used_bytes: 0,
            detail: String::new(),
        }
    }

    /// Goal: a command reaches the drive that was meant, or none.
    #[test]
    fn a_drive_is_found_by_id_place_or_path() {
        let drives =
            [at("http://a", "/d1", "1"), at("http://b", "/d1", "2"), at("http://b", "/d2", "3")];
        let id = |wanted: &str| find(&drives, wanted).map(|drive| drive.drive.as_str());
        assert_eq!(id("2").unwrap(), "2");
        assert_eq!(id("/d2").unwrap(), "3");
        assert_eq!(id("http://b/d1").unwrap(), "2");
        assert!(id("/d1").is_err() && id("/d9").is_err());
    }
}
