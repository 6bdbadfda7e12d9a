//! `petbuddy settings`: prints every setting of the services and of `petbuddy setup`, as the table
//! of docs/operations.md or as lines for a `.env` file. Keeps no list: the settings are those that
//! the services read, with the meanings that stand beside the reading.

use std::collections::BTreeSet;
use std::process::ExitCode;

use clap::Args;
use runtime::service::settings::{Common, Settings, Spec, Unset};

use crate::stack::services::Service;
use crate::stack::setup;

/// Settings to which docker-compose.yml gives a value of its own. In `.env.example` they are listed
/// last, for a service that is started by hand.
const SET_BY_COMPOSE: [&str; 13] = [
    "NODE_ENV",
    "LOG_DIR",
    "HOST",
    "NATS_URL",
    "NATS_PASSWORD",
    "NATS_USER",
    "PORT",
    "PERSISTER_PORT",
    "MONGODB_URI",
    "FORWARDER_PORT",
    "SCHEDULER_PORT",
    "REALTIME_PORT",
    "NATS_REPLICAS",
];
/// Longest line of a comment, in characters.
const LINE: usize = 100;

#[derive(Args)]
pub struct Options {
    /// As lines for a .env file instead of a Markdown table
    #[arg(long)]
    env: bool,
}

/// The whole subcommand.
pub fn main(options: &Options) -> ExitCode {
    let settings = all();
    match options.env {
        true => print!("{}", env(&settings, &BTreeSet::new())),
        false => print!("{}", markdown(&settings)),
    }
    ExitCode::SUCCESS
}

/// A setting, and the programs that read it.
struct Listed {
    spec: Spec,
    of: Vec<&'static str>,
}

/// Every setting once, in the order of the programs and of their reading.
fn all() -> Vec<Listed> {
    let mut all: Vec<Listed> = Vec::new();
    for (program, specs) in programs() {
        for spec in specs {
            match all.iter_mut().find(|listed| listed.spec.name == spec.name) {
                Some(listed) => listed.of.push(program),
                None => all.push(Listed {
                    spec,
                    of: vec![program],
                }),
            }
        }
    }
    all
}

fn programs() -> Vec<(&'static str, Vec<Spec>)> {
    let mut of_setup = Settings::of([]);
    Common::read(&mut of_setup, "operator");
    setup::sizes(&mut of_setup);
    let services = Service::ALL.map(|service| (service.name(), service.settings()));
    services
        .into_iter()
        .chain([("petbuddy setup", of_setup.specs().to_vec())])
        .collect()
}

impl Listed {
    fn is_of_all(&self) -> bool {
        self.of.len() > Service::ALL.len()
    }

    fn readers(&self) -> String {
        match self.is_of_all() {
            true => "all".into(),
            false => self.of.join(", "),
        }
    }
}

/// The table of docs/operations.md.
fn markdown(settings: &[Listed]) -> String {
    let mut text =
        String::from("| name | default | accepts | of | meaning |\n|---|---|---|---|---|\n");
    for listed in settings {
        let Spec {
            name,
            meaning,
            accepts,
            unset,
            ..
        } = &listed.spec;
        let default = match unset {
            Unset::Required => "required".to_owned(),
            Unset::RequiredInProduction => "required in production".to_owned(),
            Unset::Nothing => "–".to_owned(),
            Unset::Value(value) => format!("`{value}`"),
            Unset::Described(words) => (*words).to_owned(),
        };
        let of = listed.readers();
        text += &format!("| `{name}` | {default} | {accepts} | {of} | {meaning} |\n");
    }
    text
}

/// Lines for a `.env` file, without the settings that are `told` elsewhere. `NAME=` must be filled
/// in; `#NAME=value` shows the default or an example.
fn env(settings: &[Listed], told: &BTreeSet<&str>) -> String {
    let mut text = String::new();
    let mut heading = "";
    let (by_compose, of_user): (Vec<_>, Vec<_>) = settings
        .iter()
        .filter(|listed| !told.contains(listed.spec.name))
        .partition(|listed| SET_BY_COMPOSE.contains(&listed.spec.name));
    for listed in of_user {
        let now = match listed.is_of_all() {
            true => "every service",
            false => listed.of.first().copied().unwrap_or_default(),
        };
        if now != heading {
            heading = now;
            text += &format!("\n# --- {heading} ---\n");
        }
        text += &env_lines(listed);
    }
    text += "\n# --- Set by docker-compose.yml; for a service that is started by hand ---\n";
    text.extend(by_compose.into_iter().map(env_lines));
    text
}

fn env_lines(listed: &Listed) -> String {
    let spec = &listed.spec;
    let mut comment = spec.meaning.to_owned();
    if !spec.accepts.is_empty() {
        comment += &format!(" Accepts {}.", spec.accepts);
    }
    match &spec.unset {
        Unset::Required => comment += " Required.",
        Unset::RequiredInProduction => comment += " Required in production.",
        Unset::Nothing => {}
        Unset::Value(value) => comment += &format!(" Default {value}."),
        Unset::Described(words) => comment += &format!(" Default: {words}."),
    }
    if listed.of.len() > 1 && !listed.is_of_all() {
        comment += &format!(" Of {}.", listed.readers());
    }
    let value = match &spec.unset {
        Unset::Value(value) => value,
        _ => spec.example.unwrap_or_default(),
    };
    let is_demanded = matches!(spec.unset, Unset::Required | Unset::RequiredInProduction)
        && !SET_BY_COMPOSE.contains(&spec.name);
    let off = if is_demanded { "" } else { "#" };
    format!("{}{off}{}={value}\n", wrapped(&comment), spec.name)
}

/// A comment in lines of at most [`LINE`] characters.
fn wrapped(text: &str) -> String {
    let mut lines = String::new();
    let mut line = String::from("#");
    for word in text.split_whitespace() {
        if line.chars().count() + 1 + word.chars().count() > LINE {
            lines += &line;
            lines.push('\n');
            line = String::from("#");
        }
        line.push(' ');
        line += word;
    }
    lines + &line + "\n"
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use super::*;

    /// The line of `.env.example` below which the settings of the services begin.
    const MARKER: &str =
        "# ===== Settings of the services: written by a test, see CONTRIBUTING.md =====\n";

    /// Compares a file with its generated part in place, and writes it with `UPDATE_GOLDEN=1`.
    fn agrees(name: &str, make: impl FnOnce(&str) -> String) {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
        let written = fs::read_to_string(&file).unwrap();
        let wanted = make(&written);
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(&file, &wanted).unwrap();
        } else {
            assert!(
                written == wanted,
                "{name} does not list the settings as the services read them; \
                 if that is on purpose, run with UPDATE_GOLDEN=1"
            );
        }
    }

    #[test]
    fn the_operations_document_lists_the_settings() {
        agrees("docs/operations.md", |written| {
            let (before, rest) = written.split_once("<!-- settings:begin -->\n").unwrap();
            let (_, after) = rest.split_once("<!-- settings:end -->").unwrap();
            let table = markdown(&all());
            format!("{before}<!-- settings:begin -->\n{table}<!-- settings:end -->{after}")
        });
    }

    #[test]
    fn the_example_of_an_env_file_lists_the_settings() {
        agrees(".env.example", |written| {
            let (by_hand, _) = written.split_once(MARKER).unwrap();
            let told = by_hand
                .lines()
                .filter_map(|line| Some(line.trim_start_matches('#').split_once('=')?.0))
                .collect();
            format!("{by_hand}{MARKER}{}", env(&all(), &told))
        });
    }

    #[test]
    fn a_setting_of_several_programs_means_the_same_in_each_and_says_what() {
        let all = all();
        for (program, specs) in programs() {
            for spec in specs {
                let first = &all.iter().find(|l| l.spec.name == spec.name).unwrap().spec;
                assert_eq!(&spec, first, "{program}");
                assert!(spec.meaning.ends_with('.'), "{}", spec.name);
            }
        }
    }

    #[test]
    fn the_compose_file_sets_what_this_list_says() {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("docker-compose.yml");
        let compose = fs::read_to_string(file).unwrap();
        for listed in all() {
            let name = listed.spec.name;
            let is_set = compose.lines().any(|line| {
                let value = line.trim().strip_prefix(name);
                let value = value.and_then(|rest| rest.strip_prefix(": "));
                value.is_some_and(|value| !value.starts_with(&format!("${{{name}")))
            });
            assert_eq!(is_set, SET_BY_COMPOSE.contains(&name), "{name}");
        }
    }
}
