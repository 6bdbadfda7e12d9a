//! One open socket, whichever its transport: the frames for the socket, in order, and the commands
//! that its client may give. Reads and writes no connection.

pub mod command;
pub mod cursor;
pub mod rate_limit;
pub mod socket_guards;
mod token_bucket;

use std::sync::Arc;

use contract::Id;
use contract::event::MessageRead;
use metrics::counter;

use self::command::{Command, Done, Execution, Failure, publish_read, publish_typing};
use self::cursor::Cursor;
use self::socket_guards::SocketGuards;
use crate::auth::session::Session;
use crate::config::Limits;
use crate::log::catch_up::{CatchUp, Step};
use crate::node::Node;
use crate::room::close_reason::CloseReason;
use crate::room::frame::Frame;
use crate::room::payload::ResyncReason;
use crate::room::queue::Queue;
use crate::room::typing::Typing;
use crate::room::{Room, Start};

/// A socket that is in a room. Dropping the subscriber leaves the room.
pub struct Subscriber {
    room: Arc<Room>,
    queue: Arc<Queue>,
    session: Session,
    socket: Id,
    /// Set while the socket is given what its client missed.
    catch_up: Option<Box<CatchUp>>,
    guards: SocketGuards,
}

impl Subscriber {
    /// For a socket that was added to `room` with this queue. It is given no event of the log
    /// before [`Subscriber::start`].
    pub fn new(
        room: Arc<Room>,
        queue: Arc<Queue>,
        session: Session,
        socket: Id,
        guards: SocketGuards,
    ) -> Subscriber {
        Subscriber {
            room,
            queue,
            session,
            socket,
            catch_up: None,
            guards,
        }
    }

    /// Starts the events of the log, after the client's cursor or after now.
    pub fn start(&mut self, cursor: Option<Cursor>) {
        let after = match cursor {
            Some(Cursor::After(seq)) => Some(seq),
            Some(Cursor::Unusable) | None => None,
        };
        if let (Start::CatchUp, Some(seq)) = (self.room.start(self.socket, after), after) {
            self.catch_up = Some(Box::new(CatchUp::new(seq)));
        }
        if cursor == Some(Cursor::Unusable) {
            let reason = ResyncReason::Unknown;
            counter!("realtime_resyncs_total", "reason" => reason.as_str()).increment(1);
            self.room.resync(self.socket, reason);
        }
    }

    /// The session of the socket's client.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// The socket's id, unique over all nodes.
    pub fn socket(&self) -> Id {
        self.socket
    }

    /// The limits of the socket.
    pub fn limits(&self) -> &Limits {
        self.node().limits()
    }

    fn node(&self) -> &Node {
        self.guards.node()
    }

    /// The next frame for the socket. Cancelling this future loses no frame.
    ///
    /// # Errors
    /// The reason for which the socket must close.
    pub async fn next(&mut self) -> Result<Frame, CloseReason> {
        let frame = loop {
            // Until the socket is live, its queue holds only frames that are no events of the log.
            if let Some(result) = self.queue.take() {
                break result?;
            }
            let Some(catch_up) = &mut self.catch_up else {
                break self.queue.next().await?;
            };
            let node = self.guards.node();
            let step = tokio::select! {
                biased;
                reason = self.queue.ended() => return Err(reason),
                // Boxed, because a socket that is idle should not pay for the size of this future.
                step = Box::pin(catch_up.step(node, &self.room, self.socket)) => step?,
            };
            match step {
                Step::Frame(frame) => break frame,
                Step::Live => self.catch_up = None,
            }
        };
        self.node().metrics().handed_out(&frame);
        Ok(frame)
    }

    /// A further frame that is ready right now, so that several frames go out in one write.
    pub fn more(&mut self) -> Option<Frame> {
        match self.queue.take() {
            Some(Ok(frame)) => Some(frame),
            // `next` returns the same reason again.
            Some(Err(_)) => None,
            None => self.catch_up.as_mut()?.ready(),
        }
    }

    /// Waits until the socket must close at once. Used while a frame is being written.
    pub fn ended(&self) -> impl Future<Output = CloseReason> + Send + 'static {
        let queue = self.queue.clone();
        async move { queue.ended().await }
    }

    /// Ends the frames, because the transport closes the socket for a reason of its own.
    pub fn end(&self, reason: CloseReason) {
        self.queue.end(reason);
    }

    /// Begins to carry out a command of the client.
    pub fn begin(&self, command: Command) -> Execution {
        match command {
            Command::Join(conversation) => {
                let limit = self.limits().rooms;
                let joined = self.room.join(self.socket, conversation, limit);
                Execution::Now(
                    joined
                        .map(|()| Done::OK)
                        .map_err(|_| Failure::TOO_MANY_CONVERSATIONS),
                )
            }
            Command::Leave(conversation) => {
                self.room.leave(self.socket, conversation);
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
                Execution::Later(Box::pin(publish_typing(
                    self.node().connection().clone(),
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
                    self.node().publisher().clone(),
                    self.session,
                    read,
                )))
            }
        }
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        self.room.remove(self.socket);
    }
}
