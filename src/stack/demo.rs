//! The demo company of a development run, registered over REST like any other company. Touches
//! neither NATS nor MongoDB.

use std::time::Duration;

use reqwest::{Client, StatusCode};
use serde_json::{Value, json};
use tokio::time::{Instant, interval};

use crate::stack::run_file::Demo;

/// The demo manager's address. The domain `.test` is reserved and belongs to nobody.
pub const EMAIL: &str = "demo@petbuddy.test";
/// How long a registration or login is tried. After that the run goes on without a demo login.
const LIMIT: Duration = Duration::from_secs(30);
/// Pause between tries.
const PAUSE: Duration = Duration::from_millis(500);

/// Registers the company, or logs in if the company exists.
///
/// # Errors
/// The reason why there is no demo login.
pub async fn ensure(client: &Client, gateway: &str, password: &str) -> Result<Demo, String> {
    let registration = json!({
        "company_name": "Demo Veterinary Clinic",
        "fullName": "Demo Manager",
        "email": EMAIL,
        "password": password,
    });
    let login = json!({"email": EMAIL, "password": password});
    let (register, log_in) = (
        format!("{gateway}/api/v1/auth/register"),
        format!("{gateway}/api/v1/auth/login"),
    );
    let deadline = Instant::now() + LIMIT;
    let mut pause = interval(PAUSE);
    let mut why = String::new();
    while Instant::now() < deadline {
        pause.tick().await;
        let answered = match post(client, &register, &registration).await {
            Ok((StatusCode::CONFLICT, _)) => post(client, &log_in, &login).await,
            other => other,
        };
        let (status, answer) = match answered {
            Ok(answer) => answer,
            Err(e) => {
                why = e;
                continue;
            }
        };
        if status.is_success()
            && let Some(company) = answer["user"]["company_id"].as_str()
        {
            connect(
                client,
                gateway,
                answer["accessToken"].as_str().unwrap_or_default(),
            )
            .await?;
            return Ok(Demo {
                email: EMAIL.to_owned(),
                password: password.to_owned(),
                company_id: company.to_owned(),
            });
        }
        why = match status {
            StatusCode::UNAUTHORIZED => format!("{EMAIL} is there already with another password"),
            _ => format!(
                "{status}: {}",
                answer["detail"].as_str().unwrap_or("no reason given")
            ),
        };
        // Tried again: the registration is accepted but not applied yet, or a service is starting.
        if !(status == StatusCode::ACCEPTED
            || status == StatusCode::TOO_MANY_REQUESTS
            || status.is_server_error())
        {
            break;
        }
    }
    Err(why)
}

/// Connects the demo company to Facebook and Instagram. Otherwise its messages would be held.
async fn connect(client: &Client, gateway: &str, token: &str) -> Result<(), String> {
    for platform in ["facebook", "instagram"] {
        let url = format!("{gateway}/api/v1/integrations/{platform}");
        let put = client
            .put(url)
            .bearer_auth(token)
            .json(&json!({"access_token": format!("demo-{platform}-token")}))
            .send();
        let status = put.await.map_err(|e| e.to_string())?.status();
        if !status.is_success() {
            return Err(format!("{platform} cannot be connected: {status}"));
        }
    }
    Ok(())
}

async fn post(client: &Client, url: &str, body: &Value) -> Result<(StatusCode, Value), String> {
    let response = client
        .post(url)
        .json(body)
        .send()
        .await
        .map_err(|e| e.to_string())?;
    let status = response.status();
    Ok((status, response.json().await.unwrap_or_default()))
}
