//! The Meta bot over HTTP: the call that hands a message over. Decides neither when a call may begin
//! (see `admission`) nor what its end means (see `delivery::verdict`).

pub mod admission;
pub mod answer;
pub mod backoff;
pub mod breaker;

use std::time::{Duration, Instant};

use contract::Id;
use contract::domain::{Attachment, ExternalId, Message, Platform, ShortText};
use contract::header;
use contract::trace::TraceContext;
use metrics::histogram;
use runtime::net::http_client::{self, Client, HeaderMap, HeaderName, HeaderValue};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde_json::{Map, Value};

use admission::CALLS_AT_ONCE;
use answer::Ending;

/// The default time limit of a whole call: connecting, sending, the answer's head and body.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// The time limits that can be set. A longer one could outlast a stop, which takes 30 s at most and
/// waits for calls under way and the storing of their results.
pub const CALL_TIMEOUTS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));
/// Connections that are kept open between calls at most. Further ones are closed.
const MAX_IDLE_CONNECTIONS: usize = CALLS_AT_ONCE;

/// The bot cannot be called at all.
#[derive(Debug, thiserror::Error)]
pub enum BotError {
    /// `INTERNAL_SERVICE_API_KEY` holds characters that no HTTP header can.
    #[error("INTERNAL_SERVICE_API_KEY cannot be sent in an HTTP header")]
    ApiKey,
    /// The HTTP client cannot be made, for example because the system has no certificates.
    #[error("the HTTP client cannot be made: {0}")]
    Client(String),
}

/// The body of a call. The names are those of the Express backend.
#[derive(Serialize)]
struct ManualMessage<'a> {
    company_id: Id,
    customer_id: Id,
    platform: Platform,
    content: &'a str,
    attachments: &'a [Attachment],
    external_message_id: Option<&'a ExternalId>,
    access_token: &'a str,
    customer_social_id: Option<&'a ShortText>,
    /// What the API does not know and the bot may, such as a tag.
    #[serde(skip_serializing_if = "Map::is_empty")]
    extra: &'a Map<String, Value>,
}

/// A call that has ended.
#[derive(Clone, Debug)]
pub struct Called {
    pub ending: Ending,
    pub took: Duration,
}

/// The bot. Cloning shares its connections.
#[derive(Clone)]
pub struct Bot {
    client: Client,
    base_url: String,
    timeout: Duration,
}

impl Bot {
    /// Connects to nothing yet.
    ///
    /// # Errors
    /// See [`BotError`].
    pub fn new(
        base_url: String,
        api_key: &SecretString,
        timeout: Duration,
    ) -> Result<Bot, BotError> {
        let mut key =
            HeaderValue::from_str(api_key.expose_secret()).map_err(|_| BotError::ApiKey)?;
        key.set_sensitive(true);
        let key = HeaderMap::from_iter([(HeaderName::from_static("x-api-key"), key)]);
        let client = http_client::client(&base_url, |client| {
            client
                .default_headers(key)
                .pool_max_idle_per_host(MAX_IDLE_CONNECTIONS)
        })
        .map_err(BotError::Client)?;
        Ok(Bot {
            client,
            base_url,
            timeout,
        })
    }

    /// Hands a message over. Ends within the timeout. The message's id is the idempotency key.
    /// `customer` is the contact's id on the platform, `token` the company's access to the platform.
    pub async fn deliver(
        &self,
        message: &Message,
        customer: Option<&ShortText>,
        token: &SecretString,
        trace: TraceContext,
    ) -> Called {
        let body = ManualMessage {
            company_id: message.company_id,
            customer_id: message.contact_id,
            platform: message.platform,
            content: message.content.as_str(),
            attachments: &message.attachments,
            external_message_id: message.external_message_id.as_ref(),
            access_token: token.expose_secret(),
            customer_social_id: customer,
            extra: &message.of_channel,
        };
        let request = self
            .client
            .post(format!(
                "{}/chat/manual-{}",
                self.base_url, message.platform
            ))
            .timeout(self.timeout)
            .header("Idempotency-Key", message.id.to_string())
            .header(header::TRACEPARENT, trace.child().to_string())
            .json(&body);
        let started = Instant::now();
        let ending = Ending::read(http_client::send(request).await, token.expose_secret());
        let took = started.elapsed();
        histogram!("forward_seconds").record(took.as_secs_f64());
        Called { ending, took }
    }
}

#[cfg(test)]
mod tests;
