//! Several replicas: each tick is run once, and each socket gets each message once on any node.

use std::time::Duration;

use futures_util::StreamExt;
use reqwest::StatusCode;
use serde_json::Value;
use tokio_tungstenite::tungstenite::Message as Frame;

use crate::support::{AFTER_FAULT, SOON, System, eventually};

/// The sum of a counter over all series with a label.
fn counter(metrics: &str, name: &str, label: &str) -> u64 {
    let of_name = |l: &&str| {
        l.strip_prefix(name)
            .is_some_and(|rest| rest.starts_with('{') && rest.contains(label))
    };
    metrics
        .lines()
        .filter(of_name)
        .filter_map(|l| l.rsplit(' ').next()?.parse::<f64>().ok())
        .sum::<f64>() as u64
}

#[tokio::test(flavor = "multi_thread")]
async fn two_schedulers_run_each_tick_once() {
    const TICKS: u64 = 5;
    let environment = [
        ("TOKEN_REFRESH_INTERVAL", "2s"),
        ("TOKEN_REFRESH_FIRST_DELAY", "1s"),
    ];
    let system = System::start_with(
        crate::support::Folder::new(),
        &["--replicas", "scheduler=2"],
        &environment,
    )
    .await;
    let jobs = system.operator().await.get_stream("JOBS").await.unwrap();
    // The server keeps the last hundred ticks, far more than this test waits for.
    let ticks = || async {
        let info = jobs
            .info_with_subjects("jobs.tick.token-refresh")
            .await
            .ok()?;
        let found: Vec<(String, usize)> = info.filter_map(|s| async { s.ok() }).collect().await;
        found.first().map(|(_, count)| *count as u64)
    };
    let runs = || async {
        let mut runs = 0;
        for url in system.services("scheduler") {
            let metrics = system
                .http
                .get(format!("{url}/metrics"))
                .send()
                .await
                .ok()?
                .text()
                .await
                .ok()?;
            runs += counter(
                &metrics,
                "job_runs_total",
                "job=\"token-refresh\",result=\"ok\"",
            );
        }
        Some(runs)
    };
    eventually("several ticks were run", AFTER_FAULT, || async {
        runs().await.filter(|n| *n >= TICKS)
    })
    .await;
    // Runs are read before ticks, so a tick in between cannot look like a second run.
    eventually("each tick was run once", SOON, || async {
        let (runs, ticks) = (runs().await?, ticks().await?);
        assert!(runs <= ticks, "{runs} runs of {ticks} ticks");
        // The first tick makes up for a missed one. If a regular tick comes before it, the first
        // tick finds the work done and counts no run.
        (runs + 1 >= ticks).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_on_three_nodes_get_each_message_once_and_in_order() {
    const MESSAGES: usize = 60;
    let system = System::shared().await;
    let (staff, stranger) = (system.new_company().await, system.new_company().await);
    let contact = staff.new_contact().await;
    let nodes = system.services("realtime");
    assert_eq!(nodes.len(), 3);
    let mut sockets = Vec::new();
    for (node, url) in nodes.iter().enumerate() {
        for who in [&staff, &stranger] {
            let url = format!("{}/ws?token={}", url.replacen("http", "ws", 1), who.token);
            sockets.push((
                node,
                who.company.clone(),
                tokio_tungstenite::connect_async(url).await.unwrap().0,
            ));
        }
    }
    let mut sent = Vec::new();
    for n in 0..MESSAGES {
        sent.push(staff.customer_message(&contact, &format!("{n}")).await.id);
    }
    // The stranger waits for its own last message. An event of the other company would arrive
    // before it.
    let end = stranger
        .customer_message(&stranger.new_contact().await, "end")
        .await
        .id;
    for (node, company, mut socket) in sockets {
        let expected = if company == staff.company {
            sent.clone()
        } else {
            vec![end.clone()]
        };
        let mut seen = Vec::new();
        let read = async {
            while seen.len() < expected.len() {
                let Some(Ok(frame)) = socket.next().await else {
                    break;
                };
                let Frame::Text(text) = frame else { continue };
                let event: Value = serde_json::from_str(&text).unwrap();
                if event["event"] == "message:new" {
                    seen.push(event["data"]["message"]["_id"].as_str().unwrap().to_owned());
                }
            }
        };
        let _ = tokio::time::timeout(SOON, read).await;
        assert_eq!(seen, expected, "node {node}");
        // No message arrives twice: the next frame is not one of them.
        if let Ok(Some(Ok(Frame::Text(text)))) =
            tokio::time::timeout(Duration::from_millis(200), socket.next()).await
        {
            assert!(!text.contains("message:new"), "{text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_socket_requires_a_valid_token() {
    let system = System::shared().await;
    for query in ["", "?token=", "?token=a.b.c"] {
        let answer = system
            .http
            .get(format!("{}/ws{query}", system.url("realtime")))
            .header("connection", "upgrade")
            .header("upgrade", "websocket")
            .header("sec-websocket-version", "13")
            .header("sec-websocket-key", "AAAAAAAAAAAAAAAAAAAAAA==")
            .send()
            .await
            .unwrap();
        assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{query}");
    }
}
