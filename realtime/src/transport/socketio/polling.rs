//! A session by polling: GETs that are held until there is something, POSTs that bring packets, and
//! the change to a WebSocket. One task; what comes over HTTP reaches it through a bounded channel.

use std::collections::VecDeque;
use std::future::pending;

use bytes::Bytes;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_tungstenite::tungstenite::Message;
use tracing::debug;

use super::client::{Client, Wake};
use super::handler::Entry;
use super::{CLOSE_DEADLINE, STOP_CLOSE_DEADLINE, engine, websocket};
use crate::room::close_reason::CloseReason;
use crate::room::encode;
use crate::transport::ws::connection::WsConnection;

/// Requests of one session that wait for its task. A client has one GET, one POST and one upgrade
/// at a time.
pub const REQUESTS: usize = 4;
/// Bytes of one answer after which no further packet is added.
const BODY_BYTES: usize = 256 * 1024;
/// Answers that may wait for a GET: those to one body, such as a page's joins. Events wait in the
/// bounded queue of the hub; these are of a client that asks and never polls.
const WAITING_PACKETS: usize = engine::MAX_PACKETS;

/// A packet without meaning, to end a poll.
const NOOP: &str = "6";
/// The session is over.
const CLOSE: &str = "1";

/// What comes over HTTP for a session.
pub enum Request {
    /// A GET. It is answered with packets.
    Poll(oneshot::Sender<String>),
    /// A POST with the text of its body. It is answered when all of its packets have been taken in.
    Post(String, oneshot::Sender<()>),
    /// A WebSocket that wants to take over.
    Upgrade(Box<WsConnection>),
}

struct Session {
    client: Client,
    requests: mpsc::Receiver<Request>,
    poll: Option<oneshot::Sender<String>>,
    post: Option<Post>,
    probe: Option<Box<Probe>>,
}

struct Post {
    packets: VecDeque<String>,
    done: oneshot::Sender<()>,
}

/// A WebSocket that wants to take over, until this.
struct Probe {
    connection: WsConnection,
    until: Instant,
    answered: bool,
}

/// What a session wakes up for.
enum Turn {
    Request(Option<Request>),
    Client(Wake),
    PollLost,
    Probe(Option<Message>),
}

/// Serves a session until it ends, by whichever transport. `entry` is its place in the table of
/// sessions.
pub async fn run(client: Client, requests: mpsc::Receiver<Request>, entry: Entry) {
    let mut session = Session {
        client,
        requests,
        poll: None,
        post: None,
        probe: None,
    };
    let end = loop {
        match session.turn().await {
            Ok(None) => {}
            Ok(Some(connection)) => break Ok(connection),
            Err(reason) => break Err(reason),
        }
    };
    match end {
        Ok(connection) => {
            drop(entry);
            // A task of its own: this one would keep what polling needs.
            let tasks = session.client.tasks();
            tasks.spawn(websocket::run(connection, session.client));
        }
        Err(reason) => session.close(reason).await,
    }
}

impl Session {
    /// One step; the WebSocket, once it has taken over.
    async fn turn(&mut self) -> Result<Option<WsConnection>, CloseReason> {
        self.deliver();
        if self.client.out.len() > WAITING_PACKETS {
            return Err(CloseReason::TooSlow);
        }
        let Session {
            client,
            requests,
            poll,
            probe,
            ..
        } = self;
        let (can_take, is_busy) = (poll.is_some(), client.is_busy());
        let turn = tokio::select! {
            request = requests.recv() => Turn::Request(request),
            () = lost(poll) => Turn::PollLost,
            // As by WebSocket, nothing new is taken while something is under way.
            message = probed(probe), if !is_busy => Turn::Probe(message),
            wake = client.wake(can_take) => Turn::Client(wake),
        };
        match turn {
            Turn::Request(request) => self.on_request(request.ok_or(CloseReason::Lost)?)?,
            Turn::Client(wake) => self.client.on_wake(wake)?,
            Turn::PollLost => self.poll = None,
            Turn::Probe(message) => {
                if let Some(connection) = self.on_probe(message).await? {
                    return Ok(Some(connection));
                }
            }
        }
        self.read_on()?;
        Ok(None)
    }

    fn on_request(&mut self, request: Request) -> Result<(), CloseReason> {
        match request {
            Request::Poll(answer) => {
                self.client.hear();
                // Two at a time would get packets out of order.
                if self.poll.as_ref().is_some_and(|poll| !poll.is_closed()) {
                    return Err(CloseReason::Protocol);
                }
                self.poll = Some(answer);
            }
            Request::Post(body, done) => {
                let packets = engine::split(&body).map_err(|_| CloseReason::Protocol)?;
                if self.post.is_some() {
                    return Err(CloseReason::Protocol);
                }
                self.post = Some(Post {
                    packets: packets.into_iter().map(str::to_owned).collect(),
                    done,
                });
            }
            Request::Upgrade(connection) => {
                let until = Instant::now() + CLOSE_DEADLINE;
                self.probe = Some(Box::new(Probe {
                    connection: *connection,
                    until,
                    answered: false,
                }));
            }
        }
        Ok(())
    }

    /// Takes in the packets of a POST, as far as nothing is under way.
    fn read_on(&mut self) -> Result<(), CloseReason> {
        while !self.client.is_busy()
            && let Some(post) = &mut self.post
        {
            match post.packets.pop_front() {
                Some(packet) => self.client.on_packet(&packet)?,
                None => {
                    if let Some(post) = self.post.take() {
                        let _ = post.done.send(());
                    }
                }
            }
        }
        Ok(())
    }

    /// The client says `2probe` on the new connection and gets `3probe`; its open poll is ended;
    /// then it says `5`.
    async fn on_probe(
        &mut self,
        message: Option<Message>,
    ) -> Result<Option<WsConnection>, CloseReason> {
        let Some(mut probe) = self.probe.take() else {
            return Ok(None);
        };
        let text = match message {
            Some(Message::Text(text)) => text,
            // Not what it should be, gone, or too late: the session goes on by polling.
            _ => return Ok(None),
        };
        self.client.hear();
        match engine::Packet::parse(&text) {
            Ok(engine::Packet::Ping(word)) if !probe.answered => {
                let mut out = VecDeque::from([encode::text_frame(&format!("3{word}"))]);
                probe.answered = probe
                    .connection
                    .write(&mut out, self.client.ended())
                    .await
                    .is_ok();
                if probe.answered {
                    self.probe = Some(probe);
                }
                Ok(None)
            }
            Ok(engine::Packet::Upgrade) if probe.answered => {
                self.end_poll(NOOP);
                Ok(Some(probe.connection))
            }
            _ => Ok(None),
        }
    }

    /// Gives what is to go out to the open poll.
    fn deliver(&mut self) {
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
            match self.probe.as_ref().is_some_and(|probe| probe.answered) {
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

    /// Says why, and waits, bounded, until the client has taken it.
    async fn close(mut self, reason: CloseReason) {
        self.client.end(reason).await;
        if reason == CloseReason::Left {
            self.read_out();
            self.end_poll(NOOP);
        } else {
            let limit = if reason == CloseReason::GoingAway {
                STOP_CLOSE_DEADLINE
            } else {
                CLOSE_DEADLINE
            };
            if timeout(limit, self.farewell(reason)).await.is_err() {
                debug!("the closing was not taken");
            }
        }
        self.client.left(reason);
    }

    /// By a poll; or by the WebSocket, of a client that had begun to change to it and polls no
    /// more.
    async fn farewell(&mut self, reason: CloseReason) -> Result<(), CloseReason> {
        self.client.out.push_back(encode::text_frame(CLOSE));
        loop {
            self.deliver();
            if self.client.out.is_empty() {
                return Ok(());
            }
            tokio::select! {
                request = self.requests.recv() => match request {
                    Some(Request::Poll(answer)) => self.poll = Some(answer),
                    Some(_) => {}
                    None => return Ok(()),
                },
                message = probed(&mut self.probe) => {
                    if let Some(mut connection) = self.on_probe(message).await? {
                        connection.write_all(&mut self.client.out).await?;
                        return connection.close(reason).await;
                    }
                }
            }
        }
    }

    /// The POST that said goodbye was understood.
    fn read_out(&mut self) {
        if let Some(post) = self.post.take() {
            let _ = post.done.send(());
        }
    }
}

/// When the client has given its open poll up.
async fn lost(poll: &mut Option<oneshot::Sender<String>>) {
    match poll {
        Some(poll) => poll.closed().await,
        None => pending().await,
    }
}

/// The next frame of a WebSocket that wants to take over; `None` if it is gone or too late.
async fn probed(probe: &mut Option<Box<Probe>>) -> Option<Message> {
    match probe {
        Some(probe) => tokio::select! {
            message = probe.connection.next() => message.ok(),
            () = sleep_until(probe.until) => None,
        },
        None => pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::tests::unconnected;
    use crate::transport::socketio::handler::tests::session;

    #[tokio::test]
    async fn a_body_of_many_packets_is_answered_by_the_next_poll() {
        let node = unconnected().await;
        let packets = node.limits().rooms;
        let (client, entry) = session(node);
        let (sender, requests) = mpsc::channel(REQUESTS);
        tokio::spawn(run(client, requests, entry));
        let (done, is_done) = oneshot::channel();
        // Each is answered with a refusal: there is no such namespace.
        sender
            .send(Request::Post(vec!["40/x,"; packets].join("\u{1e}"), done))
            .await
            .ok()
            .unwrap();
        is_done.await.unwrap();
        let (answer, answered) = oneshot::channel();
        sender.send(Request::Poll(answer)).await.ok().unwrap();
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
