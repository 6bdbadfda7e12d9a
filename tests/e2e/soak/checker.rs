//! Compares what was witnessed of a run: the answers to clients, the log, the bot's receipts and the
//! transcripts of sockets. Pure: asks no server, and judges no timing.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

/// Fewer creates, deliveries or events on sockets than this are no test.
const LITTLE: usize = 100;

/// A create that a client was answered with success.
#[derive(Clone, Debug)]
pub struct Accepted {
    pub id: String,
    pub seq: u64,
}

/// An event `message.*` of the log.
#[derive(Clone, Debug)]
pub struct Logged {
    pub seq: u64,
    pub company: String,
    /// The message, contact and `Nats-Msg-Id` of a `message.created`.
    pub created: Option<Created>,
    /// The message of a `message.deleted`.
    pub deleted: Option<String>,
}

/// What the log says of a created message.
#[derive(Clone, Debug)]
pub struct Created {
    pub id: String,
    pub contact: String,
    pub key: String,
    pub is_for_bot: bool,
}

/// What a client of a socket saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// An event of the log.
    Event(u64),
    /// The client has fetched, and follows from here.
    Resync(u64),
}

/// One client's socket over all its connections.
#[derive(Clone, Debug)]
pub struct Transcript {
    pub company: String,
    /// The `seq` of the first `ready`.
    pub begin: u64,
    pub seen: Vec<Seen>,
}

/// Everything that was witnessed.
#[derive(Clone, Debug, Default)]
pub struct Witnessed {
    pub accepted: Vec<Accepted>,
    /// Answers that no client may get: neither success, nor conflict, nor 503.
    pub wrong_answers: Vec<String>,
    /// In the log's order.
    pub log: Vec<Logged>,
    /// The messages that the bot was called for with success, in the order of the calls.
    pub calls: Vec<String>,
    pub transcripts: Vec<Transcript>,
}

/// Something that must not happen.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Objection {
    WrongAnswer(String),
    /// Accepted, but the log does not have the message at the sequence of the answer.
    Lost(String),
    /// One key, or one id, twice in the log.
    StoredTwice(String),
    /// A socket got an event that the log does not have, or that is of another company.
    Foreign(u64),
    /// A socket got an event again, or after a later one.
    Repeated(u64),
    /// A socket never got an event, and was not told to fetch then or later.
    Gap(u64),
    /// The bot was called again for a message that it had taken.
    CalledAgain(String),
    /// The bot was called for a message after a later one of the conversation.
    OutOfOrder(String),
    /// The bot was called for something that is not in the log.
    Unexplained(String),
    /// A message for the bot never came there, and nobody deleted it.
    NotDelivered(String),
    /// There was too little of something for a judgement.
    TooLittle(&'static str),
}

/// All objections, each once.
pub fn check(witnessed: &Witnessed) -> BTreeSet<Objection> {
    let mut objections = BTreeSet::new();
    let wrong = witnessed.wrong_answers.iter().cloned();
    objections.extend(wrong.map(Objection::WrongAnswer));
    answers_against_log(witnessed, &mut objections);
    bot_against_log(witnessed, &mut objections);
    for transcript in &witnessed.transcripts {
        socket_against_log(transcript, &witnessed.log, &mut objections);
    }
    let events: usize = witnessed.transcripts.iter().map(|t| t.seen.len()).sum();
    for (what, count) in [
        ("accepted creates", witnessed.accepted.len()),
        ("deliveries", witnessed.calls.len()),
        ("events on sockets", events),
    ] {
        if count < LITTLE {
            objections.insert(Objection::TooLittle(what));
        }
    }
    objections
}

fn answers_against_log(witnessed: &Witnessed, objections: &mut BTreeSet<Objection>) {
    let (mut by_id, mut keys) = (HashMap::new(), HashSet::new());
    for logged in &witnessed.log {
        let Some(created) = &logged.created else {
            continue;
        };
        if by_id.insert(created.id.as_str(), logged.seq).is_some() || !keys.insert(&created.key) {
            objections.insert(Objection::StoredTwice(created.id.clone()));
        }
    }
    for accepted in &witnessed.accepted {
        if by_id.get(accepted.id.as_str()) != Some(&accepted.seq) {
            objections.insert(Objection::Lost(accepted.id.clone()));
        }
    }
}

fn bot_against_log(witnessed: &Witnessed, objections: &mut BTreeSet<Objection>) {
    let created = witnessed.log.iter().filter_map(|logged| {
        let created = logged
            .created
            .as_ref()
            .filter(|created| created.is_for_bot)?;
        Some((created.id.as_str(), (logged.seq, created.contact.as_str())))
    });
    let for_bot: HashMap<&str, (u64, &str)> = created.collect();
    let deleted: HashSet<&str> = witnessed
        .log
        .iter()
        .filter_map(|logged| logged.deleted.as_deref())
        .collect();
    let mut called = HashSet::new();
    let mut last: HashMap<&str, u64> = HashMap::new();
    for id in &witnessed.calls {
        let Some((seq, contact)) = for_bot.get(id.as_str()) else {
            objections.insert(Objection::Unexplained(id.clone()));
            continue;
        };
        if !called.insert(id.as_str()) {
            objections.insert(Objection::CalledAgain(id.clone()));
            continue;
        }
        if last
            .insert(*contact, *seq)
            .is_some_and(|before| before > *seq)
        {
            objections.insert(Objection::OutOfOrder(id.clone()));
        }
    }
    for id in for_bot.keys() {
        if !called.contains(id) && !deleted.contains(id) {
            objections.insert(Objection::NotDelivered((*id).to_owned()));
        }
    }
}

/// What a socket got against what it must have got. A node that has passed an event over tells its
/// clients to fetch once it finds out, so a `resync` explains the gaps before it too.
pub fn socket_against_log(
    transcript: &Transcript,
    log: &[Logged],
    objections: &mut BTreeSet<Objection>,
) {
    let mut gaps = BTreeSet::new();
    let own: BTreeMap<u64, ()> = log
        .iter()
        .filter(|logged| logged.company == transcript.company)
        .map(|logged| (logged.seq, ()))
        .collect();
    let mut position = transcript.begin;
    for seen in &transcript.seen {
        match *seen {
            Seen::Resync(seq) => {
                gaps.retain(|gap| *gap > seq);
                position = position.max(seq);
            }
            Seen::Event(seq) if !own.contains_key(&seq) => {
                objections.insert(Objection::Foreign(seq));
            }
            Seen::Event(seq) if seq <= position => {
                objections.insert(Objection::Repeated(seq));
            }
            Seen::Event(seq) => {
                gaps.extend(own.range(position + 1..seq).map(|(seq, ())| *seq));
                position = seq;
            }
        }
    }
    gaps.extend(own.range(position + 1..).map(|(seq, ())| *seq));
    objections.extend(gaps.into_iter().map(Objection::Gap));
}

mod tests {
    use super::*;

    const COMPANY: &str = "company";

    /// A run in which everything went well: each message is for the bot, and its own conversation's
    /// only one but for the first two.
    fn good() -> Witnessed {
        let mut witnessed = Witnessed::default();
        for seq in 1..=2 * LITTLE as u64 {
            let id = format!("m{seq}");
            let created = Created {
                id: id.clone(),
                contact: format!("c{}", seq.max(2)),
                key: format!("k{seq}"),
                is_for_bot: true,
            };
            witnessed.accepted.push(Accepted {
                id: id.clone(),
                seq,
            });
            witnessed.log.push(Logged {
                seq,
                company: COMPANY.into(),
                created: Some(created),
                deleted: None,
            });
            witnessed.calls.push(id);
        }
        witnessed.transcripts.push(Transcript {
            company: COMPANY.into(),
            begin: 0,
            seen: (1..=2 * LITTLE as u64).map(Seen::Event).collect(),
        });
        witnessed
    }

    fn objections(change: impl FnOnce(&mut Witnessed)) -> Vec<Objection> {
        let mut witnessed = good();
        change(&mut witnessed);
        check(&witnessed).into_iter().collect()
    }

    #[test]
    fn a_good_run_meets_no_objection() {
        assert_eq!(objections(|_| ()), []);
    }

    #[test]
    fn each_fault_that_is_let_through_meets_its_objection() {
        use Objection::*;
        assert_eq!(
            objections(|w| w.wrong_answers.push("500".into())),
            [WrongAnswer("500".into())]
        );
        let accepted = |id: &str, seq| Accepted { id: id.into(), seq };
        assert_eq!(
            objections(|w| w.accepted.push(accepted("x", 5))),
            [Lost("x".into())]
        );
        assert_eq!(objections(|w| w.accepted[4].seq = 6), [Lost("m5".into())]);
        let again = |w: &mut Witnessed| {
            let mut second = w.log[3].clone();
            (second.seq, second.created.as_mut().unwrap().id) = (999, "m999".into());
            w.log.push(second);
            w.calls.push("m999".into());
            w.transcripts[0].seen.push(Seen::Event(999));
        };
        assert_eq!(objections(again), [StoredTwice("m999".into())]);
        let seen = |w: &mut Witnessed, at: usize, seen| w.transcripts[0].seen[at] = seen;
        assert_eq!(
            objections(|w| seen(w, 6, Seen::Event(7_000))),
            [Foreign(7_000), Gap(7)]
        );
        assert_eq!(
            objections(|w| w.transcripts[0].seen.insert(9, Seen::Event(3))),
            [Repeated(3)]
        );
        assert_eq!(
            objections(|w| w.transcripts[0].seen.retain(|seen| *seen != Seen::Event(7))),
            [Gap(7)]
        );
        assert_eq!(
            objections(|w| w.transcripts[0].seen.truncate(199)),
            [Gap(200)]
        );
        // A resync says nothing of what comes after it.
        let too_early = |w: &mut Witnessed| {
            w.transcripts[0].seen.remove(6);
            w.transcripts[0].seen.insert(5, Seen::Resync(5));
        };
        assert_eq!(objections(too_early), [Gap(7)]);
        assert_eq!(
            objections(|w| w.calls.push("m9".into())),
            [CalledAgain("m9".into())]
        );
        assert_eq!(
            objections(|w| w.calls.swap(0, 1)),
            [OutOfOrder("m1".into())]
        );
        assert_eq!(
            objections(|w| w.calls.push("y".into())),
            [Unexplained("y".into())]
        );
        assert_eq!(
            objections(|w| drop(w.calls.pop())),
            [NotDelivered("m200".into())]
        );
    }

    #[test]
    fn a_deleted_message_need_not_be_delivered_and_a_resync_explains_a_gap() {
        let change = |w: &mut Witnessed| {
            w.calls.pop();
            w.log[0].deleted = Some("m200".into());
            w.transcripts[0].seen.splice(10..20, [Seen::Resync(20)]);
        };
        assert_eq!(objections(change), []);
        let late = |w: &mut Witnessed| {
            w.transcripts[0].seen.remove(6);
            w.transcripts[0].seen.insert(20, Seen::Resync(21));
        };
        assert_eq!(objections(late), []);
    }

    #[test]
    fn too_little_traffic_is_no_test() {
        let objections = check(&Witnessed::default());
        assert_eq!(objections.len(), 3, "{objections:?}");
    }
}
