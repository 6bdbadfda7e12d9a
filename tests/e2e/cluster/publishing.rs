//! What a client is answered is what became of its request, on a replicated log: repetitions at the
//! same time, a frozen majority, and writes that expect a revision.

use std::collections::HashSet;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use mongodb::bson::{doc, oid::ObjectId};
use reqwest::StatusCode;
use serde_json::json;

use crate::support::cluster::ClusteredSystem;
use crate::support::load::Load;
use crate::support::{AFTER_FAULT, Staff, documents, eventually, id_of};

/// Rounds of requests at the same time.
const ROUNDS: usize = 40;

#[tokio::test(flavor = "multi_thread")]
async fn one_key_at_two_gateways_at_the_same_time_is_stored_once_and_answered_alike() {
    let clustered = ClusteredSystem::start().await;
    let staff = clustered.system.new_company().await;
    let contact = staff.new_contact().await;
    for round in 0..ROUNDS {
        let key = format!("key-{round}");
        let body = json!({
            "contact_id": contact, "role": "user", "platform": "facebook", "direction": "inbound",
            "content": "hello",
        });
        let headers = [("Idempotency-Key", key.as_str())];
        let post = |gateway| staff.post_to(gateway, "/messages", &headers, &body);
        let answers = join_all((0..6).map(|n| post(n % 2))).await;
        let statuses: Vec<_> = answers.iter().map(|a| a.status).collect();
        assert_eq!(statuses, [StatusCode::CREATED; 6], "{answers:?}");
        let ids: HashSet<_> = answers.iter().map(|a| id_of(&a.body)).collect();
        assert_eq!(ids.len(), 1, "one key has several messages: {answers:?}");
    }
    let company = ObjectId::parse_str(&staff.company).unwrap();
    let database = clustered.system.database().await;
    eventually("all messages are in the view", AFTER_FAULT, || async {
        let found = documents(&database, "messages", doc! {"company_id": company}).await;
        assert!(found.len() <= ROUNDS, "a message is stored twice");
        (found.len() == ROUNDS).then_some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_external_id_at_two_gateways_at_the_same_time_is_created_once_and_else_a_conflict() {
    let clustered = ClusteredSystem::start().await;
    let staff = clustered.system.new_company().await;
    let contact = staff.new_contact().await;
    for round in 0..ROUNDS {
        let body = json!({
            "contact_id": contact, "role": "user", "platform": "facebook", "direction": "inbound",
            "content": "hello", "external_message_id": format!("mid-{round}"),
        });
        let post = |gateway| staff.post_to(gateway, "/messages", &[], &body);
        let answers = join_all((0..6).map(|n| post(n % 2))).await;
        let created = answers.iter().filter(|a| a.status == StatusCode::CREATED);
        let conflicts = answers.iter().filter(|a| a.status == StatusCode::CONFLICT);
        assert_eq!((created.count(), conflicts.count()), (1, 5), "{answers:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_majority_refuses_creates_as_unavailable_and_never_as_failed() {
    const FROZEN: Duration = Duration::from_secs(2);
    let clustered = ClusteredSystem::start().await;
    let (system, cluster) = (&clustered.system, &clustered.cluster);
    let staff = system.new_company().await;
    let contacts = vec![staff.new_contact().await, staff.new_contact().await];
    let load = Load::start(system.url("gateway"), staff.token.clone(), contacts);
    load.more(200).await;
    // Not the leader: it goes on, and its proposals wait for the others.
    let leader = clustered.leader_of("EVENTS").await;
    let followers: Vec<usize> = (0..3).filter(|n| *n != leader).collect();
    for _ in 0..3 {
        followers.iter().for_each(|n| cluster.signal("-STOP", *n));
        tokio::time::sleep(FROZEN).await;
        followers.iter().for_each(|n| cluster.signal("-CONT", *n));
        load.more(200).await;
    }
    assert!(
        load.refused.load(Ordering::Relaxed) > 0,
        "no create has met the fault"
    );
    // Ends with a failure if an answer was neither 201 nor 503.
    let accepted = load.end().await;
    let ids: HashSet<_> = accepted.iter().map(|(id, _)| id.clone()).collect();
    assert_eq!(ids.len(), accepted.len(), "an id was given twice");
    system.await_ready().await;
    eventually("log and view agree", AFTER_FAULT, || async {
        (system.audit(&[]).0 == Some(0)).then_some(())
    })
    .await;
}

async fn log_in(staff: &Staff<'_>, gateway: usize, email: &str, password: &str) -> StatusCode {
    let body = json!({"email": email, "password": password});
    let answer = staff.post_to(gateway, "/auth/login", &[], &body).await;
    answer.status
}

#[tokio::test(flavor = "multi_thread")]
async fn logins_of_one_person_at_the_same_time_do_not_hinder_each_other() {
    let clustered = ClusteredSystem::start().await;
    let staff = clustered.system.new_company().await;
    let (status, me) = staff.get("/auth/me").await;
    assert_eq!(status, StatusCode::OK, "{me}");
    let email = me["user"]["email"].as_str().unwrap();
    for _ in 0..8 {
        let logins = (0..6).map(|n| log_in(&staff, n % 2, email, "correct horse"));
        assert_eq!(join_all(logins).await, [StatusCode::OK; 6]);
        // Fewer than lock the login.
        let guesses = (0..4).map(|n| log_in(&staff, n % 2, email, "wrong horse"));
        assert_eq!(join_all(guesses).await, [StatusCode::UNAUTHORIZED; 4]);
        // The right password ends the count.
        assert_eq!(
            log_in(&staff, 0, email, "correct horse").await,
            StatusCode::OK
        );
    }
}
