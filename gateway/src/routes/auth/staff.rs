//! `/auth/invitations` and `/auth/me`: what a caller who is logged in asks about the staff.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use contract::Timestamp;
use contract::query::GetUser;
use serde::Serialize;
use utoipa::ToSchema;

use super::fields::InvitationBody;
use crate::api::extract::{Call, JsonBody};
use crate::api::problem::Problem;
use crate::api::refusals::{BadBody, Denied, Missing, Refused};
use crate::api::response::json;
use crate::auth::{Caller, INVITATION_TTL, Invitation, LoginService, PublicUser};

/// What somebody needs to join the company.
#[derive(Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Invited {
    invitation: String,
    /// Seconds that it is good.
    expires_in: u64,
    /// Where to accept it, if the gateway knows its frontend.
    #[schema(required = false, value_type = String)]
    #[serde(skip_serializing_if = "Option::is_none")]
    url: Option<String>,
}

/// Who calls.
#[derive(Serialize, ToSchema)]
pub struct OneUser {
    user: PublicUser,
}

/// `POST /auth/invitations`: what somebody needs to join the caller's company.
#[utoipa::path(
    post,
    path = "/invitations",
    tag = "auth",
    summary = "Invite somebody to join the company",
    description = "For managers. The invitation is handed over by the caller; no mail is sent.",
    request_body = InvitationBody,
    responses((status = 201, body = Invited), Refused, Denied, BadBody),
)]
pub async fn invite(
    State(logins): State<Arc<LoginService>>,
    caller: Caller,
    body: JsonBody<InvitationBody>,
) -> Result<Response, Problem> {
    let company_id = caller.manager()?;
    let InvitationBody { email, role } = body.read()?;
    let invitation = Invitation {
        company_id,
        email,
        role,
    };
    let invitation = logins
        .signed_tokens
        .sign(invitation, INVITATION_TTL, Timestamp::now())?;
    let frontend = logins.frontend_url.as_ref();
    let invited = Invited {
        url: frontend.map(|url| format!("{url}/register?invitation={invitation}")),
        invitation,
        expires_in: INVITATION_TTL.as_secs(),
    };
    Ok(json(StatusCode::CREATED, invited))
}

/// `GET /auth/me`
#[utoipa::path(
    get,
    path = "/me",
    tag = "auth",
    summary = "Who calls",
    responses((status = 200, body = OneUser), Refused, Denied, Missing),
)]
pub async fn me(Call { log, caller, trace }: Call) -> Result<Response, Problem> {
    let Caller::Staff { user, company, .. } = caller else {
        return Err(Problem::Forbidden("a service is nobody's account"));
    };
    let question = GetUser {
        company_id: company,
        id: user,
    };
    let user = log
        .ask(&question, trace)
        .await
        .map_err(Problem::missing("user"))?;
    Ok(json(StatusCode::OK, OneUser { user: user.into() }))
}
