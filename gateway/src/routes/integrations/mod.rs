//! `/integrations`: a company's access to the platforms. Tokens go in and never come out: they are
//! sealed before anything is stored, and no answer holds one, sealed or not.

mod fields;

use axum::extract::State;
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
use utoipa::openapi::path::{Operation, Parameter, ParameterIn};
use utoipa::openapi::request_body::RequestBodyBuilder;
use utoipa::openapi::{
    ComponentsBuilder, ContentBuilder, OpenApi, OpenApiBuilder, PathItem, PathsBuilder, RefOr,
    Required,
};
use utoipa::{Path, ToSchema};

use self::fields::{Access, Channel, GoogleBody, IntegrationBody, ProviderInPath};
use super::command::{accepted, command};
use super::queries::OfCompany;
use crate::api::extract::{Call, InPath, JsonBody, QueryString};
use crate::api::problem::Problem;
use crate::api::refusals::{Accepted, BadBody, Denied, Missing, Refused};
use crate::api::response::json;
use crate::api::schema::{component, reference};

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
    params(ProviderInPath),
    responses((status = 200, body = Saved), Refused, Denied, BadBody, Accepted),
)]
pub async fn put(
    State(keyring): State<Keyring>,
    Call { log, caller, trace }: Call,
    provider: InPath<ProviderInPath>,
    body: JsonBody<IntegrationBody>,
) -> Result<Response, Problem> {
    let company_id = caller.manager()?;
    let Channel(provider) = provider.read()?;
    let mut reader = body.reader();
    let access = Access::read(&mut reader, provider);
    let access = reader.finish(access)?;
    caller.company(access.company_id)?;
    let seal = |token: Option<SecretString>| {
        token
            .map(|token| keyring.seal(&token, company_id, provider))
            .transpose()
            .map_err(|e| {
                error!(error = %e, "a token cannot be sealed");
                Problem::Internal
            })
    };
    let integration = Integration {
        company_id,
        provider,
        account_id: access.account_id,
        account_name: access.account_name,
        access_token: seal(access.access_token)?,
        refresh_token: seal(access.refresh_token)?,
        token_expires_at: access.token_expires_at,
        updated_at: Timestamp::now(),
    };
    let event = Event::IntegrationUpdated(integration.clone());
    let done = command(&log, &caller, company_id, event, trace).await?;
    if done.outcome.is_none() {
        let location = format!("/api/v1/integrations/{provider}");
        return Ok(accepted(&done, &location));
    }
    let saved = Saved {
        message: "Integration saved successfully",
        integration: Shown::from(integration),
        seq: done.seq,
    };
    Ok(json(StatusCode::OK, saved))
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
    query: QueryString<OfCompany>,
) -> Result<Response, Problem> {
    caller.staff()?;
    let company_id = caller.company(query.read()?.company_id)?;
    let found = log.ask(&ListIntegrations { company_id }, trace).await?;
    let integrations = found.into_iter().map(Shown::from).collect();
    Ok(json(StatusCode::OK, All { integrations }))
}

/// `GET /integrations/{platform}`
#[utoipa::path(
    get,
    path = "/{platform}",
    tag = "integrations",
    summary = "Look at an integration",
    params(ProviderInPath, OfCompany),
    responses((status = 200, body = One), Refused, Denied, Missing),
)]
pub async fn get(
    Call { log, caller, trace }: Call,
    provider: InPath<ProviderInPath>,
    query: QueryString<OfCompany>,
) -> Result<Response, Problem> {
    caller.staff()?;
    let company_id = caller.company(query.read()?.company_id)?;
    let Channel(provider) = provider.read()?;
    let question = GetIntegration {
        company_id,
        provider,
    };
    let found = log
        .ask(&question, trace)
        .await
        .map_err(Problem::missing("integration"))?;
    let integration = Shown::from(found);
    Ok(json(StatusCode::OK, One { integration }))
}

/// `DELETE /integrations/{platform}`
#[utoipa::path(
    delete,
    path = "/{platform}",
    tag = "integrations",
    summary = "Remove an integration",
    description = "For managers.",
    params(ProviderInPath),
    responses((status = 200, body = Removed), Refused, Denied, Accepted, Missing),
)]
pub async fn delete(
    Call { log, caller, trace }: Call,
    provider: InPath<ProviderInPath>,
) -> Result<Response, Problem> {
    let company_id = caller.manager()?;
    let Channel(provider) = provider.read()?;
    let question = GetIntegration {
        company_id,
        provider,
    };
    log.ask(&question, trace)
        .await
        .map_err(Problem::missing("integration"))?;
    let event = Event::IntegrationDeleted(IntegrationDeleted { provider });
    let done = command(&log, &caller, company_id, event, trace).await?;
    match done.outcome {
        None => {
            let location = format!("/api/v1/integrations/{provider}");
            Ok(accepted(&done, &location))
        }
        Some(Outcome::NotFound) => Err(Problem::NotFound("integration")),
        Some(_) => {
            let removed = Removed {
                message: "Integration deleted successfully",
                provider,
                seq: done.seq,
            };
            Ok(json(StatusCode::OK, removed))
        }
    }
}

/// `/integrations/google` in the OpenAPI document. Because a schema cannot say that a body depends
/// on the path, Google has a path of its own there. The handlers are the same.
pub fn google() -> OpenApi {
    let body = ContentBuilder::new().schema(Some(reference::<GoogleBody>()));
    let body = RequestBodyBuilder::new()
        .content("application/json", body.build())
        .required(Some(Required::True));
    let mut put = of_google(
        __path_put::operation(),
        "Enter or replace a company's access to Google",
    );
    put.request_body = Some(RefOr::T(body.build()));
    put.description = Some(
        "For managers. Access tokens are fetched with the refresh token, the first one within \
         minutes, and renewed before they expire. Both are stored encrypted, and no answer holds \
         them."
            .into(),
    );
    let mut item = PathItem::default();
    item.put = Some(put);
    item.get = Some(of_google(
        __path_get::operation(),
        "Look at the integration with Google",
    ));
    item.delete = Some(of_google(
        __path_delete::operation(),
        "Remove the integration with Google",
    ));
    let mut schemas = Vec::new();
    component::<GoogleBody>(&mut schemas);
    OpenApiBuilder::new()
        .paths(PathsBuilder::new().path("/google", item))
        .components(Some(
            ComponentsBuilder::new().schemas_from_iter(schemas).build(),
        ))
        .build()
}

/// What an operation of any provider is for Google: the path names the provider by itself.
fn of_google(mut operation: Operation, summary: &str) -> Operation {
    operation.tags = Some(vec!["integrations".to_owned()]);
    operation.summary = Some(summary.to_owned());
    operation.parameters = operation
        .parameters
        .map(|parameters| {
            parameters
                .into_iter()
                .filter(is_not_in_path)
                .collect::<Vec<_>>()
        })
        .filter(|parameters| !parameters.is_empty());
    operation
}

fn is_not_in_path(parameter: &RefOr<Parameter>) -> bool {
    !matches!(parameter, RefOr::T(parameter) if parameter.parameter_in == ParameterIn::Path)
}
