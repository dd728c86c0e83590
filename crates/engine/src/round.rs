//! One round of messages: requests to shards go out with one message a node; answers come back by
//! shard as the nodes answer.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::{
    future::BoxFuture,
    stream::{FuturesUnordered, StreamExt},
};
use holdfast_drive::api::{DriveError, DriveRequest, DriveResult};
use holdfast_types::{DriveId, ErrorClass};

use crate::{
    cork,
    set::{Route, SetShared, ShardRequests, ShardResults},
    task,
};

/// Calls under way. Dropped early, they run to their end in the background.
#[derive(Default)]
pub(crate) struct Calls {
    pending: FuturesUnordered<BoxFuture<'static, ShardResults>>,
}

impl Calls {
    pub(crate) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// The next node's answers; `None` when all have answered.
    pub(crate) async fn next(&mut self) -> Option<ShardResults> {
        self.pending.next().await
    }

    /// As [`Self::next`], but `None` also when `wait` has passed.
    pub(crate) async fn next_within(&mut self, wait: Duration) -> Option<ShardResults> {
        tokio::time::timeout(wait, self.pending.next()).await.ok().flatten()
    }

    /// All answers there will be.
    pub(crate) async fn all(&mut self) -> ShardResults {
        let mut results = Vec::new();
        while let Some(some) = self.next().await {
            results.extend(some);
        }
        results
    }
}

impl Drop for Calls {
    fn drop(&mut self) {
        task::drain(std::mem::take(&mut self.pending));
    }
}

impl SetShared {
    /// Sends `requests`, one message a node, and adds the calls to `calls`. A suspect drive gets a
    /// message of its own, so that it does not hold up its siblings' answers.
    pub(crate) fn send(
        self: &Arc<Self>,
        route: &Route,
        requests: ShardRequests,
        calls: &mut Calls,
    ) {
        let slots = requests
            .into_iter()
            .map(|(shard, request)| (shard, route.slots[usize::from(shard)], request));
        for call in self.calls_to(slots.collect()) {
            calls.pending.push(call);
        }
    }

    /// Sends one request to each slot named and gathers all answers, by slot.
    pub(crate) async fn ask_slots(
        self: &Arc<Self>,
        requests: Vec<(usize, DriveRequest)>,
    ) -> Vec<(usize, DriveResult)> {
        let tagged = requests.into_iter().map(|(slot, request)| (slot as u8, slot, request));
        let calls: FuturesUnordered<_> = self.calls_to(tagged.collect()).into_iter().collect();
        let mut calls = Calls { pending: calls };
        calls.all().await.into_iter().map(|(slot, result)| (usize::from(slot), result)).collect()
    }

    /// One future a message; each answers by the tag of its requests.
    fn calls_to(
        self: &Arc<Self>,
        requests: Vec<(u8, usize, DriveRequest)>,
    ) -> Vec<BoxFuture<'static, ShardResults>> {
        let mut groups: BTreeMap<(u16, usize), Vec<(u8, usize, DriveRequest)>> = BTreeMap::new();
        for (tag, slot, request) in requests {
            let alone = if self.health.is_suspect(slot) { slot + 1 } else { 0 };
            let group = (self.slots[slot].node.0, alone);
            groups.entry(group).or_default().push((tag, slot, request));
        }
        groups.into_values().map(|group| self.call(group)).collect()
    }

    fn call(
        self: &Arc<Self>,
        group: Vec<(u8, usize, DriveRequest)>,
    ) -> BoxFuture<'static, ShardResults> {
        let shared = self.clone();
        Box::pin(async move {
            let first = group[0].1;
            let node = shared.node_of(first).clone();
            let alone = shared.health.is_suspect(first).then_some(shared.slots[first].drive);
            let lane = (shared.slots[first].node.0, alone);
            let tags: Vec<(u8, usize)> = group.iter().map(|(tag, slot, _)| (*tag, *slot)).collect();
            let batch: Vec<(DriveId, DriveRequest)> = group
                .into_iter()
                .map(|(_, slot, request)| (shared.slots[slot].drive, request))
                .collect();
            let begun = shared.clock.monotonic_micros();
            let deadline = shared.knobs.call;
            // The carrier keeps the deadline; this one bounds a carrier that does not.
            let answers =
                tokio::time::timeout(deadline * 2, cork::call(node, lane, deadline, batch)).await;
            let took = shared.clock.monotonic_micros().saturating_sub(begun);
            let mut answers = answers.unwrap_or_default().into_iter();
            tags.into_iter()
                .map(|(tag, slot)| {
                    let result = answers.next().unwrap_or_else(|| shared.silence(slot));
                    shared.learn(slot, &result, Duration::from_micros(took));
                    (tag, result)
                })
                .collect()
        })
    }

    fn silence(&self, slot: usize) -> DriveResult {
        let drive = self.slots[slot].drive;
        Err(DriveError::failed(drive, ErrorClass::TimedOut, "no answer from its node in time"))
    }

    /// Takes an answer into account for the set's view of its drives.
    pub(crate) fn learn(&self, slot: usize, result: &DriveResult, took: Duration) {
        if self.health.observe(slot, result, took) {
            tracing::warn!(set = %self.index, drive = %self.place(slot), "drive is down");
            self.mail.wake();
        }
    }
}
