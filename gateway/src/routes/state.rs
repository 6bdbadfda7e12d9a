//! The state that the routes share.

use std::sync::Arc;

use axum::extract::FromRef;
use runtime::seal::Keyring;

use super::dead_letters::access::Letters;
use super::messages::delivery_wait::Waits;
use crate::auth::{Logins, Tokens};
use crate::log::Log;

/// What the routes need; each handler takes only its part. It is cloned for each request and layer,
/// so every part is cheap to clone.
#[derive(Clone)]
pub struct App {
    /// Events and queries.
    pub log: Log,
    /// What a caller shows.
    pub tokens: Tokens,
    /// What `/auth` needs to let somebody in.
    pub logins: Arc<Logins>,
    /// Seals the platforms' access tokens.
    pub keyring: Keyring,
    /// Waits for deliveries.
    pub waits: Arc<Waits>,
    /// What could not be processed.
    pub letters: Arc<Letters>,
}

macro_rules! part {
    ($type:ty, $field:ident) => {
        impl FromRef<App> for $type {
            fn from_ref(app: &App) -> $type {
                app.$field.clone()
            }
        }
    };
}
part!(Log, log);
part!(Tokens, tokens);
part!(Arc<Logins>, logins);
part!(Keyring, keyring);
part!(Arc<Waits>, waits);
part!(Arc<Letters>, letters);
