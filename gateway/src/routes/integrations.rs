//! `/integrations`: a company's access to the platforms. Authenticator go in and never come out: they are
//! sealed before anything is stored, and no answer holds one, sealed or not.

use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::response::Response;
use contract::domain::{Integration, Provider, Sealed, ShortText};
use contract::event::{Event, IntegrationDeleted};
use contract::outcome::Outcome;
use contract::query::{GetIntegration, IntegrationView, ListIntegrations, RefreshError};
use contract::{Id, Timestamp};
use runtime::seal::Keyring;
use secrecy::SecretString;
use serde::Serialize;
use tracing::error;
use utoipa::ToSchema;

use super::command::{accepted, command};
use crate::api::extract::{Call, JsonObject, company_in};
use crate::api::field_reader::{Fields, QueryFields, provider_name};
use crate::api::problem::Problem;
use crate::api::response::json;
use crate::auth::Caller;
use crate::schema::{
    BadBody, ChannelProvider, Denied, IntegrationBody, Later, Missing, OfCompany, Refused,
};

/// Longest token.
const TOKEN_CHARS: usize = 4_096;

/// An integration without its tokens.
#[derive(Serialize, ToSchema)]
#[schema(as = Integration)]
pub struct Shown {
    company_id: Id,
    #[serde(rename = "platform")]
    provider: Provider,
    account_id: Option<ShortText>,
    account_name: Option<ShortText>,
    token_expires_at: Option<Timestamp>,
    updated_at: Timestamp,
    /// Which of `ENCRYPTION_KEYS` it is sealed with.
    key_id: String,
    /// Why the token could not be renewed: connect again.
    refresh_error: Option<RefreshError>,
}

impl From<IntegrationView> for Shown {
    fn from(view: IntegrationView) -> Shown {
        Shown {
            refresh_error: view.refresh_error,
            ..Shown::from(view.integration)
        }
    }
}

impl From<Integration> for Shown {
    fn from(integration: Integration) -> Shown {
        let Integration {
            company_id,
            provider,
            account_id,
            account_name,
            access_token,
            refresh_token,
            token_expires_at,
            updated_at,
        } = integration;
        // Both are sealed with the same key, and one of them is there.
        let Sealed { key_id, .. } = access_token.or(refresh_token).unwrap_or(Sealed {
            key_id: String::new(),
            sealed: String::new(),
        });
        Shown {
            company_id,
            provider,
            account_id,
            account_name,
            token_expires_at,
            updated_at,
            key_id,
            refresh_error: None,
        }
    }
}

/// An integration that is saved.
#[derive(Serialize, ToSchema)]
#[schema(as = IntegrationSaved)]
pub struct Saved {
    message: &'static str,
    integration: Shown,
    seq: u64,
}

/// All of a company.
#[derive(Serialize, ToSchema)]
#[schema(as = IntegrationList)]
struct All {
    integrations: Vec<Shown>,
}

/// One.
#[derive(Serialize, ToSchema)]
#[schema(as = OneIntegration)]
pub struct One {
    integration: Shown,
}

/// An integration that is gone.
#[derive(Serialize, ToSchema)]
#[schema(as = IntegrationRemoved)]
pub struct Removed {
    message: &'static str,
    #[serde(rename = "platform")]
    provider: Provider,
    seq: u64,
}

/// `PUT /integrations/{platform}`: enter the access, or replace it whole.
#[utoipa::path(
    put,
    path = "/{platform}",
    tag = "integrations",
    summary = "Enter or replace a company's access to a platform",
    description = "For managers. The token is stored encrypted, and no answer holds it.",
    request_body = IntegrationBody,
    params(("platform" = inline(ChannelProvider), Path, description = "Upper and lower case are the same.")),
    responses((status = 200, body = Saved), Refused, Denied, BadBody, Later),
)]
pub async fn put(
    State(keyring): State<Keyring>,
    Call { log, caller, trace }: Call,
    Path(platform): Path<String>,
    JsonObject(body): JsonObject,
) -> Result<Response, Problem> {
    let company_id = caller.manager()?;
    let provider = provider(&platform)?;
    let mut f = Fields::of(&body);
    let named = f.optional("company_id", str::parse::<Id>);
    let (access_token, refresh_token) = tokens(&mut f, provider);
    let account_id = f.non_empty("account_id", ShortText::new);
    let account_name = f.non_empty("account_name", ShortText::new);
    // It is the access token's.
    let token_expires_at = f
        .optional("token_expires_at", str::parse::<Timestamp>)
        .filter(|_| access_token.is_some());
    f.finish()?;
    caller.company(named)?;
    let seal = |token: Option<SecretString>| {
        token
            .map(|token| keyring.seal(&token, company_id, provider))
            .transpose()
            .map_err(|e| {
                error!(error = %e, "a token cannot be sealed");
                Problem::Internal
            })
    };
    let (access_token, refresh_token) = (seal(access_token)?, seal(refresh_token)?);
    let updated_at = Timestamp::now();
    let integration = Integration {
        company_id,
        provider,
        account_id,
        account_name,
        access_token,
        refresh_token,
        token_expires_at,
        updated_at,
    };
    let settled = command(
        &log,
        &caller,
        company_id,
        Event::IntegrationUpdated(integration.clone()),
        trace,
    )
    .await?;
    if settled.outcome.is_none() {
        return Ok(accepted(
            &settled,
            &format!("/api/v1/integrations/{provider}"),
        ));
    }
    let shown = Shown::from(integration);
    Ok(json(
        StatusCode::OK,
        Saved {
            message: "Integration saved successfully",
            integration: shown,
            seq: settled.seq,
        },
    ))
}

/// `GET /integrations`
#[utoipa::path(
    get,
    path = "/",
    tag = "integrations",
    summary = "List the integrations",
    params(OfCompany),
    responses((status = 200, body = All), Refused, Denied),
)]
pub async fn list(
    Call { log, caller, trace }: Call,
    QueryFields(query): QueryFields,
) -> Result<Response, Problem> {
    let company_id = company(&caller, &query)?;
    let found = log.ask(&ListIntegrations { company_id }, trace).await?;
    Ok(json(
        StatusCode::OK,
        All {
            integrations: found.into_iter().map(Shown::from).collect(),
        },
    ))
}

/// `GET /integrations/{platform}`
#[utoipa::path(
    get,
    path = "/{platform}",
    tag = "integrations",
    summary = "Look at an integration",
    params(("platform" = inline(ChannelProvider), Path, description = "Upper and lower case are the same."), OfCompany),
    responses((status = 200, body = One), Refused, Denied, Missing),
)]
pub async fn get(
    Call { log, caller, trace }: Call,
    Path(platform): Path<String>,
    QueryFields(query): QueryFields,
) -> Result<Response, Problem> {
    let question = GetIntegration {
        company_id: company(&caller, &query)?,
        provider: provider(&platform)?,
    };
    let found = log
        .ask(&question, trace)
        .await
        .map_err(Problem::missing("integration"))?;
    Ok(json(
        StatusCode::OK,
        One {
            integration: Shown::from(found),
        },
    ))
}

/// `DELETE /integrations/{platform}`
#[utoipa::path(
    delete,
    path = "/{platform}",
    tag = "integrations",
    summary = "Remove an integration",
    description = "For managers.",
    params(("platform" = inline(ChannelProvider), Path, description = "Upper and lower case are the same.")),
    responses((status = 200, body = Removed), Refused, Denied, Later, Missing),
)]
pub async fn delete(
    Call { log, caller, trace }: Call,
    Path(platform): Path<String>,
) -> Result<Response, Problem> {
    let company_id = caller.manager()?;
    let provider = provider(&platform)?;
    log.ask(
        &GetIntegration {
            company_id,
            provider,
        },
        trace,
    )
    .await
    .map_err(Problem::missing("integration"))?;
    let event = Event::IntegrationDeleted(IntegrationDeleted { provider });
    let settled = command(&log, &caller, company_id, event, trace).await?;
    match settled.outcome {
        None => Ok(accepted(
            &settled,
            &format!("/api/v1/integrations/{provider}"),
        )),
        Some(Outcome::NotFound) => Err(Problem::NotFound("integration")),
        Some(_) => Ok(json(
            StatusCode::OK,
            Removed {
                message: "Integration deleted successfully",
                provider,
                seq: settled.seq,
            },
        )),
    }
}

/// The company whose integrations a member of staff looks at.
fn company(
    caller: &Caller,
    query: &serde_json::Map<String, serde_json::Value>,
) -> Result<Id, Problem> {
    caller.staff()?;
    company_in(query, caller)
}

/// Whom the path names.
fn provider(name: &str) -> Result<Provider, Problem> {
    provider_name(name).map_err(|e| Problem::field("platform", e.to_string()))
}

/// Access token and refresh token. Google needs the second, which gets the first; the others have
/// just the first.
fn tokens(f: &mut Fields<'_>, provider: Provider) -> (Option<SecretString>, Option<SecretString>) {
    if provider == Provider::Google {
        return (
            f.optional("access_token", token),
            f.required("refresh_token", token),
        );
    }
    if f.has("refresh_token") {
        f.wrong("refresh_token", format!("{provider} has none"));
    }
    (f.required("access_token", token), None)
}

/// A token is one word. What was sent is not quoted.
fn token(text: &str) -> Result<SecretString, String> {
    let text = text.trim();
    match (1..=TOKEN_CHARS).contains(&text.len()) && text.bytes().all(|c| c.is_ascii_graphic()) {
        true => Ok(text.into()),
        false => Err(format!(
            "must have 1 to {TOKEN_CHARS} visible ASCII characters"
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_are_visible_characters_within_bounds() {
        assert!(token(" EAAB-x_1 ").is_ok());
        assert!(token(&"x".repeat(TOKEN_CHARS)).is_ok());
        for bad in ["", " ", "a b", "a\nb", "é", &"x".repeat(TOKEN_CHARS + 1)] {
            assert!(token(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn who_gives_no_access_is_refused_and_case_does_not_matter() {
        assert_eq!(provider("FaceBook"), Ok(Provider::Facebook));
        for bad in ["web", "Other", "", "x"] {
            assert!(
                matches!(provider(bad), Err(Problem::Validation(_))),
                "{bad}"
            );
        }
    }
}
