//! Every number of the fabric, with its reason. Windows and frame size start from DESIGN section 6.

use std::time::Duration;

use holdfast_types::limits;

/// Connections for calls to one peer, an exchange on each: the last for large calls and large answers,
/// so that they hold up nothing, the others for small ones.
pub const CONTROL_CONNECTIONS: usize = 3;

/// Small calls that may wait for one exchange before the next is used, too: sharing a frame is cheaper
/// than a second connection, until the one task at each end of it is what all wait for.
pub const CALLS_SHARING: usize = 64;

/// Calls, or answers, that may wait for one exchange; beyond it who brings one waits.
pub const CALLS_QUEUED: usize = 1024;

/// Bytes of calls or answers that share a frame; one that is longer has its own.
pub const EXCHANGE_FRAME_BYTES: usize = 256 << 10;

/// Bytes from which a call is large: as long as several hundred small ones.
pub const LARGE_CALL_BYTES: usize = 256 << 10;

/// The longest frame: one that was nearly full when the longest call came.
pub const EXCHANGE_MESSAGE_BYTES_MAX: usize =
    limits::CONTROL_MESSAGE_BYTES_MAX + EXCHANGE_FRAME_BYTES + (4 << 10);

/// Connections for shard streams to one peer, never shared with control.
pub const BULK_CONNECTIONS: usize = 4;

/// HTTP/2 window of one stream: more than a 200 Gbps link carries in its round trip.
pub const STREAM_WINDOW_BYTES: u32 = 8 << 20;

/// HTTP/2 window of one connection.
pub const CONNECTION_WINDOW_BYTES: u32 = 32 << 20;

/// Largest HTTP/2 frame. Both ends must say so: a client advertises 16 KiB otherwise.
pub const FRAME_BYTES: u32 = 256 << 10;

/// Streams a peer may have open on one connection.
pub const STREAMS_PER_CONNECTION_MAX: u32 = 1024;

/// An idle or silent connection is asked for a sign of life this often,
pub const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(5);

/// and is dead when none comes within this time. Together below [`limits::CALL_MICROS`] and half of it
/// again: a dead peer is found before the next call's deadline.
pub const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// A TCP connection and handshake take this long at most. A caller that meets a connection in the
/// making waits no longer, either.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);

/// First pause before an unreachable peer is tried again; doubled each time up to [`BACK_OFF_MAX`].
pub const BACK_OFF_MIN: Duration = Duration::from_millis(100);

/// Longest pause: a peer that comes back is seen within this time.
pub const BACK_OFF_MAX: Duration = Duration::from_secs(1);

/// A connected peer is asked for nothing else this long is pinged with a handshake, so that it is
/// known to be away, and its clock to be wrong, without traffic.
pub const PROBE_INTERVAL: Duration = Duration::from_secs(5);

/// Progress deadline of a bulk stream.
pub const STREAM_IDLE: Duration = Duration::from_micros(limits::STREAM_IDLE_MICROS);

/// An upload may bring no stripe for this long: a client that sends slowly takes its time, and the gateway sees to one that is
/// silent. A peer that is gone is known by its connection.
pub const UPLOAD_SILENCE: Duration = Duration::from_secs(3600);

/// Calls that a node works on for its peers at one time; more are refused as overloaded.
pub const CALLS_MAX: usize = 4096;

/// Bytes of calls that a node holds for its peers at one time.
pub const CALL_BYTES_MAX: usize = 512 << 20;

/// Shard streams that a node serves to its peers at one time, in each direction. With at most
/// [`MESSAGE_BYTES_MAX`] in flight each this bounds memory.
pub const STREAMS_MAX: usize = 1024;

/// One message of a shard stream: one of the largest blocks, or several smaller ones.
pub const MESSAGE_BYTES_MAX: usize = limits::BLOCK_BYTES_MAX as usize + 1024;

/// Messages on their way between a sender and its connection. Two: one is sent while the next is
/// made ready.
pub const MESSAGES_IN_FLIGHT: usize = 2;

/// Bytes of requests that go into one call; a larger batch becomes several calls in a row. Leaves
/// half of a message's limit for what surrounds them.
pub const CALL_BATCH_BYTES: usize = limits::CONTROL_MESSAGE_BYTES_MAX / 2;

const _: () = assert!(
    2 * CONNECT_TIMEOUT.as_micros() < limits::CALL_MICROS as u128,
    "a call that meets a broken connection can still be carried out on the next one"
);
const _: () = assert!(
    KEEP_ALIVE_INTERVAL.as_micros() + KEEP_ALIVE_TIMEOUT.as_micros()
        < limits::STREAM_IDLE_MICROS as u128,
    "a dead connection is found before its streams are given up"
);
