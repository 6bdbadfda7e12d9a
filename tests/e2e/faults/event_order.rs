//! Law 4 on a real MongoDB: the events of one conversation give the same documents in any order,
//! applied twice, and by two persisters at once. Calls the persister's view directly, not the API.
//! Slow: a hundred random histories.

use contract::domain::{
    Company, Contact, ContactPatch, Content, Delivery, DeliveryState, Direction, Email,
    Integration, Message, MessagePatch, Platform, Provider, Role, Sealed, ShortText, SlaTargets,
    SocialPatch, StaffRole, User,
};
use contract::event::{
    Actor, CompanyCreated, CompanyUpdated, ContactBotResumed, ContactUpdated, Envelope, Event,
    IntegrationDeleted, IntegrationRefreshFailed, MessageDeleted, MessageDelivery, MessageRead,
    MessageSlaBreached, MessageUpdated,
};
use contract::{Id, Timestamp};
use mongodb::bson::{Document, doc, oid::ObjectId};
use persister::{Stored, View};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::{Index, select};
use proptest::test_runner::{Config, TestRunner};

use crate::support::{System, documents};

/// Number of random histories. Each costs about a hundred round trips to MongoDB.
const CASES: u32 = 100;

/// One step of a history, before ids are given.
#[derive(Clone, Debug)]
enum Step {
    Create {
        platform: Platform,
        inbound: bool,
    },
    Edit {
        which: Index,
        text: String,
    },
    Delete {
        which: Index,
    },
    Read {
        platform: Option<Platform>,
    },
    Deliver {
        which: Index,
        state: DeliveryState,
    },
    Breach {
        which: Index,
        target: u32,
    },
    Promise {
        seconds: u32,
    },
    Register,
    Enter,
    EditContact {
        phone: Option<String>,
        facebook_id: Option<String>,
        suspended: Option<bool>,
    },
    Connect {
        provider: Provider,
        account: String,
        renewable: bool,
    },
    Disconnect {
        provider: Provider,
    },
    FailRefresh {
        provider: Provider,
        error: String,
    },
    Suspend {
        until: Option<i64>,
    },
    Resume {
        until: i64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let platform = || select(&[Platform::Facebook, Platform::Instagram][..]);
    let provider = || select(&[Provider::Facebook, Provider::Google][..]);
    prop_oneof![
        4 => (platform(), any::<bool>()).prop_map(|(platform, inbound)| Step::Create { platform, inbound }),
        1 => (any::<Index>(), "[a-z]{1,5}").prop_map(|(which, text)| Step::Edit { which, text }),
        1 => any::<Index>().prop_map(|which| Step::Delete { which }),
        1 => option::of(platform()).prop_map(|platform| Step::Read { platform }),
        2 => (any::<Index>(), select(DeliveryState::ALL)).prop_map(|(which, state)| Step::Deliver { which, state }),
        1 => (any::<Index>(), 1u32..100).prop_map(|(which, target)| Step::Breach { which, target }),
        1 => (1u32..100).prop_map(|seconds| Step::Promise { seconds }),
        1 => Just(Step::Register),
        1 => Just(Step::Enter),
        2 => (option::of("[0-9]{3}"), option::of("[0-9]{3}"), option::of(any::<bool>()))
            .prop_map(|(phone, facebook_id, suspended)| Step::EditContact { phone, facebook_id, suspended }),
        1 => (provider(), "[a-z]{3}", any::<bool>())
            .prop_map(|(provider, account, renewable)| Step::Connect { provider, account, renewable }),
        1 => provider().prop_map(|provider| Step::Disconnect { provider }),
        1 => (provider(), "[a-z]{3}").prop_map(|(provider, error)| Step::FailRefresh { provider, error }),
        1 => option::of(1..3i64).prop_map(|until| Step::Suspend { until }),
        1 => (1..3i64).prop_map(|until| Step::Resume { until }),
    ]
}

/// A history as the log holds it. Sequences ascend; times need not, because two gateways have two
/// clocks.
fn history(steps: &[Step], company: Id, contact: Id) -> Vec<Stored> {
    let mut created: Vec<Id> = Vec::new();
    let mut stored = Vec::new();
    let (mut entered, mut registered) = (false, false);
    for (seq, step) in (1..).zip(steps) {
        let at = Timestamp::from_millis(1_700_000_000_000 + (seq as i64 * 7_919) % 1_000);
        let pick =
            |which: &Index, created: &[Id]| (!created.is_empty()).then(|| *which.get(created));
        let event = match step {
            Step::Create { platform, inbound } => {
                let id = Id::generate(at);
                created.push(id);
                let (role, direction) = if *inbound {
                    (Role::User, Direction::Inbound)
                } else {
                    (Role::Operator, Direction::Outbound)
                };
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
                    sent_elsewhere: false,
                    created_at: at,
                    of_channel: serde_json::Map::new(),
                    extra: serde_json::Map::new(),
                }))
            }
            Step::Edit { which, text } => pick(which, &created).map(|message_id| {
                let patch = MessagePatch {
                    content: Some(Content::new(text).unwrap()),
                    attachments: None,
                };
                Event::MessageUpdated(MessageUpdated {
                    message_id,
                    contact_id: contact,
                    patch,
                })
            }),
            Step::Delete { which } => pick(which, &created).map(|message_id| {
                Event::MessageDeleted(MessageDeleted {
                    message_id,
                    contact_id: contact,
                })
            }),
            Step::Read { platform } => Some(Event::MessageRead(MessageRead {
                contact_id: contact,
                platform: *platform,
            })),
            Step::Deliver { which, state } => pick(which, &created).map(|message_id| {
                let delivery = Delivery {
                    state: *state,
                    attempts: seq as u32,
                    last_error: None,
                    next_attempt_at: None,
                    delivered_at: None,
                    external_message_id: None,
                };
                Event::MessageDelivery(MessageDelivery {
                    message_id,
                    contact_id: contact,
                    message_seq: None,
                    delivery,
                    status: None,
                    duration_ms: None,
                })
            }),
            Step::Breach { which, target } => pick(which, &created).map(|message_id| {
                Event::MessageSlaBreached(MessageSlaBreached {
                    message_id,
                    contact_id: contact,
                    platform: Platform::Facebook,
                    target_seconds: *target,
                    accepted_at: at,
                })
            }),
            Step::Promise { seconds } => {
                let targets = SlaTargets {
                    delivery_seconds: *seconds,
                    first_response_seconds: 1,
                };
                Some(Event::CompanyUpdated(CompanyUpdated { sla: Some(targets) }))
            }
            Step::Register => Some(Event::CompanyCreated(registration(company, at))),
            Step::Enter => Some(Event::ContactCreated(Box::new(a_contact(
                company, contact, at,
            )))),
            Step::EditContact {
                phone,
                facebook_id,
                suspended,
            } => {
                // A text removes with its first digit even, so that both are tried.
                let text = |t: &Option<String>| {
                    t.as_ref()
                        .map(|t| (t.as_bytes()[0] % 2 == 1).then(|| ShortText::new(t).unwrap()))
                };
                let social = SocialPatch {
                    facebook_id: text(facebook_id),
                    ..SocialPatch::default()
                };
                let patch = ContactPatch {
                    phone: text(phone),
                    bot_suspended: *suspended,
                    social,
                    ..ContactPatch::default()
                };
                Some(Event::ContactUpdated(Box::new(ContactUpdated {
                    contact_id: contact,
                    patch,
                })))
            }
            Step::Connect {
                provider,
                account,
                renewable,
            } => Some(Event::IntegrationUpdated(Integration {
                company_id: company,
                provider: *provider,
                account_id: Some(ShortText::new(account).unwrap()),
                account_name: None,
                access_token: (!renewable).then(|| Sealed {
                    key_id: "k1".into(),
                    sealed: account.clone(),
                }),
                refresh_token: renewable.then(|| Sealed {
                    key_id: "k1".into(),
                    sealed: account.clone(),
                }),
                token_expires_at: None,
                updated_at: at,
            })),
            Step::Disconnect { provider } => Some(Event::IntegrationDeleted(IntegrationDeleted {
                provider: *provider,
            })),
            Step::FailRefresh { provider, error } => {
                let (provider, error) = (*provider, error.clone());
                Some(Event::IntegrationRefreshFailed(IntegrationRefreshFailed {
                    provider,
                    error,
                    token_expires_at: None,
                }))
            }
            Step::Suspend { until } => {
                let until = until.map(Timestamp::from_millis);
                let patch = ContactPatch {
                    bot_suspended: Some(true),
                    bot_suspend_until: Some(until),
                    ..ContactPatch::default()
                };
                Some(Event::ContactUpdated(Box::new(ContactUpdated {
                    contact_id: contact,
                    patch,
                })))
            }
            Step::Resume { until } => Some(Event::ContactBotResumed(ContactBotResumed {
                contact_id: contact,
                until: Timestamp::from_millis(*until),
            })),
        };
        let once = |e: &Event| match e {
            Event::ContactCreated(_) => !std::mem::replace(&mut entered, true),
            Event::CompanyCreated(_) => !std::mem::replace(&mut registered, true),
            _ => true,
        };
        let Some(event) = event.filter(once) else {
            continue;
        };
        let envelope = Envelope::new(at, Actor::System, company, event);
        stored.push(Stored {
            seq,
            log_position: seq,
            subject: envelope.subject().to_string(),
            payload: envelope.to_json().unwrap().into(),
        });
    }
    stored
}

/// The history, but some events became dead letters at first and were replayed after all others.
fn with_replays(history: &[Stored], seed: u64) -> Vec<Stored> {
    const UNDONE: [&str; 5] = [
        "message.updated.",
        "message.delivery.",
        "contact.",
        "integration.",
        "company.updated.",
    ];
    let dies = |event: &&Stored| {
        seed >> (event.seq % 64) & 1 == 1
            && UNDONE.iter().any(|kind| event.subject.starts_with(kind))
    };
    let (dead, alive): (Vec<&Stored>, Vec<&Stored>) = history.iter().partition(dies);
    let end = history.last().map_or(0, |last| last.seq);
    let replayed = (end + 1..).zip(dead).map(|(seq, event)| Stored {
        seq,
        ..event.clone()
    });
    alive.into_iter().cloned().chain(replayed).collect()
}

fn registration(company: Id, at: Timestamp) -> CompanyCreated {
    let name = ShortText::new("Clinic").unwrap();
    let email = Email::new(&format!("{company}@example.com")).unwrap();
    let manager = User {
        id: company,
        company_id: company,
        email,
        full_name: name.clone(),
        role: StaffRole::Manager,
        password_hash: "none".into(),
        created_at: at,
    };
    CompanyCreated {
        company: Company {
            id: company,
            name,
            created_at: at,
            sla: SlaTargets::default(),
        },
        manager,
    }
}

fn a_contact(company: Id, contact: Id, at: Timestamp) -> Contact {
    let text = |t: &str| Some(ShortText::new(t).unwrap());
    let file = format!(
        "{}/nats/golden/contact.created.v1.json",
        env!("CARGO_MANIFEST_DIR")
    );
    let Event::ContactCreated(golden) = Envelope::from_json(&std::fs::read(file).unwrap())
        .unwrap()
        .event
    else {
        unreachable!()
    };
    Contact {
        id: contact,
        company_id: company,
        phone: text("+49 170"),
        created_at: at,
        ..*golden
    }
}

const COLLECTIONS: [&str; 7] = [
    "messages",
    "conversations",
    "contacts",
    "integrations",
    "refresh_failures",
    "attempts",
    "companies",
];

/// What a reader of the database sees of a company: the documents of each of [`COLLECTIONS`].
async fn visible_documents(view: &View, company: Id) -> [Vec<Document>; COLLECTIONS.len()] {
    let company = ObjectId::from_bytes(company.bytes());
    let filter = doc! {"$or": [{"company_id": company}, {"_id": company}]};
    let mut all = [const { Vec::new() }; COLLECTIONS.len()];
    for (collection, found) in COLLECTIONS.iter().zip(&mut all) {
        for mut document in documents(view.database(), collection, filter.clone()).await {
            // `fold` says how the counters were made, not what they count.
            document.remove("fold");
            document.remove("revision");
            // The order of a document's fields means nothing.
            found.push(sorted(document));
        }
    }
    all
}

fn sorted(document: Document) -> Document {
    let mut fields: Vec<_> = document.into_iter().collect();
    fields.sort_by(|a, b| a.0.cmp(&b.0));
    fields
        .into_iter()
        .map(|(k, v)| {
            (
                k,
                v.as_document()
                    .cloned()
                    .map(sorted)
                    .map(Into::into)
                    .unwrap_or(v),
            )
        })
        .collect()
}

#[test]
fn any_order_twice_and_two_persisters_at_once_give_the_same_documents() {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .unwrap();
    let system = runtime.block_on(System::start(&[]));
    let (one, two) = runtime.block_on(async {
        let open = async |name: &str| {
            let uri = system
                .url("mongodb")
                .replace("/petbuddy", &format!("/{name}"));
            let view = View::open(&uri.into()).await.unwrap();
            view.create_indexes().await.unwrap();
            view
        };
        (open("in_order").await, open("any_order").await)
    });
    let mut runner = TestRunner::new(Config {
        cases: CASES,
        failure_persistence: None,
        ..Config::default()
    });
    let strategy = (
        prop::collection::vec(step(), 1..25),
        any::<u64>(),
        1usize..8,
    );
    let result = runner.run(&strategy, |(steps, seed, batch)| {
        let now = Timestamp::from_millis(1_700_000_000_000);
        let (company, contact) = (Id::generate(now), Id::generate(now));
        let events = history(&steps, company, contact);
        runtime.block_on(async {
            for (settled, event) in events.iter().enumerate() {
                one.apply(std::slice::from_ref(event), settled as u64)
                    .await
                    .unwrap();
            }
            let replayed = with_replays(&events, seed);
            let mut shuffled: Vec<Stored> = replayed.iter().chain(&replayed).cloned().collect();
            let mut random = seed | 1;
            for i in (1..shuffled.len()).rev() {
                random = random
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                shuffled.swap(i, (random >> 33) as usize % (i + 1));
            }
            let (mine, theirs) = shuffled.split_at(shuffled.len() / 2);
            let persister = async |events: &[Stored]| {
                for batch in events.chunks(batch) {
                    two.apply(batch, 0).await.unwrap();
                }
            };
            tokio::join!(persister(mine), persister(theirs));
            prop_assert_eq!(
                visible_documents(&two, company).await,
                visible_documents(&one, company).await
            );
            Ok(())
        })
    });
    if let Err(failure) = result {
        panic!("{failure}");
    }
}

/// The window between an upsert that finds nothing and its insert is small; thousands of messages
/// meet it.
#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_step_that_races_the_insert_of_its_message_is_not_lost() {
    const ROUNDS: usize = 12;
    const MESSAGES: usize = 400;
    let system = System::shared().await;
    let uri = system.url("mongodb").replace("/petbuddy", "/races");
    let (one, two) = (
        View::open(&uri.clone().into()).await.unwrap(),
        View::open(&uri.into()).await.unwrap(),
    );
    one.create_indexes().await.unwrap();
    for round in 0..ROUNDS {
        let now = Timestamp::from_millis(1_700_000_000_000);
        let (company, contact) = (Id::generate(now), Id::generate(now));
        let create = Step::Create {
            platform: Platform::Facebook,
            inbound: false,
        };
        let created = history(&vec![create; MESSAGES], company, contact);
        let steps: Vec<Stored> = created
            .iter()
            .zip(MESSAGES as u64 + 1..)
            .map(|(stored, seq)| {
                let Event::MessageCreated(message) =
                    Envelope::from_json(&stored.payload).unwrap().event
                else {
                    unreachable!()
                };
                // One kind of step in each round. Otherwise a placeholder that one kind has created
                // would hide the race of the other.
                let event = match round % 2 {
                    0 => {
                        let delivery = Delivery {
                            state: DeliveryState::Sending,
                            ..Delivery::queued()
                        };
                        let (status, duration_ms) = (None, None);
                        Event::MessageDelivery(MessageDelivery {
                            message_id: message.id,
                            contact_id: contact,
                            message_seq: None,
                            delivery,
                            status,
                            duration_ms,
                        })
                    }
                    _ => Event::MessageDeleted(MessageDeleted {
                        message_id: message.id,
                        contact_id: contact,
                    }),
                };
                let envelope = Envelope::new(now, Actor::System, company, event);
                Stored {
                    seq,
                    log_position: seq,
                    subject: envelope.subject().to_string(),
                    payload: envelope.to_json().unwrap().into(),
                }
            })
            .collect();
        let (inserted, stepped) = tokio::join!(one.apply(&created, 0), two.apply(&steps, 0));
        inserted.unwrap();
        stepped.unwrap();
        let [messages, conversations, ..] = visible_documents(&one, company).await;
        assert_eq!(messages.len(), MESSAGES);
        let kept = |m: &&Document| match round % 2 {
            0 => {
                m.get_document("delivery")
                    .unwrap()
                    .get_str("state")
                    .unwrap()
                    == "sending"
            }
            _ => m.contains_key("deleted_at"),
        };
        assert_eq!(
            messages.iter().filter(kept).count(),
            MESSAGES,
            "round {round}: steps were lost"
        );
        let left = if round % 2 == 0 { MESSAGES } else { 0 };
        assert_eq!(
            conversations[0].get_i64("total").unwrap(),
            left as i64,
            "round {round}"
        );
    }
}

/// An event with an id of another company's document is rejected, and delays nothing else of its
/// batch.
#[tokio::test(flavor = "multi_thread")]
async fn events_that_use_another_companys_ids_are_rejected() {
    let system = System::shared().await;
    let uri = system.url("mongodb").replace("/petbuddy", "/two_companies");
    let view = View::open(&uri.into()).await.unwrap();
    view.create_indexes().await.unwrap();
    let now = Timestamp::from_millis(1_700_000_000_000);
    let (own, other, contact) = (Id::generate(now), Id::generate(now), Id::generate(now));
    let create = history(
        &[Step::Create {
            platform: Platform::Facebook,
            inbound: false,
        }],
        own,
        contact,
    );
    let Event::MessageCreated(message) = Envelope::from_json(&create[0].payload).unwrap().event
    else {
        unreachable!()
    };
    let phone = |text: &str| ContactPatch {
        phone: Some(Some(ShortText::new(text).unwrap())),
        ..ContactPatch::default()
    };
    let edit = |text: &str| {
        Event::ContactUpdated(Box::new(ContactUpdated {
            contact_id: contact,
            patch: phone(text),
        }))
    };
    let patch = MessagePatch {
        content: Some(Content::new("foreign").unwrap()),
        attachments: None,
    };
    let delivery = Delivery {
        state: DeliveryState::Failed,
        ..Delivery::queued()
    };
    let (message_id, contact_id) = (message.id, contact);
    let foreign = [
        Event::MessageUpdated(MessageUpdated {
            message_id,
            contact_id,
            patch,
        }),
        Event::MessageDelivery(MessageDelivery {
            message_id,
            contact_id,
            message_seq: None,
            delivery,
            status: None,
            duration_ms: None,
        }),
        Event::MessageSlaBreached(MessageSlaBreached {
            message_id,
            contact_id,
            platform: Platform::Facebook,
            target_seconds: 1,
            accepted_at: now,
        }),
        Event::MessageDeleted(MessageDeleted {
            message_id,
            contact_id,
        }),
        Event::MessageCreated(Message {
            company_id: other,
            ..message.clone()
        }),
        edit("2"),
        Event::ContactBotResumed(ContactBotResumed {
            contact_id,
            until: now,
        }),
        Event::ContactCreated(Box::new(a_contact(other, contact, now))),
    ];
    let stored = |(seq, (company, event)): (u64, (Id, Event))| {
        let envelope = Envelope::new(now, Actor::System, company, event);
        Stored {
            seq,
            log_position: seq,
            subject: envelope.subject().to_string(),
            payload: envelope.to_json().unwrap().into(),
        }
    };
    let entered = Event::ContactCreated(Box::new(a_contact(own, contact, now)));
    let ours = [entered, edit("1"), Event::MessageCreated(message)];
    let events = ours
        .into_iter()
        .map(|event| (own, event))
        .chain(foreign.map(|event| (other, event)));
    let batch: Vec<Stored> = (1..).zip(events).map(stored).collect();
    // Applied again, the verdicts are the same.
    for _ in 0..2 {
        let verdicts = view.apply(&batch, 0).await.unwrap();
        let rejected = |v: &persister::Verdict| matches!(v, persister::Verdict::Rejected(..));
        assert!(
            !verdicts[..3].iter().any(rejected) && verdicts[3..].iter().all(rejected),
            "{verdicts:?}"
        );
    }
    let [messages, _, contacts, ..] = visible_documents(&view, own).await;
    assert_eq!((messages.len(), contacts.len()), (1, 1));
    assert_eq!(
        (
            messages[0].get_str("content").unwrap(),
            contacts[0].get_str("phone").unwrap()
        ),
        ("as written", "1")
    );
    assert!(
        ["deleted_at", "sla"]
            .iter()
            .all(|field| !messages[0].contains_key(field)),
        "{}",
        messages[0]
    );
    assert_eq!(
        messages[0]
            .get_document("delivery")
            .unwrap()
            .get_str("state")
            .unwrap(),
        "queued"
    );
    let [messages, conversations, contacts, ..] = visible_documents(&view, other).await;
    assert!(messages.is_empty() && conversations.is_empty() && contacts.is_empty());
}
