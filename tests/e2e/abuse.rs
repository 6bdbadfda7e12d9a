//! Input that must be refused, however it comes: wrong values in every field and parameter that the OpenAPI document has, what is
//! no JSON, wrong headers, and (in `raw`) what no HTTP client sends. Each gives a 4xx, as a problem document where there is a
//! request; nothing is stored, and no process ends.

mod raw;

use std::collections::BTreeMap;

use futures_util::{StreamExt, TryStreamExt, stream};
use mongodb::bson::{Document, RawDocumentBuf};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::harness::{SOON, System, eventually};
use crate::openapi::{Field, OpenApi, Parameter, Request, Things, verdicts};

/// At least so many inputs.
const INPUTS: usize = 200;
/// Requests at a time.
const AT_ONCE: usize = 8;

/// Wrong for a field of any type: operators, other types, numbers out of every range, and what is no JSON.
const ANYWHERE: &[&str] = &[
    r#"{"$gt":""}"#,
    r#"{"$ne":null}"#,
    r#"{"$where":"1"}"#,
    r#"{"$regex":".*"}"#,
    r#"["$ne"]"#,
    "[[]]",
    "true",
    "null",
    "-1",
    "1.5",
    "9223372036854775808",
    "18446744073709551616",
    "1e400",
    "-1e400",
    r#""\ud800""#,
    r#""\udc00\ud800""#,
    r#""\u{41}""#,
    r#""a\u0000b""#,
    r#""a\u0007b""#,
    r#""a\u001b[2Jb""#,
    r#""a\u009fb""#,
    LINES,
];
const LINES: &str = r#""a\r\nSet-Cookie: evil=1""#;
/// Wrong for a field of this type, and no text of the type's length or kind.
const OF_TYPE: &[(&str, &[&str])] = &[
    (
        "Id",
        &["x", "665f1e0c9b1d4a7f3c2e8a0", "665f1e0c9b1d4a7f3c2e8a012", "665f1e0c9b1d4a7f3c2e8a0g", "../../../../etc/passwd", "' OR 1=1"],
    ),
    ("Id", &["６６６６６６６６６６６６６６６６６６６６６６６６", "ObjectId(665f1e0c9b1d4a7f3c2e8a01)", "$gt"]),
    ("Email", &["nobody", "@example.com", "a@b@example.com", "a b@example.com", "a@example..com"]),
    ("Url", &["javascript:alert(1)", "file:///etc/passwd", "//files.example.com/a", "https://", "https://a b/", "data:text/html,x"]),
    ("Timestamp", &["tomorrow", "2026-13-01T00:00:00Z", "2026-11-22", "1795388889", "+99999-01-01T00:00:00Z"]),
    ("Cursor", &["x", "665f1e0c9b1d4a7f3c2e8a01", "$gt", "-000000000000000000000000000000000000001"]),
];
const NOT_JSON: &str = "not JSON";
/// No JSON; with what the problem says of it.
const NO_JSON: &[(&[u8], &str)] = &[
    (b"{", NOT_JSON),
    (b" ", NOT_JSON),
    (b"null", "an object"),
    (b"[]", "an object"),
    (b"1", "an object"),
    (b"\"{}\"", "an object"),
    (b"{}{}", NOT_JSON),
    (b"{} //", NOT_JSON),
    (b"{'a':1}", NOT_JSON),
    (b"{\"a\":1,}", NOT_JSON),
    (b"{\"a\":NaN}", NOT_JSON),
    (b"{\"a\":01}", NOT_JSON),
    (b"{\"a\":undefined}", NOT_JSON),
    (b"/**/{}", NOT_JSON),
    (b"\xef\xbb\xbf{}", NOT_JSON),
    (b"{\0\"\0a\0\"\0:\01\0}\0", NOT_JSON),
    (b"{\"a\":\"\xff\xfe\"}", NOT_JSON),
    (b"{\"\xc3\x28\":1}", NOT_JSON),
    (b"{\"a\":\"\xc0\x80\"}", NOT_JSON),
    (b"{\"a\":\"\xed\xa0\x80\"}", NOT_JSON),
    (b"{\"a\":\"\0\"}", NOT_JSON),
    (b"{\"a\":\"\n\"}", NOT_JSON),
    (b"{\"a\":\"\\x41\"}", NOT_JSON),
    (b"{\"a\":1,\"a\":2}", "twice"),
    (b"{\"contact_id\":\"a\",\"\\u0063ontact_id\":\"b\"}", "twice"),
    (b"\x1f\x8b\x08\x00\x00\x00\x00\x00", NOT_JSON),
    (b"a=b", NOT_JSON),
    (b"<a/>", NOT_JSON),
];
const NO_JSON_TYPES: &[&str] = &[
    "text/plain",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=a",
    "application/xml",
    "application/jsonp",
    "json",
    "*/*",
    "text/plain; application/json",
];

/// One input.
struct Trial {
    request: Request,
    credentials: (&'static str, String),
    /// `None`: any 4xx.
    status: Option<u16>,
    /// One of these is in the problem, if it has that status, or 400 where it may have any: it is refused for what is wrong.
    says: Vec<String>,
}

impl Trial {
    fn wants(self, status: u16) -> Trial {
        Trial { status: Some(status), ..self }
    }
}

/// Who asks, and a company's things: so that what is wrong is the only thing that is.
struct Own {
    token: String,
    things: Things,
}

impl Own {
    async fn new(system: &System) -> Own {
        let staff = system.new_company().await;
        let contact = staff.new_contact().await;
        let created = staff.message(&contact, "user", "hello").await;
        let things = Things {
            company: staff.company.clone(),
            contact,
            message: created["messageData"]["_id"].as_str().unwrap().to_owned(),
            external_id: "external".into(),
            idempotency_key: "key".into(),
            email: "nobody@example.com".into(),
            search: "ada".into(),
            cursor: format!("{}{}", "7".repeat(16), "a".repeat(24)),
        };
        Own { token: staff.token, things }
    }

    fn bearer(&self) -> String {
        format!("Bearer {}", self.token)
    }

    /// Whether what was stored at first is found, all of it.
    async fn is_served(&self, system: &System) -> bool {
        let (status, page) = system.request(Method::GET, "/conversations", Some(&self.token), None).await;
        let line = &page["contacts"][0];
        status == StatusCode::OK
            && line["unread"] == 1
            && line["latestMessage"]["_id"] == self.things.message
            && line["fullName"].is_string()
    }

    fn trial(&self, what: &str, mut request: Request, says: &[&str]) -> Trial {
        request.name = format!("{} with {}", request.name, what.chars().take(80).collect::<String>());
        let says = says.iter().map(ToString::to_string).collect();
        Trial { request, credentials: ("authorization", self.bearer()), status: None, says }
    }
}

fn quoted(text: &str) -> String {
    json!(text).to_string()
}

/// What cannot be the value of a field.
fn wrong_values(field: &Field<'_>) -> Vec<String> {
    let schema = field.form.schema;
    let limit = |name: &str| schema[name].as_u64().map(|limit| limit as usize);
    let of_type = OF_TYPE.iter().filter(|(name, _)| *name == field.form.name).flat_map(|(_, texts)| *texts);
    let mut values: Vec<String> = ANYWHERE.iter().map(ToString::to_string).chain(of_type.map(|text| quoted(text))).collect();
    values.extend([quoted(&"x".repeat(10_000)), quoted(&"😀".repeat(5_001))]);
    values.extend(limit("maxLength").map(|max| quoted(&"é".repeat(max + 1))));
    values.extend(limit("minLength").filter(|min| *min > 1).map(|min| quoted(&"x".repeat(min - 1))));
    values.extend(limit("maximum").map(|max| (max + 1).to_string()));
    values.extend(limit("minimum").map(|min| (min as i64 - 1).to_string()));
    values.extend(limit("maxItems").map(|max| json!(vec![json!({}); max + 1]).to_string()));
    values.extend(limit("minItems").map(|_| "[]".to_owned()));
    if schema["enum"].is_array() {
        values.extend(["nothing of it", "$ne"].map(quoted));
    }
    values.retain(|value| !is_right(field, value));
    values
}

/// What is taken, and rightly so.
fn is_right(field: &Field<'_>, value: &str) -> bool {
    match (field.form.kind(), value) {
        (_, "null") => field.form.nullable,
        ("boolean", "true") => true,
        // Names that are unknown are ignored, and in a profile kept as they are; no query is ever made of them.
        ("object", value) => value.starts_with('{'),
        // A message has lines. A password is hashed as it is.
        (_, LINES) => field.form.name == "Content" || field.pointer == "/password",
        _ => false,
    }
}

fn in_fields(api: &OpenApi, own: &Own) -> Vec<Trial> {
    let mut trials = Vec::new();
    for operation in api.operations() {
        let bare = api.without_body(&operation, &own.things, false, false);
        for field in api.bodies(&operation).iter().flat_map(|body| api.fields(body, &own.things)) {
            let mut attempt = |what: &str, body: String| {
                let names = field.pointer.split('/').filter(|name| !name.is_empty() && *name != "0");
                let says: Vec<&str> = match serde_json::from_str::<Value>(&body) {
                    // The last one is said of what is in a list.
                    Ok(_) => names.chain(["must be an object"]).collect(),
                    Err(_) => vec![NOT_JSON],
                };
                let request = bare.clone().with_body("application/json", body.into_bytes());
                trials.push(own.trial(&format!("{} = {what}", field.pointer), request, &says));
            };
            wrong_values(&field).iter().for_each(|value| attempt(value, field.with(value)));
            if field.required {
                attempt("nothing", field.without());
            }
        }
    }
    trials
}

/// What cannot be the value of a parameter.
fn wrong_texts(parameter: &Parameter<'_>) -> Vec<String> {
    let schema = parameter.form.schema;
    let of_type = OF_TYPE.iter().filter(|(name, _)| *name == parameter.form.name).flat_map(|(_, texts)| *texts);
    let mut texts: Vec<String> = of_type.map(ToString::to_string).collect();
    texts.extend(schema["maxLength"].as_u64().map(|max| "x".repeat(max as usize + 1)));
    texts.extend(schema["maximum"].as_u64().map(|max| (max + 1).to_string()));
    match parameter.form.kind() {
        "integer" => texts.extend(["-1", "1.5", "1e3", "0x10", "9223372036854775808", "NaN", "true", "[]", "a\0"].map(str::to_owned)),
        _ if schema["enum"].is_array() => {
            texts.extend(["fax", "$ne", "[]", "facebook\0", "facebook\r\nSet-Cookie: evil=1"].map(str::to_owned))
        }
        _ => {}
    }
    texts
}

fn in_parameters(api: &OpenApi, own: &Own) -> Vec<Trial> {
    // Every byte, so that no client tidies it up.
    let encoded = |text: &str| text.bytes().map(|byte| format!("%{byte:02X}")).collect::<String>();
    let mut trials = Vec::new();
    for operation in api.operations() {
        let mut good = api.without_body(&operation, &own.things, false, false);
        if let Some(request) = api.bodies(&operation).first() {
            good = good.with_body("application/json", request.example.to_string().into_bytes());
        }
        let mut attempt = |path: String, says: &str| {
            let request = Request { path: path.clone(), ..good.clone() };
            trials.push(own.trial(&path, request, &[says]).wants(400));
        };
        let (path, query) = good.path.split_once('?').unwrap_or((&good.path, ""));
        for parameter in api.parameters(&operation) {
            let name = parameter.name;
            for text in wrong_texts(&parameter) {
                let text = encoded(&text);
                match parameter.place {
                    "path" => attempt(operation.path.replace(&format!("{{{name}}}"), &text), name),
                    "query" if parameter.required => attempt(format!("{path}?{name}={text}"), name),
                    "query" => attempt(format!("{path}?{query}&{name}={text}"), name),
                    _ => {}
                }
            }
            if parameter.place == "query" {
                attempt(format!("{path}?{name}=1&{name}=1"), name);
                attempt(format!("{path}?{name}=1&%{:02X}{}=1", name.as_bytes()[0], &name[1..]), name);
                attempt(format!("{path}?{name}=%ff"), "UTF-8");
                attempt(format!("{path}?{name}=%c0%80"), "UTF-8");
                attempt(format!("{path}?{name}=%zz"), "UTF-8");
            }
            if parameter.place == "query" && parameter.required {
                attempt(path.to_owned(), name);
                attempt(format!("{path}?{name}[$ne]=1"), name);
                attempt(format!("{path}?{name}.$ne=1"), name);
            }
        }
    }
    trials
}

fn in_bodies(api: &OpenApi, own: &Own) -> Vec<Trial> {
    let lists = |depth: usize| format!("{{\"a\":{}1{}}}", "[".repeat(depth - 1), "]".repeat(depth - 1));
    let objects = |depth: usize| format!("{}1{}", "{\"a\":".repeat(depth), "}".repeat(depth));
    let names = (0..1_001).map(|n| format!("\"{n}\":0")).collect::<Vec<_>>().join(",");
    let values = vec![format!("[{}0]", "0,".repeat(999)); 101].join(",");
    let mut bad: Vec<(Vec<u8>, &str)> = NO_JSON.iter().map(|(body, says)| (body.to_vec(), *says)).collect();
    bad.extend([33, 10_000].map(|depth| (lists(depth).into_bytes(), "32 levels")));
    bad.extend([33, 10_000].map(|depth| (objects(depth).into_bytes(), "32 levels")));
    bad.push(("[".repeat(10_000).into_bytes(), "32 levels"));
    bad.push((format!("{{\"a\":[{}0]}}", "0,".repeat(1_000)).into_bytes(), "1000 elements"));
    bad.push((format!("{{{names}}}").into_bytes(), "1000 names"));
    bad.push((format!("{{\"a\":[{values}]}}").into_bytes(), "100000 values"));
    bad.push((format!("{{\"a\":1{}}}", "0".repeat(400)).into_bytes(), NOT_JSON));
    let mut trials = Vec::new();
    for operation in api.operations() {
        let bare = api.without_body(&operation, &own.things, false, false);
        let Some(good) = api.bodies(&operation).into_iter().next() else { continue };
        let good = good.example.to_string().into_bytes();
        for (body, says) in bad.iter().chain(&[(good[..good.len() - 1].to_vec(), NOT_JSON)]) {
            let what = String::from_utf8_lossy(body);
            trials.push(own.trial(&what, bare.clone().with_body("application/json", body.clone()), &[says]));
        }
        let other = NO_JSON_TYPES.iter().map(|content_type| bare.clone().with_body(content_type, good.clone()));
        for request in other.chain([Request { body: Some(good.clone()), ..bare.clone() }]) {
            trials.push(own.trial(&format!("{:?}", request.headers), request, &["UNSUPPORTED_MEDIA_TYPE"]).wants(415));
        }
        if operation.name() == "POST /messages" {
            let huge = format!("{{\"content\":\"{}\"}}", "x".repeat(11 * 1024 * 1024)).into_bytes();
            trials.push(own.trial("11 MB", bare.with_body("application/json", huge), &["PAYLOAD_TOO_LARGE"]).wants(413));
        }
    }
    trials
}

fn in_headers(api: &OpenApi, own: &Own) -> Vec<Trial> {
    let mut trials = Vec::new();
    for operation in api.operations() {
        let bare = api.without_body(&operation, &own.things, false, false);
        for parameter in api.parameters(&operation).into_iter().filter(|p| p.name == "Idempotency-Key") {
            let good = api.bodies(&operation)[0].example.to_string().into_bytes();
            for key in ["", " ", "é", &"x".repeat(256), "a\tb\u{80}"] {
                let mut request = bare.clone().with_body("application/json", good.clone());
                request.headers.push((parameter.name.into(), key.into()));
                trials.push(own.trial(&format!("the key {key}"), request, &[parameter.name]).wants(400));
            }
        }
    }
    let me = api.operations().into_iter().find(|operation| operation.name() == "GET /auth/me").unwrap();
    let me = api.without_body(&me, &own.things, false, false);
    let good = own.bearer();
    for (name, value) in [
        ("authorization", good.replace("Bearer", "Basic")),
        ("authorization", good.replace("Bearer ", "")),
        ("authorization", good.replace('.', " ")),
        ("authorization", good.replace("ey", "e\u{79}\u{301}")),
        ("authorization", format!("{good}, {good}")),
        ("authorization", format!("Bearer {}", "x".repeat(10_000))),
        ("authorization", format!("Bearer {}", "a.".repeat(1_000))),
        ("authorization", r#"Bearer {"$gt":""}"#.into()),
        ("x-api-key", "$ne".into()),
        ("x-api-key", "x".repeat(10_000)),
        ("cookie", format!("accessToken={}", good.replace("Bearer ", ""))),
    ] {
        let trial = own.trial(&value, me.clone(), &["INVALID_TOKEN"]).wants(401);
        trials.push(Trial { credentials: (name, value), ..trial });
    }
    trials
}

/// What is wrong with the answer.
async fn complaint(system: &System, trial: Trial) -> Option<String> {
    let (name, value) = &trial.credentials;
    let answer = trial.request.send(system, Some((name, value))).await;
    let is_problem = answer.headers.get("content-type").is_some_and(|kind| kind == "application/problem+json");
    let is_good = |(status, problem): &(u16, &Value)| {
        let says = || trial.says.iter().any(|says| problem.to_string().contains(says));
        let is_for_it = if *status == trial.status.unwrap_or(400) { says() } else { trial.status.is_none() };
        (400..500).contains(status) && problem["code"].is_string() && problem["status"] == *status && is_for_it
    };
    let verdicts = verdicts(&answer);
    let is_refused = !verdicts.is_empty() && verdicts.iter().all(is_good) && (is_problem || answer.status == StatusCode::OK);
    let is_split = answer.headers.contains_key("set-cookie");
    (!is_refused || is_split).then(|| format!("{}: {} {}", trial.request.name, answer.status, answer.body))
}

/// All that is stored.
async fn stored(system: &System) -> (u64, BTreeMap<String, Vec<RawDocumentBuf>>) {
    let events = system.operator().await.get_stream("EVENTS").await.unwrap().get_info().await.unwrap().state.last_sequence;
    let database = system.database().await;
    let mut documents = BTreeMap::new();
    for name in database.list_collection_names().await.unwrap() {
        let found = database.collection::<RawDocumentBuf>(&name).find(Document::new()).sort(mongodb::bson::doc! {"_id": 1}).await.unwrap();
        documents.insert(name, found.try_collect().await.unwrap());
    }
    (events, documents)
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_wrong_is_refused_and_nothing_comes_of_it() {
    let system = System::start(&[]).await;
    let (api, own) = (OpenApi::of(&system).await, Own::new(&system).await);
    eventually("what is right is stored", SOON, || async { own.is_served(&system).await.then_some(()) }).await;
    let (before, processes) = (stored(&system).await, system.run["pids"].clone());

    let trials: Vec<Trial> =
        [in_fields(&api, &own), in_parameters(&api, &own), in_bodies(&api, &own), in_headers(&api, &own)].into_iter().flatten().collect();
    let mut tried = trials.len();
    let mut complaints: Vec<String> =
        stream::iter(trials).map(|trial| complaint(&system, trial)).buffer_unordered(AT_ONCE).filter_map(async |c| c).collect().await;
    for input in raw::inputs(&own) {
        tried += 1;
        complaints.extend(raw::complaint(&system, &input).await);
    }
    println!("{tried} inputs tried");
    assert!(tried >= INPUTS, "{tried}");
    assert!(complaints.is_empty(), "{} of {tried}:\n{}", complaints.len(), complaints.join("\n"));

    assert!(own.is_served(&system).await);
    assert!(stored(&system).await == before, "something is stored");
    let run: Value = serde_json::from_slice(&std::fs::read(system.folder.0.join("run.json")).unwrap()).unwrap();
    assert_eq!(run["pids"], processes, "a process has ended");
    assert!(!system.console().contains("panicked"), "{}", system.console());
}

#[tokio::test(flavor = "multi_thread")]
async fn operators_that_are_taken_are_names_and_texts_like_others() {
    let system = System::shared().await;
    let staff = system.new_company().await;
    let profile = json!({
        "name": "$fullName", "$gt": "", "$where": "1", "$set": {"company_id": "x"}, "$ref": "users", "$id": 1, "$oid": "x", "$date": {"$numberLong": "1"}, "$literal": ["$_id"],
        "a.b": {"$ne": null, "$add": [1, 2]}, "": "$$ROOT", "__proto__": {"role": "manager"},
    });
    let contact = json!({"fullName": "$company_id", "phone": "$$ROOT", "email": "$gt@example.com", "profile": profile});
    let edit = json!({"fullName": "$$REMOVE", "leadStage": "$phone", "social": {"facebookId": "$ne"}, "profile": {"again": profile}});
    let (_, entered) = staff.post("/contacts", contact.clone()).await;
    let id = entered["contact"]["_id"].as_str().unwrap_or_else(|| panic!("{entered}"));
    let path = format!("/contacts/{id}");
    let is_as_sent = |found: &Value, sent: &Value| {
        for (name, value) in sent.as_object().unwrap() {
            assert_eq!(found[name], *value, "{name} of {found}");
        }
    };
    is_as_sent(&staff.get(&path).await.1["contact"], &contact);
    assert_eq!(staff.send(Method::PATCH, &path, edit.clone()).await.0, StatusCode::OK);
    is_as_sent(&staff.get(&path).await.1["contact"], &edit);

    let message = json!({"contact_id": id, "role": "user", "platform": "web", "direction": "inbound", "content": "$contact_id",
        "external_message_id": "$ne", "attachments": [{"type": "$$ROOT", "url": "https://a.example/$where"}]});
    let mut sent = message.clone();
    sent["$set"] = json!({"read": true});
    sent["read"] = json!(true);
    let (_, created) = staff.post("/messages", sent).await;
    let path = format!("/messages/{}", created["messageData"]["_id"].as_str().unwrap_or_else(|| panic!("{created}")));
    let found = staff.get(&path).await.1["messageData"].clone();
    is_as_sent(&found, &message);
    is_as_sent(&found, &json!({"read": false, "$set": null}));
    let edit = json!({"_id": found["_id"], "content": "$$REMOVE"});
    assert_eq!(staff.send(Method::PATCH, "/messages", edit.clone()).await.0, StatusCode::OK);
    is_as_sent(&staff.get(&path).await.1["messageData"], &edit);
}
