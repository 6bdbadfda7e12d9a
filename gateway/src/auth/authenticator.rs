//! Finds out who calls: by an access token, which it also issues, or by the internal services' key.
//! How a user comes by a token is in `login_service`.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, header};
use axum::middleware::Next;
use axum::response::Response;
use contract::domain::User;
use contract::{Id, Timestamp};
use runtime::net::access_token::{BadToken, Claims, Signer, Verifier};
use secrecy::{ExposeSecret, SecretString};
use subtle::ConstantTimeEq;

use super::caller::Caller;
use crate::api::problem::Problem;

/// The keys of access tokens and of the internal services.
#[derive(Clone)]
pub struct Authenticator(Arc<Keys>);

struct Keys {
    signer: Signer,
    verifier: Verifier,
    ttl: Duration,
    internal_key: SecretString,
}

impl Authenticator {
    /// Access tokens are signed with `access_secret` and valid for `ttl`.
    pub fn new(
        access_secret: &SecretString,
        ttl: Duration,
        internal_key: &SecretString,
    ) -> Authenticator {
        Authenticator(Arc::new(Keys {
            signer: Signer::new(access_secret),
            verifier: Verifier::new(access_secret),
            ttl,
            internal_key: internal_key.clone(),
        }))
    }

    /// An access token of a login, and the seconds that it is valid.
    pub fn issue(
        &self,
        user: &User,
        session: Id,
        now: Timestamp,
    ) -> Result<(String, u64), Problem> {
        let iat = now.millis() / 1_000;
        let ttl = self.0.ttl.as_secs();
        let claims = Claims {
            user_id: user.id,
            company_id: user.company_id,
            role: user.role,
            sid: Some(session),
            iat: Some(iat),
            nbf: None,
            exp: iat + ttl as i64,
        };
        let token = self.0.signer.sign(&claims).map_err(|error| {
            tracing::error!(error, "a token cannot be signed");
            Problem::Internal
        })?;
        Ok((token, ttl))
    }

    fn verify(&self, token: &str) -> Result<Caller, Problem> {
        let claims = self.0.verifier.verify(token, Timestamp::now());
        let Claims {
            user_id: user,
            company_id: company,
            role,
            sid: session,
            ..
        } = claims.map_err(|bad| match bad {
            BadToken::Expired => Problem::TokenExpired,
            BadToken::Invalid => Problem::InvalidToken,
        })?;
        Ok(Caller::Staff {
            user,
            company,
            role,
            session,
        })
    }

    /// The caller who sends these headers. If there is a bearer token, it alone decides.
    fn caller(&self, headers: &HeaderMap) -> Result<Caller, Problem> {
        if let Some(bearer) = headers.get(header::AUTHORIZATION) {
            // The scheme is the same in small letters and in capitals (RFC 9110, 11.1).
            let bearer = bearer
                .to_str()
                .ok()
                .and_then(|text| text.trim().split_once(' '));
            let (_, token) = bearer
                .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
                .ok_or(Problem::InvalidToken)?;
            return self.verify(token.trim());
        }
        match headers.get("x-api-key") {
            Some(key) if self.is_internal_key(key.as_bytes()) => Ok(Caller::Service),
            _ => Err(Problem::InvalidToken),
        }
    }

    fn is_internal_key(&self, given: &[u8]) -> bool {
        given
            .ct_eq(self.0.internal_key.expose_secret().as_bytes())
            .into()
    }
}

/// A layer that finds out once who calls, for the rate limits and for the handlers.
pub async fn identify(
    State(authenticator): State<Authenticator>,
    mut request: Request,
    next: Next,
) -> Response {
    let caller = authenticator.caller(request.headers());
    if let Ok(Caller::Staff { company, .. }) = &caller {
        tracing::Span::current().record("company", tracing::field::display(company));
    }
    request.extensions_mut().insert(caller);
    next.run(request).await
}

#[cfg(test)]
mod tests {
    use axum::http::HeaderName;
    use contract::domain::StaffRole;

    use super::*;

    fn authenticator(secret: &str) -> Authenticator {
        Authenticator::new(
            &secret.into(),
            Duration::from_secs(900),
            &"k".repeat(32).into(),
        )
    }

    fn user() -> User {
        serde_json::from_value(serde_json::json!({
            "_id": "d".repeat(24), "company_id": "a".repeat(24), "email": "a@b.c", "fullName": "A",
            "role": "manager", "password_hash": "", "created_at": "2026-01-01T00:00:00.000Z",
        }))
        .unwrap()
    }

    #[test]
    fn a_token_is_valid_until_it_expires_and_only_under_its_key() {
        let session = Id::from_bytes([7; 12]);
        let good = authenticator(&"s".repeat(32));
        let (token, _) = good.issue(&user(), session, Timestamp::now()).unwrap();
        assert_eq!(
            good.verify(&token),
            Ok(Caller::Staff {
                user: user().id,
                company: user().company_id,
                role: StaffRole::Manager,
                session: Some(session)
            })
        );
        assert_eq!(
            authenticator(&"t".repeat(32)).verify(&token),
            Err(Problem::InvalidToken)
        );
        let (old, _) = good
            .issue(&user(), session, Timestamp::from_millis(0))
            .unwrap();
        assert_eq!(good.verify(&old), Err(Problem::TokenExpired));
        for bad in ["", "a.b.c", "eyJhbGciOiJub25lIn0.e30."] {
            assert_eq!(good.verify(bad), Err(Problem::InvalidToken), "{bad}");
        }
    }

    #[test]
    fn a_bearer_token_decides_and_a_key_must_be_exact() {
        let ours = authenticator(&"s".repeat(32));
        let (token, _) = ours
            .issue(&user(), Id::from_bytes([7; 12]), Timestamp::now())
            .unwrap();
        let with = |headers: &[(&'static str, &str)]| {
            ours.caller(
                &headers
                    .iter()
                    .map(|(n, v)| (HeaderName::from_static(n), v.parse().unwrap()))
                    .collect(),
            )
        };
        let (bearer, key, near) = (
            format!("Bearer {token}"),
            "k".repeat(32),
            "k".repeat(31) + "j",
        );
        assert!(matches!(
            with(&[("authorization", &bearer), ("x-api-key", "wrong")]),
            Ok(Caller::Staff { .. })
        ));
        assert_eq!(
            with(&[("authorization", "Bearer x"), ("x-api-key", &key)]),
            Err(Problem::InvalidToken)
        );
        for scheme in ["bearer", "BEARER", "bEARER", "Bearer "] {
            let header = format!("{scheme} {token}");
            let caller = with(&[("authorization", &header)]);
            assert!(matches!(caller, Ok(Caller::Staff { .. })), "{scheme}");
        }
        for other in ["Basic", "Token", "Bearer:", "Bear"] {
            let header = format!("{other} {token}");
            assert_eq!(
                with(&[("authorization", &header)]),
                Err(Problem::InvalidToken)
            );
        }
        assert_eq!(
            with(&[("authorization", &token)]),
            Err(Problem::InvalidToken)
        );
        assert_eq!(with(&[("x-api-key", &key)]), Ok(Caller::Service));
        assert_eq!(with(&[("x-api-key", &near)]), Err(Problem::InvalidToken));
        assert_eq!(with(&[]), Err(Problem::InvalidToken));
    }
}
