//! Invitations: who may create one, how often one works, and what a receptionist may not do.

use jsonwebtoken::Algorithm;
use reqwest::{Method, StatusCode};
use serde_json::json;

use super::auth::{
    PASSWORD, ask, assert_refused, claims, fresh_email, login, post, refresh, register, seconds,
    secret, sign, text, two_gateways,
};
use crate::support::Staff;

#[tokio::test(flavor = "multi_thread")]
async fn an_invitation_works_once_for_one_email_and_only_managers_create_them() {
    let system = two_gateways().await;
    let (_, manager) = register(system).await;
    let email = fresh_email();
    let body = json!({"email": email, "role": "receptionist"});
    let (status, answer) = post(
        system,
        0,
        "/invitations",
        Some(text(&manager, "accessToken")),
        &body,
    )
    .await;
    assert_eq!(
        (status, &answer["expiresIn"]),
        (StatusCode::CREATED, &json!(7 * 86_400)),
        "{answer}"
    );
    let invitation = text(&answer, "invitation");
    let accept = |email: &str, invitation: &str| {
        let body = json!({"invitation": invitation, "fullName": "Rae Reception", "email": email, "password": PASSWORD});
        async move { post(system, 1, "/register", None, &body).await }
    };

    assert_refused(
        accept(&fresh_email(), invitation).await,
        StatusCode::FORBIDDEN,
        "FORBIDDEN",
    );
    let mut changed = claims(invitation);
    changed["role"] = json!("manager");
    let changed = sign(
        "another secret of at least thirty-two",
        Algorithm::HS256,
        &changed,
    );
    assert_refused(
        accept(&email, &changed).await,
        StatusCode::FORBIDDEN,
        "FORBIDDEN",
    );
    let mut old = claims(invitation);
    old["exp"] = json!(seconds() - 1);
    let old = sign(&secret(system, "jwt_refresh"), Algorithm::HS256, &old);
    assert_refused(
        accept(&email, &old).await,
        StatusCode::FORBIDDEN,
        "FORBIDDEN",
    );

    let (status, joined) = accept(&email, invitation).await;
    assert_eq!(status, StatusCode::CREATED, "{joined}");
    let user = &joined["user"];
    assert_eq!(
        (&user["company_id"], &user["role"]),
        (&manager["user"]["company_id"], &json!("receptionist"))
    );
    assert_refused(
        accept(&email, invitation).await,
        StatusCode::CONFLICT,
        "DUPLICATE_KEY",
    );
    let (status, again) = login(system, 0, &email, PASSWORD).await;
    assert_eq!((status, &again["user"]), (StatusCode::OK, user));
    assert_eq!(
        refresh(system, 0, &again["refreshToken"]).await.0,
        StatusCode::OK
    );

    // Neither a receptionist nor an internal service may invite.
    let (token, company) = (
        text(&joined, "accessToken").to_owned(),
        text(user, "company_id").to_owned(),
    );
    Staff {
        system,
        token: token.clone(),
        company,
    }
    .new_contact()
    .await;
    let body = json!({"email": fresh_email(), "role": "manager"});
    assert_refused(
        post(system, 0, "/invitations", Some(&token), &body).await,
        StatusCode::FORBIDDEN,
        "FORBIDDEN",
    );
    let service = ask(system, 0, Method::POST, "/invitations")
        .header("x-api-key", secret(system, "internal_api_key"))
        .json(&body);
    assert_eq!(
        service.send().await.unwrap().status(),
        StatusCode::FORBIDDEN
    );
    for (body, field) in [
        (json!({"email": "x", "role": "manager"}), "email"),
        (json!({"email": email, "role": "owner"}), "role"),
    ] {
        let (status, answer) = post(
            system,
            0,
            "/invitations",
            Some(text(&manager, "accessToken")),
            &body,
        )
        .await;
        assert_eq!(
            (status, &answer["errors"][0]["field"]),
            (StatusCode::BAD_REQUEST, &json!(field)),
            "{answer}"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn of_many_concurrent_acceptances_of_an_invitation_one_succeeds() {
    let system = two_gateways().await;
    let (_, manager) = register(system).await;
    let email = fresh_email();
    let body = json!({"email": email, "role": "manager"});
    let (_, answer) = post(
        system,
        0,
        "/invitations",
        Some(text(&manager, "accessToken")),
        &body,
    )
    .await;
    let body = json!({"invitation": answer["invitation"], "fullName": "Max Many", "email": email, "password": PASSWORD});
    let answers = futures_util::future::join_all(
        (0..6).map(|gateway| post(system, gateway, "/register", None, &body)),
    )
    .await;
    let (joined, refused): (Vec<_>, Vec<_>) = answers
        .into_iter()
        .partition(|(status, _)| *status == StatusCode::CREATED);
    assert_eq!(joined.len(), 1, "{refused:?}");
    for answer in refused {
        assert_refused(answer, StatusCode::CONFLICT, "DUPLICATE_KEY");
    }
}
