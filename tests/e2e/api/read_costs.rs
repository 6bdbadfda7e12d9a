//! The cost of reads as MongoDB's profiler counts it: each read uses an index and costs in
//! proportion to its page, not to the company's data. Times are not measured.

use mongodb::bson::{Document, doc};
use reqwest::StatusCode;
use serde_json::{Value, json};

use crate::support::{SOON, System, documents, eventually};

const CONTACTS: usize = 100;
const MESSAGES_EACH: usize = 30;
/// Entries of a requested page.
const PAGE: i64 = 10;

/// The operations that a request causes: namespace, plan, index keys and documents examined.
async fn profiled(
    system: &System,
    what: &str,
    path: &str,
    token: &str,
) -> Vec<(String, String, i64, i64)> {
    let database = system.database().await;
    database.run_command(doc! {"profile": 0}).await.unwrap();
    database
        .collection::<Document>("system.profile")
        .drop()
        .await
        .unwrap();
    database.run_command(doc! {"profile": 2}).await.unwrap();
    let (status, answer) = system
        .request(reqwest::Method::GET, path, Some(token), None)
        .await;
    database.run_command(doc! {"profile": 0}).await.unwrap();
    assert_eq!(status, StatusCode::OK, "{what}: {answer}");
    let reads = documents(
        &database,
        "system.profile",
        doc! {"appName": "petbuddy-persister", "op": {"$in": ["query", "command"]}},
    )
    .await;
    let number = |d: &Document, name: &str| {
        d.get_i32(name)
            .map(i64::from)
            .or_else(|_| d.get_i64(name))
            .unwrap_or_default()
    };
    let of = |d: &Document| {
        let plan = d.get_str("planSummary").unwrap_or_default().to_owned();
        (
            d.get_str("ns").unwrap().to_owned(),
            plan,
            number(d, "keysExamined"),
            number(d, "docsExamined"),
        )
    };
    reads
        .iter()
        .filter(|d| d.contains_key("planSummary"))
        .map(of)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn reads_use_indexes_and_cost_no_more_than_their_page() {
    let system = System::start(&[]).await;
    let staff = system.new_company().await;
    let mut contacts = Vec::new();
    for n in 0..CONTACTS {
        let (status, answer) = staff
            .post(
                "/contacts",
                json!({"fullName": format!("Reader {n}"), "phone": format!("0170 {n:04}")}),
            )
            .await;
        assert_eq!(status, StatusCode::CREATED, "{answer}");
        contacts.push(answer["contact"]["_id"].as_str().unwrap().to_owned());
    }
    let message = |contact: &String, n: usize| json!({"contact_id": contact, "role": "user", "platform": "instagram", "direction": "inbound", "content": format!("number {n}")});
    let all: Vec<Value> = (0..MESSAGES_EACH)
        .flat_map(|n| contacts.iter().map(move |c| message(c, n)))
        .collect();
    for batch in all.chunks(500) {
        let (status, answer) = staff
            .post("/messages/batch", json!({"messages": batch}))
            .await;
        assert_eq!(
            (status, &answer["failed"]),
            (StatusCode::OK, &json!(0)),
            "{answer}"
        );
    }
    let id = eventually("all is in the view", SOON, || async {
        let (_, page) = staff
            .get(&format!(
                "/messages?contact_id={}&limit=1",
                contacts[CONTACTS - 1]
            ))
            .await;
        (page["totalMessages"] == MESSAGES_EACH)
            .then(|| page["messages"][0]["_id"].as_str().unwrap().to_owned())
    })
    .await;

    let contact = &contacts[7];
    // A page, one more entry that shows whether there is a next page, and for a conversation its
    // six possible platforms.
    let bound = 2 * (PAGE + 1) + 6;
    for (what, path, least) in [
        (
            "conversations of a platform",
            format!("/conversations?platform=instagram&limit={PAGE}"),
            3,
        ),
        (
            "conversations of all",
            format!("/conversations?limit={PAGE}"),
            3,
        ),
        (
            "a conversation",
            format!("/messages?contact_id={contact}&limit={PAGE}"),
            2,
        ),
        (
            "a conversation on a platform",
            format!("/messages?contact_id={contact}&platform=instagram&limit={PAGE}"),
            2,
        ),
        ("a message", format!("/messages/{id}"), 1),
        ("a contact", format!("/contacts/{contact}"), 1),
        ("contacts", format!("/contacts?limit={PAGE}"), 1),
        (
            "contacts by a word",
            format!("/contacts?search=01700007&limit={PAGE}"),
            1,
        ),
    ] {
        let reads = profiled(&system, what, &path, &staff.token).await;
        assert!(reads.len() >= least, "{what}: {reads:?}");
        for (namespace, plan, keys, examined) in reads {
            assert!(
                plan.starts_with("IXSCAN") || plan.starts_with("IDHACK"),
                "{what}: {namespace} by {plan}"
            );
            assert!(
                keys <= 2 * bound && examined <= bound,
                "{what}: {namespace} by {plan}: {keys} keys and {examined} documents for {PAGE}"
            );
        }
    }
}
