//! `petbuddy health`: asks a URL once, for containers without curl. Does not wait or repeat.

use std::process::ExitCode;

use crate::stack::ready;

/// Success if the URL answers 2xx.
pub async fn main(url: &str) -> ExitCode {
    let answer = match ready::client() {
        Ok(client) => client.get(url).send().await.map_err(|e| e.to_string()),
        Err(e) => Err(e.to_string()),
    };
    match answer {
        Ok(response) if response.status().is_success() => ExitCode::SUCCESS,
        Ok(response) => {
            eprintln!("{url} answers {}", response.status());
            ExitCode::FAILURE
        }
        Err(e) => {
            eprintln!("{url} does not answer: {e}");
            ExitCode::FAILURE
        }
    }
}
