//! Sync tokens: how far a client has been told everything, stream by stream.

use std::{fmt, str::FromStr};

use chappe_store::Position;

/// What a client has seen: `s<position>_<typing>_<presence>_<to_device>`.
///
/// The first part alone is a token too, of `/messages` for one: see [`chappe_rooms::timeline::Token`].
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SyncToken {
    /// The place in the log up to which rooms, account data, receipts and device lists have been told.
    pub position: Position,
    /// The newest typing version told, see [`crate::typing::Typing::version`].
    pub typing: u64,
    /// The newest presence version told, see [`crate::presence::Presence::version`].
    pub presence: u64,
    /// The place up to which messages to the device have been given out. Behind `position` while more wait than one answer takes.
    pub to_device: Position,
}

/// A token that this server did not give out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("Invalid sync token")]
pub struct InvalidSyncToken;

impl fmt::Display for SyncToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s{}_{}_{}_{}", self.position, self.typing, self.presence, self.to_device)
    }
}

impl FromStr for SyncToken {
    type Err = InvalidSyncToken;

    /// Parts that are missing count as "all that is current is new"; parts that a later version may append are passed over.
    fn from_str(text: &str) -> Result<Self, InvalidSyncToken> {
        let mut parts = text.strip_prefix('s').ok_or(InvalidSyncToken)?.split('_').map(|part| {
            let is_number = !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
            part.parse::<u64>().ok().filter(|number| is_number && *number <= Position::MAX.0).ok_or(InvalidSyncToken)
        });
        let position = Position(parts.next().unwrap_or(Err(InvalidSyncToken))?);
        let typing = parts.next().transpose()?.unwrap_or(0);
        let presence = parts.next().transpose()?.unwrap_or(0);
        let to_device = parts.next().transpose()?.map_or(position, |number| Position(number).min(position));
        Ok(Self { position, typing, presence, to_device })
    }
}

#[cfg(test)]
mod tests {
    use chappe_rooms::timeline::Token;

    use super::*;

    #[test]
    fn tokens_come_back_as_they_went_out() {
        let token = SyncToken { position: Position(12), typing: 3, presence: 4, to_device: Position(9) };
        assert_eq!(token.to_string(), "s12_3_4_9");
        assert_eq!(token.to_string().parse(), Ok(token));
    }

    #[test]
    fn a_bare_position_is_a_token() {
        let token: SyncToken = "s12".parse().unwrap();
        assert_eq!(token, SyncToken { position: Position(12), typing: 0, presence: 0, to_device: Position(12) });
    }

    #[test]
    fn messages_reads_the_position_of_a_sync_token() {
        let token = SyncToken { position: Position(12), typing: 3, presence: 4, to_device: Position(9) };
        assert_eq!(token.to_string().parse::<Token>().ok(), Some(Token::Stream(Position(12))));
    }

    #[test]
    fn garbage_is_refused() {
        for text in [
            "",
            "s",
            "12",
            "t1_2",
            "s1_x",
            "s-1",
            "s+1",
            "s1__2",
            "s99999999999999999999",
            "s9223372036854775808",
            "ｓ1",
        ] {
            assert_eq!(text.parse::<SyncToken>(), Err(InvalidSyncToken), "{text}");
        }
    }
}
