//! `POST /auth/login`: how a login begins.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use contract::Timestamp;
use contract::query::UserByEmail;
use runtime::rpc::query::QueryError;

use super::fields::Credentials;
use crate::api::extract::{JsonBody, Trace};
use crate::api::problem::Problem;
use crate::api::refusals::{BadBody, BadLogin, Locked, Refused};
use crate::auth::{Login, LoginResponse, LoginService};
use crate::log::Log;

/// `POST /auth/login`
#[utoipa::path(
    post,
    path = "/login",
    tag = "auth",
    summary = "Log in",
    description = "Five failures within 15 minutes lock the account for 15 minutes, whether it \
        exists or not.",
    request_body = Credentials,
    responses((status = 200, body = LoginResponse), Refused, BadBody, BadLogin, Locked),
    security(()),
)]
pub async fn login(
    State(log): State<Log>,
    State(logins): State<Arc<LoginService>>,
    Trace(trace): Trace,
    body: JsonBody<Credentials>,
) -> Result<Response, Problem> {
    let Credentials { email, password } = body.read()?;
    let by_email = UserByEmail {
        email: email.clone(),
    };
    let user = match log.ask(&by_email, trace).await {
        Ok(user) => Some(user),
        Err(QueryError::NotFound) => None,
        Err(e) => return Err(e.into()),
    };
    // The attempt is counted last of all. Otherwise an attempt would count that the gateway was too
    // busy to check.
    let permit = logins.passwords.acquire().await?;
    logins.lockout.reserve(&email).await?;
    let hash = user.as_ref().map(|user| user.password_hash.clone());
    let is_good = logins.passwords.check(permit, password, hash).await?;
    let Some(user) = user.filter(|_| is_good) else {
        return Err(Problem::BadLogin);
    };
    logins.lockout.forget(&email).await;
    let now = Timestamp::now();
    let open = logins.sessions.open(user.id, now).await?;
    let login = Login {
        status: StatusCode::OK,
        message: "Logged in",
        user,
        company: None,
        open,
    };
    logins.answer(login, now)
}
