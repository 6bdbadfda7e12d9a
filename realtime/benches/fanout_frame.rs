//! What one event costs on its way to the sockets of a company: reading it, encoding its frame, and
//! delivering the frame to the queues of many sockets. Writes to no connection.

#![expect(
    clippy::expect_used,
    reason = "without its input the benchmark cannot run"
)]

use std::hint::black_box;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use realtime::bench::{EventFrame, FanOut};

const EVENT: &[u8] = include_bytes!("../../nats/golden/message.created.v1.json");

fn new_frame() -> EventFrame {
    EventFrame::new(black_box(EVENT), 1).expect("the golden event becomes a frame")
}

fn frame(c: &mut Criterion) {
    c.bench_function("frame/read", |b| b.iter(new_frame));
    c.bench_function("frame/encode", |b| {
        b.iter_batched(new_frame, |frame| frame.encode(), BatchSize::SmallInput);
    });
}

fn fan_out(c: &mut Criterion) {
    let mut group = c.benchmark_group("fanout");
    for sockets in [10, 100, 1_000] {
        group.throughput(Throughput::Elements(sockets as u64));
        group.bench_with_input(
            BenchmarkId::from_parameter(sockets),
            &sockets,
            |b, sockets| {
                let (mut room, frame) = (FanOut::new(*sockets), new_frame());
                b.iter(|| {
                    let reached = room.deliver(black_box(&frame));
                    (reached, room.take())
                });
            },
        );
    }
    group.finish();
}

criterion_group!(benches, frame, fan_out);
criterion_main!(benches);
