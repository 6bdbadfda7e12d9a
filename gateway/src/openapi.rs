//! The OpenAPI document: what the handlers say of themselves, with what no single one of them knows; and the pages that show
//! it. The bodies are in `schema`.

use axum::Router;
use axum::http::{HeaderValue, header};
use axum::middleware::map_response;
use axum::response::Response;
use axum::routing::get;
use utoipa::openapi::path::Operation;
use utoipa::openapi::schema::{AllOfBuilder, AnyOfBuilder, ArrayBuilder, ObjectBuilder, Schema, Type};
use utoipa::openapi::security::{ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{ComponentsBuilder, InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder, RefOr};
use utoipa_swagger_ui::{Config, SwaggerUi};

/// Where the document is.
const DOCUMENT: &str = "/openapi.json";
/// The page's own scripts and styles come from this gateway, so that it works without the internet.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'";

/// What stands around the handlers' parts.
pub fn base() -> OpenApi {
    let bearer =
        Http::builder().scheme(HttpAuthScheme::Bearer).bearer_format("JWT").description(Some("From `POST /api/v1/auth/login`.")).build();
    let key = ApiKey::Header(ApiKeyValue::with_description("x-api-key", "Of an internal service, which names the `company_id` itself."));
    let components = ComponentsBuilder::new()
        .security_scheme("bearer", SecurityScheme::Http(bearer))
        .security_scheme("internal", SecurityScheme::ApiKey(key))
        .build();
    let tag = |name: &str, text: &str| TagBuilder::new().name(name).description(Some(text)).build();
    OpenApiBuilder::new()
        .info(
            InfoBuilder::new()
                .title("PetBuddy Messaging")
                .version(env!("CARGO_PKG_VERSION"))
                .description(Some(include_str!("openapi.md")))
                .license(Some(LicenseBuilder::new().name("Apache-2.0").identifier(Some("Apache-2.0")).build()))
                .build(),
        )
        .tags(Some([
            tag("messages", "Between a company and its contacts."),
            tag("conversations", "What staff see first: who wrote last, and what is unread."),
            tag("contacts", "A company's customers."),
            tag("integrations", "A company's access to the platforms."),
            tag("auth", "Who may do what."),
        ]))
        .components(Some(components))
        .security(Some([
            SecurityRequirement::new("bearer", Vec::<String>::new()),
            SecurityRequirement::new("internal", Vec::<String>::new()),
        ]))
        .build()
}

/// The whole document, of the handlers' parts.
pub fn complete(mut document: OpenApi) -> OpenApi {
    if let Some(components) = &mut document.components {
        for (name, alternatives) in one_of_these() {
            if let Some(schema) = components.schemas.remove(name) {
                let any = alternatives
                    .into_iter()
                    .fold(AnyOfBuilder::new(), |any, (field, value)| any.item(ObjectBuilder::new().property(field, value).required(field)));
                components.schemas.insert(name.into(), AllOfBuilder::new().item(schema).item(any).into());
            }
        }
        // What fits the first fits the second too: the fields that are there decide.
        if let Some(RefOr::T(Schema::OneOf(either))) = components.schemas.get("CreateOrList") {
            let any = either.items.iter().cloned().fold(AnyOfBuilder::new(), AnyOfBuilder::item);
            components.schemas.insert("CreateOrList".into(), any.into());
        }
    }
    for path in document.paths.paths.values_mut() {
        let operations: [&mut Option<Operation>; 5] = [&mut path.get, &mut path.put, &mut path.post, &mut path.patch, &mut path.delete];
        for operation in operations.into_iter().flatten() {
            // The names of functions are not the contract's.
            operation.operation_id = None;
        }
    }
    document
}

/// Bodies that need one of some fields, and what that one must be.
fn one_of_these() -> [(&'static str, [(&'static str, Schema); 2]); 3] {
    let text = || ObjectBuilder::new().schema_type(Type::String);
    let list = || ArrayBuilder::new().items(RefOr::T(Schema::default()));
    let visible = text().pattern(Some("[!-~]")).into();
    [
        ("NewMessage", [("content", visible), ("attachments", list().min_items(Some(1)).into())]),
        ("MessageEdit", [("content", text().into()), ("attachments", list().into())]),
        ("RegistrationBody", [("company_name", text().into()), ("invitation", text().into())]),
    ]
}

/// `/openapi.json`, and `/docs`, which shows it.
pub fn routes(document: OpenApi) -> Router {
    let page = SwaggerUi::new("/docs").config(Config::new([DOCUMENT]).use_base_layout());
    let page = Router::new().merge(page).layer(map_response(|mut response: Response| async {
        response.headers_mut().insert(header::CONTENT_SECURITY_POLICY, HeaderValue::from_static(PAGE_POLICY));
        response
    }));
    Router::new().route(DOCUMENT, get(move || async move { axum::Json(document) })).merge(page)
}

#[cfg(test)]
#[path = "openapi_tests.rs"]
mod tests;
