//! The dependencies between the workspace's crates. Circles of files are in `circles`.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::Value;

const SERVICES: [&str; 5] = ["gateway", "persister", "forwarder", "scheduler", "realtime"];

/// Package → its normal (not development) dependencies.
fn dependencies() -> BTreeMap<String, Vec<String>> {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--no-deps",
            "--offline",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: Value = serde_json::from_slice(&output.stdout).unwrap();
    let normal = |p: &Value| {
        p["dependencies"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|d| d["kind"].is_null())
            .map(|d| d["name"].as_str().unwrap().to_owned())
            .collect()
    };
    metadata["packages"]
        .as_array()
        .unwrap()
        .iter()
        .map(|p| (p["name"].as_str().unwrap().to_owned(), normal(p)))
        .collect()
}

#[test]
fn no_service_depends_on_another_and_only_the_persister_on_mongodb() {
    let dependencies = dependencies();
    for service in SERVICES {
        let of_service = &dependencies[service];
        assert!(
            of_service.iter().any(|d| d == "contract"),
            "{service} speaks the contract"
        );
        for other in SERVICES {
            assert!(
                !of_service.iter().any(|d| d == other),
                "{service} depends on {other}"
            );
        }
    }
    for (package, of_package) in &dependencies {
        let uses = ["mongodb", "bson"]
            .iter()
            .any(|d| of_package.iter().any(|o| o == d));
        assert_eq!(uses, package == "persister", "{package}");
    }
}

#[test]
fn the_contract_depends_on_no_async_runtime() {
    let output = Command::new(env!("CARGO"))
        .args([
            "tree",
            "-p",
            "contract",
            "--no-default-features",
            "--edges",
            "normal",
            "--prefix",
            "none",
            "--offline",
        ])
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let tree = String::from_utf8(output.stdout).unwrap();
    for heavy in ["tokio", "axum", "async-nats", "tracing"] {
        assert!(
            !tree.lines().any(|l| l.split(' ').next() == Some(heavy)),
            "{heavy} in\n{tree}"
        );
    }
}
