//! The NATS connection of a service. The connection is watched: its state and the server's
//! complaints become health, log lines and metrics. Sends nothing by itself, but moves to another
//! server of a cluster some time after it had to.

use std::error::Error;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::client::{PublishError, RequestError, SubscribeError};
use async_nats::connection::State;
use async_nats::jetstream::context::{ContextBuilder, PublishError as StoreError};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{self, ErrorCode, publish::PublishAck};
use async_nats::subject::ToSubject;
use async_nats::{
    Client, ConnectOptions, Event, Message, ReconnectToServer, Request, Server, ServerAddr,
    Subscriber,
};
use bytes::Bytes;
use metrics::counter;
use secrecy::ExposeSecret;
use tokio::sync::watch;
use tracing::{debug, error, info, warn};

use crate::service::settings::NatsSettings;
use contract::Id;

/// Time between two pings. A server that answers neither of two is given up. Otherwise, with the
/// client's default of 60 s, a hung server would stay hidden.
const PING_INTERVAL: Duration = Duration::from_secs(2);
/// Longest pause between two attempts to reconnect.
const MAX_RECONNECT_DELAY: Duration = Duration::from_secs(1);
/// Shortest and longest time from a lost connection to the move to a server that is drawn at random.
/// After the servers were restarted one by one, the last one has no client and the others have all.
/// By then the restart is over.
const SPREAD_AFTER: (Duration, Duration) = (Duration::from_secs(20), Duration::from_secs(60));
/// How long any single request to JetStream may take. After that the request has failed.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// Messages that may wait in one subscription. Further ones are dropped, which is a gap.
const SUBSCRIPTION_CAPACITY: usize = 65_536;

/// There is no connection, so nothing was sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not connected to NATS")]
pub struct NotConnected;

/// Why something that must be sent now, or not at all, was not sent or not answered.
#[derive(Debug, thiserror::Error)]
pub enum SendError<E> {
    /// See [`NotConnected`].
    #[error(transparent)]
    NotConnected(#[from] NotConnected),
    /// Nothing came back within this limit. The server may have taken the request.
    #[error("no answer within {0:?}")]
    NoAnswer(Duration),
    /// The client or the server has refused.
    #[error("{0}")]
    Failed(E),
}

/// Whether a write that expects a sequence was refused because another write has overtaken it. While
/// the replicas of a stream are just storing the other one, the server's code is another than the
/// client knows, so the error and its sources are searched for both.
pub fn is_overtaken(error: &(dyn Error + 'static)) -> bool {
    let codes = [
        ErrorCode::STREAM_WRONG_LAST_SEQUENCE,
        ErrorCode::STREAM_WRONG_LAST_SEQUENCE_CONSTANT,
    ];
    let sources = std::iter::successors(Some(error), |error| Error::source(*error));
    sources
        .filter_map(|error| error.downcast_ref::<jetstream::Error>())
        .any(|error| codes.contains(&error.error_code()))
}

/// A service's connection.
#[derive(Clone)]
pub struct Connection {
    pub(crate) client: Client,
    /// JetStream, for reads. What is stored through it while disconnected is stored later; see
    /// [`Connection::store_now`].
    pub jetstream: jetstream::Context,
    /// The service's name.
    pub service: &'static str,
    /// `<service>-<id>`: this process among its replicas.
    pub instance: Arc<str>,
    lame_duck: Arc<AtomicBool>,
    gaps: Arc<watch::Sender<u64>>,
}

impl Connection {
    /// Starts to connect and returns at once; [`Connection::is_connected`] tells when it has. So a
    /// service starts before NATS does.
    ///
    /// # Errors
    /// `NATS_URL` holds something that is no address.
    pub async fn open(
        settings: &NatsSettings,
        service: &'static str,
        instance: Id,
    ) -> Result<Connection, async_nats::Error> {
        let lame_duck = Arc::new(AtomicBool::new(false));
        let duck = lame_duck.clone();
        let gaps = Arc::new(watch::Sender::new(0));
        let gap = gaps.clone();
        let moves = Arc::new(AtomicBool::new(false));
        let is_move = moves.clone();
        let instance: Arc<str> = format!("{service}-{instance}").into();
        let options = ConnectOptions::new()
            .name(&*instance)
            .custom_inbox_prefix(format!("_INBOX_{service}"))
            .ping_interval(PING_INTERVAL)
            .request_timeout(Some(REQUEST_TIMEOUT))
            .subscription_capacity(SUBSCRIPTION_CAPACITY)
            .retry_on_initial_connect()
            .reconnect_delay_callback(|attempt| {
                Duration::from_millis(50 * attempt as u64).min(MAX_RECONNECT_DELAY)
            })
            .reconnect_to_server_callback(move |servers, _| {
                let is_move = is_move.swap(false, Ordering::Relaxed);
                std::future::ready(is_move.then(|| any_of(&servers)).flatten())
            })
            .event_callback(move |event| {
                note(&event, &duck, &gap);
                std::future::ready(())
            });
        let servers = settings
            .url
            .split(',')
            .map(|s| s.trim().parse())
            .collect::<Result<Vec<ServerAddr>, _>>()?;
        // The client takes no login from an address by itself.
        let login = servers
            .iter()
            .find_map(|s| Some((s.username()?.to_owned(), s.password()?.to_owned())));
        let (user, password) = login.unwrap_or_else(|| {
            (
                settings.user.clone(),
                settings.password.expose_secret().to_owned(),
            )
        });
        let options = options.user_and_password(user, password);
        let is_cluster = servers.len() > 1;
        let client = options.connect(servers).await?;
        if is_cluster {
            tokio::spawn(spread(client.clone(), gaps.subscribe(), moves));
        }
        let jetstream = ContextBuilder::new()
            .timeout(REQUEST_TIMEOUT)
            .build(client.clone());
        Ok(Connection {
            client,
            jetstream,
            service,
            instance,
            lame_duck,
            gaps,
        })
    }

    /// Whether requests reach a server right now. Reconnecting is not connected.
    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == State::Connected
    }

    /// Fails without a connection. Check this before sending something that must not be sent later:
    /// the client keeps what is sent meanwhile in its buffer, and sends it after the caller was
    /// told otherwise, or when it is no longer true.
    ///
    /// # Errors
    /// [`NotConnected`]
    pub fn require(&self) -> Result<(), NotConnected> {
        match self.is_connected() {
            true => Ok(()),
            false => Err(NotConnected),
        }
    }

    /// Makes a request, for at most `limit`, if there is a connection. The client's own limit is
    /// not enough, because it begins only once the client's queue has taken the request.
    ///
    /// # Errors
    /// See [`SendError`].
    pub async fn within<T, E>(
        &self,
        limit: Duration,
        request: impl Future<Output = Result<T, E>>,
    ) -> Result<T, SendError<E>> {
        self.require()?;
        tokio::time::timeout(limit, request)
            .await
            .map_err(|_| SendError::NoAnswer(limit))?
            .map_err(SendError::Failed)
    }

    /// Publishes on core NATS now or not at all.
    ///
    /// # Errors
    /// See [`SendError`].
    pub async fn publish_now(
        &self,
        subject: impl ToSubject,
        payload: Bytes,
        limit: Duration,
    ) -> Result<(), SendError<PublishError>> {
        self.within(limit, self.client.publish(subject, payload))
            .await
    }

    /// Sends a request on core NATS now or not at all, and waits for the answer.
    ///
    /// # Errors
    /// See [`SendError`].
    pub async fn request_now(
        &self,
        subject: impl ToSubject,
        request: Request,
        limit: Duration,
    ) -> Result<Message, SendError<RequestError>> {
        self.within(limit, self.client.send_request(subject, request))
            .await
    }

    /// Stores a message in the stream of its subject, now or not at all, and waits for the
    /// acknowledgement. After [`SendError::NoAnswer`] nobody knows whether the message is stored.
    ///
    /// # Errors
    /// See [`SendError`].
    pub async fn store_now(
        &self,
        subject: impl ToSubject,
        message: PublishMessage,
        limit: Duration,
    ) -> Result<PublishAck, SendError<StoreError>> {
        let stored = async { self.jetstream.send_publish(subject, message).await?.await };
        self.within(limit, stored).await
    }

    /// Sends a request on core NATS, later if there is no connection, and waits for the answer. For
    /// requests that do no harm when they are late.
    ///
    /// # Errors
    /// There was no answer.
    pub async fn request(
        &self,
        subject: impl ToSubject,
        payload: Bytes,
    ) -> Result<Message, RequestError> {
        self.client.request(subject, payload).await
    }

    /// Subscribes on core NATS, without waiting for the server.
    ///
    /// # Errors
    /// The client is closed.
    pub async fn subscribe(&self, subject: impl ToSubject) -> Result<Subscriber, SubscribeError> {
        self.client.subscribe(subject).await
    }

    /// Changes whenever core subscriptions have missed something: the connection was lost, or one
    /// was too slow.
    pub fn gaps(&self) -> watch::Receiver<u64> {
        self.gaps.subscribe()
    }

    /// How often a connection was made, the first included. The client counts before it makes the
    /// subscriptions anew. So a subscriber that gets a message and reads the same number as before
    /// has missed nothing by a lost connection.
    pub fn connects(&self) -> u64 {
        self.client.statistics().connects.load(Ordering::Relaxed)
    }

    /// Whether the server has said that it is about to stop.
    pub fn is_lame_duck(&self) -> bool {
        self.lame_duck.load(Ordering::Relaxed)
    }
}

/// A server drawn at random, to connect to at once.
fn any_of(servers: &[Server]) -> Option<ReconnectToServer> {
    let server = servers.get(rand::random_range(0..servers.len().max(1)))?;
    Some(ReconnectToServer {
        addr: server.addr.clone(),
        delay: Some(Duration::ZERO),
    })
}

/// Some time after the connection was lost, moves the client to a server that is drawn at random. Goes
/// on for as long as the process runs.
async fn spread(client: Client, mut gaps: watch::Receiver<u64>, moves: Arc<AtomicBool>) {
    while gaps.changed().await.is_ok() {
        let pause = rand::random_range(SPREAD_AFTER.0..=SPREAD_AFTER.1);
        tokio::time::sleep(pause).await;
        if client.connection_state() == State::Connected {
            moves.store(true, Ordering::Relaxed);
            if client.force_reconnect().await.is_err() {
                return;
            }
            // The move itself is a gap, after which nobody needs to move.
            let _ = tokio::time::timeout(REQUEST_TIMEOUT, gaps.changed()).await;
            gaps.mark_unchanged();
        }
    }
}

fn note(event: &Event, lame_duck: &AtomicBool, gaps: &watch::Sender<u64>) {
    match event {
        Event::Connected => {
            lame_duck.store(false, Ordering::Relaxed);
            info!("connected to NATS");
        }
        Event::Disconnected => {
            counter!("nats_disconnects_total").increment(1);
            gaps.send_modify(|count| *count += 1);
            warn!("the connection to NATS is lost; reconnecting");
        }
        Event::LameDuckMode => {
            lame_duck.store(true, Ordering::Relaxed);
            warn!("the NATS server is about to stop");
        }
        Event::SlowConsumer(sid) => {
            counter!("nats_slow_consumer_total").increment(1);
            gaps.send_modify(|count| *count += 1);
            warn!(sid, "a subscription is too slow; messages were dropped");
        }
        // A violation of permissions shows only here: the call itself just times out.
        Event::ServerError(e) => {
            counter!("nats_server_errors_total").increment(1);
            error!(error = %e, "the NATS server refused something");
        }
        // Mostly one for each try to reconnect. The lost connection itself was logged before.
        Event::ClientError(e) => {
            counter!("nats_client_errors_total").increment(1);
            debug!(error = %e, "NATS client error");
        }
        other => info!(event = %other, "NATS"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use async_nats::jetstream::context::PublishErrorKind;

    /// A connection to a server that is not there.
    async fn unconnected() -> Connection {
        let settings = NatsSettings {
            url: "nats://127.0.0.1:9".into(),
            user: "nobody".into(),
            password: "none".into(),
        };
        let instance = Id::from_bytes([7; 12]);
        Connection::open(&settings, "tests", instance)
            .await
            .unwrap()
    }

    #[test]
    fn a_write_that_meets_another_one_on_its_way_is_overtaken() {
        let refused = |code: u64| {
            let error = format!(r#"{{"code":400,"err_code":{code},"description":"refused"}}"#);
            let error: jetstream::Error = serde_json::from_str(&error).unwrap();
            StoreError::with_source(PublishErrorKind::Other, error)
        };
        assert!(is_overtaken(&refused(10_071)));
        assert!(is_overtaken(&refused(10_164)));
        assert!(!is_overtaken(&refused(10_077)));
    }

    #[tokio::test]
    async fn nothing_that_must_be_sent_now_is_begun_without_a_connection() {
        let connection = unconnected().await;
        assert_eq!(connection.require(), Err(NotConnected));
        let begun = async { unreachable!("begun") };
        let sent: Result<(), SendError<PublishError>> =
            connection.within(REQUEST_TIMEOUT, begun).await;
        assert!(matches!(sent, Err(SendError::NotConnected(_))), "{sent:?}");
        let sent = connection
            .publish_now("beat", Bytes::new(), REQUEST_TIMEOUT)
            .await;
        assert_eq!(sent.unwrap_err().to_string(), "not connected to NATS");
    }
}
