//! A few rounds of the ledger against a server that is killed: `make crash` runs many.

use std::process::Command;

#[test]
fn nothing_acknowledged_is_lost_over_a_few_kills() {
    let output = Command::new(env!("CARGO_BIN_EXE_crash")).args(["--cycles", "4", "--seed", "3"]).output().unwrap();
    let (told, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{told}\n{errors}");
}
