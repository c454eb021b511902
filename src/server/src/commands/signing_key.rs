//! `chappe signing-key`: the server must not be running, since it would go on signing with the key it read.

use chappe_protocol::clock::SystemClock;

use super::{CommandResult, print};
use crate::{cli::SigningKeyCommand, config::Config, data_dir::DataDir, signing_key};

pub fn run(config: &Config, command: &SigningKeyCommand) -> CommandResult {
    let data_dir = DataDir::open(&config.data_dir, &config.server_name)?;
    let mut lines = Vec::new();
    match command {
        SigningKeyCommand::Generate => {
            let signer = signing_key::rotate(&data_dir, config.server_name.clone(), &SystemClock)?;
            lines.push(format!("{} {}\n", signer.key_id(), signer.verify_key_base64()));
        }
        SigningKeyCommand::Show => {
            match signing_key::load(&data_dir, config.server_name.clone())? {
                Some(signer) => lines.push(format!("{} {}\n", signer.key_id(), signer.verify_key_base64())),
                None => lines.push("no key yet: the first start makes one\n".to_owned()),
            }
            for old in signing_key::load_old(&data_dir)? {
                lines.push(format!("{} {} (until {} ms since 1970)\n", old.key_id, old.public_key, old.expired_at_ms));
            }
        }
    }
    print(&lines.concat())
}
