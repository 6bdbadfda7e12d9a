//! `petbuddy dead-letters`: what could not be processed, for operators: list, show, replay,
//! discard. What is done with a letter is done by `runtime::dead_letters`, as the gateway
//! does it for a company's managers.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use contract::dead_letter::{Reason, StreamPosition};
use contract::domain::ShortText;
use contract::{Id, Timestamp};
use runtime::dead_letters::{
    DeadLetter, DeadLetterDetail, DeadLetterError, DeadLetterPage, DeadLetters, Filter,
    MAX_DEAD_LETTERS, Replayed, Scope, ServiceName, StateFilter,
};
use serde_json::json;

use crate::cli::columns::columns;
use crate::cli::exit_code::Failure;
use crate::cli::operator;

/// Who decides, for the record.
const BY: &str = "operator";
/// Letters that one run replays, each some 1 KB in memory.
const MAX_REPLAYED: usize = 50_000;
/// Characters of an error that a row of the table shows.
const SHOWN_CHARACTERS: usize = 60;

/// Below the options in `petbuddy dead-letters --help`.
pub const HELP: &str = "\
Exit codes:
  0  done; for a replay or a discard also if it was done before
  1  there is no such letter, or something else has become of it, or no stream takes its message
  2  a wrong option or setting
  6  NATS does not answer; what was done until then is printed
NATS_URL, NATS_USER (operator) and NATS_PASSWORD say where; without them the system that runs in --dir is meant.";

/// Options of `petbuddy dead-letters`.
#[derive(Args)]
pub struct Options {
    /// State folder of the running system, for its address and login
    #[arg(long, global = true, default_value = ".petbuddy")]
    dir: PathBuf,
    /// Print JSON
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// List them, oldest first
    List {
        #[command(flatten)]
        which: Which,
        /// open, replayed, discarded or all
        #[arg(long, default_value = "open")]
        state: StateFilter,
        /// Rows
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=MAX_DEAD_LETTERS as i64))]
        limit: u16,
        /// Go on after this sequence
        #[arg(long, default_value_t = 0)]
        cursor: u64,
    },
    /// Show one, whole
    Show {
        /// Its sequence
        seq: u64,
    },
    /// Replay one, or with --all every open one that matches, in the order of the log
    Replay {
        /// Its sequence
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        seq: Option<u64>,
        /// Every open one that matches
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        which: Which,
        /// Only say which, or whether it could be
        #[arg(long)]
        dry_run: bool,
    },
    /// Decide that one is not to be replayed
    Discard {
        /// Its sequence
        seq: u64,
        /// Why, in a line
        #[arg(long, value_parser = ShortText::new)]
        reason: ShortText,
    },
}

#[derive(Args, Default, PartialEq)]
struct Which {
    /// Of one company
    #[arg(long, value_name = "ID")]
    company: Option<Id>,
    /// Of one conversation
    #[arg(long, value_name = "ID")]
    contact: Option<Id>,
    /// malformed, unknown_version, duplicate_key, missing_data, unknown_platform, refused, expired
    /// or failed
    #[arg(long)]
    reason: Option<Reason>,
    /// Given up by this service
    #[arg(long)]
    service: Option<ServiceName>,
    /// Stored at this time (RFC 3339) or after it
    #[arg(long, value_name = "TIME")]
    from: Option<Timestamp>,
    /// Stored before this time
    #[arg(long, value_name = "TIME")]
    to: Option<Timestamp>,
}

impl Which {
    fn filter(self, state: StateFilter) -> Filter {
        let Which {
            company,
            contact,
            reason,
            service,
            from,
            to,
        } = self;
        Filter {
            state,
            reason,
            service,
            company,
            contact,
            from,
            to,
        }
    }
}

/// The whole subcommand.
pub async fn main(options: Options) -> ExitCode {
    let mut said = String::new();
    let done = run(options, &mut said).await;
    print!("{said}");
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("{failure}");
            failure.code()
        }
    }
}

/// What it has to say is in `said`, also where it ends early: then, what was done until then.
async fn run(Options { dir, json, command }: Options, said: &mut String) -> Result<(), Failure> {
    let letters = DeadLetters::new(operator::connect(&dir).await?);
    let of = |seq: u64| move |e: DeadLetterError| failure(&format!("dead letter {seq}"), &e);
    let failed = |e: DeadLetterError| failure("the dead letters", &e);
    match command {
        Command::List {
            which,
            state,
            limit,
            cursor,
        } => {
            let page = letters
                .list(Scope::All, &which.filter(state), cursor, limit.into())
                .await
                .map_err(failed)?;
            *said = match json {
                true => line(
                    &json!({"dead_letters": page.dead_letters, "next_cursor": page.next_cursor}),
                )?,
                false => table(&page),
            };
        }
        Command::Show { seq } => {
            let letter = letters.show(Scope::All, seq).await.map_err(of(seq))?;
            *said = if json {
                line(&letter)?
            } else {
                whole(&letter)?
            };
        }
        // clap does not look: what one option needs, another has excluded.
        Command::Replay {
            seq: Some(_),
            which,
            ..
        } if which != Which::default() => {
            return Err(Failure::Settings(
                "a filter goes with --all, not with the sequence of one".into(),
            ));
        }
        Command::Replay {
            seq: Some(seq),
            dry_run,
            ..
        } => {
            let replayed = match dry_run {
                true => letters.try_replay(Scope::All, seq).await,
                false => letters.replay(Scope::All, seq, BY, Timestamp::now).await,
            };
            let letter = replayed.map_err(of(seq))?;
            *said = if json { line(&letter)? } else { fate(&letter) };
        }
        Command::Replay {
            seq: None,
            which,
            dry_run,
            ..
        } => {
            let mut replayed = Replayed::default();
            let done = replay_all(
                &letters,
                which.filter(StateFilter::Open),
                dry_run,
                &mut replayed,
            )
            .await;
            *said = match json {
                true => line(
                    &json!({"dry_run": dry_run, "count": replayed.sequences.len(), "sequences": replayed.sequences,
                    "skipped": replayed.skipped, "more": replayed.next_cursor.is_some()}),
                )?,
                false => summary(&replayed, dry_run),
            };
            done.map_err(failed)?;
        }
        Command::Discard { seq, reason } => {
            let letter = letters
                .discard(Scope::All, seq, BY, reason.as_str(), Timestamp::now())
                .await
                .map_err(of(seq))?;
            *said = if json { line(&letter)? } else { fate(&letter) };
        }
    }
    Ok(())
}

fn failure(of: &str, error: &DeadLetterError) -> Failure {
    let text = format!("{of}: {error}");
    if matches!(error, DeadLetterError::Unavailable(_)) {
        Failure::NoAnswer(text)
    } else {
        Failure::Other(text)
    }
}

/// All pages of those that are there now, and only then, in the log's order, the replay: a message
/// that fails again meanwhile has a new letter, and going on to those would have no end.
async fn replay_all(
    letters: &DeadLetters,
    filter: Filter,
    dry_run: bool,
    replayed: &mut Replayed,
) -> Result<(), DeadLetterError> {
    let (mut all, mut cursor) = (Vec::new(), Some(0));
    while let Some(at) = cursor.filter(|_| all.len() < MAX_REPLAYED) {
        let page = letters
            .list(Scope::All, &filter, at, MAX_DEAD_LETTERS)
            .await?;
        all.extend(page.dead_letters);
        cursor = page.next_cursor;
    }
    replayed.next_cursor = cursor;
    letters
        .replay_these(
            Scope::All,
            all,
            (!dry_run).then_some(BY),
            Timestamp::now,
            replayed,
        )
        .await
}

fn line(value: &impl serde::Serialize) -> Result<String, Failure> {
    serde_json::to_string(value)
        .map(|text| text + "\n")
        .map_err(|e| Failure::Other(e.to_string()))
}

fn table(page: &DeadLetterPage) -> String {
    const HEAD: [&str; 8] = [
        "SEQ", "STATE", "STORED", "SERVICE", "REASON", "TRIES", "SUBJECT", "ERROR",
    ];
    let mut rows = vec![HEAD.map(str::to_owned).to_vec()];
    rows.extend(page.dead_letters.iter().map(|letter| {
        let error: String = letter
            .error
            .as_deref()
            .unwrap_or("-")
            .chars()
            .take(SHOWN_CHARACTERS)
            .collect();
        let (seq, attempts) = (letter.seq.to_string(), letter.attempts.to_string());
        let (service, reason, subject) = (
            letter.service.clone(),
            letter.reason.clone(),
            letter.subject.clone(),
        );
        vec![
            seq,
            letter.state.to_string(),
            letter.stored_at.to_string(),
            service,
            reason,
            attempts,
            subject,
            error,
        ]
    }));
    let mut text = columns(&rows);
    if let Some(cursor) = page.next_cursor {
        let _ = writeln!(text, "There are more: --cursor {cursor}");
    }
    text
}

fn whole(letter: &DeadLetterDetail) -> Result<String, Failure> {
    let mut text = String::new();
    let of = &letter.dead_letter;
    let _ = writeln!(
        text,
        "{} on {}\n{}",
        of.service,
        of.subject,
        fate(of).trim_end()
    );
    if let Some(replay_of) = of.replay_of {
        let _ = writeln!(text, "replayed from dead letter {replay_of}");
    }
    for (name, values) in &letter.headers {
        for value in values {
            let _ = writeln!(text, "{name}: {value}");
        }
    }
    let payload = match (&letter.payload, &letter.payload_base64) {
        (Some(json), _) => {
            serde_json::to_string_pretty(json).map_err(|e| Failure::Other(e.to_string()))?
        }
        (None, base64) => format!(
            "not JSON, in Base64: {}",
            base64.as_deref().unwrap_or_default()
        ),
    };
    let _ = writeln!(text, "\n{payload}");
    Ok(text)
}

fn fate(letter: &DeadLetter) -> String {
    let mut text = format!("dead letter {} is {}", letter.seq, letter.state);
    if let Some(resolution) = &letter.resolution {
        if let Some(StreamPosition { stream, seq }) = &resolution.replayed_to {
            let _ = write!(text, " to {stream} {seq}");
        }
        let _ = write!(text, " by {} at {}", resolution.by, resolution.at);
        if let Some(reason) = &resolution.reason {
            let _ = write!(text, ": {reason}");
        }
    }
    text + "\n"
}

fn summary(replayed: &Replayed, dry_run: bool) -> String {
    let done = if dry_run {
        "would be replayed"
    } else {
        "replayed"
    };
    let mut text = format!("{} dead letters {done}", replayed.sequences.len());
    if !replayed.sequences.is_empty() {
        let sequences: Vec<String> = replayed.sequences.iter().map(u64::to_string).collect();
        let _ = write!(text, ": {}", sequences.join(" "));
    }
    text += "\n";
    for skipped in &replayed.skipped {
        let _ = writeln!(text, "{} is not: {}", skipped.seq, skipped.why);
    }
    if replayed.next_cursor.is_some() {
        text += "There are more than one run takes: run it again\n";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_has_a_row_a_letter_and_says_how_to_go_on() {
        assert_eq!(
            table(&DeadLetterPage::default()),
            "SEQ  STATE  STORED  SERVICE  REASON  TRIES  SUBJECT  ERROR\n"
        );
        let page = DeadLetterPage {
            next_cursor: Some(12),
            ..DeadLetterPage::default()
        };
        assert!(table(&page).ends_with("There are more: --cursor 12\n"));
    }
}
