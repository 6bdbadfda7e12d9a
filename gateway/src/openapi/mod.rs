//! The OpenAPI document: what the handlers declare, with what no single one of them knows, and the
//! pages that show it. Which bodies and parameters there are is declared where they are read.

use axum::Router;
use axum::http::{HeaderValue, header};
use axum::middleware::map_response;
use axum::response::Response;
use axum::routing::get;
use serde_json::{Value, json};
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::server::ServerBuilder;
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{
    ComponentsBuilder, InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder, RefOr, Schema,
};
use utoipa_swagger_ui::{Config, SwaggerUi};

use crate::api::problem::{FieldProblem, ProblemDetails};
use crate::api::refusals::Accepted;
use operation_ids::operation_id;

mod operation_ids;

/// The path of the document.
const DOCUMENT: &str = "/openapi.json";
/// The policy of the page that shows the document. Its scripts and styles come from this gateway,
/// so that it works without the internet.
const PAGE_POLICY: &str = "default-src 'none'; \
    script-src 'self'; \
    style-src 'self' 'unsafe-inline'; \
    img-src 'self' data:; \
    connect-src 'self'; \
    frame-ancestors 'none'";

/// The parts of the document that belong to no handler.
pub fn base() -> OpenApi {
    let bearer = Http::builder()
        .scheme(HttpAuthScheme::Bearer)
        .bearer_format("JWT")
        .description(Some("From `POST /api/v1/auth/login`."))
        .build();
    let key = ApiKey::Header(ApiKeyValue::with_description(
        "x-api-key",
        "Of an internal service, which names the `company_id` itself.",
    ));
    // Schemas of answers that are declared in `IntoResponses` are not collected from handlers.
    let components = ComponentsBuilder::new()
        .schema_from::<Accepted>()
        .schema_from::<FieldProblem>()
        .schema_from::<ProblemDetails>()
        .security_scheme("bearer", SecurityScheme::Http(bearer))
        .security_scheme("internal", SecurityScheme::ApiKey(key))
        .build();
    let tag = |name: &str, text: &str| TagBuilder::new().name(name).description(Some(text)).build();
    OpenApiBuilder::new()
        .info(
            InfoBuilder::new()
                .title("PetBuddy Messaging")
                .version(env!("CARGO_PKG_VERSION"))
                .description(Some(include_str!("../openapi.md")))
                .license(Some(
                    LicenseBuilder::new()
                        .name("Apache-2.0")
                        .identifier(Some("Apache-2.0"))
                        .build(),
                ))
                .build(),
        )
        .servers(Some([ServerBuilder::new()
            .url("/")
            .description(Some(
                "The gateway, or the balancer, that this document is from.",
            ))
            .build()]))
        .tags(Some([
            tag("messages", "Between a company and its contacts."),
            tag(
                "conversations",
                "What staff see first: who wrote last, and what is unread.",
            ),
            tag("contacts", "A company's customers."),
            tag("integrations", "A company's access to the platforms."),
            tag(
                "sla",
                "What a company promises its customers, and how it keeps it.",
            ),
            tag(
                "dead letters",
                "What could not be processed, and what becomes of it.",
            ),
            tag("auth", "Who may do what."),
        ]))
        .components(Some(components))
        .security(Some([
            SecurityRequirement::new("bearer", Vec::<String>::new()),
            SecurityRequirement::new("internal", Vec::<String>::new()),
        ]))
        .build()
}

/// Completes the document that the handlers have declared.
///
/// # Errors
/// None in practice: the document serialises.
pub fn complete(mut document: OpenApi) -> Result<Value, serde_json::Error> {
    for (path, item) in &mut document.paths.paths {
        for (method, operation) in operations(item) {
            complete_operation(method, path, operation);
        }
    }
    let mut document = serde_json::to_value(document)?;
    unwrap_lines(&mut document);
    declare_required(&mut document);
    Ok(document)
}

fn complete_operation(method: &str, path: &str, operation: &mut Operation) {
    operation.operation_id = Some(operation_id(method, path));
    for (status, response) in &mut operation.responses.responses {
        if let RefOr::T(response) = response
            && response.description.is_empty()
        {
            response.description = match (status.as_str(), method) {
                ("201", _) => "It is created.",
                (_, "get") => "What was asked for.",
                _ => "It is done.",
            }
            .to_owned();
        }
    }
    if let Some(RefOr::T(body)) = &mut operation.request_body {
        for content in body.content.values_mut() {
            if let RefOr::T(content) = content {
                not_null(&mut content.schema);
            }
        }
    }
}

/// The operations of a path, with their methods.
fn operations(item: &mut PathItem) -> impl Iterator<Item = (&'static str, &mut Operation)> {
    let PathItem {
        get,
        put,
        post,
        delete,
        patch,
        ..
    } = item;
    [
        ("get", get),
        ("put", put),
        ("post", post),
        ("delete", delete),
        ("patch", patch),
    ]
    .into_iter()
    .filter_map(|(method, operation)| Some((method, operation.as_mut()?)))
}

/// Declares the names that a schema requires as its properties, of any value. A schema beside it may
/// say more of them. Otherwise linters and generators take the name for a mistake.
fn declare_required(value: &mut Value) {
    match value {
        Value::Array(list) => list.iter_mut().for_each(declare_required),
        Value::Object(object) => {
            object.values_mut().for_each(declare_required);
            let Some(Value::Array(required)) = object.get("required").cloned() else {
                return;
            };
            let properties = object.entry("properties").or_insert_with(|| json!({}));
            if let Value::Object(properties) = properties {
                for name in required.iter().filter_map(Value::as_str) {
                    properties.entry(name).or_insert_with(|| json!({}));
                }
            }
        }
        _ => {}
    }
}

/// A body that may be absent is not null when it is there.
fn not_null(schema: &mut Option<RefOr<Schema>>) {
    if let Some(RefOr::T(Schema::OneOf(either))) = schema {
        let body = either
            .items
            .iter()
            .find(|item| matches!(item, RefOr::Ref(_)));
        *schema = body.cloned();
    }
}

/// Undoes the line breaks of the source in the descriptions that are doc comments. Paragraphs and
/// lists stay.
fn unwrap_lines(value: &mut Value) {
    match value {
        Value::Array(list) => list.iter_mut().for_each(unwrap_lines),
        Value::Object(object) => {
            for (name, value) in object.iter_mut() {
                match value {
                    Value::String(text) if name == "description" => *text = unwrapped(text),
                    value => unwrap_lines(value),
                }
            }
        }
        _ => {}
    }
}

fn unwrapped(text: &str) -> String {
    let lines: Vec<&str> = text.split('\n').collect();
    let breaks = lines.windows(2).map(|pair| {
        let is_wrapped = !pair[0].is_empty() && !pair[1].is_empty() && !pair[1].starts_with("* ");
        if is_wrapped { " " } else { "\n" }
    });
    let mut breaks = breaks.chain([""]);
    lines
        .iter()
        .flat_map(|line| [*line, breaks.next().unwrap_or_default()])
        .collect()
}

/// `/openapi.json`, and `/docs`, which shows it.
pub fn routes(document: Value) -> Router {
    let page = SwaggerUi::new("/docs").config(Config::new([DOCUMENT]).use_base_layout());
    let page = Router::new()
        .merge(page)
        .layer(map_response(|mut response: Response| async {
            response.headers_mut().insert(
                header::CONTENT_SECURITY_POLICY,
                HeaderValue::from_static(PAGE_POLICY),
            );
            response
        }));
    Router::new()
        .route(DOCUMENT, get(move || async move { axum::Json(document) }))
        .merge(page)
}

#[cfg(test)]
mod tests;
