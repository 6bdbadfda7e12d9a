//! Replays of many dead letters: in the conversation's order and before newer messages; selected by
//! filter, time range and page.

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};

use crate::support::dead_letters::{
    DeadLetter, keys_delivered, list_dead_letters, open_dead_letters, outbound, replay,
    send_operator_message, seqs,
};
use crate::support::delivery::delivery;
use crate::support::{SOON, System, eventually};

#[tokio::test(flavor = "multi_thread")]
async fn replayed_messages_are_delivered_in_order_before_newer_ones() {
    let system = System::start(&["--replicas", "forwarder=2"]).await;
    let staff = system.new_company().await;
    let contact = staff.new_contact().await;
    system.bot_mode(json!({"status": 400})).await;
    let mut written = Vec::new();
    for text in ["one", "two", "three"] {
        let id = send_operator_message(&staff, &contact, text).await;
        delivery(&staff, &id, "failed").await;
        written.push(id);
    }
    let dead = open_dead_letters(&staff, 3).await;
    // The oldest message fails again, so its dead letter is the newest.
    replay(&staff, dead[0].seq).await;
    let open = eventually("its new dead letter", SOON, || async {
        let open = list_dead_letters(&staff, "").await;
        (open.len() == 3 && open[2].replay_of == Some(dead[0].seq)).then_some(open)
    })
    .await;
    assert_eq!(open[2]["message_id"], written[0].as_str());

    system.bot_mode(json!({})).await;
    let (status, _) = staff
        .send(Method::DELETE, "/integrations/facebook", json!({}))
        .await;
    assert!(status.is_success());
    for text in ["four", "five"] {
        written.push(send_operator_message(&staff, &contact, text).await);
    }
    delivery(&staff, &written[3], "held").await;
    let (status, answer) = staff
        .post("/dead-letters/replay", json!({"contact_id": contact}))
        .await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    assert_eq!(
        answer["sequences"],
        json!([open[2].seq, open[0].seq, open[1].seq]),
        "as they were written"
    );
    delivery(&staff, &written[0], "held").await;
    assert_eq!(outbound(&system).await.1, 5);
    let (status, _) = staff
        .send(
            Method::PUT,
            "/integrations/facebook",
            json!({"access_token": "new"}),
        )
        .await;
    assert!(status.is_success());
    eventually("all five are delivered", SOON, || async {
        (keys_delivered(&system, &contact).await.len() == 5).then_some(())
    })
    .await;
    assert_eq!(keys_delivered(&system, &contact).await, written);
    system.assert_audit_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_and_replays_select_by_filter_time_range_and_page() {
    let system = System::start(&[]).await;
    let staff = system.new_company().await;
    let contacts = [staff.new_contact().await, staff.new_contact().await];
    system.bot_mode(json!({"status": 400})).await;
    for n in 0..4 {
        let id = send_operator_message(&staff, &contacts[n % 2], "no").await;
        delivery(&staff, &id, "failed").await;
    }
    let jetstream = system.operator().await;
    let subject = format!("message.updated.{}.{}", staff.company, contacts[0]);
    jetstream
        .publish(subject, "{".into())
        .await
        .unwrap()
        .await
        .unwrap();
    let all = open_dead_letters(&staff, 5).await;
    let of = |which: &[usize]| seqs(&which.iter().map(|n| all[*n].clone()).collect::<Vec<_>>());
    let at = |n: usize| all[n]["stored_at"].as_str().unwrap();
    for (query, which) in [
        ("state=all".to_owned(), &[0, 1, 2, 3, 4][..]),
        ("reason=refused".to_owned(), &[0, 1, 2, 3]),
        ("reason=malformed".to_owned(), &[4]),
        ("reason=expired".to_owned(), &[]),
        ("service=persister".to_owned(), &[4]),
        ("service=forwarder".to_owned(), &[0, 1, 2, 3]),
        (format!("contact_id={}", contacts[0]), &[0, 2, 4]),
        (format!("from={}", at(2)), &[2, 3, 4]),
        (format!("to={}", at(2)), &[0, 1]),
        (
            format!("from={}&to={}&contact_id={}", at(1), at(3), contacts[1]),
            &[1],
        ),
        (format!("cursor={}", all[1].seq), &[2, 3, 4]),
    ] {
        assert_eq!(
            seqs(&list_dead_letters(&staff, &query).await),
            of(which),
            "{query}"
        );
    }
    for bad in [
        "reason=wrong",
        "state=replaying",
        "from=yesterday",
        "limit=0",
        "limit=201",
        "cursor=-1",
        "service=a.b",
    ] {
        let (status, answer) = staff.get(&format!("/dead-letters?{bad}")).await;
        let field = bad.split('=').next().unwrap();
        assert_eq!(
            (status, &answer["errors"][0]["field"]),
            (StatusCode::BAD_REQUEST, &json!(field)),
            "{bad}"
        );
    }
    let (mut cursor, mut walked) = (0, Vec::new());
    loop {
        let (_, page) = staff
            .get(&format!("/dead-letters?limit=2&cursor={cursor}"))
            .await;
        walked.extend(seqs(&DeadLetter::list(&page)));
        let Some(next) = page["next_cursor"].as_u64() else {
            break;
        };
        cursor = next;
    }
    assert_eq!(walked, of(&[0, 1, 2, 3, 4]));

    // Replays select likewise: a time range by REST, page by page, and a reason by command line.
    system.bot_mode(json!({})).await;
    let mut body = json!({"from": at(1), "to": at(3), "limit": 1});
    let mut replayed: Vec<Value> = Vec::new();
    loop {
        let (status, answer) = staff.post("/dead-letters/replay", body.clone()).await;
        assert_eq!(status, StatusCode::OK, "{answer}");
        replayed.extend(answer["sequences"].as_array().unwrap().clone());
        let Some(next) = answer["next_cursor"].as_u64() else {
            break;
        };
        body["cursor"] = json!(next);
    }
    assert_eq!(json!(replayed), json!(of(&[1, 2])));
    let args = [
        "dead-letters",
        "replay",
        "--all",
        "--reason",
        "refused",
        "--company",
        &staff.company,
        "--json",
    ];
    let output = system.petbuddy_as_operator(&args).output().unwrap();
    let answer: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(
        (&answer["sequences"], &answer["more"]),
        (&json!(of(&[0, 3])), &json!(false)),
        "{answer}"
    );
    assert_eq!(seqs(&list_dead_letters(&staff, "").await), of(&[4]));
    for contact in &contacts {
        eventually("both are delivered", SOON, || async {
            (keys_delivered(&system, contact).await.len() == 2).then_some(())
        })
        .await;
    }
    system.assert_audit_clean();
}
