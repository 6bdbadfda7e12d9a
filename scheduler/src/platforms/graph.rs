//! Exchanges a token at Meta for one that lives longer: tokens of Facebook Login at the Graph API,
//! tokens of Instagram Login at Instagram. Does not decide what the answer means; see `verdict`.

use std::time::Duration;

use metrics::histogram;
use runtime::net::http_client::{self, Client, Ending, Method, Request, Url};
use secrecy::{ExposeSecret, SecretString};
use tokio::time::Instant;

use crate::config::GraphSettings;

/// How long a whole exchange may take, from connecting to the last byte of the answer. Shorter than
/// the consumer's ack wait. Otherwise the task could be redelivered meanwhile.
const TIMEOUT: Duration = Duration::from_secs(10);

/// How tokens of Instagram Login begin. Those of Facebook Login begin with `EAA`, also for Instagram.
const INSTAGRAM_LOGIN: &str = "IG";

/// A client of the Graph API and of Instagram, with the credentials of one app. Cloning shares its connections.
#[derive(Clone)]
pub struct Graph {
    client: Client,
    address: Url,
    instagram: (Client, Url),
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
            instagram_base_url,
        } = settings
        else {
            return Ok(None);
        };
        let address = Url::parse(&format!("{base_url}/{version}/oauth/access_token"));
        let address = address.map_err(|e| format!("FACEBOOK_GRAPH_BASE_URL: {e}"))?;
        let client = http_client::client(address.as_str(), |client| client)?;
        let instagram = Url::parse(&format!("{instagram_base_url}/refresh_access_token"));
        let instagram = instagram.map_err(|e| format!("INSTAGRAM_GRAPH_BASE_URL: {e}"))?;
        let instagram_client = http_client::client(instagram.as_str(), |client| client)?;
        Ok(Some(Graph {
            client,
            address,
            instagram: (instagram_client, instagram),
            app_id,
            app_secret,
        }))
    }

    /// Exchanges a token for a long-lived one. The old token stays valid, so a repetition does no
    /// harm.
    pub async fn exchange(&self, token: &SecretString) -> Ending {
        let (client, address) = self.address_of(token);
        let mut request = Request::new(Method::GET, address);
        *request.timeout_mut() = Some(TIMEOUT);
        let started = Instant::now();
        let ending = http_client::call(client, request).await;
        histogram!("token_exchange_seconds").record(started.elapsed().as_secs_f64());
        ending
    }

    /// Where a token is exchanged. Instagram wants no app: the token tells.
    fn address_of(&self, token: &SecretString) -> (&Client, Url) {
        let token = token.expose_secret();
        if token.starts_with(INSTAGRAM_LOGIN) {
            let (client, mut address) = (&self.instagram.0, self.instagram.1.clone());
            address
                .query_pairs_mut()
                .append_pair("grant_type", "ig_refresh_token")
                .append_pair("access_token", token);
            return (client, address);
        }
        let mut address = self.address.clone();
        address
            .query_pairs_mut()
            .append_pair("grant_type", "fb_exchange_token")
            .append_pair("client_id", &self.app_id)
            .append_pair("client_secret", self.app_secret.expose_secret())
            .append_pair("fb_exchange_token", token);
        (&self.client, address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_exchanged_where_it_was_given() {
        let graph = Graph::new(GraphSettings {
            app_id: Some("4711".into()),
            app_secret: Some("s".into()),
            version: "v18.0".into(),
            base_url: "http://graph.example".into(),
            instagram_base_url: "http://instagram.example".into(),
        });
        let graph = graph.unwrap().unwrap();
        let facebook = |token: &str| {
            format!(
                "http://graph.example/v18.0/oauth/access_token?grant_type=fb_exchange_token\
                 &client_id=4711&client_secret=s&fb_exchange_token={token}"
            )
        };
        let instagram = |token: &str| {
            format!(
                "http://instagram.example/refresh_access_token?grant_type=ig_refresh_token\
                 &access_token={token}"
            )
        };
        for (token, address) in [
            ("EAABwz", facebook("EAABwz")),
            ("EAAIGA", facebook("EAAIGA")),
            ("good-1", facebook("good-1")),
            ("igaa", facebook("igaa")),
            ("IGAAlong", instagram("IGAAlong")),
            ("IGQVJ", instagram("IGQVJ")),
            ("IGAA%26", instagram("IGAA%2526")),
        ] {
            assert_eq!(
                graph.address_of(&token.into()).1.as_str(),
                address,
                "{token}"
            );
        }
    }
}
