//! The delivery of a lane's first message, from its content to the attempt. Which message is the
//! first, and when its turn comes, is decided by the partition.

use async_nats::jetstream::stream::RawMessageErrorKind;
use contract::header;
use contract::trace::TraceContext;
use tracing::{Instrument, info_span};

use crate::bot::admission::Permit;
use crate::delivery::attempt::Attempt;
use crate::delivery::forwarder::Forwarder;
use crate::delivery::outbound;
use crate::delivery::work::{Outcome, Work};

impl Forwarder {
    /// Takes the message as far as it goes now. Ends within 25 s of a stop.
    pub async fn forward(&self, work: &Work, permit: Permit) -> Outcome {
        let content = match &work.item.content {
            Some(content) => content.clone(),
            None => match self.read(work.item.seq).await {
                Ok(content) => content,
                // An operator has removed the message.
                Err(e) if e.kind() == RawMessageErrorKind::NoMessageFound => {
                    return self.done(work).await;
                }
                Err(error) => return self.look_again(work, &error.to_string()),
            },
        };
        let has = |name: &str| content.headers.get(name).is_some();
        let is_replay = has(header::REPLAY_OF);
        // A message that was replayed into `EVENTS`, for the persister, and that a server sourced
        // from there before the relay. Its first copy has been in `OUTBOUND` too, so this copy is
        // not delivered.
        if is_replay && has(header::STREAM_SOURCE) {
            return self.done(work).await;
        }
        let outbound = match outbound::read(&content.subject, &content.payload) {
            Ok(outbound) => outbound,
            Err(error) => return self.reject_unreadable(work, &content, error).await,
        };
        let trace = content
            .headers
            .get(header::TRACEPARENT)
            .and_then(|t| t.as_str().parse().ok())
            .unwrap_or_else(TraceContext::generate);
        let message = &outbound.message;
        let span = info_span!("forward", company = %message.company_id, message_id = %message.id, trace_id = trace.trace_id());
        let attempt = Attempt {
            forwarder: self,
            work,
            content: &content,
            outbound: &outbound,
            // The deadline of a replayed message counts from the replay. Otherwise an old message
            // could not be delivered any more.
            since: if is_replay {
                content.stored_at
            } else {
                outbound.accepted_at
            },
            is_replay,
            is_repeated: work.item.repeated || is_replay,
            trace,
            calls: work.item.calls,
        };
        attempt.run(permit).instrument(span).await
    }
}
