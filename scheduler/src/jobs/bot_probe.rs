//! Asks the Meta bot for its health, and tells the forwarders by the bucket `bot-health`. When the
//! bot is back, an open breaker tries again at once; while the probe fails too, a breaker opens
//! sooner. A bot that is down is no failure of the job.

use std::time::Duration;

use contract::domain::{BotHealth, BotStatus};
use contract::inventory;
use runtime::kv::bucket::{Bucket, BucketError};
use serde_json::{Value, json};
use tracing::{info, warn};

use crate::jobs::tools::{JobError, Tools};

/// How long a probe result stays in the bucket. Forwarders ignore a result at a quarter of this
/// age.
const RESULT_TTL: Duration = Duration::from_secs(60);

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
        .write(inventory::META_BOT, &health, last.revision, RESULT_TTL)
        .await
    {
        // Another replica has written a result meanwhile, which is as good as this one.
        Ok(()) | Err(BucketError::Overtaken) => {}
        Err(e) => return Err(failed(e)),
    }
    let up = health.status == BotStatus::Up;
    Ok(json!({"up": up, "since": since, "took_ms": took_ms, "why": health.why}))
}
