//! Order of delivery over failures of the bot and of forwarders, judged by the calls that the stub
//! bot received. Slow: each test sends thousands of messages or waits for an outage to pass (up to
//! several minutes).

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use async_nats::jetstream;
use async_nats::jetstream::consumer::{PriorityPolicy, pull};
use contract::{Id, Timestamp};
use futures_util::StreamExt;
use mongodb::bson::doc;
use reqwest::StatusCode;
use runtime::consume::pinned_consumer::{Arrival, PinnedConsumer};
use runtime::net::connection::Connection;
use runtime::service::settings::NatsSettings;
use serde_json::{Value, json};

use crate::support::delivery::BotCall;
use crate::support::{AFTER_FAULT, Folder, SOON, Staff, System, documents, eventually};

/// Requests in flight at once.
const WRITERS: usize = 32;
/// How long a backlog of thousands of messages may take, also beside other tests.
const BACKLOG: Duration = Duration::from_secs(240);

async fn new_contacts(staff: &Staff<'_>, many: usize) -> Vec<String> {
    futures_util::stream::iter(0..many)
        .map(|_| staff.new_contact())
        .buffer_unordered(WRITERS)
        .collect()
        .await
}

/// Posts `each` operator messages to every contact, in sequence within a conversation. Returns the
/// ids in order, by contact.
async fn post(
    staff: &Staff<'_>,
    contacts: &[String],
    each: usize,
) -> BTreeMap<String, Vec<String>> {
    let one = |contact: &String| {
        let contact = contact.clone();
        async move {
            let mut ids = Vec::new();
            for n in 0..each {
                let answer = staff
                    .operator_message(&contact, &format!("message {n}"))
                    .await;
                ids.push(answer.id);
            }
            (contact, ids)
        }
    };
    futures_util::stream::iter(contacts)
        .map(one)
        .buffer_unordered(WRITERS)
        .collect()
        .await
}

/// The keys of each contact's messages in the order of their first successful delivery.
fn first_deliveries(calls: &[BotCall]) -> BTreeMap<String, Vec<String>> {
    let mut order: BTreeMap<String, Vec<String>> = BTreeMap::new();
    let mut delivered = BTreeSet::new();
    for call in calls.iter().filter(|call| call.succeeded()) {
        if delivered.insert(call.key()) {
            order
                .entry(call.body["customer_id"].as_str().unwrap().to_owned())
                .or_default()
                .push(call.key().to_owned());
        }
    }
    order
}

async fn outbound_is_empty(system: &System, within: Duration) {
    let outbound = system
        .operator()
        .await
        .get_stream("OUTBOUND")
        .await
        .unwrap();
    let what = "nothing awaits the bot any more";
    eventually(what, within, || async {
        (outbound.get_info().await.ok()?.state.messages == 0).then_some(())
    })
    .await;
}

async fn dead_letters(system: &System) -> u64 {
    system
        .operator()
        .await
        .get_stream("DEAD")
        .await
        .unwrap()
        .cached_info()
        .state
        .messages
}

/// The partitions that each live forwarder reports as its own.
async fn partitions(system: &System) -> Vec<BTreeSet<u64>> {
    let mut all = Vec::new();
    for url in system.services("forwarder") {
        let Ok(answer) = system.http.get(format!("{url}/health")).send().await else {
            continue;
        };
        let health: Value = answer.json().await.unwrap_or_default();
        let mine = health["checks"]["lag"]["detail"]["partitions"]
            .as_array()
            .into_iter()
            .flatten()
            .filter_map(Value::as_u64);
        all.push(mine.collect());
    }
    all
}

#[tokio::test(flavor = "multi_thread")]
async fn five_thousand_messages_stay_in_order_over_bot_failures_and_forwarder_kills() {
    const CONVERSATIONS: usize = 200;
    const EACH: usize = 25;
    const KILLS: usize = 8;
    let environment = [
        ("FORWARDER_CALL_TIMEOUT", "2s"),
        ("FORWARDER_MAX_RETRY_PAUSE", "5s"),
    ];
    let system =
        System::start_with(Folder::new(), &["--replicas", "forwarder=3"], &environment).await;
    let staff = system.new_company().await;
    let contacts = new_contacts(&staff, CONVERSATIONS).await;
    system
        .bot_mode(
            json!({"fail_ratio": 0.3, "hang_ratio": 0.05, "late_ratio": 0.05, "late_ms": 3_000}),
        )
        .await;
    let kill = async {
        let mut every = tokio::time::interval(Duration::from_secs(4));
        for n in 0..KILLS {
            every.tick().await;
            system
                .kill_and_await_restart(["forwarder", "forwarder-2", "forwarder-3"][n % 3])
                .await;
        }
    };
    let (posted, ()) = tokio::join!(post(&staff, &contacts, EACH), kill);
    outbound_is_empty(&system, BACKLOG).await;

    let received = system.bot_calls().await;
    assert_eq!(
        first_deliveries(&received),
        posted,
        "each conversation in order, and nothing missing"
    );
    assert_eq!(dead_letters(&system).await, 0);
    // Repeated calls carried the same key and the same content.
    let mut contents: HashMap<&str, &Value> = HashMap::new();
    for call in &received {
        let content = contents.entry(call.key()).or_insert(&call.body);
        assert_eq!(*content, &call.body);
    }
    assert_eq!(contents.len(), CONVERSATIONS * EACH);
    let database = system.database().await;
    eventually("every document says delivered", AFTER_FAULT, || async {
        let undelivered = documents(
            &database,
            "messages",
            doc! {"delivery.state": {"$ne": "delivered"}},
        )
        .await;
        undelivered.is_empty().then_some(())
    })
    .await;
    let lanes = system
        .operator()
        .await
        .get_key_value("lanes")
        .await
        .unwrap();
    let waiting: Vec<_> = lanes.keys().await.unwrap().collect().await;
    assert!(waiting.is_empty(), "no entry is left behind: {waiting:?}");
    system.assert_audit_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_are_shared_evenly_and_move_within_seconds() {
    let system = System::start(&["--replicas", "forwarder=3"]).await;
    let shared_out = async |members: usize| {
        let all = partitions(&system).await;
        let sum: usize = all.iter().map(BTreeSet::len).sum();
        let union: BTreeSet<u64> = all.iter().flatten().copied().collect();
        let most = all.iter().map(BTreeSet::len).max().unwrap_or_default();
        (sum == 16 && union.len() == 16 && most <= 16_usize.div_ceil(members)).then_some(())
    };
    eventually("three share them", SOON, || shared_out(3)).await;
    let stopped = system.signal("-STOP", "forwarder-2");
    let gone = async || {
        let urls = system.services("forwarder");
        let mut union = BTreeSet::new();
        for url in [&urls[0], &urls[2]] {
            let health: Value = system
                .http
                .get(format!("{url}/health"))
                .send()
                .await
                .ok()?
                .json()
                .await
                .ok()?;
            union.extend(
                health["checks"]["lag"]["detail"]["partitions"]
                    .as_array()?
                    .iter()
                    .filter_map(Value::as_u64),
            );
        }
        (union.len() == 16).then_some(())
    };
    eventually("two take over what the third has left", SOON, gone).await;
    // The stopped forwarder still exists, but the others deliver the messages of its partitions.
    let staff = system.new_company().await;
    let contacts = new_contacts(&staff, 40).await;
    let posted = post(&staff, &contacts, 2).await;
    outbound_is_empty(&system, SOON).await;
    crate::support::kill("-CONT", stopped);
    eventually("three share them again", SOON, || shared_out(3)).await;
    let more = post(&staff, &contacts, 2).await;
    outbound_is_empty(&system, SOON).await;
    let expected: BTreeMap<_, _> = posted
        .into_iter()
        .map(|(contact, ids)| (contact.clone(), [ids, more[&contact].clone()].concat()))
        .collect();
    assert_eq!(first_deliveries(&system.bot_calls().await), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_bot_outage_of_a_minute_slows_no_request_and_causes_few_calls() {
    const DOWN: Duration = Duration::from_secs(60);
    /// Of one forwarder: calls in flight when the breaker opens, and the trials of a minute.
    const CALLS: u64 = 64 + 10;
    let system = System::start(&["--replicas", "forwarder=2"]).await;
    let staff = system.new_company().await;
    let contacts = new_contacts(&staff, 50).await;
    let mut posted = post(&staff, &contacts, 2).await;
    outbound_is_empty(&system, SOON).await;
    let before = system.bot_calls().await.len() as u64;
    system
        .bot_mode(json!({"status": 503, "health_status": 503}))
        .await;
    let up_again = tokio::time::Instant::now() + DOWN;
    // A load during the outage, every create of which is accepted.
    let mut pace = tokio::time::interval(Duration::from_millis(500));
    while pace.tick().await < up_again {
        for (contact, ids) in post(&staff, &contacts, 1).await {
            posted.entry(contact).or_default().extend(ids);
        }
    }
    let calls = system.bot_calls().await.len() as u64 - before;
    assert!(
        (1..=2 * CALLS).contains(&calls),
        "a dead bot was called {calls} times"
    );
    let states: Vec<String> = breakers(&system).await;
    assert!(
        states
            .iter()
            .any(|state| state == "open" || state == "half_open"),
        "{states:?}"
    );
    system.bot_mode(json!({})).await;
    outbound_is_empty(&system, BACKLOG).await;
    assert_eq!(first_deliveries(&system.bot_calls().await), posted);
    assert_eq!(dead_letters(&system).await, 0);
    eventually("the breakers are closed", SOON, || async {
        breakers(&system)
            .await
            .iter()
            .all(|s| s == "closed")
            .then_some(())
    })
    .await;
    system.assert_audit_clean();
}

/// The breakers' states as the bucket `bot-health` has them.
async fn breakers(system: &System) -> Vec<String> {
    let bucket = system
        .operator()
        .await
        .get_key_value("bot-health")
        .await
        .unwrap();
    let keys: Vec<_> = bucket.keys().await.unwrap().collect().await;
    let mut states = Vec::new();
    for key in keys
        .into_iter()
        .flatten()
        .filter(|key| key.starts_with("breaker."))
    {
        let entry: Value =
            serde_json::from_slice(&bucket.get(&key).await.unwrap().unwrap_or_default())
                .unwrap_or_default();
        states.extend(entry["state"].as_str().map(str::to_owned));
    }
    states
}

#[tokio::test(flavor = "multi_thread")]
async fn blocked_conversations_with_ten_thousand_messages_delay_no_others() {
    const CONVERSATIONS: usize = 10;
    const EACH: usize = 1_000;
    const BATCH: usize = 500;
    let system = System::start(&[]).await;
    let staff = system.new_company().await;
    let blocked = new_contacts(&staff, CONVERSATIONS).await;
    let contacts = new_contacts(&staff, 100).await;
    // The same load, first without and then with the blocked conversations.
    let free = post(&staff, &contacts, 2).await;
    outbound_is_empty(&system, SOON).await;
    let median_free = median_delivery(&system, &free).await;

    system
        .bot_mode(json!({"status": 500, "only": blocked}))
        .await;
    for contact in &blocked {
        for batch in 0..EACH / BATCH {
            let message = |n: usize| {
                json!({"contact_id": contact, "role": "operator", "platform": "facebook", "direction": "outbound",
                    "content": format!("blocked {}", batch * BATCH + n)})
            };
            let messages: Vec<Value> = (0..BATCH).map(message).collect();
            let (status, answer) = staff
                .post("/messages/batch", json!({"messages": messages}))
                .await;
            assert!(status.is_success(), "{status} {answer}");
        }
    }
    let outbound = system
        .operator()
        .await
        .get_stream("OUTBOUND")
        .await
        .unwrap();
    let waiting = || async {
        (outbound.get_info().await.ok()?.state.messages == (CONVERSATIONS * EACH) as u64)
            .then_some(())
    };
    eventually("all blocked messages wait", SOON, waiting).await;
    let others = post(&staff, &contacts, 2).await;
    eventually("only blocked messages wait", SOON, waiting).await;
    let median_blocked = median_delivery(&system, &others).await;
    println!(
        "median from accepted to delivered: {median_free} ms, beside blocked conversations {median_blocked} ms"
    );

    system.bot_mode(json!({})).await;
    outbound_is_empty(&system, BACKLOG).await;
    let received = system.bot_calls().await;
    let first = first_deliveries(&received);
    for (contact, ids) in &free {
        assert_eq!(
            first[contact],
            [ids.clone(), others[contact].clone()].concat()
        );
    }
    let in_order: Vec<String> = (0..EACH).map(|n| format!("blocked {n}")).collect();
    for contact in &blocked {
        let delivered = received
            .iter()
            .filter(|call| call.succeeded() && call.body["customer_id"] == contact.as_str());
        let contents: Vec<&str> = delivered
            .map(|call| call.body["content"].as_str().unwrap())
            .collect();
        assert_eq!(contents, in_order);
    }
    system.assert_audit_clean();
}

/// The median time from accepted to delivered of these messages, in milliseconds.
async fn median_delivery(system: &System, posted: &BTreeMap<String, Vec<String>>) -> i64 {
    let ids: BTreeSet<&str> = posted.values().flatten().map(String::as_str).collect();
    let database = system.database().await;
    let mut took = eventually("all are delivered in the view", SOON, || async {
        let delivered =
            documents(&database, "messages", doc! {"delivery.state": "delivered"}).await;
        let took: Vec<i64> = delivered
            .iter()
            .filter(|d| ids.contains(d.get_object_id("_id").unwrap().to_hex().as_str()))
            .map(|d| {
                let delivered = d
                    .get_document("delivery")
                    .unwrap()
                    .get_datetime("delivered_at")
                    .unwrap();
                delivered.timestamp_millis()
                    - d.get_datetime("created_at").unwrap().timestamp_millis()
            })
            .collect();
        (took.len() == ids.len()).then_some(took)
    })
    .await;
    took.sort_unstable();
    took[took.len() / 2]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_token_holds_the_companys_messages_until_it_is_replaced() {
    let system = System::start(&["--replicas", "forwarder=2"]).await;
    let (staff, other, unconnected) = (
        system.new_company().await,
        system.new_company().await,
        system.new_unconnected_company().await,
    );
    let contacts = new_contacts(&staff, 5).await;
    system
        .bot_mode(json!({
            "status": 401, "graph_code": 190, "graph_subcode": 463,
            "only": [staff.token_for("facebook")],
        }))
        .await;
    let mut posted = post(&staff, &contacts, 3).await;
    let alone = new_contacts(&unconnected, 1).await;
    let missing = post(&unconnected, &alone, 1).await;
    let database = system.database().await;
    let held = || async {
        let held = documents(&database, "messages", doc! {"delivery.state": "held"}).await;
        // The first message of each conversation is held; the others are queued behind it.
        (held.len() == 6).then_some(held)
    };
    let held = eventually("they are held", SOON, held).await;
    let reasons: BTreeSet<&str> = held
        .iter()
        .map(|d| {
            d.get_document("delivery")
                .unwrap()
                .get_str("last_error")
                .unwrap()
        })
        .collect();
    assert_eq!(
        reasons,
        BTreeSet::from([
            "HTTP 401, Graph code 190, subcode 463: the token is invalid: \
             the stub bot was told to fail",
            "the company has no access token for facebook"
        ])
    );
    // Other companies are unaffected, and the refused token is used at most once a conversation.
    let free = post(&other, &new_contacts(&other, 1).await, 1).await;
    eventually("another company's are delivered", SOON, || async {
        let received = first_deliveries(&system.bot_calls().await);
        free.iter()
            .all(|(contact, ids)| received.get(contact) == Some(ids))
            .then_some(())
    })
    .await;
    let refused = system
        .bot_calls()
        .await
        .iter()
        .filter(|call| call.status == Some(401))
        .count();
    assert!(
        (1..=contacts.len()).contains(&refused),
        "{refused} calls with a token that was refused"
    );
    for (contact, ids) in post(&staff, &contacts, 1).await {
        posted.entry(contact).or_default().extend(ids);
    }
    assert_eq!(dead_letters(&system).await, 0);

    for (staff, platform) in [(&staff, "facebook"), (&unconnected, "facebook")] {
        let new = json!({"access_token": format!("new-{}", staff.company)});
        let (status, answer) = staff
            .send(
                reqwest::Method::PUT,
                &format!("/integrations/{platform}"),
                new,
            )
            .await;
        assert_eq!(status, StatusCode::OK, "{answer}");
    }
    outbound_is_empty(&system, SOON).await;
    let received = first_deliveries(&system.bot_calls().await);
    for (contact, ids) in posted.iter().chain(&missing) {
        assert_eq!(received.get(contact), Some(ids));
    }
    assert_eq!(dead_letters(&system).await, 0);
    system.assert_audit_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_departing_owner_frees_its_partition_and_a_former_owner_does_not_unpin_it() {
    const GROUP: &str = "members";
    let system = System::start(&[]).await;
    let log = system.operator().await;
    let stream = jetstream::stream::Config {
        name: "TEST".into(),
        subjects: vec!["test".into()],
        ..Default::default()
    };
    let stream = log.create_stream(stream).await.unwrap();
    let config = pull::Config {
        durable_name: Some("partition".into()),
        priority_policy: PriorityPolicy::PinnedClient,
        priority_groups: vec![GROUP.into()],
        // So long that no pin expires during the test.
        priority_timeout: Duration::from_secs(600),
        ..Default::default()
    };
    stream.create_consumer(config).await.unwrap();
    let password = system.run["operator"]["password"]
        .as_str()
        .unwrap()
        .to_owned();
    let settings = NatsSettings {
        url: system.url("nats"),
        user: "operator".into(),
        password: password.into(),
    };
    let connection = Connection::open(&settings, "operator", Id::generate(Timestamp::now()))
        .await
        .unwrap();
    eventually("connected", SOON, || async {
        connection.is_connected().then_some(())
    })
    .await;
    let owner = async || {
        stream
            .consumer_info("partition")
            .await
            .unwrap()
            .priority_groups[0]
            .pinned_client_id
            .clone()
    };
    let member = async || {
        let mut member = PinnedConsumer::open(&connection, "TEST", "partition".into(), GROUP)
            .await
            .unwrap();
        log.publish("test", "".into()).await.unwrap().await.unwrap();
        let arrival = tokio::time::timeout(SOON, member.next())
            .await
            .expect("a pin");
        assert!(matches!(arrival, Ok(Arrival::Pin)));
        member
    };
    let first = member().await;
    // The first member requests no more, so it does not become the owner again.
    eventually("its request has run out", SOON, || async {
        (stream.consumer_info("partition").await.unwrap().num_waiting == 0).then_some(())
    })
    .await;
    stream.unpin_consumer("partition", GROUP).await.unwrap();
    let second = member().await;
    let pinned = owner().await;
    assert!(pinned.is_some());
    first.release().await;
    assert_eq!(owner().await, pinned, "the second is the owner still");
    second.release().await;
    assert_eq!(owner().await, None);
}
