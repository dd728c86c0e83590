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
    health::Kind,
    set::{Route, SetShared, ShardRequests, ShardResults},
    task,
};

/// Calls under way. Dropped early, they run to their end in the background.
#[derive(Default)]
pub(crate) struct Calls {
    pending: FuturesUnordered<BoxFuture<'static, (u32, ShardResults)>>,
}

impl Calls {
    /// Calls nobody waits for any more are cancelled: whether they were carried out is not known.
    pub(crate) fn cut_off(&mut self) {
        self.pending.clear();
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.pending.is_empty()
    }

    /// The next node's answers and their round; `None` when all have answered.
    pub(crate) async fn next(&mut self) -> Option<(u32, ShardResults)> {
        self.pending.next().await
    }

    /// As [`Self::next`], but `None` also when `wait` has passed.
    pub(crate) async fn next_within(&mut self, wait: Duration) -> Option<(u32, ShardResults)> {
        tokio::time::timeout(wait, self.pending.next()).await.ok().flatten()
    }

    /// All answers there will be.
    pub(crate) async fn all(&mut self) -> ShardResults {
        let mut results = Vec::new();
        while let Some((_, some)) = self.next().await {
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
        round: u32,
        requests: ShardRequests,
        calls: &mut Calls,
    ) {
        let slots = requests
            .into_iter()
            .map(|(shard, request)| (shard, route.slots[usize::from(shard)], request));
        for call in self.calls_to(round, slots.collect()) {
            calls.pending.push(call);
        }
    }

    /// Sends one request to each slot named and gathers all answers, by slot.
    pub(crate) async fn ask_slots(
        self: &Arc<Self>,
        requests: Vec<(usize, DriveRequest)>,
    ) -> Vec<(usize, DriveResult)> {
        let tagged = requests.into_iter().map(|(slot, request)| (slot as u8, slot, request));
        let calls: FuturesUnordered<_> = self.calls_to(0, tagged.collect()).into_iter().collect();
        let mut calls = Calls { pending: calls };
        calls.all().await.into_iter().map(|(slot, result)| (usize::from(slot), result)).collect()
    }

    /// One future a message; each answers by the tag of its requests.
    fn calls_to(
        self: &Arc<Self>,
        round: u32,
        requests: Vec<(u8, usize, DriveRequest)>,
    ) -> Vec<BoxFuture<'static, (u32, ShardResults)>> {
        let mut groups: BTreeMap<(u16, usize), Vec<(u8, usize, DriveRequest)>> = BTreeMap::new();
        for (tag, slot, request) in requests {
            let alone = if self.health.is_suspect(slot) { slot + 1 } else { 0 };
            let group = (self.slots[slot].node.0, alone);
            groups.entry(group).or_default().push((tag, slot, request));
        }
        groups.into_values().map(|group| self.call(round, group)).collect()
    }

    fn call(
        self: &Arc<Self>,
        round: u32,
        group: Vec<(u8, usize, DriveRequest)>,
    ) -> BoxFuture<'static, (u32, ShardResults)> {
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
            let reads = batch.iter().all(|(_, request)| matches!(request, DriveRequest::Read(_)));
            let begun = shared.clock.monotonic_micros();
            let deadline = shared.knobs.call;
            let answers = cork::call(node, lane, deadline, batch);
            let mut answers = shared.patiently(&tags, answers).await.into_iter();
            let took = shared.clock.monotonic_micros().saturating_sub(begun);
            let results = tags.into_iter().map(|(tag, slot)| {
                let result = answers.next().unwrap_or_else(|| shared.silence(slot));
                if reads && result.is_ok() {
                    shared.health.sample(slot, Kind::Look, Duration::from_micros(took));
                }
                shared.learn(slot, &result);
                (tag, result)
            });
            (round, results.collect())
        })
    }

    /// Waits for a call. Drives that take very long count as down from then on, for those who come
    /// later; this caller still waits for them. The carrier keeps the deadline; twice that bounds one
    /// that does not.
    async fn patiently(
        &self,
        tags: &[(u8, usize)],
        call: impl Future<Output = Vec<DriveResult>>,
    ) -> Vec<DriveResult> {
        let mut call = std::pin::pin!(call);
        if let Ok(answers) = tokio::time::timeout(self.knobs.stuck_after, &mut call).await {
            return answers;
        }
        for (_, slot) in tags {
            if self.health.mark_down(*slot) {
                tracing::warn!(set = %self.index, drive = %self.place(*slot), "drive is stuck");
            }
        }
        self.mail.wake();
        tokio::time::timeout(self.knobs.call * 2, call).await.unwrap_or_default()
    }

    fn silence(&self, slot: usize) -> DriveResult {
        let drive = self.slots[slot].drive;
        Err(DriveError::failed(drive, ErrorClass::TimedOut, "no answer from its node in time"))
    }

    /// Takes an answer into account for the set's view of its drives.
    pub(crate) fn learn(&self, slot: usize, result: &DriveResult) {
        if self.health.observe(slot, result) {
            tracing::warn!(set = %self.index, drive = %self.place(slot), "drive is down");
            self.mail.wake();
        }
    }
}
