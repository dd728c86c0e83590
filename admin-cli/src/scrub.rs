//! The scrub: orders to the drives of all nodes, which any node passes on, and how each drive stands.

use comfy_table::Cell;
use holdfast_types::view::{ScrubPassView, ScrubRow, ScrubView};

use crate::{
    ScrubCommand,
    client::{Client, ClientError},
    shown,
    tables::{bytes, number, table},
};

/// Tells all drives, or shows them.
pub(crate) async fn scrub(
    client: &Client,
    command: &ScrubCommand,
    json: bool,
) -> Result<String, ClientError> {
    let rate;
    let (path, query) = match command {
        ScrubCommand::Status => {
            let view = client.get("/_admin/v1/scrub", &[]).await?;
            return shown::<ScrubView>(&view, json, rows);
        }
        ScrubCommand::Start => ("/_admin/v1/scrub/start", Vec::new()),
        ScrubCommand::Pause => ("/_admin/v1/scrub/pause", Vec::new()),
        ScrubCommand::Resume => ("/_admin/v1/scrub/resume", Vec::new()),
        ScrubCommand::Rate { bytes } => {
            rate = bytes.to_string();
            ("/_admin/v1/scrub/rate", vec![("bytes", rate.as_str())])
        }
    };
    client.post(path, &query).await
}

/// A line a drive; below it what is wrong.
fn rows(view: &ScrubView) -> String {
    let mut rows = table(&[
        "NODE",
        "PATH",
        "STATE",
        "PASS",
        "SHARDS",
        "READ",
        "LEFT",
        "TIME LEFT",
        "RATE",
        "FOUND",
        "LAST WHOLE PASS",
    ]);
    let mut text = Vec::new();
    for row in &view.drives {
        let left = row.seconds_left.map_or_else(String::new, |left| format!("{left} s"));
        let state = if row.error.is_empty() { &row.state } else { "silent" };
        rows.add_row([
            Cell::new(&row.node),
            Cell::new(&row.path),
            Cell::new(state),
            number(row.pass),
            number(row.shards_read),
            number(bytes(row.bytes_read)),
            number(bytes(row.bytes_left)),
            number(left),
            number(format!("{}/s", bytes(row.bytes_per_second))),
            number(row.found),
            Cell::new(row.last_complete.as_ref().map_or_else(|| "never".to_owned(), whole)),
        ]);
        text.extend(trouble(row));
    }
    format!("{rows}\n{}", text.join("\n"))
}

fn whole(pass: &ScrubPassView) -> String {
    let took = pass.finished_at.saturating_sub(pass.started_at);
    let read = bytes(pass.bytes + pass.run_bytes);
    format!("pass {}: {} shards, {read} in {took} s, {} rotten", pass.pass, pass.shards, pass.found)
}

/// What an operator has to know of a drive.
fn trouble(row: &ScrubRow) -> Option<String> {
    let place = format!("{}{}", row.node, row.path);
    if !row.error.is_empty() {
        return Some(format!("{place} says nothing: {}", row.error));
    }
    let last = row.last.as_ref().filter(|last| !last.complete)?;
    let (shards, missed) = (last.shards_missed, bytes(last.bytes_missed));
    Some(format!("{place}: pass {} did not read {shards} shards, {missed}", last.pass))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: a pass that did not read everything is not shown as one that did, and a silent drive is named.
    #[test]
    fn what_was_not_read_is_told() {
        let passed = ScrubPassView { pass: 3, shards_missed: 2, ..ScrubPassView::default() };
        let row = ScrubRow { path: "/a".into(), last: Some(passed), ..ScrubRow::default() };
        let silent = ScrubRow { path: "/b".into(), error: "hung".into(), ..ScrubRow::default() };
        let text = rows(&ScrubView { drives: vec![row, silent] });
        assert!(text.contains("never") && text.contains("pass 3 did not read 2 shards"), "{text}");
        assert!(text.contains("/b says nothing: hung"), "{text}");
        let whole =
            ScrubPassView { pass: 4, complete: true, shards: 7, ..ScrubPassView::default() };
        let row = ScrubRow {
            last: Some(whole.clone()),
            last_complete: Some(whole),
            ..ScrubRow::default()
        };
        let text = rows(&ScrubView { drives: vec![row] });
        assert!(text.contains("pass 4: 7 shards") && !text.contains("did not"), "{text}");
    }
}
