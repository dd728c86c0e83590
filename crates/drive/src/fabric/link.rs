//! Keeps a session with one peer open: connects at once, again when it is lost, with pauses that grow
//! while the peer is away.
//!
//! ```text
//!            connected                 lost
//! Connecting ---------> Up(session) ---------> Connecting
//!     | failed  ^
//!     v         | pause over, and connected
//!     Down(why) +------------------------> Up
//! ```
//! Callers wait for `Connecting`; while `Down` they are told at once.

use std::{sync::Arc, time::Duration};

use holdfast_proto::v1;
use holdfast_types::DriveId;
use tokio::{sync::watch, task::JoinHandle};

use super::{
    RemoteConfig,
    fault::{CallFault, describe},
    session::Session,
    settings,
};

/// Where the link is.
#[derive(Clone)]
enum State {
    Connecting,
    Up(Arc<Session>),
    Down(String),
}

/// The link to one peer.
pub struct Link {
    state: watch::Receiver<State>,
    keeper: JoinHandle<()>,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

impl Link {
    /// Starts to connect, on the current tokio runtime.
    #[must_use]
    pub fn start(config: Arc<RemoteConfig>) -> Self {
        let (publish, state) = watch::channel(State::Connecting);
        Self { state, keeper: tokio::spawn(keep(config, publish)) }
    }

    /// Whether a session is open.
    #[must_use]
    pub fn is_up(&self) -> bool {
        matches!(*self.state.borrow(), State::Up(_))
    }

    /// Why it is down; `None` otherwise.
    #[must_use]
    pub fn why_down(&self) -> Option<String> {
        match &*self.state.borrow() {
            State::Down(why) => Some(why.clone()),
            _ => None,
        }
    }

    /// The session, waiting for one in the making.
    ///
    /// # Errors
    /// [`CallFault::NotSent`] when the peer is away.
    pub async fn session(&self) -> Result<Arc<Session>, CallFault> {
        self.wait(|state| !matches!(state, State::Connecting)).await
    }

    /// Gives `session` up and waits for the next one.
    ///
    /// # Errors
    /// [`CallFault::NotSent`] when the peer is away.
    pub async fn session_after(&self, session: &Arc<Session>) -> Result<Arc<Session>, CallFault> {
        session.give_up();
        self.wait(|state| match state {
            State::Connecting => false,
            State::Up(other) => !Arc::ptr_eq(session, other),
            State::Down(_) => true,
        })
        .await
    }

    async fn wait(&self, settled: impl FnMut(&State) -> bool) -> Result<Arc<Session>, CallFault> {
        let mut state = self.state.clone();
        let settled = state.wait_for(settled);
        match tokio::time::timeout(2 * settings::CONNECT_TIMEOUT, settled).await {
            Ok(Ok(state)) => match &*state {
                State::Up(session) => Ok(session.clone()),
                State::Down(why) => Err(CallFault::NotSent(why.clone())),
                State::Connecting => Err(CallFault::NotSent("still connecting".to_owned())),
            },
            _ => Err(CallFault::NotSent("still connecting".to_owned())),
        }
    }
}

async fn keep(config: Arc<RemoteConfig>, publish: watch::Sender<State>) {
    let mut pause = settings::BACK_OFF_MIN;
    loop {
        match open(&config).await {
            Ok(session) => {
                pause = settings::BACK_OFF_MIN;
                let session = Arc::new(session);
                tracing::debug!(node = config.url, peer = session.peer.name, "connected");
                publish.send_replace(State::Up(session.clone()));
                tend(&session, &config).await;
                session.give_up();
                tracing::debug!(node = config.url, "lost the connection");
                publish.send_replace(State::Connecting);
            }
            Err(why) => {
                if !matches!(*publish.borrow(), State::Down(_)) {
                    tracing::warn!(node = config.url, "reach node: {why}");
                }
                publish.send_replace(State::Down(why));
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(settings::BACK_OFF_MAX);
            }
        }
    }
}

async fn open(config: &Arc<RemoteConfig>) -> Result<Session, String> {
    let opened = tokio::time::timeout(settings::CONNECT_TIMEOUT, Session::open(config.clone()));
    match opened.await {
        Ok(Ok(session)) => Ok(session),
        Ok(Err(status)) => Err(why(&describe(&status))),
        Err(_) => Err(format!("no answer within {:?}", settings::CONNECT_TIMEOUT)),
    }
}

/// What a node that speaks TLS says to those who do not, wherever it is read.
pub const TLS_MARK: &str = "this port speaks TLS";

/// Why a session did not open, for an operator.
fn why(said: &str) -> String {
    if said.contains(TLS_MARK) {
        return "it speaks TLS: start this process with --certs-dir, too, and name the nodes by https://"
            .to_owned();
    }
    said.to_owned()
}

/// Returns when the session is over: given up by a caller, or a probe went unanswered.
async fn tend(session: &Session, config: &RemoteConfig) {
    loop {
        let pause = tokio::time::sleep(settings::PROBE_INTERVAL);
        tokio::select! {
            () = session.over() => return,
            () = pause => {}
        }
        let ask = v1::CallRequest::default();
        let probe = session.exchange(false).call(&ask);
        match tokio::time::timeout(settings::KEEP_ALIVE_TIMEOUT, probe).await {
            Ok(Ok(_)) => {}
            Ok(Err(fault)) => {
                let why = fault.error(&config.url, DriveId::NIL);
                tracing::warn!(node = config.url, "probe node: {why}");
                return;
            }
            Err(_) => {
                tracing::warn!(node = config.url, "probe node: no answer");
                return;
            }
        }
    }
}

/// How long a lost peer goes unnoticed without traffic.
pub const NOTICE_MAX: Duration = Duration::from_micros(
    (settings::PROBE_INTERVAL.as_micros() + settings::KEEP_ALIVE_TIMEOUT.as_micros()) as u64,
);
