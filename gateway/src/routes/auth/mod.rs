//! `/auth`: register a company or join one, log in, invite, see who one is. How a login goes on and
//! ends is in `sessions`.

pub mod sessions;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use contract::domain::{Company, Email, InvalidText, ShortText, SlaTargets, StaffRole, User};
use contract::event::{Actor, CompanyCreated, Envelope, Event};
use contract::outcome::Outcome;
use contract::query::{GetUser, UserByEmail};
use contract::{Id, Timestamp};
use runtime::rpc::query::QueryError;
use serde_json::{Map, Value, json};
use std::sync::Arc;

use crate::api::extract::{Call, JsonObject, Trace};
use crate::api::field_reader::Fields;
use crate::api::problem::Problem;
use crate::api::response::json;
use crate::auth::{Caller, INVITATION_TTL, Invitation, LoginService, PASSWORD_BYTES};
use crate::log::Log;
use crate::schema::{
    BadBody, BadLogin, Credentials, Denied, Forbidden, InvitationBody, Invited, Locked, LoggedIn,
    Missing, OneUser, Refused, RegistrationBody, Taken,
};

/// What a registration asks for.
struct Registration {
    place: Place,
    full_name: ShortText,
    email: Email,
    password: String,
}

/// Where the new user belongs.
enum Place {
    /// In a new company, as its first manager.
    Founder(ShortText),
    /// In the company that invites.
    Invited(Invitation),
}

/// `POST /auth/register`: a company with its first manager, or, with an invitation, one more of its
/// staff.
#[utoipa::path(
    post,
    path = "/register",
    tag = "auth",
    summary = "Register a company, or join one",
    description = "With an `invitation` the user joins the company that invites; without, a new company begins with this user as its manager.",
    request_body = RegistrationBody,
    responses((status = 201, body = LoggedIn), (status = 202, description = "It is in the log and will be applied.", body = LoggedIn), Refused, BadBody, Forbidden, Taken),
    security(()),
)]
pub async fn register(
    State(log): State<Log>,
    State(logins): State<Arc<LoginService>>,
    Trace(trace): Trace,
    JsonObject(body): JsonObject,
) -> Result<Response, Problem> {
    let Registration {
        place,
        full_name,
        email,
        password,
    } = read_registration(&body, &logins)?;
    let taken = Problem::Duplicate {
        key: "email",
        holder: None,
    };
    match log
        .ask(
            &UserByEmail {
                email: email.clone(),
            },
            trace,
        )
        .await
    {
        Ok(_) => return Err(taken),
        Err(QueryError::NotFound) => {}
        Err(e) => return Err(e.into()),
    }
    let password_hash = logins.passwords.hash(password).await?;
    let now = Timestamp::now();
    let (company_id, role) = match &place {
        Place::Founder(_) => (Id::generate(now), StaffRole::Manager),
        Place::Invited(invitation) => (invitation.company_id, invitation.role),
    };
    let user = User {
        id: Id::generate(now),
        company_id,
        email,
        full_name,
        role,
        password_hash,
        created_at: now,
    };
    let mut answer = Map::from_iter([
        ("message".to_owned(), json!("Registered successfully")),
        ("user".to_owned(), public(&user)),
    ]);
    let event = match place {
        Place::Founder(name) => {
            let company = Company {
                id: company_id,
                name,
                created_at: now,
                sla: SlaTargets::default(),
            };
            answer.insert("company".into(), json!(company));
            Event::CompanyCreated(CompanyCreated {
                company,
                manager: user.clone(),
            })
        }
        Place::Invited(_) => Event::UserCreated(user.clone()),
    };
    // Before the event: a user who is in the log has registered, whatever fails after it.
    let open = logins.sessions.open(user.id, now).await?;
    let envelope = Envelope::new(now, Actor::User { id: user.id }, company_id, event);
    // Two who register one email at once: the log takes the first.
    let (settled, receipt) = log
        .command(&envelope, format!("email:{}", user.email), trace)
        .await?;
    if receipt.duplicate || matches!(settled.outcome, Some(Outcome::Conflict { .. })) {
        return Err(taken);
    }
    let status = if settled.outcome.is_some() {
        StatusCode::CREATED
    } else {
        StatusCode::ACCEPTED
    };
    logins.answer(status, answer, &user, open, now)
}

fn read_registration(
    body: &Map<String, Value>,
    logins: &LoginService,
) -> Result<Registration, Problem> {
    let mut f = Fields::of(body);
    let invitation = f.optional("invitation", |token| Ok::<_, InvalidText>(token.to_owned()));
    let company_name = match f.has("invitation") {
        true => None,
        false => f.required("company_name", ShortText::new),
    };
    let full_name = f.required("fullName", ShortText::new);
    let email = f.required("email", Email::new);
    let password = f.required("password", password);
    f.finish()?;
    let (Some(full_name), Some(email), Some(password)) = (full_name, email, password) else {
        return Err(Problem::Internal); // finish() has refused what is absent
    };
    let place = match (invitation, company_name) {
        (Some(token), _) => Place::Invited(invited(logins, &token, &email)?),
        (None, Some(name)) => Place::Founder(name),
        (None, None) => return Err(Problem::Internal),
    };
    Ok(Registration {
        place,
        full_name,
        email,
        password,
    })
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

/// `POST /auth/login`
#[utoipa::path(
    post,
    path = "/login",
    tag = "auth",
    summary = "Log in",
    description = "Five failures within 15 minutes lock the account for 15 minutes, whether it exists or not.",
    request_body = Credentials,
    responses((status = 200, body = LoggedIn), Refused, BadBody, BadLogin, Locked),
    security(()),
)]
pub async fn login(
    State(log): State<Log>,
    State(logins): State<Arc<LoginService>>,
    Trace(trace): Trace,
    JsonObject(body): JsonObject,
) -> Result<Response, Problem> {
    let mut f = Fields::of(&body);
    let email = f.required("email", Email::new);
    let password = f.required("password", |p| Ok::<_, InvalidText>(p.to_owned()));
    f.finish()?;
    let (Some(email), Some(password)) = (email, password) else {
        return Err(Problem::Internal);
    };
    let user = match log
        .ask(
            &UserByEmail {
                email: email.clone(),
            },
            trace,
        )
        .await
    {
        Ok(user) => Some(user),
        Err(QueryError::NotFound) => None,
        Err(e) => return Err(e.into()),
    };
    // Last of all the attempt is counted, so that none counts that we were too busy to check.
    let turn = logins.passwords.acquire().await?;
    logins.lockout.reserve(&email).await?;
    let good = logins
        .passwords
        .check(
            turn,
            password,
            user.as_ref().map(|u| u.password_hash.clone()),
        )
        .await?;
    let Some(user) = user.filter(|_| good) else {
        return Err(Problem::BadLogin);
    };
    logins.lockout.forget(&email).await;
    let now = Timestamp::now();
    let open = logins.sessions.open(user.id, now).await?;
    let body = Map::from_iter([
        ("message".to_owned(), json!("Logged in")),
        ("user".to_owned(), public(&user)),
    ]);
    logins.answer(StatusCode::OK, body, &user, open, now)
}

/// `POST /auth/invitations`: what somebody needs to join the caller's company. It is handed over by
/// the caller; we send no mail.
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
    JsonObject(body): JsonObject,
) -> Result<Response, Problem> {
    let company_id = caller.manager()?;
    let mut f = Fields::of(&body);
    let email = f.required("email", Email::new);
    let role = f.required("role", |text| match text {
        "manager" => Ok(StaffRole::Manager),
        "receptionist" => Ok(StaffRole::Receptionist),
        _ => Err(InvalidText::Form("manager or receptionist")),
    });
    f.finish()?;
    let (Some(email), Some(role)) = (email, role) else {
        return Err(Problem::Internal);
    };
    let invitation = Invitation {
        company_id,
        email,
        role,
    };
    let invitation = logins
        .signed_tokens
        .sign(invitation, INVITATION_TTL, Timestamp::now())?;
    let mut answer = json!({"invitation": invitation, "expiresIn": INVITATION_TTL.as_secs()});
    if let Some(frontend) = &logins.frontend_url {
        answer["url"] = json!(format!("{frontend}/register?invitation={invitation}"));
    }
    Ok(json(StatusCode::CREATED, answer))
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
    let user = log
        .ask(
            &GetUser {
                company_id: company,
                id: user,
            },
            trace,
        )
        .await
        .map_err(Problem::missing("user"))?;
    Ok(json(StatusCode::OK, json!({"user": public(&user)})))
}

fn password(text: &str) -> Result<String, InvalidText> {
    match PASSWORD_BYTES.contains(&text.len()) {
        true if text.contains('\0') => Err(InvalidText::Control),
        true => Ok(text.to_owned()),
        false => Err(InvalidText::Form("8 to 72 bytes long")),
    }
}

/// A user without the password hash.
pub fn public(user: &User) -> Value {
    json!({"_id": user.id, "company_id": user.company_id, "email": user.email, "fullName": user.full_name, "role": user.role, "created_at": user.created_at})
}
