//! The OpenAPI document of the running gateway, and requests that are built from the document
//! alone. So a new route is tested without a change here. Knows names, types and examples;
//! validates no answer against the document.

mod request;

use std::collections::BTreeMap;

use reqwest::Method;
use serde_json::{Value, json};

use crate::support::System;
pub use request::{Request, RequestValues, verdicts};

/// The prefix of every path.
const PREFIX: &str = "/api/v1";

pub struct OpenApi(Value);

/// One method of a path.
pub struct Operation<'a> {
    pub method: Method,
    /// The path without [`PREFIX`].
    pub path: &'a str,
    described: &'a Value,
}

/// One form that the body of an operation may have.
pub struct Body<'a> {
    /// The name of the schema, if the operation has several.
    pub name: Option<&'a str>,
    schema: &'a Value,
    pub example: Value,
}

/// A field of a body, at any depth.
pub struct Field<'a> {
    /// A JSON pointer to the field.
    pub pointer: String,
    pub required: bool,
    pub form: Form<'a>,
    /// A valid body. The field may be absent, but the object around it is present.
    around: Value,
}

/// A parameter of an operation.
pub struct Parameter<'a> {
    pub name: &'a str,
    /// `path`, `query` or `header`.
    pub place: &'a str,
    pub required: bool,
    pub form: Form<'a>,
}

/// A schema, references followed.
#[derive(Clone, Copy)]
pub struct Form<'a> {
    /// Empty if the schema has none.
    pub name: &'a str,
    pub schema: &'a Value,
    pub nullable: bool,
}

impl OpenApi {
    pub async fn of(system: &System) -> OpenApi {
        OpenApi(
            system
                .http
                .get(format!("{}/openapi.json", system.url("gateway")))
                .send()
                .await
                .unwrap()
                .json()
                .await
                .unwrap(),
        )
    }

    pub fn operations(&self) -> Vec<Operation<'_>> {
        let mut operations = Vec::new();
        for (path, methods) in self.0["paths"].as_object().unwrap() {
            for (method, described) in methods.as_object().unwrap() {
                assert!(
                    described["responses"].is_object(),
                    "{method} of {path} is no operation"
                );
                let path = path
                    .strip_prefix(PREFIX)
                    .unwrap_or_else(|| panic!("{path} is not under {PREFIX}"));
                operations.push(Operation {
                    method: method.to_uppercase().parse().unwrap(),
                    path,
                    described,
                });
            }
        }
        operations
    }

    /// Every operation with each form of its body, once with required and once with all values.
    /// `with_company` adds the company where the operation takes one.
    pub fn requests(&self, values: &RequestValues, with_company: bool) -> Vec<Request> {
        let mut requests = Vec::new();
        for operation in self.operations() {
            for full in [false, true] {
                let bare = self.without_body(&operation, values, with_company, full);
                let bodies = self.bodies(&operation);
                if bodies.is_empty() {
                    requests.push(bare.clone());
                }
                for body in bodies {
                    let mut request = bare.clone();
                    let mut content = values.in_example(&body);
                    request.names_company |= with_company
                        && self.insert(body.schema, &mut content, "company_id", &values.company);
                    if full {
                        self.insert(
                            body.schema,
                            &mut content,
                            "external_message_id",
                            &values.external_id,
                        );
                    }
                    request
                        .name
                        .extend(body.name.map(|name| format!(" {name}")));
                    requests.push(
                        request.with_body("application/json", content.to_string().into_bytes()),
                    );
                }
            }
        }
        requests
    }

    /// The request without its body.
    pub fn without_body(
        &self,
        operation: &Operation<'_>,
        values: &RequestValues,
        with_company: bool,
        full: bool,
    ) -> Request {
        let (mut path, mut query, mut headers, mut names_company) =
            (operation.path.to_owned(), Vec::new(), Vec::new(), false);
        for parameter in self.parameters(operation) {
            let is_company = parameter.name == "company_id";
            if !(parameter.required || if is_company { with_company } else { full }) {
                continue;
            }
            let value = values.parameter(operation, &parameter);
            names_company |= is_company;
            match parameter.place {
                "path" => path = path.replace(&format!("{{{}}}", parameter.name), &value),
                "query" => query.push(format!("{}={value}", parameter.name)),
                "header" => headers.push((parameter.name.to_owned(), value)),
                other => panic!("{}: a parameter in {other}", operation.name()),
            }
        }
        if !query.is_empty() {
            path = format!("{path}?{}", query.join("&"));
        }
        let asks_who = operation.described["security"] != json!([{}]);
        Request {
            name: operation.name(),
            method: operation.method.clone(),
            path,
            headers,
            body: None,
            names_company,
            asks_who,
        }
    }

    pub fn parameters<'a>(&'a self, operation: &Operation<'a>) -> Vec<Parameter<'a>> {
        let read = |p: &'a Value| Parameter {
            name: p["name"].as_str().unwrap(),
            place: p["in"].as_str().unwrap(),
            required: p["required"] == true,
            form: self.form(&p["schema"]),
        };
        operation.described["parameters"]
            .as_array()
            .into_iter()
            .flatten()
            .map(read)
            .collect()
    }

    /// The forms of its body; none if it has none.
    pub fn bodies<'a>(&'a self, operation: &Operation<'a>) -> Vec<Body<'a>> {
        let Some(schema) = operation
            .described
            .pointer("/requestBody/content/application~1json/schema")
        else {
            return Vec::new();
        };
        let forms: Vec<&Value> = match self.form(schema).schema["anyOf"].as_array() {
            Some(forms) => forms.iter().collect(),
            None => vec![schema],
        };
        let several = forms.len() > 1;
        let body = |schema: &'a Value| Body {
            name: several.then_some(self.form(schema).name),
            schema,
            example: self
                .example(schema)
                .unwrap_or_else(|| panic!("{}: no example", operation.name()))
                .clone(),
        };
        forms.into_iter().map(body).collect()
    }

    /// The fields of the body, including those inside objects and lists.
    pub fn fields<'a>(&'a self, body: &Body<'a>, values: &RequestValues) -> Vec<Field<'a>> {
        let mut fields = Vec::new();
        self.fields_inside(body.schema, "", &values.in_example(body), &mut fields);
        fields
    }

    fn fields_inside<'a>(
        &'a self,
        schema: &'a Value,
        outer: &str,
        body: &Value,
        fields: &mut Vec<Field<'a>>,
    ) {
        let required = self.required(schema);
        for (name, property) in self.properties(schema) {
            let (form, pointer, mut around) =
                (self.form(property), format!("{outer}/{name}"), body.clone());
            if ["object", "array"].contains(&form.kind()) && around.pointer(&pointer).is_none() {
                around.pointer_mut(outer).unwrap()[name] = self.sample(property);
            }
            match form.kind() {
                "object" => self.fields_inside(property, &pointer, &around, fields),
                "array" => self.fields_inside(
                    self.items(name, form),
                    &format!("{pointer}/0"),
                    &around,
                    fields,
                ),
                _ => {}
            }
            fields.push(Field {
                pointer,
                required: required.contains(&name),
                form,
                around,
            });
        }
    }

    fn form<'a>(&'a self, mut schema: &'a Value) -> Form<'a> {
        let (mut name, mut nullable) = ("", false);
        loop {
            if let Some(reference) = schema["$ref"].as_str() {
                name = reference.rsplit('/').next().unwrap();
                schema = &self.0["components"]["schemas"][name];
            } else if let Some(inner) = or_null(schema) {
                (schema, nullable) = (inner, true);
            } else {
                nullable |= schema["type"]
                    .as_array()
                    .is_some_and(|types| types.contains(&json!("null")));
                return Form {
                    name,
                    schema,
                    nullable,
                };
            }
        }
    }

    /// The schema of a list's entries. The document leaves the entries of a batch open, because an
    /// invalid entry fails by itself.
    fn items<'a>(&'a self, name: &str, list: Form<'a>) -> &'a Value {
        match name {
            "messages" => &self.0["components"]["schemas"]["NewMessage"],
            _ => &list.schema["items"],
        }
    }

    fn properties<'a>(&'a self, schema: &'a Value) -> BTreeMap<&'a str, &'a Value> {
        let schema = self.form(schema).schema;
        let own = schema["properties"]
            .as_object()
            .into_iter()
            .flatten()
            .map(|(name, property)| (name.as_str(), property));
        schema["allOf"]
            .as_array()
            .into_iter()
            .flatten()
            .flat_map(|part| self.properties(part))
            .chain(own)
            .collect()
    }

    fn required<'a>(&'a self, schema: &'a Value) -> Vec<&'a str> {
        let schema = self.form(schema).schema;
        let own = schema["required"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_str);
        schema["allOf"]
            .as_array()
            .into_iter()
            .flatten()
            .flat_map(|part| self.required(part))
            .chain(own)
            .collect()
    }

    fn example<'a>(&'a self, schema: &'a Value) -> Option<&'a Value> {
        let schema = self.form(schema).schema;
        let parts = schema["allOf"].as_array().into_iter().flatten();
        schema
            .get("example")
            .or_else(|| parts.into_iter().find_map(|part| self.example(part)))
    }

    /// The smallest valid value of a schema.
    fn sample(&self, schema: &Value) -> Value {
        let form = self.form(schema);
        match (form.name, form.kind()) {
            (_, "object") => {
                let properties = self.properties(schema);
                self.required(schema)
                    .into_iter()
                    .map(|name| (name.to_owned(), self.sample(properties[name])))
                    .collect()
            }
            (_, "array") => json!([self.sample(&form.schema["items"])]),
            ("Url", _) => json!("https://files.example.com/a.png"),
            (_, "string") => json!("text"),
            (_, other) => panic!("no sample of {other}: {schema}"),
        }
    }

    /// Sets the property in each object whose schema has it. Returns whether there was one.
    fn insert(&self, schema: &Value, object: &mut Value, property: &str, value: &str) -> bool {
        let mut inserted = false;
        for (name, inner) in self.properties(schema) {
            if name == property {
                object[name] = json!(value);
                inserted = true;
            }
            let items = self.items(name, self.form(inner));
            for item in object
                .get_mut(name)
                .and_then(Value::as_array_mut)
                .into_iter()
                .flatten()
            {
                inserted |= self.insert(items, item, property, value);
            }
        }
        inserted
    }
}

/// The schema that is not null, of two alternatives.
fn or_null(schema: &Value) -> Option<&Value> {
    let alternatives = schema["oneOf"].as_array()?;
    alternatives
        .iter()
        .any(|a| a["type"] == "null")
        .then(|| alternatives.iter().find(|a| a["type"] != "null"))?
}

impl Operation<'_> {
    pub fn name(&self) -> String {
        format!("{} {}", self.method, self.path)
    }
}

impl Form<'_> {
    pub fn kind(&self) -> &str {
        match &self.schema["type"] {
            Value::Array(types) => types
                .iter()
                .find_map(|t| t.as_str().filter(|t| *t != "null"))
                .unwrap(),
            one => one.as_str().unwrap_or("object"),
        }
    }
}

impl Field<'_> {
    pub fn name(&self) -> &str {
        self.pointer.rsplit('/').next().unwrap()
    }

    /// The body with this text, valid JSON or not, as the field's value.
    pub fn with(&self, json: &str) -> String {
        const HERE: &str = "@here@";
        let mut body = self.around.clone();
        self.inside(&mut body)[self.name()] = json!(HERE);
        body.to_string().replace(&json!(HERE).to_string(), json)
    }

    /// The body without the field.
    pub fn without(&self) -> String {
        let mut body = self.around.clone();
        self.inside(&mut body)
            .as_object_mut()
            .unwrap()
            .remove(self.name());
        body.to_string()
    }

    fn inside<'v>(&self, body: &'v mut Value) -> &'v mut Value {
        body.pointer_mut(self.pointer.rsplit_once('/').unwrap().0)
            .unwrap()
    }
}
