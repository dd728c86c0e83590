//! [`Engine`]: the sets of a layout, and the bounds on what goes on at once.

use std::sync::Arc;

use holdfast_drive::node::Node;
use holdfast_placement::{Layout, SetLayout};
use holdfast_types::{
    BallotClock, BucketStamp, NodeIndex, OperationId, Quorum, RegisterKey, WriterId,
    seam::{Clock, Random},
};
use tokio::sync::Semaphore;

use crate::{
    actor,
    admission::{Admission, Load, Permit},
    error::StoreError,
    health::Health,
    knobs::Knobs,
    members::{Changes, Members},
    quarantine::Quarantine,
    rebuild::Rebuilds,
    registry::Registry,
    report::REPORTS_MAX,
    set::{SetHandle, SetShared},
    turns::Turns,
    workers::Workers,
};

/// What an engine is made of.
pub struct EngineConfig {
    /// The sets and their drives.
    pub layout: Arc<Layout>,
    /// The way to each node, by its index in the layout.
    pub nodes: Vec<Arc<dyn Node>>,
    /// The node this process is, if it has drives: asked first.
    pub local: Option<NodeIndex>,
    /// Time.
    pub clock: Arc<dyn Clock>,
    /// Chance.
    pub random: Arc<dyn Random>,
    /// What can be tuned.
    pub knobs: Knobs,
}

/// Objects across drives.
pub struct Engine {
    pub(crate) sets: Vec<SetHandle>,
    pub(crate) layout: Arc<Layout>,
    pub(crate) nodes: Arc<[Arc<dyn Node>]>,
    pub(crate) local: Option<NodeIndex>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Arc<dyn Random>,
    pub(crate) knobs: Arc<Knobs>,
    pub(crate) registry: Registry,
    pub(crate) workers: Workers,
    pub(crate) admission: Arc<Admission>,
    pub(crate) changes: Changes,
    pub(crate) rebuilds: Rebuilds,
    pub(crate) quarantine: Quarantine,
}

/// Times a request starts again because the bucket or the set changed under it.
const BUCKET_CHANGES_MAX: u32 = 4;

impl Engine {
    /// Starts the sets' actors and, when the knobs say so, the background workers. Must be called
    /// within a tokio runtime.
    #[must_use]
    pub fn new(config: EngineConfig) -> Arc<Self> {
        let EngineConfig { layout, nodes, local, clock, random, knobs } = config;
        let nodes: Arc<[Arc<dyn Node>]> = nodes.into();
        let knobs = Arc::new(knobs);
        let writer = WriterId::draw(random.as_ref());
        let ballots = Arc::new(BallotClock::new(writer, clock.clone()));
        let admission = Arc::new(Admission::new(&knobs));
        let changes = Changes::default();
        let make = |set: &SetLayout| {
            let (mail, mailbox) = actor::mail();
            let shared = Arc::new(SetShared {
                index: set.index,
                generation: layout.generation,
                quorum: Quorum::of(set.drives.len() as u8),
                members: Members::new(set.clone(), changes.clone()),
                nodes: nodes.clone(),
                local,
                layout: layout.clone(),
                ballots: ballots.clone(),
                clock: clock.clone(),
                random: random.clone(),
                knobs: knobs.clone(),
                health: Health::new(set.drives.len()),
                admission: admission.clone(),
                mail,
                reports: Arc::new(Semaphore::new(REPORTS_MAX)),
                turns: Turns::default(),
            });
            actor::start(&shared, mailbox);
            SetHandle { shared }
        };
        let sets: Vec<SetHandle> = layout.sets().map(make).collect();
        assert!(
            sets.iter().enumerate().all(|(at, set)| set.index().get() == at),
            "sets are numbered in layout order"
        );
        let registry = Registry::default();
        let workers = Workers::default();
        let engine = Arc::new(Self {
            sets,
            layout,
            nodes,
            local,
            clock,
            random,
            knobs,
            registry,
            workers,
            admission,
            changes,
            rebuilds: Rebuilds::default(),
            quarantine: Quarantine::default(),
        });
        engine.start_workers();
        engine
    }

    /// All sets, by index.
    #[must_use]
    pub fn sets(&self) -> &[SetHandle] {
        &self.sets
    }

    /// The set that a key lives in.
    ///
    /// # Panics
    /// When the key's name is malformed: keys are made by [`RegisterKey`]'s constructors, and what
    /// comes from drives is checked where it comes in.
    #[must_use]
    pub fn set_for(&self, key: &RegisterKey) -> SetHandle {
        let set = self.layout.set_of(key).expect("keys are made by RegisterKey's constructors");
        self.sets[set.index.get()].clone()
    }

    /// The set of the registries.
    #[must_use]
    pub fn first_set(&self) -> &SetHandle {
        &self.sets[self.layout.first_set().index.get()]
    }

    /// A fresh operation id.
    #[must_use]
    pub fn draw_operation(&self) -> OperationId {
        OperationId::draw(self.random.as_ref())
    }

    /// Wall time, for Last-Modified and creation times.
    #[must_use]
    pub fn now_micros(&self) -> u64 {
        self.clock.wall_micros()
    }

    /// What is in flight of what is bounded.
    #[must_use]
    pub fn load(&self) -> Load {
        self.admission.load(&self.knobs)
    }

    /// Admits one operation, or answers [`StoreError::Overloaded`] when none ends in time.
    pub(crate) async fn admit(&self) -> Result<Permit, StoreError> {
        self.admission.operation().await
    }

    /// Runs `work` under the bucket's current stamp; again when a drive knows a newer one.
    pub(crate) async fn with_bucket<T, F>(
        &self,
        bucket: &str,
        mut work: impl FnMut(BucketStamp) -> F + Send,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, StoreError>> + Send,
    {
        let mut changes = 0;
        loop {
            let stamp = self.bucket_scope(bucket).await?;
            match work(stamp).await {
                Err(StoreError::SetChanged { .. }) if changes < BUCKET_CHANGES_MAX => changes += 1,
                Err(StoreError::BucketChanged { current }) if changes < BUCKET_CHANGES_MAX => {
                    changes += 1;
                    self.bucket_changed(bucket, stamp, current).await?;
                }
                outcome => return outcome,
            }
        }
    }
}
