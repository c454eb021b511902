//! `chappe fsck`: checks the data of a server that is not running, and says what it would repair. It changes nothing, but for what
//! every start does: the log of writes is brought into the database.

use std::sync::Arc;

use chappe_rooms::fsck::{Check, check_rooms};
use chappe_services::fsck::{check_media, check_services};
use chappe_store::{Engine, Store};
use chappe_store_rocksdb::RocksEngine;

use super::{CommandResult, print};
use crate::{config::Config, data_dir::DataDir, settings};

pub fn run(config: &Config, skip_media: bool) -> CommandResult {
    let data_dir = DataDir::open(&config.data_dir, &config.server_name)?;
    if !data_dir.has_database() {
        return Err(format!("{}: there is no database in it", data_dir.path().display()).into());
    }
    let engine: Arc<dyn Engine> =
        Arc::new(RocksEngine::open(&data_dir.database(), &settings::engine(&config.storage))?);
    let store = Store::open(engine, &data_dir.log(), settings::store(&config.storage))?;

    let mut findings = 0u64;
    let mut unheard = None;
    let mut note = |finding| {
        findings += 1;
        if unheard.is_none() {
            unheard = print(&format!("{finding}\n")).err();
        }
    };
    let mut check = Check::new(&store, &config.server_name, &mut note);
    check.read_all();
    check_rooms(&mut check);
    check_services(&mut check);
    if !skip_media {
        check_media(&mut check, &data_dir.media());
    }
    let rows = check.rows;
    store.close()?;
    if let Some(error) = unheard {
        return Err(error);
    }
    print(&format!("{rows} rows looked at, {findings} findings\n"))?;
    if findings == 0 { Ok(()) } else { Err(format!("{findings} findings").into()) }
}
