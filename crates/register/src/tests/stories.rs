//! What the model checker found, each retold with one machine and a few answers.

use super::*;

/// The answer of a drive that holds, in two registers, `mine` (operation 1) under an adopter's ballot
/// and the tombstone (operation 9) of a version that was above it.
fn adopted_below_a_deleted_version() -> KeyView {
    let mine =
        Held { entry: Entry { ballot: ballot(30), ..entry(1, ballot(10)) }, ..held(1, NOW_0) };
    let gone =
        Entry { kind: EntryKind::Tombstone, geometry: Geometry::EMPTY, ..entry(9, ballot(40)) };
    let gone = Held { settled: true, shard: ShardStatus::NoData, ..of(gone) };
    let mut view = view_of(&[]);
    view.registers.insert(VersionId(1), RegisterState { entries: vec![mine] });
    view.registers.insert(VersionId(2), RegisterState { entries: vec![gone] });
    view.highest = ballot(40);
    view
}

const NOW_0: Ballot = Ballot::ZERO;

fn of(entry: Entry) -> Held {
    Held { entry, shard: ShardStatus::Present, settled: false, holders: HolderMask::default() }
}

/// A write of version 1 at tick 10 that met a mix, and now asks at tick 60.
fn finishing() -> Blind {
    let all = HolderMask::full(4);
    let mut machine = Blind::new(Drives::all_up(4), VersionId(1), entry(1, NOW_0), all);
    machine.start();
    machine.on_ballot(ballot(10));
    let stale = Reply::Refused(Refusal::Stale { highest: ballot(20) });
    let accepted = Reply::Accepted(ShardStatus::Present);
    for (drive, reply) in [accepted, stale.clone(), stale].into_iter().enumerate() {
        machine.on_reply(Round(1), drive as u8, reply);
    }
    machine.on_ballot(ballot(60));
    machine
}

/// Goal: a version that clients read below another is never answered as the latest (ADR 0006).
///
/// The story, `testbed model --replay 5290450` as it was: a write met a mix. Another created a second
/// version, which was acknowledged. A reader of the first version found it open and adopted it, with
/// its old order: below the second. Then the second version was deleted. The writer finished, found its
/// version heading the key, gave it a fresh order and answered that it had been written: but since it
/// was asked, its version had been seen, and had not been the latest, before it was.
///
/// Method: three drives hold the version as the reader adopted it, beside the tombstone.
#[test]
fn a_write_seen_below_a_version_since_deleted_is_unknown() {
    let mut machine = finishing();
    let mut step = Step::Wait;
    for drive in 0..4 {
        let view = if drive < 3 { adopted_below_a_deleted_version() } else { view(&[]) };
        step = machine.on_reply(Round(2), drive, Reply::View(view));
    }
    assert!(matches!(step, Step::Done(Err(Failure::Unknown { .. }))), "{step:?}");
}

/// Goal: the rule above costs nothing where nobody can have read the version. Method: the same write and
/// the same tombstone, but one drive alone holds the version, as its writer wrote it.
#[test]
fn a_write_that_nobody_chose_becomes_the_latest() {
    let mut machine = finishing();
    let mut step = Step::Wait;
    for drive in 0..4 {
        let mut view = adopted_below_a_deleted_version();
        let mine = RegisterState { entries: vec![held(1, ballot(10))] };
        view.registers.remove(&VersionId(1));
        if drive == 0 {
            view.registers.insert(VersionId(1), mine);
        }
        step = machine.on_reply(Round(2), drive, Reply::View(view));
        if is_accept(&step) {
            break;
        }
    }
    let Step::Send { commands, .. } = step else { panic!("{step:?}") };
    assert!(matches!(&commands[0].1, Command::Accept { entry, .. }
        if entry.operation == OperationId(1) && entry.order == ballot(60)));
}

/// Goal: INV-REG-5: a version that may have been read keeps its place among the key's versions (ADR 0021).
///
/// The story, `testbed model --replay 20597428` as it was: a reader adopted a version, read it as the
/// latest and had it settled. Another version, open above it, was then adopted and read as the latest.
/// The writer of the first, which had asked in between, wrote it once more with its new ballot as order.
/// Two of four drives took that: it was not chosen, but they held the version as settled, so readers took
/// it for the latest again.
///
/// Method: three drives hold the version as its reader adopted it; so does a fourth that missed the adoption.
#[test]
fn a_write_that_others_chose_keeps_its_place() {
    for settled in [true, false] {
        let mut machine = finishing();
        let mut step = Step::Wait;
        for drive in 0..4 {
            let mut view = adopted_below_a_deleted_version();
            view.registers.remove(&VersionId(2));
            view.highest = ballot(30);
            let mine = view.registers.get_mut(&VersionId(1)).unwrap();
            mine.entries[0].settled = settled;
            step = machine.on_reply(Round(2), drive, Reply::View(view));
            if is_accept(&step) {
                break;
            }
        }
        let Step::Send { commands, .. } = step else { panic!("{step:?}") };
        let kept = |command: &Command| {
            matches!(command, Command::Accept { entry, .. }
                if entry.ballot == ballot(60) && entry.order == ballot(10))
        };
        assert!(commands.iter().all(|(_, command)| kept(command)), "{commands:?}");
    }
}

/// Goal: a conditional write with traces left waits for the answers that settle an open head (ADR 0005,
/// liveness). It adopted as soon as a read quorum had answered, which never settles a head when R < W,
/// asked again, adopted again, and gave up after 24 ballots.
///
/// Method: the head is held by three of four drives; two answer, then the third.
#[test]
fn sealing_waits_for_what_settles_an_open_head() {
    let machine = Conditional::new(Drives::all_up(4), NULL, Subject::Register, OperationId(99));
    let mut machine = machine.sealing();
    machine.start();
    machine.on_ballot(ballot(30));
    machine.on_reply(Round(1), 0, Reply::View(view(&[(7, 10)])));
    let step = machine.on_reply(Round(1), 1, Reply::View(view(&[(7, 10)])));
    assert_eq!(step, Step::Grace);
    let step = machine.on_reply(Round(1), 2, Reply::View(view(&[(7, 10)])));
    assert!(matches!(&step, Step::Evaluate(Some(head)) if head.verdict == Verdict::Settled));
}

/// A write in a code of 2 of 4 that met silence: two drives accepted, two said nothing; and the same
/// write begun again, as operation 2, for three drives.
fn begun_again() -> Blind {
    let all = HolderMask::full(4);
    let mut machine = Blind::new(Drives::all_up(4), NULL, entry(1, NOW_0), all);
    machine.start();
    machine.on_ballot(ballot(10));
    let mut step = Step::Wait;
    for drive in 0..4 {
        let accepted = Reply::Accepted(ShardStatus::Present);
        let reply = if drive < 2 { accepted } else { Reply::Silent };
        step = machine.on_reply(Round(1), drive, reply);
    }
    assert!(matches!(step, Step::Done(Err(Failure::Unknown { .. }))), "{step:?}");
    let three = Drives { up: HolderMask(0b111), ..Drives::all_up(4) };
    let mut machine = machine.again(three, entry(2, NOW_0), three.up);
    assert!(matches!(machine.start(), Step::Ballot { above, .. } if above == ballot(10)));
    machine.on_ballot(ballot(20));
    machine
}

/// Goal: a write begun again takes effect once (ADR 0011). What its first shape did is asked; when that
/// was chosen, read and overwritten, nothing is written again. Method: the first shape took effect by an
/// adoption at tick 15 and was overwritten by operation 7; three drives remember.
#[test]
fn a_write_begun_again_is_not_written_over_what_overtook_it() {
    let mut machine = begun_again();
    let mut step = Step::Wait;
    for drive in 0..3 {
        let mut overtaken = view(&[(7, 18)]);
        overtaken.registers.values_mut().for_each(|r| r.entries[0].settled = true);
        let at = HybridTime::from_micros(NOW);
        overtaken.memory = vec![Remembered { operation: OperationId(1), ballot: ballot(15), at }];
        step = machine.on_reply(Round(2), drive, Reply::View(overtaken));
    }
    assert!(matches!(step, Step::Done(Ok(_))), "{step:?}");
}

/// Goal: when its first shape heads the key, or nobody can have chosen it, the new shape takes its place
/// under the promise. Method: two drives hold the first shape under its own ballot, with and without a
/// third one; where it is not known whether it was chosen, more drives are waited for.
#[test]
fn a_write_begun_again_takes_the_place_of_its_first_shape() {
    for third in [&[(1, 10)][..], &[]] {
        let mut machine = begun_again();
        let mut step = Step::Wait;
        for (drive, held) in [&[(1, 10)][..], &[(1, 10)], third].into_iter().enumerate() {
            step = machine.on_reply(Round(2), drive as u8, Reply::View(view(held)));
            if is_accept(&step) {
                break;
            }
        }
        let Step::Send { commands, .. } = step else { panic!("{step:?}") };
        let Command::Accept { entry, .. } = &commands[0].1 else { panic!("{commands:?}") };
        assert_eq!((entry.operation, entry.ballot), (OperationId(2), ballot(20)));
        assert_eq!(entry.order, ballot(10), "it may have been read in that place (INV-REG-5)");
    }
}

/// Goal: a version adopted late is not the latest because it stands alone in what one read was told
/// (ADR 0021).
///
/// The story, `testbed model --replay 23784004` as it was: one drive answered a read before it held anything.
/// It then took part in a version that was acknowledged; another drive, which had missed that one, took part in
/// the late adoption of a version of lower order, and answered. The reader took that version for the latest.
///
/// Method: those two answers, and two that came after the adoption; then the same key without versions.
#[test]
fn a_version_that_stands_alone_is_judged_on_one_view() {
    let settled = |version: u128| {
        let mut view = view_of(&[(version, &[(1, 30)])]);
        let registers = view.registers.values_mut().flat_map(|register| &mut register.entries);
        registers.for_each(|held| held.settled = true);
        Answer::View(view)
    };
    let judged = |answers: [Answer; 2]| {
        let [first, second] = answers;
        match judge_latest(
            Basis::Reads,
            Quorum::of(4),
            &[first, second, Answer::None, Answer::None],
        ) {
            Judgement::Found(head) => head.verdict,
            other => panic!("{other:?}"),
        }
    };
    let early = || Answer::View(view_of(&[]));
    assert_eq!(judged([early(), settled(1)]), Verdict::Open);
    assert_eq!(judged([settled(1), settled(1)]), Verdict::Settled);
    assert_eq!(judged([early(), settled(0)]), Verdict::Settled);
}

/// Goal: what a drive did not hold when it answered early proves nothing beside what others adopted since
/// (ADR 0021).
///
/// The story, `testbed model --replay 31079140` as it was: a read asked a drive that held nothing yet. Version 2
/// was then acknowledged by three of four drives, that one among them; after it version 1, of lower order, was
/// adopted. Two late answers knew of both ballots, but one of those drives had missed version 2: with the
/// early answer that made two drives without it, so it counted as never chosen.
///
/// Method: those three answers, and then the early drive asked late.
#[test]
fn early_answers_prove_nothing_beside_late_ones() {
    let late = |both: bool| {
        let mut view = view_of(&[(1, &[(1, 30)]), (2, &[(2, 20)])]);
        view.registers
            .values_mut()
            .for_each(|r| r.entries[0].entry.order = r.entries[0].entry.ballot);
        let adopted = &mut view.registers.get_mut(&VersionId(1)).unwrap().entries[0];
        (adopted.entry.order, adopted.settled) = (ballot(10), true);
        if !both {
            view.registers.remove(&VersionId(2));
        }
        Answer::View(view)
    };
    let judged = |first: Answer| match judge_latest(
        Basis::Reads,
        Quorum::of(4),
        &[first, late(true), late(false), Answer::None],
    ) {
        Judgement::Found(head) => (head.version.0, head.verdict),
        other => panic!("{other:?}"),
    };
    assert_eq!(judged(Answer::View(view_of(&[]))), (2, Verdict::Open));
    assert_eq!(judged(late(true)), (2, Verdict::Open));
}

/// A create in a code of 2 of 4 that met silence: two drives accepted, two said nothing; and the same create
/// begun again, as operation 2, for three drives.
fn create_begun_again() -> Conditional {
    let mut machine = Conditional::new(Drives::all_up(4), NULL, Subject::Register, OperationId(99));
    machine.start();
    machine.on_ballot(ballot(10));
    let mut step = Step::Wait;
    for drive in 0..4 {
        step = machine.on_reply(Round(1), drive, Reply::View(view(&[])));
    }
    assert!(matches!(step, Step::Wait), "decided on two answers: {step:?}");
    let own = HolderMask::full(4);
    machine.on_decision(Decision::Write { entry: entry(1, NOW_0), own, keeps_order: false });
    for drive in 0..4 {
        let accepted = Reply::Accepted(ShardStatus::Present);
        let reply = if drive < 2 { accepted } else { Reply::Silent };
        step = machine.on_reply(Round(2), drive, reply);
    }
    assert!(matches!(step, Step::Done(Err(Failure::Unknown { .. }))), "{step:?}");
    let three = Drives { up: HolderMask(0b111), ..Drives::all_up(4) };
    let mut machine = machine.again(three, entry(2, NOW_0), three.up);
    machine.start();
    machine.on_ballot(ballot(20));
    machine
}

/// Goal: a conditional write begun again replaces its first shape where that heads the key, in its place, and is
/// not decided anew (ADR 0011): its own first shape would make its condition fail. Method: two drives hold the
/// first shape; then the new one is accepted by the three that are left.
#[test]
fn a_create_begun_again_does_not_fail_on_its_own_first_shape() {
    let mut machine = create_begun_again();
    let mut step = Step::Wait;
    for (drive, held) in [&[(1, 10)][..], &[(1, 10)], &[]].into_iter().enumerate() {
        step = machine.on_reply(Round(3), drive as u8, Reply::View(view(held)));
        if is_accept(&step) {
            break;
        }
    }
    let Step::Send { commands, round } = step.clone() else { panic!("{step:?}") };
    assert_eq!(commands.len(), 3);
    let Command::Accept { entry, .. } = &commands[0].1 else { panic!("{commands:?}") };
    assert_eq!((entry.operation, entry.ballot), (OperationId(2), ballot(20)));
    assert_eq!(entry.order, ballot(10), "it may have been read in that place (INV-REG-5)");
    for drive in 0..3 {
        step = machine.on_reply(round, drive, Reply::Accepted(ShardStatus::Present));
    }
    let Step::Done(Ok(Decided::Written(written))) = step else { panic!("{step:?}") };
    assert_eq!(written.operation, OperationId(2));
}

/// Goal: what its first shape did is not done again: chosen, read and overwritten, it was written. Method: three
/// drives remember the first shape under an adopter's ballot, and hold operation 7 settled above it.
#[test]
fn a_create_begun_again_is_not_written_over_what_overtook_it() {
    let mut machine = create_begun_again();
    let mut step = Step::Wait;
    for drive in 0..3 {
        let mut overtaken = view(&[(7, 18)]);
        overtaken.registers.values_mut().for_each(|r| r.entries[0].settled = true);
        let at = HybridTime::from_micros(NOW);
        overtaken.memory = vec![Remembered { operation: OperationId(1), ballot: ballot(15), at }];
        step = machine.on_reply(Round(3), drive, Reply::View(overtaken));
    }
    assert!(matches!(step, Step::Done(Ok(Decided::Written(_)))), "{step:?}");
}

/// Goal: when nobody can have chosen its first shape, the condition is decided anew on what is there. Method:
/// three drives hold operation 7 settled, and remember nothing of the create.
#[test]
fn a_create_begun_again_that_nobody_chose_is_decided_anew() {
    let mut machine = create_begun_again();
    let mut step = Step::Wait;
    for drive in 0..3 {
        let mut others = view(&[(7, 18)]);
        others.registers.values_mut().for_each(|r| r.entries[0].settled = true);
        step = machine.on_reply(Round(3), drive, Reply::View(others));
        if matches!(step, Step::Evaluate(_)) {
            break;
        }
    }
    assert!(matches!(&step, Step::Evaluate(Some(head)) if head.entry.operation == OperationId(7)));
}
