//! What all sessions of Socket.IO share: the services, the bound on sessions without a token, and
//! the table by which HTTP requests find a polling session. Answers no request.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::engine::Sid;
use crate::auth::handshake::Handshake;
use crate::node::Node;
use crate::transport::ws::connection::WsConnection;

/// Sessions whose clients have not sent a token yet. Beyond it, new sessions are refused with 503.
/// Each has the time of a handshake.
const OPENING: usize = 2_000;
/// Requests that wait for the task of one session. Beyond it, requests are refused. A client has
/// one GET, one POST and one upgrade at a time.
pub const REQUESTS: usize = 4;

/// A request over HTTP for a session.
pub enum SessionRequest {
    /// A GET. The answer is its body, the packets for the client.
    Poll(oneshot::Sender<String>),
    /// A POST with the text of its body. It is answered when the session has taken in all its
    /// packets.
    Post(String, oneshot::Sender<()>),
    /// A WebSocket that the client wants to change to.
    Upgrade(Box<WsConnection>),
}

/// What all sessions share.
pub struct Shared {
    /// Checks pages and tokens.
    pub handshake: Arc<Handshake>,
    /// The node.
    pub node: Node,
    opening: Arc<Semaphore>,
    sessions: Mutex<HashMap<Sid, mpsc::Sender<SessionRequest>>>,
}

impl Shared {
    /// Without sessions.
    pub fn new(handshake: Arc<Handshake>, node: Node) -> Shared {
        Shared {
            handshake,
            node,
            opening: Arc::new(Semaphore::new(OPENING)),
            sessions: Mutex::default(),
        }
    }

    /// A permit for one of [`OPENING`] sessions without a token; `None` if all are taken.
    pub fn opening_permit(&self) -> Option<OwnedSemaphorePermit> {
        self.opening.clone().try_acquire_owned().ok()
    }

    /// The channel to a session; `None` if there is no such session.
    pub fn find(&self, sid: &Sid) -> Option<mpsc::Sender<SessionRequest>> {
        self.lock().get(sid).cloned()
    }

    /// Lets requests find a session until the entry is dropped.
    pub fn insert(self: &Arc<Self>, sid: Sid, session: mpsc::Sender<SessionRequest>) -> Entry {
        self.lock().insert(sid, session);
        Entry {
            shared: self.clone(),
            sid,
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Sid, mpsc::Sender<SessionRequest>>> {
        // A poisoned lock still holds a whole map, because every write is one insert or remove.
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The entry of a polling session in the table. Once it is dropped, no request reaches the session.
pub struct Entry {
    shared: Arc<Shared>,
    sid: Sid,
}

impl Drop for Entry {
    fn drop(&mut self) {
        self.shared.lock().remove(&self.sid);
    }
}
