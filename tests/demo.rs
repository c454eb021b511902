//! `make demo`: two agencies' servers, two people, an encrypted room between them, and `kill -9` in between. Exits with 1 if
//! anything was missing.

use std::process::ExitCode;

use chappe_tests::conversation::{Narrator, play};

#[tokio::main]
async fn main() -> ExitCode {
    let directory = match tempfile::tempdir() {
        Ok(directory) => directory,
        Err(error) => {
            eprintln!("no temporary directory: {error}");
            return ExitCode::FAILURE;
        }
    };
    match play(directory.path().to_owned(), &Narrator::aloud()).await {
        Ok(outcome) => {
            println!(
                "\n{} messages crossed, every one decrypted on both sides, exactly once, through {} kills. Nothing was lost.",
                outcome.messages, outcome.kills
            );
            ExitCode::SUCCESS
        }
        Err(failure) => {
            eprintln!("\nThe demonstration failed: {failure}");
            ExitCode::FAILURE
        }
    }
}
