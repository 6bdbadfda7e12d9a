//! One open socket, one task: takes frames of the client, sends what its queue holds, keeps the times, and ends with a
//! code that says why.

use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{Message, Utf8Bytes, WebSocket};
use bytes::Bytes;
use futures_util::future::BoxFuture;
use metrics::{counter, gauge};
use nats::Timestamp;
use nats::runtime::CancellationToken;
use nats::runtime::publish::Publisher;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep, sleep, timeout};
use tokio_util::task::task_tracker::TaskTrackerToken;
use tracing::{debug, error, info};

use crate::access::Session;
use crate::bucket::Bucket;
use crate::close::CloseReason;
use crate::command::{Execution, Outcome, execute};
use crate::company::Seat;
use crate::frame::{ClientFrame, Command, Failure, FrameId, write_answer};
use crate::hub::Hub;

/// Largest frame of a client, in bytes.
pub const MAX_FRAME_BYTES: usize = 64 * 1024;
/// How often the client is pinged.
const PING_INTERVAL: Duration = Duration::from_secs(25);
/// A client that is silent for so long, pongs included, is gone.
const SILENCE_LIMIT: Duration = Duration::from_secs(60);
/// One frame may take so long to be taken by the client's side.
const SEND_DEADLINE: Duration = Duration::from_secs(30);
/// From the decision to close to the end of the connection: the client may first have to read what lies before the code.
const CLOSE_DEADLINE: Duration = Duration::from_secs(10);
/// The same while the service stops.
const STOP_CLOSE_DEADLINE: Duration = Duration::from_secs(5);
/// Frames of a client at once, …
const FRAME_BURST: u32 = 50;
/// … and a second. Typing and joining need a few.
const FRAMES_PER_SECOND: u32 = 20;
/// Malformed or over-limit frames at once before the socket is closed, …
const STRIKES: u32 = 100;
/// … and how many are forgiven a second.
const FORGIVEN_PER_SECOND: u32 = 1;
/// A token's end is watched for at most so long ahead, in case it has none to speak of.
const MAX_LIFE: Duration = Duration::from_secs(365 * 86_400);

/// What all sockets use.
pub struct Shared {
    /// The way to other sockets.
    pub hub: Hub,
    /// The way to the log.
    pub publisher: Publisher,
    /// Cancelled when all sockets shall close.
    pub stop: CancellationToken,
}

/// What a socket holds while it is open; dropping it gives everything back.
pub struct Place {
    /// Whose it is.
    pub session: Session,
    /// In its company.
    pub seat: Seat,
    /// Of this node's sockets.
    pub _permit: OwnedSemaphorePermit,
    /// The stop of the service waits for it.
    pub _tracked: TaskTrackerToken,
}

/// Serves a socket until it ends.
pub async fn run(socket: WebSocket, place: Place, shared: Arc<Shared>) {
    let (user, company, id, started) = (place.session.user, place.session.company, place.seat.socket(), Instant::now());
    let _counted = Counted::new();
    info!(%user, %company, socket = %id, role = ?place.session.role, "connected");
    let mut connection = Socket::new(socket, place, shared);
    let reason = connection.serve().await;
    connection.close(reason).await;
    counter!("realtime_closed_total", "reason" => reason.as_str()).increment(1);
    info!(%user, %company, socket = %id, reason = reason.as_str(), seconds = started.elapsed().as_secs(), "disconnected");
}

struct Counted;

impl Counted {
    fn new() -> Counted {
        gauge!("realtime_sockets").increment(1.0);
        Counted
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        gauge!("realtime_sockets").decrement(1.0);
    }
}

struct Socket {
    socket: WebSocket,
    place: Place,
    shared: Arc<Shared>,
    heard: Instant,
    next_ping: Instant,
    /// Due at the next ping, or when the silence gets too long.
    timer: Pin<Box<Sleep>>,
    frames: Bucket,
    strikes: Bucket,
    /// The one command under way. Nothing is read meanwhile, so a client cannot pile them up.
    running: Option<(Option<FrameId>, BoxFuture<'static, Outcome>)>,
}

/// What a socket wakes up for.
enum Wake {
    Timer,
    Queued(Result<Utf8Bytes, CloseReason>),
    Finished(Outcome),
    Incoming(Option<Result<Message, axum::Error>>),
}

impl Socket {
    fn new(socket: WebSocket, place: Place, shared: Arc<Shared>) -> Socket {
        let now = Instant::now();
        Socket {
            socket,
            place,
            shared,
            heard: now,
            next_ping: now + PING_INTERVAL,
            timer: Box::pin(sleep(PING_INTERVAL)),
            frames: Bucket::new(FRAME_BURST, FRAMES_PER_SECOND, now),
            strikes: Bucket::new(STRIKES, FORGIVEN_PER_SECOND, now),
            running: None,
        }
    }

    async fn serve(&mut self) -> CloseReason {
        let life = self.place.session.time_left(Timestamp::now()).min(MAX_LIFE);
        let stop = self.shared.stop.clone();
        let turns = async {
            loop {
                if let Err(reason) = self.turn().await {
                    return reason;
                }
            }
        };
        // These two also cut short a frame that the client does not take.
        tokio::select! {
            biased;
            () = stop.cancelled() => CloseReason::GoingAway,
            () = sleep(life) => CloseReason::TokenExpired,
            reason = turns => reason,
        }
    }

    async fn turn(&mut self) -> Result<(), CloseReason> {
        let wake = tokio::select! {
            () = self.timer.as_mut() => Wake::Timer,
            queued = self.place.seat.queue().next() => Wake::Queued(queued),
            outcome = finished(&mut self.running) => Wake::Finished(outcome),
            incoming = self.socket.recv(), if self.running.is_none() => Wake::Incoming(incoming),
        };
        match wake {
            Wake::Timer => self.on_timer().await,
            Wake::Queued(frame) => self.send(Message::Text(frame?)).await,
            Wake::Finished(outcome) => {
                let id = self.running.take().and_then(|(id, _)| id);
                self.answer(id.as_ref(), outcome).await
            }
            Wake::Incoming(None) => Err(CloseReason::Lost),
            Wake::Incoming(Some(Err(e))) => Err(CloseReason::of_error(e)),
            Wake::Incoming(Some(Ok(message))) => self.on_message(message).await,
        }
    }

    async fn on_timer(&mut self) -> Result<(), CloseReason> {
        let now = Instant::now();
        if now.duration_since(self.heard) >= SILENCE_LIMIT {
            return Err(CloseReason::Silent);
        }
        if now >= self.next_ping {
            self.next_ping = now + PING_INTERVAL;
            self.send(Message::Ping(Bytes::new())).await?;
        }
        self.timer.as_mut().reset(self.next_ping.min(self.heard + SILENCE_LIMIT));
        Ok(())
    }

    async fn on_message(&mut self, message: Message) -> Result<(), CloseReason> {
        let now = Instant::now();
        self.heard = now;
        if matches!(message, Message::Close(_)) {
            return Err(CloseReason::Left);
        }
        if !self.frames.take(now) {
            return self.strike(None, Failure { code: "RATE_LIMITED", message: "too many frames; this one was ignored" }).await;
        }
        match message {
            Message::Text(text) => match ClientFrame::parse(&text) {
                Ok(ClientFrame { id, command }) => self.execute(id, command).await,
                Err(bad) => self.strike(bad.id.as_ref(), bad.failure).await,
            },
            Message::Binary(_) => self.strike(None, Failure { code: "MALFORMED_FRAME", message: "frames are text" }).await,
            Message::Ping(_) | Message::Pong(_) | Message::Close(_) => Ok(()),
        }
    }

    async fn execute(&mut self, id: Option<FrameId>, command: Command) -> Result<(), CloseReason> {
        match execute(command, self.place.session, &self.place.seat, &self.shared.hub, &self.shared.publisher) {
            Execution::Now(outcome) => self.answer(id.as_ref(), outcome).await,
            Execution::Later(future) => {
                self.running = Some((id, future));
                Ok(())
            }
        }
    }

    /// Tells the client of a bad frame; too many end the socket.
    async fn strike(&mut self, id: Option<&FrameId>, failure: Failure) -> Result<(), CloseReason> {
        counter!("realtime_bad_frames_total", "code" => failure.code).increment(1);
        if !self.strikes.take(Instant::now()) {
            return Err(CloseReason::Flood);
        }
        self.answer(id, Err(failure)).await
    }

    /// `ack` to a frame with an id, `error` to any.
    async fn answer(&mut self, id: Option<&FrameId>, outcome: Outcome) -> Result<(), CloseReason> {
        match reply(id, outcome) {
            Some(frame) => self.send(Message::Text(frame)).await,
            None => Ok(()),
        }
    }

    async fn send(&mut self, message: Message) -> Result<(), CloseReason> {
        tokio::select! {
            biased;
            sent = self.socket.send(message) => sent.map_err(CloseReason::of_error),
            reason = self.place.seat.queue().ended() => Err(reason),
            () = sleep(SEND_DEADLINE) => Err(CloseReason::TooSlow),
        }
    }

    /// Says why, and waits, bounded, until the client has heard it.
    async fn close(mut self, reason: CloseReason) {
        // Nothing more is queued for it from here on.
        self.place.seat.queue().end(reason);
        let limit = if reason == CloseReason::GoingAway { STOP_CLOSE_DEADLINE } else { CLOSE_DEADLINE };
        let farewell = async {
            if let Some((id, running)) = self.running.take()
                && let Some(frame) = reply(id.as_ref(), running.await)
            {
                self.socket.send(Message::Text(frame)).await?;
            }
            if let Some(frame) = reason.frame() {
                self.socket.send(Message::Close(Some(frame))).await?;
            }
            // Dropped with something unread, the connection would be reset and the code lost on the way.
            while let Some(read) = self.socket.recv().await {
                read?;
            }
            Ok::<(), axum::Error>(())
        };
        if !matches!(timeout(limit, farewell).await, Ok(Ok(()))) {
            debug!(socket = %self.place.seat.socket(), "the closing was not answered");
        }
    }
}

/// The outcome of what is running; never, where nothing is.
async fn finished(running: &mut Option<(Option<FrameId>, BoxFuture<'static, Outcome>)>) -> Outcome {
    match running {
        Some((_, future)) => future.await,
        None => pending().await,
    }
}

fn reply(id: Option<&FrameId>, outcome: Outcome) -> Option<Utf8Bytes> {
    let frame = match outcome {
        Ok(_) if id.is_none() => return None,
        Ok(done) => write_answer("ack", done, id),
        Err(failure) => write_answer("error", failure, id),
    };
    frame.inspect_err(|e| error!(error = %e, "a frame cannot be written")).ok()
}
