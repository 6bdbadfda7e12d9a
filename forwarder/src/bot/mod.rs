//! The Meta bot over HTTP: the call that hands a message over. Decides nothing; see `verdict`.

pub mod admission;
pub mod backoff;
pub mod breaker;

use std::error::Error;
use std::time::{Duration, Instant};

use contract::domain::{Attachment, ExternalId, Message, Platform, ShortText};
use contract::header;
use contract::trace::TraceContext;
use contract::{Id, Timestamp};
use metrics::histogram;
use reqwest::header::{HeaderMap, HeaderValue, RETRY_AFTER};
use reqwest::{Client, Response, redirect, retry};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;

use crate::delivery::verdict::{Ending, graph_error, retry_after};

/// A whole call: connecting, sending, the answer's head and body. Unless it is set otherwise.
pub const CALL_TIMEOUT: Duration = Duration::from_secs(10);
/// What can be set. A stop, which takes 30 s at most, waits for calls under way and the storing of
/// their results.
pub const CALL_TIMEOUTS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));
/// Its part for connecting.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Connections kept open between calls; as many as there are calls at once.
const MAX_IDLE_CONNECTIONS: usize = crate::CALLS_AT_ONCE;
/// And for how long. Shorter than the idle limits that servers usually have, so that none is closed
/// under a call.
const MAX_IDLE: Duration = Duration::from_secs(4);
/// Of an answer's body so much is read, so that the connection can be used again; past it the
/// connection is closed.
const MAX_ANSWER_BYTES: usize = 64 * 1024;

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

/// What the bot is told. The names are the old backend's.
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
}

/// How a call went.
#[derive(Clone, Debug)]
pub struct Called {
    /// How it ended.
    pub ending: Ending,
    /// How long it took.
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
        let mut client = Client::builder()
            .default_headers(HeaderMap::from_iter([(
                reqwest::header::HeaderName::from_static("x-api-key"),
                key,
            )]))
            .connect_timeout(CONNECT_TIMEOUT)
            .pool_max_idle_per_host(MAX_IDLE_CONNECTIONS)
            .pool_idle_timeout(MAX_IDLE)
            // The key and the message go to the address that was configured, and nowhere else.
            .redirect(redirect::Policy::none())
            .no_proxy()
            // Every call is an attempt that the log tells of.
            .retry(retry::never());
        if !base_url.starts_with("https:") {
            // No certificate is needed then, so their absence must not stop the start.
            client = client.tls_certs_only([]);
        }
        // reqwest's own text is just "builder error".
        let why = |e: reqwest::Error| {
            e.source()
                .map_or_else(|| e.to_string(), ToString::to_string)
        };
        let client = client.build().map_err(|e| BotError::Client(why(e)))?;
        Ok(Bot {
            client,
            base_url,
            timeout,
        })
    }

    /// Hands a message over; ends within the timeout. The message's id is the idempotency key.
    /// `customer` is the contact's id on the platform, `token` the company's access to it.
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
        let ending = match request.send().await {
            Ok(response) => answered(response).await,
            Err(e) if e.is_connect() => Ending::NoConnection,
            Err(e) if e.is_timeout() => Ending::TimedOut,
            Err(_) => Ending::Broken,
        };
        let took = started.elapsed();
        histogram!("forward_seconds").record(took.as_secs_f64());
        Called { ending, took }
    }
}

/// The status decides; a body that breaks off changes nothing about it.
async fn answered(response: Response) -> Ending {
    let status = response.status().as_u16();
    let asked = response
        .headers()
        .get(RETRY_AFTER)
        .and_then(|v| v.to_str().ok());
    let retry_after = asked.and_then(|text| retry_after(text, Timestamp::now()));
    let body = body(response).await;
    Ending::Answered {
        status,
        retry_after,
        graph: graph_error(&body),
    }
}

/// The body as far as it is read.
async fn body(mut response: Response) -> Vec<u8> {
    let mut body = Vec::new();
    while let Ok(Some(part)) = response.chunk().await {
        if body.len() + part.len() > MAX_ANSWER_BYTES {
            return body;
        }
        body.extend_from_slice(&part);
    }
    body
}

#[cfg(test)]
mod tests;
