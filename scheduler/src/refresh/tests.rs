use super::*;
use contract::Id;
use contract::query::RefreshError;
use runtime::service::settings::{NatsSettings, Settings};

const NOW: Timestamp = Timestamp::from_millis(1_760_000_000_000);
const DEADLINE: Duration = Duration::from_secs(3_600);

/// A refresher without a connection to NATS.
async fn disconnected() -> Refresher {
    let settings = NatsSettings {
        url: "nats://127.0.0.1:1".into(),
        user: "scheduler".into(),
        password: "n".into(),
    };
    let keys = [(
        "ENCRYPTION_KEYS".into(),
        "k1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=".into(),
    )];
    Refresher {
        connection: Connection::open(&settings, "scheduler", Id::from_bytes([1; 12]))
            .await
            .unwrap(),
        keyring: Keyring::read(&mut Settings::of(keys)),
        graph: None,
        deadline: DEADLINE,
        google: None,
        google_deadline: DEADLINE,
        clock: || NOW,
        jitter: || 1.0,
    }
}

fn found(provider: Provider, attempt: u64, ago: Duration) -> FoundToken {
    let company = Id::from_bytes([2; 12]);
    let integration = Integration {
        company_id: company,
        provider,
        account_id: None,
        account_name: None,
        access_token: None,
        refresh_token: None,
        token_expires_at: None,
        updated_at: NOW,
    };
    FoundToken {
        token: TokenRef {
            company,
            provider,
            version: NOW,
        },
        attempt: Attempt {
            number: attempt,
            since: Timestamp::from_millis(NOW.millis() - ago.as_millis() as i64),
        },
        view: IntegrationView {
            integration,
            refresh_error: None,
            seq: 7,
            changed_at: NOW,
        },
        last_seq: 7,
    }
}

fn renewed() -> RenewedToken {
    RenewedToken {
        token: "EAAB-new".into(),
        refresh_token: None,
        lifetime: None,
    }
}

#[tokio::test(start_paused = true)]
async fn a_result_that_the_log_does_not_take_waits_longer_each_time() {
    let refresher = disconnected().await;
    for provider in [Provider::Facebook, Provider::Google] {
        for (attempt, seconds) in [(1, 1), (4, 8), (20, 1_800)] {
            let (found, wait) = (
                found(provider, attempt, DEADLINE / 2),
                Settle::Retry(Duration::from_secs(seconds)),
            );
            assert_eq!(
                refresher.keep(&found, renewed()).await,
                wait,
                "{provider}, a new token, attempt {attempt}"
            );
            let refused = refresher
                .give_up(&found, Reason::Refused, "HTTP 400".into())
                .await;
            assert_eq!(refused, wait, "{provider}, a refusal, attempt {attempt}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn at_the_deadline_an_unstored_result_is_a_dead_letter_or_left_to_the_next_run() {
    let refresher = disconnected().await;
    for settle in [
        refresher
            .keep(&found(Provider::Facebook, 9, DEADLINE), renewed())
            .await,
        refresher
            .give_up(
                &found(Provider::Facebook, 9, DEADLINE),
                Reason::Refused,
                "HTTP 400".into(),
            )
            .await,
    ] {
        let Settle::Reject(Reason::Expired, why) = settle else {
            panic!("{settle:?}")
        };
        assert!(why.contains("staff could not be told"), "{why}");
    }
    let google = found(Provider::Google, 9, DEADLINE);
    assert_eq!(refresher.keep(&google, renewed()).await, Settle::Done);
    assert_eq!(
        refresher
            .give_up(&google, Reason::Refused, "HTTP 400".into())
            .await,
        Settle::Done
    );
}

#[tokio::test(start_paused = true)]
async fn a_failure_that_staff_know_is_retried_until_its_dead_letter_is_seen() {
    let (refresher, mut known) = (
        disconnected().await,
        found(Provider::Facebook, 1, Duration::ZERO),
    );
    known.view.refresh_error = Some(RefreshError {
        error: "HTTP 400".into(),
        at: NOW,
    });
    let settle = refresher
        .give_up(&known, Reason::Refused, "HTTP 400".into())
        .await;
    assert_eq!(settle, Settle::Retry(Duration::from_secs(1)));
}

#[tokio::test(start_paused = true)]
async fn a_retry_after_of_google_is_obeyed_even_beyond_the_deadline() {
    let (refresher, google) = (disconnected().await, found(Provider::Google, 9, DEADLINE));
    // Without NATS the token cannot be enqueued for later, so the task itself waits.
    let settle = refresher
        .failed(&google, "HTTP 429".into(), Some(2 * DEADLINE))
        .await;
    assert_eq!(settle, Settle::Retry(2 * DEADLINE));
    assert_eq!(
        refresher.failed(&google, "HTTP 503".into(), None).await,
        Settle::Done
    );
}
