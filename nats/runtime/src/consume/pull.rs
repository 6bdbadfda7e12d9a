//! Pulling messages of one durable consumer, one request at a time. Unlike the client's own endless
//! stream, a pull asks for no further messages by itself. So a stopping worker can give back every
//! message that the server has already sent. Settles nothing.

use std::time::Duration;

use async_nats::jetstream::{Context, Message};
use async_nats::{PublishError, StatusCode, SubscribeError, Subscriber};
use futures_util::StreamExt;
use serde_json::json;
use tokio::time::Instant;

use crate::net::connection::Connection;

/// How long a request stays open at the server. A stopping worker waits at most this long for the
/// end of its last request.
const EXPIRES: Duration = Duration::from_secs(2);
/// How long a request to a pinned consumer stays open. It is well below
/// `inventory::PARTITION_PIN_TIMEOUT`. Otherwise the pin would be lost between two requests.
const EXPIRES_PINNED: Duration = Duration::from_secs(1);
/// How often the server says that it is there, while a request is open.
const HEARTBEAT: Duration = Duration::from_millis(400);
/// Silence of the server after which an open request counts as lost.
const LOST_AFTER: Duration = Duration::from_millis(1_500);

/// What a request brings.
pub enum Pulled {
    Message(Box<Message>),
    /// The open request brings no further message.
    Exhausted,
}

/// Why a pull is of no more use.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    /// The client is closed.
    #[error(transparent)]
    Subscribe(#[from] SubscribeError),
    /// The client is closed.
    #[error(transparent)]
    Publish(#[from] PublishError),
    /// The subscription to the answers ended.
    #[error("the subscription ended")]
    Ended,
    /// The server did not even send a heartbeat.
    #[error("the server has fallen silent")]
    Silent,
    /// The consumer is gone, or the server refuses the request.
    #[error("{status} {description}")]
    Refused {
        status: StatusCode,
        description: String,
    },
}

/// Requests to one consumer, and their messages.
pub struct Pull {
    jetstream: Context,
    subject: String,
    inbox: String,
    answers: Subscriber,
    /// The group of a pinned consumer, and this member's pin if it has one.
    group: Option<(&'static str, Option<String>)>,
    /// Messages that the open request may still bring.
    outstanding: usize,
    heard: Instant,
}

impl Pull {
    /// Asks for nothing yet.
    ///
    /// # Errors
    /// The client is closed.
    pub async fn open(
        connection: &Connection,
        stream: &str,
        consumer: &str,
    ) -> Result<Pull, PullError> {
        let inbox = connection.client.new_inbox();
        let answers = connection.client.subscribe(inbox.clone()).await?;
        let subject = format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}");
        Ok(Pull {
            jetstream: connection.jetstream.clone(),
            subject,
            inbox,
            answers,
            group: None,
            outstanding: 0,
            heard: Instant::now(),
        })
    }

    /// The same, as a member of a pinned consumer's group. The server sends messages only to the
    /// member that it has pinned.
    pub fn in_group(mut self, group: &'static str) -> Pull {
        self.group = Some((group, None));
        self
    }

    /// Sends this pin with every further request.
    pub fn set_pin(&mut self, pin: String) {
        if let Some((_, pinned)) = &mut self.group {
            *pinned = Some(pin);
        }
    }

    /// Whether an open request may still bring messages.
    pub fn is_open(&self) -> bool {
        self.outstanding > 0
    }

    /// Asks for up to `batch` messages. Call it only while no request is open.
    ///
    /// # Errors
    /// The client is closed.
    pub async fn request(&mut self, batch: usize) -> Result<(), PullError> {
        let expires = if self.group.is_some() {
            EXPIRES_PINNED
        } else {
            EXPIRES
        };
        let mut request = json!({
            "batch": batch,
            "expires": expires.as_nanos() as u64,
            "idle_heartbeat": HEARTBEAT.as_nanos() as u64,
        });
        if let Some((group, pin)) = &self.group {
            request["group"] = json!(group);
            if let Some(pin) = pin {
                request["id"] = json!(pin);
            }
        }
        let client = self.jetstream.client();
        client
            .publish_with_reply(
                self.subject.clone(),
                self.inbox.clone(),
                request.to_string().into(),
            )
            .await?;
        self.outstanding = batch;
        self.heard = Instant::now();
        Ok(())
    }

    /// The next message of the open request, or that there is none. May be cancelled and called
    /// again.
    ///
    /// # Errors
    /// The consumer is gone, or the server refuses or has fallen silent. Then the pull is of no
    /// more use.
    pub async fn next(&mut self) -> Result<Pulled, PullError> {
        loop {
            if self.outstanding == 0 {
                return Ok(Pulled::Exhausted);
            }
            let answer =
                match tokio::time::timeout_at(self.heard + LOST_AFTER, self.answers.next()).await {
                    Ok(Some(answer)) => answer,
                    Ok(None) => return Err(PullError::Ended),
                    Err(_) => return Err(PullError::Silent),
                };
            self.heard = Instant::now();
            let why = || answer.description.clone().unwrap_or_default();
            match answer.status {
                None | Some(StatusCode::OK) => {
                    self.outstanding -= 1;
                    return Ok(Pulled::Message(Box::new(Message {
                        message: answer,
                        context: self.jetstream.clone(),
                    })));
                }
                Some(StatusCode::IDLE_HEARTBEAT) => {}
                // Expired, or ended by a change of the server's leader.
                Some(StatusCode::TIMEOUT) => self.outstanding = 0,
                Some(StatusCode::REQUEST_TERMINATED) if why() != "Consumer Deleted" => {
                    self.outstanding = 0
                }
                Some(status) => {
                    return Err(PullError::Refused {
                        status,
                        description: why(),
                    });
                }
            }
        }
    }
}
