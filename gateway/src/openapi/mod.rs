//! The OpenAPI document: what the handlers say of themselves, with what no single one of them
//! knows; and the pages that show it. The bodies are in `schema`.

use axum::Router;
use axum::http::{HeaderValue, header};
use axum::middleware::map_response;
use axum::response::Response;
use axum::routing::get;
use serde_json::{Map, Value, json};
use utoipa::openapi::security::{
    ApiKey, ApiKeyValue, Http, HttpAuthScheme, SecurityRequirement, SecurityScheme,
};
use utoipa::openapi::tag::TagBuilder;
use utoipa::openapi::{ComponentsBuilder, InfoBuilder, LicenseBuilder, OpenApi, OpenApiBuilder};

use utoipa_swagger_ui::{Config, SwaggerUi};

use crate::schema::{Accepted, FieldProblem, ProblemDetails};

/// Where the document is.
const DOCUMENT: &str = "/openapi.json";
/// The page's own scripts and styles come from this gateway, so that it works without the internet.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; connect-src 'self'; frame-ancestors 'none'";

/// What stands around the handlers' parts.
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
    // Answers that several handlers share are not collected from them.
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

/// The whole document, of the handlers' parts. What the derived schemas cannot say is said here, in
/// JSON.
///
/// # Errors
/// None but a bug of ours: the document serialises.
pub fn complete(document: &OpenApi) -> Result<Value, serde_json::Error> {
    let mut document = serde_json::to_value(document)?;
    let schemas = &mut document["components"]["schemas"];
    for (name, alternatives) in one_of_these() {
        let schema = schemas[name].take();
        schemas[name] = json!({"allOf": [schema, {"anyOf": alternatives}]});
    }
    // What fits one of these may fit another too: the fields that are there decide.
    for name in ["CreateOrList", "Forwarding"] {
        let either = schemas[name]["oneOf"].take();
        schemas[name] = json!({"anyOf": either});
    }
    schemas["ListBody"]["not"] =
        json!({"anyOf": required(&["role", "direction", "content", "attachments"])});
    // Names without NUL, at any depth: the database cannot have it in one.
    let names = json!({"pattern": "^[^\\u0000]*$"});
    let any = json!({"$ref": "#/components/schemas/AnyValue"});
    schemas["AnyValue"] = json!({"anyOf": [
        {"type": ["string", "number", "boolean", "null"]},
        {"type": "array", "items": any},
        {"type": "object", "propertyNames": names, "additionalProperties": any},
    ]});
    schemas["NewProfile"]["propertyNames"] = names;
    schemas["NewProfile"]["additionalProperties"] = any;
    let operations = document["paths"]
        .as_object_mut()
        .into_iter()
        .flat_map(Map::values_mut)
        .filter_map(Value::as_object_mut);
    for operation in operations.flat_map(Map::values_mut) {
        // The names of functions are not the contract's.
        operation
            .as_object_mut()
            .and_then(|o| o.remove("operationId"));
        // A body that may be absent is not null when it is there.
        let body = operation.pointer_mut("/requestBody/content/application~1json/schema");
        if let Some(body) = body.filter(|schema| schema["oneOf"][1]["type"] == "null") {
            *body = body["oneOf"][0].take();
        }
    }
    Ok(document)
}

/// Bodies that need one of some fields, and what that one must be where being there is not enough.
fn one_of_these() -> [(&'static str, Value); 4] {
    let one =
        |field: &str, schema: Value| json!({"required": [field], "properties": {field: schema}});
    let (text, list) = (json!({"type": "string"}), json!({"type": "array"}));
    let contact = [
        "fullName",
        "email",
        "phone",
        "socialNetworkName",
        "contactStatus",
        "leadStage",
        "botSuspended",
        "botSuspendUntil",
        "profile",
    ];
    [
        (
            "NewMessage",
            json!([
                one("content", json!({"type": "string", "pattern": "[!-~]"})),
                one("attachments", json!({"type": "array", "minItems": 1}))
            ]),
        ),
        (
            "MessageEdit",
            json!([one("content", text.clone()), one("attachments", list)]),
        ),
        (
            "RegistrationBody",
            json!([one("company_name", text.clone()), one("invitation", text)]),
        ),
        ("ContactEdit", required(&contact)),
    ]
}

/// A schema for each field, which wants just that.
fn required(fields: &[&str]) -> Value {
    fields
        .iter()
        .map(|field| json!({"required": [field]}))
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
