//! Invalid input, as values, bodies, headers and raw bytes: the gateway refuses each with a 4xx,
//! and with a problem document where the bytes form a request. Refused input stores nothing and
//! ends no process. Accepted values that look like database operators are stored as plain text.

mod bodies;
mod raw;
mod values;

use std::collections::BTreeMap;

use futures_util::{StreamExt, TryStreamExt, stream};
use mongodb::bson::{Document, RawDocumentBuf};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::openapi::{OpenApi, Request, RequestValues, verdicts};
use crate::support::{SOON, System, eventually, id_of};

/// The test must try at least this many inputs.
const INPUTS: usize = 200;
/// Requests in flight at once.
const AT_ONCE: usize = 8;

/// A request that the gateway must refuse.
struct InvalidInput {
    request: Request,
    credentials: (&'static str, String),
    /// The expected status; `None` accepts any 4xx.
    status: Option<u16>,
    /// The problem must contain one of these texts if it has the expected status, or 400 if any
    /// status is accepted. Otherwise the input could be refused for a wrong reason.
    says: Vec<String>,
}

impl InvalidInput {
    fn wants(self, status: u16) -> InvalidInput {
        InvalidInput {
            status: Some(status),
            ..self
        }
    }
}

/// A manager and the values of the company. Because all other values are valid, an input is refused
/// only for its one wrong value.
struct Caller {
    token: String,
    values: RequestValues,
}

impl Caller {
    async fn new(system: &System) -> Caller {
        let staff = system.new_company().await;
        let contact = staff.new_contact().await;
        let created = staff.customer_message(&contact, "hello").await;
        let values = RequestValues {
            company: staff.company.clone(),
            contact,
            message: created.id,
            external_id: "external".into(),
            idempotency_key: "key".into(),
            email: "nobody@example.com".into(),
            on_platform: "1784".into(),
            search: "ada".into(),
            cursor: format!("{}{}", "7".repeat(16), "a".repeat(24)),
            dead_letter: 1,
        };
        Caller {
            token: staff.token,
            values,
        }
    }

    fn bearer(&self) -> String {
        format!("Bearer {}", self.token)
    }

    /// Whether the company's contact and message are found.
    async fn is_served(&self, system: &System) -> bool {
        let (status, page) = system
            .request(Method::GET, "/conversations", Some(&self.token), None)
            .await;
        let line = &page["contacts"][0];
        status == StatusCode::OK
            && line["unread"] == 1
            && line["latestMessage"]["_id"] == self.values.message
            && line["fullName"].is_string()
    }

    fn input(&self, what: &str, mut request: Request, says: &[&str]) -> InvalidInput {
        request.name = format!(
            "{} with {}",
            request.name,
            what.chars().take(80).collect::<String>()
        );
        let says = says.iter().map(ToString::to_string).collect();
        InvalidInput {
            request,
            credentials: ("authorization", self.bearer()),
            status: None,
            says,
        }
    }
}

/// Sends the input and describes the answer if it is not the expected refusal.
async fn check_refusal(system: &System, input: InvalidInput) -> Option<String> {
    let (name, value) = &input.credentials;
    let answer = input.request.send(system, Some((name, value))).await;
    let is_problem = answer
        .headers
        .get("content-type")
        .is_some_and(|kind| kind == "application/problem+json");
    let is_good = |(status, problem): &(u16, &Value)| {
        let says = || {
            input
                .says
                .iter()
                .any(|says| problem.to_string().contains(says))
        };
        let is_for_it = if *status == input.status.unwrap_or(400) {
            says()
        } else {
            input.status.is_none()
        };
        (400..500).contains(status)
            && problem["code"].is_string()
            && problem["status"] == *status
            && is_for_it
    };
    let verdicts = verdicts(&answer);
    let is_refused = !verdicts.is_empty()
        && verdicts.iter().all(is_good)
        && (is_problem || answer.status == StatusCode::OK);
    let is_split = answer.headers.contains_key("set-cookie");
    (!is_refused || is_split)
        .then(|| format!("{}: {} {}", input.request.name, answer.status, answer.body))
}

/// The last sequence of `EVENTS`, and all documents.
async fn stored(system: &System) -> (u64, BTreeMap<String, Vec<RawDocumentBuf>>) {
    let events = system
        .operator()
        .await
        .get_stream("EVENTS")
        .await
        .unwrap()
        .get_info()
        .await
        .unwrap()
        .state
        .last_sequence;
    let database = system.database().await;
    let mut documents = BTreeMap::new();
    // `persist_latencies` is left out, because it is written seconds after the events.
    for name in database
        .list_collection_names()
        .await
        .unwrap()
        .into_iter()
        .filter(|name| name != "persist_latencies")
    {
        let found = database
            .collection::<RawDocumentBuf>(&name)
            .find(Document::new())
            .sort(mongodb::bson::doc! {"_id": 1})
            .await
            .unwrap();
        documents.insert(name, found.try_collect().await.unwrap());
    }
    (events, documents)
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_input_is_refused_and_changes_nothing() {
    let system = System::start(&[]).await;
    let (api, caller) = (OpenApi::of(&system).await, Caller::new(&system).await);
    eventually("the valid data is stored", SOON, || async {
        caller.is_served(&system).await.then_some(())
    })
    .await;
    let (before, processes) = (stored(&system).await, system.run["pids"].clone());

    let inputs: Vec<InvalidInput> = [
        values::in_fields(&api, &caller),
        values::in_parameters(&api, &caller),
        bodies::in_bodies(&api, &caller),
        bodies::in_headers(&api, &caller),
    ]
    .into_iter()
    .flatten()
    .collect();
    let mut tried = inputs.len();
    let mut complaints: Vec<String> = stream::iter(inputs)
        .map(|input| check_refusal(&system, input))
        .buffer_unordered(AT_ONCE)
        .filter_map(async |c| c)
        .collect()
        .await;
    for input in raw::inputs(&caller) {
        tried += 1;
        complaints.extend(raw::check_refusal(&system, &input).await);
    }
    println!("{tried} inputs tried");
    assert!(tried >= INPUTS, "{tried}");
    assert!(
        complaints.is_empty(),
        "{} of {tried}:\n{}",
        complaints.len(),
        complaints.join("\n")
    );

    assert!(caller.is_served(&system).await);
    assert!(stored(&system).await == before, "something is stored");
    let run: Value =
        serde_json::from_slice(&std::fs::read(system.folder.0.join("run.json")).unwrap()).unwrap();
    assert_eq!(run["pids"], processes, "a process has ended");
    assert!(
        !system.console().contains("panicked"),
        "{}",
        system.console()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn mongodb_operators_in_accepted_values_are_stored_as_plain_text() {
    let system = System::shared().await;
    let staff = system.new_company().await;
    let profile = json!({
        "name": "$fullName", "$gt": "", "$where": "1", "$set": {"company_id": "x"}, "$ref": "users", "$id": 1, "$literal": ["$_id"],
        "$oid": "x", "$date": {"$numberLong": "1"}, "a.b": {"$ne": null, "$add": [1, 2]}, "": "$$ROOT", "__proto__": {"role": "manager"},
    });
    let contact = json!({"fullName": "$company_id", "phone": "$$ROOT", "email": "$gt@example.com", "profile": profile});
    let edit =
        json!({"fullName": "$$REMOVE", "leadStage": "$phone", "social": {"facebookId": "$ne"}});
    let other = json!({"profile": {"a": {"$oid": "a".repeat(24)}, "b": [{"$numberLong": "1"}]}});
    let (_, entered) = staff.post("/contacts", contact.clone()).await;
    let id = entered["contact"]["_id"]
        .as_str()
        .unwrap_or_else(|| panic!("{entered}"));
    let path = format!("/contacts/{id}");
    let is_as_sent = |found: &Value, sent: &Value| {
        for (name, value) in sent.as_object().unwrap() {
            assert_eq!(found[name], *value, "{name} of {found}");
        }
    };
    is_as_sent(&staff.get(&path).await.1["contact"], &contact);
    // The answer to each edit is made from the stored document.
    for (sent, stays) in [
        (&edit, &json!({"profile": profile})),
        (&other, &edit),
        (&json!({"phone": "$oid"}), &other),
    ] {
        assert_eq!(
            staff.send(Method::PATCH, &path, sent.clone()).await.0,
            StatusCode::OK
        );
        let found = staff.get(&path).await.1["contact"].clone();
        is_as_sent(&found, sent);
        is_as_sent(&found, stays);
    }
    is_as_sent(&staff.get("/contacts").await.1["contacts"][0], &other);

    let message = json!({"contact_id": id, "role": "user", "platform": "web", "direction": "inbound", "content": "$contact_id",
        "external_message_id": "$ne", "attachments": [{"type": "$$ROOT", "url": "https://a.example/$where"}]});
    let mut sent = message.clone();
    sent["$set"] = json!({"read": true});
    sent["read"] = json!(true);
    let (_, created) = staff.post("/messages", sent).await;
    let path = format!("/messages/{}", id_of(&created));
    let found = staff.get(&path).await.1["messageData"].clone();
    is_as_sent(&found, &message);
    is_as_sent(&found, &json!({"read": false, "$set": null}));
    let edit = json!({"_id": found["_id"], "content": "$$REMOVE"});
    assert_eq!(
        staff.send(Method::PATCH, "/messages", edit.clone()).await.0,
        StatusCode::OK
    );
    is_as_sent(&staff.get(&path).await.1["messageData"], &edit);
}
