//! Accounts, and what they keep for themselves.

use std::sync::Arc;

use chappe_services::{
    account_data::AccountData, accounts::Accounts, app_services::Registrations, devices::Devices, emails::Emails,
    filters::Filters, profile::Profiles, push::rules::PushRules, uia::Uia,
};

use super::{Base, BuildError, Outside};
use crate::settings;

pub(super) struct People {
    pub(super) accounts: Arc<Accounts>,
    pub(super) emails: Arc<Emails>,
    pub(super) uia: Arc<Uia>,
    pub(super) devices: Arc<Devices>,
    pub(super) profiles: Arc<Profiles>,
    pub(super) account_data: Arc<AccountData>,
    pub(super) filters: Arc<Filters>,
    pub(super) push_rules: Arc<PushRules>,
}

impl People {
    pub(super) fn build(base: &Base<'_>, outside: &Outside, app_services: Registrations) -> Result<Self, BuildError> {
        let Base { config, server_name, clock, store, .. } = base;
        let accounts = Arc::new(Accounts::new(store.clone(), clock.clone(), settings::accounts(config, app_services))?);
        let emails = Emails::new(store.clone(), clock.clone(), outside.mail.clone(), settings::public_url(config)?);
        let emails = Arc::new(emails.with_next_link_hosts(config.mail.next_link_hosts.clone()));
        let devices = Devices::new(store.clone(), clock.clone()).sharing_names(config.federation.share_device_names);
        let federation = Arc::new(outside.federation.clone());
        Ok(Self {
            uia: Arc::new(Uia::new(accounts.clone(), emails.clone(), clock.clone())),
            accounts,
            emails,
            devices: Arc::new(devices),
            profiles: Arc::new(Profiles::new(store.clone(), server_name.clone(), federation)),
            account_data: Arc::new(AccountData::new(store.clone())),
            filters: Arc::new(Filters::new(store.clone())),
            push_rules: Arc::new(PushRules::new(store.clone())),
        })
    }
}
