//! Shards on their way out of this process's drives: a few chunks ahead of the reader.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use holdfast_types::{DriveId, ErrorClass, limits};
use tokio::sync::oneshot;

use crate::{
    actor::OpenShard,
    api::{DriveError, ShardRead},
    io_pool::Priority,
    node::BlockStream,
    supervisor::{Bulk, NodeShared},
    volume::read::ShardReader,
};

/// Chunks read ahead of the reader: one on its way out, one being read.
const CHUNKS_AHEAD: usize = 2;

/// A drive that gives no chunk for this long is lost to the stream.
const PROGRESS: Duration = Duration::from_micros(limits::STREAM_IDLE_MICROS);

/// Opens a stream of blocks.
pub(super) async fn open(shared: &NodeShared, read: ShardRead) -> Result<BlockStream, DriveError> {
    let drive = read.drive;
    let routes = shared.routes();
    let route = routes.route_to(drive)?;
    let (done, opened) = oneshot::channel();
    let done = Box::new(move |reader| {
        // The caller may have gone; the reader lets go of its bytes then.
        let _ = done.send(reader);
    });
    let (first, count) = (read.first_block, read.block_count);
    let block_bytes = read.geometry.block_bytes;
    routes.groups[route.group].do_send(OpenShard { slot: route.slot, read, done });
    let reader = match tokio::time::timeout(PROGRESS, opened).await {
        Ok(Ok(reader)) => reader?,
        Ok(Err(_)) => return Err(crate::actor::gone(drive)),
        Err(_) => return Err(stalled(drive)),
    };
    let end = first.checked_add(count).filter(|end| *end <= reader.block_count());
    let Some(end) = end else {
        let message = format!("read shard: it has {} blocks", reader.block_count());
        return Err(DriveError::failed(drive, ErrorClass::Invalid, message));
    };
    let bulk = route.bulk.clone();
    let chunk_blocks = u64::from((limits::CHUNK_BYTES as u32 / block_bytes.max(1)).max(1));
    Ok(chunks(drive, Arc::new(reader), bulk, first..end, chunk_blocks))
}

/// Reads the blocks chunk by chunk, in order. The first error ends the stream.
fn chunks(
    drive: DriveId,
    reader: Arc<ShardReader>,
    bulk: Bulk,
    blocks: std::ops::Range<u64>,
    chunk_blocks: u64,
) -> BlockStream {
    let starts = (blocks.start..blocks.end).step_by(chunk_blocks as usize);
    let read = move |start: u64| {
        let count = chunk_blocks.min(blocks.end - start);
        read_chunk(drive, Arc::clone(&reader), bulk.clone(), start, count)
    };
    let chunks = stream::iter(starts).map(read).buffered(CHUNKS_AHEAD);
    let until_error = chunks.scan(false, |failed, chunk: Result<Bytes, DriveError>| {
        let show = !std::mem::replace(failed, chunk.is_err());
        futures::future::ready(show.then_some(chunk))
    });
    until_error.boxed()
}

async fn read_chunk(
    drive: DriveId,
    reader: Arc<ShardReader>,
    bulk: Bulk,
    first: u64,
    count: u64,
) -> Result<Bytes, DriveError> {
    let (done, chunk) = oneshot::channel();
    let span = holdfast_trace::span!("shard.read", %drive, first, count);
    let meter = bulk.meter;
    let job = move || {
        let _within = span.entered();
        // The reader of the stream may have gone, while a slow drive was behind.
        if !done.is_closed() {
            let call = meter.begin();
            let chunk = reader.read(first, count);
            drop(call);
            let _ = done.send(chunk);
        }
    };
    bulk.io.submit(Priority::Foreground, job).map_err(|refusal| {
        DriveError::failed(drive, ErrorClass::Overloaded, refusal.to_string())
    })?;
    match tokio::time::timeout(PROGRESS, chunk).await {
        Ok(Ok(chunk)) => chunk,
        Ok(Err(_)) => Err(crate::actor::gone(drive)),
        Err(_) => Err(stalled(drive)),
    }
}

fn stalled(drive: DriveId) -> DriveError {
    let message = "the drive gives no bytes; its device may hang";
    DriveError::failed(drive, ErrorClass::TimedOut, message)
}
