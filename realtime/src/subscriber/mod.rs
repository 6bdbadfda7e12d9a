//! What a door holds of an open socket: its place in the company, what comes for it, and the way to
//! ask for something.

pub mod command;
pub mod rate_limit;
mod token_bucket;

use std::sync::Arc;

use contract::Id;
use contract::event::MessageRead;
use metrics::gauge;
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::auth::session::Session;
use crate::config::Limits;
use crate::log::catch_up::{CatchUp, Step};
use crate::node::{Hub, OfUser};
use crate::room::Room;
use crate::room::close_reason::CloseReason;
use crate::room::frame::Frame;
use crate::room::queue::Queue;
use crate::room::typing::Typing;
use crate::subscriber::command::{Command, Done, Execution, Failure, publish_read, publish_typing};

/// How a socket came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// `/ws`
    WebSocket,
    /// `/socket.io/`
    SocketIo,
}

impl Transport {
    /// For metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Transport::WebSocket => "ws",
            Transport::SocketIo => "socket.io",
        }
    }
}

/// Counts an open socket.
pub(crate) struct Counted(Transport);

impl Counted {
    pub(crate) fn new(transport: Transport) -> Counted {
        gauge!("realtime_sockets", "door" => transport.as_str()).increment(1.0);
        Counted(transport)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        gauge!("realtime_sockets", "door" => self.0.as_str()).decrement(1.0);
    }
}

/// One socket's place. Dropping it leaves.
pub struct Subscriber {
    pub(crate) hub: Hub,
    pub(crate) company: Arc<Room>,
    pub(crate) queue: Arc<Queue>,
    pub(crate) session: Session,
    pub(crate) socket: Id,
    /// While it is given what its client missed.
    pub(crate) catch_up: Option<Box<CatchUp>>,
    pub(crate) _counted: Counted,
    /// Of its user's sockets.
    pub(crate) _of_user: OfUser,
    /// Of this node's sockets.
    pub(crate) _permit: OwnedSemaphorePermit,
    /// The stop of the service waits for it.
    pub(crate) _tracked: TaskTrackerToken,
}

impl Subscriber {
    /// Whose it is.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The socket, unique over all nodes.
    pub fn socket(&self) -> Id {
        self.socket
    }

    /// What it may take.
    pub fn limits(&self) -> &Limits {
        self.hub.limits()
    }

    /// The next frame for it. May be dropped without a loss.
    ///
    /// # Errors
    /// The socket shall close, and why.
    pub async fn next(&mut self) -> Result<Frame, CloseReason> {
        let frame = loop {
            // Until it is live, the queue holds only what is no event of the log.
            if let Some(result) = self.queue.take() {
                break result?;
            }
            let Some(catch_up) = &mut self.catch_up else {
                break self.queue.next().await?;
            };
            let step = tokio::select! {
                biased;
                reason = self.queue.ended() => return Err(reason),
                // In a box, as all that idle sockets have no need of.
                step = Box::pin(catch_up.step(&self.hub, &self.company, self.socket)) => step?,
            };
            match step {
                Step::Frame(frame) => break frame,
                Step::Live => self.catch_up = None,
            }
        };
        self.hub.metrics().handed_out(&frame);
        Ok(frame)
    }

    /// What more is there for it right now, so that it can go out in one write.
    pub fn more(&mut self) -> Option<Frame> {
        match self.queue.take() {
            Some(Ok(frame)) => Some(frame),
            // `next` says it again.
            Some(Err(_)) => None,
            None => self.catch_up.as_mut()?.ready(),
        }
    }

    /// Waits until the socket shall close at once; for while a frame is being sent.
    pub fn ended(&self) -> impl Future<Output = CloseReason> + Send + 'static {
        let queue = self.queue.clone();
        async move { queue.ended().await }
    }

    /// Nothing more shall come: the door closes the socket for a reason of its own.
    pub fn end(&self, reason: CloseReason) {
        self.queue.end(reason);
    }

    /// Begins to carry out what the client asks for.
    pub fn begin(&self, command: Command) -> Execution {
        match command {
            Command::Join(conversation) => {
                let joined = self
                    .company
                    .join(self.socket, conversation, self.hub.limits().rooms);
                Execution::Now(
                    joined
                        .map(|()| Done::OK)
                        .map_err(|_| Failure::TOO_MANY_CONVERSATIONS),
                )
            }
            Command::Leave(conversation) => {
                self.company.leave(self.socket, conversation);
                Execution::Now(Ok(Done::OK))
            }
            Command::Typing {
                conversation,
                is_typing,
            } => {
                let typing = Typing {
                    user_id: self.session.user,
                    is_typing,
                    socket: self.socket,
                };
                let connection = self.hub.connection().clone();
                Execution::Later(Box::pin(publish_typing(
                    connection,
                    self.session.company,
                    conversation,
                    typing,
                )))
            }
            Command::Read {
                conversation,
                platform,
            } => {
                let read = MessageRead {
                    contact_id: conversation,
                    platform,
                };
                Execution::Later(Box::pin(publish_read(
                    self.hub.publisher().clone(),
                    self.session,
                    read,
                )))
            }
        }
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.company.remove(self.socket);
    }
}
