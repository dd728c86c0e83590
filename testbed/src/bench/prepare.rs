//! Before a run: the bucket, and the objects that the run expects.

use std::sync::Arc;

use super::{
    client::{Client, OpError, Target, clients},
    load::{Load, Operation},
};

/// Makes the bucket and, for everything but PUT, the objects that are not there yet. Gives how many
/// objects there are under the prefix, and an error when that fails.
pub async fn prepare(load: &Load, targets: &[Target]) -> Result<u64, OpError> {
    let mut client = Client::new(targets[0].clone());
    client.create_bucket().await?;
    let objects = &load.objects;
    if load.operation == Operation::Put {
        return Ok(objects.count);
    }
    let mut there = std::collections::BTreeSet::new();
    let mut token = None;
    loop {
        let page = client.list(&objects.prefix, token.as_deref()).await?;
        there.extend(page.keys.iter().filter_map(|key| objects.number(key)));
        token = page.next;
        if token.is_none() {
            break;
        }
    }
    let last = there.last().map_or(0, |number| number + 1).max(objects.count);
    let missing: Vec<u64> = (0..last).filter(|number| !there.contains(number)).collect();
    fill(load, targets, missing).await?;
    Ok(last)
}

/// Writes the objects with these numbers.
async fn fill(load: &Load, targets: &[Target], missing: Vec<u64>) -> Result<(), OpError> {
    let missing = Arc::new(std::sync::Mutex::new(missing));
    let mut workers = tokio::task::JoinSet::new();
    for mut client in clients(targets, load.concurrency) {
        let (missing, objects) = (Arc::clone(&missing), load.objects.clone());
        workers.spawn(async move {
            while let Some(number) = take(&missing) {
                let key = objects.key(number);
                client.put(&key, objects.content.of(&key, objects.size)).await?;
            }
            Ok(())
        });
    }
    while let Some(done) = workers.join_next().await {
        done.expect("workers do not panic")?;
    }
    Ok(())
}

/// Takes one number off the list.
fn take(numbers: &std::sync::Mutex<Vec<u64>>) -> Option<u64> {
    numbers.lock().expect("no worker panics while it holds the lock").pop()
}
