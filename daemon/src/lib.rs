//! The process `holdfastd`: settings, startup, listener, shutdown.
//!
//! Owns the real clock, the real randomness, the sockets and signals, and the order in which
//! everything starts and ends. Never decides about objects or drives: it puts the parts together.
//!
//! ```text
//! settings -> which node am I -> folders -> port -> layout (formed once) -> drives -> S3 -> ready
//! ```
//!
//! | module | holds |
//! |---|---|
//! | [`allocator`] | where memory comes from |
//! | [`cli`] | the command line |
//! | [`config`] | command line and environment as one checked value |
//! | [`faults`] | drives that hang and links that are cut, for tests |
//! | [`failure`] | one line of cause, one of cure |
//! | [`whoami`] | which of the cluster's nodes this process is |
//! | [`folders`] | the drives' folders before they are opened |
//! | [`places`] | where drives' folders lie |
//! | [`forming`] | whether a cluster has to be formatted, and by whom |
//! | [`startup`] | from volumes to a layout, with the peers |
//! | [`members`] | the other nodes, and whether enough of them are there |
//! | [`drives`] | from a layout to open drives |
//! | [`keeper`] | drives that come and go while the node runs |
//! | [`operator`] | what operators see of this node and ask of it |
//! | [`run`] | everything in order, to the end |
//! | [`limits`] | how many connections the open files allow |
//! | [`patience`] | connections that say too little |
//! | [`opens`] | how often each drive was opened, as peers remember |
//! | [`quarantine`] | objects that cannot be restored, on record |
//! | [`keys`] | secrets that a single node makes for itself |
//! | [`listener`] | one listener for S3 and the fabric |
//! | [`seams`] | the real clock and randomness |
//! | [`telemetry`] | the log, and traces to a collector |
//! | [`tls`] | TLS at the listener and towards peers, renewal of certificates |
//! | [`notify`] | systemd is told |

pub mod allocator;
pub mod cli;
pub mod config;
pub mod drives;
pub mod failure;
pub mod faults;
pub mod folders;
pub mod forming;
pub mod keeper;
pub mod keys;
pub mod limits;
pub mod listener;
pub mod members;
pub mod notify;
pub mod opens;
pub mod operator;
pub mod patience;
pub mod places;
pub mod quarantine;
pub mod run;
pub mod seams;
pub mod startup;
pub mod telemetry;
pub mod tls;
pub mod whoami;
