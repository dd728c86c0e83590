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

fn judged(views: [KeyView; 3]) -> Option<Verdict> {
    match judge(Quorum::of(3), &views.map(Answer::View), NULL) {
        Judgement::Found(found) => Some(found.verdict),
        Judgement::Absent | Judgement::Unknown { .. } => None,
    }
}

/// Goal: what two of three drives accepted and one of them lost is not settled, whoever is asked; it is out
/// once the third cannot have accepted it since. Method: the third answers with and without a promise; then
/// with a flag that says that it was acknowledged.
#[test]
fn what_lost_its_spare_shard_is_out_under_a_promise_alone() {
    let two = |shard| [showing(vec![mine(HERE)]), showing(vec![mine(shard)])];
    let with = |shard, third: KeyView| {
        let [first, second] = two(shard);
        judged([first, second, third])
    };
    assert_eq!(with(HERE, view(&[])), Some(Verdict::Settled));
    assert_eq!(with(GONE, view(&[])), Some(Verdict::Open), "it may have it by now");
    let promised = KeyView { promise: ballot(11), ..view(&[]) };
    assert_eq!(with(GONE, promised.clone()), None, "never acknowledged, never readable again");
    let unknown = KeyView { counts: false, ..promised.clone() };
    assert_eq!(with(GONE, unknown), Some(Verdict::Open));
    let flagged = Held { settled: true, ..mine(HERE) };
    let views = [showing(vec![flagged]), showing(vec![mine(GONE)]), promised];
    assert_eq!(judged(views), Some(Verdict::Settled), "a Settle names A_v holders");
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
