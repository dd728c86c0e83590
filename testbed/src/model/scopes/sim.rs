//! Programs, messages and what may happen to them: a deterministic executor. A program is an async
//! function, polled whenever something came for it; dropping it is the crash of its coordinator.

use std::{
    cell::RefCell,
    collections::{BTreeMap, VecDeque},
    future::Future,
    pin::Pin,
    rc::Rc,
    task::{Context, Waker},
};

use holdfast_register::{Reply, Round};
use holdfast_types::{BucketStamp, HybridTime, OperationId, Quorum};

use super::{
    super::{bugs::Bug, rng::Rng},
    coordinator::Coordinator,
    drive::{Answered, Ask, Drive},
};

/// Where the clock starts: memories that began at 0 are complete from here on.
const START_MICROS: u64 = 100_000_000;

/// A call: which exchange of the task, which round of it, which drive.
pub type Call = (u32, Round, u8);

/// A message on its way.
#[derive(Clone, Debug)]
pub enum Message {
    /// To a drive; the answer goes to a task, when it waits for one.
    Request { drive: u8, stamp: BucketStamp, ask: Ask, from: Option<(u32, Call)> },
    /// Back.
    Reply { task: u32, call: Call, answered: Answered },
}

/// What comes for a program.
#[derive(Debug)]
pub enum Inbox {
    Answer(Call, Answered),
    Grace,
    Woken,
}

/// What a program waits for, beside answers.
#[derive(Debug, Default)]
pub struct Waiting {
    pub inbox: VecDeque<Inbox>,
    pub calls: Vec<Call>,
    pub grace: bool,
    pub asleep: bool,
    /// The time of its last ballot.
    pub last: HybridTime,
}

/// How often what may still happen.
#[derive(Debug)]
pub struct Budgets {
    pub timeouts: u64,
    pub drops: u64,
    pub crashes: u64,
    pub restarts: u64,
    pub outages: u64,
    pub leaps: u64,
    /// One in so many calls is slow; 0 for none.
    pub slow_every: u64,
    pub salt: u64,
}

/// All but the programs.
#[derive(Debug)]
pub struct State {
    pub rng: Rng,
    pub bug: Option<Bug>,
    pub quorum: Quorum,
    pub now: u64,
    pub drives: Vec<Drive>,
    pub net: Vec<Message>,
    pub budgets: Budgets,
    pub violation: Option<String>,
    pub trace: Option<Vec<String>>,
    pub waiting: BTreeMap<u32, Waiting>,
    pub next: u128,
    tasks: u32,
    /// Nothing goes wrong any more.
    pub quiet: bool,
}

/// Shared by the programs and the executor, which never run at once.
pub type Shared = Rc<RefCell<State>>;
type Program = Pin<Box<dyn Future<Output = ()>>>;

#[derive(Clone, Copy, Debug)]
enum Event {
    Deliver(usize),
    Drop(usize),
    Timeout(u32, Call),
    Grace(u32),
    Wake(u32),
    Crash(u32),
    Restart(u8),
    Down(u8),
    Up(u8),
    Leap,
}

impl State {
    fn new(n: u8, bug: Option<Bug>, mut rng: Rng, traced: bool) -> Self {
        let mut few = |most: u64| rng.below(most + 1);
        let budgets = Budgets {
            timeouts: few(8),
            drops: few(8),
            crashes: few(2),
            restarts: few(2),
            outages: few(1),
            leaps: few(6),
            slow_every: [0, 2, 3, 5][few(3) as usize],
            salt: few(100),
        };
        Self {
            rng,
            bug,
            quorum: Quorum::of(n),
            now: START_MICROS,
            drives: (0..n).map(|_| Drive::default()).collect(),
            net: Vec::new(),
            budgets,
            violation: None,
            trace: traced.then(Vec::new),
            waiting: BTreeMap::new(),
            next: 0,
            tasks: 0,
            quiet: false,
        }
    }

    /// Notes a line of the trace, when one is kept.
    pub fn say(&mut self, line: impl FnOnce() -> String) {
        if let Some(trace) = &mut self.trace {
            trace.push(line());
        }
    }

    /// A property does not hold.
    pub fn violate(&mut self, what: String) {
        self.say(|| format!("VIOLATION: {what}"));
        self.violation.get_or_insert(what);
    }

    /// A fresh operation id.
    pub fn operation(&mut self) -> OperationId {
        self.next += 1;
        OperationId(self.next)
    }

    /// Drives that are up and have an operation's bytes.
    pub fn holders(&self, operation: OperationId) -> u8 {
        self.drives.iter().filter(|d| !d.down && d.bytes.contains(&operation)).count() as u8
    }

    fn answer(&mut self, task: u32, call: Call, answered: Answered) -> bool {
        let Some(waiting) = self.waiting.get_mut(&task) else { return false };
        let Some(at) = waiting.calls.iter().position(|known| *known == call) else { return false };
        waiting.calls.swap_remove(at);
        waiting.inbox.push_back(Inbox::Answer(call, answered));
        true
    }

    fn events(&self, out: &mut Vec<(u64, Event)>) {
        out.clear();
        let budgets = &self.budgets;
        for (at, message) in self.net.iter().enumerate() {
            let (task, drive) = match message {
                Message::Request { drive, from, .. } => (from.map_or(0, |f| f.0), *drive),
                Message::Reply { task, call, .. } => (*task, call.2),
            };
            let mixed = (u64::from(task) * 31 + u64::from(drive) * 17 + budgets.salt) * 0x9e37_79b9;
            let slow = budgets.slow_every > 0 && (mixed >> 7).is_multiple_of(budgets.slow_every);
            out.push((if slow { 3 } else { 100 }, Event::Deliver(at)));
            if budgets.drops > 0 {
                out.push((4, Event::Drop(at)));
            }
        }
        for (task, waiting) in &self.waiting {
            for call in &waiting.calls {
                let alive = self.is_alive(*task, *call);
                let weight = if alive { 8 * u64::from(budgets.timeouts > 0) } else { 60 };
                out.push((weight, Event::Timeout(*task, *call)));
            }
            if waiting.grace {
                out.push((80, Event::Grace(*task)));
            }
            if waiting.asleep {
                out.push((25, Event::Wake(*task)));
            }
            if budgets.crashes > 0 {
                out.push((2, Event::Crash(*task)));
            }
        }
        let down = self.drives.iter().any(|drive| drive.down);
        for (at, drive) in self.drives.iter().enumerate() {
            if drive.down {
                out.push((10, Event::Up(at as u8)));
            } else if !down && self.quorum.away() > 0 && budgets.outages > 0 {
                out.push((4, Event::Down(at as u8)));
            }
            if !drive.down && budgets.restarts > 0 {
                out.push((3, Event::Restart(at as u8)));
            }
        }
        if budgets.leaps > 0 {
            out.push((12, Event::Leap));
        }
    }

    fn is_alive(&self, task: u32, call: Call) -> bool {
        self.net.iter().any(|message| match message {
            Message::Request { from, .. } => *from == Some((task, call)),
            Message::Reply { task: to, call: of, .. } => (*to, *of) == (task, call),
        })
    }

    fn deliver(&mut self, at: usize) -> Option<u32> {
        match self.net.swap_remove(at) {
            Message::Reply { task, call, answered } => {
                self.answer(task, call, answered).then_some(task)
            }
            Message::Request { drive, stamp, ask, from } => {
                let (now, quorum, bug) = (HybridTime::from_micros(self.now), self.quorum, self.bug);
                let target = &mut self.drives[usize::from(drive)];
                if target.down {
                    return None;
                }
                let asked = self.trace.is_some().then(|| format!("{stamp:?} {ask:?}"));
                let answered = target.handle(stamp, ask, now, quorum, bug);
                if let Some(asked) = asked {
                    let text = format!("{answered:?}");
                    let short: String = text.chars().take(160).collect();
                    self.say(|| format!("drive {drive} <- {from:?} {asked} -> {short}"));
                }
                if let Some((task, call)) = from {
                    self.net.push(Message::Reply { task, call, answered });
                }
                None
            }
        }
    }

    /// Lets an event happen; the task that has something to go on with.
    fn apply(&mut self, event: Event) -> Option<u32> {
        self.now += 1_000;
        if !matches!(event, Event::Deliver(_)) {
            self.say(|| format!("{event:?}"));
        }
        let now = HybridTime::from_micros(self.now);
        match event {
            Event::Deliver(at) => return self.deliver(at),
            Event::Drop(at) => {
                self.budgets.drops -= 1;
                self.net.swap_remove(at);
            }
            Event::Timeout(task, call) => {
                self.budgets.timeouts = self.budgets.timeouts.saturating_sub(1);
                return self.answer(task, call, Answered::Reply(Reply::Silent)).then_some(task);
            }
            Event::Grace(task) | Event::Wake(task) => {
                let waiting = self.waiting.get_mut(&task)?;
                (waiting.grace, waiting.asleep) = (false, false);
                let woken = matches!(event, Event::Wake(_));
                waiting.inbox.push_back(if woken { Inbox::Woken } else { Inbox::Grace });
                return Some(task);
            }
            Event::Crash(_) => self.budgets.crashes -= 1,
            Event::Restart(drive) => {
                self.budgets.restarts -= 1;
                self.drives[usize::from(drive)].restart(now);
            }
            Event::Down(drive) => {
                self.budgets.outages -= 1;
                self.drives[usize::from(drive)].down = true;
            }
            Event::Up(drive) => {
                self.drives[usize::from(drive)].down = false;
                self.drives[usize::from(drive)].restart(now);
            }
            Event::Leap => {
                self.budgets.leaps -= 1;
                let most = if self.rng.chance(30) { 60_000_000 } else { 25_000_000 };
                self.now += 1_000_000 + self.rng.below(most);
            }
        }
        None
    }
}

/// A run: the state and its programs.
pub struct Sim {
    pub shared: Shared,
    programs: BTreeMap<u32, Program>,
}

impl Sim {
    /// `n` fresh drives.
    pub fn new(n: u8, bug: Option<Bug>, rng: Rng, traced: bool) -> Self {
        let state = State::new(n, bug, rng, traced);
        Self { shared: Rc::new(RefCell::new(state)), programs: BTreeMap::new() }
    }

    /// Begins a program. Its clock deviates when `skewed`.
    pub fn spawn<F: Future<Output = ()> + 'static>(
        &mut self,
        skewed: bool,
        program: impl FnOnce(Coordinator) -> F,
    ) {
        let coordinator = {
            let mut state = self.shared.borrow_mut();
            // Never the id of one before: it makes the ballots unique.
            state.tasks += 1;
            let task = state.tasks;
            state.waiting.insert(task, Waiting::default());
            let skew = if skewed { state.rng.below(6_000_000) as i64 - 3_000_000 } else { 0 };
            Coordinator { shared: self.shared.clone(), task, skew }
        };
        let task = coordinator.task;
        self.programs.insert(task, Box::pin(program(coordinator)));
        self.poll(task);
    }

    fn poll(&mut self, task: u32) {
        let Some(program) = self.programs.get_mut(&task) else { return };
        let mut context = Context::from_waker(Waker::noop());
        if program.as_mut().poll(&mut context).is_ready() {
            self.end(task);
        }
    }

    fn end(&mut self, task: u32) {
        self.programs.remove(&task);
        self.shared.borrow_mut().waiting.remove(&task);
    }

    fn apply(&mut self, event: Event) {
        let task = self.shared.borrow_mut().apply(event);
        if let Event::Crash(task) = event {
            self.end(task);
        }
        if let Some(task) = task {
            self.poll(task);
        }
    }

    fn is_broken(&self) -> bool {
        self.shared.borrow().violation.is_some()
    }

    /// Events at random until the programs are over; how many.
    pub fn walk(&mut self, most: u32) -> u32 {
        let mut choices = Vec::new();
        for events in 0..most {
            let event = {
                let mut state = self.shared.borrow_mut();
                state.events(&mut choices);
                let total: u64 = choices.iter().map(|(weight, _)| weight).sum();
                if total == 0 || self.programs.is_empty() {
                    return events;
                }
                let mut pick = state.rng.below(total);
                choices.iter().find(|(weight, _)| {
                    let here = pick < *weight;
                    pick = pick.saturating_sub(*weight);
                    here
                })
            };
            let Some((_, event)) = event else { return events };
            self.apply(*event);
            if self.is_broken() {
                return events;
            }
        }
        most
    }

    /// Coordinators are gone, some late messages arrive, all drives are up.
    pub fn calm(&mut self) {
        for task in self.programs.keys().copied().collect::<Vec<_>>() {
            self.end(task);
        }
        loop {
            let at = {
                let mut state = self.shared.borrow_mut();
                let count = state.net.len() as u64;
                (count > 0 && state.rng.chance(85)).then(|| state.rng.below(count) as usize)
            };
            let Some(at) = at else { break };
            self.apply(Event::Deliver(at));
        }
        self.shared.borrow_mut().net.clear();
        let n = self.shared.borrow().drives.len() as u8;
        for drive in 0..n {
            self.apply(Event::Up(drive));
        }
        self.shared.borrow_mut().quiet = true;
    }

    /// Lets the programs come to their end without any mishap.
    pub fn quietly(&mut self) {
        for _ in 0..20_000 {
            let event = {
                let state = self.shared.borrow();
                let waiting = || state.waiting.iter();
                if !state.net.is_empty() {
                    Some(Event::Deliver(0))
                } else if let Some((task, _)) = waiting().find(|(_, w)| w.grace) {
                    Some(Event::Grace(*task))
                } else if let Some((task, w)) = waiting().find(|(_, w)| !w.calls.is_empty()) {
                    Some(Event::Timeout(*task, w.calls[0]))
                } else {
                    waiting().find(|(_, w)| w.asleep).map(|(task, _)| Event::Wake(*task))
                }
            };
            let Some(event) = event else { return };
            self.apply(event);
            if self.is_broken() {
                return;
            }
        }
        self.shared.borrow_mut().violate("the quiet end does not come".to_owned());
    }
}
