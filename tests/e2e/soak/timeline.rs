//! What a soak looked like over time: a picture of the creates a second and of the faults, and a
//! table of what each kind of fault cost. Pure.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use super::clients::Mark;

/// Width of a second, and height of the picture, in pixels.
const SECOND: usize = 12;
const HEIGHT: usize = 240;
/// Room for the faults' names below the bars, in pixels.
const NAMES: usize = 220;

/// What the faults of one kind cost.
#[derive(Debug, Default, PartialEq)]
struct Cost {
    runs: usize,
    refused: usize,
    /// The longest time without an accepted create, of all runs.
    longest: Duration,
}

/// A table in Markdown with a row for each kind of fault. What happens up to the next fault counts as
/// its cost. A refused create is one answer or broken connection; its client tries again.
pub fn table(marks: &[(Duration, Mark)]) -> String {
    let mut costs: BTreeMap<&str, Cost> = BTreeMap::new();
    let mut kind = None;
    let mut last = Duration::ZERO;
    for (at, mark) in marks {
        if let Mark::Fault(name) = mark {
            let of = name.split(' ').next().unwrap_or(name);
            costs.entry(of).or_default().runs += 1;
            (kind, last) = (Some(of), *at);
            continue;
        }
        let Some(cost) = kind.and_then(|kind| costs.get_mut(kind)) else {
            continue;
        };
        match mark {
            Mark::Accepted => {
                cost.longest = cost.longest.max(at.saturating_sub(last));
                last = *at;
            }
            _ => cost.refused += 1,
        }
    }
    let mut table = "| fault | runs | refused creates | longest without a create |\n".to_owned();
    table.push_str("|---|---|---|---|\n");
    for (kind, cost) in costs {
        let (runs, refused) = (cost.runs, cost.refused);
        let longest = cost.longest.as_secs_f64();
        let _ = writeln!(table, "| {kind} | {runs} | {refused} | {longest:.1} s |");
    }
    table
}

/// The picture.
pub fn svg(marks: &[(Duration, Mark)]) -> String {
    let seconds = marks.last().map_or(1, |(at, _)| at.as_secs() as usize + 1);
    let (mut accepted, mut refused) = (vec![0; seconds], vec![0; seconds]);
    for (at, mark) in marks {
        let second = (at.as_secs() as usize).min(seconds - 1);
        match mark {
            Mark::Accepted => accepted[second] += 1,
            Mark::Refused => refused[second] += 1,
            Mark::Fault(_) => {}
        }
    }
    let most = accepted
        .iter()
        .chain(&refused)
        .max()
        .copied()
        .unwrap_or(0)
        .max(1);
    let (width, height) = (seconds * SECOND, HEIGHT + NAMES);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{width}\" height=\"{height}\" \
         font-family=\"sans-serif\" font-size=\"10\">\n"
    );
    let mut bar = |second: usize, count: usize, fill: &str| {
        let tall = count * HEIGHT / most;
        let (x, y) = (second * SECOND, HEIGHT - tall);
        let _ = writeln!(
            svg,
            "<rect x=\"{x}\" y=\"{y}\" width=\"{}\" height=\"{tall}\" fill=\"{fill}\"/>",
            SECOND - 2
        );
    };
    for second in 0..seconds {
        bar(second, accepted[second], "#4a90d9");
        bar(second, refused[second], "#d0021b");
    }
    for (at, mark) in marks {
        if let Mark::Fault(name) = mark {
            let x = at.as_millis() as usize * SECOND / 1_000;
            let _ = writeln!(
                svg,
                "<path d=\"M{x} 0V{HEIGHT}\" stroke=\"#333\"/><text transform=\"translate({x} {}) \
                 rotate(60)\">{name}</text>",
                HEIGHT + 12
            );
        }
    }
    let _ = writeln!(
        svg,
        "<text x=\"4\" y=\"12\">up to {most} creates a second</text>\n</svg>"
    );
    svg
}

#[test]
fn the_table_has_the_cost_of_each_kind_of_fault() {
    let at = |ms, mark| (Duration::from_millis(ms), mark);
    let fault = |name: &str| Mark::Fault(name.to_owned());
    let marks = [
        at(0, Mark::Accepted),
        at(1_000, fault("KillServer 1")),
        at(1_100, Mark::Refused),
        at(4_000, Mark::Accepted),
        at(5_000, fault("StepDown 0")),
        at(5_200, Mark::Accepted),
        at(6_000, fault("KillServer 2")),
        at(6_500, Mark::Accepted),
    ];
    let table = table(&marks);
    assert!(table.contains("| KillServer | 2 | 1 | 3.0 s |"), "{table}");
    assert!(table.contains("| StepDown | 1 | 0 | 0.2 s |"), "{table}");
}

#[test]
fn a_picture_has_a_bar_for_each_kind_and_a_line_for_each_fault() {
    let marks = [
        (Duration::from_millis(200), Mark::Accepted),
        (Duration::from_millis(1_200), Mark::Refused),
        (
            Duration::from_millis(1_500),
            Mark::Fault("KillServer 1".into()),
        ),
    ];
    let svg = svg(&marks);
    assert!(svg.contains("#4a90d9") && svg.contains("#d0021b") && svg.contains("KillServer 1"));
}
