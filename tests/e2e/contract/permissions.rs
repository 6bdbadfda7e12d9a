//! Least privilege: nats-server refuses a service every subject outside its permissions and allows
//! every subject that the service needs.

use std::time::Duration;

use async_nats::{Client, ConnectOptions, Event};
use tokio::sync::mpsc;

use crate::support::{SOON, System};

/// Connects as a service. The server's permission errors arrive on the channel.
async fn connect(system: &System, service: &str) -> (Client, mpsc::Receiver<String>) {
    let secrets: serde_json::Value =
        serde_json::from_slice(&std::fs::read(system.folder.0.join("secrets.json")).unwrap())
            .unwrap();
    let password =
        find(&secrets, service).unwrap_or_else(|| panic!("no password of {service} in {secrets}"));
    let (complaints, heard) = mpsc::channel(16);
    let options = ConnectOptions::new()
        .user_and_password(service.into(), password)
        .custom_inbox_prefix(format!("_INBOX_{service}"))
        .event_callback(move |event| {
            let complaints = complaints.clone();
            async move {
                if let Event::ServerError(e) = event {
                    let _ = complaints.try_send(e.to_string());
                }
            }
        });
    (options.connect(system.url("nats")).await.unwrap(), heard)
}

/// The service's NATS password in the runner's secrets, at any depth.
fn find(secrets: &serde_json::Value, service: &str) -> Option<String> {
    secrets
        .as_object()?
        .values()
        .find_map(|v| v.get(service))
        .or_else(|| secrets.get(service))?
        .as_str()
        .map(str::to_owned)
}

async fn refused(
    system: &System,
    service: &str,
    forbidden_publish: &[&str],
    forbidden_subscribe: &[&str],
    allowed: &[&str],
) {
    let (client, mut heard) = connect(system, service).await;
    for subject in allowed {
        client
            .publish(subject.to_string(), "".into())
            .await
            .unwrap();
    }
    client.flush().await.unwrap();
    // Errors arrive in the order of the operations. So an error about an allowed subject would
    // arrive before the one about the forbidden subject.
    for subject in forbidden_publish {
        client
            .publish(subject.to_string(), "".into())
            .await
            .unwrap();
        let complaint = tokio::time::timeout(SOON, heard.recv())
            .await
            .unwrap_or_else(|_| panic!("{service} may publish {subject}"))
            .unwrap();
        assert!(
            complaint
                .to_lowercase()
                .contains("permissions violation for publish")
                && complaint.contains(subject),
            "{service}: {complaint}"
        );
    }
    for subject in forbidden_subscribe {
        let _subscription = client.subscribe(subject.to_string()).await.unwrap();
        let complaint = tokio::time::timeout(SOON, heard.recv())
            .await
            .unwrap_or_else(|_| panic!("{service} may subscribe {subject}"))
            .unwrap();
        assert!(
            complaint
                .to_lowercase()
                .contains("permissions violation for subscription")
                && complaint.contains(subject),
            "{service}: {complaint}"
        );
    }
}

const EVERYBODYS_TABOO: [&str; 3] = [
    "$JS.API.STREAM.DELETE.EVENTS",
    "$JS.API.STREAM.PURGE.EVENTS",
    "$JS.API.CONSUMER.DELETE.EVENTS.persister",
];

#[tokio::test(flavor = "multi_thread")]
async fn the_gateway_may_publish_events_and_query_but_consume_no_stream() {
    let system = System::shared().await;
    let publish = [
        "message.delivery.a.b",
        "jobs.schedule.x",
        "$JS.API.CONSUMER.MSG.NEXT.EVENTS.persister",
        "dead.gateway.x",
        "$JS.API.CONSUMER.CREATE.KV_sessions",
        "$JS.API.STREAM.PURGE.KV_sessions",
        "$KV.job-runs.x",
        "jobs.work.a.b.c",
        "$JS.API.STREAM.PURGE.DEAD",
        "$JS.API.STREAM.MSG.DELETE.DEAD",
        "$JS.API.CONSUMER.CREATE.DEAD",
        "$JS.API.DIRECT.GET.JOBS",
    ];
    refused(
        system,
        "gateway",
        &[&publish[..], &EVERYBODYS_TABOO].concat(),
        &[
            "live.message.>",
            "live.message.created.>",
            "query.>",
            "_INBOX_persister.>",
        ],
        &[
            "query.x",
            "$JS.API.STREAM.MSG.GET.EVENTS",
            "$JS.API.STREAM.MSG.GET.KV_sessions",
            "$JS.API.DIRECT.GET.KV_sessions",
            "$JS.API.STREAM.MSG.GET.KV_lockouts",
            "$JS.API.DIRECT.GET.DEAD",
            "$JS.API.DIRECT.GET.OUTBOUND",
            "$JS.API.STREAM.MSG.GET.KV_dead-letters",
            "$KV.dead-letters.x",
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_persister_may_read_the_log_and_answer_queries_but_publish_no_event() {
    let system = System::shared().await;
    let publish = [
        "message.created.a.b.web.inbound.user",
        "query.message.get",
        "$JS.API.CONSUMER.MSG.NEXT.OUTBOUND.forwarder",
    ];
    refused(
        system,
        "persister",
        &[&publish[..], &EVERYBODYS_TABOO].concat(),
        &["live.message.>", "outcome.>"],
        &["outcome.x.y.z"],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_forwarder_may_consume_outbound_and_report_deliveries() {
    let system = System::shared().await;
    let publish = [
        "message.created.a.b.web.inbound.user",
        "query.user.by_email",
        "$JS.API.CONSUMER.MSG.NEXT.EVENTS.persister",
        // These could read the log's password hashes.
        "$JS.API.CONSUMER.CREATE.EVENTS.relay",
        "$JS.API.DIRECT.GET.EVENTS",
        "$JS.API.DIRECT.GET.EVENTS.company.created.a.a",
    ];
    refused(
        system,
        "forwarder",
        &[&publish[..], &EVERYBODYS_TABOO].concat(),
        &["query.>", "live.message.>"],
        &[
            "query.contact.get",
            "$JS.API.CONSUMER.INFO.EVENTS.relay",
            "$JS.API.DIRECT.GET.EVENTS.message.delivery.a.b",
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_scheduler_may_publish_schedules_but_read_no_messages() {
    let system = System::shared().await;
    let publish = [
        "message.created.a.b.web.inbound.user",
        "integration.deleted.a.b",
        "contact.updated.a.b",
        "query.message.get",
        "$JS.API.DIRECT.GET.EVENTS",
        "$JS.API.DIRECT.GET.EVENTS.message.updated.a.b",
        "$KV.bot-health.breaker.a",
        "$KV.dead-letters.1",
    ];
    refused(
        system,
        "scheduler",
        &[&publish[..], &EVERYBODYS_TABOO].concat(),
        &["live.message.>", "query.>"],
        &[
            "$JS.API.DIRECT.GET.JOBS.jobs.schedule.token-refresh",
            "$JS.API.DIRECT.GET.EVENTS.integration.*.a.facebook",
            "$JS.API.STREAM.MSG.GET.KV_bot-health",
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn realtime_may_subscribe_to_live_events_and_publish_reads() {
    let system = System::shared().await;
    let publish = [
        "message.created.a.b.web.inbound.user",
        "message.deleted.a.b",
        "query.message.get",
        "$JS.API.CONSUMER.CREATE.EVENTS",
        "$KV.sessions.a.b",
        "$JS.API.STREAM.MSG.GET.KV_sessions",
    ];
    refused(
        system,
        "realtime",
        &[&publish[..], &EVERYBODYS_TABOO].concat(),
        &["query.>", "outcome.>", "message.>"],
        &["typing.a.b", "$JS.API.DIRECT.GET.EVENTS"],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_refuses_connections_without_a_password() {
    let system = System::shared().await;
    for options in [
        ConnectOptions::new(),
        ConnectOptions::new().user_and_password("gateway".into(), "wrong".into()),
    ] {
        let attempt = options
            .connection_timeout(Duration::from_secs(5))
            .max_reconnects(1)
            .connect(system.url("nats"))
            .await;
        assert!(attempt.is_err());
    }
}
