//! `POST /auth/register`: a company with its first manager, or, with an invitation, one more member
//! of a company's staff.

use std::sync::Arc;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use contract::domain::{Company, Email, ShortText, SlaTargets, StaffRole, User};
use contract::event::{Actor, CompanyCreated, Envelope, Event};
use contract::outcome::Outcome;
use contract::query::UserByEmail;
use contract::{Id, Timestamp};
use runtime::rpc::query::QueryError;

use super::fields::RegistrationBody;
use crate::api::extract::{JsonBody, Trace};
use crate::api::problem::Problem;
use crate::api::refusals::{BadBody, Forbidden, Refused, Taken};
use crate::auth::{Invitation, Login, LoginResponse, LoginService};
use crate::log::Log;

/// Where a new user belongs.
enum Place {
    /// In a new company of this name, as its first manager.
    Founder(ShortText),
    /// In the company that invites.
    Invited(Invitation),
}

/// `POST /auth/register`
#[utoipa::path(
    post,
    path = "/register",
    tag = "auth",
    summary = "Register a company, or join one",
    description = "With an `invitation` the user joins the company that invites; without, a new \
        company begins with this user as its manager.",
    request_body = RegistrationBody,
    responses(
        (status = 201, body = LoginResponse),
        (status = 202, description = "It is in the log and will be applied.", body = LoginResponse),
        Refused, BadBody, Forbidden, Taken,
    ),
    security(()),
)]
pub async fn register(
    State(log): State<Log>,
    State(logins): State<Arc<LoginService>>,
    Trace(trace): Trace,
    body: JsonBody<RegistrationBody>,
) -> Result<Response, Problem> {
    let body = body.read()?;
    let place = place(&logins, body.invitation, body.company_name, &body.email)?;
    let email = body.email;
    let taken = Problem::Duplicate {
        key: "email",
        owner: None,
    };
    let by_email = UserByEmail {
        email: email.clone(),
    };
    match log.ask(&by_email, trace).await {
        Ok(_) => return Err(taken),
        Err(QueryError::NotFound) => {}
        Err(e) => return Err(e.into()),
    }
    let password_hash = logins.passwords.hash(body.password.0).await?;
    let now = Timestamp::now();
    let (company_id, role) = match &place {
        Place::Founder(_) => (Id::generate(now), StaffRole::Manager),
        Place::Invited(invitation) => (invitation.company_id, invitation.role),
    };
    let user = User {
        id: Id::generate(now),
        company_id,
        email,
        full_name: body.full_name,
        role,
        password_hash,
        created_at: now,
    };
    let company = match place {
        Place::Founder(name) => Some(Company {
            id: company_id,
            name,
            created_at: now,
            sla: SlaTargets::default(),
        }),
        Place::Invited(_) => None,
    };
    let event = match company.clone() {
        Some(company) => Event::CompanyCreated(CompanyCreated {
            company,
            manager: user.clone(),
        }),
        None => Event::UserCreated(user.clone()),
    };
    // The session is opened before the event is stored, because a user whose event is in the log
    // has registered, even if a later step fails.
    let open = logins.sessions.open(user.id, now).await?;
    let envelope = Envelope::new(now, Actor::User { id: user.id }, company_id, event);
    // Of two who register one email at once, the log takes the first.
    let msg_id = format!("email:{}", user.email);
    let (done, receipt) = log.command(&envelope, msg_id, trace).await?;
    if receipt.duplicate || matches!(done.outcome, Some(Outcome::Conflict { .. })) {
        return Err(taken);
    }
    let login = Login {
        status: match done.outcome {
            Some(_) => StatusCode::CREATED,
            None => StatusCode::ACCEPTED,
        },
        message: "Registered successfully",
        user,
        company,
        open,
    };
    logins.answer(login, now)
}

fn place(
    logins: &LoginService,
    invitation: Option<String>,
    company_name: Option<ShortText>,
    email: &Email,
) -> Result<Place, Problem> {
    match (invitation, company_name) {
        (Some(token), _) => invited(logins, &token, email).map(Place::Invited),
        (None, Some(name)) => Ok(Place::Founder(name)),
        (None, None) => Err(Problem::Internal), // the body has been read: it has one of the two
    }
}

fn invited(logins: &LoginService, token: &str, email: &Email) -> Result<Invitation, Problem> {
    match logins.signed_tokens.verify::<Invitation>(token) {
        Ok(invitation) if invitation.email == *email => Ok(invitation),
        Ok(_) => Err(Problem::Forbidden("the invitation is for another email")),
        Err(Problem::TokenExpired) => Err(Problem::Forbidden(
            "the invitation has expired; ask for another",
        )),
        Err(_) => Err(Problem::Forbidden("the invitation is none of ours")),
    }
}
