//! Asks the Meta bot how it is, and tells forwarders by the bucket `bot-health`: an open breaker
//! tries again at once when the bot is back, and opens sooner while the probe fails too. A bot that
//! is down is no failure of the job.

use std::time::Duration;

use contract::domain::{BotHealth, BotStatus};
use contract::inventory;
use runtime::kv::bucket::{Bucket, BucketError};
use serde_json::{Value, json};
use tracing::{info, warn};

use super::{JobError, Tools};

/// How long a word about the bot stays. Forwarders believe it for a quarter of that.
const TOLD_FOR: Duration = Duration::from_secs(60);

/// One run.
///
/// # Errors
/// The bucket does not answer.
pub async fn probe(tools: &Tools) -> Result<Value, JobError> {
    let probed = tools.bot.probe().await;
    let bucket = Bucket::new(tools.connection.clone(), inventory::BOT_HEALTH);
    let failed = |e: BucketError| JobError(format!("the bucket {}: {e}", inventory::BOT_HEALTH));
    let last = bucket
        .read::<BotHealth>(inventory::META_BOT)
        .await
        .map_err(failed)?;
    let now = (tools.clock)();
    let since = last
        .value
        .as_ref()
        .filter(|last| last.status == probed.status)
        .map_or(now, |last| last.since);
    if last.value.is_none_or(|last| last.status != probed.status) {
        match &probed.why {
            None => info!("the bot is up"),
            Some(why) => warn!(why, "the bot is down"),
        }
    }
    let took_ms = probed.took.as_millis() as u64;
    let by = tools.connection.instance.to_string();
    let health = BotHealth {
        status: probed.status,
        why: probed.why,
        since,
        checked_at: now,
        took_ms,
        by,
    };
    match bucket
        .write(inventory::META_BOT, &health, last.revision, TOLD_FOR)
        .await
    {
        // Another replica's probe came in between: its word is as good.
        Ok(()) | Err(BucketError::Overtaken) => {}
        Err(e) => return Err(failed(e)),
    }
    let up = health.status == BotStatus::Up;
    Ok(json!({"up": up, "since": since, "took_ms": took_ms, "why": health.why}))
}
