//! Exchanges a token at the Graph API for one that lives longer. Does not decide what the answer
//! means; see `verdict`.

use std::time::Duration;

use metrics::histogram;
use runtime::net::http_client::{self, Client, Ending, Method, Request, Url};
use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;

use crate::config::GraphSettings;

/// How long a whole exchange may take, from connecting to the last byte of the answer. Shorter than
/// the consumer's ack wait. Otherwise the task could be redelivered meanwhile.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A client of the Graph API, with the credentials of one app. Cloning shares its connections.
#[derive(Clone)]
pub struct Graph {
    client: Client,
    address: Url,
    app_id: String,
    app_secret: SecretString,
}

impl Graph {
    /// Returns `None` without an app.
    ///
    /// # Errors
    /// The client cannot be made, or the address is not a URL.
    pub fn new(settings: GraphSettings) -> Result<Option<Graph>, String> {
        let GraphSettings {
            app_id: Some(app_id),
            app_secret: Some(app_secret),
            version,
            base_url,
        } = settings
        else {
            return Ok(None);
        };
        let address = Url::parse(&format!("{base_url}/{version}/oauth/access_token"));
        let address = address.map_err(|e| format!("FACEBOOK_GRAPH_BASE_URL: {e}"))?;
        let client = http_client::client(address.as_str(), |client| client)?;
        Ok(Some(Graph {
            client,
            address,
            app_id,
            app_secret,
        }))
    }

    /// Exchanges a token for a long-lived one. The old token stays valid, so a repetition does no
    /// harm.
    pub async fn exchange(&self, token: &SecretString) -> Ending {
        let mut address = self.address.clone();
        address
            .query_pairs_mut()
            .append_pair("grant_type", "fb_exchange_token")
            .append_pair("client_id", &self.app_id)
            .append_pair("client_secret", self.app_secret.expose_secret())
            .append_pair("fb_exchange_token", token.expose_secret());
        let mut request = Request::new(Method::GET, address);
        *request.timeout_mut() = Some(TIMEOUT);
        let started = Instant::now();
        let ending = http_client::call(&self.client, request).await;
        histogram!("token_exchange_seconds").record(started.elapsed().as_secs_f64());
        ending
    }
}
