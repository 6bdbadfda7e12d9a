//! A soak: clients of several companies write, read and listen on a cluster, while faults are drawn
//! at random from a seed. At the end the `checker` compares what was witnessed, and `petbuddy audit`
//! compares log, database and deliveries. Leaves a timeline in `target/tmp/soak.svg`.
//!
//! `SOAK_SECONDS` (120) is how long faults are brought about, `SOAK_SEED` repeats a run's faults.

mod checker;
mod clients;
mod faults;
mod timeline;

use std::sync::Arc;
use std::time::Duration;

use contract::event::{Envelope, Event};
use contract::{Id, Timestamp, inventory};
use mongodb::bson::doc;
use runtime::log::direct_get;
use runtime::net::connection::Connection;
use runtime::service::settings::NatsSettings;
use tokio_util::sync::CancellationToken;

use crate::support::cluster::ClusteredSystem;
use crate::support::{AFTER_FAULT, System, documents, eventually};
use checker::{Created, Logged, Witnessed, check};
use clients::{Company, Notes};

/// Companies, each with clients of its own.
const COMPANIES: usize = 3;
/// How long a soak lasts by default.
const SECONDS: u64 = 120;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|e| panic!("{variable}={text}: {e}")),
    )
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_see_no_broken_promise_while_faults_are_drawn_at_random() {
    let seconds = number("SOAK_SECONDS").unwrap_or(SECONDS);
    let seed = number("SOAK_SEED").unwrap_or_else(|| Timestamp::now().millis().unsigned_abs());
    println!("SOAK_SEED={seed} SOAK_SECONDS={seconds}");
    let mut clustered = ClusteredSystem::start().await;
    let notes = Arc::new(Notes::default());
    let (writing, listening) = (CancellationToken::new(), CancellationToken::new());
    let mut companies = Vec::new();
    for _ in 0..COMPANIES {
        companies.push(Company::register(&clustered.system).await);
    }
    let (mut writers, mut followers) = (Vec::new(), Vec::new());
    for (n, company) in companies.iter().enumerate() {
        for node in clustered.system.services("realtime") {
            let follower = company.clone().follow(node, listening.clone());
            followers.push(tokio::spawn(follower));
        }
        for gateway in clustered.system.services("gateway") {
            let seed = seed.wrapping_add(n as u64);
            let writer = company
                .clone()
                .write(gateway, seed, notes.clone(), writing.clone());
            writers.push(tokio::spawn(writer));
        }
    }
    faults::bring_about(&mut clustered, Duration::from_secs(seconds), seed, &notes).await;
    writing.cancel();
    for writer in writers {
        writer.await.unwrap();
    }
    let system = &clustered.system;
    system.await_ready().await;
    let jetstream = system.operator().await;
    eventually("nothing awaits the bot any more", AFTER_FAULT, || async {
        let relay = jetstream.get_stream("EVENTS").await.ok()?;
        let relay = relay
            .get_consumer::<async_nats::jetstream::consumer::pull::Config>("relay")
            .await
            .ok()?;
        let info = relay.cached_info();
        let outbound = jetstream.get_stream("OUTBOUND").await.ok()?;
        let waits = outbound.cached_info().state.messages;
        (info.num_pending == 0 && info.num_ack_pending == 0 && waits == 0).then_some(())
    })
    .await;
    let log = read_log(system).await;
    let mut witnessed = notes.witnessed();
    for company in &companies {
        witnessed
            .transcripts
            .extend(company.transcripts(&log).await);
    }
    listening.cancel();
    for follower in followers {
        follower.await.unwrap();
    }
    witnessed.log = log;
    let calls = system.bot_calls().await;
    let delivered = calls.iter().filter(|call| call.succeeded());
    witnessed.calls = delivered.map(|call| call.key().to_owned()).collect();
    let svg = concat!(env!("CARGO_TARGET_TMPDIR"), "/soak.svg");
    std::fs::write(svg, timeline::svg(&notes.timeline())).unwrap();
    println!("{} in {seconds} s; {svg}", summary(&witnessed));
    println!("{}", timeline::table(&notes.timeline()));
    println!("{}", delivery_times(system).await);
    let objections = check(&witnessed);
    assert!(objections.is_empty(), "SOAK_SEED={seed}: {objections:?}");
    system.assert_audit_clean();
}

fn summary(witnessed: &Witnessed) -> String {
    let seen: usize = witnessed.transcripts.iter().map(|t| t.seen.len()).sum();
    format!(
        "{} creates accepted, {} events in the log, {} deliveries, {seen} events on sockets",
        witnessed.accepted.len(),
        witnessed.log.len(),
        witnessed.calls.len(),
    )
}

/// How long operators' messages took from the POST to the bot's answer.
async fn delivery_times(system: &System) -> String {
    let delivered = doc! {"delivery.state": "delivered"};
    let messages = documents(&system.database().await, "messages", delivered).await;
    let mut took: Vec<i64> = messages
        .iter()
        .filter_map(|message| {
            let delivery = message.get_document("delivery").ok()?;
            let at = delivery
                .get_datetime("delivered_at")
                .ok()?
                .timestamp_millis();
            Some(at - message.get_datetime("created_at").ok()?.timestamp_millis())
        })
        .collect();
    took.sort_unstable();
    let of = |percent: usize| took.get((took.len() * percent / 100).min(took.len() - 1));
    let (half, most, all) = (of(50), of(99), took.last());
    format!("from POST to delivered, ms: p50 {half:?}, p99 {most:?}, max {all:?}")
}

/// The events `message.*` of the log, in order.
async fn read_log(system: &System) -> Vec<Logged> {
    let nats = NatsSettings {
        url: system.url("nats"),
        user: system.run["operator"]["user"].as_str().unwrap().to_owned(),
        password: system.run["operator"]["password"].as_str().unwrap().into(),
    };
    let instance = Id::generate(Timestamp::now());
    let connection = Connection::open(&nats, "operator", instance).await.unwrap();
    let last = eventually("the log's leader answers", AFTER_FAULT, || async {
        let last = direct_get::last_seq(&connection, inventory::EVENTS, "message.>").await;
        last.ok()
    })
    .await;
    let (mut log, mut next) = (Vec::new(), 1);
    while next <= last {
        let page = eventually("a page of the log", AFTER_FAULT, || async {
            let page =
                direct_get::page(&connection, inventory::EVENTS, "message.>", next, 1_000).await;
            page.ok().filter(|page| !page.is_empty())
        })
        .await;
        next = page.last().unwrap().seq + 1;
        log.extend(page.iter().map(|stored| {
            let envelope = Envelope::from_message(&stored.subject, &stored.payload).unwrap();
            let (mut created, mut deleted) = (None, None);
            match envelope.event {
                Event::MessageCreated(message) => {
                    created = Some(Created {
                        id: message.id.to_string(),
                        contact: message.contact_id.to_string(),
                        key: stored.header("Nats-Msg-Id").unwrap().to_owned(),
                        is_for_bot: message.is_forwardable(),
                    });
                }
                Event::MessageDeleted(event) => deleted = Some(event.message_id.to_string()),
                _ => {}
            }
            Logged {
                seq: stored.seq,
                company: envelope.company_id.to_string(),
                created,
                deleted,
            }
        }));
    }
    log
}
