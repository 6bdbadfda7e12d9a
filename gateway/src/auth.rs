//! Who calls: access tokens (JWT, HS256), the internal services' key, and password hashes. Sessions and lockout are not here.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRef, FromRequestParts};
use axum::http::request::Parts;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use nats::domain::{StaffRole, User};
use nats::event::Actor;
use nats::trace::TraceContext;
use nats::{Id, Timestamp};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use crate::problem::Problem;

/// The claims of an access token, by the names that the old backend's clients know. Any token so signed is valid.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Claims {
    user_id: Id,
    company_id: Id,
    role: StaffRole,
    iat: i64,
    exp: i64,
}

/// Who calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// A member of staff.
    Staff {
        /// Their id.
        user: Id,
        /// Their company: the only one whose data they reach.
        company: Id,
        /// What they may do.
        role: StaffRole,
        /// The session that their token came from, if it names one.
        session: Option<Id>,
    },
    /// An internal service, which names the company itself.
    Service,
}

impl Caller {
    /// For the envelope.
    pub fn actor(&self) -> Actor {
        match self {
            Caller::Staff { user, .. } => Actor::User { id: *user },
            Caller::Service => Actor::Service,
        }
    }

    /// The company that a request concerns, given the `company_id` it names, if it names one.
    pub fn company(&self, named: Option<Id>) -> Result<Id, Problem> {
        match (self, named) {
            (Caller::Staff { company, .. }, Some(named)) if named != *company => Err(Problem::Forbidden("company_id is not yours")),
            (Caller::Staff { company, .. }, _) => Ok(*company),
            (Caller::Service, Some(named)) => Ok(named),
            (Caller::Service, None) => Err(Problem::field("company_id", "is required")),
        }
    }

    /// The company of a member of staff. Services are refused.
    pub fn staff(&self) -> Result<Id, Problem> {
        match self {
            Caller::Staff { company, .. } => Ok(*company),
            Caller::Service => Err(Problem::Forbidden("only for staff")),
        }
    }

    /// The company of a manager. Everyone else is refused.
    pub fn manager(&self) -> Result<Id, Problem> {
        match self {
            Caller::Staff { company, role: StaffRole::Manager, .. } => Ok(*company),
            _ => Err(Problem::Forbidden("only for managers")),
        }
    }
}

/// Makes and checks credentials.
#[derive(Clone)]
pub struct Tokens(Arc<Keys>);

struct Keys {
    sign: EncodingKey,
    verify: DecodingKey,
    rules: Validation,
    ttl: Duration,
    internal_key: SecretString,
}

impl Tokens {
    /// With these secrets.
    pub fn new(access_secret: &SecretString, ttl: Duration, internal_key: &SecretString) -> Tokens {
        let secret = access_secret.expose_secret().as_bytes();
        let mut rules = Validation::new(Algorithm::HS256);
        rules.leeway = 0;
        rules.validate_aud = false;
        Tokens(Arc::new(Keys {
            sign: EncodingKey::from_secret(secret),
            verify: DecodingKey::from_secret(secret),
            rules,
            ttl,
            internal_key: internal_key.clone(),
        }))
    }

    /// An access token and the seconds that it lives.
    pub fn issue(&self, user: &User, now: Timestamp) -> Result<(String, u64), Problem> {
        let iat = now.millis() / 1_000;
        let ttl = self.0.ttl.as_secs();
        let claims = Claims { user_id: user.id, company_id: user.company_id, role: user.role, iat, exp: iat + ttl as i64 };
        let token = jsonwebtoken::encode(&Header::new(Algorithm::HS256), &claims, &self.0.sign).map_err(|e| {
            tracing::error!(error = %e, "a token cannot be signed");
            Problem::Internal
        })?;
        Ok((token, ttl))
    }

    fn verify(&self, token: &str) -> Result<Caller, Problem> {
        let claims = jsonwebtoken::decode::<Claims>(token, &self.0.verify, &self.0.rules).map_err(|e| match e.kind() {
            ErrorKind::ExpiredSignature => Problem::TokenExpired,
            _ => Problem::InvalidToken,
        })?;
        let Claims { user_id: user, company_id: company, role, .. } = claims.claims;
        Ok(Caller::Staff { user, company, role, session: None })
    }

    fn is_internal_key(&self, given: &[u8]) -> bool {
        constant_time_eq(given, self.0.internal_key.expose_secret().as_bytes())
    }
}

/// Takes as long for a near miss as for a far one. The length may show.
fn constant_time_eq(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |differences, (x, y)| differences | (x ^ y)) == 0
}

impl<S: Send + Sync> FromRequestParts<S> for Caller
where
    Tokens: FromRef<S>,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Caller, Problem> {
        let tokens = Tokens::from_ref(state);
        let caller = if let Some(bearer) = parts.headers.get(axum::http::header::AUTHORIZATION) {
            let token = bearer.to_str().ok().and_then(|b| b.strip_prefix("Bearer ")).ok_or(Problem::InvalidToken)?;
            tokens.verify(token.trim())?
        } else {
            match parts.headers.get("x-api-key") {
                Some(key) if tokens.is_internal_key(key.as_bytes()) => Caller::Service,
                _ => return Err(Problem::InvalidToken),
            }
        };
        if let Caller::Staff { company, .. } = caller {
            tracing::Span::current().record("company", tracing::field::display(company));
        }
        Ok(caller)
    }
}

/// bcrypt off the async threads, no more at a time than there are cores.
#[derive(Clone)]
pub struct Passwords {
    rounds: u32,
    slots: Arc<Semaphore>,
    /// Compared against where there is no such user, so that the answer takes as long.
    decoy: Arc<str>,
}

/// How long a login waits for its turn.
const PASSWORD_WAIT: Duration = Duration::from_secs(2);
/// bcrypt reads no more than 72 bytes; a longer password would be cut silently.
pub const PASSWORD_BYTES: std::ops::RangeInclusive<usize> = 8..=72;

impl Passwords {
    /// With this cost. Takes as long as one login.
    ///
    /// # Errors
    /// The system gives no random numbers.
    pub fn new(rounds: u32) -> Result<Passwords, bcrypt::BcryptError> {
        let cores = std::thread::available_parallelism().map_or(2, usize::from);
        let nobodys = format!("{}{}", Id::generate(Timestamp::now()), TraceContext::generate().trace_id());
        let decoy = bcrypt::hash(nobodys, rounds)?.into();
        Ok(Passwords { rounds, slots: Arc::new(Semaphore::new(cores)), decoy })
    }

    /// The hash to store.
    pub async fn hash(&self, password: String) -> Result<String, Problem> {
        let rounds = self.rounds;
        self.blocking(move || bcrypt::hash(password, rounds)).await?.map_err(|e| {
            tracing::error!(error = %e, "a password cannot be hashed");
            Problem::Internal
        })
    }

    /// Whether it is the user's password; as slow for a user that does not exist.
    pub async fn check(&self, password: String, hash: Option<String>) -> Result<bool, Problem> {
        let known = hash.is_some();
        let hash = hash.unwrap_or_else(|| self.decoy.to_string());
        let matches = self.blocking(move || bcrypt::verify(password, &hash).unwrap_or(false)).await?;
        Ok(matches && known)
    }

    async fn blocking<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> Result<T, Problem> {
        let slot = tokio::time::timeout(PASSWORD_WAIT, self.slots.clone().acquire_owned()).await;
        let Ok(Ok(slot)) = slot else { return Err(Problem::Overloaded) };
        // The slot goes with the work: a caller who leaves does not end it.
        let work = move || {
            let done = work();
            drop(slot);
            done
        };
        tokio::task::spawn_blocking(work).await.map_err(|_| Problem::Internal)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tokens(secret: &str) -> Tokens {
        Tokens::new(&secret.into(), Duration::from_secs(900), &"k".repeat(32).into())
    }

    fn user() -> User {
        serde_json::from_value(serde_json::json!({
            "_id": "d".repeat(24), "company_id": "a".repeat(24), "email": "a@b.c", "fullName": "A", "role": "manager",
            "password_hash": "", "created_at": "2026-01-01T00:00:00.000Z",
        }))
        .unwrap()
    }

    #[test]
    fn a_token_is_good_until_it_expires_and_only_under_its_key() {
        let good = tokens(&"s".repeat(32));
        let (token, _) = good.issue(&user(), Timestamp::now()).unwrap();
        let manager = Caller::Staff { user: user().id, company: user().company_id, role: StaffRole::Manager, session: None };
        assert_eq!(good.verify(&token), Ok(manager));
        assert_eq!(tokens(&"t".repeat(32)).verify(&token), Err(Problem::InvalidToken));
        let (old, _) = good.issue(&user(), Timestamp::from_millis(0)).unwrap();
        assert_eq!(good.verify(&old), Err(Problem::TokenExpired));
        for bad in ["", "a.b.c", "eyJhbGciOiJub25lIn0.e30."] {
            assert_eq!(good.verify(bad), Err(Problem::InvalidToken), "{bad}");
        }
    }

    #[tokio::test]
    async fn passwords_are_checked_and_nobody_has_the_decoys() {
        let passwords = Passwords::new(4).unwrap();
        let hash = passwords.hash("correct horse".into()).await.unwrap();
        assert!(passwords.check("correct horse".into(), Some(hash.clone())).await.unwrap());
        assert!(!passwords.check("wrong horse".into(), Some(hash)).await.unwrap());
        assert!(!passwords.check("anything".into(), None).await.unwrap());
    }
}
