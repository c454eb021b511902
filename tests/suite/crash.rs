//! A few rounds of the ledger against a server that comes to harm: `make crash` runs many.

use std::process::Command;

fn check(variant: &str, cycles: &str) {
    let mut crash = Command::new(env!("CARGO_BIN_EXE_crash"));
    let output = crash.args(["--cycles", cycles, "--seed", "3", "--variant", variant]).output().unwrap();
    let (told, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{told}\n{errors}");
}

#[test]
fn nothing_acknowledged_is_lost_over_a_few_kills() {
    check("kill", "4");
}

#[test]
fn failed_flushes_stop_writes_and_lose_nothing() {
    check("failed-flush", "2");
}

#[test]
fn rubbish_behind_the_end_of_the_log_and_damaged_table_files_are_noticed() {
    check("torn-tail", "2");
    check("flipped-bytes", "1");
}
