//! One client of Socket.IO, whatever carries its packets: it lets it in, carries out its events,
//! keeps the times, and collects what is to go out. It reads and writes no connection.

use std::collections::VecDeque;
use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use contract::{Id, Timestamp};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use metrics::counter;
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, Sleep, sleep};
use tokio_util::task::TaskTracker;
use tracing::{error, info};

use super::handler::Shared;
use super::packet::{self, AckId, Auth, BadPacket, Packet};
use super::{PING_INTERVAL, PING_TIMEOUT, engine};
use crate::admission;
use crate::room::close_reason::CloseReason;
use crate::room::encode;
use crate::room::frame::Frame;
use crate::subscriber::Subscriber;
use crate::subscriber::command::{Command, Execution, Failure, Outcome};
use crate::subscriber::rate_limit::RateLimit;
use crate::subscriber::socket_guards::{SubscribeError, Transport};
use crate::transport::refusal::Refusal;
use crate::transport::ws::connection::WRITE_FRAMES;

/// Bytes after which no further frame is added.
const GATHERED_BYTES: usize = 64 * 1024;

/// A client, from its session's first packet on.
pub struct Client {
    shared: Arc<Shared>,
    subscriber: Option<Subscriber>,
    /// Its place among those that are not in yet.
    opening: Option<OwnedSemaphorePermit>,
    opened: Instant,
    heard: Instant,
    next_ping: Instant,
    /// Due at the next ping, or when the silence or the handshake gets too long.
    timer: Pin<Box<Sleep>>,
    rate_limit: RateLimit,
    /// The one thing under way. No packet is taken meanwhile, so a client cannot pile them up.
    running: Option<Box<Running>>,
    /// What is to go out, each a whole WebSocket frame; the first may be written in part.
    pub out: VecDeque<Bytes>,
}

enum Running {
    Entering(BoxFuture<'static, Result<Subscriber, SubscribeError>>),
    Command(Option<AckId>, BoxFuture<'static, Outcome>),
}

/// What happens beside the client's packets.
pub enum Wake {
    Timer,
    Frame(Result<Frame, CloseReason>),
    Entered(Result<Subscriber, SubscribeError>),
    Finished(Option<AckId>, Outcome),
}

/// An answer that says no.
#[derive(Serialize)]
struct Refused {
    ok: bool,
    #[serde(flatten)]
    failure: Failure,
}

/// What the client is told before the server closes: Socket.IO has no close codes.
#[derive(Serialize)]
struct Closing {
    code: u16,
    reason: &'static str,
    reconnect: bool,
}

impl Client {
    /// Not in yet.
    pub fn new(shared: Arc<Shared>, opening: OwnedSemaphorePermit) -> Client {
        let now = Instant::now();
        let limits = shared.node.limits();
        let rate_limit = RateLimit::new(limits, now);
        let timer = Box::pin(sleep(limits.handshake.min(PING_INTERVAL)));
        Client {
            shared,
            subscriber: None,
            opening: Some(opening),
            opened: now,
            heard: now,
            next_ping: now + PING_INTERVAL,
            timer,
            rate_limit,
            running: None,
            out: VecDeque::new(),
        }
    }

    /// The service waits for these at its end.
    pub fn tasks(&self) -> TaskTracker {
        self.shared.node.tasks().clone()
    }

    /// Whether something is under way, so that its packets have to wait.
    pub fn is_busy(&self) -> bool {
        self.running.is_some()
    }

    /// What happens next, beside its packets. Frames come only when it `can_take` them. May be
    /// dropped without a loss.
    pub async fn wake(&mut self, can_take: bool) -> Wake {
        let Client {
            timer,
            subscriber,
            running,
            shared,
            ..
        } = self;
        tokio::select! {
            () = timer.as_mut() => Wake::Timer,
            wake = finished(running) => wake,
            frame = next(subscriber, can_take, shared) => Wake::Frame(frame),
        }
    }

    /// Takes in what has happened.
    ///
    /// # Errors
    /// The session shall end.
    pub fn on_wake(&mut self, wake: Wake) -> Result<(), CloseReason> {
        match wake {
            Wake::Timer => return self.on_timer(),
            Wake::Frame(frame) => return self.gather(frame?),
            Wake::Entered(entered) => {
                self.running = None;
                return self.on_entered(entered);
            }
            Wake::Finished(ack, outcome) => {
                self.running = None;
                self.answer(ack, outcome);
            }
        }
        Ok(())
    }

    fn on_timer(&mut self) -> Result<(), CloseReason> {
        let now = Instant::now();
        let handshake_ends = self.opened + self.shared.node.limits().handshake;
        let is_late = self.subscriber.is_none() && self.running.is_none() && now >= handshake_ends;
        if is_late || now.duration_since(self.heard) >= PING_TIMEOUT {
            return Err(CloseReason::Silent);
        }
        if now >= self.next_ping {
            self.next_ping = now + PING_INTERVAL;
            self.out.push_back(super::ping());
        }
        let mut due = self.next_ping.min(self.heard + PING_TIMEOUT);
        if self.subscriber.is_none() && now < handshake_ends {
            due = due.min(handshake_ends);
        }
        self.timer.as_mut().reset(due);
        Ok(())
    }

    /// The frame, and what else is there for one write. Where the end comes right behind, it is
    /// told with it: a poll that is answered while the node stops is the last.
    fn gather(&mut self, first: Frame) -> Result<(), CloseReason> {
        let mut bytes = 0;
        let mut frame = first;
        loop {
            let encoded = frame.socket_io().clone();
            bytes += encoded.len();
            self.out.push_back(encoded);
            if self.out.len() >= WRITE_FRAMES || bytes >= GATHERED_BYTES {
                return Ok(());
            }
            let Some(subscriber) = &mut self.subscriber else {
                return Ok(());
            };
            frame = match subscriber.more() {
                Some(frame) => frame,
                None => match subscriber.next().now_or_never() {
                    Some(next) => next?,
                    None => return Ok(()),
                },
            };
        }
    }

    /// The client is there.
    pub fn hear(&mut self) {
        self.heard = Instant::now();
    }

    /// Takes in a packet of it.
    ///
    /// # Errors
    /// The session shall end.
    pub fn on_packet(&mut self, text: &str) -> Result<(), CloseReason> {
        self.hear();
        if let Err(failure) = self.rate_limit.frame(self.heard) {
            return self.strike(failure);
        }
        match engine::Packet::parse(text) {
            Ok(engine::Packet::Message(text)) => self.on_message(text),
            Ok(engine::Packet::Close) => Err(CloseReason::Left),
            Ok(engine::Packet::Pong | engine::Packet::Noop) => Ok(()),
            Ok(engine::Packet::Binary) => self.strike(BINARY),
            // Probes and changes of transport have their place before.
            Ok(engine::Packet::Ping(_) | engine::Packet::Upgrade) | Err(_) => {
                Err(CloseReason::Protocol)
            }
        }
    }

    /// Takes in bytes, which no event of ours has.
    ///
    /// # Errors
    /// The session shall end.
    pub fn on_binary(&mut self) -> Result<(), CloseReason> {
        self.hear();
        let failure = self.rate_limit.frame(self.heard).err().unwrap_or(BINARY);
        self.strike(failure)
    }

    fn on_message(&mut self, text: &str) -> Result<(), CloseReason> {
        match Packet::parse(text) {
            Ok(Packet::Connect(auth)) if self.subscriber.is_none() => {
                self.connect(auth);
                Ok(())
            }
            Ok(Packet::Event(event)) if self.subscriber.is_some() => self.on_event(event),
            Ok(Packet::Connect(_) | Packet::Event(_)) => Err(CloseReason::Protocol),
            Ok(Packet::Disconnect) => Err(CloseReason::Left),
            Ok(Packet::Ack) => Ok(()),
            Ok(Packet::Elsewhere(namespace, true)) => {
                self.say(&packet::write_elsewhere(namespace));
                Ok(())
            }
            Ok(Packet::Elsewhere(_, false)) => self.strike(Failure::malformed(
                "there is no other namespace than the main one",
            )),
            Err(BadPacket::Auth) => {
                self.refuse("MALFORMED_FRAME", "`auth` has `token`, a text, and `last_seq`, a number, where events shall be resumed");
                Ok(())
            }
            Err(BadPacket::Binary) => self.strike(BINARY),
            Err(BadPacket::Malformed) => {
                self.strike(Failure::malformed("this is not a packet of Socket.IO"))
            }
        }
    }

    fn connect(&mut self, auth: Auth) {
        let now = Timestamp::now();
        match self.shared.handshake.verify(auth.token.as_deref(), now) {
            Ok(session) => {
                let node = self.shared.node.clone();
                let entering = async move {
                    admission::enter(
                        &node,
                        Transport::SocketIo,
                        session,
                        Id::generate(now),
                        auth.last_seq,
                    )
                    .await
                };
                self.running = Some(Box::new(Running::Entering(Box::pin(entering))));
            }
            Err(bad) => self.refuse(Refusal::from(bad).code(), &bad.to_string()),
        }
    }

    fn on_entered(
        &mut self,
        entered: Result<Subscriber, SubscribeError>,
    ) -> Result<(), CloseReason> {
        match entered {
            Ok(subscriber) => {
                let session = subscriber.session();
                info!(user = %session.user, company = %session.company, socket = %subscriber.socket(), role = ?session.role, door = Transport::SocketIo.as_str(), "connected");
                self.say(&packet::write_connected(subscriber.socket()));
                self.subscriber = Some(subscriber);
                self.opening = None;
                Ok(())
            }
            Err(why @ SubscribeError::TooManyOfUser) => {
                self.refuse(Refusal::from(why).code(), &why.to_string());
                Ok(())
            }
            // After a `connect_error` socket.io-client does not try again by itself; after a lost
            // connection it does, with a pause.
            Err(why) => {
                counter!("realtime_refused_total", "door" => Transport::SocketIo.as_str(), "code" => Refusal::from(why).code()).increment(1);
                Err(CloseReason::FeedLost)
            }
        }
    }

    fn refuse(&mut self, code: &'static str, message: &str) {
        counter!("realtime_refused_total", "door" => Transport::SocketIo.as_str(), "code" => code)
            .increment(1);
        self.say_if(packet::write_connect_error(
            message,
            &serde_json::json!({"code": code, "message": message}),
        ));
    }

    fn on_event(&mut self, event: packet::Event<'_>) -> Result<(), CloseReason> {
        let Some(subscriber) = &self.subscriber else {
            return Ok(());
        };
        // The old clients may give the bare id.
        let data = match event.data.map(|data| data.get()) {
            Some(id) if id.starts_with('"') => Some(format!("{{\"conversationId\":{id}}}")),
            data => data.map(str::to_owned),
        };
        match Command::parse(&event.name, data.as_deref()) {
            Ok(command) => match subscriber.begin(command) {
                Execution::Now(outcome) => self.answer(event.ack, outcome),
                Execution::Later(outcome) => {
                    self.running = Some(Box::new(Running::Command(event.ack, outcome)))
                }
            },
            Err(failure) => {
                self.rate_limit.strike(failure, self.heard)?;
                self.answer(event.ack, Err(failure));
            }
        }
        Ok(())
    }

    /// Tells the client of a bad packet; too many end the session.
    fn strike(&mut self, failure: Failure) -> Result<(), CloseReason> {
        self.rate_limit.strike(failure, self.heard)?;
        self.answer(None, Err(failure));
        Ok(())
    }

    /// To the callback, if there is one; a failure otherwise as `error`.
    fn answer(&mut self, ack: Option<AckId>, outcome: Outcome) {
        match (ack, outcome) {
            (Some(id), Ok(done)) => self.say_if(packet::write_ack(id, &done)),
            (Some(id), Err(failure)) => {
                self.say_if(packet::write_ack(id, &Refused { ok: false, failure }))
            }
            (None, Ok(_)) => {}
            (None, Err(failure)) => self.say_if(
                serde_json::to_string(&failure).map(|data| encode::socket_io_event("error", &data)),
            ),
        }
    }

    /// Nothing more comes from the hub; what the client is told of the end goes out last.
    pub async fn end(&mut self, reason: CloseReason) {
        let Some(subscriber) = &self.subscriber else {
            return;
        };
        subscriber.end(reason);
        if let Some(running) = self.running.take()
            && let Running::Command(ack, outcome) = *running
        {
            let outcome = outcome.await;
            self.answer(ack, outcome);
        }
        let Some(code) = reason.code() else { return };
        let reconnect = comes_back(reason);
        let said = serde_json::to_string(&Closing {
            code,
            reason: reason.as_str(),
            reconnect,
        });
        self.say_if(said.map(|data| encode::socket_io_event(CLOSING, &data)));
        if !reconnect {
            // After this one socket.io-client stays away.
            self.say(packet::DISCONNECT);
        }
    }

    fn say(&mut self, packet: &str) {
        self.out.push_back(encode::text_frame(packet));
    }

    fn say_if(&mut self, packet: Result<String, serde_json::Error>) {
        match packet {
            Ok(packet) => self.say(&packet),
            Err(e) => error!(error = %e, "a packet cannot be written"),
        }
    }

    /// Waits until the session shall end at once; for while something is being written.
    pub async fn ended(&mut self) -> CloseReason {
        match &self.subscriber {
            Some(subscriber) => subscriber.ended().await,
            None => {
                self.shared.node.stop().cancelled().await;
                CloseReason::GoingAway
            }
        }
    }

    /// The end of the session, for the log.
    pub fn left(&self, reason: CloseReason) {
        let Some(subscriber) = &self.subscriber else {
            return;
        };
        counter!("realtime_closed_total", "door" => Transport::SocketIo.as_str(), "reason" => reason.as_str()).increment(1);
        let (session, seconds) = (subscriber.session(), self.opened.elapsed().as_secs());
        info!(user = %session.user, company = %session.company, socket = %subscriber.socket(), reason = reason.as_str(), seconds, door = Transport::SocketIo.as_str(), "disconnected");
    }
}

/// The clients' library takes `disconnecting` and its kind for a broken packet.
const CLOSING: &str = "closing";
const BINARY: Failure = Failure::malformed("events are text");

/// Whether the client may connect again by itself.
const fn comes_back(reason: CloseReason) -> bool {
    !matches!(
        reason,
        CloseReason::SessionEnded
            | CloseReason::Flood
            | CloseReason::TooLarge
            | CloseReason::Protocol
            | CloseReason::NotUtf8
    )
}

/// The end of what is running; never, where nothing is.
async fn finished(running: &mut Option<Box<Running>>) -> Wake {
    match running.as_deref_mut() {
        Some(Running::Entering(entered)) => Wake::Entered(entered.await),
        Some(Running::Command(ack, outcome)) => Wake::Finished(*ack, outcome.await),
        None => pending().await,
    }
}

async fn next(
    subscriber: &mut Option<Subscriber>,
    can_take: bool,
    shared: &Shared,
) -> Result<Frame, CloseReason> {
    match subscriber {
        Some(subscriber) if can_take => subscriber.next().await,
        // In boxes, as all that an idle WebSocket has no need of.
        Some(subscriber) => Err(Box::pin(subscriber.ended()).await),
        None => {
            Box::pin(shared.node.stop().cancelled()).await;
            Err(CloseReason::GoingAway)
        }
    }
}
