//! What every [`Node`] must do, whichever way it reaches the drives: one suite for the local actors,
//! the gRPC client and the in-memory double (STYLE rule 20).
//!
//! For tests: a carrier that breaks a rule makes [`Rig::check`] panic with the rule's name. Drives
//! keep what the suite wrote; it may be run again under another `now_micros`.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::StreamExt as _;
use holdfast_erasure::{Salt, encode_body};
use holdfast_register::{HolderMask, Refusal, ShardStatus};
use holdfast_types::{
    Ballot, DriveId, Entry, EntryKind, ErrorClass, Geometry, HybridTime, Keyspace, OperationId,
    RegisterKey, ShardIndex, VersionId, WriterId,
};

use crate::{
    api::{
        Accept, DriveError, DriveReply, DriveRequest, DriveResult, InlineShard, Prepare, Read,
        Scan, Scope, Settle, ShardRead, ShardSource, UploadHandle, UploadTarget, Verify,
    },
    node::Node,
};

/// More than any answer takes; less than a test may.
const DEADLINE: Duration = Duration::from_secs(10);

/// A drive that no cluster has.
const STRANGER: DriveId = DriveId(0xdead_0000_dead);

/// A node and what its drives belong to.
pub struct Rig {
    /// The carrier.
    pub node: Arc<dyn Node>,
    /// Its drives, at least two, which all serve; shard i of the suite's entries is on drive i.
    pub drives: Vec<DriveId>,
    /// A live bucket and the set of the drives.
    pub scope: Scope,
    /// The drives' wall clock. Each run needs a later one.
    pub now_micros: u64,
}

/// One version the suite writes.
struct Sample {
    key: RegisterKey,
    entry: Entry,
    shards: Vec<Bytes>,
    body: Vec<u8>,
}

impl Rig {
    /// Runs the whole suite.
    ///
    /// # Panics
    /// When the carrier breaks a rule.
    pub async fn check(&self) {
        assert!(self.drives.len() >= 2, "the suite needs two drives");
        self.answers_come_in_order_one_a_request().await;
        self.what_was_accepted_is_read_and_scanned().await;
        self.refusals_keep_their_meaning().await;
        self.settle_is_seen().await;
        self.uploads_become_shards().await;
        self.a_suspected_shard_is_looked_at().await;
        self.a_lost_target_disturbs_nobody().await;
        self.what_is_not_there_is_an_error().await;
        self.deadlines_hold().await;
    }

    /// A version named `name`, drawn `tick` ticks into this run.
    fn sample(&self, name: &str, tick: u64, body_len: usize) -> Sample {
        let name = format!("conformance/{}/{name}", self.now_micros);
        let key = RegisterKey::object(self.scope.bucket.id, name);
        let time = HybridTime(HybridTime::from_micros(self.now_micros).0 + tick);
        let ballot = Ballot { generation: 1, time, writer: WriterId(7) };
        let operation = OperationId(u128::from(self.now_micros) << 64 | u128::from(tick));
        let count = self.drives.len().min(16) as u8;
        let geometry = Geometry::new(1.max(count - 1), count, body_len as u64);
        let entry = Entry {
            ballot,
            order: ballot,
            operation,
            kind: EntryKind::Put,
            geometry: if body_len == 0 { Geometry::EMPTY } else { geometry },
            metadata: Bytes::from_static(b"about it"),
            parts: Vec::new(),
        };
        let body: Vec<u8> = (0..body_len).map(|at| (at * 7 + tick as usize) as u8).collect();
        let salts = self.drives.iter().zip(0_u8..).take(count.into());
        let salts: Vec<Salt> = salts
            .map(|(drive, shard)| Salt { operation, drive: *drive, shard: ShardIndex(shard) })
            .collect();
        let shards = if body_len == 0 {
            vec![Bytes::new(); salts.len()]
        } else {
            encode_body(&geometry, &body, &salts)
        };
        Sample { key, entry, shards, body }
    }

    fn accept(&self, sample: &Sample, shard: usize, source: ShardSource) -> DriveRequest {
        DriveRequest::Accept(Accept {
            scope: self.scope,
            key: sample.key.clone(),
            version: VersionId::NULL,
            entry: sample.entry.clone(),
            shard: ShardIndex(shard as u8),
            source,
            guard: None,
        })
    }

    fn read(&self, sample: &Sample) -> DriveRequest {
        let (scope, key) = (self.scope, sample.key.clone());
        DriveRequest::Read(Read { scope, key, version: None, inline: true })
    }

    async fn one(&self, drive: DriveId, request: DriveRequest) -> DriveResult {
        let mut answers = self.node.call(DEADLINE, vec![(drive, request)]).await;
        assert_eq!(answers.len(), 1, "one answer a request");
        answers.remove(0)
    }

    /// Accepts a sample inline everywhere.
    async fn put(&self, sample: &Sample) {
        let inline = |shard: usize| ShardSource::Inline(sample.shards[shard].clone());
        let request = |shard| (self.drives[shard], self.accept(sample, shard, inline(shard)));
        let batch = (0..sample.shards.len()).map(request).collect();
        for answer in self.node.call(DEADLINE, batch).await {
            assert_eq!(answer, Ok(DriveReply::Accepted(ShardStatus::Present)), "accept inline");
        }
    }

    async fn answers_come_in_order_one_a_request(&self) {
        assert_eq!(self.node.call(DEADLINE, Vec::new()).await, [], "an empty batch");
        let sample = self.sample("order", 1, 0);
        let mut batch = Vec::new();
        for (shard, drive) in self.drives.iter().enumerate() {
            batch.push((*drive, DriveRequest::Facts));
            batch.push((*drive, self.accept(&sample, shard, ShardSource::NoData)));
            batch.push((STRANGER, DriveRequest::Facts));
            batch.push((*drive, self.read(&sample)));
        }
        let answers = self.node.call(DEADLINE, batch).await;
        assert_eq!(answers.len(), self.drives.len() * 4, "one answer a request");
        for (four, drive) in answers.chunks(4).zip(&self.drives) {
            let [Ok(DriveReply::Facts(facts)), accepted, stranger, Ok(read)] = four else {
                panic!("answers come in the order of their requests: {four:?}");
            };
            assert_eq!(facts.drive, *drive, "facts of the drive asked");
            assert_eq!(accepted, &Ok(DriveReply::Accepted(ShardStatus::NoData)));
            let class = stranger.as_ref().map_err(DriveError::class).expect_err("a stranger");
            assert_eq!(class, ErrorClass::Unavailable, "a drive that is not there");
            assert_eq!(entries_of(read), [&sample.entry], "requests to one drive in order");
        }
    }

    async fn what_was_accepted_is_read_and_scanned(&self) {
        let names = ["scan/a", "scan/a/b", "scan/b"];
        let samples: Vec<_> =
            names.iter().zip(10_u64..).map(|(name, tick)| self.sample(name, tick, 5_000)).collect();
        for sample in samples.iter().rev() {
            self.put(sample).await;
        }
        for (shard, drive) in self.drives.iter().enumerate().take(samples[0].shards.len()) {
            for sample in &samples {
                let read = self.one(*drive, self.read(sample)).await.expect("read");
                assert_eq!(entries_of(&read), [&sample.entry], "what was accepted is read");
                let DriveReply::View { inline, .. } = read else { panic!("a read is a view") };
                let expected = InlineShard {
                    operation: sample.entry.operation,
                    shard: ShardIndex(shard as u8),
                    bytes: sample.shards[shard].clone(),
                };
                assert_eq!(inline, [expected], "inline shards come along when asked for");
            }
            self.scan_pages(*drive, &samples).await;
        }
    }

    async fn scan_pages(&self, drive: DriveId, samples: &[Sample]) {
        let mut start = samples[0].key.name.clone();
        let end = Bytes::from([&samples[2].key.name[..], b"\0"].concat());
        for (at, sample) in samples.iter().enumerate() {
            let scan = Scan {
                scope: self.scope,
                space: Keyspace::Object,
                start,
                end: Some(end.clone()),
                limit: 1,
                metadata: true,
            };
            let page = self.one(drive, DriveRequest::Scan(scan)).await;
            let Ok(DriveReply::Page(page)) = page else { panic!("a scan is a page: {page:?}") };
            assert_eq!(page.keys.len(), 1, "a page has at most its limit");
            assert_eq!(page.keys[0].name, sample.key.name, "keys come in order");
            assert_eq!(page.more, at + 1 < samples.len(), "whether more follow");
            assert!(page.counts, "a healthy drive counts");
            start = [&page.keys[0].name[..], b"\0"].concat().into();
        }
    }

    async fn refusals_keep_their_meaning(&self) {
        let new = self.sample("refused", 31, 0);
        let mut old = self.sample("refused", 30, 0);
        let drive = self.drives[0];
        let accept = |sample: &Sample| self.accept(sample, 0, ShardSource::NoData);
        let done = Ok(DriveReply::Accepted(ShardStatus::NoData));
        assert_eq!(self.one(drive, accept(&new)).await, done);
        assert_eq!(self.one(drive, accept(&new)).await, done, "accept is idempotent");
        let refusal = Refusal::Stale { highest: new.entry.ballot };
        let refused = Err(DriveError::Refused { drive, refusal });
        assert_eq!(self.one(drive, accept(&old)).await, refused, "the winner is named");
        let promised = Ballot { time: HybridTime(new.entry.ballot.time.0 + 8), ..new.entry.ballot };
        let prepare = Prepare {
            scope: self.scope,
            key: new.key.clone(),
            ballot: promised,
            since: new.entry.ballot.time,
            inline: false,
        };
        let view = self.one(drive, DriveRequest::Prepare(prepare)).await.expect("promise");
        assert_eq!(entries_of(&view), [&new.entry], "a promise tells what is held");
        old.entry.ballot.time = HybridTime(promised.time.0 - 1);
        let refusal = Refusal::Promised { promise: promised };
        let refused = Err(DriveError::Refused { drive, refusal });
        assert_eq!(self.one(drive, accept(&old)).await, refused, "promises bind");
    }

    async fn settle_is_seen(&self) {
        let sample = self.sample("settled", 40, 900);
        self.put(&sample).await;
        let settle = DriveRequest::Settle(Settle {
            scope: self.scope,
            key: sample.key.clone(),
            version: VersionId::NULL,
            operation: sample.entry.operation,
            holders: HolderMask::full(sample.shards.len() as u8),
            set_size: sample.shards.len() as u8,
        });
        let drive = self.drives[1];
        assert_eq!(self.one(drive, settle).await, Ok(DriveReply::Done), "settle");
        let read = self.one(drive, self.read(&sample)).await.expect("read");
        let DriveReply::View { view, .. } = read else { panic!("a read is a view") };
        let settled = view.registers.values().filter_map(|register| register.settled()).count();
        assert_eq!(settled, 1, "settled entries are flagged");
    }

    fn target(&self, sample: &Sample, shard: usize) -> UploadTarget {
        UploadTarget {
            drive: self.drives[shard],
            scope: self.scope,
            key: sample.key.clone(),
            operation: sample.entry.operation,
            shard: ShardIndex(shard as u8),
            geometry: sample.entry.geometry,
        }
    }

    /// Streams a sample's shards in pieces that do not care for blocks' borders.
    async fn upload(&self, sample: &Sample, targets: Vec<UploadTarget>) -> Vec<Ended> {
        let count = targets.len();
        let mut upload = self.node.upload(targets).await.expect("open an upload");
        for at in (0..sample.shards[0].len()).step_by(300_000) {
            for target in 0..count {
                let shard = &sample.shards[target.min(sample.shards.len() - 1)];
                let piece = shard.slice(at..shard.len().min(at + 300_000));
                upload.send(target, piece).await.expect("the node is there");
            }
        }
        upload.finish().await
    }

    async fn uploads_become_shards(&self) {
        let sample = self.sample("uploaded", 50, 3_000_000);
        let targets = (0..sample.shards.len()).map(|shard| self.target(&sample, shard)).collect();
        let handles = self.upload(&sample, targets).await;
        let request = |(shard, handle): (usize, Ended)| {
            let source = ShardSource::Upload(handle.expect("the shard is safe"));
            (self.drives[shard], self.accept(&sample, shard, source))
        };
        let batch = handles.into_iter().enumerate().map(request).collect();
        for answer in self.node.call(DEADLINE, batch).await {
            assert_eq!(answer, Ok(DriveReply::Accepted(ShardStatus::Present)), "by its handle");
        }
        let geometry = sample.entry.geometry;
        assert!(geometry.stripe_count() > 3 && !sample.body.is_empty());
        for (shard, bytes) in sample.shards.iter().enumerate() {
            let whole = self.stream(&sample, shard, 0, geometry.stripe_count()).await;
            assert_eq!(whole, Ok(bytes.clone()), "a shard is read as it was sent");
            let middle = self.stream(&sample, shard, 1, 2).await;
            let from = geometry.block_offset(1) as usize;
            let to = geometry.block_offset(3) as usize;
            assert_eq!(middle, Ok(bytes.slice(from..to)), "a range of blocks");
        }
    }

    async fn stream(
        &self,
        sample: &Sample,
        shard: usize,
        first_block: u64,
        block_count: u64,
    ) -> Result<Bytes, DriveError> {
        let mut blocks =
            self.node.read_shard(self.shard_read(sample, shard, first_block, block_count)).await?;
        let mut whole = Vec::new();
        while let Some(chunk) = blocks.next().await {
            whole.extend_from_slice(&chunk?);
        }
        Ok(whole.into())
    }

    fn shard_read(
        &self,
        sample: &Sample,
        shard: usize,
        first_block: u64,
        block_count: u64,
    ) -> ShardRead {
        ShardRead {
            drive: self.drives[shard],
            scope: self.scope,
            operation: sample.entry.operation,
            shard: ShardIndex(shard as u8),
            geometry: sample.entry.geometry,
            first_block,
            block_count,
        }
    }

    async fn a_suspected_shard_is_looked_at(&self) {
        let sample = self.sample("suspected", 55, 9_000);
        self.put(&sample).await;
        let verify = |operation| {
            DriveRequest::Verify(Verify {
                scope: self.scope,
                key: sample.key.clone(),
                version: VersionId::NULL,
                operation,
                shard: ShardIndex(0),
            })
        };
        let drive = self.drives[0];
        let right = self.one(drive, verify(sample.entry.operation)).await;
        let present = Ok(DriveReply::Accepted(ShardStatus::Present));
        assert_eq!(right, present, "a shard that is right stays, whatever a reader says");
        let gone = self.one(drive, verify(OperationId(77))).await;
        assert_eq!(gone, Ok(DriveReply::Done), "an operation that nothing here names");
    }

    async fn a_lost_target_disturbs_nobody(&self) {
        let sample = self.sample("half lost", 60, 1_000_000);
        let stranger = UploadTarget { drive: STRANGER, ..self.target(&sample, 1) };
        let ended = self.upload(&sample, vec![self.target(&sample, 0), stranger]).await;
        let [Ok(handle), Err(error)] = &ended[..] else { panic!("one is lost: {ended:?}") };
        assert_eq!(error.class(), ErrorClass::Unavailable, "a drive that is not there");
        let accept = self.accept(&sample, 0, ShardSource::Upload(*handle));
        let accepted = self.one(self.drives[0], accept).await;
        assert_eq!(accepted, Ok(DriveReply::Accepted(ShardStatus::Present)));
        let other = self.sample("dropped", 61, 1_000_000);
        let mut dropped =
            self.node.upload(vec![self.target(&other, 0)]).await.expect("open an upload");
        dropped.send(0, other.shards[0].slice(..100_000)).await.expect("the node is there");
        drop(dropped);
        assert!(self.stream(&other, 0, 0, 1).await.is_err(), "dropped unfinished: nothing is left");
    }

    async fn what_is_not_there_is_an_error(&self) {
        let sample = self.sample("nowhere", 70, 200_000);
        let drive = self.drives[0];
        let handle = UploadHandle { open: u64::MAX, upload: 1 };
        let lost = self.one(drive, self.accept(&sample, 0, ShardSource::Upload(handle))).await;
        let refused = Err(DriveError::Refused { drive, refusal: Refusal::UploadLost });
        assert_eq!(lost, refused, "a handle of another open");
        assert!(self.stream(&sample, 0, 0, 1).await.is_err(), "a shard that is not there");
        let read = self.one(drive, self.read(&sample)).await.expect("read");
        assert_eq!(entries_of(&read), [] as [&Entry; 0], "nothing was accepted");
        let strange = ShardRead { drive: STRANGER, ..self.shard_read(&sample, 0, 0, 1) };
        let error = self.node.read_shard(strange).await.map(drop).expect_err("a stranger");
        assert_eq!(error.class(), ErrorClass::Unavailable, "a drive that is not there");
    }

    async fn deadlines_hold(&self) {
        let sample = self.sample("late", 80, 0);
        let batch = vec![(self.drives[0], self.read(&sample)); 3];
        let call = self.node.call(Duration::ZERO, batch);
        let answers = tokio::time::timeout(DEADLINE, call).await.expect("the deadline holds");
        assert_eq!(answers.len(), 3, "one answer a request, late or not");
        for error in answers.into_iter().filter_map(Result::err) {
            let class = error.class();
            let expected = [ErrorClass::TimedOut, ErrorClass::Unavailable, ErrorClass::Overloaded];
            assert!(expected.contains(&class), "a late answer is no answer: {error}");
        }
    }
}

type Ended = Result<UploadHandle, DriveError>;

/// The entries a view shows.
fn entries_of(reply: &DriveReply) -> Vec<&Entry> {
    let DriveReply::View { view, .. } = reply else { panic!("not a view: {reply:?}") };
    let held = view.registers.values().flat_map(|register| &register.entries);
    held.map(|held| &held.entry).collect()
}
