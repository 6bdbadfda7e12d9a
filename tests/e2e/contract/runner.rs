//! The runner of `cargo run`: clean stops, kills, second starts and taken ports. The services
//! themselves are tested in the other groups.

use std::net::TcpListener;
use std::time::Duration;

use reqwest::StatusCode;

use crate::support::{SOON, System, eventually, runner};

fn alive(pid: u64) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_runner_stops_all_processes_and_keeps_data_over_stops_and_kill_9() {
    let system = System::start(&[]).await;
    let staff = system.new_company().await;
    let contact = staff.new_contact().await;
    let id = staff.customer_message(&contact, "kept").await.id;
    let token = staff.token.clone();
    let pids: Vec<u64> = system.run["pids"]
        .as_object()
        .unwrap()
        .values()
        .map(|p| p.as_u64().unwrap())
        .collect();
    assert!(pids.len() >= 9, "{:?}", system.run["pids"]);
    let (code, folder) = system.stop().await;
    assert_eq!(code, Some(0));
    assert!(
        !pids.iter().any(|p| alive(*p)),
        "something was left running"
    );
    assert!(!folder.0.join("run.json").exists());

    let system = System::start_with(folder, &[], &[]).await;
    let (status, found) = system
        .request(
            reqwest::Method::GET,
            &format!("/messages/{id}"),
            Some(&token),
            None,
        )
        .await;
    assert_eq!(
        (status, found["messageData"]["content"].as_str()),
        (StatusCode::OK, Some("kept"))
    );
    let left: Vec<u64> = ["nats-server", "mongod"]
        .iter()
        .map(|n| system.pid(n).unwrap())
        .collect();
    let folder = system.kill_runner().await;

    let system = System::start_with(folder, &[], &[]).await;
    eventually(
        "what the killed runner left behind is ended",
        SOON,
        || async { (!left.iter().any(|p| alive(*p))).then_some(()) },
    )
    .await;
    let (status, _) = system
        .request(
            reqwest::Method::GET,
            &format!("/messages/{id}"),
            Some(&token),
            None,
        )
        .await;
    assert_eq!(status, StatusCode::OK);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_taken_port_gives_a_clear_error_and_exit_code() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let folder = crate::support::Folder::new();
    let output = crate::support::petbuddy()
        .args(["up", "--dir"])
        .arg(&folder.0)
        .env("PORT", &port)
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains(&port) && said.contains("PORT"), "{said}");
    assert!(
        !said.contains("panicked") && !said.contains("backtrace"),
        "{said}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_run_in_the_same_folder_is_refused() {
    let system = System::shared().await;
    let mut second = runner(&system.folder.0, &[], &[]);
    let status = eventually("the second run ends", Duration::from_secs(20), || {
        let status = second.try_wait().unwrap();
        async move { status }
    })
    .await;
    assert_eq!(status.code(), Some(2), "{}", system.console());
}
