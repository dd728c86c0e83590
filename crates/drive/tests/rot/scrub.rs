//! The scrub: what it reads, what it finds, how fast, and what it says of itself (INV-SCRUB-1).

use holdfast_drive::{
    disk::BLOCK,
    scrub::{Count, Phase, RATE_MAX, ScrubStatus},
    volume::extent::ExtentHeader,
};
use holdfast_types::ScrubOrder;

use super::*;

impl Rig {
    fn scrub(&mut self, order: ScrubOrder) -> ScrubStatus {
        match self.call(DriveRequest::Scrub(order)) {
            Ok(DriveReply::Scrub(status)) => status,
            other => panic!("{other:?}"),
        }
    }

    /// Lets the drive do what it does in a fifth of a second.
    fn pass_a_tick(&mut self) {
        self.clock.advance_micros(200_000);
        self.drive.tick().into_iter().for_each(|job| {
            let outcome = job.run();
            self.drive.job_done(outcome);
        });
        for job in self.drive.take_load_jobs() {
            let outcome = job.run();
            self.drive.loaded(outcome);
        }
        self.drive.flush();
    }

    /// Scrubs to the end of a pass.
    fn scrub_through(&mut self) -> ScrubStatus {
        self.scrub(ScrubOrder::Start);
        for _ in 0..10_000 {
            self.pass_a_tick();
            if self.drive.scrub_status().phase == Phase::Idle {
                return self.drive.scrub_status();
            }
        }
        panic!("no end: {:?}", self.drive.scrub_status());
    }

    fn live(&self) -> Count {
        let facts = self.drive.durable_facts();
        Count { shards: facts.shards, bytes: facts.used_bytes }
    }
}

/// Objects of every kind: inline, in volumes, of parts, and parts of an upload that goes on.
fn of_every_kind(rig: &mut Rig) -> (Vec<Object>, Object) {
    let small = (1..=12).map(|n| object(n, 500 * n as usize));
    let mut all: Vec<Object> =
        small.chain((21..=26).map(|n| object(n, 140_000 * n as usize))).collect();
    all.iter().for_each(|object| rig.put(object));
    let parts = [object(31, 9_000), object(32, 700_000)];
    parts.iter().for_each(|part| rig.put(part));
    let whole = made_of(40, &parts);
    rig.put(&whole);
    all.extend(parts);
    let mut open = object(50, 600_000);
    open.key = RegisterKey { space: holdfast_types::Keyspace::Part, ..open.key };
    rig.accept(&open);
    all.push(open);
    (all, whole)
}

/// Goal: whatever shard rots, wherever it lies, is found, recorded as missing and counted, and the pass
/// counts all that the drive's table counts as live; without rot it finds none. Method: shards of every
/// kind, in memory, in runs, after a restart; each of them rots; passes before and after.
#[test]
fn every_shard_that_rots_is_found() {
    for (checkpoint, restart) in [(false, false), (true, false), (true, true)] {
        let mut rig = Rig::new();
        let (objects, whole) = of_every_kind(&mut rig);
        rig.scrub(ScrubOrder::Rate(RATE_MAX));
        if checkpoint {
            rig.checkpoint_twice();
        }
        if restart {
            rig.reopen();
        }
        let live = rig.live();
        let clean = rig.scrub_through().last.unwrap();
        assert_eq!((clean.read, clean.found, clean.missed), (live, 0, Count::default()));
        assert!(clean.is_complete() && rig.repairs().is_empty());
        for (n, object) in objects.iter().enumerate() {
            // In the checksum of some block: bodies repeat themselves, checksums do not.
            let block = object.entry.geometry.block_bytes as usize;
            let full = object.shard.len() / block;
            let at = if full == 0 { object.shard.len() } else { (1 + n % full) * block };
            assert!(rig.rot(object, at - 5) && !rig.whole(object));
        }
        let status = rig.scrub_through();
        let found = status.last.unwrap();
        assert_eq!(
            (found.read, found.found),
            (live, objects.len() as u64),
            "{checkpoint} {restart}"
        );
        assert!(found.is_complete(), "rot is found, not missed");
        assert_eq!((found.pass, status.complete), (2, status.last));
        for object in objects.iter().filter(|object| object.key.space == whole.key.space) {
            assert_eq!(rig.shown(object).0, ShardStatus::Missing, "{:?}", object.key);
        }
        assert_eq!(rig.shown(&whole).0, ShardStatus::Missing, "for the sake of its parts");
        rig.drive.audit().unwrap();
        // What is on record is not found again.
        assert_eq!(rig.scrub_through().last.unwrap().found, 0);
    }
}

/// Goal: what is written, deleted and moved while a pass is under way, and restarts, do not make it miss
/// anything, nor count wrong; the ledger is what a walk over all places counts, at every step. Method: slow passes over many
/// shards with changes and restarts between their steps; in the end every shard that was there from the
/// beginning, and rotted before the pass came by, is found.
#[test]
fn a_pass_is_exact_whatever_goes_on_meanwhile() {
    let mut rig = Rig::new();
    let first: Vec<Object> = (1..=120).map(|n| object(n, 300 + 400 * (n as usize % 40))).collect();
    first.iter().for_each(|object| rig.put(object));
    rig.checkpoint_twice();
    let rotten: Vec<&Object> = first.iter().skip(5).step_by(10).collect();
    rotten.iter().for_each(|object| assert!(rig.rot(object, 20)));
    rig.scrub(ScrubOrder::Rate(4 << 20));
    rig.scrub(ScrubOrder::Start);
    let mut next = 1000;
    let mut restarts = 0;
    for round in 0.. {
        rig.pass_a_tick();
        rig.drive.audit().unwrap();
        let status = rig.drive.scrub_status();
        if status.phase == Phase::Idle {
            break;
        }
        assert!(round < 1_000, "no end: {status:?}");
        for _ in 0..3 {
            next += 1;
            rig.put(&object(next, 700));
        }
        if round % 3 == 0 {
            // Takes the place of one that was there.
            let old = &first[(round * 7) % first.len()];
            if !rotten.iter().any(|rotten| rotten.key == old.key) {
                let newer = Object { key: old.key.clone(), ..object(5_000 + round as u64, 900) };
                rig.put(&newer);
            }
        }
        if round % 5 == 4 {
            rig.reopen();
            restarts += 1;
            rig.drive.audit().unwrap();
        }
    }
    let status = rig.drive.scrub_status();
    let last = status.last.unwrap();
    assert!(last.is_complete() && last.pass == 1 && restarts > 2, "{last:?} {restarts}");
    assert_eq!(last.found, rotten.len() as u64);
    assert!(rotten.iter().all(|object| rig.shown(object).0 == ShardStatus::Missing));
}

/// Goal: a pass reads no faster than it is told, is held when told, and goes on where it was. Method: 40
/// shards in volumes, a rate of 1 MiB a second, the clock.
#[test]
fn a_pass_keeps_its_rate_and_is_held() {
    let mut rig = Rig::new();
    (1..=40).for_each(|n| rig.put(&object(n, 400_000)));
    rig.scrub(ScrubOrder::Rate(1 << 20));
    rig.scrub(ScrubOrder::Start);
    let read = |rig: &Rig| rig.drive.scrub_status().pass.read.bytes;
    for _ in 0..20 {
        rig.pass_a_tick();
    }
    let after_4_seconds = read(&rig);
    assert!(after_4_seconds > 1 << 20, "it reads: {after_4_seconds}");
    assert!(after_4_seconds < 5 << 20, "a mebibyte a second: {after_4_seconds}");
    assert!(rig.scrub(ScrubOrder::Pause).paused);
    rig.pass_a_tick();
    let held = read(&rig);
    for _ in 0..20 {
        rig.pass_a_tick();
    }
    assert_eq!(read(&rig), held);
    rig.reopen();
    assert!(rig.drive.scrub_status().paused && rig.drive.scrub_status().phase == Phase::Shards);
    assert_eq!(rig.scrub(ScrubOrder::Rate(RATE_MAX)).rate, RATE_MAX);
    rig.scrub(ScrubOrder::Resume);
    (0..40).for_each(|_| rig.pass_a_tick());
    assert!(rig.drive.scrub_status().last.unwrap().is_complete());
    let wrong = rig.call(DriveRequest::Scrub(ScrubOrder::Rate(0)));
    assert!(matches!(wrong, Err(DriveError::Failed { class: ErrorClass::Invalid, .. })));
}

/// Goal: a rotten block of a run is found though nobody asks for its keys, goes on record, and makes the
/// pass one that is not complete. Method: a run of registers, a bit of its second block.
#[test]
fn rot_in_a_run_is_found_and_no_pass_over_it_is_complete() {
    let mut rig = Rig::with(patient());
    (1..=900).for_each(|n| rig.put(&object(n, 100)));
    rig.checkpoint_twice();
    rig.scrub(ScrubOrder::Rate(RATE_MAX));
    assert!(rig.scrub_through().last.unwrap().is_complete());
    rig.rot_run();
    let last = rig.scrub_through().last.unwrap();
    assert!(!last.is_complete() && last.run_missed > 0, "{last:?}");
    rig.pass_a_tick();
    assert!(rig.drive.facts().reason.contains("rot in its records"));
    assert_eq!(rig.drive.scrub_status().complete.unwrap().pass, 1);
}

/// Goal: passes begin by themselves, so long after the begin of the last. Method: the clock.
#[test]
fn passes_are_due() {
    let hour = 3_600_000_000;
    let mut rig = Rig::with(DriveOptions { scrub_every_micros: Some(hour), ..options() });
    rig.put(&object(1, 500));
    // Formatted long ago, and never scrubbed.
    (0..10).for_each(|_| rig.pass_a_tick());
    assert_eq!(rig.drive.scrub_status().last.unwrap().pass, 1);
    rig.clock.advance_micros(hour / 2);
    (0..10).for_each(|_| rig.pass_a_tick());
    assert_eq!(rig.drive.scrub_status().last.unwrap().pass, 1);
    rig.clock.advance_micros(hour / 2);
    (0..10).for_each(|_| rig.pass_a_tick());
    assert_eq!(rig.drive.scrub_status().last.unwrap().pass, 2);
}

/// Goal: the header of an extent that rots, or is another's, is found and written anew, and the shard behind it
/// is none the worse; without rot none is written. Method: shards of one and of several extents, in memory and
/// in runs, of an object and of a part of one; one bit of a header, and a header of elsewhere.
#[test]
fn headers_of_extents_are_written_anew() {
    for runs in [false, true] {
        let mut rig = Rig::new();
        let (objects, _) = of_every_kind(&mut rig);
        rig.scrub(ScrubOrder::Rate(RATE_MAX));
        if runs {
            rig.checkpoint_twice();
        }
        let large = |object: &&Object| object.shard.len() > 300_000;
        let places: Vec<_> =
            objects.iter().filter(large).map(|object| rig.header_of(object)).collect();
        assert!(places.len() > 4);
        let written: Vec<_> = places.iter().map(|place| rig.block_at(place)).collect();
        let calls = rig.sim.calls();
        let clean = rig.scrub_through();
        assert!(
            clean.last.unwrap().is_complete() && rig.sim.calls() - calls < 20,
            "nothing to mend"
        );
        for (n, (path, at)) in places.iter().enumerate() {
            if n % 2 == 0 {
                rig.sim.rot(path, at + 30, 0x04);
            } else {
                rig.sim.open(path, Access::Cached).unwrap().write_at(*at, &written[n - 1]).unwrap();
            }
        }
        let found = rig.scrub_through().last.unwrap();
        assert_eq!((found.is_complete(), found.found), (true, 0), "no shard is rotten");
        for ((place, bytes), object) in
            places.iter().zip(&written).zip(objects.iter().filter(large))
        {
            // The key may be that of the object which a part belongs to.
            let (now, then) = (rig.block_at(place), bytes);
            let named =
                |block: &[u8]| ExtentHeader::decode(block).map(|h| (h.operation, h.ordinal));
            assert_eq!(named(&now), named(then), "{:?}", object.key);
            assert!(rig.whole(object));
        }
        rig.drive.audit().unwrap();
    }
}

impl Rig {
    /// Where the header of a shard's last extent lies.
    fn header_of(&self, object: &Object) -> (String, u64) {
        let mut found = None;
        for path in self.sim.files().into_iter().filter(|path| path.ends_with(".vol")) {
            let file = self.sim.open(&path, Access::Cached).unwrap();
            let mut bytes = vec![0; file.len().unwrap() as usize];
            file.read_at(0, &mut bytes).unwrap();
            for (number, block) in bytes.chunks_exact(BLOCK).enumerate() {
                let header = ExtentHeader::decode(block);
                let header = header.ok().filter(|h| h.operation == object.entry.operation);
                let at = header.map(|header| (header.ordinal, path.clone(), number * BLOCK));
                found = found.max(at);
            }
        }
        let (_, path, at) = found.unwrap_or_else(|| panic!("{:?} lies in no volume", object.key));
        (path, at as u64)
    }

    fn block_at(&self, (path, at): &(String, u64)) -> Vec<u8> {
        let mut block = vec![0; BLOCK];
        self.sim.open(path, Access::Cached).unwrap().read_at(*at, &mut block).unwrap();
        block
    }
}
