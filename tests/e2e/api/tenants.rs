//! Tenant isolation (law 7): every operation of the OpenAPI document is requested with another
//! company's ids by a manager of a different company, without credentials, and by an internal
//! service that names no company. Operations that may succeed are listed here by name.

use std::collections::{BTreeMap, BTreeSet};

use jsonwebtoken::{EncodingKey, Header};
use mongodb::bson::{RawDocumentBuf, doc, oid::ObjectId};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::dead_letters::{list_dead_letters, open_dead_letters};
use crate::support::openapi::{OpenApi, Request, RequestValues, verdicts};
use crate::support::{Answer, SOON, Staff, System, documents, eventually, id_of};

/// Operations that succeed with another company's ids, because they concern the manager's own
/// company only, and their status. All others must give 403 or 404.
const OPEN: &[(&str, u16)] = &[
    // These create something in the manager's own company.
    ("POST /messages NewMessage", 201),
    ("POST /messages/batch", 201),
    ("POST /contacts", 201),
    ("PUT /contacts", 201),
    ("PUT /integrations/{platform}", 200),
    ("PUT /integrations/google", 200),
    ("PUT /sla/targets", 200),
    ("POST /auth/invitations", 201),
    // These read or change the manager's own company.
    ("GET /contacts", 200),
    ("GET /conversations", 200),
    ("POST /messages/instagram", 200),
    ("GET /integrations", 200),
    ("GET /sla", 200),
    ("GET /sla/targets", 200),
    ("GET /dead-letters", 200),
    ("POST /dead-letters/replay", 200),
    ("GET /auth/me", 200),
    ("POST /auth/logout", 204),
    // These need no credentials: wrong password, invalid refresh token, email in use.
    ("POST /auth/login", 401),
    ("POST /auth/refresh", 401),
    ("POST /auth/register", 409),
];
/// Operations without credentials.
const FOR_ALL: &[&str] = &[
    "POST /auth/login",
    "POST /auth/refresh",
    "POST /auth/register",
];
/// Operations that internal services may not use: 403 for any company.
const STAFF_ONLY: &[&str] = &[
    "POST /auth/invitations",
    "POST /auth/logout",
    "GET /auth/me",
    "GET /integrations",
    "GET /integrations/{platform}",
    "PUT /integrations/{platform}",
    "GET /integrations/google",
    "PUT /integrations/google",
    "DELETE /integrations/google",
    "DELETE /integrations/{platform}",
    "GET /sla",
    "GET /sla/targets",
    "PUT /sla/targets",
    "GET /dead-letters",
    "GET /dead-letters/{seq}",
    "POST /dead-letters/replay",
    "POST /dead-letters/{seq}/replay",
    "POST /dead-letters/{seq}/discard",
];
/// Every collection of the view; the victim has something in each.
const COLLECTIONS: usize = 7;

/// A company with data of every kind. Each of its texts is unique in the system.
struct Victim<'a> {
    staff: Staff<'a>,
    values: RequestValues,
    /// Ids, texts, names and tokens.
    secrets: Vec<String>,
}

/// The events and documents of a company.
#[derive(PartialEq)]
struct Kept {
    /// Events, by stream and subject.
    events: BTreeMap<String, usize>,
    /// As MongoDB gives them, by collection.
    documents: BTreeMap<String, Vec<Vec<u8>>>,
}

impl<'a> Victim<'a> {
    async fn new(system: &'a System, tag: &str) -> Victim<'a> {
        let email = format!("victim-{tag}@example.com");
        let unique = |name: &str| format!("victim-{tag}-{name}");
        let registration = json!({"company_name": unique("company"), "fullName": unique("manager"), "email": email, "password": unique("password")});
        let (status, registered) = system
            .request(Method::POST, "/auth/register", None, Some(&registration))
            .await;
        assert_eq!(status, StatusCode::CREATED, "{registered}");
        let token = registered["accessToken"].as_str().unwrap().to_owned();
        let staff = Staff {
            system,
            token,
            company: registered["company"]["_id"].as_str().unwrap().to_owned(),
        };

        let integration = json!({"access_token": unique("token"), "account_id": unique("page"), "account_name": unique("account")});
        let contact = json!({
            "fullName": unique("contact"), "email": format!("contact-{email}"), "phone": unique("phone"),
            "socialNetworkName": unique("nick"), "contactStatus": unique("status"), "leadStage": unique("stage"),
            "social": {"facebookId": unique("facebook"), "instagramId": unique("instagram")},
            "profile": {"name": unique("pet"), "vet": unique("vet")},
        });
        let (_, saved) = staff
            .send(Method::PUT, "/integrations/facebook", integration.clone())
            .await;
        let (_, entered) = staff.post("/contacts", contact.clone()).await;
        let contact_id = entered["contact"]["_id"]
            .as_str()
            .unwrap_or_else(|| panic!("{entered}"))
            .to_owned();
        let file = json!({"type": unique("type"), "url": format!("https://{}.example", unique("file")), "file_description": unique("file")});
        let external_id = unique("external");
        let inbound = json!({"contact_id": contact_id, "role": "user", "platform": "facebook", "direction": "inbound",
            "content": unique("question"), "external_message_id": external_id});
        let outbound = json!({"contact_id": contact_id, "role": "operator", "platform": "facebook", "direction": "outbound",
            "content": unique("answer"), "attachments": [file]});
        let (_, asked) = staff.post("/messages", inbound.clone()).await;
        let idempotency_key = unique("key");
        let told = staff
            .post_to(
                0,
                "/messages",
                &[("prefer", "wait=30"), ("idempotency-key", &idempotency_key)],
                &outbound,
            )
            .await;
        assert_eq!(told.body["forwarding"]["success"], true, "{told:?}");
        // The second contact is newer than everything else, so all of it comes after the cursor.
        let (_, last) = staff
            .post("/contacts", json!({"fullName": unique("last")}))
            .await;
        let page = "/contacts?limit=1";
        let cursor = eventually("a second page of contacts", SOON, || async {
            staff.get(page).await.1["next_cursor"]
                .as_str()
                .map(str::to_owned)
        })
        .await;

        // A dead letter, with words of its own.
        let dead = unique("dead");
        let subject = format!("message.updated.{}.{contact_id}", staff.company);
        system
            .operator()
            .await
            .publish(subject, dead.clone().into())
            .await
            .unwrap()
            .await
            .unwrap();
        let dead_letter = open_dead_letters(&staff, 1).await[0].seq;

        let mut secrets = vec![
            dead,
            staff.token.clone(),
            registered["refreshToken"].as_str().unwrap().to_owned(),
            idempotency_key.clone(),
        ];
        for sent in [&registration, &integration, &contact, &inbound, &outbound] {
            texts(sent, &mut |_, text| {
                secrets.extend(text.contains(tag).then(|| text.to_owned()))
            });
        }
        for answer in [&registered, &saved, &entered, &asked, &told.body, &last] {
            texts(answer, &mut |_, text| {
                secrets.extend(
                    text.parse::<contract::Id>()
                        .is_ok()
                        .then(|| text.to_owned()),
                )
            });
        }
        let values = RequestValues {
            company: staff.company.clone(),
            contact: contact_id,
            message: id_of(&told.body).to_owned(),
            external_id,
            idempotency_key,
            email,
            on_platform: unique("facebook"),
            search: unique("contact"),
            cursor,
            dead_letter,
        };
        Victim {
            staff,
            values,
            secrets,
        }
    }

    /// Waits until all of the company's data is in the database.
    async fn settled(&self) -> Kept {
        eventually("the delivery is in the database", SOON, || async {
            let database = self.staff.system.database().await;
            let id: ObjectId = self.values.message.parse().unwrap();
            let delivered = documents(
                &database,
                "messages",
                doc! {"_id": id, "delivery.state": "delivered"},
            )
            .await;
            let kept = self.kept().await;
            (!delivered.is_empty() && kept.documents.len() == COLLECTIONS).then_some(kept)
        })
        .await
    }

    async fn kept(&self) -> Kept {
        let log = self.staff.system.operator().await;
        let mut events = BTreeMap::new();
        for (stream, subjects) in [
            ("EVENTS", "*.*"),
            ("OUTBOUND", "*.*"),
            ("DEAD", "dead.*.*.*"),
        ] {
            let stream = log.get_stream(stream).await.unwrap();
            let mut found = stream
                .info_with_subjects(format!("{subjects}.{}.>", self.staff.company))
                .await
                .unwrap();
            while let Some(subject) = futures_util::StreamExt::next(&mut found).await {
                let (subject, count) = subject.unwrap();
                events.insert(subject, count);
            }
        }
        let database = self.staff.system.database().await;
        let company: ObjectId = self.staff.company.parse().unwrap();
        let mut documents = BTreeMap::new();
        // `persist_latencies` is left out, because it is written seconds after the events.
        for name in database
            .list_collection_names()
            .await
            .unwrap()
            .into_iter()
            .filter(|name| name != "persist_latencies")
        {
            let of_it = doc! {"$or": [{"company_id": company}, {"_id": company}]};
            let found = database
                .collection::<RawDocumentBuf>(&name)
                .find(of_it)
                .sort(doc! {"_id": 1})
                .await
                .unwrap();
            let found: Vec<RawDocumentBuf> = futures_util::TryStreamExt::try_collect(found)
                .await
                .unwrap();
            if !found.is_empty() {
                documents.insert(
                    name,
                    found.into_iter().map(RawDocumentBuf::into_bytes).collect(),
                );
            }
        }
        Kept { events, documents }
    }

    async fn is_as_it_was(&self, before: &Kept) {
        let now = self.kept().await;
        assert_eq!(now.events, before.events, "events of the victim");
        for (name, documents) in &now.documents {
            assert!(
                before.documents[name] == *documents,
                "{name} of the victim have changed"
            );
        }
        assert_eq!(now.documents.len(), before.documents.len());
    }

    /// Asserts that an answer contains no secret of the victim that the request did not contain.
    fn is_not_in(&self, answer: &Answer, request: &Request) {
        let said = format!(
            "{} {:?} {}",
            request.path,
            request.headers,
            String::from_utf8_lossy(request.body.as_deref().unwrap_or_default())
        );
        let mut text = format!("{:?} {}", answer.headers, answer.body);
        let (known, unknown): (Vec<_>, Vec<_>) = self
            .secrets
            .iter()
            .partition(|secret| said.contains(*secret));
        known
            .into_iter()
            .for_each(|secret| text = text.replace(secret, ""));
        for secret in unknown {
            assert!(
                !text.contains(secret),
                "{} {} tells {secret}: {text}",
                request.name,
                request.path
            );
        }
    }
}

/// Calls `found` with the name and value of each text of a document.
fn texts(value: &Value, found: &mut impl FnMut(&str, &str)) {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                value
                    .as_str()
                    .into_iter()
                    .for_each(|text| found(name, text));
                texts(value, found);
            }
        }
        Value::Array(list) => list.iter().for_each(|value| texts(value, found)),
        _ => {}
    }
}

/// All company ids in an answer.
fn companies(answer: &Value) -> BTreeSet<String> {
    let mut answer = answer.clone();
    if let Some(invitation) = answer["invitation"].as_str() {
        answer = jsonwebtoken::dangerous::insecure_decode::<Value>(invitation)
            .unwrap()
            .claims;
    }
    let mut companies = BTreeSet::new();
    texts(&answer, &mut |name, text| {
        companies.extend(
            ["company_id", "companyId"]
                .contains(&name)
                .then(|| text.to_owned()),
        )
    });
    companies
}

fn statuses(answer: &Answer) -> Vec<u16> {
    verdicts(answer)
        .into_iter()
        .map(|(status, _)| status)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn no_operation_reaches_another_company() {
    let system = System::shared().await;
    let api = OpenApi::of(system).await;
    let (victim, attacker) = (
        Victim::new(system, "walked").await,
        system.new_unconnected_company().await,
    );
    let before = victim.settled().await;
    let bearer = format!("Bearer {}", attacker.token);
    let ask = async |request: &Request| {
        let answer = request.send(system, Some(("authorization", &bearer))).await;
        victim.is_not_in(&answer, request);
        answer
    };

    let naming: Vec<Request> = api
        .requests(&victim.values, true)
        .into_iter()
        .filter(|request| request.names_company)
        .collect();
    assert!(naming.len() >= 20, "{}", naming.len());
    for request in naming {
        let answer = ask(&request).await;
        assert_eq!(
            statuses(&answer),
            [403],
            "{} {}: {}",
            request.name,
            request.path,
            answer.body
        );
    }
    // Reads come first. Otherwise a conversation that the attacker creates with a foreign id would
    // be the attacker's own.
    let is_open = |request: &Request| OPEN.iter().find(|(name, _)| *name == request.name);
    let (open, closed): (Vec<Request>, Vec<Request>) = api
        .requests(&victim.values, false)
        .into_iter()
        .partition(|request| is_open(request).is_some());
    for request in closed {
        let answer = ask(&request).await;
        assert!(
            matches!(statuses(&answer)[..], [403 | 404]),
            "{} {}: {answer:?}",
            request.name,
            request.path
        );
    }
    let mut answered = BTreeSet::new();
    for request in open {
        let answer = ask(&request).await;
        let (name, status) = is_open(&request).unwrap();
        assert_eq!(statuses(&answer), [*status], "{name}: {}", answer.body);
        let companies = companies(&answer.body);
        assert!(
            companies.iter().all(|company| *company == attacker.company),
            "{name}: {}",
            answer.body
        );
        assert!(
            *status != 201 || !companies.is_empty(),
            "{name} does not say whose it is: {}",
            answer.body
        );
        answered.insert(*name);
    }
    assert_eq!(
        answered,
        OPEN.iter().map(|(name, _)| *name).collect(),
        "not in the document any more"
    );

    // A read of this message waits until the view has everything that was stored before.
    let contact = attacker.new_contact().await;
    assert_eq!(
        attacker.get(&format!("/contacts/{contact}")).await.0,
        StatusCode::OK
    );
    victim.is_as_it_was(&before).await;
    assert_eq!(
        list_dead_letters(&victim.staff, "").await.len(),
        1,
        "the dead letter is still open"
    );
    let forwarded = system
        .bot_calls()
        .await
        .into_iter()
        .find(|call| format!("{call:?}").contains(&attacker.company));
    assert!(forwarded.is_none(), "{forwarded:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_requires_credentials_and_services_must_name_the_company() {
    let system = System::shared().await;
    let api = OpenApi::of(system).await;
    let victim = Victim::new(system, "unnamed").await;
    let before = victim.settled().await;
    let claims = json!({"userId": "d".repeat(24), "companyId": victim.staff.company, "role": "manager", "iat": 0, "exp": 1_700_000_000});
    let key = EncodingKey::from_secret(system.secret("jwt_access").as_bytes());
    let expired = format!(
        "Bearer {}",
        jsonwebtoken::encode(&Header::default(), &claims, &key).unwrap()
    );
    let service_key = system.secret("internal_api_key");

    let (for_all, asking): (Vec<Request>, Vec<Request>) = api
        .requests(&victim.values, false)
        .into_iter()
        .partition(|request| !request.asks_who);
    assert_eq!(
        for_all
            .iter()
            .map(|r| r.name.as_str())
            .collect::<BTreeSet<_>>(),
        FOR_ALL.iter().copied().collect()
    );
    for request in asking
        .iter()
        .chain(&api.requests(&victim.values, true))
        .filter(|request| request.asks_who)
    {
        for (credentials, code) in [
            (Some(("authorization", expired.as_str())), "TOKEN_EXPIRED"),
            (None, "INVALID_TOKEN"),
        ] {
            let answer = request.send(system, credentials).await;
            assert_eq!(
                (answer.status.as_u16(), &answer.body["code"]),
                (401, &json!(code)),
                "{} {}",
                request.name,
                request.path
            );
            victim.is_not_in(&answer, request);
        }
    }
    let mut only_for_staff = BTreeSet::new();
    for request in &asking {
        let answer = request
            .send(system, Some(("x-api-key", &service_key)))
            .await;
        victim.is_not_in(&answer, request);
        match verdicts(&answer)[..] {
            [(400, problem)] => assert_eq!(
                problem["errors"][0]["field"], "company_id",
                "{}: {problem}",
                request.name
            ),
            [(403, _)] => drop(only_for_staff.insert(request.name.as_str())),
            _ => panic!("{}: {answer:?}", request.name),
        }
    }
    assert_eq!(only_for_staff, STAFF_ONLY.iter().copied().collect());
    victim.is_as_it_was(&before).await;
}
