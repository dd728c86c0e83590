//! One round of messages: requests to shards go out with one message a node; answers come back by
//! shard as the nodes answer.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::{
    future::BoxFuture,
    stream::{FuturesUnordered, StreamExt},
};
use holdfast_drive::api::{DriveError, DriveRequest, DriveResult, MemberRequest, Scope};
use holdfast_register::Refusal;
use holdfast_types::{DriveId, ErrorClass, SetEpoch};

use crate::{
    cork,
    health::Kind,
    set::{Route, SetShared, ShardRequests, ShardResults},
    task,
};

/// An answer with its tag and slot.
type Tagged = (u8, usize, DriveResult);

/// The set epoch that an answer says is newer than the request's.
pub(crate) fn outdated(result: &DriveResult) -> Option<SetEpoch> {
    match result {
        Err(DriveError::Refused { refusal: Refusal::SetOutdated { current }, .. }) => {
            Some(*current)
        }
        _ => None,
    }
}

/// A copy of a request that may be repeated under another set epoch: no ballot was drawn for it.
fn unbound(request: &DriveRequest) -> Option<DriveRequest> {
    match request {
        DriveRequest::Read(_)
        | DriveRequest::Scan(_)
        | DriveRequest::InstallBucket(_)
        | DriveRequest::Member(MemberRequest::ListIndex(_)) => Some(request.clone()),
        _ => None,
    }
}

const fn scope_of(request: &mut DriveRequest) -> Option<&mut Scope> {
    match request {
        DriveRequest::Read(read) => Some(&mut read.scope),
        DriveRequest::Scan(scan) => Some(&mut scan.scope),
        DriveRequest::InstallBucket(scope) => Some(scope),
        DriveRequest::Member(MemberRequest::ListIndex(list)) => Some(&mut list.scope),
        _ => None,
    }
}

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
        let members = self.members.now();
        let mut groups: BTreeMap<(u16, usize), Vec<(u8, usize, DriveRequest)>> = BTreeMap::new();
        for (tag, slot, request) in requests {
            let alone = if self.health.is_suspect(slot) { slot + 1 } else { 0 };
            let group = (members.slots[slot].node.0, alone);
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
            let again: Vec<_> = group.iter().map(|(_, _, request)| unbound(request)).collect();
            let mut results = shared.exchange(group).await;
            let newest = results.iter().filter_map(|(_, _, result)| outdated(result)).max();
            if let Some(newest) = newest {
                shared.refresh(newest).await;
                shared.ask_again(&mut results, again).await;
            }
            (round, results.into_iter().map(|(tag, _, result)| (tag, result)).collect())
        })
    }

    /// One message to one node.
    async fn exchange(&self, group: Vec<(u8, usize, DriveRequest)>) -> Vec<Tagged> {
        let members = self.members.now();
        let first = group[0].1;
        let node = self.nodes[members.slots[first].node.get()].clone();
        let alone = self.health.is_suspect(first).then_some(members.slots[first].drive);
        let lane = (members.slots[first].node.0, alone);
        let tags: Vec<(u8, usize)> = group.iter().map(|(tag, slot, _)| (*tag, *slot)).collect();
        let batch: Vec<(DriveId, DriveRequest)> = group
            .into_iter()
            .map(|(_, slot, request)| (members.slots[slot].drive, request))
            .collect();
        let reads = batch.iter().all(|(_, request)| matches!(request, DriveRequest::Read(_)));
        let begun = self.clock.monotonic_micros();
        let answers = cork::call(node, lane, self.knobs.call, batch);
        let mut answers = self.patiently(&tags, answers).await.into_iter();
        let took = self.clock.monotonic_micros().saturating_sub(begun);
        let results = tags.into_iter().map(|(tag, slot)| {
            let result = answers.next().unwrap_or_else(|| self.silence(slot));
            if reads && result.is_ok() {
                self.health.sample(slot, Kind::Look, Duration::from_micros(took));
            }
            self.learn(slot, &result);
            (tag, slot, result)
        });
        results.collect()
    }

    /// Repeats, under the set epoch learnt meanwhile, the requests of `again` that were refused for an
    /// older one. What rests on a ballot is not among them: a promise of an older epoch must not back
    /// an Accept of a newer one, so its coordinator draws a new ballot.
    async fn ask_again(&self, results: &mut [Tagged], again: Vec<Option<DriveRequest>>) {
        let epoch = self.members.epoch();
        let mut repeated = Vec::new();
        let mut places = Vec::new();
        for (at, ((tag, slot, result), request)) in results.iter().zip(again).enumerate() {
            let Some(mut request) = request.filter(|_| outdated(result).is_some()) else {
                continue;
            };
            if let Some(scope) = scope_of(&mut request) {
                scope.set_epoch = epoch;
                repeated.push((*tag, *slot, request));
                places.push(at);
            }
        }
        if repeated.is_empty() {
            return;
        }
        for (at, result) in places.into_iter().zip(self.exchange(repeated).await) {
            results[at] = result;
        }
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

    pub(crate) fn silence(&self, slot: usize) -> DriveResult {
        let drive = self.slot(slot).drive;
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
