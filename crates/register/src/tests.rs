//! Every decision and every path of the machines, one fact at a time. What they add up to is the model
//! checker's business (`testbed model`).

mod plain;
mod rot;
mod stories;

use std::collections::BTreeMap;

use bytes::Bytes;
use holdfast_types::{
    Ballot, Entry, EntryKind, Geometry, HybridTime, OperationId, Quorum, SetEpoch, VersionId,
    WriterId, limits,
};

use crate::{
    command::{Command, Drives, Failure, Machine, Reply, Round, Step},
    decide::{
        AcceptVerdict, DriveView, Refusal, SettleVerdict, decide_accept, decide_install,
        decide_prepare, decide_settle, raised_ceiling, remembers_since,
    },
    judge::{Answer, Basis, Judgement, Verdict, judge, judge_latest, judge_without},
    state::{Held, HolderMask, KeyState, KeyView, RegisterState, Remembered, ShardStatus},
    *,
};

const NULL: VersionId = VersionId::NULL;
const NOW: u64 = 1_000_000_000;

fn ballot(tick: u64) -> Ballot {
    let time = HybridTime(HybridTime::from_micros(NOW).0 + tick);
    Ballot { generation: 1, time, writer: WriterId(u128::from(tick)) }
}

fn entry(operation: u128, at: Ballot) -> Entry {
    Entry {
        ballot: at,
        order: at,
        operation: OperationId(operation),
        kind: EntryKind::Put,
        geometry: Geometry::new(2, 4, 1),
        metadata: Bytes::new(),
        parts: Vec::new(),
    }
}

fn held(operation: u128, at: Ballot) -> Held {
    let holders = HolderMask::default();
    Held { entry: entry(operation, at), shard: ShardStatus::Present, settled: false, holders }
}

fn drive() -> DriveView {
    DriveView {
        now: HybridTime::from_micros(NOW),
        floor: Ballot::ZERO,
        purge_floor: Ballot::ZERO,
        set_epoch: SetEpoch(0),
        memory_since: HybridTime(0),
    }
}

fn key(entries: &[(u128, u64)]) -> KeyState {
    let mut state = KeyState::default();
    for (operation, tick) in entries {
        state.apply_accept(NULL, held(*operation, ballot(*tick)));
    }
    state
}

fn view_of(versions: &[(u128, &[(u128, u64)])]) -> KeyView {
    let registers = versions.iter().map(|(version, entries)| {
        let entries = entries.iter().map(|(op, tick)| held(*op, ballot(*tick))).collect();
        (VersionId(*version), RegisterState { entries })
    });
    let registers: BTreeMap<_, _> = registers.collect();
    let heads = registers.values().filter_map(RegisterState::head);
    let highest = heads.map(|h| h.entry.ballot).max().unwrap_or_default();
    KeyView { registers, highest, counts: true, remembers: true, ..KeyView::default() }
}

fn view(entries: &[(u128, u64)]) -> KeyView {
    if entries.is_empty() { view_of(&[]) } else { view_of(&[(0, entries)]) }
}

fn answers(views: &[&[(u128, u64)]]) -> Vec<Answer> {
    views.iter().map(|entries| Answer::View(view(entries))).collect()
}

/// Goal: a drive accepts exactly what PROTOCOL.md section 2 allows. Method: one state, one entry for
/// each rule.
#[test]
fn accept_follows_each_rule() {
    let mut state = key(&[(1, 10)]);
    state.promise = ballot(20);
    let present = ShardStatus::Present;
    let ask = |op, tick| decide_accept(&state, &drive(), NULL, &entry(op, ballot(tick)), present);
    assert_eq!(ask(1, 10), Ok(AcceptVerdict::Already));
    assert_eq!(ask(2, 10), Err(Refusal::BallotReused));
    assert_eq!(ask(2, 9), Err(Refusal::Stale { highest: ballot(10) }));
    assert_eq!(ask(2, 19), Err(Refusal::Promised { promise: ballot(20) }));
    assert_eq!(ask(2, 20), Ok(AcceptVerdict::Record));
    let skew = limits::CLOCK_SKEW_MICROS_MAX + 1;
    let mut wild = entry(2, ballot(30));
    wild.ballot.time = HybridTime::from_micros(NOW + skew);
    let refused = decide_accept(&state, &drive(), NULL, &wild, present);
    assert_eq!(refused, Err(Refusal::TooFarAhead { now: drive().now }));
    let purged = DriveView { purge_floor: ballot(40), ..drive() };
    let refused = decide_accept(&state, &purged, NULL, &entry(2, ballot(40)), present);
    assert_eq!(refused, Err(Refusal::Purged { floor: ballot(40) }));
}

/// Goal: a repeated Accept adds the shard that was missing, and one that was overtaken is still known.
/// Method: the same entry twice, without and with its shard; then settled over and repeated.
#[test]
fn repeated_accepts_change_nothing_but_a_missing_shard() {
    let mut state = KeyState::default();
    let missing = Held { shard: ShardStatus::Missing, ..held(1, ballot(10)) };
    state.apply_accept(NULL, missing);
    let ask = |state: &KeyState| {
        decide_accept(state, &drive(), NULL, &entry(1, ballot(10)), ShardStatus::Present)
    };
    assert_eq!(ask(&state), Ok(AcceptVerdict::AddShard));
    let (operation, at) = (OperationId(1), drive().now);
    state.remember(Remembered { operation, ballot: ballot(10), at }, HybridTime(0));
    state.apply_accept(NULL, held(2, ballot(11)));
    state.apply_settle(NULL, OperationId(2), HolderMask::full(4), true);
    assert_eq!(ask(&state), Ok(AcceptVerdict::Already));
}

/// Goal: promises rise, and restarts do not push the floor beyond the skew bound. Method: a hundred
/// restarts, each followed by a promise one tick above the floor, on a clock that stands still.
#[test]
fn restarts_do_not_ratchet_the_ceiling() {
    assert!(decide_prepare(&key(&[(1, 10)]), &drive(), ballot(10)).is_err());
    let mut view = drive();
    let mut ceiling = HybridTime(0);
    for _ in 0..100 {
        let time = view.floor.time.max(view.now).tick();
        let promised = Ballot { generation: 1, time, writer: WriterId(1) };
        assert_eq!(decide_prepare(&KeyState::default(), &view, promised), Ok(()));
        ceiling = raised_ceiling(view.now, ceiling, promised).unwrap_or(ceiling);
        view.floor = Ballot::ceiling(1, ceiling);
    }
    assert!(ceiling.micros() <= NOW + limits::CLOCK_SKEW_MICROS_MAX / 2);
}

/// Goal: install passes promises, never what is settled above it or purged. Method: one of each.
#[test]
fn install_is_bound_by_what_is_settled_only() {
    let mut state = key(&[(2, 20)]);
    state.promise = ballot(90);
    let old = entry(1, ballot(10));
    let ask = |state: &KeyState, view: &DriveView| {
        decide_install(state, view, NULL, &old, ShardStatus::Present)
    };
    assert_eq!(ask(&state, &drive()), Ok(AcceptVerdict::Record));
    state.apply_settle(NULL, OperationId(2), HolderMask::full(4), true);
    assert_eq!(ask(&state, &drive()), Err(Refusal::Stale { highest: ballot(20) }));
    let purged = DriveView { purge_floor: ballot(10), ..drive() };
    let refused = Err(Refusal::Purged { floor: ballot(10) });
    assert_eq!(ask(&KeyState::default(), &purged), refused);
}

/// Goal: bytes go only under a settled entry that `A_v` drives hold. Method: a settle of two holders,
/// then of three, in a set of four.
#[test]
fn settle_drops_what_lies_below_at_a_v() {
    let state = key(&[(1, 10), (2, 20)]);
    let ask = |holders| decide_settle(&state, Quorum::of(4), NULL, OperationId(2), holders);
    assert_eq!(ask(HolderMask(0b11)), SettleVerdict::Mark { drop_below: false });
    assert_eq!(ask(HolderMask(0b111)), SettleVerdict::Mark { drop_below: true });
    let stranger = decide_settle(&state, Quorum::of(4), NULL, OperationId(9), HolderMask(7));
    assert_eq!(stranger, SettleVerdict::Ignore);
}

/// Goal: a memory says "unknown" when it began too late, was cut, or holds what it cannot explain.
/// Method: each of the three, and the case where it knows.
#[test]
fn memory_knows_what_it_does_not_know() {
    let since = ballot(5).time;
    assert!(remembers_since(&KeyState::default(), &drive(), since));
    let restarted = DriveView { memory_since: HybridTime::from_micros(NOW - 1), ..drive() };
    assert!(!remembers_since(&KeyState::default(), &restarted, since));
    assert!(!remembers_since(&key(&[(1, 10)]), &drive(), since));
    let mut state = key(&[(1, 10)]);
    let remembered =
        |tick| Remembered { operation: OperationId(1), ballot: ballot(tick), at: drive().now };
    state.remember(remembered(10), HybridTime(0));
    assert!(remembers_since(&state, &drive(), since));
    for tick in 11..11 + state::MEMORY_MAX as u64 {
        state.remember(remembered(tick), HybridTime(0));
    }
    assert!(!remembers_since(&state, &drive(), since));
}

fn verdict(views: &[Answer]) -> Option<(u128, Verdict)> {
    match judge(Basis::Reads, Quorum::of(4), views, NULL) {
        Judgement::Found(found) => Some((found.entry.operation.0, found.verdict)),
        Judgement::Absent | Judgement::Unknown { .. } => None,
    }
}

/// Goal: settled, open and out as PROTOCOL.md section 4 defines them (n = 4: W 3, R 2). Method: tables
/// of answers that differ in one drive.
#[test]
fn judging_counts_one_ballot_and_every_unknown() {
    let same: &[(u128, u64)] = &[(1, 10)];
    assert_eq!(verdict(&answers(&[same, same, same, &[]])), Some((1, Verdict::Settled)));
    assert_eq!(verdict(&answers(&[same, same, &[], &[]])), None);
    // Three hold it, but not under one ballot: an adoption is under way.
    assert_eq!(verdict(&answers(&[same, same, &[(1, 12)], &[]])), Some((1, Verdict::Open)));
    let mut views = answers(&[same, same, &[], &[]]);
    views[3] = Answer::None;
    assert_eq!(verdict(&views), Some((1, Verdict::Open)));
    views[3] = Answer::View(KeyView { counts: false, ..view(&[]) });
    assert_eq!(verdict(&views), Some((1, Verdict::Open)), "a rebuilding drive is unknown");
    // Of an older entry only one shard of two is left, and nobody else can have it.
    views[0] = Answer::View(view(&[]));
    let narrow = [views[3].clone(), views[1].clone(), views[0].clone(), views[2].clone()];
    assert_eq!(verdict(&narrow), None, "never acknowledged, never readable again");
}

/// Goal: the latest version has the highest order, and is judged on one state of the key. Method: two
/// versions on three drives; then one drive alone shows a late adoption of the lower one.
#[test]
fn the_latest_is_judged_on_one_view() {
    let full = view_of(&[(1, &[(1, 10)]), (2, &[(2, 20)])]);
    let views = vec![Answer::View(full); 4];
    let Judgement::Found(head) = judge_latest(Basis::Reads, Quorum::of(4), &views) else {
        panic!("absent")
    };
    assert_eq!((head.version, head.verdict), (VersionId(2), Verdict::Settled));
    let mut late = view_of(&[(1, &[(1, 30)])]);
    for register in late.registers.values_mut() {
        register.entries[0].settled = true;
    }
    let early = view_of(&[(3, &[(3, 5)])]);
    let views =
        vec![Answer::View(late), Answer::View(early.clone()), Answer::View(early), Answer::None];
    let Judgement::Found(head) = judge_latest(Basis::Reads, Quorum::of(4), &views) else {
        panic!("absent")
    };
    assert_eq!(head.verdict, Verdict::Open);
}

/// Goal: what memory proves, disproves or leaves open. Method: one operation remembered on 3, 2 and 1
/// of four drives, the others certain or restarted.
#[test]
fn effects_are_proved_by_memory() {
    let judged = |yes: usize, certain: bool| {
        let views = (0..4).map(|index| {
            let mut view = if index < yes { view(&[(1, 10)]) } else { view(&[]) };
            view.remembers = certain;
            Answer::View(view)
        });
        effect(Quorum::of(4), &views.collect::<Vec<_>>(), OperationId(1))
    };
    assert_eq!(judged(3, false), Effect::Took(vec![ballot(10)]));
    assert_eq!(judged(2, true), Effect::None);
    assert_eq!(judged(2, false), Effect::Unknown);
}

// ---- machines ----------------------------------------------------------------------------------

const OK: Reply = Reply::Accepted(ShardStatus::Present);

fn stale() -> Reply {
    Reply::Refused(Refusal::Stale { highest: ballot(50) })
}

/// Starts a blind write under ballot 10 on four drives and gives it replies; the step after the last.
fn blind(replies: &[Reply]) -> (Blind, Step<WriteOutcome>) {
    let all = HolderMask::full(4);
    let mut machine = Blind::new(Drives::all_up(4), NULL, entry(1, Ballot::ZERO), all);
    assert!(matches!(machine.start(), Step::Ballot { attempt: 1, .. }));
    let mut step = machine.on_ballot(ballot(10));
    for (drive, reply) in replies.iter().enumerate() {
        step = machine.on_reply(Round(1), drive as u8, reply.clone());
    }
    (machine, step)
}

/// Goal: each mix of replies to a blind write leads where PROTOCOL.md section 3 says. Method: the
/// mixes of accept, refusal and silence that differ in kind.
#[test]
fn a_blind_write_follows_each_mix() {
    let (machine, step) = blind(&[OK, OK, OK, OK]);
    assert!(matches!(step, Step::Done(Ok(_))));
    assert_eq!(machine.settlement().map(|s| s.holders), Some(HolderMask::full(4)));
    let (mut machine, step) = blind(&[OK, OK, OK]);
    assert_eq!(step, Step::Grace);
    assert!(matches!(machine.on_grace(), Step::Done(Ok(_))));
    assert_eq!(machine.on_reply(Round(1), 3, OK), Step::Wait);
    assert_eq!(machine.settlement().map(|s| s.holders), Some(HolderMask::full(4)));
    let (mut machine, step) = blind(&[stale(), stale(), stale(), stale()]);
    assert_eq!(step, Step::Ballot { above: ballot(50), attempt: 2 });
    assert!(is_accept(&machine.on_ballot(ballot(51))), "nothing was left behind: write again");
    let (mut machine, step) = blind(&[OK, stale(), stale(), Reply::Silent]);
    assert_eq!(step, Step::Wait, "late: it asks for a ballot at the second refusal");
    assert!(is_prepare(&machine.on_ballot(ballot(51))), "traces are left: finish");
    let (mut machine, _) = blind(&[Reply::Silent, stale(), stale(), stale()]);
    assert!(is_prepare(&machine.on_ballot(ballot(51))), "silence may be an accept: finish");
    let (_, step) = blind(&[OK, OK, Reply::Silent, Reply::Silent]);
    assert_eq!(step, Step::Done(Err(Failure::Unknown { need: 3, have: 2 })));
    let lost = Reply::Refused(Refusal::UploadLost);
    let (_, step) = blind(&[OK, OK, lost, Reply::Silent]);
    assert_eq!(step, Step::Done(Err(Failure::Unknown { need: 3, have: 2 })));
    let crowded = Reply::Refused(Refusal::Crowded);
    let (_, step) = blind(&[crowded.clone(), crowded.clone(), crowded.clone(), crowded]);
    assert_eq!(step, Step::Done(Err(Failure::Refused(Refusal::Crowded))));
}

fn is_accept<O>(step: &Step<O>) -> bool {
    matches!(step, Step::Send { commands, .. } if matches!(commands[0].1, Command::Accept { .. }))
}

fn is_prepare<O>(step: &Step<O>) -> bool {
    matches!(step, Step::Send { commands, .. } if matches!(commands[0].1, Command::Prepare { .. }))
}

/// Goal: finish writes again only when memory proves that nothing happened. Method: the same mix, then
/// answers of certain drives, and of restarted ones.
#[test]
fn finish_rests_on_memory() {
    for (certain, writes) in [(true, true), (false, false)] {
        let (mut machine, _) = blind(&[OK, stale(), stale(), Reply::Silent]);
        machine.on_ballot(ballot(51));
        let mut step = Step::Wait;
        for drive in 0..4 {
            let mut view = view(&[(7, 50)]);
            view.remembers = certain;
            let reply = if drive == 3 { Reply::Silent } else { Reply::View(view) };
            step = machine.on_reply(Round(2), drive, reply);
            if is_accept(&step) {
                break;
            }
        }
        assert_eq!(is_accept(&step), writes);
        assert_eq!(matches!(step, Step::Done(Err(Failure::Unknown { .. }))), !writes);
    }
}

/// Goal: a write that took effect and was overtaken is answered only when its successor is safe: the
/// model lost both with one drive. Method: five drives (W 3), the successor of three shards on three of
/// them, which four ought to hold.
#[test]
fn an_overtaken_write_waits_for_its_successor() {
    let wide = |op, tick| {
        let mut held = held(op, ballot(tick));
        held.entry.geometry = Geometry::new(3, 5, 1);
        held
    };
    let all = HolderMask::full(5);
    let mut machine = Blind::new(Drives::all_up(5), NULL, wide(1, 0).entry, all);
    machine.start();
    machine.on_ballot(ballot(10));
    for (drive, reply) in [OK, stale(), stale()].into_iter().enumerate() {
        machine.on_reply(Round(1), drive as u8, reply);
    }
    machine.on_ballot(ballot(60));
    let mut step = Step::Wait;
    for drive in 0..5 {
        let mut view = view(&[]);
        let entries = if drive < 3 { vec![wide(7, 50), wide(1, 10)] } else { Vec::new() };
        if drive < 3 {
            view.registers.insert(NULL, RegisterState { entries });
        }
        step = machine.on_reply(Round(2), drive, Reply::View(view));
        if is_accept(&step) {
            break;
        }
    }
    let Step::Send { commands, .. } = step else { panic!("{step:?}") };
    assert!(matches!(&commands[0].1, Command::Accept { entry, .. }
        if entry.operation == OperationId(7)));
}

/// Goal: too few drives fail a write before anything is sent. Method: two of four up.
#[test]
fn a_write_without_quorum_sends_nothing() {
    let drives = Drives { quorum: Quorum::of(4), up: HolderMask(0b11) };
    let mut machine = Blind::new(drives, NULL, entry(1, Ballot::ZERO), HolderMask::full(4));
    let failure = Failure::Unavailable { need: 3, have: 2 };
    assert_eq!(machine.start(), Step::Done(Err(failure)));
}

fn conditional() -> Conditional {
    let mut machine = Conditional::new(Drives::all_up(4), NULL, Subject::Latest, OperationId(99));
    machine.start();
    assert!(is_prepare(&machine.on_ballot(ballot(30))));
    machine
}

/// Goal: no decision rests on an open head. Method: two of four drives hold it, two are silent.
#[test]
fn an_open_head_is_adopted_before_the_decision() {
    let mut machine = conditional();
    let mut step = Step::Wait;
    for drive in 0..4 {
        let reply = if drive < 2 { Reply::View(view(&[(7, 10)])) } else { Reply::Silent };
        step = machine.on_reply(Round(1), drive, reply);
    }
    let Step::Send { commands, .. } = step else { panic!("{step:?}") };
    let adopts = |command: &Command| {
        matches!(command, Command::Accept { entry, .. }
            if entry.ballot == ballot(30) && entry.order == ballot(10))
    };
    assert!(commands.iter().all(|(_, command)| adopts(command)));
}

/// Goal: a failed condition is answered only after the own traces are sealed. Method: an Accept that
/// one drive took and three refused; on the next Prepare another value is there.
#[test]
fn a_failed_condition_seals_its_traces() {
    let mut machine = conditional();
    machine.on_reply(Round(1), 0, Reply::View(view(&[])));
    assert_eq!(machine.on_reply(Round(1), 1, Reply::View(view(&[]))), Step::Evaluate(None));
    let own = HolderMask::full(4);
    let write = Decision::Write { entry: entry(1, Ballot::ZERO), own, keeps_order: false };
    assert!(is_accept(&machine.on_decision(write)));
    for (drive, reply) in [OK, stale(), stale()].into_iter().enumerate() {
        machine.on_reply(Round(2), drive as u8, reply);
    }
    assert!(is_prepare(&machine.on_ballot(ballot(60))));
    let mut other = view(&[(7, 50)]);
    for register in other.registers.values_mut() {
        register.entries[0].settled = true;
    }
    machine.on_reply(Round(3), 1, Reply::View(other.clone()));
    let step = machine.on_reply(Round(3), 2, Reply::View(other));
    assert!(matches!(&step, Step::Evaluate(Some(c)) if c.entry.operation == OperationId(7)));
    let seal = machine.on_decision(Decision::Keep);
    let Step::Send { commands, .. } = &seal else { panic!("{seal:?}") };
    assert!(matches!(&commands[0].1, Command::Accept { entry, .. }
        if entry.operation == OperationId(7) && entry.ballot == ballot(60)));
    let mut step = Step::Wait;
    for drive in 0..4 {
        step = machine.on_reply(Round(4), drive, OK);
    }
    assert_eq!(step, Step::Done(Ok(Decided::Kept)));
}

/// Goal: a read asks R drives, more only when it must. Method: agreeing answers; then an open head.
#[test]
fn a_read_asks_just_enough_drives() {
    let mut machine = Read::new(Drives::all_up(4), Target::Latest, &[2, 0, 1, 3]);
    let step = machine.start();
    assert!(matches!(&step, Step::Send { commands, .. } if commands.len() == 2));
    machine.on_reply(Round(0), 2, Reply::View(view(&[])));
    let step = machine.on_reply(Round(0), 0, Reply::View(view(&[])));
    assert_eq!(step, Step::Done(Ok(Seen::Found(None))));
    let mut machine = Read::new(Drives::all_up(4), Target::Latest, &[2, 0, 1, 3]);
    machine.start();
    machine.on_reply(Round(0), 2, Reply::View(view(&[(1, 10)])));
    let step = machine.on_reply(Round(0), 0, Reply::View(view(&[])));
    assert!(matches!(&step, Step::Send { commands, .. } if commands.len() == 2));
}

/// Goal: an open version with too few shards is an error that names have and need. Method: one of two
/// shards, two drives silent.
#[test]
fn resolving_without_shards_names_what_is_missing() {
    let target = Target::Version(NULL);
    let mut machine = Resolve::new(Drives::all_up(4), target, Reach::Open);
    machine.start();
    machine.on_ballot(ballot(30));
    let mut step = Step::Wait;
    for drive in 0..4 {
        let reply = match drive {
            0 => Reply::View(view(&[(1, 10)])),
            1 => Reply::View(view(&[])),
            _ => Reply::Silent,
        };
        step = machine.on_reply(Round(1), drive, reply);
    }
    let failure = Failure::Short { operation: OperationId(1), need: 2, have: 1 };
    assert_eq!(step, Step::Done(Err(failure)));
}
