//! The OpenAPI document: what the handlers declare, with what no single one of them knows, and the
//! pages that show it. Which bodies and parameters there are is declared where they are read.

use axum::Router;
use axum::http::{HeaderValue, header};
use axum::middleware::map_response;
use axum::response::Response;
use axum::routing::get;
use serde_json::Value;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{
    ComponentsBuilder, InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder, RefOr, Schema,
};
use utoipa_swagger_ui::{Config, SwaggerUi};

use crate::api::problem::{FieldProblem, ProblemDetails};
use crate::api::refusals::Accepted;

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
    for operation in document.paths.paths.values_mut().flat_map(operations) {
        // The names of functions are no part of the contract.
        operation.operation_id = None;
        if let Some(RefOr::T(body)) = &mut operation.request_body {
            for content in body.content.values_mut() {
                if let RefOr::T(content) = content {
                    not_null(&mut content.schema);
                }
            }
        }
    }
    let mut document = serde_json::to_value(document)?;
    unwrap_lines(&mut document);
    Ok(document)
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = &mut Operation> {
    let PathItem {
        get,
        put,
        post,
        delete,
        patch,
        ..
    } = item;
    [get, put, post, delete, patch].into_iter().flatten()
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
