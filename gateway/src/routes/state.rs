//! The state that the routes share. Each handler takes its part only.

use std::sync::Arc;

use axum::extract::FromRef;
use runtime::seal::Keyring;

use super::dead_letters::access::DeadLetterAccess;
use super::messages::delivery_wait::DeliveryWaits;
use crate::auth::{Authenticator, LoginService};
use crate::log::Log;

/// What the routes need. Because it is cloned for each request and layer, every part is cheap to
/// clone.
#[derive(Clone)]
pub struct App {
    /// Events and queries.
    pub log: Log,
    pub authenticator: Authenticator,
    pub logins: Arc<LoginService>,
    /// Seals the platforms' access tokens.
    pub keyring: Keyring,
    pub delivery_waits: Arc<DeliveryWaits>,
    pub dead_letters: Arc<DeadLetterAccess>,
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
part!(Arc<DeliveryWaits>, delivery_waits);
part!(Arc<DeadLetterAccess>, dead_letters);
