//! Fetches a new access token from Google's OAuth with a refresh token (RFC 6749, section 6). Does
//! not decide what the answer means; see `verdict`.

use std::time::Duration;

use metrics::histogram;
use runtime::net::http_client::{self, Client, Ending, HeaderValue, Method, Request, Url};
use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;

use crate::config::GoogleSettings;

/// How long a whole call may take, from connecting to the last byte of the answer. Shorter than the
/// consumer's ack wait. Otherwise the task could be redelivered meanwhile.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A client of Google's OAuth, with the credentials of one OAuth client. Cloning shares its
/// connections.
#[derive(Clone)]
pub struct Google {
    client: Client,
    address: Url,
    client_id: String,
    client_secret: SecretString,
}

impl Google {
    /// Returns `None` without an OAuth client.
    ///
    /// # Errors
    /// The HTTP client cannot be made, or the address is not a URL.
    pub fn new(settings: GoogleSettings) -> Result<Option<Google>, String> {
        let GoogleSettings {
            client: Some((client_id, client_secret)),
            token_url,
        } = settings
        else {
            return Ok(None);
        };
        let address = Url::parse(&token_url).map_err(|e| format!("GOOGLE_TOKEN_URL: {e}"))?;
        let client = http_client::client(address.as_str(), |client| client)?;
        Ok(Some(Google {
            client,
            address,
            client_id,
            client_secret,
        }))
    }

    /// Asks for a new access token. The refresh token stays valid, unless the answer has a new one.
    pub async fn refresh(&self, refresh_token: &SecretString) -> Ending {
        let mut request = Request::new(Method::POST, self.address.clone());
        *request.timeout_mut() = Some(TIMEOUT);
        request.headers_mut().insert(
            http_client::header::CONTENT_TYPE,
            HeaderValue::from_static("application/x-www-form-urlencoded"),
        );
        *request.body_mut() = Some(self.form(refresh_token).into());
        let started = Instant::now();
        let ending = http_client::call(&self.client, request).await;
        histogram!("token_exchange_seconds").record(started.elapsed().as_secs_f64());
        ending
    }

    /// The body of the request. A form is encoded like a query string.
    fn form(&self, refresh_token: &SecretString) -> String {
        let mut form = self.address.clone();
        form.query_pairs_mut()
            .clear()
            .append_pair("grant_type", "refresh_token")
            .append_pair("client_id", &self.client_id)
            .append_pair("client_secret", self.client_secret.expose_secret())
            .append_pair("refresh_token", refresh_token.expose_secret());
        form.query().unwrap_or_default().to_owned()
    }
}
