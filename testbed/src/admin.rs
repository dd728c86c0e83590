//! The administrative paths of a cluster, asked as adminctl asks them; and the scrub of all drives, ordered
//! there and waited for.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use http::{Method, StatusCode};
use serde::Serialize;
use serde_json::Value as Json;

use crate::bench::{
    ask::{Answer, NoAnswer},
    client::{Client, Payload, Target},
};

/// A node that is alive answers within this time: it waits a few seconds for its peers.
const PATIENCE: Duration = Duration::from_secs(25);

/// Bytes a second that no device reaches: the product's own upper bound.
pub const FULL_RATE: u64 = 64 << 30;

/// A rate at which a pass is under way and hardly reads: each drive's first step, and no second one.
pub const STANDING_RATE: u64 = 1;

/// Every drive has told of the end of its pass within this time at the full rate. Clusters of these tests
/// hold a few gigabytes.
const PASS_WITHIN: Duration = Duration::from_secs(600);

/// How often is looked again.
const LOOK_AGAIN: Duration = Duration::from_millis(300);

/// An operator of a cluster.
pub struct Admin {
    clients: Vec<Client>,
}

/// What a pass of every drive came to. Each drive's ledger was complete (INV-SCRUB-1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Passes {
    /// Drives.
    pub drives: usize,
    /// Shards read whole.
    pub shards: u64,
    /// Their bytes, and those of runs.
    pub bytes: u64,
    /// Shards found rotten while the passes were under way, by them or by readers.
    pub found: u64,
}

/// Passes that were begun: the number of each drive's.
pub type Begun = BTreeMap<String, u64>;

impl Admin {
    /// An operator who reaches the nodes at `targets`, whatever bucket those name.
    pub fn new(targets: &[Target]) -> Self {
        let of =
            |target: &Target| Client::new(Target { bucket: "_admin".to_owned(), ..target.clone() });
        Self { clients: targets.iter().map(of).collect() }
    }

    async fn ask(
        &mut self,
        node: usize,
        method: Method,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<Answer, String> {
        let asked = self.clients[node].ask(method, path, query, &[], Payload::EMPTY, PATIENCE);
        asked.await.map_err(|error| match error {
            NoAnswer::NotSent(why) | NoAnswer::Lost(why) => format!("{path}: {why}"),
        })
    }

    /// What `node` (from 0) answers, as JSON; `None` when what is asked about is not there.
    ///
    /// # Errors
    /// Why it does not answer.
    pub async fn get(
        &mut self,
        node: usize,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<Option<Json>, String> {
        let answer = self.ask(node, Method::GET, path, query).await?;
        if answer.status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let text = well(path, &answer)?;
        serde_json::from_str(&text).map(Some).map_err(|error| format!("{path}: {error}"))
    }

    /// Orders something; what `node` says of it.
    ///
    /// # Errors
    /// Why it was not done.
    pub async fn post(
        &mut self,
        node: usize,
        path: &str,
        query: &[(&str, &str)],
    ) -> Result<String, String> {
        well(path, &self.ask(node, Method::POST, path, query).await?)
    }

    /// All drives as `node` tells; none when it does not answer.
    pub async fn drives(&mut self, node: usize) -> Vec<Json> {
        let drives = self.get(node, "v1/drives", &[]).await;
        drives.ok().flatten().and_then(|all| all.as_array().cloned()).unwrap_or_default()
    }

    /// How the scrub of every drive stands.
    async fn scrub_rows(&mut self) -> Result<Vec<Json>, String> {
        let view = self.get(0, "v1/scrub", &[]).await?.unwrap_or_default();
        let rows = view["drives"].as_array().cloned().unwrap_or_default();
        let told = |row: &Json| row["error"].as_str().unwrap_or_default().to_owned();
        match rows.iter().find(|row| !told(row).is_empty()) {
            Some(row) => Err(format!("{} says nothing of its scrub: {}", row["path"], told(row))),
            None if rows.is_empty() => Err("no drive tells of its scrub".to_owned()),
            None => Ok(rows),
        }
    }

    /// Looks at the scrub until `wanted` finds what it looks for in every drive's row.
    async fn until<T>(
        &mut self,
        what: &str,
        wanted: impl Fn(&Json) -> Option<T>,
    ) -> Result<Vec<T>, String> {
        let begin = Instant::now();
        loop {
            let why = match self.scrub_rows().await {
                Ok(rows) => {
                    let found: Vec<Option<T>> = rows.iter().map(&wanted).collect();
                    let open = found.iter().position(Option::is_none);
                    match open {
                        None => return Ok(found.into_iter().flatten().collect()),
                        Some(place) => rows[place].to_string(),
                    }
                }
                Err(why) => why,
            };
            if begin.elapsed() > PASS_WITHIN {
                let seconds = PASS_WITHIN.as_secs();
                return Err(format!("scrub: {what} not within {seconds} s: {why}"));
            }
            tokio::time::sleep(LOOK_AGAIN).await;
        }
    }

    /// Begins a pass of every drive at `rate`, once the one before is at its end.
    ///
    /// # Errors
    /// Which drive did not begin.
    pub async fn begin_scrub(&mut self, rate: u64) -> Result<Begun, String> {
        self.rate(FULL_RATE).await?;
        let idle = |row: &Json| (row["state"] == "idle").then_some(());
        self.until("the pass before is at its end", idle).await?;
        self.rate(rate).await?;
        let number = |row: &Json| Some((id_of(row), row["pass"].as_u64()? + 1));
        let begun: Begun = self.until("a pass is numbered", number).await?.into_iter().collect();
        let told = self.post(0, "v1/scrub/start", &[]).await?;
        let all = begun.len();
        if told != format!("told {all} of {all} drives") {
            return Err(format!("scrub start: {told}"));
        }
        Ok(begun)
    }

    /// Waits for passes that were begun, at the full rate.
    ///
    /// # Errors
    /// Which drive's pass did not come to its end, or did not read every live byte.
    pub async fn end_scrub(&mut self, begun: &Begun) -> Result<Passes, String> {
        self.rate(FULL_RATE).await?;
        let ended = |row: &Json| {
            let passed = row["last"]["pass"].as_u64()? >= *begun.get(&id_of(row))?;
            passed.then(|| (row["path"].clone(), row["last"].clone()))
        };
        let mut passes = Passes::default();
        for (path, last) in self.until("the pass is at its end", ended).await? {
            if last["complete"] != true {
                return Err(format!("the pass of {path} did not read every live byte: {last}"));
            }
            let number = |name: &str| last[name].as_u64().unwrap_or(0);
            passes.drives += 1;
            passes.shards += number("shards");
            passes.bytes += number("bytes") + number("run_bytes");
            passes.found += number("found");
        }
        Ok(passes)
    }

    /// A pass of every drive, from its order to its end.
    ///
    /// # Errors
    /// As [`Self::begin_scrub`] and [`Self::end_scrub`].
    pub async fn scrub(&mut self) -> Result<Passes, String> {
        let begun = self.begin_scrub(FULL_RATE).await?;
        self.end_scrub(&begun).await
    }

    async fn rate(&mut self, rate: u64) -> Result<(), String> {
        self.post(0, "v1/scrub/rate", &[("bytes", &*rate.to_string())]).await.map(drop)
    }

    /// What an object lacks at full width, as `adminctl object locate` tells; `None` when it has everything, or
    /// is not there.
    pub async fn lacks(&mut self, bucket: &str, key: &str) -> Option<String> {
        match self.get(0, "v1/object", &[("bucket", bucket), ("key", key)]).await {
            Ok(None) => None,
            Ok(Some(view)) => missing(&view).map(|what| format!("{key}: {what}")),
            Err(why) => Some(format!("{key}: cannot be located: {why}")),
        }
    }
}

/// The shards that a view of an object does not show as present.
fn missing(view: &Json) -> Option<String> {
    let shards = view["shards"].as_array().cloned().unwrap_or_default();
    if shards.is_empty() {
        return Some("its shards are not told".to_owned());
    }
    let missing: Vec<String> = shards
        .iter()
        .filter(|shard| shard["state"] != "present")
        .map(|shard| format!("shard {} on {}: {}", shard["shard"], shard["path"], shard["state"]))
        .collect();
    (!missing.is_empty()).then(|| missing.join(", "))
}

fn id_of(row: &Json) -> String {
    row["drive"].as_str().unwrap_or_default().to_owned()
}

/// The text of an answer that says that all is well.
fn well(path: &str, answer: &Answer) -> Result<String, String> {
    if answer.status != StatusCode::OK {
        return Err(format!("{path}: {} {}", answer.status, answer.message));
    }
    Ok(String::from_utf8_lossy(&answer.body).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: only an object whose every shard is present is whole. Method: views with one shard short, with
    /// none told, with all.
    #[test]
    fn an_object_is_whole_with_every_shard() {
        let view = |states: &[&str]| {
            let shard =
                |state: &&str| serde_json::json!({"shard": 1, "path": "/d", "state": state});
            serde_json::json!({"shards": states.iter().map(shard).collect::<Vec<_>>()})
        };
        assert_eq!(missing(&view(&["present", "present"])), None);
        let short = missing(&view(&["present", "missing"])).expect("a shard is missing");
        assert!(short.contains("missing"), "{short}");
        assert!(missing(&view(&["unknown"])).is_some());
        assert!(missing(&view(&[])).is_some());
    }
}
