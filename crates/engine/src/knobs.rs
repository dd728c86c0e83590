//! What can be tuned without changing what is promised.

use std::time::Duration;

use holdfast_types::limits;

/// Knobs of an engine; the defaults serve.
#[derive(Clone, Debug)]
pub struct Knobs {
    /// Deadline of one call to a node.
    pub call: Duration,
    /// A drive that has not answered a call for this long counts as down until it answers a probe.
    /// Below [`Self::call`]: writers that come later are not held up by a node that hangs.
    pub stuck_after: Duration,
    /// How long an answer waits beyond the write quorum for the other drives.
    pub ack_grace: Duration,
    /// Settle messages leave within this time of the choice. Below [`limits::SETTLE_MICROS`].
    pub settle_every: Duration,
    /// What the drives have held unsettled for this long is resolved.
    pub resolve_after: Duration,
    /// How long a reader gives a young writer before it resolves what it left open.
    pub young_writer: Duration,
    /// How often a drive known to be down is asked whether it is back.
    pub probe_every: Duration,
    /// How often the drives are asked whether they are slow.
    pub survey_every: Duration,
    /// How often a background worker looks for work when it found none.
    pub chores_every: Duration,
    /// How often a node looks for buckets that its drives hold something of and that are deleted.
    pub buckets_every: Duration,
    /// Tombstones older than this may be purged.
    pub tombstone_age: Duration,
    /// A stream that moves no byte for this long is dead.
    pub stream_idle: Duration,
    /// A drive's answer to a read is late when it takes longer than 98 of 100 took before, and at least
    /// this long: then a spare is asked as well.
    pub hedge_min: Duration,
    /// The same while too few answers were seen to tell.
    pub hedge_unknown: Duration,
    /// A read's pins last this long without progress.
    pub pin_lease: Duration,
    /// Operations in flight; more wait for [`Self::admission_wait`], then are refused.
    pub operations_max: usize,
    /// Bytes of bodies and shards in memory over all requests.
    pub body_bytes_max: usize,
    /// Writes whose client has its answer and that are still waiting for some drives. What is over this,
    /// or over [`Self::straggler_bytes_max`], is cut off: those drives get repair records.
    pub stragglers_max: usize,
    /// Bytes of shards on their way to such drives.
    pub straggler_bytes_max: usize,
    /// How long a request waits to be admitted.
    pub admission_wait: Duration,
    /// Whether the healer, the resolver and the purger run.
    pub background: bool,
}

impl Default for Knobs {
    fn default() -> Self {
        Self {
            call: Duration::from_micros(limits::CALL_MICROS),
            stuck_after: Duration::from_secs(3),
            ack_grace: Duration::from_micros(limits::ACK_GRACE_MICROS),
            settle_every: Duration::from_micros(limits::SETTLE_MICROS / 2),
            resolve_after: Duration::from_micros(limits::RESOLVE_AFTER_MICROS),
            young_writer: Duration::from_millis(20),
            probe_every: Duration::from_millis(500),
            survey_every: Duration::from_secs(2),
            chores_every: Duration::from_secs(1),
            buckets_every: Duration::from_secs(60),
            tombstone_age: Duration::from_micros(limits::TOMBSTONE_MICROS),
            stream_idle: Duration::from_micros(limits::STREAM_IDLE_MICROS),
            hedge_min: Duration::from_millis(10),
            hedge_unknown: Duration::from_millis(50),
            pin_lease: Duration::from_secs(30),
            operations_max: 4096,
            body_bytes_max: 1 << 30,
            stragglers_max: 4096,
            straggler_bytes_max: 128 << 20,
            admission_wait: Duration::from_secs(2),
            background: true,
        }
    }
}
