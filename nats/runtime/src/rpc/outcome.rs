//! Waiting for the persister's answer to a command, and sending the answer. A missing answer is no
//! failure: the event is in the log and will be applied. Publishes no command.

use std::time::Duration;

use futures_util::StreamExt;
use tracing::warn;

use crate::net::connection::{Connection, REQUEST_TIMEOUT};
use contract::outcome::Outcome;
use contract::subject;
use contract::{Id, Timestamp};

/// How long a caller waits for the outcome. Beyond it the client gets a 202.
pub const OUTCOME_TIMEOUT: Duration = Duration::from_secs(3);

/// A subscription for one answer. Open it before the command is published. Otherwise the answer
/// could be missed.
pub struct Inbox {
    /// The value of the command's header `Outcome-Inbox`.
    pub subject: String,
    subscription: async_nats::Subscriber,
}

impl Inbox {
    /// Opens an inbox for one command.
    ///
    /// # Errors
    /// The client is closed, or takes nothing within [`REQUEST_TIMEOUT`].
    pub async fn open(connection: &Connection) -> Result<Inbox, String> {
        let open = Inbox::subscribe(connection);
        tokio::time::timeout(REQUEST_TIMEOUT, open)
            .await
            .map_err(|_| "the client is stuck".to_owned())?
            .map_err(|e| e.to_string())
    }

    async fn subscribe(connection: &Connection) -> Result<Inbox, async_nats::SubscribeError> {
        let call = Id::generate(Timestamp::now()).to_string();
        let subject = subject::outcome(connection.service, &connection.instance, &call);
        let mut subscription = connection.client.subscribe(subject.clone()).await?;
        // One answer is all that comes.
        if let Err(e) = subscription.unsubscribe_after(1).await {
            warn!(error = %e, "an outcome inbox stays open until it is dropped");
        }
        Ok(Inbox {
            subject,
            subscription,
        })
    }

    /// The outcome, or `None` if none has come within [`OUTCOME_TIMEOUT`].
    pub async fn wait(mut self) -> Option<Outcome> {
        let message = tokio::time::timeout(OUTCOME_TIMEOUT, self.subscription.next())
            .await
            .ok()??;
        serde_json::from_slice(&message.payload)
            .map_err(|e| warn!(error = %e, "unreadable outcome"))
            .ok()
    }
}

/// Answers a command. That the caller no longer waits is no error.
pub async fn send(connection: &Connection, inbox: &str, outcome: &Outcome) {
    let Ok(payload) = serde_json::to_vec(outcome) else {
        return;
    };
    if !inbox.starts_with("outcome.") {
        warn!("an Outcome-Inbox outside outcome.> is not answered");
        return;
    }
    if let Err(e) = connection
        .client
        .publish(inbox.to_owned(), payload.into())
        .await
    {
        warn!(error = %e, "an outcome could not be sent");
    }
}
