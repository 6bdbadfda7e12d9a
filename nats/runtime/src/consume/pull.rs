//! Pulling messages of one durable consumer, one request at a time. Unlike the client's own endless
//! stream it asks for nothing once it shall stop, so that what the server has already sent can be
//! given back whole. It settles nothing.

use std::time::Duration;

use async_nats::jetstream::{Context, Message};
use async_nats::{StatusCode, Subscriber};
use futures_util::StreamExt;
use serde_json::json;
use tokio::time::Instant;

use crate::net::connection::Connection;

/// A request stays open at the server for so long. It bounds how long a stopping worker waits for
/// the end of its last one.
const EXPIRES: Duration = Duration::from_secs(2);
/// The same for a pinned consumer: well below `stream::PARTITION_PIN_TIMEOUT`, or the pin is lost
/// between two requests.
const EXPIRES_PINNED: Duration = Duration::from_secs(1);
/// The server says so often that it is there, while a request is open.
const HEARTBEAT: Duration = Duration::from_millis(400);
/// Nothing at all for so long: the request is lost.
const LOST_AFTER: Duration = Duration::from_millis(1_500);

/// What the consumer says next.
pub enum Pulled {
    /// A message.
    Message(Box<Message>),
    /// Nothing more comes of what was asked for.
    Exhausted,
}

/// Requests to one consumer, and what comes of them.
pub struct Pull {
    jetstream: Context,
    subject: String,
    inbox: String,
    answers: Subscriber,
    /// The group of a pinned consumer, and the pin if it is ours.
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
    ) -> Result<Pull, String> {
        let inbox = connection.client.new_inbox();
        let answers = connection
            .client
            .subscribe(inbox.clone())
            .await
            .map_err(|e| e.to_string())?;
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

    /// The same, as a member of a pinned consumer's group: the server sends to the one that it has
    /// pinned.
    pub fn in_group(mut self, group: &'static str) -> Pull {
        self.group = Some((group, None));
        self
    }

    /// Requests show this pin from now on.
    pub fn set_pin(&mut self, pin: String) {
        if let Some((_, pinned)) = &mut self.group {
            *pinned = Some(pin);
        }
    }

    /// Whether an open request may still bring messages.
    pub fn is_open(&self) -> bool {
        self.outstanding > 0
    }

    /// Asks for up to `batch` messages. Only when nothing is open any more.
    ///
    /// # Errors
    /// The client is closed.
    pub async fn request(&mut self, batch: usize) -> Result<(), String> {
        let expires = if self.group.is_some() {
            EXPIRES_PINNED
        } else {
            EXPIRES
        };
        let mut request = json!({"batch": batch, "expires": expires.as_nanos() as u64, "idle_heartbeat": HEARTBEAT.as_nanos() as u64});
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
            .await
            .map_err(|e| e.to_string())?;
        self.outstanding = batch;
        self.heard = Instant::now();
        Ok(())
    }

    /// The next message of the open request, or that there is none. May be cancelled and called
    /// again.
    ///
    /// # Errors
    /// The consumer is gone, the server refuses, or it has fallen silent; then this pull is of no
    /// more use.
    pub async fn next(&mut self) -> Result<Pulled, String> {
        loop {
            if self.outstanding == 0 {
                return Ok(Pulled::Exhausted);
            }
            let answer =
                match tokio::time::timeout_at(self.heard + LOST_AFTER, self.answers.next()).await {
                    Ok(Some(answer)) => answer,
                    Ok(None) => return Err("the subscription ended".into()),
                    Err(_) => return Err("the server has fallen silent".into()),
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
                Some(status) => return Err(format!("{status} {}", why())),
            }
        }
    }
}
