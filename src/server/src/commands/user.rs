//! `chappe user`, `chappe reports` and `chappe explain-delivery`: asks the running server, or does it itself when none runs on the data
//! directory.

use std::{
    io::{self, Read},
    path::Path,
};

use rand::{TryRng, rngs::SysRng};
use tokio_util::sync::CancellationToken;

use super::{CommandResult, print};
use crate::{
    cli::{PasswordSource, ReportsCommand, UserCommand},
    config::Config,
    control::{self, Answer},
    telemetry, tls,
    user_admin::UserRequest,
    wiring,
};

/// Letters and digits that are not mistaken for each other, for passwords that are read out and typed.
const PASSWORD_ALPHABET: &[u8; 32] = b"abcdefghijkmnpqrstuvwxyz23456789";

/// 20 characters of 5 bits each.
const PASSWORD_LENGTH: usize = 20;

pub fn run(config: &Config, command: UserCommand) -> CommandResult {
    let (request, made_up) = request(command)?;
    let mut lines = block_on(config, request)?;
    if let Some(password) = made_up {
        lines.push(format!("password: {password}"));
    }
    print(&lines.iter().map(|line| format!("{line}\n")).collect::<String>())
}

pub fn run_reports(config: &Config, command: &ReportsCommand) -> CommandResult {
    let request = match command {
        ReportsCommand::List => UserRequest::ListReports,
    };
    let lines = block_on(config, request)?;
    print(&lines.iter().map(|line| format!("{line}\n")).collect::<String>())
}

/// `chappe explain-delivery`.
pub fn explain_delivery(config: &Config, event: String, user: Option<String>, device: String) -> CommandResult {
    let lines = block_on(config, UserRequest::ExplainDelivery { event, user, device })?;
    print(&lines.iter().map(|line| format!("{line}\n")).collect::<String>())
}

fn block_on(config: &Config, request: UserRequest) -> Result<Vec<String>, Box<dyn std::error::Error>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(perform(config, request))
}

/// The request, and the password in it when it was made up here and the operator must learn it.
fn request(command: UserCommand) -> io::Result<(UserRequest, Option<String>)> {
    Ok(match command {
        UserCommand::Create { name, password, admin } => {
            let (password, made_up) = read_password(&password)?;
            (UserRequest::Create { name, password, admin }, made_up)
        }
        UserCommand::ResetPassword { name, password } => {
            let (password, made_up) = read_password(&password)?;
            (UserRequest::ResetPassword { name, password }, made_up)
        }
        UserCommand::List => (UserRequest::List, None),
        UserCommand::Deactivate { name } => (UserRequest::Deactivate { name }, None),
        UserCommand::SetAdmin { name, no } => (UserRequest::SetAdmin { name, is_admin: !no }, None),
    })
}

async fn perform(config: &Config, request: UserRequest) -> Result<Vec<String>, Box<dyn std::error::Error>> {
    let answer = match control::ask(&config.data_dir, &request).await? {
        Some(answer) => answer,
        None => {
            telemetry::start_for_command();
            tls::install_provider();
            let stop = CancellationToken::new();
            let server = wiring::build(config, stop.clone()).await?;
            let performed = server.user_admin().perform(request).await;
            stop.cancel();
            server.close().await?;
            return Ok(performed?);
        }
    };
    match answer {
        Answer::Done(lines) => Ok(lines),
        Answer::Refused(why) => Err(why.into()),
    }
}

fn read_password(source: &PasswordSource) -> io::Result<(String, Option<String>)> {
    let Some(path) = &source.password_file else {
        let password = random_password()?;
        return Ok((password.clone(), Some(password)));
    };
    let mut text = String::new();
    if path == Path::new("-") {
        io::stdin().read_to_string(&mut text)?;
    } else {
        text = std::fs::read_to_string(path)
            .map_err(|error| io::Error::new(error.kind(), format!("--password-file {}: {error}", path.display())))?;
    }
    match text.lines().next() {
        Some(password) if !password.is_empty() => Ok((password.to_owned(), None)),
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "--password-file: its first line is empty")),
    }
}

fn random_password() -> io::Result<String> {
    let mut bytes = [0; PASSWORD_LENGTH];
    SysRng.try_fill_bytes(&mut bytes).map_err(io::Error::other)?;
    // 32 divides 256: every character is as likely as any other.
    Ok(bytes.iter().filter_map(|byte| PASSWORD_ALPHABET.get(usize::from(byte % 32))).map(|c| char::from(*c)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_file_gives_its_first_line() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let path = dir.path().join("password");
        std::fs::write(&path, "correct horse\nsecond line").expect("written");
        let source = PasswordSource { password_file: Some(path) };
        assert_eq!(read_password(&source).expect("read"), ("correct horse".to_owned(), None));
    }

    #[test]
    fn made_up_passwords_differ_and_are_shown() {
        let source = PasswordSource { password_file: None };
        let (one, shown) = read_password(&source).expect("made up");
        let (other, _) = read_password(&source).expect("made up");
        assert_eq!(Some(&one), shown.as_ref());
        assert_eq!(one.len(), PASSWORD_LENGTH);
        assert_ne!(one, other);
    }
}
