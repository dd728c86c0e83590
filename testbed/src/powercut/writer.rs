//! The process that dies with the power: opens the drive, says what it shows, then writes until it is
//! killed.

use std::{
    io::Write as _,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::Result;
use holdfast_drive::api::ShardSource;
use holdfast_types::HybridTime;
use rand::{Rng as _, SeedableRng as _};
use rand_chacha::ChaCha8Rng;

use super::{
    Control,
    drive::{Stop, Subject},
    ledger::{Shown, Step},
};

/// Writers; each has keys of its own, so that what it wrote to a key is in order.
const WRITERS: u64 = 4;

/// Keys of each.
const KEYS: u64 = 8;

/// Writes to a drive until it is killed. Part of `testbed powercut`, not for use by hand.
#[derive(clap::Args)]
pub struct Args {
    /// The drive's folder.
    #[arg(long)]
    path: PathBuf,
    /// Draws the operations.
    #[arg(long)]
    seed: u64,
    /// The first operation's number.
    #[arg(long)]
    first: u64,
    /// A bug.
    #[arg(long)]
    sabotage: Option<String>,
    /// Only say what the drive shows.
    #[arg(long)]
    look: bool,
}

/// Every key there may be.
pub fn keys() -> std::ops::Range<u64> {
    0..WRITERS * KEYS
}

/// Says a line, whole and at once.
fn say(line: &str) {
    let mut out = std::io::stdout().lock();
    // When nobody listens any more there is nothing left to do.
    let _ = out.write_all(format!("{line}\n").as_bytes()).and_then(|()| out.flush());
}

/// One line of what a drive shows.
pub fn shows_line(key: u64, shown: &Shown) -> String {
    format!("shows {key} {} {} {}", shown.op, shown.time, u8::from(shown.right))
}

/// Reads such a line.
pub fn read_shows(line: &str) -> Option<(u64, Shown)> {
    let mut words = line.strip_prefix("shows ")?.split(' ').map(str::parse::<u64>);
    let mut number = || words.next()?.ok();
    let key = number()?;
    Some((key, Shown { op: number()?, time: number()?, right: number()? == 1 }))
}

/// Opens, shows, writes.
pub fn run(args: &Args) -> Result<()> {
    let skipped = match &args.sabotage {
        Some(name) => Control::named(name)?.plant()?,
        None => None,
    };
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    runtime.block_on(async {
        let subject = Arc::new(Subject::open(&args.path, skipped).await?);
        for key in keys() {
            for shown in subject.shows(key).await? {
                say(&shows_line(key, &shown));
            }
        }
        say("ready");
        if args.look {
            if let Ok(subject) = Arc::try_unwrap(subject) {
                subject.close().await;
            }
            return Ok(());
        }
        let next = Arc::new(AtomicU64::new(args.first));
        let writers = (0..WRITERS).map(|number| {
            let random = ChaCha8Rng::seed_from_u64(args.seed ^ (number << 32));
            let writer =
                Writer { subject: subject.clone(), next: next.clone(), random, number, last: 0 };
            tokio::spawn(writer.work())
        });
        for writer in writers.collect::<Vec<_>>() {
            writer.await?;
        }
        Ok(())
    })
}

struct Writer {
    subject: Arc<Subject>,
    next: Arc<AtomicU64>,
    random: ChaCha8Rng,
    number: u64,
    /// The time of its last ballot.
    last: u64,
}

impl Writer {
    async fn work(mut self) {
        loop {
            let key = self.number * KEYS + self.random.random_range(0..KEYS);
            if self.one(key).await.is_err() {
                return;
            }
        }
    }

    fn time(&mut self, above: u64) -> HybridTime {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let now = HybridTime::from_micros(now.as_micros() as u64).0;
        self.last = now.max(self.last + 1).max(above + 1);
        HybridTime(self.last)
    }

    /// A body or a tombstone, then most often its settling, then perhaps its purge.
    async fn one(&mut self, key: u64) -> Result<(), Stop> {
        let size = match self.random.random_range(0..10) {
            0 => 0,
            1..5 => self.random.random_range(100..40_000),
            _ => self.random.random_range(80_000..400_000),
        };
        let mut above = 0;
        let (op, time) = loop {
            let op = self.next.fetch_add(1, Ordering::Relaxed);
            let source = match size {
                0 => ShardSource::NoData,
                size => self.subject.stage(op, key, size).await?,
            };
            let time = self.time(above);
            say(&Step::Asks { op, key, size, time: time.0 }.to_string());
            match self.subject.accept(op, key, size, time, source).await {
                Ok(()) => break (op, time),
                Err(Stop::Above(winner)) => above = winner.0,
                Err(Stop::Gone) => return Err(Stop::Gone),
            }
        };
        say(&Step::Acknowledged(op).to_string());
        if self.random.random_range(0..10) < 8 {
            say(&Step::Settles(op).to_string());
            self.subject.settle(op, key).await?;
            if size == 0 && self.random.random_bool(0.5) {
                say(&Step::Purges(op).to_string());
                self.subject.purge(key, time).await?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Goal: what a drive shows comes through. Method: there and back; half a line is none.
    #[test]
    fn what_is_shown_is_read() {
        let shown = Shown { op: 5, time: 77, right: false };
        assert_eq!(read_shows(&shows_line(3, &shown)), Some((3, shown)));
        assert_eq!(read_shows("shows 3 5"), None);
        assert_eq!(read_shows("ready"), None);
    }
}
