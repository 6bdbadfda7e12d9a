//! A session of Socket.IO by polling: GETs that are held until there are packets for the client,
//! POSTs that bring packets of the client, and the change to a WebSocket. One task, which HTTP
//! requests reach through a bounded channel. What a packet means is in `client`.

use std::collections::VecDeque;
use std::future::pending;
use std::time::Duration;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::tungstenite::Message;
use tracing::debug;

use super::client::{Client, Wake};
use super::sessions::{Entry, SessionRequest};
use super::{engine, websocket};
use crate::room::close_reason::CloseReason;
use crate::room::encode;
use crate::transport::timing::close_deadline;
use crate::transport::ws::connection::WsConnection;

/// Bytes of one answer after which no further packet is added. Further packets wait for the next
/// poll.
const BODY_BYTES: usize = 256 * 1024;
/// Packets that may wait for a poll. Beyond it, the client asks without ever polling, and its
/// session ends as too slow. The answers to one body must fit, such as those to the joins of a
/// page. Events are not among the packets: they wait in the bounded queue of the room.
const WAITING_PACKETS: usize = engine::MAX_PACKETS;
/// Longest time for a WebSocket to take over. Beyond it, the session goes on by polling.
const PROBE_DEADLINE: Duration = Duration::from_secs(10);

/// A packet without meaning, which ends a poll.
const NOOP: &str = "6";
/// The packet that ends the session.
const CLOSE: &str = "1";

struct PollingSession {
    client: Client,
    requests: mpsc::Receiver<SessionRequest>,
    /// The GET that is held.
    poll: Option<oneshot::Sender<String>>,
    /// The POST whose packets are being taken in.
    post: Option<Post>,
    probe: Option<Box<Probe>>,
}

struct Post {
    packets: VecDeque<String>,
    done: oneshot::Sender<()>,
}

/// A WebSocket that wants to take over the session.
struct Probe {
    connection: WsConnection,
    deadline: Instant,
    is_answered: bool,
}

/// Why the session's task wakes up.
enum SessionWake {
    Request(Option<SessionRequest>),
    Client(Wake),
    PollLost,
    Probe(Option<Message>),
}

/// Serves a session until it ends, or until a WebSocket has taken over; then the session goes on
/// there. `entry` is the session's entry in the table of sessions.
pub async fn run(client: Client, requests: mpsc::Receiver<SessionRequest>, entry: Entry) {
    let mut session = PollingSession {
        client,
        requests,
        poll: None,
        post: None,
        probe: None,
    };
    let end = loop {
        match session.step().await {
            Ok(None) => {}
            Ok(Some(connection)) => break Ok(connection),
            Err(reason) => break Err(reason),
        }
    };
    match end {
        Ok(connection) => {
            drop(entry);
            // A task of its own, because this one keeps the memory that polling needs.
            let tasks = session.client.tasks();
            tasks.spawn(websocket::run(connection, session.client));
        }
        Err(reason) => session.close(reason).await,
    }
}

impl PollingSession {
    /// Takes in one thing that happens. Returns the WebSocket once that has taken over.
    async fn step(&mut self) -> Result<Option<WsConnection>, CloseReason> {
        self.answer_poll();
        if self.client.out.len() > WAITING_PACKETS {
            return Err(CloseReason::TooSlow);
        }
        let PollingSession {
            client,
            requests,
            poll,
            probe,
            ..
        } = self;
        let (can_take, is_busy) = (poll.is_some(), client.is_busy());
        let wake = tokio::select! {
            request = requests.recv() => SessionWake::Request(request),
            () = lost(poll) => SessionWake::PollLost,
            // As by WebSocket, no packet is taken while something is under way.
            message = probed(probe), if !is_busy => SessionWake::Probe(message),
            wake = client.wake(can_take) => SessionWake::Client(wake),
        };
        match wake {
            SessionWake::Request(request) => self.on_request(request.ok_or(CloseReason::Lost)?)?,
            SessionWake::Client(wake) => self.client.on_wake(wake)?,
            SessionWake::PollLost => self.poll = None,
            SessionWake::Probe(message) => {
                if let Some(connection) = self.on_probe(message).await? {
                    return Ok(Some(connection));
                }
            }
        }
        self.read_post()?;
        Ok(None)
    }

    fn on_request(&mut self, request: SessionRequest) -> Result<(), CloseReason> {
        match request {
            SessionRequest::Poll(answer) => {
                self.client.hear();
                // Two polls at a time would get packets out of order.
                if self.poll.as_ref().is_some_and(|poll| !poll.is_closed()) {
                    return Err(CloseReason::Protocol);
                }
                self.poll = Some(answer);
            }
            SessionRequest::Post(body, done) => {
                let packets = engine::split(&body).map_err(|_| CloseReason::Protocol)?;
                if self.post.is_some() {
                    return Err(CloseReason::Protocol);
                }
                self.post = Some(Post {
                    packets: packets.into_iter().map(str::to_owned).collect(),
                    done,
                });
            }
            SessionRequest::Upgrade(connection) => {
                self.probe = Some(Box::new(Probe {
                    connection: *connection,
                    deadline: Instant::now() + PROBE_DEADLINE,
                    is_answered: false,
                }));
            }
        }
        Ok(())
    }

    /// Takes in the packets of the POST until something is under way.
    fn read_post(&mut self) -> Result<(), CloseReason> {
        while !self.client.is_busy()
            && let Some(post) = &mut self.post
        {
            match post.packets.pop_front() {
                Some(packet) => self.client.on_packet(&packet)?,
                None => self.answer_post(),
            }
        }
        Ok(())
    }

    /// The client sends `2probe` on the new connection and gets `3probe`. Its held poll is answered
    /// with [`NOOP`]. Then the client sends `5`, and the connection takes over.
    async fn on_probe(
        &mut self,
        message: Option<Message>,
    ) -> Result<Option<WsConnection>, CloseReason> {
        let Some(mut probe) = self.probe.take() else {
            return Ok(None);
        };
        let text = match message {
            Some(Message::Text(text)) => text,
            // The connection is gone, too late, or sends something else. The session goes on by
            // polling.
            _ => return Ok(None),
        };
        self.client.hear();
        match engine::Packet::parse(&text) {
            Ok(engine::Packet::Ping(word)) if !probe.is_answered => {
                let mut out = VecDeque::from([encode::text_frame(&format!("3{word}"))]);
                probe.is_answered = probe
                    .connection
                    .write(&mut out, self.client.ended())
                    .await
                    .is_ok();
                if probe.is_answered {
                    self.probe = Some(probe);
                }
                Ok(None)
            }
            Ok(engine::Packet::Upgrade) if probe.is_answered => {
                self.end_poll(NOOP);
                Ok(Some(probe.connection))
            }
            _ => Ok(None),
        }
    }

    /// Answers the held poll with the packets that wait, if there are any. While a probe is
    /// answered, the poll is ended in any case.
    fn answer_poll(&mut self) {
        let Some(poll) = self.poll.take() else { return };
        let mut bytes = 0;
        let mut packets: Vec<Bytes> = Vec::new();
        while bytes < BODY_BYTES
            && let Some(frame) = self.client.out.pop_front()
        {
            bytes += frame.len();
            packets.push(frame);
        }
        if packets.is_empty() {
            match self.probe.as_ref().is_some_and(|probe| probe.is_answered) {
                true => drop(poll.send(NOOP.to_owned())),
                false => self.poll = Some(poll),
            }
            return;
        }
        let texts: Vec<&str> = packets.iter().map(encode::text_of).collect();
        if poll.send(engine::join(texts.iter().copied())).is_err() {
            for frame in packets.into_iter().rev() {
                self.client.out.push_front(frame);
            }
        }
    }

    fn end_poll(&mut self, packet: &str) {
        if let Some(poll) = self.poll.take() {
            let _ = poll.send(packet.to_owned());
        }
    }

    fn answer_post(&mut self) {
        if let Some(post) = self.post.take() {
            let _ = post.done.send(());
        }
    }

    /// Tells the client why the session ends, and waits until the client has taken that, but no
    /// longer than [`close_deadline`].
    async fn close(mut self, reason: CloseReason) {
        self.client.end(reason).await;
        match reason {
            CloseReason::Left => {
                self.answer_post();
                self.end_poll(NOOP);
            }
            // As the original server does: the POST is refused, and so is every further request.
            CloseReason::Protocol => {
                self.post = None;
                self.client.out.push_back(encode::text_frame(CLOSE));
                self.answer_poll();
            }
            _ => self.see_off(reason).await,
        }
        self.client.log_end(reason);
    }

    /// Waits until the client has taken the last packets, but no longer than [`close_deadline`]. A
    /// POST whose packets have all been read is answered at once.
    async fn see_off(&mut self, reason: CloseReason) {
        if reason == CloseReason::Flood || self.post.as_ref().is_some_and(|p| p.packets.is_empty())
        {
            self.answer_post();
        }
        if timeout(close_deadline(reason), self.farewell(reason))
            .await
            .is_err()
        {
            debug!("the closing was not taken");
        }
    }

    /// Sends the last packets by a poll, or by the WebSocket if the client has begun to change to
    /// it and polls no more.
    async fn farewell(&mut self, reason: CloseReason) -> Result<(), CloseReason> {
        self.client.out.push_back(encode::text_frame(CLOSE));
        loop {
            self.answer_poll();
            if self.client.out.is_empty() {
                return Ok(());
            }
            tokio::select! {
                request = self.requests.recv() => match request {
                    Some(SessionRequest::Poll(answer)) => self.poll = Some(answer),
                    Some(_) => {}
                    None => return Ok(()),
                },
                message = probed(&mut self.probe) => {
                    if let Some(mut connection) = self.on_probe(message).await? {
                        connection.write_all(&mut self.client.out).await?;
                        return websocket::hang_up(&mut connection, reason).await;
                    }
                }
            }
        }
    }
}

/// Completes when the client has given its held poll up. Never completes if no poll is held.
async fn lost(poll: &mut Option<oneshot::Sender<String>>) {
    match poll {
        Some(poll) => poll.closed().await,
        None => pending().await,
    }
}

/// The next message of a WebSocket that wants to take over; `None` if it is gone or too late. Never
/// completes if there is no such WebSocket.
async fn probed(probe: &mut Option<Box<Probe>>) -> Option<Message> {
    match probe {
        Some(probe) => tokio::select! {
            message = probe.connection.next() => message.ok(),
            () = sleep_until(probe.deadline) => None,
        },
        None => pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::tests::unconnected;
    use crate::transport::socketio::client::tests::client;
    use crate::transport::socketio::sessions::REQUESTS;

    #[tokio::test]
    async fn the_next_poll_answers_all_packets_of_a_post() {
        let node = unconnected().await;
        let packets = node.limits().rooms;
        let (client, entry) = client(node);
        let (sender, requests) = mpsc::channel(REQUESTS);
        tokio::spawn(run(client, requests, entry));
        let (done, is_done) = oneshot::channel();
        // Each packet is refused, because there is no such namespace.
        sender
            .send(SessionRequest::Post(
                vec!["40/x,"; packets].join("\u{1e}"),
                done,
            ))
            .await
            .ok()
            .unwrap();
        is_done.await.unwrap();
        let (answer, answered) = oneshot::channel();
        sender
            .send(SessionRequest::Poll(answer))
            .await
            .ok()
            .unwrap();
        let answer = answered.await.unwrap();
        let (refusals, others): (Vec<&str>, Vec<&str>) = answer
            .split('\u{1e}')
            .partition(|packet| packet.starts_with("44/x,"));
        assert_eq!(
            (refusals.len(), others),
            (packets, vec![]),
            "the session goes on"
        );
    }
}
