//! A create is answered only after the log has synced it to disk, as the system calls of the real
//! nats-server show. A killed process alone would not show that: what it has written stays in the
//! page cache. Needs `strace`; without it the test says that it was not tried.

use std::collections::HashMap;
use std::process::{Command, Stdio};

use crate::support::{SOON, System, eventually, kill};

/// Creates that are looked at, one after another.
const CREATES: usize = 20;

/// What a line of the trace says, as far as it matters.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Call {
    /// Bytes came from, or went to, a socket; as strace prints them.
    Read(String),
    Write(String),
    /// A file of the log was synced.
    Synced,
}

/// Reads a trace of `strace -f -y`, in the order in which the calls ended; what is written counts
/// from the beginning of its call.
fn calls(trace: &str) -> Vec<Call> {
    let mut syncing: HashMap<&str, bool> = HashMap::new();
    let mut calls = Vec::new();
    for line in trace.lines() {
        let Some((thread, call)) = line.split_once(' ') else {
            continue;
        };
        let call = call.trim_start();
        let is_of_log = call.contains("/EVENTS/msgs/");
        if call.starts_with("fsync(") || call.starts_with("fdatasync(") {
            match call.contains("<unfinished") {
                true => drop(syncing.insert(thread, is_of_log)),
                false if is_of_log && call.ends_with("= 0") => calls.push(Call::Synced),
                false => {}
            }
        } else if call.contains("sync resumed>") {
            let is_good = call.ends_with("= 0");
            if syncing.remove(thread).unwrap_or(false) && is_good {
                calls.push(Call::Synced);
            }
        } else if call.starts_with("read(") || call.starts_with("<... read resumed>") {
            calls.push(Call::Read(call.to_owned()));
        } else if call.starts_with("write(") || call.starts_with("writev(") {
            calls.push(Call::Write(call.to_owned()));
        }
    }
    calls
}

/// Whether the log is synced between the arrival of a message with this text and its
/// acknowledgement.
fn is_synced_before_the_answer(calls: &[Call], text: &str, seq: u64) -> Result<(), String> {
    let arrival = calls
        .iter()
        .position(|call| matches!(call, Call::Read(bytes) if bytes.contains(text)))
        .ok_or_else(|| format!("{text} never came"))?;
    let ack = format!("\\\"seq\\\":{seq}");
    let is_ack = |call: &Call| matches!(call, Call::Write(bytes) if bytes.contains(&ack) && bytes.contains("EVENTS"));
    let answer = calls[arrival..]
        .iter()
        .position(is_ack)
        .ok_or_else(|| format!("{text} was never acknowledged as {seq}"))?;
    match calls[arrival..arrival + answer].contains(&Call::Synced) {
        true => Ok(()),
        false => Err(format!(
            "{text} was acknowledged as {seq} before the log was synced"
        )),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_create_is_acknowledged_only_after_the_log_was_synced() {
    let has_strace = Command::new("strace")
        .arg("--version")
        .stdout(Stdio::null())
        .status()
        .is_ok_and(|status| status.success());
    if !has_strace {
        eprintln!("strace is not on PATH: that creates are synced was not tried");
        return;
    }
    let system = System::start(&[]).await;
    let staff = system.new_company().await;
    let contact = staff.new_contact().await;
    let file = system.folder.0.join("nats.strace");
    let pid = system.pid("nats-server").unwrap().to_string();
    let mut strace = Command::new("strace")
        .args([
            "-f",
            "-y",
            "-s",
            "65536",
            "-e",
            "trace=read,write,writev,fsync,fdatasync",
        ])
        .args(["-p", &pid, "-o"])
        .arg(&file)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let may_trace = eventually("nats-server is traced, or must not be", SOON, || {
        let is_traced = std::fs::metadata(&file).is_ok_and(|file| file.len() > 0);
        let has_ended = strace.try_wait().unwrap().is_some();
        async move { (is_traced || has_ended).then_some(is_traced) }
    })
    .await;
    if !may_trace {
        eprintln!("strace may not trace here: that creates are synced was not tried");
        return;
    }
    let mut created = Vec::new();
    for n in 0..CREATES {
        let text = format!("durable-{n}-of-the-trace");
        let accepted = staff.customer_message(&contact, &text).await;
        created.push((text, accepted["seq"].as_u64().unwrap()));
    }
    kill("-INT", u64::from(strace.id()));
    strace.wait().unwrap();
    let calls = calls(&std::fs::read_to_string(&file).unwrap());
    for (text, seq) in created {
        is_synced_before_the_answer(&calls, &text, seq).unwrap();
    }
}

#[test]
fn a_trace_in_which_the_answer_comes_first_is_objected_to() {
    let arrival = r#"7 read(9<socket:[1]>, "HPUB ... hello", 99) = 40"#;
    let sync = "8 fsync(5</x/EVENTS/msgs/1.blk> <unfinished ...>\n8 <... fsync resumed>) = 0";
    let answer = r#"7 write(9<socket:[1]>, "{\"stream\":\"EVENTS\", \"seq\":4}", 30) = 30"#;
    let judge =
        |lines: [&str; 3]| is_synced_before_the_answer(&calls(&lines.join("\n")), "hello", 4);
    assert_eq!(judge([arrival, sync, answer]), Ok(()));
    assert!(judge([arrival, answer, sync]).is_err());
    assert!(judge([sync, arrival, answer]).is_err());
    let other = sync.replace("EVENTS", "OUTBOUND");
    assert!(judge([arrival, &other, answer]).is_err());
}
