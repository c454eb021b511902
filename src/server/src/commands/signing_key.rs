//! `chappe signing-key`: the server must not be running, since it would go on signing with the key it read.

use chappe_protocol::clock::SystemClock;

use super::CommandResult;
use crate::{cli::SigningKeyCommand, config::Config, data_dir::DataDir, signing_key};

pub fn run(config: &Config, command: &SigningKeyCommand) -> CommandResult {
    let data_dir = DataDir::open(&config.data_dir, &config.server_name)?;
    match command {
        SigningKeyCommand::Generate => {
            let signer = signing_key::rotate(&data_dir, config.server_name.clone(), &SystemClock)?;
            println!("{} {}", signer.key_id(), signer.verify_key_base64());
        }
        SigningKeyCommand::Show => {
            match signing_key::load(&data_dir, config.server_name.clone())? {
                Some(signer) => println!("{} {}", signer.key_id(), signer.verify_key_base64()),
                None => println!("no key yet: the first start makes one"),
            }
            for old in signing_key::load_old(&data_dir)? {
                println!("{} {} (until {} ms since 1970)", old.key_id, old.public_key, old.expired_at_ms);
            }
        }
    }
    Ok(())
}
