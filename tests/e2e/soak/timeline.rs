//! Draws a soak: creates a second that were accepted and refused, and the faults. Pure.

use std::fmt::Write;
use std::time::Duration;

use super::clients::Mark;

/// Width of a second, and height of the picture, in pixels.
const SECOND: usize = 12;
const HEIGHT: usize = 240;
/// Room for the faults' names below the bars, in pixels.
const NAMES: usize = 220;

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
