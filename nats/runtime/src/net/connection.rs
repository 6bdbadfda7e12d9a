//! One NATS connection a service, watched: its state and the server's complaints become health, log
//! lines and metrics.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use async_nats::connection::State;
use async_nats::jetstream::{self, context::ContextBuilder};
use async_nats::{Client, ConnectOptions, Event, ServerAddr};
use metrics::counter;
use secrecy::ExposeSecret;
use tokio::sync::watch;
use tracing::{debug, error, info, warn};

use crate::service::settings::NatsSettings;
use contract::Id;

/// A server that answers no ping for two of these is given up. The client's default of 60 s would
/// hide a hung server.
const PING_INTERVAL: Duration = Duration::from_secs(2);
/// Longest wait between attempts to reconnect.
const MAX_RECONNECT_DELAY: Duration = Duration::from_secs(1);
/// Any single request to JetStream's API.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(2);
/// Messages that may wait in one subscription.
const SUBSCRIPTION_CAPACITY: usize = 65_536;

/// A service's connection.
#[derive(Clone)]
pub struct Connection {
    /// Core NATS.
    pub client: Client,
    /// JetStream.
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
    /// An address that is none.
    pub async fn open(
        settings: &NatsSettings,
        service: &'static str,
        instance: Id,
    ) -> Result<Connection, async_nats::Error> {
        let lame_duck = Arc::new(AtomicBool::new(false));
        let duck = lame_duck.clone();
        let gaps = Arc::new(watch::Sender::new(0));
        let gap = gaps.clone();
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
        let client = options.connect(servers).await?;
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

    /// Changes whenever core subscriptions have missed something: the connection was lost, or one
    /// was too slow.
    pub fn gaps(&self) -> watch::Receiver<u64> {
        self.gaps.subscribe()
    }

    /// Says that core subscriptions may have missed something, for a reason that the connection
    /// cannot see.
    pub fn note_gap(&self) {
        self.gaps.send_modify(|count| *count += 1);
    }

    /// How often a connection was made, the first included. It is counted before the subscriptions
    /// are made anew: whoever gets a message and sees the number that he saw before has missed
    /// nothing by a lost connection.
    pub fn connects(&self) -> u64 {
        self.client.statistics().connects.load(Ordering::Relaxed)
    }

    /// Whether the server has said that it is about to stop.
    pub fn is_lame_duck(&self) -> bool {
        self.lame_duck.load(Ordering::Relaxed)
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
        // A violation of permissions shows only here; the call itself just times out.
        Event::ServerError(e) => {
            counter!("nats_server_errors_total").increment(1);
            error!(error = %e, "the NATS server refused something");
        }
        // Mostly one for each try to reconnect; that the connection is lost has been said.
        Event::ClientError(e) => {
            counter!("nats_client_errors_total").increment(1);
            debug!(error = %e, "NATS client error");
        }
        other => info!(event = %other, "NATS"),
    }
}
