//! One open WebSocket in one task: reads frames of the client, writes the frames of its subscriber,
//! keeps the times, and closes with a code that says why. Decides neither what an event is nor who
//! gets it.

use std::collections::VecDeque;
use std::future::pending;
use std::pin::Pin;

use bytes::Bytes;
use futures_util::future::BoxFuture;
use metrics::counter;
use tokio::time::{Instant, Sleep, sleep, timeout};
use tokio_tungstenite::tungstenite::Message;
use tracing::{debug, info};

use super::connection::{WRITE_FRAMES, WsConnection};
use super::frame::{ClientFrame, FrameId, answer};
use crate::room::close_reason::CloseReason;
use crate::room::encode;
use crate::room::frame::Frame;
use crate::subscriber::Subscriber;
use crate::subscriber::command::{Command, Execution, Failure, Outcome};
use crate::subscriber::rate_limit::RateLimit;
use crate::subscriber::socket_guards::Transport;
use crate::transport::timing::{PING_INTERVAL, SILENCE_LIMIT, close_deadline};

/// Bytes after which no further frame is added to a write. Further frames go out in the next one.
const WRITE_BYTES: usize = 64 * 1024;

/// Serves a socket until it ends. Not an `async fn`, because that would hold its arguments twice
/// for as long as it runs.
pub fn run(connection: WsConnection, subscriber: Subscriber) -> impl Future<Output = ()> + Send {
    let mut socket = Socket::new(connection, subscriber);
    async move { socket.run().await }
}

struct Socket {
    connection: WsConnection,
    /// The frames to write next. The first may be written in part.
    out: VecDeque<Bytes>,
    subscriber: Subscriber,
    opened: Instant,
    heard: Instant,
    next_ping: Instant,
    /// Ends when the next ping is due or the client has been silent for too long.
    timer: Pin<Box<Sleep>>,
    rate_limit: RateLimit,
    /// The one command that is being carried out. The client is not read meanwhile, so that its
    /// commands cannot pile up.
    running: Option<Box<Running>>,
}

struct Running {
    id: Option<FrameId>,
    outcome: BoxFuture<'static, Outcome>,
}

/// Why the socket's task wakes up.
enum Wake {
    Timer,
    Frame(Result<Frame, CloseReason>),
    Finished(Outcome),
    Incoming(Result<Message, CloseReason>),
}

impl Socket {
    fn new(connection: WsConnection, subscriber: Subscriber) -> Socket {
        let now = Instant::now();
        let rate_limit = RateLimit::new(subscriber.limits(), now);
        Socket {
            connection,
            out: VecDeque::new(),
            subscriber,
            opened: now,
            heard: now,
            next_ping: now + PING_INTERVAL,
            timer: Box::pin(sleep(PING_INTERVAL)),
            rate_limit,
            running: None,
        }
    }

    async fn run(&mut self) {
        let (session, id) = (*self.subscriber.session(), self.subscriber.socket());
        info!(
            user = %session.user,
            company = %session.company,
            socket = %id,
            role = ?session.role,
            "connected"
        );
        let reason = self.serve().await;
        let (transport, text) = (Transport::WebSocket.as_str(), reason.as_str());
        counter!("realtime_closed_total", "door" => transport, "reason" => text).increment(1);
        // Boxed, because a socket that is idle should not pay for the size of this future.
        Box::pin(self.close(reason)).await;
        let seconds = self.opened.elapsed().as_secs();
        info!(
            user = %session.user,
            company = %session.company,
            socket = %id,
            reason = reason.as_str(),
            seconds,
            "disconnected"
        );
    }

    async fn serve(&mut self) -> CloseReason {
        loop {
            if let Err(reason) = self.step().await {
                return reason;
            }
        }
    }

    async fn step(&mut self) -> Result<(), CloseReason> {
        let wake = tokio::select! {
            () = self.timer.as_mut() => Wake::Timer,
            frame = self.subscriber.next() => Wake::Frame(frame),
            outcome = finished(&mut self.running) => Wake::Finished(outcome),
            incoming = self.connection.next(), if self.running.is_none() => {
                Wake::Incoming(incoming)
            }
        };
        match wake {
            Wake::Timer => self.on_timer()?,
            Wake::Frame(frame) => self.gather(frame?),
            Wake::Finished(outcome) => {
                let id = self.running.take().and_then(|running| running.id);
                self.out.extend(answer(id.as_ref(), outcome));
            }
            Wake::Incoming(incoming) => self.on_message(incoming?)?,
        }
        self.connection
            .write(&mut self.out, self.subscriber.ended())
            .await
    }

    fn on_timer(&mut self) -> Result<(), CloseReason> {
        let now = Instant::now();
        if now.duration_since(self.heard) >= SILENCE_LIMIT {
            return Err(CloseReason::Silent);
        }
        if now >= self.next_ping {
            self.next_ping = now + PING_INTERVAL;
            self.out.push_back(encode::PING);
        }
        self.timer
            .as_mut()
            .reset(self.next_ping.min(self.heard + SILENCE_LIMIT));
        Ok(())
    }

    /// Collects a frame, and further frames that are ready, for one write.
    fn gather(&mut self, first: Frame) {
        let mut bytes = 0;
        let mut next = Some(first);
        while let Some(frame) = next {
            let frame = frame.websocket().clone();
            bytes += frame.len();
            self.out.push_back(frame);
            let is_enough = self.out.len() >= WRITE_FRAMES || bytes >= WRITE_BYTES;
            next = if is_enough {
                None
            } else {
                self.subscriber.more()
            };
        }
    }

    fn on_message(&mut self, message: Message) -> Result<(), CloseReason> {
        let now = Instant::now();
        self.heard = now;
        let frame = match message {
            Message::Close(_) => return Err(CloseReason::Left),
            other => self.rate_limit.frame(now).map(|()| other),
        };
        match frame {
            Ok(Message::Text(text)) => match ClientFrame::parse(&text) {
                Ok(ClientFrame { id, command }) => self.begin(id, command),
                Err(bad) => self.violation(bad.id.as_ref(), bad.failure)?,
            },
            Ok(Message::Binary(_)) => {
                self.violation(None, Failure::malformed("frames are text"))?
            }
            Ok(_) => {}
            Err(failure) => self.violation(None, failure)?,
        }
        Ok(())
    }

    fn begin(&mut self, id: Option<FrameId>, command: Command) {
        match self.subscriber.begin(command) {
            Execution::Now(outcome) => self.out.extend(answer(id.as_ref(), outcome)),
            Execution::Later(outcome) => self.running = Some(Box::new(Running { id, outcome })),
        }
    }

    /// Tells the client of a bad frame. Too many of them end the socket.
    fn violation(&mut self, id: Option<&FrameId>, failure: Failure) -> Result<(), CloseReason> {
        self.rate_limit.violation(failure, Instant::now())?;
        self.out.extend(answer(id, Err(failure)));
        Ok(())
    }

    /// Writes what is left and the close frame, and waits until the client has read them, but no
    /// longer than [`close_deadline`].
    async fn close(&mut self, reason: CloseReason) {
        // From here on nothing more is queued for the socket.
        self.subscriber.end(reason);
        let farewell = async {
            if let Some(running) = self.running.take() {
                let outcome = running.outcome.await;
                self.out.extend(answer(running.id.as_ref(), outcome));
            }
            self.connection.write_all(&mut self.out).await?;
            self.connection.close(reason).await
        };
        if timeout(close_deadline(reason), farewell).await.is_err() {
            debug!(socket = %self.subscriber.socket(), "the closing was not answered");
        }
    }
}

/// Completes with the outcome of the running command. Never completes if no command is running.
async fn finished(running: &mut Option<Box<Running>>) -> Outcome {
    match running {
        Some(running) => running.outcome.as_mut().await,
        None => pending().await,
    }
}
