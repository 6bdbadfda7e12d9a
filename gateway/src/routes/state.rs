//! The state that the routes share.

use std::sync::Arc;

use axum::extract::FromRef;
use runtime::seal::Keyring;

use super::dead_letters::access::DeadLetterAccess;
use super::messages::delivery_wait::DeliveryWaits;
use crate::auth::{Authenticator, LoginService};
use crate::log::Log;

/// What the routes need; each handler takes only its part. It is cloned for each request and layer,
/// so every part is cheap to clone.
#[derive(Clone)]
pub struct App {
    /// Events and queries.
    pub log: Log,
    /// What a caller shows.
    pub authenticator: Authenticator,
    /// What `/auth` needs to let somebody in.
    pub logins: Arc<LoginService>,
    /// Seals the platforms' access tokens.
    pub keyring: Keyring,
    /// DeliveryWaits for deliveries.
    pub waits: Arc<DeliveryWaits>,
    /// What could not be processed.
    pub letters: Arc<DeadLetterAccess>,
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
part!(Authenticator, authenticator);
part!(Arc<LoginService>, logins);
part!(Keyring, keyring);
part!(Arc<DeliveryWaits>, waits);
part!(Arc<DeadLetterAccess>, letters);
