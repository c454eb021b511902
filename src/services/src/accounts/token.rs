//! Secret tokens: how they are made and what of them is kept.

use base64::{Engine, prelude::BASE64_URL_SAFE_NO_PAD};
use chappe_store::tables::accounts::TokenHash;
use sha2::{Digest, Sha256};

/// What a token is for; the first letters of its text, so that one found in a log or a file can be told.
#[derive(Clone, Copy, Debug)]
pub(crate) enum TokenUse {
    Access,
    Refresh,
    Login,
    OpenId,
}

impl TokenUse {
    fn prefix(self) -> &'static str {
        match self {
            Self::Access => "chat",
            Self::Refresh => "chrt",
            Self::Login => "chlt",
            Self::OpenId => "choi",
        }
    }
}

/// A new token of 192 random bits: its text for the client, its hash for the store.
pub(crate) fn new_token(token_use: TokenUse) -> (String, TokenHash) {
    let random: [u8; 24] = rand::random();
    let text = format!("{}_{}", token_use.prefix(), BASE64_URL_SAFE_NO_PAD.encode(random));
    let hash = token_hash(&text);
    (text, hash)
}

pub(crate) fn token_hash(text: &str) -> TokenHash {
    Sha256::digest(text.as_bytes()).into()
}

/// Random text of `length` characters out of `alphabet`, which has at most 256.
pub(crate) fn random_text(alphabet: &[u8], length: usize) -> String {
    // 64 random bits for each character: the bias of the remainder is far below what anybody could use.
    let pick = || {
        alphabet.get((rand::random::<u64>() % alphabet.len().max(1) as u64) as usize).copied().map_or('0', char::from)
    };
    std::iter::repeat_with(pick).take(length).collect()
}
