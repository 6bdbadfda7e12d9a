//! Finds the version number in the text that a program prints for `--version`. Runs no program.

use std::fmt;

/// Major, minor, patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32, pub u32);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

impl Version {
    /// The first `1.2` or `1.2.3` in a text such as `nats-server: v2.15.1` or `db version v6.0.5`.
    pub fn find(text: &str) -> Option<Version> {
        text.split(|c: char| !c.is_ascii_digit() && c != '.')
            .find_map(|word| {
                let mut numbers = word.split('.').map(str::parse::<u32>);
                let (major, minor) = (numbers.next()?.ok()?, numbers.next()?.ok()?);
                Some(Version(
                    major,
                    minor,
                    numbers.next().and_then(Result::ok).unwrap_or(0),
                ))
            })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_found_in_the_output_of_a_program() {
        for (text, expected) in [
            ("nats-server: v2.15.1", Some(Version(2, 15, 1))),
            ("nats-server: v2.16.0-RC.2", Some(Version(2, 16, 0))),
            (
                "db version v6.0.5\nBuild Info: {\n \"version\": \"9.9.9\"",
                Some(Version(6, 0, 5)),
            ),
            ("mongod 8.0", Some(Version(8, 0, 0))),
            ("99999999999.1.1", None),
            ("", None),
            ("no version here.", None),
        ] {
            assert_eq!(Version::find(text), expected, "{text}");
        }
        assert!(Version(2, 9, 30) < Version(2, 15, 0));
    }
}
