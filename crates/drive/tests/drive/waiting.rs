//! Requests whose look-ups are not in memory, and a log without room: who waits, in which order, for
//! how long, and what is decided then.

use std::sync::{Arc, Mutex};

use holdfast_drive::{
    DriveOptions,
    api::{DriveError, DriveReply, DriveRequest, DriveResult, Read},
    disk_sim::{Mishap, SimDisk},
    drive::run_jobs,
    gate::Completion,
};
use holdfast_register::Refusal;
use holdfast_types::{DriveState, ErrorClass, OperationId, VersionId, limits, seam::SeededRandom};

use crate::rig::*;

type Answers = Arc<Mutex<Vec<(&'static str, DriveResult)>>>;

fn slot(answers: &Answers, name: &'static str) -> Completion {
    let answers = answers.clone();
    Box::new(move |result| answers.lock().unwrap().push((name, result)))
}

fn names(answers: &Answers) -> Vec<&'static str> {
    answers.lock().unwrap().iter().map(|(name, _)| *name).collect()
}

fn read_of(name: &str) -> DriveRequest {
    DriveRequest::Read(Read { scope: scope(), key: key(name), version: None, inline: true })
}

/// A drive whose state lies in a run, on a disk of which nothing is in memory.
fn cold(options: DriveOptions, keys: &[&str]) -> (SimDisk, Rig) {
    let disk = SimDisk::new(1 << 30);
    let mut rig = Rig::with(Arc::new(disk.clone()), options);
    for (n, name) in keys.iter().enumerate() {
        rig.put(name, n as u64 + 1, b"body").unwrap();
    }
    rig.drive.begin_checkpoint();
    rig.drive.flush();
    run_jobs(&mut rig.drive);
    rig.reopen();
    disk.set_cold(true);
    (disk, rig)
}

fn run_loads(rig: &mut Rig) -> usize {
    let loads = rig.drive.take_load_jobs();
    let count = loads.len();
    for load in loads {
        let outcome = load.run();
        rig.drive.loaded(outcome);
    }
    count
}

/// Goal: a look-up below the overlay is never made where the request is handled, requests for its key
/// keep their order behind it, and others do not wait. Method: a run on a disk of which nothing is in
/// memory; a read, a newer Accept and an older one of its key, an Accept of a key that is nowhere.
#[test]
fn look_ups_wait_in_the_order_of_their_key() {
    let (_, mut rig) = cold(options(), &["a"]);
    let answers = Answers::default();
    rig.drive.handle(read_of("a"), slot(&answers, "read"));
    let newer = DriveRequest::Accept(inline_put("a", 9, b"newer"));
    rig.drive.handle(newer, slot(&answers, "newer"));
    let older = DriveRequest::Accept(inline_put("a", 8, b"older"));
    rig.drive.handle(older, slot(&answers, "older"));
    assert_eq!(rig.drive.waiting(), 3);
    let other = DriveRequest::Accept(inline_put("b", 5, b"other"));
    rig.drive.handle(other, slot(&answers, "other"));
    assert_eq!(rig.drive.waiting(), 3, "filters tell that the other key is not held");
    rig.drive.flush();
    assert_eq!(names(&answers), ["other"]);
    while rig.drive.waiting() > 0 {
        assert_eq!(run_loads(&mut rig), 1, "one of the key is at work");
    }
    for job in rig.drive.take_read_jobs() {
        job.run();
    }
    rig.drive.flush();
    assert_eq!(names(&answers), ["other", "read", "newer", "older"]);
    let answers = answers.lock().unwrap();
    let Ok(DriveReply::View { view, inline }) = &answers[1].1 else { panic!("{answers:?}") };
    let held = &view.registers[&VersionId::NULL].entries;
    assert_eq!((held.len(), held[0].entry.operation), (1, OperationId(1)));
    assert_eq!(inline.len(), 1);
    assert!(matches!(answers[2].1, Ok(DriveReply::Accepted(_))));
    let stale = Refusal::Stale { highest: ballot(9) };
    assert!(matches!(&answers[3].1, Err(DriveError::Refused { refusal, .. }) if *refusal == stale));
}

/// Goal: what was looked up before a checkpoint became part of the base is not decided on. Method:
/// the look-up of a read is made while a newer entry lies in the overlay; before it is told, the
/// overlay becomes a run.
#[test]
fn a_look_up_of_an_earlier_base_is_made_again() {
    // Without a cache of blocks, for replay looks up, too.
    let (_, mut rig) = cold(DriveOptions { run_cache_bytes: 0, ..options() }, &["a"]);
    rig.put("a", 9, b"newer").unwrap();
    // Forgets what this Accept looked up.
    rig.reopen();
    let answers = Answers::default();
    rig.drive.handle(read_of("a"), slot(&answers, "read"));
    let outcome = rig.drive.take_load_jobs().pop().unwrap().run();
    rig.drive.begin_checkpoint();
    rig.drive.flush();
    run_jobs(&mut rig.drive);
    assert_eq!(rig.drive.waiting(), 1);
    rig.drive.loaded(outcome);
    rig.look_up();
    for job in rig.drive.take_read_jobs() {
        job.run();
    }
    rig.drive.flush();
    let answers = answers.lock().unwrap();
    let [(_, Ok(DriveReply::View { view, .. }))] = &answers[..] else { panic!("{answers:?}") };
    assert_eq!(view.highest, ballot(9));
}

/// Goal: a request whose deadline passes while it waits is answered, and never carried out. Method: an
/// Accept waits for its look-up, the clock moves on, then the look-up comes.
#[test]
fn whoever_waits_too_long_is_told_and_forgotten() {
    let (_, mut rig) = cold(options(), &["a"]);
    let answers = Answers::default();
    let newer = DriveRequest::Accept(inline_put("a", 9, b"newer"));
    rig.drive.handle(newer, slot(&answers, "newer"));
    let outcome = rig.drive.take_load_jobs().pop().unwrap().run();
    rig.clock.advance_micros(limits::CALL_MICROS + 1);
    drop(rig.drive.tick());
    {
        let answers = answers.lock().unwrap();
        assert_eq!(answers[0].1.as_ref().unwrap_err().class(), ErrorClass::TimedOut);
    }
    assert_eq!(rig.drive.waiting(), 0);
    rig.drive.loaded(outcome);
    assert_eq!(rig.read("a").0.highest, ballot(1));
    assert_eq!(names(&answers), ["newer"], "answered once");
}

/// Goal: what waits is bounded. Method: reads without a look-up being made, of one key and of many.
#[test]
fn what_waits_is_bounded() {
    let all: Vec<String> = (0..50).map(|n| format!("key {n}")).collect();
    let keys: Vec<&str> = all.iter().map(String::as_str).collect();
    let (_, mut rig) = cold(options(), &keys);
    let answers = Answers::default();
    for n in 0..5_000 {
        rig.drive.handle(read_of(keys[n % keys.len()]), slot(&answers, "read"));
    }
    let waiting = rig.drive.waiting();
    assert!(waiting < 5_000);
    let refused = std::mem::take(&mut *answers.lock().unwrap());
    assert_eq!(waiting + refused.len(), 5_000);
    let class = |(_, result): &(_, DriveResult)| result.as_ref().unwrap_err().class();
    assert!(refused.iter().all(|answer| class(answer) == ErrorClass::Overloaded));
    assert_eq!(rig.drive.take_load_jobs().len(), keys.len(), "one look-up a key");
}

/// Goal: what is written into a file whose name was not made durable by the process that made it is
/// not lost with the name (seed 2518 of the crash test found it). Method: the folder fsync of a new
/// segment fails, the process ends, the next one writes into that segment, then the power goes.
#[test]
fn the_names_of_segments_are_durable_before_they_are_used() {
    let disk = SimDisk::new(1 << 30);
    let mut rig = Rig::with(Arc::new(disk.clone()), small_log());
    let files = disk.files().len();
    let job = loop {
        // The tick's jobs but the segment's are not run.
        if let Some(job) = rig.drive.log_jobs() {
            break job;
        }
        rig.put("fill", rig.syncs() + 10, &[7; 9_000]).unwrap();
    };
    // Create, zeros, fdatasync, rename; then the folder.
    disk.plan(4, Mishap::Fail);
    drop(job.run());
    assert_eq!(disk.files().len(), files + 1, "the segment is there, its name is not durable");
    rig.reopen();
    let mut last = 0;
    for n in 1_000..1_020 {
        rig.put("key", n, &[8; 9_000]).unwrap();
        last = n;
    }
    disk.crash(&SeededRandom::new(1));
    rig.reopen();
    assert_eq!(rig.read("key").0.highest, ballot(last));
}

fn small_log() -> DriveOptions {
    DriveOptions {
        segment_bytes: 64 << 10,
        segments_first: 2,
        segments_spare: 1,
        batch_bytes_max: 16 << 10,
        ..options()
    }
}

/// Accepts until the log is full and three of them wait for its next segment; how many were sent.
fn accept_until_three_wait(rig: &mut Rig, answers: &Answers, body: &[u8]) -> u64 {
    let mut sent = 0;
    while rig.drive.waiting() < 3 {
        sent += 1;
        let accept = DriveRequest::Accept(inline_put(&format!("{sent}"), sent, body));
        rig.drive.handle(accept, slot(answers, "accept"));
        assert!(sent < 40, "two segments hold no more");
    }
    sent
}

/// Goal: a full log is not extended where requests are handled: they wait for the segment, in order,
/// or are refused when the disk is full. Method: Accepts without background work until one waits.
#[test]
fn a_full_log_waits_for_its_next_segment() {
    let disk = SimDisk::new(1 << 30);
    let mut rig = Rig::with(Arc::new(disk.clone()), small_log());
    let answers = Answers::default();
    let body = vec![7; 10_000];
    let calls = disk.calls();
    let mut sent = accept_until_three_wait(&mut rig, &answers, &body);
    assert_eq!(disk.calls(), calls, "nothing was written where they were handled");
    rig.drive.flush();
    assert_eq!(answers.lock().unwrap().len() as u64, sent - 3);
    let job = rig.drive.log_jobs().expect("a segment is wanted at once");
    assert!(rig.drive.log_jobs().is_none(), "one at a time");
    let outcome = job.run();
    rig.drive.job_done(outcome);
    rig.drive.flush();
    assert_eq!(answers.lock().unwrap().len() as u64, sent);
    assert!(answers.lock().unwrap().iter().all(|(_, result)| result.is_ok()));
    // The disk is full now.
    disk.set_capacity(0);
    loop {
        sent += 1;
        let accept = DriveRequest::Accept(inline_put(&format!("{sent}"), sent, &body));
        rig.drive.handle(accept, slot(&answers, "full"));
        rig.look_up();
        rig.drive.flush();
        if let Some((_, Err(error))) = answers.lock().unwrap().last() {
            assert_eq!(error.class(), ErrorClass::Full);
            break;
        }
        assert!(sent < 80, "it should be full");
    }
}

/// Goal: a process without descriptors is no fault of its drives: nothing is fenced, and the drive goes on
/// when there are some again. Method: the creation of the next segment fails for want of one.
#[test]
fn a_process_without_descriptors_fences_nothing() {
    let disk = SimDisk::new(1 << 30);
    let mut rig = Rig::with(Arc::new(disk.clone()), small_log());
    let answers = Answers::default();
    let body = vec![7; 10_000];
    let mut sent = accept_until_three_wait(&mut rig, &answers, &body);
    rig.drive.flush();
    // The unfinished file of before is removed first.
    disk.plan(1, Mishap::Exhausted);
    let outcome = rig.drive.log_jobs().expect("a segment is wanted at once").run();
    rig.drive.job_done(outcome);
    assert_eq!(rig.drive.facts().state, DriveState::Healthy, "{}", rig.drive.facts().reason);
    rig.drive.tick().into_iter().for_each(|job| {
        let outcome = job.run();
        rig.drive.job_done(outcome);
    });
    sent += 1;
    let accept = DriveRequest::Accept(inline_put(&format!("{sent}"), sent, &body));
    rig.drive.handle(accept, slot(&answers, "accept"));
    rig.drive.flush();
    let heard = answers.lock().unwrap();
    assert!(heard.last().is_some_and(|(_, result)| result.is_ok()), "{:?}", heard.last());
    let refused: Vec<_> = heard.iter().filter_map(|(_, result)| result.as_ref().err()).collect();
    assert_eq!(refused.len(), 3, "those that waited for the segment");
    assert!(refused.iter().all(|error| error.class() == ErrorClass::Full));
}

/// Goal: an inline shard that is not durable yet is read from memory, not from a file it may not be
/// in, and its reader waits for its batch; afterwards it is read by an I/O thread. Method: a read
/// between Accept and batch, and one behind it, on a cold disk.
#[test]
fn what_is_not_durable_yet_is_read_from_memory() {
    let disk = SimDisk::new(1 << 30);
    let mut rig = Rig::with(Arc::new(disk.clone()), options());
    disk.set_cold(true);
    let answers = Answers::default();
    let accept = inline_put("a", 1, b"body");
    rig.drive.handle(DriveRequest::Accept(accept), slot(&answers, "accept"));
    rig.drive.handle(read_of("a"), slot(&answers, "read"));
    assert!(rig.drive.take_read_jobs().is_empty());
    assert!(names(&answers).is_empty());
    rig.drive.flush();
    assert_eq!(names(&answers), ["accept", "read"]);
    let expected = shard_of(1, b"body").1;
    {
        let answers = answers.lock().unwrap();
        let Ok(DriveReply::View { inline, .. }) = &answers[1].1 else { panic!("{answers:?}") };
        assert_eq!(inline[0].bytes, expected);
    }
    rig.drive.handle(read_of("a"), slot(&answers, "again"));
    let jobs = rig.drive.take_read_jobs();
    assert_eq!((jobs.len(), names(&answers).len()), (1, 2));
    jobs.into_iter().for_each(holdfast_drive::ReadJob::run);
    let answers = answers.lock().unwrap();
    let Ok(DriveReply::View { inline, .. }) = &answers[2].1 else { panic!("{answers:?}") };
    assert_eq!(inline[0].bytes, expected);
}
