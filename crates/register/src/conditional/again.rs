//! A conditional write whose drives vanished, begun again in another shape (ADR 0011).

use holdfast_types::{Ballot, Entry, OperationId};

use super::{Conditional, DecideOutcome, Phase};
use crate::{
    command::{Drives, Step},
    judge::Candidate,
    state::HolderMask,
};

/// The shape in which a write goes on.
#[derive(Clone, Debug, Hash)]
pub(super) struct Shape {
    /// Operations that say the same in shapes which the drives cannot hold any more.
    earlier: Vec<OperationId>,
    entry: Entry,
    own: HolderMask,
}

impl Conditional {
    /// The same write once more, after it ended as [`crate::Failure::Unknown`]: with the drives that are up by
    /// now, and in a shape that they can hold. It begins by asking what the earlier attempts did. One that
    /// heads the key is replaced by the new shape, in its place: nothing that anybody can have seen came in
    /// between, so its condition holds. If nobody can have chosen one the caller decides again.
    ///
    /// `entry` says the same as what was written last. It has an operation of its own when its shape is another
    /// one: an operation has one shape.
    #[must_use]
    pub fn again(self, drives: Drives, entry: Entry, own: HolderMask) -> Self {
        let mut machine = Self { drives, dirty: true, phase: Phase::Ballot, ..self };
        let own = own.intersection(drives.up);
        let mut earlier = Vec::new();
        if let Some(shape) = machine.shape.take() {
            earlier = shape.earlier;
            earlier.push(shape.entry.operation);
        }
        for attempt in &mut machine.attempts {
            if attempt.entry.operation == entry.operation {
                attempt.own = own;
            }
        }
        earlier.extend(machine.attempts.last().map(|attempt| attempt.entry.operation));
        earlier.retain(|operation| *operation != entry.operation);
        machine.shape = Some(Shape { earlier, entry, own });
        machine
    }

    /// Whether an operation says in an earlier shape what is written in another one now.
    pub(super) fn is_reshaped(&self, operation: OperationId) -> bool {
        self.shape.as_ref().is_some_and(|shape| shape.earlier.contains(&operation))
    }

    /// An earlier shape heads the key, chosen or open, and its drives cannot give it the holders it needs: the
    /// new one is accepted under the promise, in its place among the key's versions (INV-REG-5).
    pub(super) fn take_place(
        &mut self,
        ballot: Ballot,
        head: &Candidate,
    ) -> Option<Step<DecideOutcome>> {
        let shape = self.shape.clone()?;
        if !self.is_reshaped(head.entry.operation) {
            return None;
        }
        let entry = Entry { order: head.entry.order, ..shape.entry };
        Some(self.send_own(ballot, entry, shape.own, true))
    }
}
