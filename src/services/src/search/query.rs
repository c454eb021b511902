//! What somebody searches for, and where a page of results goes on.

use std::collections::{BTreeSet, HashSet};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ruma::{
    OwnedUserId,
    api::client::{
        filter::RoomEventFilter,
        search::search_events::v3::{EventContext, GroupingKey, OrderBy, SearchKeys},
    },
};
use serde::{Deserialize, Serialize};

use super::SearchError;
use crate::words::words_with_places;

/// The most words that one search looks for.
const WORDS_MAX: usize = 32;
/// Longest token, in bytes.
const TOKEN_BYTES_MAX: usize = 1_024;

/// A search for events.
#[derive(Clone, Debug)]
pub struct SearchRequest {
    pub term: String,
    /// `None`: all that there are.
    pub keys: Option<Vec<SearchKeys>>,
    pub filter: RoomEventFilter,
    pub order: Option<OrderBy>,
    /// How much to show around what is found; `None`: nothing.
    pub context: Option<EventContext>,
    pub include_state: bool,
    pub group_by: Vec<GroupingKey>,
    /// Whose messages are not wanted.
    pub ignored: HashSet<OwnedUserId>,
    /// Goes on from an earlier answer.
    pub next_batch: Option<String>,
}

/// A part of an event that can be searched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Key {
    Body,
    Name,
    Topic,
}

/// The keys that are asked for.
pub(super) fn keys(wanted: Option<&[SearchKeys]>) -> Result<Vec<Key>, SearchError> {
    let Some(wanted) = wanted else { return Ok(vec![Key::Body, Key::Name, Key::Topic]) };
    let mut keys = BTreeSet::new();
    for key in wanted {
        keys.insert(match key {
            SearchKeys::ContentBody => Key::Body,
            SearchKeys::ContentName => Key::Name,
            SearchKeys::ContentTopic => Key::Topic,
            _ => return Err(SearchError::Invalid("Only content.body, content.name and content.topic can be searched")),
        });
    }
    if keys.is_empty() {
        return Err(SearchError::Invalid("There is no key to search"));
    }
    Ok(keys.into_iter().collect())
}

/// The words that must all be there. What the user wrote without a space between stays together.
#[derive(Clone, Debug)]
pub(super) struct Terms(Vec<Vec<String>>);

impl Terms {
    pub(super) fn parse(text: &str) -> Self {
        let together = |text: &str| words_with_places(text).into_iter().map(|(word, _)| word).collect::<Vec<_>>();
        Self(text.split_whitespace().map(together).filter(|word| !word.is_empty()).take(WORDS_MAX).collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &[String]> {
        self.0.iter().map(Vec::as_slice)
    }

    /// The words of a text that are among these, as the text writes them but in small letters.
    pub(super) fn highlights<'t>(&self, text: &'t str) -> impl Iterator<Item = String> + use<'t, '_> {
        words_with_places(text).into_iter().filter_map(move |(word, place)| {
            self.0.iter().flatten().any(|term| *term == word).then(|| text.get(place).map(str::to_lowercase)).flatten()
        })
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SearchOrder {
    Recent,
    Rank,
}

impl SearchOrder {
    pub(super) fn parse(order: Option<&OrderBy>) -> Result<Self, SearchError> {
        match order {
            Some(OrderBy::Recent) => Ok(Self::Recent),
            None | Some(OrderBy::Rank) => Ok(Self::Rank),
            Some(_) => Err(SearchError::Invalid("The order is recent or rank")),
        }
    }
}

/// A key and a value of it that results are grouped by.
pub(super) type GroupId = (GroupKey, String);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupKey {
    RoomId,
    Sender,
}

impl GroupKey {
    pub(super) fn parse(keys: &[GroupingKey]) -> Result<BTreeSet<Self>, SearchError> {
        let parse = |key: &GroupingKey| match key {
            GroupingKey::RoomId => Ok(Self::RoomId),
            GroupingKey::Sender => Ok(Self::Sender),
            _ => Err(SearchError::Invalid("Results are grouped by room_id or by sender")),
        };
        keys.iter().map(parse).collect()
    }
}

/// Where a page begins.
///
/// It says nothing that its holder may not know, and nothing is believed of it: whoever makes one up reads another page of what
/// they may see.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct PageToken {
    /// Events that are newer do not belong to the pages any more.
    pub(super) up_to: u64,
    /// How many of the best candidates earlier pages have looked at.
    pub(super) skip: usize,
    /// How many results earlier pages had.
    pub(super) found: usize,
    /// Only results of this group.
    pub(super) group: Option<GroupId>,
}

impl PageToken {
    pub(super) fn start(newest: u64) -> Self {
        Self { up_to: newest, skip: 0, found: 0, group: None }
    }

    pub(super) fn parse(text: &str) -> Result<Self, SearchError> {
        let parse = || {
            let bytes = (text.len() <= TOKEN_BYTES_MAX).then(|| URL_SAFE_NO_PAD.decode(text).ok()).flatten()?;
            serde_json::from_slice(&bytes).ok()
        };
        parse().ok_or(SearchError::Invalid("Invalid next_batch token"))
    }

    pub(super) fn to_text(&self) -> String {
        // A struct of numbers and strings is always JSON.
        URL_SAFE_NO_PAD.encode(serde_json::to_vec(self).unwrap_or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back_as_they_went_out() {
        let token = PageToken { up_to: 7, skip: 3, found: 2, group: Some((GroupKey::Sender, "@a:b".to_owned())) };
        assert_eq!(PageToken::parse(&token.to_text()).ok(), Some(token));
        for text in ["", "nonsense", "e30", &"A".repeat(2_000)] {
            assert!(PageToken::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn what_is_written_together_stays_together() {
        let terms = Terms::parse("l'été  Paris ...");
        assert_eq!(terms.iter().map(|word| word.join(" ")).collect::<Vec<_>>(), ["l ete", "paris"]);
        assert_eq!(terms.highlights("À PARIS, cet Été-là").collect::<Vec<_>>(), ["paris", "été"]);
        assert!(Terms::parse(" ?! ").is_empty());
    }
}
