//! Bodies whose shards ride in the drives' logs: decoded from what came along with the answers.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use holdfast_drive::api::{DriveReply, InlineShard};
use holdfast_erasure::{decode_stripe, open_block};
use holdfast_register::{Candidate, HolderMask};

use crate::{
    error::StoreError,
    read::{Question, check_scope},
    report::Suspected,
    round::Calls,
    set::{SetShared, describe},
};

/// Payloads gathered so far of a body of one stripe.
struct Gathered {
    payloads: Vec<Option<Bytes>>,
    asked: HolderMask,
    failures: Vec<(usize, String)>,
}

impl SetShared {
    /// The body of a candidate, from the shards that came along and those of as many other drives as
    /// are needed.
    pub(crate) async fn inline_body(
        self: &Arc<Self>,
        question: &Question,
        candidate: &Candidate,
        came: Vec<InlineShard>,
    ) -> Result<Bytes, StoreError> {
        let geometry = candidate.entry.geometry;
        let k = usize::from(geometry.data_shards);
        let mut gathered = Gathered {
            payloads: vec![None; usize::from(self.n())],
            asked: HolderMask::default(),
            failures: Vec::new(),
        };
        let some_came = !came.is_empty();
        self.take_inline(question, candidate, came, &mut gathered);
        // Who says that it holds the shard brings it along with its answer, or cannot read it.
        let silent = candidate.shards.iter().filter(|shard| !gathered.asked.has(*shard));
        silent.filter(|_| some_came).for_each(|s| self.suspect_inline(question, candidate, s));
        let mut others = self.sources(&question.route, candidate, geometry.data_shards);
        others.retain(|shard| !gathered.asked.has(*shard));
        let mut others = others.into_iter();
        loop {
            let have = gathered.payloads.iter().flatten().count();
            if have >= k {
                break;
            }
            let next: Vec<u8> = others.by_ref().take(k - have).collect();
            if next.is_empty() {
                return Err(self.below_quorum(k as u8, have as u8, &gathered.failures));
            }
            self.ask_inline(question, candidate, next, &mut gathered).await?;
        }
        let pieces = decode_stripe(&geometry, 0, &gathered.payloads);
        let failed = |e| StoreError::Internal { message: format!("decode body: {e}") };
        let mut pieces = pieces.map_err(failed)?;
        if pieces.len() == 1 {
            return Ok(pieces.swap_remove(0));
        }
        let mut body = BytesMut::with_capacity(geometry.size as usize);
        pieces.iter().for_each(|piece| body.extend_from_slice(piece));
        Ok(body.freeze())
    }

    async fn ask_inline(
        self: &Arc<Self>,
        question: &Question,
        candidate: &Candidate,
        shards: Vec<u8>,
        gathered: &mut Gathered,
    ) -> Result<(), StoreError> {
        let mut calls = Calls::default();
        let version = Some(candidate.version);
        let asking = Question { version, inline: true, ..question.clone() };
        let requests = shards.into_iter().map(|shard| (shard, asking.request(self)));
        self.send(&question.route, 0, requests.collect(), &mut calls);
        for (shard, result) in calls.all().await {
            let slot = question.route.slots[usize::from(shard)];
            match result {
                Ok(DriveReply::View { inline, .. }) => {
                    if !inline.iter().any(|s| s.operation == candidate.entry.operation) {
                        if candidate.shards.has(shard) {
                            // It says that it holds the shard, and did not bring it.
                            self.suspect_inline(question, candidate, shard);
                        }
                        gathered.failures.push((slot, "does not hold the shard".to_owned()));
                    }
                    self.take_inline(question, candidate, inline, gathered);
                }
                Ok(_) => gathered.failures.push((slot, "unexpected reply".to_owned())),
                Err(error) => {
                    check_scope(&error)?;
                    gathered.failures.push((slot, describe(&error)));
                }
            }
        }
        Ok(())
    }

    /// Takes in the shards that verify (INV-BLOCK-1).
    fn take_inline(
        self: &Arc<Self>,
        question: &Question,
        candidate: &Candidate,
        shards: Vec<InlineShard>,
        gathered: &mut Gathered,
    ) {
        let operation = candidate.entry.operation;
        let known = |shard: &InlineShard| shard.shard.0 < self.n();
        for held in shards.into_iter().filter(|s| s.operation == operation && known(s)) {
            gathered.asked = gathered.asked.with(held.shard.0);
            let salt = self.salt(&question.route, operation, held.shard.0);
            let slot = question.route.slots[held.shard.get()];
            match open_block(&salt, 0, &held.bytes) {
                Ok(payload) => {
                    let payload = held.bytes.slice(..payload.len());
                    gathered.payloads[held.shard.get()] = Some(payload);
                }
                Err(error) => {
                    tracing::warn!(set = %self.index, drive = %self.place(slot), %error, "rotten");
                    gathered.failures.push((slot, error.to_string()));
                    self.suspect_inline(question, candidate, held.shard.0);
                }
            }
        }
    }

    fn suspect_inline(self: &Arc<Self>, question: &Question, candidate: &Candidate, shard: u8) {
        let (version, operation) = (candidate.version, candidate.entry.operation);
        self.report(question.scope, &question.route, Suspected { version, operation, shard });
    }
}
