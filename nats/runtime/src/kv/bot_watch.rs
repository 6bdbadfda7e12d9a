//! Shows in a service's `/health` and metrics how the Meta bot is: what the scheduler's probe saw
//! last, from the bucket `bot-health`. It asks the bot nothing, and nothing depends on it.

use std::time::Duration;

use metrics::gauge;
use serde_json::json;

use crate::CancellationToken;
use crate::kv::bucket::Bucket;
use crate::net::connection::Connection;
use crate::service::health::Health;
use contract::domain::{BotHealth, BotStatus};
use contract::inventory;

/// The check. It is good whatever the bot does, and also where that is not known: a service is
/// ready without a bot.
pub const CHECK: &str = "meta_bot";
/// How often the probe's last word is read. With a bucket that does not answer it is still
/// confirmed before it counts as stale.
const LOOK_EVERY: Duration = Duration::from_secs(3);

/// Confirms the check, until stopped.
pub async fn watch(connection: Connection, health: Health, stop: CancellationToken) {
    let bucket = Bucket::new(connection, inventory::BOT_HEALTH);
    let mut tick = tokio::time::interval(LOOK_EVERY);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        let read = bucket.read::<BotHealth>(inventory::META_BOT).await;
        // Without a word of it for a minute, it is not known how it is.
        let seen = read.as_ref().ok().and_then(|entry| entry.value.as_ref());
        gauge!("meta_bot_up")
            .set(seen.map_or(f64::NAN, |bot| f64::from(bot.status == BotStatus::Up)));
        health.good(
            CHECK,
            read.as_ref().map_or_else(
                |e| json!({"status": "unknown", "why": e.to_string()}),
                |_| json!(seen),
            ),
        );
    }
}
