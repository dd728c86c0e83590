//! One message a node for many operations at once: calls made under a cork are held until every
//! operation has made its own, then leave together.
//!
//! ```text
//! write key 1 --+                        +--> one call to node 1 --answers--> back to each
//! write key 2 --+--> held by node --+----+
//! write key n --+    all are waiting?    +--> one call to node 2
//! ```
//!
//! Operations keep their own conversation with the drives, so a key that needs another round goes on
//! alone or with whatever others need one then.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use futures::{
    FutureExt,
    channel::oneshot,
    future::{self, BoxFuture, Either},
    stream::{FuturesUnordered, StreamExt},
};
use holdfast_drive::{
    api::{DriveRequest, DriveResult},
    node::Node,
};
use holdfast_types::{DriveId, limits};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::task;

/// Which message a call may travel in: its node, and whether its drives are kept apart.
type Lane = (u16, Option<DriveId>);

/// A call that waits for others.
struct Held {
    batch: Vec<(DriveId, DriveRequest)>,
    answer: oneshot::Sender<Vec<DriveResult>>,
}

/// Calls held for one node.
struct Queue {
    node: Arc<dyn Node>,
    deadline: Duration,
    held: Vec<Held>,
}

/// Holds calls back until all operations under it wait.
#[derive(Default)]
pub(crate) struct Cork {
    queues: Mutex<BTreeMap<Lane, Queue>>,
    filled: Notify,
}

tokio::task_local! {
    static CORK: Arc<Cork>;
}

/// Runs `work`, its calls to nodes gathered into one message a node wherever they are made at the same
/// time. `work` must be one future polled by this task; what it spawns is not gathered.
pub(crate) async fn gathered<T>(work: impl Future<Output = T>) -> T {
    let cork = Arc::new(Cork::default());
    let pump = cork.clone().pump();
    let work = CORK.scope(cork, work);
    futures::pin_mut!(work, pump);
    // The work is polled first: when the pump's turn comes, everything that can be said was said.
    match future::select(work, pump).await {
        Either::Left((done, _)) => done,
        Either::Right((never, _)) => match never {},
    }
}

/// Calls a node, together with others when there is a cork.
pub(crate) async fn call(
    node: Arc<dyn Node>,
    lane: Lane,
    deadline: Duration,
    batch: Vec<(DriveId, DriveRequest)>,
) -> Vec<DriveResult> {
    let Ok(cork) = CORK.try_with(Arc::clone) else { return node.call(deadline, batch).await };
    let (answer, answered) = oneshot::channel();
    {
        let mut queues = cork.queues.lock();
        let queue =
            queues.entry(lane).or_insert_with(|| Queue { node, deadline, held: Vec::new() });
        queue.held.push(Held { batch, answer });
    }
    cork.filled.notify_one();
    // A pump that is gone leaves the call unmade: no answers, which is silence.
    answered.await.unwrap_or_default()
}

impl Cork {
    /// Lets held calls leave whenever nothing more joins them.
    async fn pump(self: Arc<Self>) -> std::convert::Infallible {
        let mut leaving = Leaving::default();
        loop {
            tokio::select! {
                () = self.filled.notified() => {}
                Some(()) = leaving.0.next(), if !leaving.0.is_empty() => continue,
            }
            let mut held = 0;
            while held < self.held() {
                held = self.held();
                tokio::task::yield_now().await;
            }
            for queue in std::mem::take(&mut *self.queues.lock()).into_values() {
                leaving.0.extend(queue.messages().into_iter().map(|message| send(message).boxed()));
            }
        }
    }

    fn held(&self) -> usize {
        self.queues.lock().values().map(|queue| queue.held.len()).sum()
    }
}

/// Messages on their way. Dropped early, they run to their end in the background, as calls do.
#[derive(Default)]
struct Leaving(FuturesUnordered<BoxFuture<'static, ()>>);

impl Drop for Leaving {
    fn drop(&mut self) {
        task::drain(std::mem::take(&mut self.0));
    }
}

/// One message: the calls in it.
struct Message {
    node: Arc<dyn Node>,
    deadline: Duration,
    held: Vec<Held>,
}

impl Queue {
    /// One message, or as few as the bound on requests allows.
    fn messages(self) -> Vec<Message> {
        let mut messages: Vec<Message> = Vec::new();
        let mut room = 0;
        for held in self.held {
            if held.batch.len() > room || messages.is_empty() {
                let (node, deadline) = (self.node.clone(), self.deadline);
                messages.push(Message { node, deadline, held: Vec::new() });
                room = limits::BATCH_REQUESTS_MAX;
            }
            room = room.saturating_sub(held.batch.len());
            messages.last_mut().expect("one was just pushed").held.push(held);
        }
        messages
    }
}

/// Sends a message and gives each call its own answers.
async fn send(message: Message) {
    let Message { node, deadline, held } = message;
    let mut batch = Vec::new();
    let mut waiting = Vec::with_capacity(held.len());
    for call in held {
        waiting.push((call.batch.len(), call.answer));
        batch.extend(call.batch);
    }
    let mut answers = node.call(deadline, batch).await.into_iter();
    for (count, answer) in waiting {
        // Who hung up does not want to know.
        let _ = answer.send(answers.by_ref().take(count).collect());
    }
}
