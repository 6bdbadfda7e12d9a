//! One open WebSocket, one task: takes frames of the client, sends what comes for its seat, keeps
//! the times, and ends with a code that says why.

use std::collections::VecDeque;
use std::future::pending;
use std::pin::Pin;
use std::time::Duration;

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
use crate::subscriber::Subscriber;
use crate::subscriber::command::{Execution, Failure, Outcome};
use crate::subscriber::rate_limit::RateLimit;

/// How often the client is pinged.
const PING_INTERVAL: Duration = Duration::from_secs(25);
/// A client that is silent for so long, pongs included, is gone.
const SILENCE_LIMIT: Duration = Duration::from_secs(60);
/// From the decision to close to the end of the connection: the client may first have to read what
/// lies before the code.
const CLOSE_DEADLINE: Duration = Duration::from_secs(10);
/// The same while the service stops.
const STOP_CLOSE_DEADLINE: Duration = Duration::from_secs(5);
/// Bytes after which no further frame is added to a write.
const WRITE_BYTES: usize = 64 * 1024;

/// Serves a socket until it ends. Written out, because an `async fn` would hold its arguments
/// twice, for as long as it runs.
pub fn run(connection: WsConnection, subscriber: Subscriber) -> impl Future<Output = ()> + Send {
    let mut socket = Socket::new(connection, subscriber);
    async move { socket.run().await }
}

struct Socket {
    connection: WsConnection,
    /// What is written next; the first may be written in part.
    out: VecDeque<Bytes>,
    subscriber: Subscriber,
    opened: Instant,
    heard: Instant,
    next_ping: Instant,
    /// Due at the next ping, or when the silence gets too long.
    timer: Pin<Box<Sleep>>,
    rate_limit: RateLimit,
    /// The one command under way. Nothing is read meanwhile, so a client cannot pile them up.
    running: Option<Box<Running>>,
}

struct Running {
    id: Option<FrameId>,
    outcome: BoxFuture<'static, Outcome>,
}

/// What a socket wakes up for.
enum Wake {
    Timer,
    Frame(Result<crate::room::frame::Frame, CloseReason>),
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
        info!(user = %session.user, company = %session.company, socket = %id, role = ?session.role, "connected");
        let reason = self.serve().await;
        counter!("realtime_closed_total", "door" => "ws", "reason" => reason.as_str()).increment(1);
        // In a box, as all that an idle socket has no need of.
        Box::pin(self.close(reason)).await;
        let seconds = self.opened.elapsed().as_secs();
        info!(user = %session.user, company = %session.company, socket = %id, reason = reason.as_str(), seconds, "disconnected");
    }

    async fn serve(&mut self) -> CloseReason {
        loop {
            if let Err(reason) = self.turn().await {
                return reason;
            }
        }
    }

    async fn turn(&mut self) -> Result<(), CloseReason> {
        let wake = tokio::select! {
            () = self.timer.as_mut() => Wake::Timer,
            frame = self.subscriber.next() => Wake::Frame(frame),
            outcome = finished(&mut self.running) => Wake::Finished(outcome),
            incoming = self.connection.next(), if self.running.is_none() => Wake::Incoming(incoming),
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

    /// The frame, and what else is there for one write.
    fn gather(&mut self, first: crate::room::frame::Frame) {
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
                Err(bad) => self.strike(bad.id.as_ref(), bad.failure)?,
            },
            Ok(Message::Binary(_)) => self.strike(None, Failure::malformed("frames are text"))?,
            Ok(_) => {}
            Err(failure) => self.strike(None, failure)?,
        }
        Ok(())
    }

    fn begin(&mut self, id: Option<FrameId>, command: crate::subscriber::command::Command) {
        match self.subscriber.begin(command) {
            Execution::Now(outcome) => self.out.extend(answer(id.as_ref(), outcome)),
            Execution::Later(outcome) => self.running = Some(Box::new(Running { id, outcome })),
        }
    }

    /// Tells the client of a bad frame; too many end the socket.
    fn strike(&mut self, id: Option<&FrameId>, failure: Failure) -> Result<(), CloseReason> {
        self.rate_limit.strike(failure, Instant::now())?;
        self.out.extend(answer(id, Err(failure)));
        Ok(())
    }

    /// Says why, and waits, bounded, until the client has heard it.
    async fn close(&mut self, reason: CloseReason) {
        // Nothing more is queued for it from here on.
        self.subscriber.end(reason);
        let limit = if reason == CloseReason::GoingAway {
            STOP_CLOSE_DEADLINE
        } else {
            CLOSE_DEADLINE
        };
        let farewell = async {
            if let Some(running) = self.running.take() {
                self.out
                    .extend(answer(running.id.as_ref(), running.outcome.await));
            }
            self.connection.write_all(&mut self.out).await?;
            self.connection.close(reason).await
        };
        if timeout(limit, farewell).await.is_err() {
            debug!(socket = %self.subscriber.socket(), "the closing was not answered");
        }
    }
}

/// The outcome of what is running; never, where nothing is.
async fn finished(running: &mut Option<Box<Running>>) -> Outcome {
    match running {
        Some(running) => running.outcome.as_mut().await,
        None => pending().await,
    }
}
