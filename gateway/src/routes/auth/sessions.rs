//! `/auth/refresh` and `/auth/logout`: how a login goes on, and how it ends. How it begins is in
//! `auth`.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use contract::Timestamp;
use contract::domain::InvalidText;
use contract::query::GetUser;
use runtime::rpc::query::QueryError;
use serde_json::{Map, Value, json};
use std::sync::Arc;

use super::public;
use crate::api::extract::{MaybeJson, Trace};
use crate::api::field_reader::Fields;
use crate::api::problem::Problem;
use crate::auth::{Caller, LoginService, Open, Refresh, refresh_token};
use crate::log::Log;
use crate::schema::{
    BadBody, BadLogin, Denied, Forbidden, LoggedIn, LogoutBody, RefreshBody, Refused,
};

/// `POST /auth/refresh`: the next access token, and the next refresh token, in place of this one.
#[utoipa::path(
    post,
    path = "/refresh",
    tag = "auth",
    summary = "Go on with a login",
    description = "The refresh token is good once; the answer has the next one. One that comes a second time ends the session.",
    request_body = RefreshBody,
    responses((status = 200, body = LoggedIn), Refused, BadBody, BadLogin, Forbidden),
    security(()),
)]
pub async fn refresh(
    State(log): State<Log>,
    State(logins): State<Arc<LoginService>>,
    Trace(trace): Trace,
    headers: HeaderMap,
    MaybeJson(body): MaybeJson,
) -> Result<Response, Problem> {
    let token = given(&logins, &headers, &body)?;
    let token = match (token, &logins.cookies) {
        (Some(token), _) => token,
        (None, Some(_)) => return Err(Problem::InvalidToken),
        (None, None) => return Err(Problem::field("refreshToken", "is required")),
    };
    let Refresh {
        user_id,
        company_id,
        sid,
        jti,
    } = logins.signed_tokens.verify(&token)?;
    // Asked first: where the database is away, the token stays good.
    let user = log
        .ask(
            &GetUser {
                company_id,
                id: user_id,
            },
            trace,
        )
        .await
        .map_err(|e| match e {
            QueryError::NotFound => Problem::InvalidToken,
            other => other.into(),
        })?;
    let now = Timestamp::now();
    let open = logins
        .sessions
        .rotate(
            user_id,
            Open {
                session: sid,
                token: jti,
            },
            now,
        )
        .await?;
    let body = Map::from_iter([
        ("message".to_owned(), json!("Refreshed")),
        ("user".to_owned(), public(&user)),
    ]);
    logins.answer(StatusCode::OK, body, &user, open, now)
}

/// `POST /auth/logout`: ends the session of the access token, and that of the refresh token, if one
/// comes with it; beside a good refresh token the access token may have expired. 204 also if they
/// have ended already. The access token itself is good until it expires.
#[utoipa::path(
    post,
    path = "/logout",
    tag = "auth",
    summary = "End a login",
    description = "Beside a good refresh token the access token may have expired.",
    request_body = Option<LogoutBody>,
    responses((status = 204, description = "The session is over; the access token is good until it expires."), Refused, Denied, BadBody),
)]
pub async fn logout(
    State(logins): State<Arc<LoginService>>,
    caller: Result<Caller, Problem>,
    headers: HeaderMap,
    MaybeJson(body): MaybeJson,
) -> Result<Response, Problem> {
    let access = match caller {
        Ok(Caller::Staff { user, session, .. }) => Some((user, session)),
        Ok(Caller::Service) => return Err(Problem::Forbidden("a service does not log in")),
        Err(Problem::TokenExpired) => None,
        Err(problem) => return Err(problem),
    };
    let refresh = match given(&logins, &headers, &body)?
        .map(|token| logins.signed_tokens.verify::<Refresh>(&token))
    {
        Some(Ok(refresh)) => Some((refresh.user_id, refresh.sid)),
        // Its session has expired with it.
        Some(Err(Problem::TokenExpired)) | None => None,
        Some(Err(problem)) => return Err(problem),
    };
    let Some((user, _)) = access.or(refresh.map(|(user, sid)| (user, Some(sid)))) else {
        return Err(Problem::TokenExpired);
    };
    if refresh.is_some_and(|(of, _)| of != user) {
        return Err(Problem::Forbidden("the refresh token is somebody else's"));
    }
    let session = access.and_then(|(_, session)| session);
    for session in session.into_iter().chain(
        refresh
            .map(|(_, sid)| sid)
            .filter(|sid| Some(*sid) != session),
    ) {
        logins.sessions.end(user, session).await?;
    }
    let mut response = StatusCode::NO_CONTENT.into_response();
    if let Some(cookies) = &logins.cookies {
        cookies.clear(response.headers_mut());
    }
    Ok(response)
}

/// The refresh token, from where this gateway has it come.
fn given(
    logins: &LoginService,
    headers: &HeaderMap,
    body: &Map<String, Value>,
) -> Result<Option<String>, Problem> {
    if logins.cookies.is_some() {
        return refresh_token(headers);
    }
    let mut f = Fields::of(body);
    let token = f.optional("refreshToken", |t| Ok::<_, InvalidText>(t.to_owned()));
    f.finish()?;
    Ok(token)
}
