//! `petbuddy dead-letters`: lists, shows, replays and discards messages that could not be
//! processed, for operators. Only reads options and prints results. The operations are those of
//! `runtime::dead_letters`, which the gateway uses too, for a company's managers.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use contract::dead_letter::{Reason, StreamPosition};
use contract::domain::ShortText;
use contract::{Id, Timestamp};
use runtime::dead_letters::{
    DeadLetter, DeadLetterDetail, DeadLetterError, DeadLetterPage, DeadLetters, Filter,
    MAX_DEAD_LETTERS, Mode, Replayed, Scope, ServiceName, StateFilter,
};
use serde_json::json;

use crate::cli::columns::columns;
use crate::cli::{exit_code, operator};
use crate::failure::Failure;

/// The name that is recorded for a decision of an operator.
const BY: &str = "operator";
/// Dead letters that one run replays, each some 1 KB in memory. The rest needs another run.
const MAX_REPLAYED: usize = 50_000;
/// Characters of an error in a row of the table. The rest is cut off.
const SHOWN_CHARACTERS: usize = 60;

/// Below the options in `petbuddy dead-letters --help`.
pub const HELP: &str = "\
Exit codes:
  0  done; for a replay or a discard also if it was done before
  1  there is no such dead letter, or it was decided otherwise, or no stream takes its message
  2  a wrong option or setting
  6  NATS does not answer; what was done until then is printed
The NATS server is named by NATS_URL, NATS_USER (operator) and NATS_PASSWORD. Without them it is
that of the system in --dir.";

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
    /// List dead letters, the oldest first
    List {
        #[command(flatten)]
        selection: Selection,
        /// open, replayed, discarded or all
        #[arg(long, default_value = "open")]
        state: StateFilter,
        /// At most this many
        #[arg(
            long,
            default_value_t = 50,
            value_parser = clap::value_parser!(u16).range(1..=MAX_DEAD_LETTERS as i64)
        )]
        limit: u16,
        /// Continue after this sequence
        #[arg(long, default_value_t = 0)]
        cursor: u64,
    },
    /// Show one dead letter completely
    Show {
        /// Sequence of the dead letter
        seq: u64,
    },
    /// Replay one dead letter, or with --all every open one that matches, in the order of the log
    Replay {
        /// Sequence of the dead letter
        #[arg(required_unless_present = "all", conflicts_with = "all")]
        seq: Option<u64>,
        /// Replay every open dead letter that matches
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        selection: Selection,
        /// Change nothing; only say which ones would be replayed
        #[arg(long)]
        dry_run: bool,
    },
    /// Decide that one dead letter is not to be replayed
    Discard {
        /// Sequence of the dead letter
        seq: u64,
        /// The reason, in one line
        #[arg(long, value_parser = ShortText::new)]
        reason: ShortText,
    },
}

#[derive(Args, Default, PartialEq)]
struct Selection {
    /// Only of this company
    #[arg(long, value_name = "ID")]
    company: Option<Id>,
    /// Only of this conversation
    #[arg(long, value_name = "ID")]
    contact: Option<Id>,
    /// Only with this reason: malformed, unknown_version, duplicate_key, missing_data,
    /// unknown_platform, refused, expired or failed
    #[arg(long)]
    reason: Option<Reason>,
    /// Only of this service
    #[arg(long)]
    service: Option<ServiceName>,
    /// Only stored at this time (RFC 3339) or later
    #[arg(long, value_name = "TIME")]
    from: Option<Timestamp>,
    /// Only stored before this time
    #[arg(long, value_name = "TIME")]
    to: Option<Timestamp>,
}

impl Selection {
    fn filter(self, state: StateFilter) -> Filter {
        let Selection {
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
    let mut output = String::new();
    let result = run(options, &mut output).await;
    print!("{output}");
    exit_code::of(result)
}

/// Writes the text to print into `output`. After a failure the text says what was done until then.
async fn run(Options { dir, json, command }: Options, output: &mut String) -> Result<(), Failure> {
    let dead_letters = DeadLetters::new(operator::connect(&dir).await?, Timestamp::now);
    let of = |seq: u64| move |e: DeadLetterError| failure(&format!("dead letter {seq}"), &e);
    let failed = |e: DeadLetterError| failure("the dead letters", &e);
    match command {
        Command::List {
            selection,
            state,
            limit,
            cursor,
        } => {
            let page = dead_letters
                .list(Scope::All, &selection.filter(state), cursor, limit.into())
                .await
                .map_err(failed)?;
            *output = match json {
                true => line(
                    &json!({"dead_letters": page.dead_letters, "next_cursor": page.next_cursor}),
                )?,
                false => table(&page),
            };
        }
        Command::Show { seq } => {
            let dead_letter = dead_letters.show(Scope::All, seq).await.map_err(of(seq))?;
            *output = if json {
                line(&dead_letter)?
            } else {
                whole(&dead_letter)?
            };
        }
        // clap cannot check this: `seq` excludes `--all`, and a filter would have to require it.
        Command::Replay {
            seq: Some(_),
            selection,
            ..
        } if selection != Selection::default() => {
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
                true => dead_letters.try_replay(Scope::All, seq).await,
                false => dead_letters.replay(Scope::All, seq, BY).await,
            };
            let dead_letter = replayed.map_err(of(seq))?;
            *output = if json {
                line(&dead_letter)?
            } else {
                resolution(&dead_letter)
            };
        }
        Command::Replay {
            seq: None,
            selection,
            dry_run,
            ..
        } => {
            let filter = selection.filter(StateFilter::Open);
            let mode = match dry_run {
                true => Mode::DryRun,
                false => Mode::Replay { by: BY.to_owned() },
            };
            let (replayed, done) = replay_all(&dead_letters, filter, &mode).await;
            *output = match json {
                true => line(&json!({
                    "dry_run": dry_run,
                    "count": replayed.sequences.len(),
                    "sequences": replayed.sequences,
                    "skipped": replayed.skipped,
                    "more": replayed.next_cursor.is_some(),
                }))?,
                false => summary(&replayed, dry_run),
            };
            done.map_err(failed)?;
        }
        Command::Discard { seq, reason } => {
            let dead_letter = dead_letters
                .discard(Scope::All, seq, BY, reason.as_str())
                .await
                .map_err(of(seq))?;
            *output = if json {
                line(&dead_letter)?
            } else {
                resolution(&dead_letter)
            };
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

/// Reads all pages first and then replays in the order of the log. Otherwise a message that fails
/// again meanwhile, and becomes a new dead letter, would be replayed without end.
async fn replay_all(
    dead_letters: &DeadLetters,
    filter: Filter,
    mode: &Mode,
) -> (Replayed, Result<(), DeadLetterError>) {
    let (mut all, mut next_cursor) = (Vec::new(), Some(0));
    while let Some(at) = next_cursor.filter(|_| all.len() < MAX_REPLAYED) {
        match dead_letters
            .list(Scope::All, &filter, at, MAX_DEAD_LETTERS)
            .await
        {
            Ok(page) => {
                all.extend(page.dead_letters);
                next_cursor = page.next_cursor;
            }
            Err(e) => return (Replayed::default(), Err(e)),
        }
    }
    let (replayed, result) = dead_letters.replay_these(Scope::All, all, mode).await;
    let replayed = Replayed {
        next_cursor,
        ..replayed
    };
    (replayed, result)
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
    rows.extend(page.dead_letters.iter().map(|dead_letter| {
        let error: String = dead_letter
            .error
            .as_deref()
            .unwrap_or("-")
            .chars()
            .take(SHOWN_CHARACTERS)
            .collect();
        let (seq, attempts) = (
            dead_letter.seq.to_string(),
            dead_letter.attempts.to_string(),
        );
        let (service, reason, subject) = (
            dead_letter.service.clone(),
            dead_letter.reason.clone(),
            dead_letter.subject.clone(),
        );
        vec![
            seq,
            dead_letter.state.to_string(),
            dead_letter.stored_at.to_string(),
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

fn whole(detail: &DeadLetterDetail) -> Result<String, Failure> {
    let mut text = String::new();
    let of = &detail.dead_letter;
    let _ = writeln!(
        text,
        "{} on {}\n{}",
        of.service,
        of.subject,
        resolution(of).trim_end()
    );
    if let Some(replay_of) = of.replay_of {
        let _ = writeln!(text, "replayed from dead letter {replay_of}");
    }
    for (name, values) in &detail.headers {
        for value in values {
            let _ = writeln!(text, "{name}: {value}");
        }
    }
    let payload = match (&detail.payload, &detail.payload_base64) {
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

fn resolution(dead_letter: &DeadLetter) -> String {
    let mut text = format!("dead letter {} is {}", dead_letter.seq, dead_letter.state);
    if let Some(resolution) = &dead_letter.resolution {
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
    fn a_table_has_a_row_for_each_dead_letter_and_says_how_to_continue() {
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
