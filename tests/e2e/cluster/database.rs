//! Every accepted message (201) survives what happens to a replica set of three mongods: a primary
//! that steps down, dies, or wakes up as the primary that it no longer is. One test calls the
//! persister's view directly, because that test must hold persisters between read and write. Slow.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::Ordering;
use std::time::Duration;

use async_nats::jetstream::consumer::pull;
use contract::domain::{ContactPatch, Content, Direction, Message, Platform, Role, ShortText};
use contract::event::{Actor, ContactUpdated, Envelope, Event, MessageRead};
use contract::{Id, Timestamp};
use futures_util::future::join_all;
use mongodb::bson::{doc, oid::ObjectId};
use persister::{Stored, View};
use reqwest::StatusCode;
use serde_json::json;
use tokio::time::{Instant, timeout};

use crate::support::load::Load;
use crate::support::mongo_set::{ANSWER, MongoSet, SystemOnSet, others};
use crate::support::{AFTER_FAULT, SOON, Staff, documents, eventually, id_of};

/// Messages that must be accepted before and after each fault.
const STEADY: u64 = 300;

/// A load with so many contacts that the bot soon has what has piled up in a fault. The messages of
/// one contact go to the bot one after another.
async fn start_load(staff: &Staff<'_>) -> Load {
    const CONTACTS: usize = 16;
    let mut contacts = Vec::new();
    for _ in 0..CONTACTS {
        contacts.push(staff.new_contact().await);
    }
    let gateway = staff.system.url("gateway");
    let load = Load::start(gateway, staff.token.clone(), contacts);
    load.more(STEADY).await;
    load
}

/// Ends the load, and waits until the persister has applied what the log has, and the forwarder has
/// delivered the messages for the bot. Returns the ids of the accepted messages.
async fn settled(staff: &Staff<'_>, load: Load) -> HashSet<String> {
    let refused = load.refused.load(Ordering::Relaxed);
    assert_eq!(refused, 0, "creates failed because of MongoDB");
    let accepted = load.end().await;
    let ids: HashSet<String> = accepted.iter().map(|(id, _)| id.clone()).collect();
    assert_eq!(ids.len(), accepted.len(), "an id was given twice");
    let jetstream = staff.system.operator().await;
    eventually("log and bot have settled", AFTER_FAULT, || async {
        let outbound = jetstream.get_stream("OUTBOUND").await.ok()?;
        let events = jetstream.get_stream("EVENTS").await.ok()?;
        let persister = events.get_consumer::<pull::Config>("persister").await;
        let persister = persister.ok()?.cached_info().clone();
        let is_applied = persister.num_pending == 0 && persister.num_ack_pending == 0;
        (is_applied && outbound.cached_info().state.messages == 0).then_some(())
    })
    .await;
    ids
}

/// Asserts that the view is as the log says: every accepted message is stored once, counted once,
/// and delivered if it was for the bot. There is no dead letter.
async fn assert_nothing_missing(on: &SystemOnSet, staff: &Staff<'_>, accepted: &HashSet<String>) {
    let dead = on.system.operator().await.get_stream("DEAD").await.unwrap();
    assert_eq!(dead.cached_info().state.messages, 0, "dead letters");
    let (database, company) = (on.set.database().await, &staff.company);
    let of_company = doc! {"company_id": ObjectId::parse_str(company).unwrap()};
    let messages = documents(&database, "messages", of_company.clone()).await;
    let mut external: HashSet<&str> = HashSet::new();
    let mut conversations: HashMap<ObjectId, (i64, i64, i64)> = HashMap::new();
    for message in &messages {
        if let Ok(id) = message.get_str("external_message_id") {
            assert!(external.insert(id), "stored twice: {message}");
        }
        let seq = message.get_i64("seq").expect("no placeholder is left");
        let is_inbound = message.get_str("direction").unwrap() == "inbound";
        if !is_inbound {
            let delivery = message.get_document("delivery").unwrap();
            assert_eq!(delivery.get_str("state").unwrap(), "delivered", "{message}");
        }
        let contact = message.get_object_id("contact_id").unwrap();
        let (total, unread, latest) = conversations.entry(contact).or_default();
        *total += 1;
        *unread += i64::from(is_inbound);
        *latest = seq.max(*latest);
    }
    let stored: HashSet<String> = messages
        .iter()
        .map(|message| message.get_object_id("_id").unwrap().to_hex())
        .collect();
    let missing: Vec<&String> = accepted.difference(&stored).collect();
    assert!(missing.is_empty(), "not in MongoDB: {missing:?}");
    let counted: HashMap<ObjectId, (i64, i64, i64)> =
        documents(&database, "conversations", of_company)
            .await
            .iter()
            .map(|conversation| {
                let count = |name: &str| conversation.get_i64(name).unwrap();
                let latest = conversation.get_document("latest").unwrap();
                let latest = latest.get_i64("seq").unwrap();
                let contact = conversation.get_object_id("contact_id").unwrap();
                (contact, (count("total"), count("unread"), latest))
            })
            .collect();
    assert_eq!(counted, conversations, "counters differ from the messages");
    on.system.assert_audit_clean();
}

#[tokio::test(flavor = "multi_thread")]
async fn three_step_downs_of_the_primary_lose_no_accepted_message_and_refuse_none() {
    let on = SystemOnSet::start().await;
    let staff = on.system.new_company().await;
    let load = start_load(&staff).await;
    for _ in 0..3 {
        on.set.step_down().await;
        load.more(STEADY).await;
    }
    let accepted = settled(&staff, load).await;
    assert_nothing_missing(&on, &staff, &accepted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kill_9_of_the_primary_loses_no_accepted_message_and_refuses_none() {
    let mut on = SystemOnSet::start().await;
    let staff = on.system.new_company().await;
    let load = start_load(&staff).await;
    let old = on.set.primary().await;
    // What the primary writes from here on is lost with it.
    on.set.set_replication(&others(old), false).await;
    load.more(STEADY).await;
    on.set.end("-KILL", old);
    on.set.set_replication(&others(old), true).await;
    on.set.step_up(others(old)[0]).await;
    load.more(STEADY).await;
    on.set.restart(old).await;
    load.more(STEADY).await;
    let accepted = settled(&staff, load).await;
    assert_nothing_missing(&on, &staff, &accepted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_frozen_primary_that_wakes_up_after_an_election_answers_nothing_wrong() {
    /// Longer than the other members wait before they elect a primary.
    const FROZEN: Duration = Duration::from_secs(12);
    let on = SystemOnSet::start().await;
    let staff = on.system.new_company().await;
    let load = start_load(&staff).await;
    let old = on.set.primary().await;
    // What the primary writes from here on is rolled back later.
    on.set.set_replication(&others(old), false).await;
    load.more(STEADY).await;
    on.set.signal("-STOP", old);
    on.set.set_replication(&others(old), true).await;
    let back = Instant::now() + FROZEN;
    let mut for_new_contacts = Vec::new();
    while Instant::now() < back {
        let contact = staff.new_contact().await;
        let message = staff.operator_message(&contact, "welcome").await;
        for_new_contacts.push(message.id);
        load.more(STEADY / 3).await;
    }
    assert_ne!(on.set.primary().await, old);
    on.set.signal("-CONT", old);
    // Contacts that only the new primary has.
    for _ in 0..10 {
        let contact = staff.new_contact().await;
        let message = staff.operator_message(&contact, "welcome").await;
        for_new_contacts.push(message.id);
    }
    load.more(STEADY).await;
    let mut accepted = settled(&staff, load).await;
    accepted.extend(for_new_contacts);
    assert_nothing_missing(&on, &staff, &accepted).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_is_found_at_once_whatever_read_preference_the_uri_names() {
    const ROUNDS: usize = 200;
    let on = SystemOnSet::start_with("&readPreference=secondaryPreferred").await;
    let (system, staff) = (&on.system, on.system.new_company().await);
    let contact = staff.new_contact().await;
    // This secondary shows no message from here on.
    let [secondary, _] = others(on.set.primary().await);
    on.set.set_replication(&[secondary], false).await;
    let body = json!({
        "contact_id": contact, "role": "user", "platform": "facebook", "direction": "inbound",
        "content": "hello",
    });
    for round in 0..ROUNDS {
        let (here, there) = (round % 2, (round + 1) % 2);
        let answer = staff.post_to(here, "/messages", &[], &body).await;
        assert_eq!(answer.status, StatusCode::CREATED, "{answer:?}");
        let gateway = &system.services("gateway")[there];
        let url = format!("{gateway}/api/v1/messages/{}", id_of(&answer.body));
        let found = system.http.get(url).bearer_auth(&staff.token).send().await;
        let found = found.unwrap();
        let (status, said) = (found.status(), found.text().await);
        assert_eq!(status, StatusCode::OK, "round {round}: {said:?}");
    }
    system.assert_audit_clean();
}

/// Events of one company, with the sequences that the log would give them.
struct Log {
    company: Id,
    seq: u64,
}

impl Log {
    fn store(&mut self, event: Event) -> Stored {
        self.seq += 1;
        let envelope = Envelope::new(Timestamp::now(), Actor::System, self.company, event);
        Stored {
            seq: self.seq,
            log_position: self.seq,
            subject: envelope.subject().to_string(),
            payload: envelope.to_json().unwrap().into(),
        }
    }

    fn message(&mut self, contact_id: &Id) -> Stored {
        let at = Timestamp::now();
        let message = Message {
            id: Id::generate(at),
            company_id: self.company,
            contact_id: *contact_id,
            role: Role::User,
            platform: Platform::Facebook,
            direction: Direction::Inbound,
            content: Content::new("hello").unwrap(),
            attachments: Vec::new(),
            external_message_id: None,
            sent_elsewhere: false,
            created_at: at,
            of_channel: serde_json::Map::new(),
            extra: serde_json::Map::new(),
        };
        self.store(Event::MessageCreated(message))
    }

    fn read(&mut self, contact_id: &Id) -> Stored {
        self.store(Event::MessageRead(MessageRead {
            contact_id: *contact_id,
            platform: Some(Platform::Facebook),
        }))
    }

    fn edit(&mut self, contact_id: &Id, patch: ContactPatch) -> Stored {
        self.store(Event::ContactUpdated(Box::new(ContactUpdated {
            contact_id: *contact_id,
            patch,
        })))
    }

    fn name(&mut self, contact_id: &Id, name: &str) -> Stored {
        let full_name = Some(ShortText::new(name).unwrap());
        let patch = ContactPatch {
            full_name,
            ..ContactPatch::default()
        };
        self.edit(contact_id, patch)
    }

    fn phone(&mut self, contact_id: &Id) -> Stored {
        let phone = Some(ShortText::new("+49 170").ok());
        let patch = ContactPatch {
            phone,
            ..ContactPatch::default()
        };
        self.edit(contact_id, patch)
    }

    fn stage(&mut self, contact_id: &Id) -> Stored {
        let lead_stage = Some(ShortText::new("won").ok());
        let patch = ContactPatch {
            lead_stage,
            ..ContactPatch::default()
        };
        self.edit(contact_id, patch)
    }
}

/// A persister's view, which has a connection to the primary.
async fn open_view(set: &MongoSet) -> View {
    let view = View::open(&set.uri().into()).await.unwrap();
    eventually("the view has its indexes", AFTER_FAULT, || async {
        view.create_indexes().await.ok()
    })
    .await;
    view
}

/// Applies a batch as a persister does, which gets it again until it is applied.
async fn apply(view: &View, batch: &[Stored]) {
    eventually("the batch is applied", AFTER_FAULT, || async {
        view.apply(batch, 0).await.ok()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_event_is_written_onto_what_an_old_primary_alone_had() {
    /// Conversations, and as many contacts.
    const EACH: usize = 4;
    let set = MongoSet::start().await;
    let ids = || (0..EACH).map(|_| Id::generate(Timestamp::now()));
    let (conversations, contacts): (Vec<Id>, Vec<Id>) = (ids().collect(), ids().collect());
    let company = Id::generate(Timestamp::now());
    let mut log = Log { company, seq: 0 };
    let mut batch: Vec<Stored> = conversations.iter().map(|c| log.message(c)).collect();
    batch.extend(contacts.iter().map(|c| log.name(c, "before")));
    let first = open_view(&set).await;
    apply(&first, &batch).await;
    let waiting = join_all((0..2 * EACH).map(|_| open_view(&set))).await;

    // Writes that the primary alone has, and that are not acknowledged.
    let old = set.primary().await;
    set.set_replication(&others(old), false).await;
    let reads: Vec<Stored> = conversations.iter().map(|c| log.read(c)).collect();
    let phones: Vec<Stored> = contacts.iter().map(|c| log.phone(c)).collect();
    let on_old = set.database_of(old);
    let are_there = eventually("the primary has the writes", AFTER_FAULT, || async {
        let read = documents(&on_old, "conversations", doc! {"unread": 0}).await;
        let called = documents(&on_old, "contacts", doc! {"phone": {"$exists": true}}).await;
        (read.len() == EACH && called.len() == EACH).then_some(())
    });
    let unacknowledged = async { tokio::join!(first.apply(&reads, 0), first.apply(&phones, 0)) };
    tokio::select! {
        () = are_there => {}
        answers = unacknowledged => panic!("not replicated, but answered: {answers:?}"),
    }

    // Persisters ask the primary, which does not answer before another member has replaced it.
    set.signal("-STOP", old);
    let mut late: Vec<Stored> = conversations.iter().map(|c| log.read(c)).collect();
    late.extend(contacts.iter().map(|c| log.stage(c)));
    let answers = waiting.iter().cloned().zip(late.clone());
    let answers: Vec<_> = answers
        .map(|(view, event)| tokio::spawn(async move { view.apply(&[event], 0).await }))
        .collect();
    set.set_replication(&others(old), true).await;
    set.step_up(others(old)[0]).await;
    let second = open_view(&set).await;
    let mut batch: Vec<Stored> = conversations.iter().map(|c| log.message(c)).collect();
    batch.extend(contacts.iter().map(|c| log.name(c, "after")));
    apply(&second, &batch).await;
    for view in &waiting {
        eventually("a persister has found the new primary", SOON, || async {
            let ping = view.database().run_command(doc! {"ping": 1});
            timeout(ANSWER, async { ping.await.ok() }).await.ok()?
        })
        .await;
    }
    set.signal("-CONT", old);
    let answers = join_all(answers).await;
    let went_on = answers.iter().any(|a| a.as_ref().unwrap().is_ok());
    assert!(went_on, "nobody has gone on after the wait: {answers:?}");

    // The log gives once more what was not acknowledged, and all of that changes nothing else.
    for event in reads.into_iter().chain(phones).chain(late) {
        apply(&second, &[event]).await;
    }
    let database = set.database().await;
    for conversation in documents(&database, "conversations", doc! {}).await {
        let count = |name: &str| conversation.get_i64(name).unwrap();
        assert_eq!((count("total"), count("unread")), (2, 1), "{conversation}");
    }
    for contact in documents(&database, "contacts", doc! {}).await {
        let fields = ["fullName", "phone", "leadStage"].map(|f| contact.get_str(f).unwrap());
        assert_eq!(fields, ["after", "+49 170", "won"], "{contact}");
    }
}
