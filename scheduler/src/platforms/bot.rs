//! Asks the Meta bot for its health. Sends the bot no message.

use std::time::Duration;

use contract::domain::BotStatus;
use metrics::{counter, histogram};
use runtime::net::http_client::{self, Client, Ending, Method, Request, Url};
use tokio::time::Instant;

/// How long the bot may take to answer. After that the bot counts as down.
const TIMEOUT: Duration = Duration::from_secs(5);

/// A client of the Meta bot. Cloning shares its connections.
#[derive(Clone)]
pub struct Bot {
    client: Client,
    address: Url,
}

/// The result of one probe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeResult {
    pub status: BotStatus,
    /// Why the bot counts as down.
    pub why: Option<String>,
    pub took: Duration,
}

impl Bot {
    /// # Errors
    /// The client cannot be made, or the address is not a URL.
    pub fn new(base_url: &str) -> Result<Bot, String> {
        let address = Url::parse(&format!("{base_url}/health"))
            .map_err(|e| format!("META_BOT_BASE_URL: {e}"))?;
        Ok(Bot {
            client: http_client::client(address.as_str(), |client| client)?,
            address,
        })
    }

    /// Asks the bot once, for at most [`TIMEOUT`].
    pub async fn probe(&self) -> ProbeResult {
        let mut request = Request::new(Method::GET, self.address.clone());
        *request.timeout_mut() = Some(TIMEOUT);
        let started = Instant::now();
        let ending = http_client::call(&self.client, request).await;
        let took = started.elapsed();
        let why = why_down(&ending);
        let status = if why.is_none() {
            BotStatus::Up
        } else {
            BotStatus::Down
        };
        histogram!("bot_probe_seconds").record(took.as_secs_f64());
        counter!("bot_probes_total", "result" => if why.is_none() { "up" } else { "down" })
            .increment(1);
        ProbeResult { status, why, took }
    }
}

fn why_down(ending: &Ending) -> Option<String> {
    match ending {
        Ending::Answered(answer) if (200..=299).contains(&answer.status) => None,
        Ending::Answered(answer) => Some(format!("HTTP {}", answer.status)),
        Ending::NoConnection => Some("no connection".into()),
        Ending::TimedOut => Some(format!("no answer within {TIMEOUT:?}")),
        Ending::Broken => Some("the connection broke".into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use runtime::net::http_client::{Answer, Body};

    #[test]
    fn the_bot_is_up_only_if_it_answers_with_a_2xx() {
        let answered = |status| {
            Ending::Answered(Answer {
                status,
                retry_after: None,
                body: Body::Whole(Vec::new()),
            })
        };
        for (ending, why) in [
            (answered(200), None),
            (answered(204), None),
            (answered(302), Some("HTTP 302")),
            (answered(503), Some("HTTP 503")),
            (Ending::NoConnection, Some("no connection")),
            (Ending::TimedOut, Some("no answer within 5s")),
            (Ending::Broken, Some("the connection broke")),
        ] {
            assert_eq!(why_down(&ending).as_deref(), why, "{ending:?}");
        }
    }
}
