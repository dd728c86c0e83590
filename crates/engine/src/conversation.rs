//! Drives a coordinator machine of `holdfast-register`: carries out its steps, turns commands into
//! requests and answers into replies, keeps the time, and settles what was chosen.
//!
//! ```text
//! machine --Send--> one message a node --answers--> replies --> machine
//!         --Ballot--> drawn above what won (after a random wait when others write, too)
//!         --Grace--> timer --> on_grace
//!         --Done--> the answer leaves; stragglers are heard in the background, then Settle
//! ```

use std::{collections::VecDeque, sync::Arc, time::Duration};

use holdfast_drive::api::{
    Accept, DriveError, DriveReply, DriveRequest, DriveResult, InlineShard, Prepare, Read,
    ShardSource,
};
use holdfast_register::{
    Candidate, Command, Drives, Failure, HolderMask, Machine, Refusal, Reply, Round, Source, Step,
};
use holdfast_types::{Ballot, BucketStamp, Entry, ErrorClass, SetEpoch, ShardIndex, VersionId};
use tokio::time::Instant;

use crate::{
    actor::Note,
    error::StoreError,
    restore::Restored,
    round::Calls,
    set::{Route, SetShared, describe},
    staged::Staged,
    task,
};

/// A wait between ballots doubles up to this many times.
const BACKOFF_DOUBLINGS_MAX: u32 = 6;

/// The first wait between ballots, at most: about a round trip with its fdatasync.
const BACKOFF_MICROS: u64 = 2_000;

/// No wait is longer.
const BACKOFF_MICROS_MAX: u64 = 500_000;

/// So much later than `stuck_after` a writer looks: by then the drives that hang count as down.
const STUCK_SLACK: Duration = Duration::from_millis(20);

/// Where a machine stopped.
pub(crate) enum Pause<O> {
    /// It wants a decision on this.
    Evaluate(Option<Candidate>),
    /// It is over.
    Done(O),
}

/// One machine and its exchange with the drives.
pub(crate) struct Conversation<M: Machine> {
    pub(crate) set: Arc<SetShared>,
    pub(crate) machine: M,
    /// The writer's own entry and shards, for commands that name them.
    pub(crate) staged: Option<Arc<Staged>>,
    /// Inline shards that came along with answers, when asked for.
    pub(crate) inline: Vec<InlineShard>,
    scope: BucketStamp,
    /// The set epoch of all commands under the present ballot: a promise of an older epoch must not back
    /// an Accept of a newer one (PROTOCOL.md section 5).
    epoch: SetEpoch,
    outdated: Option<SetEpoch>,
    /// When the present ballot was drawn.
    drawn_at: u64,
    route: Route,
    /// What a Read is about; all registers when `None`.
    version: Option<VersionId>,
    wants_inline: bool,
    /// Answers later than this count as silence, when the machine can ask others.
    patience: Option<Duration>,
    /// Whether drives that are stuck count as silent once the others are enough to write anew.
    leaves_stuck: bool,
    calls: Calls,
    round: Round,
    /// Replies that came in one message are given to the machine one by one, each step carried out
    /// before the next.
    replies: VecDeque<(Round, u8, Reply)>,
    unheard: HolderMask,
    asked: HolderMask,
    grace_at: Option<Instant>,
    failures: Vec<(usize, String)>,
    changed: Option<BucketStamp>,
    full: bool,
}

impl<M: Machine> Conversation<M> {
    pub(crate) fn new(set: &Arc<SetShared>, scope: BucketStamp, route: &Route, machine: M) -> Self {
        Self {
            set: set.clone(),
            machine,
            staged: None,
            inline: Vec::new(),
            scope,
            epoch: set.members.epoch(),
            outdated: None,
            drawn_at: 0,
            route: route.clone(),
            version: None,
            wants_inline: false,
            patience: None,
            leaves_stuck: false,
            calls: Calls::default(),
            round: Round(0),
            replies: VecDeque::new(),
            unheard: HolderMask::default(),
            asked: HolderMask::default(),
            grace_at: None,
            failures: Vec::new(),
            changed: None,
            full: false,
        }
    }

    pub(crate) fn staged(self, staged: Arc<Staged>) -> Self {
        Self { staged: Some(staged), ..self }
    }

    /// For reads: the register, whether inline shards are wanted, and when an answer is late.
    pub(crate) fn reading(
        self,
        version: Option<VersionId>,
        inline: bool,
        patience: Duration,
    ) -> Self {
        Self { version, wants_inline: inline, patience: Some(patience), ..self }
    }

    /// For writers that can begin again: they wait for drives that are stuck only while the set cannot
    /// do without them.
    pub(crate) fn leaving_stuck(self) -> Self {
        Self { leaves_stuck: true, ..self }
    }

    /// What is to be written: from now on the same, if it `may_begin_again`.
    pub(crate) fn stage(&mut self, staged: Arc<Staged>, may_begin_again: bool) {
        self.leaves_stuck = may_begin_again && staged.is_reshapable();
        self.staged = Some(staged);
    }

    /// Whether the drives said why beginning again would not help: they are full, or bucket or set
    /// are others.
    pub(crate) const fn is_hopeless(&self) -> bool {
        self.full || self.changed.is_some() || self.outdated.is_some()
    }

    /// Carries out `step` and what follows, until the machine wants a decision or is over.
    pub(crate) async fn run(&mut self, mut step: Step<M::Outcome>) -> Pause<M::Outcome> {
        loop {
            step = match step {
                Step::Ballot { above, attempt } => {
                    let ballot = self.draw(above, attempt).await;
                    self.machine.on_ballot(ballot)
                }
                Step::Send { round, commands } => {
                    self.send(round, commands).await;
                    Step::Wait
                }
                Step::Wait => match self.replies.pop_front() {
                    Some((round, shard, reply)) => self.reply(round, shard, reply),
                    None => self.hear(None).await,
                },
                Step::Grace => {
                    let grace = self.set.knobs.ack_grace;
                    let at = *self.grace_at.get_or_insert_with(|| task::after(grace));
                    match self.replies.pop_front() {
                        Some((round, shard, reply)) => self.reply(round, shard, reply),
                        None => self.hear(Some(at)).await,
                    }
                }
                Step::Evaluate(current) => return Pause::Evaluate(current),
                Step::Done(outcome) => return Pause::Done(outcome),
            };
        }
    }

    async fn draw(&mut self, above: Ballot, attempt: u32) -> Ballot {
        if attempt > 1 {
            // Who comes back sooner than the other can be done outbids it, and is outbid by it in turn.
            let took = self.set.clock.monotonic_micros().saturating_sub(self.drawn_at);
            let doublings = (attempt - 1).min(BACKOFF_DOUBLINGS_MAX);
            let most = (BACKOFF_MICROS << doublings)
                .max(took * u64::from(attempt))
                .min(BACKOFF_MICROS_MAX);
            let wait = self.set.random.next_u64() % most;
            tokio::time::sleep(Duration::from_micros(wait)).await;
        }
        if let Some(current) = self.outdated {
            self.set.refresh(current).await;
        }
        self.epoch = self.set.members.epoch();
        self.drawn_at = self.set.clock.monotonic_micros();
        let ballot = self.set.draw_above(above.time);
        assert!(ballot > above, "a ballot drawn above another is above it");
        ballot
    }

    /// Sends a round's commands; one that cannot be made is answered by silence.
    async fn send(&mut self, round: Round, commands: Vec<(u8, Command)>) {
        if round != self.round {
            self.unheard = HolderMask::default();
        }
        self.round = round;
        self.grace_at = None;
        if let Some(current) = self.changed {
            self.scope = current;
        }
        let restored = self.restore(&commands).await;
        let mut requests = Vec::with_capacity(commands.len());
        for (shard, command) in commands {
            self.unheard = self.unheard.with(shard);
            self.asked = self.asked.with(shard);
            match self.request(shard, command, &restored) {
                Some(request) => requests.push((shard, request)),
                None => {
                    self.failures.push((self.slot(shard), "its shard is not at hand".to_owned()));
                    self.replies.push_back((round, shard, Reply::Silent));
                }
            }
        }
        self.set.send(&self.route, round.0, requests, &mut self.calls);
    }

    /// Restores the shards that commands of a round need, if any do.
    async fn restore(&mut self, commands: &[(u8, Command)]) -> Restored {
        let needs = |(shard, command): &(u8, Command)| match command {
            Command::Accept { source: Source::Restore, entry, version, .. } => {
                Some((*shard, *version, entry.clone()))
            }
            _ => None,
        };
        let wanted: Vec<(u8, VersionId, Entry)> = commands.iter().filter_map(needs).collect();
        let Some((_, version, entry)) = wanted.first().cloned() else {
            return Restored::default();
        };
        let shards: Vec<u8> = wanted.into_iter().map(|(shard, ..)| shard).collect();
        let (scope, route) = (self.scope, &self.route);
        let restored = self.set.restore(scope, route, version, &entry, &shards).await;
        restored.unwrap_or_else(|error| {
            tracing::warn!(set = %self.set.index, operation = %entry.operation, %error, "not restored");
            Restored::default()
        })
    }

    fn request(&self, shard: u8, command: Command, restored: &Restored) -> Option<DriveRequest> {
        let scope = self.set.scope_at(self.scope, self.epoch);
        let key = self.route.key.clone();
        Some(match command {
            Command::Accept { version, entry, source } => {
                let staged = self.staged.as_ref();
                let own = staged.filter(|s| s.draft.operation == entry.operation);
                let guard = own.and_then(|s| s.draft.guard.clone());
                let guard = guard.or_else(|| self.route.guard_of(entry.operation));
                let source = match source {
                    Source::NoData => ShardSource::NoData,
                    Source::Own => staged.map(|staged| staged.source(shard))?,
                    Source::Held => ShardSource::Held,
                    Source::Restore => restored.source(shard)?,
                };
                let shard = ShardIndex(shard);
                DriveRequest::Accept(Accept { scope, key, version, entry, shard, source, guard })
            }
            Command::Prepare { ballot, since } => {
                let inline = self.wants_inline;
                DriveRequest::Prepare(Prepare { scope, key, ballot, since, inline })
            }
            Command::Read => {
                let (version, inline) = (self.version, self.wants_inline);
                DriveRequest::Read(Read { scope, key, version, inline })
            }
        })
    }

    /// Waits for the next node's answers, at most until the grace is over.
    async fn hear(&mut self, grace_at: Option<Instant>) -> Step<M::Outcome> {
        let others = self.set.up(&self.route).into_iter().any(|shard| !self.asked.has(shard));
        let patience = self.patience.filter(|_| others);
        let heard = match grace_at.map(task::until).or(patience) {
            Some(wait) => self.calls.next_within(wait).await,
            None if self.leaves_stuck => self.next_unless_stuck().await,
            None => self.calls.next().await,
        };
        match heard {
            Some((round, results)) => self.take(round, results),
            None if grace_at.is_some() => return self.machine.on_grace(),
            None => {
                // Nothing came in time: whom the machine still waits for is silent.
                assert!(!self.unheard.is_empty(), "a machine waits only for commands it sent");
                let silent = self.unheard.iter().map(|shard| (self.round, shard, Reply::Silent));
                self.replies.extend(silent);
            }
        }
        Step::Wait
    }

    /// The next node's answers; `None` when they are late enough for their drives to count as down, and
    /// the drives left can write without them.
    async fn next_unless_stuck(&mut self) -> Option<(u32, Vec<(u8, DriveResult)>)> {
        loop {
            let wait = self.set.knobs.stuck_after + STUCK_SLACK;
            let heard = self.calls.next_within(wait).await;
            let waiting = !self.calls.is_empty();
            if heard.is_some() || !waiting || self.set.is_writable() {
                return heard;
            }
        }
    }

    fn take(&mut self, round: u32, results: Vec<(u8, DriveResult)>) {
        for (shard, result) in results {
            let reply = self.reply_of(shard, result);
            self.replies.push_back((Round(round), shard, reply));
        }
    }

    fn reply(&mut self, round: Round, shard: u8, reply: Reply) -> Step<M::Outcome> {
        if round == self.round {
            self.unheard = self.unheard.without(shard);
        }
        self.machine.on_reply(round, shard, reply)
    }

    fn reply_of(&mut self, shard: u8, result: DriveResult) -> Reply {
        let error = match result {
            Ok(DriveReply::Accepted(status)) => return Reply::Accepted(status),
            Ok(DriveReply::View { view, inline }) => {
                self.inline.extend(inline);
                return Reply::View(view);
            }
            Ok(_) => return Reply::Silent,
            Err(error) => error,
        };
        self.failures.push((self.slot(shard), describe(&error)));
        match error {
            DriveError::Refused { refusal, .. } => {
                if let Refusal::BucketOutdated { current } | Refusal::BucketNotLive { current } =
                    refusal
                {
                    self.changed = Some(current);
                }
                if let Refusal::SetOutdated { current } = refusal {
                    self.outdated = self.outdated.max(Some(current));
                }
                Reply::Refused(refusal)
            }
            DriveError::Failed { class, .. } => {
                self.full |= class == ErrorClass::Full;
                Reply::Silent
            }
        }
    }

    fn slot(&self, shard: u8) -> usize {
        self.route.slots[usize::from(shard)]
    }

    /// What a machine's failure means to a client.
    pub(crate) fn explain(&self, failure: Failure) -> StoreError {
        let set = &self.set;
        match failure {
            Failure::Unavailable { .. } | Failure::Refused(_) | Failure::Contended { .. }
                if self.changed.is_some() =>
            {
                StoreError::BucketChanged { current: self.changed.expect("just seen") }
            }
            Failure::Unavailable { .. } | Failure::Refused(_) | Failure::Contended { .. }
                if self.outdated.is_some_and(|current| current > self.epoch) =>
            {
                StoreError::SetChanged { current: self.outdated.expect("just seen") }
            }
            Failure::Unavailable { need, have } | Failure::Unknown { need, have } if self.full => {
                let why = set.below_quorum(need, have, &self.failures);
                StoreError::Full { message: why.to_string() }
            }
            Failure::Unavailable { need, have } | Failure::Short { need, have, .. } => {
                set.below_quorum(need, have, &self.failures)
            }
            Failure::Unknown { need, have } => {
                let why = set.below_quorum(need, have, &self.failures);
                StoreError::Unknown { message: why.to_string() }
            }
            Failure::Refused(Refusal::UploadNotOpen) => StoreError::UploadNotOpen,
            Failure::Refused(Refusal::Crowded) => {
                StoreError::Overloaded { message: "the key has too many open writes".to_owned() }
            }
            Failure::Refused(refusal) => {
                let why = set.below_quorum(set.quorum.write(), 0, &self.failures);
                tracing::warn!(%refusal, "write refused by every drive");
                why
            }
            Failure::Contended { attempts } => StoreError::Overloaded {
                message: format!("other writers of the key won {attempts} times"),
            },
        }
    }
}

impl<M: Machine + Send + 'static> Conversation<M>
where
    M::Outcome: Send,
{
    /// Settles what was chosen: at once when all drives were heard, else once the stragglers are in.
    pub(crate) fn settle(mut self) {
        while let Some((round, shard, reply)) = self.replies.pop_front() {
            self.reply(round, shard, reply);
        }
        if !self.machine.is_waiting() || self.calls.is_empty() {
            self.note();
            return;
        }
        // Nothing is sent any more: stragglers must not keep the body in memory. What they hold is on its
        // way to the drives that have not answered, and bounded: beyond that they are cut off.
        let shard = self.staged.take().map_or(0, |staged| staged.inline_shard_bytes());
        let held = shard * usize::from(self.unheard.count());
        let Some(room) = self.set.admission.straggler(held) else {
            self.calls.cut_off();
            self.note();
            return;
        };
        task::detach(async move {
            let _room = room;
            while let Some((round, results)) = self.calls.next().await {
                self.take(round, results);
                while let Some((round, shard, reply)) = self.replies.pop_front() {
                    self.reply(round, shard, reply);
                }
            }
            self.note();
        });
    }

    fn note(&self) {
        if let Some(settlement) = self.machine.settlement() {
            self.set.mail.settle(Note {
                route: self.route.clone(),
                scope: self.scope,
                version: settlement.version,
                operation: settlement.operation,
                holders: settlement.holders,
            });
        }
    }
}

impl SetShared {
    /// The set as a machine is to see it: shards of drives not known to be down.
    pub(crate) fn drives(&self, route: &Route) -> Drives {
        let up = self.up(route).into_iter().fold(HolderMask::default(), HolderMask::with);
        Drives { quorum: self.quorum, up }
    }
}
