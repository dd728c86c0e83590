//! A drive is wiped only when all drives are healthy, and nothing else happens until it is rebuilt: it
//! must be, unasked, under a new identity.

use std::{
    path::Path,
    time::{Duration, Instant},
};

use serde_json::Value as Json;

use super::{
    client::{Outcome, Worker},
    plan::Episode,
};
use crate::cluster::Cluster;

/// All drives are healthy within this time after an earlier episode, or the wipe is left out.
const HEALTHY_WITHIN: Duration = Duration::from_secs(60);

/// A wiped drive is rebuilt within this time. It holds a few hundred megabytes at most, beside a load.
const REBUILT_WITHIN: Duration = Duration::from_secs(240);

/// How often the drives are looked at.
const LOOK_AGAIN: Duration = Duration::from_millis(500);

/// A drive about to be wiped.
pub struct Wiped {
    path: String,
    identity: String,
}

/// Waits until all drives are healthy; which drive is going to be wiped.
pub async fn before(admin: &mut Worker, dir: &Path, episode: &Episode) -> Option<Wiped> {
    let (node, drive) = *episode.drives.first()?;
    let path = Cluster::load(dir).ok()?.nodes.get(node - 1)?.drives.get(drive - 1)?.clone();
    let path = path.display().to_string();
    let begin = Instant::now();
    while begin.elapsed() < HEALTHY_WITHIN {
        let drives = drives(admin).await;
        if unhealthy(&drives).is_none()
            && let Some(found) = drives.iter().find(|drive| drive["path"] == path.as_str())
        {
            let identity = found["drive"].as_str().unwrap_or_default().to_owned();
            return Some(Wiped { path, identity });
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    None
}

/// Waits until a wiped drive is there again under a new identity and all drives are healthy.
///
/// # Errors
/// What is missing after [`REBUILT_WITHIN`].
pub async fn after(admin: &mut Worker, wiped: &Wiped) -> Result<(), String> {
    let begin = Instant::now();
    let mut why = String::new();
    while begin.elapsed() < REBUILT_WITHIN {
        let drives = drives(admin).await;
        let there = drives.iter().find(|drive| drive["path"] == wiped.path.as_str());
        let old = there.is_none_or(|drive| drive["drive"] == wiped.identity.as_str());
        match unhealthy(&drives) {
            None if !old => return Ok(()),
            None => why = "it has its old identity".to_owned(),
            Some(cause) => why = cause,
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
    let seconds = REBUILT_WITHIN.as_secs();
    Err(format!("{} was wiped and not rebuilt within {seconds} s: {why}", wiped.path))
}

/// All drives, as the first node tells; none when it does not answer.
async fn drives(admin: &mut Worker) -> Vec<Json> {
    let Outcome::Answered { answer, .. } = admin.look("v1/drives", &[]).await else {
        return Vec::new();
    };
    let all: Json = serde_json::from_slice(&answer.body).unwrap_or_default();
    all.as_array().cloned().unwrap_or_default()
}

/// A drive that is not healthy, and why; `None` when all are.
fn unhealthy(drives: &[Json]) -> Option<String> {
    if drives.is_empty() {
        return Some("the first node does not tell of its drives".to_owned());
    }
    let ill = drives.iter().find(|drive| drive["state"] != "healthy")?;
    Some(format!("{} is {}: {}", ill["path"], ill["state"], ill["detail"]))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: only all healthy is healthy. Method: answers with none, one ill, all well.
    #[test]
    fn only_all_healthy_is_healthy() {
        let drive = |state: &str| serde_json::json!({"path": "/d", "drive": "1", "state": state, "detail": ""});
        assert!(unhealthy(&[]).is_some());
        assert!(unhealthy(&[drive("healthy"), drive("rebuilding")]).is_some());
        assert!(unhealthy(&[drive("healthy"), drive("healthy")]).is_none());
    }
}
