//! What a program may do: draw ballots and ids, send requests, wait.

use std::{future::poll_fn, task::Poll};

use holdfast_register::Reply;
use holdfast_types::{Ballot, BucketStamp, HybridTime, OperationId, WriterId};

use super::{
    super::bugs::Bug,
    drive::{Answered, Ask},
    sim::{Call, Inbox, Message, Shared},
};

/// A program's own access to the run.
#[derive(Clone, Debug)]
pub struct Coordinator {
    pub shared: Shared,
    pub task: u32,
    /// Its clock's deviation.
    pub skew: i64,
}

impl Coordinator {
    /// Its clock.
    pub fn now(&self) -> u64 {
        self.shared.borrow().now.saturating_add_signed(self.skew)
    }

    /// A fresh operation id.
    pub fn operation(&self) -> OperationId {
        self.shared.borrow_mut().operation()
    }

    /// Notes a line of the trace.
    pub fn say(&self, line: impl FnOnce() -> String) {
        let task = self.task;
        self.shared.borrow_mut().say(|| format!("task {task}: {}", line()));
    }

    /// A ballot above `above` and every earlier one of its own.
    pub fn draw(&self, above: Ballot) -> Ballot {
        let wall = HybridTime::from_micros(self.now());
        let mut state = self.shared.borrow_mut();
        let last = state.waiting.get(&self.task).map_or(HybridTime(0), |waiting| waiting.last);
        let time = wall.max(above.time.tick()).max(last.tick());
        if let Some(waiting) = state.waiting.get_mut(&self.task) {
            waiting.last = time;
        }
        Ballot { generation: 1, time, writer: WriterId(u128::from(self.task)) }
    }

    /// Whether the bug is planted.
    pub fn has(&self, bug: Bug) -> bool {
        self.shared.borrow().bug == Some(bug)
    }

    /// A fresh exchange: answers to earlier ones are not heard any more.
    pub fn exchange(&self) -> u32 {
        let mut state = self.shared.borrow_mut();
        state.next += 1;
        let exchange = state.next as u32;
        if let Some(waiting) = state.waiting.get_mut(&self.task) {
            waiting.calls.clear();
            waiting.inbox.clear();
            waiting.grace = false;
        }
        exchange
    }

    /// Sends a request whose answer is waited for.
    pub fn call(&self, call: Call, stamp: BucketStamp, ask: Ask) {
        let mut state = self.shared.borrow_mut();
        let from = Some((self.task, call));
        state.net.push(Message::Request { drive: call.2, stamp, ask, from });
        if let Some(waiting) = state.waiting.get_mut(&self.task) {
            waiting.calls.push(call);
        }
    }

    /// A call that cannot be made is silence.
    pub fn silence(&self, call: Call) {
        let mut state = self.shared.borrow_mut();
        if let Some(waiting) = state.waiting.get_mut(&self.task) {
            waiting.inbox.push_back(Inbox::Answer(call, Answered::Reply(Reply::Silent)));
        }
    }

    /// Sends a request to every drive and forgets it.
    pub fn tell_all(&self, stamp: BucketStamp, ask: &Ask) {
        let mut state = self.shared.borrow_mut();
        for drive in 0..state.drives.len() as u8 {
            let ask = ask.clone();
            state.net.push(Message::Request { drive, stamp, ask, from: None });
        }
    }

    /// What comes next; the end of the grace too, when asked for.
    pub async fn next(&self, grace: bool) -> Inbox {
        if let Some(waiting) = self.shared.borrow_mut().waiting.get_mut(&self.task) {
            waiting.grace = grace;
        }
        self.came().await
    }

    /// Some time.
    pub async fn pause(&self) {
        if let Some(waiting) = self.shared.borrow_mut().waiting.get_mut(&self.task) {
            waiting.asleep = true;
        }
        while !matches!(self.came().await, Inbox::Woken) {}
    }

    async fn came(&self) -> Inbox {
        poll_fn(|_| {
            let mut state = self.shared.borrow_mut();
            let inbox = state.waiting.get_mut(&self.task).and_then(|w| w.inbox.pop_front());
            inbox.map_or(Poll::Pending, Poll::Ready)
        })
        .await
    }
}
