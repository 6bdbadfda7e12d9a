//! `/auth/refresh` and `/auth/logout`: how a login goes on, and how it ends. How a login begins is
//! in `login` and `register`.

use std::sync::Arc;

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use contract::Timestamp;
use contract::query::GetUser;
use runtime::rpc::query::QueryError;

use super::fields::{LogoutBody, RefreshBody};
use crate::api::extract::{MaybeJsonBody, Trace};
use crate::api::problem::Problem;
use crate::api::refusals::{BadBody, BadLogin, Denied, Forbidden, Refused};
use crate::auth::{Caller, Login, LoginResponse, LoginService, Open, Refresh, refresh_token};
use crate::log::Log;

/// `POST /auth/refresh`: the next access token, and the next refresh token in place of this one.
#[utoipa::path(
    post,
    path = "/refresh",
    tag = "auth",
    summary = "Go on with a login",
    description = "The refresh token is good once; the answer has the next one. One that comes a \
        second time ends the session.",
    request_body = RefreshBody,
    responses((status = 200, body = LoginResponse), Refused, BadBody, BadLogin, Forbidden),
    security(()),
)]
pub async fn refresh(
    State(log): State<Log>,
    State(logins): State<Arc<LoginService>>,
    Trace(trace): Trace,
    headers: HeaderMap,
    MaybeJsonBody(body): MaybeJsonBody<RefreshBody>,
) -> Result<Response, Problem> {
    let token = match logins.cookies {
        Some(_) => refresh_token(&headers)?.ok_or(Problem::InvalidToken)?,
        None => body.read()?.refresh_token,
    };
    let Refresh {
        user_id,
        company_id,
        sid,
        jti,
    } = logins.signed_tokens.verify(&token)?;
    let question = GetUser {
        company_id,
        id: user_id,
    };
    // The user is asked for before the token is used. Otherwise the token would be used up while
    // the database is away.
    let user = log.ask(&question, trace).await.map_err(|e| match e {
        QueryError::NotFound => Problem::InvalidToken,
        other => other.into(),
    })?;
    let now = Timestamp::now();
    let open = Open {
        session: sid,
        token: jti,
    };
    let login = Login {
        status: StatusCode::OK,
        message: "Refreshed",
        open: logins.sessions.rotate(user_id, open, now).await?,
        user,
        company: None,
    };
    logins.answer(login, now)
}

/// `POST /auth/logout`: ends the session of the access token, and that of the refresh token, if one
/// comes with it. Beside a good refresh token the access token may have expired. Sessions that have
/// ended already are no error.
#[utoipa::path(
    post,
    path = "/logout",
    tag = "auth",
    summary = "End a login",
    description = "Beside a good refresh token the access token may have expired.",
    request_body = Option<LogoutBody>,
    responses(
        (
            status = 204,
            description = "The session is over; the access token is good until it expires.",
        ),
        Refused, Denied, BadBody,
    ),
)]
pub async fn logout(
    State(logins): State<Arc<LoginService>>,
    caller: Result<Caller, Problem>,
    headers: HeaderMap,
    MaybeJsonBody(body): MaybeJsonBody<LogoutBody>,
) -> Result<Response, Problem> {
    let access = match caller {
        Ok(Caller::Staff { user, session, .. }) => Some((user, session)),
        Ok(Caller::Service) => return Err(Problem::Forbidden("a service does not log in")),
        Err(Problem::TokenExpired) => None,
        Err(problem) => return Err(problem),
    };
    let token = match logins.cookies {
        Some(_) => refresh_token(&headers)?,
        None => body.read()?.refresh_token,
    };
    let refresh = token.map(|token| logins.signed_tokens.verify::<Refresh>(&token));
    let refresh = match refresh {
        Some(Ok(refresh)) => Some((refresh.user_id, refresh.sid)),
        // The session of an expired refresh token has expired with it.
        Some(Err(Problem::TokenExpired)) | None => None,
        Some(Err(problem)) => return Err(problem),
    };
    let Some((user, _)) = access.or(refresh.map(|(user, sid)| (user, Some(sid)))) else {
        return Err(Problem::TokenExpired);
    };
    if refresh.is_some_and(|(of, _)| of != user) {
        return Err(Problem::Forbidden("the refresh token is somebody else's"));
    }
    let of_access = access.and_then(|(_, session)| session);
    let of_refresh = refresh.map(|(_, sid)| sid);
    for session in of_access
        .into_iter()
        .chain(of_refresh.filter(|sid| Some(*sid) != of_access))
    {
        logins.sessions.end(user, session).await?;
    }
    let mut response = StatusCode::NO_CONTENT.into_response();
    if let Some(cookies) = &logins.cookies {
        cookies.clear(response.headers_mut());
    }
    Ok(response)
}
