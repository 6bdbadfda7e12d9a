//! Messages on hold go on with a new token, whatever other companies are on hold for.

use mongodb::bson::{Document, doc, oid::ObjectId};
use reqwest::{Method, StatusCode};
use serde_json::json;

use crate::support::System;
use crate::support::delivery::delivery;

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_cannot_be_read_keeps_no_other_company_on_hold() {
    // The holds are looked at in the order of the companies' ids, so the first company comes first.
    let system = System::start(&[]).await;
    let (broken, other) = (
        system.new_unconnected_company().await,
        system.new_unconnected_company().await,
    );
    let stays = broken
        .operator_message(&broken.new_contact().await, "stays")
        .await;
    let goes = other
        .operator_message(&other.new_contact().await, "goes")
        .await;
    delivery(&broken, &stays.id, "held").await;
    delivery(&other, &goes.id, "held").await;
    let integrations = system
        .database()
        .await
        .collection::<Document>("integrations");
    let unreadable = doc! {
        "_id": format!("{}:facebook", broken.company),
        "company_id": ObjectId::parse_str(&broken.company).unwrap(),
        "platform": "facebook",
        "updated_at": "not a date",
    };
    integrations.insert_one(unreadable).await.unwrap();
    let body = json!({"access_token": other.token_for("facebook")});
    let (status, answer) = other
        .send(Method::PUT, "/integrations/facebook", body)
        .await;
    assert_eq!(status, StatusCode::OK, "{answer}");
    delivery(&other, &goes.id, "delivered").await;
}
