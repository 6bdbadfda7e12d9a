use proptest::prelude::*;

use super::*;

fn id(n: u64) -> Id {
    let mut bytes = [0; 12];
    bytes[4..].copy_from_slice(&n.to_be_bytes());
    Id::from_bytes(bytes)
}

fn entry(seq: u64) -> Entry {
    Entry {
        seq,
        id: Some(id(seq)),
        company_id: Some(id(0)),
        forwardable: seq.is_multiple_of(3),
    }
}

fn line(seq: u64, state: Option<DeliveryState>) -> AuditLine {
    AuditLine {
        id: id(seq),
        company_id: id(0),
        seq,
        state,
        deleted: false,
    }
}

#[test]
fn an_entry_is_read_from_subject_and_payload() {
    let file = format!(
        "{}/nats/golden/message.created.v1.json",
        env!("CARGO_MANIFEST_DIR")
    );
    let payload = std::fs::read(file).unwrap();
    let ids = ["a", "b", "c"].map(|c| c.repeat(24));
    let subject = |facets: &str| format!("message.created.{}.{}.{facets}", ids[0], ids[1]);
    let of = |facets: &str| Entry::of(7, &subject(facets), &payload);
    assert_eq!(
        of("facebook.outbound.operator"),
        Entry {
            seq: 7,
            id: ids[2].parse().ok(),
            company_id: ids[0].parse().ok(),
            forwardable: true
        }
    );
    for not_forwarded in [
        "web.outbound.operator",
        "facebook.inbound.user",
        "facebook.outbound.assistant",
    ] {
        assert!(!of(not_forwarded).forwardable, "{not_forwarded}");
    }
    assert_eq!(Entry::of(7, "message.created.x", b"{").id, None);
}

#[test]
fn a_call_after_the_delivery_is_found_and_a_retry_before_it_is_not() {
    let file = format!(
        "{}/nats/golden/message.delivery.v1.json",
        env!("CARGO_MANIFEST_DIR")
    );
    let golden = std::fs::read_to_string(file).unwrap();
    let step = |state: &str| golden.replace("\"retrying\"", &format!("{state:?}"));
    let mut taken = Taken::default();
    for state in ["sending", "retrying", "sending", "delivered"] {
        assert_eq!(taken.see(1, step(state).as_bytes()), None, "{state}");
    }
    let found = taken.see(9, step("sending").as_bytes()).unwrap();
    assert_eq!((found.difference, found.seq), (Difference::CalledAgain, 9));
    assert_eq!(taken.see(10, b"{"), None);
}

#[test]
fn a_delivery_is_judged_by_its_state_queue_and_dead_letter() {
    use DeliveryState::*;
    for (state, is_waiting, is_dead, expected) in [
        (Some(Delivered), false, false, BotDelivery::Delivered),
        (Some(Delivered), true, true, BotDelivery::Delivered),
        (Some(Queued), true, false, BotDelivery::Waiting),
        (Some(Held), true, false, BotDelivery::Waiting),
        // The message was given up, and its dead letter was replayed.
        (Some(Failed), true, true, BotDelivery::Waiting),
        (Some(Failed), false, true, BotDelivery::Failed),
        (
            Some(Failed),
            false,
            false,
            BotDelivery::Unexplained(Difference::NoDeadLetter),
        ),
        (
            Some(Sending),
            false,
            false,
            BotDelivery::Unexplained(Difference::Lost),
        ),
        (
            Some(Retrying),
            false,
            true,
            BotDelivery::Unexplained(Difference::Lost),
        ),
        (
            None,
            false,
            false,
            BotDelivery::Unexplained(Difference::Lost),
        ),
    ] {
        assert_eq!(
            bot_delivery(state, is_waiting, is_dead),
            expected,
            "{state:?} {is_waiting} {is_dead}"
        );
    }
}

#[test]
fn of_a_message_that_was_published_twice_the_first_copy_counts() {
    let again = Entry { seq: 9, ..entry(3) };
    let mut report = Report::default();
    let open = compare(
        &[entry(3), again],
        &[line(3, Some(DeliveryState::Delivered))],
        &mut report,
    );
    assert!(open.absent.is_empty() && open.undelivered.is_empty());
    assert_eq!((report.in_log, report.delivered), (2, 1));
}

proptest! {
    #[test]
    fn messages_in_only_one_of_log_and_database_are_found(
        log in prop::collection::btree_set(1u64..80, 0..40),
        database in prop::collection::btree_set(1u64..80, 0..40),
    ) {
        let is_for_the_bot = |seq: &u64| seq.is_multiple_of(3);
        let entries: Vec<Entry> = log.iter().map(|seq| entry(*seq)).collect();
        let lines: Vec<AuditLine> = database
            .iter()
            .map(|seq| line(*seq, is_for_the_bot(seq).then_some(DeliveryState::Queued)))
            .collect();
        let open = compare(&entries, &lines, &mut Report::default());
        let absent: Vec<u64> = open.absent.iter().map(|entry| entry.seq).collect();
        prop_assert_eq!(absent, log.difference(&database).copied().collect::<Vec<_>>());
        let both: Vec<u64> =
            log.intersection(&database).copied().filter(is_for_the_bot).collect();
        let undelivered: Vec<u64> =
            open.undelivered.iter().map(|(entry, _)| entry.seq).collect();
        prop_assert_eq!(undelivered, both);
        let extra: Vec<u64> = extra(&lines, &entries).map(|finding| finding.seq).collect();
        prop_assert_eq!(extra, database.difference(&log).copied().collect::<Vec<_>>());
    }

    #[test]
    fn ranges_are_short_and_contain_every_sequence_once(
        seqs in prop::collection::btree_set(1u64..5_000, 0..200),
        longest in 1u64..1_000,
    ) {
        let seqs: Vec<u64> = seqs.into_iter().collect();
        let ranges = ranges(&seqs, longest);
        for seq in &seqs {
            let containing = ranges.iter().filter(|(from, to)| (from..=to).contains(&seq));
            prop_assert_eq!(containing.count(), 1);
        }
        prop_assert!(ranges.iter().all(|(from, to)| to - from < longest));
        prop_assert!(ranges.windows(2).all(|pair| pair[0].1 < pair[1].0));
    }
}
