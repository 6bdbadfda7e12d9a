//! Who calls, and how a user logs in. Which route needs which caller is decided by the routes.

mod authenticator;
mod caller;
mod cookies;
mod lockout;
mod login_service;
mod passwords;
mod sessions;
mod signed_tokens;

pub use authenticator::{Authenticator, identify};
pub use caller::Caller;
pub use cookies::{Cookies, refresh_token};
pub use lockout::Lockout;
pub use login_service::{Login, LoginResponse, LoginService, PublicUser};
pub use passwords::{PASSWORD_BYTES, Passwords};
pub use sessions::{Open, Sessions};
pub use signed_tokens::{INVITATION_TTL, Invitation, Refresh, SignedTokens};
