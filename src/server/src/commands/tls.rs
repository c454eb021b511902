//! `chappe tls`: certificates for servers that trust each other through an authority of their own.

use chappe_protocol::clock::{Clock, SystemClock};

use super::CommandResult;
use crate::{cli::TlsCommand, tls};

pub fn run(command: &TlsCommand) -> CommandResult {
    tls::install_provider();
    let now_ms = SystemClock.now_ms();
    let (TlsCommand::Authority { output, .. } | TlsCommand::Issue { output, .. }) = command;
    if output.if_missing && output.out_certificate.exists() && output.out_key.exists() {
        return Ok(());
    }
    match command {
        TlsCommand::Authority { name, .. } => {
            tls::write_authority(name, now_ms, &output.out_certificate, &output.out_key)?;
        }
        TlsCommand::Issue { ca_certificate, ca_key, name, days, .. } => {
            let authority = (ca_certificate.as_path(), ca_key.as_path());
            tls::write_issued(authority, name, *days, now_ms, (&output.out_certificate, &output.out_key))?;
        }
    }
    Ok(())
}
