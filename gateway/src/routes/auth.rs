//! `/auth`: register a company with its first manager, log in, see who one is.

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Response;
use nats::domain::{Company, Email, InvalidText, ShortText, StaffRole, User};
use nats::event::{Actor, CompanyCreated, Envelope, Event};
use nats::outcome::Outcome;
use nats::query::UserByEmail;
use nats::runtime::query::QueryError;
use nats::{Id, Timestamp};
use serde_json::{Value, json};

use crate::auth::{Caller, PASSWORD_BYTES, Passwords, Tokens};
use crate::http::{JsonObject, Trace, json};
use crate::log::Log;
use crate::problem::Problem;
use crate::validate::Fields;

/// `POST /auth/register`
pub async fn register(
    State(log): State<Log>,
    State(tokens): State<Tokens>,
    State(passwords): State<Passwords>,
    Trace(trace): Trace,
    JsonObject(body): JsonObject,
) -> Result<Response, Problem> {
    let mut f = Fields::of(&body);
    let company_name = f.required("company_name", ShortText::new);
    let full_name = f.required("fullName", ShortText::new);
    let email = f.required("email", Email::new);
    let password = f.required("password", password);
    f.finish()?;
    let (Some(company_name), Some(full_name), Some(email), Some(password)) = (company_name, full_name, email, password) else {
        return Err(Problem::Internal); // finish() has refused what is absent
    };
    let taken = Problem::Duplicate { key: "email", holder: None };
    match log.ask(&UserByEmail { email: email.clone() }, trace).await {
        Ok(_) => return Err(taken),
        Err(QueryError::NotFound) => {}
        Err(e) => return Err(e.into()),
    }
    let password_hash = passwords.hash(password).await?;
    let now = Timestamp::now();
    let company = Company { id: Id::generate(now), name: company_name, created_at: now };
    let manager = User {
        id: Id::generate(now),
        company_id: company.id,
        email: email.clone(),
        full_name,
        role: StaffRole::Manager,
        password_hash,
        created_at: now,
    };
    let actor = Actor::User { id: manager.id };
    let event = Event::CompanyCreated(CompanyCreated { company: company.clone(), manager: manager.clone() });
    let envelope = Envelope::new(now, actor, company.id, event);
    // Two who register one email at once: the log takes the first.
    let (settled, receipt) = log.command(&envelope, format!("email:{email}"), trace).await?;
    if receipt.duplicate || matches!(settled.outcome, Some(Outcome::Conflict { .. })) {
        return Err(taken);
    }
    let (token, expires_in) = tokens.issue(&manager, now)?;
    let status = if settled.outcome.is_some() { StatusCode::CREATED } else { StatusCode::ACCEPTED };
    Ok(json(
        status,
        json!({"message": "Registered successfully", "company": company, "user": public(&manager), "accessToken": token, "expiresIn": expires_in}),
    ))
}

/// `POST /auth/login`
pub async fn login(
    State(log): State<Log>,
    State(tokens): State<Tokens>,
    State(passwords): State<Passwords>,
    Trace(trace): Trace,
    JsonObject(body): JsonObject,
) -> Result<Response, Problem> {
    let mut f = Fields::of(&body);
    let email = f.required("email", Email::new);
    let password = f.required("password", |p| Ok::<_, InvalidText>(p.to_owned()));
    f.finish()?;
    let (Some(email), Some(password)) = (email, password) else { return Err(Problem::Internal) };
    let user = match log.ask(&UserByEmail { email }, trace).await {
        Ok(user) => Some(user),
        Err(QueryError::NotFound) => None,
        Err(e) => return Err(e.into()),
    };
    let good = passwords.check(password, user.as_ref().map(|u| u.password_hash.clone())).await?;
    let Some(user) = user.filter(|_| good) else { return Err(Problem::BadLogin) };
    let (token, expires_in) = tokens.issue(&user, Timestamp::now())?;
    Ok(json(StatusCode::OK, json!({"message": "Logged in", "user": public(&user), "accessToken": token, "expiresIn": expires_in})))
}

/// `GET /auth/me`
pub async fn me(caller: Caller) -> Result<Response, Problem> {
    match caller {
        Caller::Staff { user, company, .. } => Ok(json(StatusCode::OK, json!({"user": {"_id": user, "company_id": company}}))),
        Caller::Service => Err(Problem::Forbidden("a service is nobody's account")),
    }
}

fn password(text: &str) -> Result<String, InvalidText> {
    match PASSWORD_BYTES.contains(&text.len()) {
        true => Ok(text.to_owned()),
        false => Err(InvalidText::Form("8 to 72 bytes long")),
    }
}

/// A user without the password hash.
fn public(user: &User) -> Value {
    json!({"_id": user.id, "company_id": user.company_id, "email": user.email, "fullName": user.full_name, "role": user.role, "created_at": user.created_at})
}
