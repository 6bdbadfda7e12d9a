use super::*;
use crate::dead_letter::SubjectInfo;
use crate::domain::{Direction, Role};
use proptest::prelude::*;
use proptest::sample::select;

fn id() -> impl Strategy<Value = Id> {
    any::<[u8; 12]>().prop_map(Id::from_bytes)
}

fn facets() -> impl Strategy<Value = Facets> {
    (
        select(Platform::ALL),
        select(Direction::ALL),
        select(Role::ALL),
        any::<bool>(),
    )
        .prop_map(|(platform, direction, role, sent_elsewhere)| Facets {
            platform,
            direction,
            role,
            sent_elsewhere,
        })
}

fn event_subject() -> impl Strategy<Value = EventSubject> {
    (id(), id(), facets(), select(Provider::ALL), 0..15).prop_map(
        |(company, contact, facets, provider, kind)| match kind {
            0 => EventSubject::MessageCreated {
                company,
                contact,
                facets,
            },
            1 => EventSubject::MessageUpdated { company, contact },
            2 => EventSubject::MessageDeleted { company, contact },
            3 => EventSubject::MessageRead { company, contact },
            4 => EventSubject::MessageDelivery { company, contact },
            5 => EventSubject::ContactCreated { company, contact },
            6 => EventSubject::ContactUpdated { company, contact },
            7 => EventSubject::UserCreated {
                company,
                user: contact,
            },
            8 => EventSubject::IntegrationUpdated { company, provider },
            9 => EventSubject::IntegrationDeleted { company, provider },
            10 => EventSubject::MessageSlaBreached { company, contact },
            11 => EventSubject::ContactBotResumed { company, contact },
            12 => EventSubject::CompanyUpdated { company },
            13 => EventSubject::IntegrationRefreshFailed { company, provider },
            _ => EventSubject::CompanyCreated { company },
        },
    )
}

/// How nats-server matches a subject against a filter.
fn matches(filter: &str, subject: &str) -> bool {
    let (mut filter, mut subject) = (filter.split('.'), subject.split('.'));
    loop {
        match (filter.next(), subject.next()) {
            (Some(">"), Some(_)) | (None, None) => return true,
            (Some("*"), Some(_)) => {}
            (Some(f), Some(s)) if f == s => {}
            _ => return false,
        }
    }
}

proptest! {
    #[test]
    fn an_event_subject_parses_as_it_prints_and_is_stored(subject in event_subject()) {
        let text = subject.to_string();
        prop_assert_eq!(text.parse(), Ok(subject));
        prop_assert!(EVENTS.iter().any(|stored| matches(stored, &text)));
        let live = live(subject);
        prop_assert_eq!(from_live(&live), Some(text.as_str()));
    }

    #[test]
    fn an_outbound_subject_parses_as_it_prints(
        partition in 0..PARTITIONS,
        company in id(),
        contact in id(),
        platform in select(Platform::ALL),
    ) {
        let subject = Outbound { partition, company, contact, platform };
        prop_assert_eq!(subject.to_string().parse(), Ok(subject));
        prop_assert!(matches(OUTBOUND, &subject.to_string()));
    }

    #[test]
    fn a_companys_filter_takes_its_messages_and_no_others(
        subject in event_subject(),
        other in id(),
    ) {
        let (EventSubject::MessageCreated { company, .. }
            | EventSubject::MessageUpdated { company, .. }
            | EventSubject::MessageDeleted { company, .. }
            | EventSubject::MessageRead { company, .. }
            | EventSubject::MessageDelivery { company, .. }) = subject
        else {
            return Ok(());
        };
        prop_assert!(matches(&live_of_company(company), &live(subject)));
        prop_assert_eq!(matches(&live_of_company(other), &live(subject)), other == company);
    }

    #[test]
    fn no_text_makes_the_parser_panic(text in "[a-z0-9.*>]{0,120}") {
        let _ = (text.parse::<EventSubject>(), text.parse::<Outbound>());
    }

    #[test]
    fn the_relay_takes_the_messages_that_the_domain_calls_forwardable(
        company in id(),
        contact in id(),
        facets in facets(),
    ) {
        let subject = EventSubject::MessageCreated { company, contact, facets }.to_string();
        let relayed = forwardable().iter().any(|filter| matches(filter, &subject));
        let is_forwardable = facets.role == Role::Operator
            && !facets.sent_elsewhere
            && facets.direction == Direction::Outbound
            && facets.platform.is_forwardable();
        prop_assert_eq!(relayed, is_forwardable);
    }

    #[test]
    fn a_companys_dead_letters_match_one_of_its_filters_and_none_of_anothers(
        event in event_subject(),
        is_outbound in any::<bool>(),
        company in id(),
        contact in id(),
        other in id(),
    ) {
        let platform = Platform::Facebook;
        let outbound = Outbound { partition: 1, company, contact, platform }.to_string();
        let original = if is_outbound { outbound } else { event.to_string() };
        let company = SubjectInfo::of(&original).company.unwrap();
        let subject = dead("persister", &original);
        let count = |company: Option<Id>| {
            let filters = dead_letters(None, company);
            filters.iter().filter(|filter| matches(filter, &subject)).count()
        };
        prop_assert_eq!((count(None), count(Some(company))), (1, 1));
        prop_assert_eq!(count(Some(other)), usize::from(other == company));
        let provider = Provider::Facebook;
        let work = job_work("token-refresh", company, provider);
        prop_assert_eq!(from_job_work(&work), Some(("token-refresh", company, provider)));
        let work = dead("scheduler", &work);
        let filters = dead_letters(Some("scheduler"), Some(company));
        prop_assert_eq!(filters.iter().filter(|filter| matches(filter, &work)).count(), 1);
    }
}
