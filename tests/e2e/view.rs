//! Law 4 on a real MongoDB: events of one conversation give the same documents in any order, twice, and by two persisters at once.

use mongodb::bson::{Document, doc, oid::ObjectId};
use nats::domain::{Content, Delivery, DeliveryState, Direction, Message, MessagePatch, Platform, Role};
use nats::event::{Actor, Envelope, Event, MessageDeleted, MessageDelivery, MessageRead, MessageUpdated};
use nats::{Id, Timestamp};
use persister::{Stored, View};
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, TestRunner};

use crate::harness::{System, documents};

/// Histories tried. Each costs about a hundred round trips to MongoDB.
const CASES: u32 = 100;

/// One step of a history, before ids are given.
#[derive(Clone, Debug)]
enum Step {
    Create { platform: Platform, inbound: bool },
    Edit { which: Index, text: String },
    Delete { which: Index },
    Read { platform: Option<Platform> },
    Deliver { which: Index, state: DeliveryState },
}

fn step() -> impl Strategy<Value = Step> {
    let platform = || select(&[Platform::Facebook, Platform::Instagram][..]);
    prop_oneof![
        4 => (platform(), any::<bool>()).prop_map(|(platform, inbound)| Step::Create { platform, inbound }),
        1 => (any::<Index>(), "[a-z]{1,5}").prop_map(|(which, text)| Step::Edit { which, text }),
        1 => any::<Index>().prop_map(|which| Step::Delete { which }),
        1 => proptest::option::of(platform()).prop_map(|platform| Step::Read { platform }),
        2 => (any::<Index>(), select(DeliveryState::ALL)).prop_map(|(which, state)| Step::Deliver { which, state }),
    ]
}

/// A history as the log would hold it: sequences ascend, times need not (two gateways have two clocks).
fn history(steps: &[Step], company: Id, contact: Id) -> Vec<Stored> {
    let mut created: Vec<Id> = Vec::new();
    let mut stored = Vec::new();
    for (seq, step) in (1..).zip(steps) {
        let at = Timestamp::from_millis(1_700_000_000_000 + (seq as i64 * 7_919) % 1_000);
        let pick = |which: &Index, created: &[Id]| (!created.is_empty()).then(|| *which.get(created));
        let event = match step {
            Step::Create { platform, inbound } => {
                let id = Id::generate(at);
                created.push(id);
                let (role, direction) = if *inbound { (Role::User, Direction::Inbound) } else { (Role::Operator, Direction::Outbound) };
                Some(Event::MessageCreated(Message {
                    id,
                    company_id: company,
                    contact_id: contact,
                    role,
                    platform: *platform,
                    direction,
                    content: Content::new("as written").unwrap(),
                    attachments: Vec::new(),
                    external_message_id: None,
                    created_at: at,
                    extra: serde_json::Map::new(),
                }))
            }
            Step::Edit { which, text } => pick(which, &created).map(|message_id| {
                let patch = MessagePatch { content: Some(Content::new(text).unwrap()), attachments: None };
                Event::MessageUpdated(MessageUpdated { message_id, contact_id: contact, patch })
            }),
            Step::Delete { which } => {
                pick(which, &created).map(|message_id| Event::MessageDeleted(MessageDeleted { message_id, contact_id: contact }))
            }
            Step::Read { platform } => Some(Event::MessageRead(MessageRead { contact_id: contact, platform: *platform })),
            Step::Deliver { which, state } => pick(which, &created).map(|message_id| {
                let delivery =
                    Delivery { state: *state, attempts: seq as u32, last_error: None, next_attempt_at: None, delivered_at: None };
                Event::MessageDelivery(MessageDelivery { message_id, contact_id: contact, delivery, status: None, duration_ms: None })
            }),
        };
        let Some(event) = event else { continue };
        let envelope = Envelope::new(at, Actor::System, company, event);
        stored.push(Stored { seq, subject: envelope.subject().to_string(), payload: envelope.to_json().unwrap().into() });
    }
    stored
}

/// What a reader of the database sees of a company.
async fn seen(view: &View, company: Id) -> (Vec<Document>, Vec<Document>) {
    let filter = doc! {"company_id": ObjectId::from_bytes(company.bytes())};
    let messages = documents(view.database(), "messages", filter.clone()).await;
    let mut conversations = documents(view.database(), "conversations", filter).await;
    for c in &mut conversations {
        // How it was counted, not what.
        c.remove("fold");
        c.remove("revision");
    }
    // A document's fields have no order that means something.
    (messages.into_iter().map(sorted).collect(), conversations.into_iter().map(sorted).collect())
}

fn sorted(document: Document) -> Document {
    let mut fields: Vec<_> = document.into_iter().collect();
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    fields.into_iter().map(|(k, v)| (k, v.as_document().cloned().map(sorted).map(Into::into).unwrap_or(v))).collect()
}

#[test]
fn any_order_twice_and_two_persisters_at_once_give_the_same_documents() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let system = runtime.block_on(System::start(&[]));
    let (one, two) = runtime.block_on(async {
        let open = async |name: &str| {
            let uri = system.url("mongodb").replace("/petbuddy", &format!("/{name}"));
            let view = View::open(&uri.into()).await.unwrap();
            view.create_indexes().await.unwrap();
            view
        };
        (open("in_order").await, open("any_order").await)
    });
    let mut runner = TestRunner::new(Config { cases: CASES, failure_persistence: None, ..Config::default() });
    let strategy = (prop::collection::vec(step(), 1..25), any::<u64>(), 1usize..8);
    let result = runner.run(&strategy, |(steps, seed, batch)| {
        let now = Timestamp::from_millis(1_700_000_000_000);
        let (company, contact) = (Id::generate(now), Id::generate(now));
        let events = history(&steps, company, contact);
        runtime.block_on(async {
            for (settled, event) in events.iter().enumerate() {
                one.apply(std::slice::from_ref(event), settled as u64).await.unwrap();
            }
            let mut shuffled: Vec<Stored> = events.iter().chain(&events).cloned().collect();
            let mut random = seed | 1;
            for i in (1..shuffled.len()).rev() {
                random = random.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                shuffled.swap(i, (random >> 33) as usize % (i + 1));
            }
            let (mine, theirs) = shuffled.split_at(shuffled.len() / 2);
            let persister = async |events: &[Stored]| {
                for batch in events.chunks(batch) {
                    two.apply(batch, 0).await.unwrap();
                }
            };
            tokio::join!(persister(mine), persister(theirs));
            prop_assert_eq!(seen(&two, company).await, seen(&one, company).await);
            Ok(())
        })
    });
    if let Err(failure) = result {
        panic!("{failure}");
    }
}

/// The window between an upsert that finds nothing and its insert is small; thousands of messages meet it.
#[tokio::test(flavor = "multi_thread")]
async fn a_step_that_races_the_insert_of_its_message_is_not_lost() {
    const ROUNDS: usize = 12;
    const MESSAGES: usize = 400;
    let system = System::shared().await;
    let uri = system.url("mongodb").replace("/petbuddy", "/races");
    let (one, two) = (View::open(&uri.clone().into()).await.unwrap(), View::open(&uri.into()).await.unwrap());
    one.create_indexes().await.unwrap();
    for round in 0..ROUNDS {
        let now = Timestamp::from_millis(1_700_000_000_000);
        let (company, contact) = (Id::generate(now), Id::generate(now));
        let create = Step::Create { platform: Platform::Facebook, inbound: false };
        let created = history(&vec![create; MESSAGES], company, contact);
        let steps: Vec<Stored> = created
            .iter()
            .zip(MESSAGES as u64 + 1..)
            .map(|(stored, seq)| {
                let Event::MessageCreated(message) = Envelope::from_json(&stored.payload).unwrap().event else { unreachable!() };
                // One kind of step a round: a shell that one has made would hide what happens to the other.
                let event = match round % 2 {
                    0 => {
                        let delivery = Delivery { state: DeliveryState::Sending, ..Delivery::queued() };
                        let (status, duration_ms) = (None, None);
                        Event::MessageDelivery(MessageDelivery {
                            message_id: message.id,
                            contact_id: contact,
                            delivery,
                            status,
                            duration_ms,
                        })
                    }
                    _ => Event::MessageDeleted(MessageDeleted { message_id: message.id, contact_id: contact }),
                };
                let envelope = Envelope::new(now, Actor::System, company, event);
                Stored { seq, subject: envelope.subject().to_string(), payload: envelope.to_json().unwrap().into() }
            })
            .collect();
        let (inserted, stepped) = tokio::join!(one.apply(&created, 0), two.apply(&steps, 0));
        inserted.unwrap();
        stepped.unwrap();
        let (messages, conversations) = seen(&one, company).await;
        assert_eq!(messages.len(), MESSAGES);
        let kept = |m: &&Document| match round % 2 {
            0 => m.get_document("delivery").unwrap().get_str("state").unwrap() == "sending",
            _ => m.contains_key("deleted_at"),
        };
        assert_eq!(messages.iter().filter(kept).count(), MESSAGES, "round {round}: steps were lost");
        let left = if round % 2 == 0 { MESSAGES } else { 0 };
        assert_eq!(conversations[0].get_i64("total").unwrap(), left as i64, "round {round}");
    }
}
