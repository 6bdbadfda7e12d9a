//! SLA: exact reports of a known history, targets, and breaches that are each reported once. How
//! long deliveries really take is not asserted.

use std::time::Duration;

use contract::domain::{Content, Delivery, DeliveryState, Direction, Message, Platform, Role};
use contract::event::{Actor, Envelope, Event, MessageDelivery, MessageSlaBreached};
use contract::{Id, Timestamp};
use futures_util::StreamExt;
use mongodb::bson::{Document, doc, oid::ObjectId};
use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::ws_client;
use crate::support::{AFTER_FAULT, Folder, SOON, Staff, System, documents, eventually};

/// A company's history, which the test publishes to the log.
struct Past<'a> {
    staff: &'a Staff<'a>,
    log: async_nats::jetstream::Context,
    begin: Timestamp,
}

impl Past<'_> {
    fn at(&self, seconds: u64) -> Timestamp {
        self.begin.plus(Duration::from_secs(seconds))
    }

    fn company(&self) -> Id {
        self.staff.company.parse().unwrap()
    }

    async fn store(&self, at: Timestamp, event: Event) {
        let envelope = Envelope::new(at, Actor::Service, self.company(), event);
        self.log
            .publish(
                envelope.subject().to_string(),
                envelope.to_json().unwrap().into(),
            )
            .await
            .unwrap()
            .await
            .unwrap();
    }

    /// Stores a message that was accepted `seconds` after the beginning, and delivered `took` ms
    /// later.
    async fn message(
        &self,
        contact: Id,
        role: Role,
        platform: Platform,
        second: u64,
        took: Option<u64>,
    ) -> Id {
        let at = self.at(second);
        let id = Id::generate(at);
        // The delivery step comes first. Because the first delivery counts, later steps of the
        // forwarder change nothing.
        if let Some(took) = took {
            let delivered_at = Some(at.plus(Duration::from_millis(took)));
            let delivery = Delivery {
                state: DeliveryState::Delivered,
                attempts: 1,
                delivered_at,
                ..Delivery::queued()
            };
            let step = MessageDelivery {
                message_id: id,
                contact_id: contact,
                message_seq: None,
                delivery,
                status: Some(200),
                duration_ms: Some(5),
            };
            self.store(at, Event::MessageDelivery(step)).await;
        }
        let message = Message {
            id,
            company_id: self.company(),
            contact_id: contact,
            role,
            platform,
            direction: if role == Role::User {
                Direction::Inbound
            } else {
                Direction::Outbound
            },
            content: Content::new("of old").unwrap(),
            attachments: Vec::new(),
            external_message_id: None,
            sent_elsewhere: false,
            // Only the log's time counts, so this value must be ignored.
            created_at: Timestamp::from_millis(1),
            of_channel: serde_json::Map::new(),
            extra: serde_json::Map::new(),
        };
        self.store(at, Event::MessageCreated(message)).await;
        id
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_sla_report_is_exact() {
    const DELIVERED: u64 = 100;
    let system = System::shared().await;
    let staff = system.new_company().await;
    // Older than a sweep looks at, so that no sweep adds a breach.
    let begin = Timestamp::from_millis(Timestamp::now().millis() - 30 * 3_600_000);
    let past = Past {
        staff: &staff,
        log: system.operator().await,
        begin,
    };
    let contact = || async { staff.new_contact().await.parse::<Id>().unwrap() };
    let (one, two, many) = (contact().await, contact().await, contact().await);
    // Answered after 30 s, then by the bot; the last message is unanswered.
    for (second, role) in [
        (0, Role::User),
        (5, Role::User),
        (30, Role::Operator),
        (100, Role::User),
        (101, Role::Assistant),
        (200, Role::Operator),
        (300, Role::User),
    ] {
        past.message(one, role, Platform::Web, second, None).await;
    }
    // Answered too late.
    past.message(two, Role::User, Platform::Telegram, 0, None)
        .await;
    past.message(two, Role::Operator, Platform::Telegram, 1_000, None)
        .await;
    // 0.7 s to 70 s; the target is a minute.
    let mut late = Vec::new();
    for n in 1..=DELIVERED {
        let id = past
            .message(
                many,
                Role::Operator,
                Platform::Facebook,
                400 + n,
                Some(700 * n),
            )
            .await;
        late.extend((700 * n > 60_000).then_some((id, 400 + n)));
    }
    for (message_id, second) in &late {
        let breach = MessageSlaBreached {
            message_id: *message_id,
            contact_id: many,
            platform: Platform::Facebook,
            target_seconds: 60,
            accepted_at: past.at(*second),
        };
        past.store(past.at(second + 60), Event::MessageSlaBreached(breach))
            .await;
        past.store(
            past.at(second + 90),
            Event::MessageSlaBreached(MessageSlaBreached {
                target_seconds: 9,
                ..breach
            }),
        )
        .await;
    }
    // The contact does not exist, so the delivery fails.
    past.message(
        Id::generate(begin),
        Role::Operator,
        Platform::Facebook,
        600,
        None,
    )
    .await;

    let range = format!("from={}&to={}", past.at(0), past.at(3_600));
    let report = eventually("everything is counted", AFTER_FAULT, || async {
        let (status, report) = staff.get(&format!("/sla?{range}")).await;
        assert_eq!(status, StatusCode::OK, "{report}");
        (report["delivery"]["failed"] == 1 && report["delivery"]["breached"] == late.len())
            .then_some(report)
    })
    .await;
    assert_eq!(
        (&report["messages"], &report["truncated"]),
        (&json!(7 + 2 + DELIVERED + 1), &json!(false))
    );
    assert_eq!(
        report["targets"],
        json!({"delivery_seconds": 60, "first_response_seconds": 900})
    );
    assert_eq!(
        report["delivered"],
        json!({"count": DELIVERED, "p50_ms": 35_000, "p95_ms": 66_500, "p99_ms": 69_300})
    );
    let within = DELIVERED - late.len() as u64;
    assert_eq!(
        report["delivery"],
        json!({"forwardable": DELIVERED + 1, "delivered": DELIVERED, "within_target": within, "late": late.len() + 1, "pending": 0,
            "failed": 1, "breached": late.len(), "within_target_ratio": within as f64 / (DELIVERED + 1) as f64})
    );
    assert_eq!(
        report["first_response"],
        json!({"times": {"count": 2, "p50_ms": 30_000, "p95_ms": 1_000_000, "p99_ms": 1_000_000}, "within_target": 1, "late": 2,
            "waiting": 1, "oldest_waiting_ms": 3_300_000, "within_target_ratio": 1.0 / 3.0})
    );
    assert!(
        report["as_of_seq"].as_u64().unwrap() > DELIVERED,
        "{report}"
    );

    // The first breach stays, whichever persister applies its event first. Clients see the breach
    // with the message.
    eventually("each late message has its first breach", SOON, || async {
        let (_, page) = staff
            .get(&format!("/messages?contact_id={many}&limit=200"))
            .await;
        let breached: Vec<&Value> = page["messages"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|m| !m["sla"].is_null())
            .collect();
        assert_eq!(breached.len(), late.len());
        assert!(
            breached.iter().all(|m| m.get("accepted_at").is_none()),
            "{breached:?}"
        );
        breached
            .iter()
            .all(|m| m["sla"]["target_seconds"] == 60)
            .then_some(())
    })
    .await;

    // One platform; another range; another company.
    let (_, web) = staff.get(&format!("/sla?platform=Web&{range}")).await;
    assert_eq!(
        (
            &web["messages"],
            &web["delivery"]["forwardable"],
            &web["first_response"]["times"]["count"]
        ),
        (&json!(7), &json!(0), &json!(1))
    );
    let (_, before) = staff.get(&format!("/sla?to={}", past.at(0))).await;
    assert_eq!(
        (&before["messages"], &before["delivered"]["p50_ms"]),
        (&json!(0), &Value::Null)
    );
    let (_, others) = system
        .new_company()
        .await
        .get(&format!("/sla?{range}"))
        .await;
    assert_eq!(
        (&others["messages"], &others["backlog"]["total"]),
        (&json!(0), &json!(0))
    );
    for bad in [
        "from=yesterday",
        "from=2026-01-01T00:00:00Z&to=2026-03-01T00:00:00Z",
        "platform=pigeon",
    ] {
        assert_eq!(
            staff.get(&format!("/sla?{bad}")).await.0,
            StatusCode::BAD_REQUEST,
            "{bad}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_sla_report_counts_the_backlog_and_measures_persistence() {
    let system = System::shared().await;
    let staff = system.new_company().await;
    let contact = staff.new_contact().await;
    let (status, answer) = staff
        .send(Method::DELETE, "/integrations/facebook", json!({}))
        .await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    for n in 0..3 {
        staff.customer_message(&contact, &format!("{n}")).await;
    }
    staff.operator_message(&contact, "held").await;
    staff.operator_message(&contact, "behind it").await;
    let report = eventually(
        "the backlog is held, and what was accepted is measured",
        AFTER_FAULT,
        || async {
            let (_, report) = staff.get("/sla").await;
            (report["backlog"]["held"].as_u64()? >= 1 && report["persisted"]["count"] == 5)
                .then_some(report)
        },
    )
    .await;
    let backlog = &report["backlog"];
    assert_eq!(backlog["total"], 2, "{backlog}");
    assert!(
        backlog["oldest_age_ms"].as_u64().unwrap() < 600_000,
        "{backlog}"
    );
    let [p50, p99] = ["p50_ms", "p99_ms"].map(|p| report["persisted"][p].as_u64().unwrap());
    assert!(0 < p50 && p50 <= p99 && p99 < 60_000, "{report}");
    assert_eq!(report["delivery"]["delivered"], 0);
    assert_eq!(report["first_response"]["times"]["count"], 1);

    let body = json!({"access_token": staff.token_for("facebook")});
    assert_eq!(
        staff
            .send(Method::PUT, "/integrations/facebook", body)
            .await
            .0,
        StatusCode::OK
    );
    eventually("the backlog is delivered", AFTER_FAULT, || async {
        let (_, report) = staff.get("/sla").await;
        (report["backlog"]["total"] == 0 && report["delivery"]["delivered"] == 2).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_sla_report_says_where_it_begins() {
    const MESSAGES: i64 = 50_010;
    const DELIVERED_AFTER_MS: i64 = 250;
    let system = System::shared().await;
    let staff = system.new_company().await;
    let begin = Timestamp::from_millis(Timestamp::now().millis() - 48 * 3_600_000);
    let company = ObjectId::parse_str(&staff.company).unwrap();
    let at = |ms: i64| mongodb::bson::DateTime::from_millis(begin.millis() + ms);
    // Inserted into the database directly, because only the read is tested.
    let message = |n: i64| {
        doc! {
            "company_id": company, "contact_id": company, "role": "operator", "direction": "outbound", "platform": "facebook", "seq": n,
            "content": "x".repeat(200), "accepted_at": at(n), "created_at": at(n),
            "delivery": {"state": "delivered", "delivered_at": at(n + DELIVERED_AFTER_MS)},
        }
    };
    let messages = system.database().await.collection::<Document>("messages");
    for first in (0..MESSAGES).step_by(10_002) {
        messages
            .insert_many((first..first + 10_002).map(message))
            .await
            .unwrap();
    }
    let (status, report) = staff
        .get(&format!(
            "/sla?from={begin}&to={}",
            begin.plus(Duration::from_secs(3_600))
        ))
        .await;
    // Removed, because other tests of the shared system read all stored messages.
    messages
        .delete_many(doc! {"company_id": company})
        .await
        .unwrap();
    assert_eq!(status, StatusCode::OK, "{report}");
    let counted_from = Timestamp::from_millis(begin.millis() + 10);
    assert_eq!(
        (
            &report["messages"],
            &report["truncated"],
            &report["counted_from"]
        ),
        (&json!(50_000), &json!(true), &json!(counted_from))
    );
    assert_eq!(
        report["delivered"],
        json!({"count": 50_000, "p50_ms": 250, "p95_ms": 250, "p99_ms": 250})
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn sla_targets_belong_to_a_company_and_only_managers_set_them() {
    let system = System::shared().await;
    let (staff, other) = (system.new_company().await, system.new_company().await);
    let default = json!({"delivery_seconds": 60, "first_response_seconds": 900});
    assert_eq!(
        staff.get("/sla/targets").await,
        (StatusCode::OK, json!({"targets": default}))
    );
    for chosen in [
        json!({"delivery_seconds": 5, "first_response_seconds": 86_400}),
        json!({"delivery_seconds": 6, "first_response_seconds": 7}),
    ] {
        let (status, saved) = staff
            .send(Method::PUT, "/sla/targets", chosen.clone())
            .await;
        assert_eq!(
            (status, &saved["targets"]),
            (StatusCode::OK, &chosen),
            "{saved}"
        );
        assert_eq!(staff.get("/sla/targets").await.1["targets"], chosen);
        assert_eq!(staff.get("/sla").await.1["targets"], chosen);
    }
    assert_eq!(other.get("/sla/targets").await.1["targets"], default);
    let (status, problem) = staff
        .send(Method::PUT, "/sla/targets", json!({"delivery_seconds": 0}))
        .await;
    assert_eq!(
        (status, problem["errors"].as_array().map(Vec::len)),
        (StatusCode::BAD_REQUEST, Some(2)),
        "{problem}"
    );

    let email = format!("desk-{}@example.com", staff.company);
    let (_, invited) = staff
        .post(
            "/auth/invitations",
            json!({"email": email, "role": "receptionist"}),
        )
        .await;
    let body = json!({"invitation": invited["invitation"], "fullName": "Rae", "email": email, "password": "correct horse"});
    let (status, joined) = system
        .request(Method::POST, "/auth/register", None, Some(&body))
        .await;
    assert_eq!(status, StatusCode::CREATED, "{joined}");
    let desk = Staff {
        system,
        token: joined["accessToken"].as_str().unwrap().to_owned(),
        company: staff.company.clone(),
    };
    for path in ["/sla", "/sla/targets"] {
        assert_eq!(desk.get(path).await.0, StatusCode::FORBIDDEN, "{path}");
    }
    assert_eq!(
        desk.send(Method::PUT, "/sla/targets", default).await.0,
        StatusCode::FORBIDDEN
    );
}

/// Waits until a sweep has covered a moment.
async fn swept_past(log: &async_nats::jetstream::Context, moment: Timestamp) {
    let runs = log.get_key_value("job-runs").await.unwrap();
    eventually("a sweep has come past it", AFTER_FAULT, || async {
        let swept_to = runs.get("sla-sweep.swept-to").await.ok()??;
        (String::from_utf8_lossy(&swept_to)
            .parse::<Timestamp>()
            .ok()?
            > moment)
            .then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_breach_is_reported_once_over_concurrent_and_repeated_sweeps() {
    let args = ["--replicas", "scheduler=2,persister=2"];
    let system = System::start_with(Folder::new(), &args, &[("SLA_SWEEP_INTERVAL", "1s")]).await;
    let (staff, patient) = (system.new_company().await, system.new_company().await);
    let targets = json!({"delivery_seconds": 1, "first_response_seconds": 60});
    assert_eq!(
        staff.send(Method::PUT, "/sla/targets", targets).await.0,
        StatusCode::OK
    );
    let url = format!(
        "{}/ws?token={}",
        system.url("realtime").replacen("http", "ws", 1),
        staff.token
    );
    let (mut socket, _) = tokio_tungstenite::connect_async(url).await.unwrap();
    let log = system.operator().await;

    let in_time = staff
        .operator_message(&staff.new_contact().await, "quick")
        .await
        .id;
    let database = system.database().await;
    let state = async |id: &str| {
        let found = documents(
            &database,
            "messages",
            doc! {"_id": ObjectId::parse_str(id).unwrap()},
        )
        .await;
        found
            .first()?
            .get_document("delivery")
            .ok()?
            .get_str("state")
            .ok()
            .map(str::to_owned)
    };
    eventually("it is delivered", SOON, || async {
        (state(&in_time).await? == "delivered").then_some(())
    })
    .await;
    // One is delivered late, one is refused. Neither is delivered when its target passes.
    system.bot_mode(json!({"delay_ms": 2_500})).await;
    let slow = staff
        .operator_message(&staff.new_contact().await, "slow")
        .await
        .id;
    let slow_elsewhere = patient
        .operator_message(&patient.new_contact().await, "slow, and nobody minds")
        .await
        .id;
    eventually("both are delivered", SOON, || async {
        (state(&slow).await? == "delivered" && state(&slow_elsewhere).await? == "delivered")
            .then_some(())
    })
    .await;
    system.bot_mode(json!({"status": 400})).await;
    let refused = staff
        .operator_message(&staff.new_contact().await, "never")
        .await
        .id;

    let mut told = Vec::new();
    for _ in 0..2 {
        let breached = ws_client::event(&mut socket, "sla:breached", |e| {
            e["event"] == "sla:breached"
        })
        .await;
        assert_eq!(
            (
                &breached["data"]["targetSeconds"],
                &breached["data"]["platform"]
            ),
            (&json!(1), &json!("facebook")),
            "{breached}"
        );
        assert!(
            breached["data"]["seq"].is_u64() && breached["data"]["acceptedAt"].is_string(),
            "{breached}"
        );
        told.push(breached["data"]["messageId"].as_str().unwrap().to_owned());
    }
    told.sort();
    let mut wanted = vec![slow.clone(), refused.clone()];
    wanted.sort();
    assert_eq!(told, wanted);

    // A further sweep reports nothing again.
    swept_past(&log, Timestamp::now()).await;
    let runs = log.get_key_value("job-runs").await.unwrap();
    runs.purge("sla-sweep.swept-to").await.unwrap();
    swept_past(&log, Timestamp::now()).await;
    let events = log.get_stream("EVENTS").await.unwrap();
    let mut breaches = events
        .info_with_subjects("message.sla_breached.>")
        .await
        .unwrap();
    let mut count = 0;
    while let Some(subject) = breaches.next().await {
        let (subject, of_it) = subject.unwrap();
        assert!(subject.contains(&staff.company), "{subject}");
        count += of_it;
    }
    assert_eq!(count, 2);
    for id in [&slow, &refused] {
        let (_, found) = staff.get_message(id).await;
        assert_eq!(found["messageData"]["sla"]["target_seconds"], 1, "{found}");
    }
    let of = async |staff: &Staff<'_>| staff.get("/sla").await.1["delivery"].clone();
    let (ours, theirs) = (of(&staff).await, of(&patient).await);
    assert_eq!(
        (&ours["breached"], &ours["within_target"], &ours["late"]),
        (&json!(2), &json!(1), &json!(2)),
        "{ours}"
    );
    assert_eq!(
        (&theirs["breached"], &theirs["within_target"]),
        (&json!(0), &json!(1)),
        "{theirs}"
    );
    // The sweeps use indexes.
    let stats = database
        .collection::<Document>("messages")
        .aggregate([doc! {"$indexStats": {}}])
        .await
        .unwrap();
    let stats: Vec<Document> = futures_util::TryStreamExt::try_collect(stats)
        .await
        .unwrap();
    for name in [
        "operator_accepted",
        "undelivered",
        "company_id_1_accepted_at_1",
    ] {
        let index = stats
            .iter()
            .find(|index| index.get_str("name").is_ok_and(|n| n == name))
            .unwrap_or_else(|| panic!("{name}: {stats:?}"));
        assert!(
            index
                .get_document("accesses")
                .unwrap()
                .get_i64("ops")
                .unwrap()
                > 0,
            "{name} is not used"
        );
    }

    let mut counted = 0;
    for url in system.services("scheduler") {
        let metrics = system
            .http
            .get(format!("{url}/metrics"))
            .send()
            .await
            .unwrap()
            .text()
            .await
            .unwrap();
        let lines = metrics
            .lines()
            .filter(|line| line.starts_with("sla_breaches_total{"));
        counted += lines
            .filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
            .sum::<u64>();
    }
    assert_eq!(counted, 2);
}
