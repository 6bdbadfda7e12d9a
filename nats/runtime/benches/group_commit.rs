//! What the publisher's writing task does with a group of events besides waiting for the server.
//! Connects to none.

#![expect(
    clippy::expect_used,
    reason = "without its input the benchmark cannot run"
)]

use contract::event::Envelope;
use contract::trace::TraceContext;
use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use runtime::log::bench::Groups;
use runtime::log::ordering_key::OrderingKey;
use runtime::log::publisher::{Outgoing, Queued};

const EVENT: &[u8] = include_bytes!("../../golden/message.created.v1.json");
/// Events that share an ordering key, as those of one conversation in a batch request do.
const EVENTS_OF_A_KEY: usize = 5;

fn events(count: usize, with_keys: bool) -> Vec<Outgoing> {
    let envelope = Envelope::from_json(EVENT).expect("a golden event");
    let mut key = OrderingKey::default();
    (0..count)
        .map(|n| {
            if n.is_multiple_of(EVENTS_OF_A_KEY) {
                key = OrderingKey::default();
            }
            let event = Outgoing::event(&envelope, n.to_string(), TraceContext::generate());
            Outgoing {
                ordering_key: with_keys.then(|| key.clone()),
                ..event.expect("the golden event can be published")
            }
        })
        .collect()
}

/// A queue with these events, and their callers' ends. Dropping those would abandon the events.
fn queued(events: &[Outgoing]) -> (Groups, Vec<Queued>) {
    let groups = Groups::new();
    let queue = |event: &Outgoing| groups.queue(event.clone()).expect("the queue has room");
    let queued = events.iter().map(queue).collect();
    (groups, queued)
}

fn group_commit(c: &mut Criterion) {
    for (name, with_keys) in [("free", false), ("ordered", true)] {
        let mut group = c.benchmark_group(format!("group_commit/{name}"));
        for count in [1, 60, 1_000] {
            let events = events(count, with_keys);
            group.throughput(Throughput::Elements(count as u64));
            group.bench_with_input(BenchmarkId::from_parameter(count), &events, |b, events| {
                b.iter_batched(
                    || queued(events),
                    |(mut groups, queued)| (groups.take(), queued),
                    BatchSize::SmallInput,
                );
            });
        }
        group.finish();
    }
}

criterion_group!(benches, group_commit);
criterion_main!(benches);
