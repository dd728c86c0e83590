//! Versions that cannot be restored: every node is asked for its record; a restore goes to the node that has it.

use comfy_table::Cell;
use holdfast_types::view::{ClusterView, QuarantineRow, QuarantineView};

use crate::{
    QuarantineCommand,
    client::{Client, ClientError},
    tables::{number, table},
};

/// Lists, shows or tries to restore.
pub(crate) async fn quarantine(
    client: &Client,
    command: &QuarantineCommand,
    json: bool,
) -> Result<String, ClientError> {
    let views = ask(client).await?;
    let strange = |error: serde_json::Error| ClientError::Strange { detail: error.to_string() };
    let print = |views: &[QuarantineView]| match json {
        true => serde_json::to_string_pretty(views).map_err(strange),
        false => Ok(rows(views)),
    };
    match command {
        QuarantineCommand::List => print(&views),
        QuarantineCommand::Show { bucket, key } => print(&of(&views, bucket, key)?),
        QuarantineCommand::Restore { bucket, key } => {
            let mut lines = Vec::new();
            for view in of(&views, bucket, key)? {
                for row in &view.entries {
                    let query = [("register", row.register.as_str())];
                    let there = client.at(&view.node)?;
                    let done = there.post("/_admin/v1/quarantine/restore", &query).await;
                    let done = done.unwrap_or_else(|error| error.to_string());
                    lines.push(format!("{}: {}: {done}", view.node, name(row)));
                }
            }
            Ok(lines.join("\n"))
        }
    }
}

/// What each node has on record, or why it says nothing.
async fn ask(client: &Client) -> Result<Vec<QuarantineView>, ClientError> {
    let answer = client.get("/_admin/v1/cluster", &[]).await?;
    let strange = |error: serde_json::Error| ClientError::Strange { detail: error.to_string() };
    let cluster: ClusterView = serde_json::from_slice(&answer).map_err(strange)?;
    let mut views = Vec::new();
    for node in &cluster.nodes {
        let asked = async { client.at(&node.node)?.get("/_admin/v1/quarantine", &[]).await };
        let view = match asked.await {
            Ok(answer) => serde_json::from_slice(&answer).map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        let silent = |error| QuarantineView { error, ..QuarantineView::default() };
        let view = view.unwrap_or_else(silent);
        views.push(QuarantineView { node: node.node.clone(), ..view });
    }
    Ok(views)
}

/// The rows of one key, by the nodes that have them.
fn of(
    views: &[QuarantineView],
    bucket: &str,
    key: &str,
) -> Result<Vec<QuarantineView>, ClientError> {
    let wanted = |row: &&QuarantineRow| row.bucket == bucket && row.key == key;
    let found: Vec<QuarantineView> = views
        .iter()
        .map(|view| QuarantineView {
            entries: view.entries.iter().filter(wanted).cloned().collect(),
            ..view.clone()
        })
        .filter(|view| !view.entries.is_empty())
        .collect();
    if found.is_empty() {
        let silent: Vec<&str> =
            views.iter().filter(|view| !view.error.is_empty()).map(|view| &*view.node).collect();
        let silent = match silent.is_empty() {
            true => String::new(),
            false => format!("; {} say nothing", silent.join(", ")),
        };
        return Err(ClientError::Unknown(format!("no node has {bucket}/{key} on record{silent}")));
    }
    Ok(found)
}

fn name(row: &QuarantineRow) -> String {
    let part = row.part.map_or_else(String::new, |part| format!(" part {part}"));
    format!("{}/{}{part} ({})", row.bucket, row.key, row.version)
}

/// A line a version; below it which nodes say nothing, or have more than they keep.
fn rows(views: &[QuarantineView]) -> String {
    let mut rows = table(&["NODE", "SET", "BUCKET/KEY (VERSION)", "GOOD", "NEEDS", "SINCE", "WHY"]);
    let mut text = Vec::new();
    for view in views {
        for row in &view.entries {
            rows.add_row([
                Cell::new(&view.node),
                number(row.set),
                Cell::new(name(row)),
                number(row.good),
                number(row.need),
                Cell::new(since(row.since)),
                Cell::new(&row.why),
            ]);
        }
        if !view.error.is_empty() {
            text.push(format!("{} says nothing: {}", view.node, view.error));
        }
        if view.refused > 0 {
            text.push(format!("{}: the record is full; there are more", view.node));
        }
    }
    format!("{rows}\n{}", text.join("\n"))
}

fn since(seconds: u64) -> String {
    let at = time::OffsetDateTime::from_unix_timestamp(seconds as i64);
    at.map_or_else(|_| seconds.to_string(), |at| at.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn view(node: &str, keys: &[&str]) -> QuarantineView {
        let row = |key: &&str| QuarantineRow {
            bucket: "b".to_owned(),
            key: (*key).to_owned(),
            version: "null".to_owned(),
            good: 9,
            need: 12,
            why: "set 0 lacks drives".to_owned(),
            ..QuarantineRow::default()
        };
        let entries = keys.iter().map(row).collect();
        QuarantineView { node: node.to_owned(), entries, ..QuarantineView::default() }
    }

    /// Goal: nothing on record is hidden, nor a node that says nothing, nor that there is more. Method: two nodes with rows,
    /// one silent, one full.
    #[test]
    fn what_cannot_be_restored_is_told() {
        let silent = QuarantineView { error: "hung".to_owned(), ..view("http://c", &[]) };
        let full = QuarantineView { refused: 2, ..view("http://d", &["y"]) };
        let views = [view("http://a", &["x"]), view("http://b", &["x", "z"]), silent, full];
        let text = rows(&views);
        for line in [
            "b/x (null)",
            "b/z (null)",
            "http://c says nothing: hung",
            "http://d: the record is full",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        let nodes: Vec<String> =
            of(&views, "b", "x").unwrap().into_iter().map(|view| view.node).collect();
        assert_eq!(nodes, ["http://a", "http://b"]);
        let error = of(&views, "b", "none").unwrap_err().to_string();
        assert!(error.contains("http://c say nothing"), "{error}");
    }
}
