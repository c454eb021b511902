//! What everything stands on: the configuration, the clock, and what lies on disk.

use std::sync::Arc;

use chappe_protocol::{
    clock::{Clock, SystemClock},
    sign::ServerSigner,
};
use chappe_store::{Engine, Store};
use chappe_store_rocksdb::RocksEngine;
use ruma::OwnedServerName;

use super::BuildError;
use crate::{
    config::Config,
    data_dir::DataDir,
    settings,
    signing_key::{self, OldKey},
};

pub(super) struct Base<'a> {
    pub(super) config: &'a Config,
    pub(super) server_name: OwnedServerName,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) data_dir: DataDir,
    pub(super) signer: Arc<ServerSigner>,
    pub(super) old_keys: Vec<OldKey>,
    pub(super) store: Store,
}

impl<'a> Base<'a> {
    pub(super) fn open(config: &'a Config) -> Result<Self, BuildError> {
        let server_name = config.server_name.clone();
        let data_dir = DataDir::open(&config.data_dir, &server_name)?;
        let signer = Arc::new(signing_key::load_or_generate(&data_dir, server_name.clone())?);
        let old_keys = signing_key::load_old(&data_dir)?;
        let engine: Arc<dyn Engine> =
            Arc::new(RocksEngine::open(&data_dir.database(), &settings::engine(&config.storage))?);
        let store = Store::open(engine, &data_dir.log(), settings::store(&config.storage))?;
        Ok(Self { config, server_name, clock: Arc::new(SystemClock), data_dir, signer, old_keys, store })
    }
}
