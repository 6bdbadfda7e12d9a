//! The integration endpoints. No platform token is stored, logged or returned in the clear.

use contract::domain::Provider;
use contract::event::{Envelope, Event};
use jsonwebtoken::{EncodingKey, Header};
use reqwest::{Method, StatusCode};
use runtime::seal::Keyring;
use runtime::service::settings::Settings;
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use crate::support::stored_text::{all_stored_text, log_lines};
use crate::support::{Folder, SOON, System, eventually};

const TOKEN: &str = "EAAB-nobody-may-read-this-0123456789";
/// Two keys of 32 bytes each, the newer one in front.
const KEYS: &str = "new:BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=,old:CAgICAgICAgICAgICAgICAgICAgICAgICAgICAgICAg=";

/// An access token as any holder of the secret may sign one.
fn access_token(system: &System, company: &str, role: &str) -> String {
    let claims = json!({"userId": "d".repeat(24), "companyId": company, "role": role, "iat": 0, "exp": 99_999_999_999_u64});
    jsonwebtoken::encode(
        &Header::default(),
        &claims,
        &EncodingKey::from_secret(system.secret("jwt_access").as_bytes()),
    )
    .unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn managers_connect_and_disconnect_platforms_and_no_answer_contains_a_token() {
    let system = System::shared().await;
    let (staff, other) = (
        system.new_unconnected_company().await,
        system.new_unconnected_company().await,
    );
    let receptionist = access_token(system, &staff.company, "receptionist");
    let put = async |platform: &str, body: Value| {
        staff
            .send(Method::PUT, &format!("/integrations/{platform}"), body)
            .await
    };
    assert_eq!(
        staff.get("/integrations").await,
        (StatusCode::OK, json!({"integrations": []}))
    );
    assert_eq!(
        staff.get("/integrations/facebook").await.0,
        StatusCode::NOT_FOUND
    );

    let body = json!({"access_token": TOKEN, "account_id": "page-1", "account_name": "Clinic", "token_expires_at": "2027-01-01T00:00:00Z"});
    let (status, answer) = put("FaceBook", body).await;
    assert_eq!(
        (status, &answer["message"]),
        (StatusCode::OK, &json!("Integration saved successfully")),
        "{answer}"
    );
    let shown = &answer["integration"];
    let expected = json!({
        "company_id": staff.company, "platform": "facebook", "account_id": "page-1", "account_name": "Clinic",
        "token_expires_at": "2027-01-01T00:00:00.000Z", "updated_at": shown["updated_at"], "key_id": "k1", "refresh_error": null,
    });
    assert_eq!(shown, &expected);
    assert_eq!(
        put("telegram", json!({"access_token": "123:abc"})).await.0,
        StatusCode::OK
    );
    assert_eq!(
        staff.get("/integrations/FACEBOOK").await,
        (StatusCode::OK, json!({"integration": expected}))
    );
    let (status, list) = staff.get("/integrations").await;
    assert_eq!(
        (status, list["integrations"].as_array().unwrap().len()),
        (StatusCode::OK, 2)
    );
    assert!(
        !list.to_string().contains("access_token") && !list.to_string().contains("sealed"),
        "{list}"
    );

    // A second PUT replaces the whole integration.
    let (_, answer) = put(
        "facebook",
        json!({"access_token": "EAAB-second", "account_id": ""}),
    )
    .await;
    assert_eq!(
        (
            &answer["integration"]["account_id"],
            &answer["integration"]["account_name"]
        ),
        (&Value::Null, &Value::Null)
    );

    for (platform, body, field) in [
        ("web", json!({"access_token": TOKEN}), "platform"),
        ("other", json!({"access_token": TOKEN}), "platform"),
        ("fax", json!({"access_token": TOKEN}), "platform"),
        ("facebook", json!({}), "access_token"),
        ("facebook", json!({"access_token": ""}), "access_token"),
        ("facebook", json!({"access_token": "a b"}), "access_token"),
        (
            "facebook",
            json!({"access_token": "x".repeat(4_097)}),
            "access_token",
        ),
        (
            "facebook",
            json!({"access_token": {"$ne": ""}}),
            "access_token",
        ),
        (
            "facebook",
            json!({"access_token": TOKEN, "token_expires_at": "soon"}),
            "token_expires_at",
        ),
        (
            "facebook",
            json!({"access_token": "EAAB", "refresh_token": TOKEN}),
            "refresh_token",
        ),
        ("google", json!({"access_token": TOKEN}), "refresh_token"),
        ("google", json!({"refresh_token": ""}), "refresh_token"),
        (
            "google",
            json!({"refresh_token": "1//r", "access_token": "a b"}),
            "access_token",
        ),
    ] {
        let (status, problem) = put(platform, body).await;
        assert_eq!(
            (status, &problem["errors"][0]["field"]),
            (StatusCode::BAD_REQUEST, &json!(field)),
            "{platform}: {problem}"
        );
        assert!(!problem.to_string().contains(TOKEN), "{problem}");
    }
    assert_eq!(
        put(
            "facebook",
            json!({"access_token": TOKEN, "company_id": other.company})
        )
        .await
        .0,
        StatusCode::FORBIDDEN
    );

    // A receptionist may read, another company sees nothing, and no caller sees a token.
    let as_receptionist = async |method: Method, body: Option<&Value>| {
        system
            .request(method, "/integrations/facebook", Some(&receptionist), body)
            .await
            .0
    };
    assert_eq!(as_receptionist(Method::GET, None).await, StatusCode::OK);
    assert_eq!(
        as_receptionist(Method::PUT, Some(&json!({"access_token": TOKEN}))).await,
        StatusCode::FORBIDDEN
    );
    assert_eq!(
        as_receptionist(Method::DELETE, None).await,
        StatusCode::FORBIDDEN
    );
    assert_eq!(
        other.get("/integrations").await.1,
        json!({"integrations": []})
    );
    assert_eq!(
        other.get("/integrations/facebook").await.0,
        StatusCode::NOT_FOUND
    );
    assert_eq!(
        other
            .send(Method::DELETE, "/integrations/facebook", json!({}))
            .await
            .0,
        StatusCode::NOT_FOUND
    );
    assert_eq!(
        system
            .request(Method::GET, "/integrations", None, None)
            .await
            .0,
        StatusCode::UNAUTHORIZED
    );

    let (status, answer) = staff
        .send(Method::DELETE, "/integrations/Facebook", json!({}))
        .await;
    assert_eq!(
        (status, &answer["platform"]),
        (StatusCode::OK, &json!("facebook")),
        "{answer}"
    );
    assert_eq!(
        staff
            .send(Method::DELETE, "/integrations/facebook", json!({}))
            .await
            .0,
        StatusCode::NOT_FOUND
    );
    assert_eq!(
        staff.get("/integrations/facebook").await.0,
        StatusCode::NOT_FOUND
    );
    assert_eq!(
        staff.get("/integrations").await.1["integrations"]
            .as_array()
            .unwrap()
            .len(),
        1
    );
    assert_eq!(
        put("facebook", json!({"access_token": "EAAB-third"}))
            .await
            .0,
        StatusCode::OK
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn platform_tokens_are_never_stored_or_logged_in_the_clear() {
    let system = System::start_with(
        Folder::new(),
        &[],
        &[("LOG_LEVEL", "debug"), ("ENCRYPTION_KEYS", KEYS)],
    )
    .await;
    let staff = system.new_company().await;
    let (status, answer) = staff
        .send(
            Method::PUT,
            "/integrations/instagram",
            json!({"access_token": TOKEN}),
        )
        .await;
    assert_eq!(
        (status, &answer["integration"]["key_id"]),
        (StatusCode::OK, &json!("new")),
        "{answer}"
    );
    let refused = staff
        .send(
            Method::PUT,
            "/integrations/instagram",
            json!({"access_token": TOKEN, "account_id": [5]}),
        )
        .await;
    assert_eq!(refused.0, StatusCode::BAD_REQUEST);

    // The log has the token sealed for this company and platform.
    let log = system.operator().await.get_stream("EVENTS").await.unwrap();
    let stored = log
        .direct_get(answer["seq"].as_u64().unwrap())
        .await
        .unwrap();
    let Event::IntegrationUpdated(integration) =
        Envelope::from_message(&stored.subject, &stored.payload)
            .unwrap()
            .event
    else {
        panic!("{stored:?}")
    };
    let mut settings = Settings::of([("ENCRYPTION_KEYS".to_owned(), KEYS.to_owned())]);
    let keyring = Keyring::read(&mut settings);
    settings.finish().unwrap();
    let company = staff.company.parse().unwrap();
    assert_eq!(
        keyring
            .open(
                integration.access_token.as_ref().unwrap(),
                company,
                Provider::Instagram
            )
            .unwrap()
            .expose_secret(),
        TOKEN
    );

    eventually("the request is in the log lines", SOON, || async {
        log_lines(&system)
            .contains("/integrations/{platform}")
            .then_some(())
    })
    .await;
    let everything = all_stored_text(&system).await;
    assert!(
        everything
            .iter()
            .any(|(_, text)| text.contains(&integration.access_token.as_ref().unwrap().sealed)),
        "the sealed token is in the database"
    );
    for (place, text) in everything {
        assert!(
            !text.contains(TOKEN),
            "the token is in the clear in {place}"
        );
    }
}
