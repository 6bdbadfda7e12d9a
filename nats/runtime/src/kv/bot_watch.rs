//! Shows in a service's `/health` and metrics how the Meta bot is: what the scheduler's probe saw
//! last, from the bucket `bot-health`. Asks the bot nothing, and decides nothing by the answer.

use std::time::Duration;

use metrics::gauge;
use serde_json::json;

use crate::CancellationToken;
use crate::kv::bucket::Bucket;
use crate::net::connection::Connection;
use crate::service::health::Health;
use contract::domain::{BotHealth, BotStatus};
use contract::inventory;

/// The name of the check. The check is always good: a service is ready without a bot.
pub const CHECK: &str = "meta_bot";
/// How often the bucket is read. Even while the bucket does not answer, the check is confirmed
/// before it counts as stale.
const LOOK_EVERY: Duration = Duration::from_secs(3);

/// Confirms the check, until stopped.
pub async fn watch(connection: Connection, health: Health, stop: CancellationToken) {
    let bucket = Bucket::new(connection, inventory::BOT_HEALTH);
    let mut tick = tokio::time::interval(LOOK_EVERY);
    while stop.run_until_cancelled(tick.tick()).await.is_some() {
        let read = bucket.read::<BotHealth>(inventory::META_BOT).await;
        // The entry is gone if the probe has written nothing for a minute.
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
