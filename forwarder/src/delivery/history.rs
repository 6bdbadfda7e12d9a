//! What has become of a message already, by the log and the view. A message can come again after it
//! was delivered, because a copy, an acknowledgement or a step was lost, and staff may have edited or
//! deleted it meanwhile. Makes no call to the bot.

use contract::domain::{Attachment, Content, DeliveryState, Message, MessageView};
use contract::event::{Envelope, Event, MessageDelivery};
use contract::query::GetMessage;
use contract::subject::EventSubject;
use contract::trace::TraceContext;
use contract::{Id, Timestamp, header, inventory};
use runtime::log::direct_get::{self, StoredMessage};
use runtime::net::connection::Connection;
use runtime::rpc::query::{self, QueryError};

/// A copy of a message in `OUTBOUND`.
#[derive(Clone, Copy, Debug)]
pub struct Copy<'a> {
    pub message: &'a Message,
    /// The message's log position; `None` if it is not known.
    pub position: Option<u64>,
    /// The sequence in `OUTBOUND`.
    pub outbound_seq: u64,
    /// Whether the copy is the replay of a dead letter. Then the message has failed before.
    pub is_replay: bool,
}

/// What is known of a message.
#[derive(Clone, Debug, PartialEq)]
pub enum Past {
    /// It awaits its delivery.
    Open {
        /// Calls to the bot that the log knows of. The last one may have succeeded.
        calls: u32,
        /// What staff have made of the message since it was accepted.
        edited: Option<(Content, Vec<Attachment>)>,
    },
    /// It was delivered, or became a dead letter, or was cancelled.
    Ended,
    /// Staff have deleted it.
    Deleted,
}

impl Past {
    const NEW: Past = Past::Open {
        calls: 0,
        edited: None,
    };
}

/// The last step in a conversation.
struct LastStep {
    step: MessageDelivery,
    /// The sequence in `OUTBOUND` of the copy that the step is about.
    outbound_seq: Option<u64>,
}

/// What the last step in a conversation says of one of its messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Said {
    /// The message has ended.
    Ended,
    /// So many calls were made for the message.
    Calls(u32),
    /// The message's turn has not come yet.
    Nothing,
    /// The step does not tell. The view does.
    Unknown,
}

/// Asks the log, and the view if the log does not tell.
///
/// # Errors
/// One of them does not answer, or the view is behind.
pub async fn ask(
    connection: &Connection,
    copy: Copy<'_>,
    trace: TraceContext,
) -> Result<Past, String> {
    let (company, contact) = (copy.message.company_id, copy.message.contact_id);
    let position = copy.position.unwrap_or(0);
    let newer = |found: Option<StoredMessage>| found.filter(|event| event.seq > position);
    let last = |filter: String| async move {
        direct_get::last(connection, inventory::EVENTS, &filter)
            .await
            .map(newer)
            .map_err(|e| e.to_string())
    };
    let (step, edit, deletion) = tokio::try_join!(
        last(EventSubject::MessageDelivery { company, contact }.to_string()),
        last(EventSubject::MessageUpdated { company, contact }.to_string()),
        last(EventSubject::MessageDeleted { company, contact }.to_string()),
    )?;
    let said = step
        .as_ref()
        .map_or(Said::Nothing, |step| said(read(step), copy));
    if said == Said::Ended {
        return Ok(Past::Ended);
    }
    let is_changed = edit.is_some() || deletion.is_some();
    let calls = match said {
        Said::Calls(calls) => calls,
        _ => 0,
    };
    if said != Said::Unknown && !is_changed {
        return Ok(Past::Open {
            calls,
            edited: None,
        });
    }
    if deletion.is_some_and(|event| about(&event) == Some(copy.message.id)) {
        return Ok(Past::Deleted);
    }
    let question = GetMessage {
        company_id: company,
        id: copy.message.id,
    };
    let view = match query::ask(connection, &question, trace).await {
        Ok(view) => view,
        // The view hides what was deleted.
        Err(QueryError::NotFound) if copy.position.is_some() => return Ok(Past::Deleted),
        // Somebody has stored the message in `OUTBOUND` alone, so the view never had it.
        Err(QueryError::NotFound) => return Ok(Past::NEW),
        Err(e) => return Err(e.to_string()),
    };
    if edit.is_some_and(|event| is_behind(&view, &event)) {
        return Err("the view does not show the last edit yet".to_owned());
    }
    Ok(by_view(view, copy, calls))
}

fn read(step: &StoredMessage) -> Option<LastStep> {
    let Event::MessageDelivery(delivery) = Envelope::from_json(&step.payload).ok()?.event else {
        return None;
    };
    let outbound_seq = step
        .header(header::MSG_ID)
        .and_then(|id| MessageDelivery::outbound_seq(delivery.message_id, id));
    Some(LastStep {
        step: delivery,
        outbound_seq,
    })
}

/// The messages of a conversation are delivered one after another, in the order of their log
/// positions. So a step about a later message says that the earlier ones have ended. Replays are out
/// of order; their steps name no position.
fn said(last: Option<LastStep>, copy: Copy<'_>) -> Said {
    let Some(LastStep { step, outbound_seq }) = last else {
        return Said::Unknown;
    };
    if step.message_id != copy.message.id {
        return match (step.message_seq, copy.position) {
            (Some(other), Some(own)) if copy.is_replay || other < own => Said::Nothing,
            (Some(_), Some(_)) => Said::Ended,
            _ if copy.is_replay => Said::Nothing,
            _ => Said::Unknown,
        };
    }
    // The steps of the first copy say nothing of its replay.
    if copy.is_replay && outbound_seq != Some(copy.outbound_seq) {
        return Said::Nothing;
    }
    match step.delivery.state {
        DeliveryState::Delivered | DeliveryState::Failed | DeliveryState::Cancelled => Said::Ended,
        DeliveryState::Queued
        | DeliveryState::Sending
        | DeliveryState::Retrying
        | DeliveryState::Held => Said::Calls(step.delivery.attempts),
    }
}

fn by_view(view: MessageView, copy: Copy<'_>, calls: u32) -> Past {
    let state = view.delivery.as_ref().map(|delivery| delivery.state);
    let has_ended = matches!(
        state,
        Some(DeliveryState::Delivered | DeliveryState::Failed | DeliveryState::Cancelled)
    );
    if has_ended && !copy.is_replay {
        return Past::Ended;
    }
    let (content, attachments) = (view.message.content, view.message.attachments);
    let is_edited = content != copy.message.content || attachments != copy.message.attachments;
    Past::Open {
        calls,
        edited: is_edited.then_some((content, attachments)),
    }
}

/// The message that an edit or a deletion is about.
fn about(event: &StoredMessage) -> Option<Id> {
    match Envelope::from_json(&event.payload).ok()?.event {
        Event::MessageUpdated(updated) => Some(updated.message_id),
        Event::MessageDeleted(deleted) => Some(deleted.message_id),
        _ => None,
    }
}

/// Whether the view does not show an edit of its message yet.
fn is_behind(view: &MessageView, edit: &StoredMessage) -> bool {
    let edited_at: Option<Timestamp> = Envelope::from_json(&edit.payload)
        .ok()
        .map(|envelope| envelope.occurred_at);
    about(edit) == Some(view.message.id) && edited_at.is_some_and(|at| view.updated_at < at)
}

#[cfg(test)]
mod tests {
    use super::*;
    use contract::domain::Delivery;

    const GOLDEN: &str = include_str!("../../../nats/golden/message.created.v1.json");
    const OTHER: Id = Id::from_bytes([9; 12]);

    fn message() -> Message {
        match Envelope::from_json(GOLDEN.as_bytes()).unwrap().event {
            Event::MessageCreated(message) => message,
            other => panic!("{other:?}"),
        }
    }

    fn copy(message: &Message, is_replay: bool) -> Copy<'_> {
        Copy {
            message,
            position: Some(10),
            outbound_seq: 5,
            is_replay,
        }
    }

    fn step(of: Id, message_seq: Option<u64>, state: DeliveryState) -> Option<LastStep> {
        let delivery = Delivery {
            state,
            attempts: 3,
            ..Delivery::queued()
        };
        let step = MessageDelivery {
            message_id: of,
            contact_id: OTHER,
            message_seq,
            delivery,
            status: None,
            duration_ms: None,
        };
        Some(LastStep {
            step,
            outbound_seq: Some(5),
        })
    }

    #[test]
    fn the_last_step_of_a_conversation_tells_of_its_message_and_of_all_earlier_ones() {
        use DeliveryState::{Cancelled, Delivered, Failed, Held, Retrying, Sending};
        let message = message();
        let first = copy(&message, false);
        for state in [Delivered, Failed, Cancelled] {
            assert_eq!(said(step(message.id, Some(10), state), first), Said::Ended);
        }
        for state in [Sending, Retrying, Held] {
            assert_eq!(
                said(step(message.id, Some(10), state), first),
                Said::Calls(3)
            );
        }
        // A later message has had its turn, an earlier one has it, one without a position tells nothing.
        for (seq, expected) in [
            (Some(11), Said::Ended),
            (Some(9), Said::Nothing),
            (None, Said::Unknown),
        ] {
            assert_eq!(said(step(OTHER, seq, Sending), first), expected, "{seq:?}");
        }
        assert_eq!(said(None, first), Said::Unknown);
    }

    #[test]
    fn only_its_own_steps_tell_of_a_replay() {
        let message = message();
        let replay = copy(&message, true);
        let of_first_copy = |mut last: Option<LastStep>| {
            last.as_mut().unwrap().outbound_seq = Some(1);
            last
        };
        let delivered = || step(message.id, None, DeliveryState::Delivered);
        let failed = step(message.id, Some(10), DeliveryState::Failed);
        assert_eq!(said(of_first_copy(failed), replay), Said::Nothing);
        assert_eq!(said(delivered(), replay), Said::Ended);
        let later = step(OTHER, Some(11), DeliveryState::Delivered);
        assert_eq!(said(later, replay), Said::Nothing);
    }
}
