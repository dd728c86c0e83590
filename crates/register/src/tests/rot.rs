//! What shards that rot away do to judging, to memory and to who finishes (ADR 0021).

use super::*;

/// `entry(1)` in a code of 2 of 3, as its writer wrote it at tick 10, on a drive with or without its shard.
fn mine(shard: ShardStatus) -> Held {
    let entry = Entry { geometry: Geometry::new(2, 3, 1), ..entry(1, ballot(10)) };
    Held { entry, shard, settled: false, holders: HolderMask::default() }
}

fn showing(entries: Vec<Held>) -> KeyView {
    let highest = entries.first().map(|held| held.entry.ballot).unwrap_or_default();
    let registers = BTreeMap::from([(NULL, RegisterState { entries })]);
    KeyView { registers, highest, counts: true, remembers: true, ..KeyView::default() }
}

const HERE: ShardStatus = ShardStatus::Present;
const GONE: ShardStatus = ShardStatus::Missing;

fn judged(basis: Basis, views: [KeyView; 3]) -> Option<Verdict> {
    match judge(basis, Quorum::of(3), &views.map(Answer::View), NULL) {
        Judgement::Found(found) => Some(found.verdict),
        Judgement::Absent | Judgement::Unknown { .. } => None,
    }
}

/// Goal: what two of three drives accepted and one of them lost is not settled, whoever is asked; it is out
/// once every drive answered one Prepare, and never by Reads. Method: the third answers a Read and a Prepare, and
/// as one that is being rebuilt; then with a flag that says that it was acknowledged.
#[test]
fn what_lost_its_spare_shard_is_out_after_one_prepare_alone() {
    let two = |shard| [showing(vec![mine(HERE)]), showing(vec![mine(shard)])];
    let with = |basis, shard, third: KeyView| {
        let [first, second] = two(shard);
        judged(basis, [first, second, third])
    };
    let prepare = Basis::Prepare;
    assert_eq!(with(prepare, HERE, view(&[])), Some(Verdict::Settled));
    assert_eq!(with(prepare, GONE, view(&[])), None, "never acknowledged, never readable again");
    assert_eq!(with(Basis::Reads, GONE, view(&[])), Some(Verdict::Open), "it may have it by now");
    let unknown = KeyView { counts: false, ..view(&[]) };
    assert_eq!(with(prepare, GONE, unknown), Some(Verdict::Open));
    let flagged = Held { settled: true, ..mine(HERE) };
    let views = [showing(vec![flagged]), showing(vec![mine(GONE)]), view(&[])];
    assert_eq!(judged(prepare, views), Some(Verdict::Settled), "a Settle names A_v holders");
}

/// Goal: a silent drive may have the shard that makes a version readable, though never the one that made it
/// acknowledged. Method: of a code of 3 of 5 two drives show theirs, two show nothing; the fifth is silent, or not.
#[test]
fn nothing_is_lost_while_a_drive_is_silent() {
    let shown = Held {
        entry: Entry { geometry: Geometry::new(3, 5, 1), ..mine(HERE).entry },
        ..mine(HERE)
    };
    let with = |fifth: Answer| {
        let two = [showing(vec![shown.clone()]), showing(vec![shown.clone()])];
        let answers: Vec<Answer> = two
            .into_iter()
            .chain([view(&[]), view(&[])])
            .map(Answer::View)
            .chain([fifth])
            .collect();
        judge(Basis::Prepare, Quorum::of(5), &answers, NULL)
    };
    let silent = with(Answer::None);
    assert!(
        matches!(&silent, Judgement::Found(head) if head.verdict == Verdict::Open),
        "{silent:?}"
    );
    assert_eq!(with(Answer::View(view(&[]))), Judgement::Absent);
}

/// Goal: a ballot that an answer to a Read shows above a candidate bars nothing (ADR 0021): it tells what that
/// drive did before it answered, not what the others did since they had.
///
/// The story, `testbed model --part rot` with seed 8032752 as it was: a version was chosen by drives 1 and 2, and read.
/// Its writer finished meanwhile: drive 0 promised, answered the next reader that it held nothing, and accepted the
/// version. The shard of drive 1 rotted. The write was begun again in another shape, which all three accepted, and drive 1
/// answered the reader: by the ballot that drive 0 had shown, it seemed to have missed the version for good.
///
/// Method: the third drive shows a promise and an entry above what two hold with one shard.
#[test]
fn answers_to_reads_never_show_that_a_version_is_lost() {
    let above = entry(7, ballot(30));
    let above = Held { entry: above, ..mine(HERE) };
    for third in [KeyView { promise: ballot(11), ..view(&[]) }, showing(vec![above])] {
        let views = [showing(vec![mine(HERE)]), showing(vec![mine(GONE)]), third.clone()];
        let answers = views.map(Answer::View);
        let ignored = [OperationId(7)];
        let judged = |basis| judge_without(basis, Quorum::of(3), &answers, NULL, &ignored);
        let open = |found: &Judgement| matches!(found, Judgement::Found(head) if head.verdict == Verdict::Open);
        assert!(open(&judged(Basis::Reads)), "{third:?}");
        assert_eq!(judged(Basis::Prepare), Judgement::Absent);
    }
}

/// Goal: INV-REG-4: a drive does not vouch for what it has lost. Method: two of three drives hold an
/// operation; one loses its shard while it is open, and once it is settled.
#[test]
fn a_drive_does_not_vouch_for_what_it_lost() {
    let remembered = Remembered { operation: OperationId(1), ballot: ballot(10), at: drive().now };
    for (settled, took) in [(false, false), (true, true)] {
        let mut states = [KeyState::default(), KeyState::default()];
        for state in &mut states {
            state.apply_accept(NULL, mine(HERE));
            state.remember(remembered, HybridTime(0));
        }
        if settled {
            states[1].apply_settle(NULL, OperationId(1), HolderMask::full(3), true);
        }
        assert_eq!(states[1].apply_loss(OperationId(1)), !settled);
        assert_eq!(states[1].memory.is_empty(), !settled);
        let views = states.map(|state| Answer::View(state.view(Ballot::ZERO, true, true)));
        let third = Answer::View(KeyView { remembers: true, ..view(&[]) });
        let found =
            effect(Quorum::of(3), &[views[0].clone(), views[1].clone(), third], OperationId(1));
        let expected = if took { Effect::Took(vec![ballot(10)]) } else { Effect::Unknown };
        assert_eq!(found, expected, "settled: {settled}");
    }
}

/// Goal: a repetition that comes late brings no shard back below a promise: its owner may have taken the
/// entry for lost. Method: the same Accept before and after the promise.
#[test]
fn a_late_repetition_brings_nothing_back_below_a_promise() {
    let mut state = KeyState::default();
    state.apply_accept(NULL, mine(GONE));
    let again = mine(HERE).entry;
    let ask = |state: &KeyState| decide_accept(state, &drive(), NULL, &again, HERE);
    assert_eq!(ask(&state), Ok(AcceptVerdict::AddShard));
    state.promise = ballot(11);
    assert_eq!(ask(&state), Ok(AcceptVerdict::Already));
}

/// Goal: INV-REG-4: no success for what nobody can restore, whatever overtook it.
///
/// The story, `testbed model --part rot` with seeds 111 and 231 as they were: a write was accepted by two of
/// three drives, chosen but not acknowledged, and refused by the third. One of the two lost it to rot, and
/// remembered it. A sweeper found too little of it and sealed the register by a tombstone; the finishing
/// writer took the tombstone for "deleted since" and answered success.
///
/// Method: all three hold the tombstone above what is left. The drive without its shard remembers nothing;
/// then the same with nothing lost, where the write was deleted indeed.
#[test]
fn a_write_that_rotted_before_it_was_acknowledged_is_unknown() {
    for (shard, unknown) in [(GONE, true), (HERE, false)] {
        let entry = Entry { ballot: Ballot::ZERO, ..mine(HERE).entry };
        let mut machine = Blind::new(Drives::all_up(3), NULL, entry, HolderMask::full(3));
        machine.start();
        machine.on_ballot(ballot(10));
        machine.on_reply(Round(1), 2, stale());
        machine.on_reply(Round(1), 0, OK);
        machine.on_ballot(ballot(60));
        let gone = Entry {
            kind: EntryKind::Tombstone,
            geometry: Geometry::EMPTY,
            ..super::entry(9, ballot(40))
        };
        let gone = Held { entry: gone, shard: ShardStatus::NoData, ..mine(HERE) };
        let taken = Remembered { operation: OperationId(1), ballot: ballot(10), at: drive().now };
        let mut step = Step::Wait;
        for (drive, shard) in [Some(HERE), Some(shard), None].into_iter().enumerate() {
            let mut view = showing([gone.clone()].into_iter().chain(shard.map(mine)).collect());
            if shard == Some(HERE) {
                view.memory.push(taken);
            }
            step = machine.on_reply(Round(2), drive as u8, Reply::View(view));
            if matches!(step, Step::Done(_)) {
                break;
            }
        }
        let told = matches!(step, Step::Done(Err(Failure::Unknown { .. })));
        assert!(told == unknown && matches!(step, Step::Done(_)), "{step:?}");
    }
}
