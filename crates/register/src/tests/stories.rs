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
        assert!(matches!(&commands[0].1, Command::Accept { entry, .. }
            if entry.operation == OperationId(2) && entry.order == ballot(20)));
    }
}

/// Goal: INV-REG-4: no success below `A_v` holders, whatever has rotted meanwhile (ADR 0007).
///
/// The story, `testbed model --part rot --replay 111` as it was: a write was accepted by two of three
/// drives, chosen but not acknowledged, and refused by the third. Then the records of one of the two
/// rotted; its memory still said that it had accepted. One shard was left, so the version was out; the
/// finishing writer took that for "overtaken since", and answered success for what nobody can restore.
///
/// Method: those three answers; then one in which a drive that counts does not hold it either, for its
/// tombstone was purged: that is success.
#[test]
fn a_write_that_rotted_before_it_was_acknowledged_is_unknown() {
    for (rotten, unknown) in [(true, true), (false, false)] {
        let drives = Drives::all_up(3);
        let geometry = Geometry::new(2, 3, 1);
        let of_three = Entry { geometry, ..entry(1, NOW_0) };
        let mut machine = Blind::new(drives, VersionId(1), of_three.clone(), HolderMask::full(3));
        machine.start();
        machine.on_ballot(ballot(10));
        let stale = Reply::Refused(Refusal::Stale { highest: ballot(20) });
        for (drive, reply) in [(2, stale), (0, Reply::Accepted(ShardStatus::Present))] {
            machine.on_reply(Round(1), drive, reply);
        }
        machine.on_ballot(ballot(60));
        let taken =
            Remembered { operation: OperationId(1), ballot: ballot(10), at: ballot(10).time };
        let mut step = Step::Wait;
        for drive in 0..3 {
            let mut view = view_of(&[]);
            view.remembers = true;
            if drive < 2 {
                view.memory.push(taken);
                view.counts = !(rotten && drive == 1);
            }
            if rotten && drive == 0 {
                let mine = Entry { ballot: ballot(10), order: ballot(10), ..of_three.clone() };
                let mine = RegisterState { entries: vec![of(mine)] };
                view.registers.insert(VersionId(1), mine);
                view.highest = ballot(10);
            }
            step = machine.on_reply(Round(2), drive, Reply::View(view));
            if matches!(step, Step::Done(_)) {
                break;
            }
        }
        let told = matches!(step, Step::Done(Err(Failure::Unknown { .. })));
        assert_eq!(told, unknown, "{step:?}");
    }
}
