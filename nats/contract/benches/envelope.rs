//! What one event costs in JSON: writing an envelope, reading it, and reading it with the check of
//! its subject. Sends nothing.

#![expect(
    clippy::expect_used,
    reason = "without its input the benchmark cannot run"
)]

use std::hint::black_box;

use contract::event::Envelope;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};

const EVENTS: [(&str, &[u8]); 2] = [
    (
        "message.created",
        include_bytes!("../../golden/message.created.v1.json"),
    ),
    (
        "message.delivery",
        include_bytes!("../../golden/message.delivery.v1.json"),
    ),
];

fn envelope(c: &mut Criterion) {
    for (kind, payload) in EVENTS {
        let payload = payload.trim_ascii();
        let envelope = Envelope::from_json(payload).expect("a golden event");
        let subject = envelope.subject().to_string();
        let mut group = c.benchmark_group(format!("envelope/{kind}"));
        group.throughput(Throughput::Bytes(payload.len() as u64));
        group.bench_function("to_json", |b| b.iter(|| black_box(&envelope).to_json()));
        group.bench_function("from_json", |b| {
            b.iter(|| Envelope::from_json(black_box(payload)));
        });
        group.bench_function("from_message", |b| {
            b.iter(|| Envelope::from_message(black_box(&subject), black_box(payload)));
        });
        group.finish();
    }
}

criterion_group!(benches, envelope);
criterion_main!(benches);
