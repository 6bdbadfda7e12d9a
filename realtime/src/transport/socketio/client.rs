//! One client of Socket.IO, whichever connection carries its packets: admits it, carries out its
//! events, keeps the times, and collects what is to be written. Reads and writes no connection.

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

use super::engine;
use super::packet::{self, AckId, Auth, BadPacket, Packet};
use super::sessions::Shared;
use crate::admission;
use crate::auth::handshake;
use crate::auth::session::{BadToken, Session};
use crate::room::close_reason::CloseReason;
use crate::room::encode;
use crate::room::frame::Frame;
use crate::subscriber::Subscriber;
use crate::subscriber::command::{Command, Execution, Failure, Outcome};
use crate::subscriber::rate_limit::RateLimit;
use crate::subscriber::socket_guards::{SubscribeError, Transport};
use crate::transport::refusal::Refusal;
use crate::transport::timing::{PING_INTERVAL, SILENCE_LIMIT};
use crate::transport::ws::connection::WRITE_FRAMES;

/// Bytes after which no further frame is added to a write. Further frames go out in the next one.
const WRITE_BYTES: usize = 64 * 1024;

const TRANSPORT: &str = Transport::SocketIo.as_str();

/// The event that tells a client why the server closes. Names such as `disconnecting` are reserved:
/// the clients' library would take the event for a broken packet.
const CLOSING: &str = "closing";

const BAD_AUTH: &str = "`auth` has `token`, a text, and `last_seq` where events shall be resumed";
/// Where this transport takes the token from.
pub const TOKEN_PLACES: &str = "as `io(url, {auth: {token}})`, in the header `Authorization: \
                                Bearer`, or as `?token=`";
const BINARY: Failure = Failure::malformed("events are text");

/// A client, from its session's first packet on.
pub struct Client {
    shared: Arc<Shared>,
    /// Set once the client is admitted.
    subscriber: Option<Subscriber>,
    /// One of the permits for sessions without a token, until the client is admitted.
    opening: Option<OwnedSemaphorePermit>,
    /// What the token stands for that came with the request which opened the session.
    credentials: Result<Session, BadToken>,
    opened: Instant,
    /// A client that is not admitted by then has to go.
    admitted_by: Instant,
    /// Binary packets that belong to the last event. They are thrown away.
    attachments: usize,
    heard: Instant,
    next_ping: Instant,
    /// Ends when the next ping is due, or when silence or handshake have lasted too long.
    timer: Pin<Box<Sleep>>,
    rate_limit: RateLimit,
    /// The one admission or command that is under way. No packet is taken meanwhile, so that a
    /// client's commands cannot pile up.
    running: Option<Box<Running>>,
    /// The WebSocket frames to write next. The first may be written in part.
    pub out: VecDeque<Bytes>,
}

enum Running {
    Entering(BoxFuture<'static, Result<Subscriber, SubscribeError>>),
    Command(Option<AckId>, BoxFuture<'static, Outcome>),
}

/// What has happened besides the client's packets.
pub enum Wake {
    Timer,
    Frame(Result<Frame, CloseReason>),
    Entered(Result<Subscriber, SubscribeError>),
    Finished(Option<AckId>, Outcome),
}

/// The answer to an event that was refused.
#[derive(Serialize)]
struct Refused {
    ok: bool,
    #[serde(flatten)]
    failure: Failure,
}

/// The data of [`CLOSING`]. Socket.IO has no close codes of its own.
#[derive(Serialize)]
struct Closing {
    code: u16,
    reason: &'static str,
    reconnect: bool,
}

impl Client {
    /// A client that is not admitted yet.
    pub fn new(
        shared: Arc<Shared>,
        opening: OwnedSemaphorePermit,
        credentials: Result<Session, BadToken>,
    ) -> Client {
        let now = Instant::now();
        let limits = shared.node.limits();
        let rate_limit = RateLimit::new(limits, now);
        let timer = Box::pin(sleep(limits.handshake.min(PING_INTERVAL)));
        let admitted_by = now + limits.handshake;
        Client {
            shared,
            subscriber: None,
            opening: Some(opening),
            credentials,
            opened: now,
            admitted_by,
            attachments: 0,
            heard: now,
            next_ping: now + PING_INTERVAL,
            timer,
            rate_limit,
            running: None,
            out: VecDeque::new(),
        }
    }

    /// The tasks that the service waits for when it ends.
    pub fn tasks(&self) -> TaskTracker {
        self.shared.node.tasks().clone()
    }

    /// Whether something is under way, so that the client's packets have to wait.
    pub fn is_busy(&self) -> bool {
        self.running.is_some()
    }

    /// Waits for the next thing that happens besides the client's packets. Frames come only if
    /// `can_take` is set. Cancelling this future loses nothing.
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
    /// The session must end.
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
        let is_late =
            self.subscriber.is_none() && self.running.is_none() && now >= self.admitted_by;
        if is_late || now.duration_since(self.heard) >= SILENCE_LIMIT {
            return Err(CloseReason::Silent);
        }
        if now >= self.next_ping {
            self.next_ping = now + PING_INTERVAL;
            self.out.push_back(engine::PING_FRAME);
        }
        let mut due = self.next_ping.min(self.heard + SILENCE_LIMIT);
        if self.subscriber.is_none() && now < self.admitted_by {
            due = due.min(self.admitted_by);
        }
        self.timer.as_mut().reset(due);
        Ok(())
    }

    /// Collects a frame, and further frames that are ready, for one write. If the end comes right
    /// after them, the client is told of it in the same write. Otherwise a poll that is answered
    /// while the node stops would be the last, and the client would not learn why.
    fn gather(&mut self, first: Frame) -> Result<(), CloseReason> {
        let mut bytes = 0;
        let mut frame = first;
        loop {
            let encoded = frame.socket_io().clone();
            bytes += encoded.len();
            self.out.push_back(encoded);
            if self.out.len() >= WRITE_FRAMES || bytes >= WRITE_BYTES {
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

    /// Notes that the client is alive.
    pub fn hear(&mut self) {
        self.heard = Instant::now();
    }

    /// Takes in a packet of the client.
    ///
    /// # Errors
    /// The session must end.
    pub fn on_packet(&mut self, text: &str) -> Result<(), CloseReason> {
        self.hear();
        if let Err(failure) = self.rate_limit.frame(self.heard) {
            return self.violation(failure);
        }
        match engine::Packet::parse(text) {
            Ok(engine::Packet::Message(text)) => self.on_message(text),
            Ok(engine::Packet::Close) => Err(CloseReason::Left),
            Ok(engine::Packet::Pong | engine::Packet::Noop) => Ok(()),
            Ok(engine::Packet::Binary) => self.on_bytes(),
            // Probes and upgrades belong to the change from polling to a WebSocket, and never come
            // here.
            Ok(engine::Packet::Ping(_) | engine::Packet::Upgrade) | Err(_) => {
                Err(CloseReason::Protocol)
            }
        }
    }

    /// Takes in a binary frame.
    ///
    /// # Errors
    /// The session must end.
    pub fn on_binary(&mut self) -> Result<(), CloseReason> {
        self.hear();
        match self.rate_limit.frame(self.heard) {
            Ok(()) => self.on_bytes(),
            Err(failure) => self.violation(failure),
        }
    }

    /// Takes in bytes, which no event of this service has. Those of an event that was answered
    /// already are thrown away.
    fn on_bytes(&mut self) -> Result<(), CloseReason> {
        match self.attachments.checked_sub(1) {
            Some(left) => {
                self.attachments = left;
                Ok(())
            }
            None => self.violation(BINARY),
        }
    }

    fn on_message(&mut self, text: &str) -> Result<(), CloseReason> {
        if self.attachments > 0 {
            return Err(CloseReason::Protocol);
        }
        self.attachments = packet::attachments(text);
        match Packet::parse(text) {
            Ok(Packet::Connect(auth)) if self.subscriber.is_none() => {
                self.connect(auth);
                Ok(())
            }
            Ok(Packet::Event(event)) if self.subscriber.is_some() => self.on_event(event),
            Ok(Packet::Connect(_) | Packet::Event(_)) => Err(CloseReason::Protocol),
            Ok(Packet::Disconnect) => self.leave(),
            Ok(Packet::Ack) => Ok(()),
            Ok(Packet::OtherNamespace(namespace, true)) => {
                self.send(&packet::write_invalid_namespace(namespace));
                Ok(())
            }
            Ok(Packet::OtherNamespace(_, false)) => self.violation(Failure::malformed(
                "there is no other namespace than the main one",
            )),
            Err(BadPacket::Auth) => {
                self.refuse("MALFORMED_FRAME", BAD_AUTH);
                Ok(())
            }
            Err(BadPacket::Malformed) => Err(CloseReason::Protocol),
        }
    }

    /// Takes the client out of its room. The session goes on for a while, because a client that
    /// polls says once more that it leaves, and any client may connect again.
    fn leave(&mut self) -> Result<(), CloseReason> {
        if self.subscriber.is_none() {
            return Ok(());
        }
        self.log_end(CloseReason::Left);
        self.subscriber = None;
        // Sessions without a token are bounded.
        self.opening = Some(self.shared.opening_permit().ok_or(CloseReason::Left)?);
        self.admitted_by = Instant::now() + SILENCE_LIMIT;
        Ok(())
    }

    fn connect(&mut self, auth: Auth) {
        let now = Timestamp::now();
        let session = match auth.token.as_deref().and_then(handshake::bare) {
            Some(token) => self.shared.handshake.verify(Some(token), TOKEN_PLACES, now),
            None => self.credentials.and_then(|session| session.at(now)),
        };
        match session {
            Ok(session) => {
                let (node, socket) = (self.shared.node.clone(), Id::generate(now));
                let entering = async move {
                    admission::enter(&node, Transport::SocketIo, session, socket, auth.last_seq)
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
                info!(
                    user = %session.user,
                    company = %session.company,
                    socket = %subscriber.socket(),
                    role = ?session.role,
                    transport = TRANSPORT,
                    "connected"
                );
                self.send(&packet::write_connected(subscriber.socket()));
                self.subscriber = Some(subscriber);
                self.opening = None;
                Ok(())
            }
            // Each of these may pass. So the connection is closed instead of sending a
            // `connect_error`. After a `connect_error` socket.io-client does not connect again by
            // itself. After a lost connection it does, with a pause.
            Err(error) => {
                count_refusal(Refusal::from(error).code());
                Err(CloseReason::FeedLost)
            }
        }
    }

    fn refuse(&mut self, code: &'static str, message: &str) {
        count_refusal(code);
        self.send_or_log(packet::write_connect_error(
            message,
            &serde_json::json!({"code": code, "message": message}),
        ));
    }

    fn on_event(&mut self, event: packet::Event<'_>) -> Result<(), CloseReason> {
        let Some(subscriber) = &self.subscriber else {
            return Ok(());
        };
        // Clients of the Express backend may send the bare id.
        let data = match event.data.map(|data| data.get()) {
            Some(id) if id.starts_with('"') => Some(format!("{{\"conversationId\":{id}}}")),
            data => data.map(str::to_owned),
        };
        let command = match Command::parse(&event.name, data.as_deref()) {
            Err(Failure::UNKNOWN_EVENT) => Err(Failure::UNKNOWN_EVENT),
            _ if event.is_binary => Err(BINARY),
            command => command,
        };
        match command {
            Ok(command) => match subscriber.begin(command) {
                Execution::Now(outcome) => self.answer(event.ack, outcome),
                Execution::Later(outcome) => {
                    self.running = Some(Box::new(Running::Command(event.ack, outcome)))
                }
            },
            Err(failure) => {
                self.rate_limit.violation(failure, self.heard)?;
                self.answer(event.ack, Err(failure));
            }
        }
        Ok(())
    }

    /// Tells the client of a bad packet. Too many of them end the session, and one does if the
    /// client is not admitted: the clients' library takes no event before.
    fn violation(&mut self, failure: Failure) -> Result<(), CloseReason> {
        if self.subscriber.is_none() {
            return Err(CloseReason::Protocol);
        }
        self.rate_limit.violation(failure, self.heard)?;
        self.answer(None, Err(failure));
        Ok(())
    }

    /// Answers the callback if the client has one. Without a callback, a failure is sent as the
    /// event `error`, and a success is not answered.
    fn answer(&mut self, ack: Option<AckId>, outcome: Outcome) {
        match (ack, outcome) {
            (Some(id), Ok(done)) => self.send_or_log(packet::write_ack(id, &done)),
            (Some(id), Err(failure)) => {
                self.send_or_log(packet::write_ack(id, &Refused { ok: false, failure }))
            }
            (None, Ok(_)) => {}
            (None, Err(failure)) => self.send_or_log(
                serde_json::to_string(&failure).map(|data| encode::socket_io_event("error", &data)),
            ),
        }
    }

    /// Ends the frames of the room and adds what the client is told about the end.
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
        let reconnect = may_reconnect(reason);
        let closing = serde_json::to_string(&Closing {
            code,
            reason: reason.as_str(),
            reconnect,
        });
        self.send_or_log(closing.map(|data| encode::socket_io_event(CLOSING, &data)));
        if !reconnect {
            // After this packet socket.io-client does not connect again by itself.
            self.send(packet::DISCONNECT);
        }
    }

    fn send(&mut self, packet: &str) {
        self.out.push_back(encode::text_frame(packet));
    }

    fn send_or_log(&mut self, packet: Result<String, serde_json::Error>) {
        match packet {
            Ok(packet) => self.send(&packet),
            Err(e) => error!(error = %e, "a packet cannot be written"),
        }
    }

    /// Waits until the session must end at once. Used while something is being written.
    pub async fn ended(&mut self) -> CloseReason {
        match &self.subscriber {
            Some(subscriber) => subscriber.ended().await,
            None => {
                self.shared.node.stop().cancelled().await;
                CloseReason::GoingAway
            }
        }
    }

    /// Logs and counts the end of the session, if the client had been admitted.
    pub fn log_end(&self, reason: CloseReason) {
        let Some(subscriber) = &self.subscriber else {
            return;
        };
        let text = reason.as_str();
        counter!("realtime_closed_total", "door" => TRANSPORT, "reason" => text).increment(1);
        let (session, seconds) = (subscriber.session(), self.opened.elapsed().as_secs());
        info!(
            user = %session.user,
            company = %session.company,
            socket = %subscriber.socket(),
            reason = text,
            seconds,
            transport = TRANSPORT,
            "disconnected"
        );
    }
}

fn count_refusal(code: &'static str) {
    counter!("realtime_refused_total", "door" => TRANSPORT, "code" => code).increment(1);
}

/// Whether the client may connect again by itself.
pub const fn may_reconnect(reason: CloseReason) -> bool {
    !matches!(
        reason,
        CloseReason::SessionEnded
            | CloseReason::Flood
            | CloseReason::TooLarge
            | CloseReason::Protocol
            | CloseReason::NotUtf8
    )
}

/// Completes with the end of what is under way. Never completes if nothing is.
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
        // Boxed, because a WebSocket that is idle should not pay for the size of these futures.
        Some(subscriber) => Err(Box::pin(subscriber.ended()).await),
        None => {
            Box::pin(shared.node.stop().cancelled()).await;
            Err(CloseReason::GoingAway)
        }
    }
}

#[cfg(test)]
pub mod tests {
    use super::super::sessions::Entry;
    use super::*;
    use crate::auth::handshake::Handshake;
    use crate::config::Config;
    use crate::node::Node;
    use runtime::service::settings::Settings;
    use tokio::sync::mpsc;

    /// A client that is not admitted yet, and its entry in a table of sessions.
    pub fn client(node: Node) -> (Client, Entry) {
        let handshake = Handshake::new(&Config::read(&mut Settings::of([])));
        let shared = Arc::new(Shared::new(Arc::new(handshake), node));
        let permit = shared.opening_permit().unwrap();
        let entry = shared.insert(engine::Sid::new(1), mpsc::channel(1).0);
        let credentials = Err(BadToken::Missing(TOKEN_PLACES));
        (Client::new(shared, permit, credentials), entry)
    }
}
