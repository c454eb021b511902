//! The user directory (client-server API, "User Directory"): finding users by their name or id.
//!
//! Somebody can be found who shares a room with the one who searches, or is joined to a room that is open to all: by join rule, or by history
//! that the world may read. They are found by their id, by the name of their profile, and by the names they have in those rooms, never by
//! one that they have only in a room where the searcher is not. What other servers know is not asked for.
//!
//! The rows are kept in step by [`follow`], behind the event log; a search waits for them. They only suggest: names, memberships and the
//! openness of rooms are looked up anew for each answer.

mod follow;
#[cfg(test)]
mod tests;

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use chappe_rooms::Rooms;
use chappe_store::{
    Direction, Position, RoomNid, Store, StoreError,
    tables::{
        accounts::ACCOUNTS,
        events::EVENT_LOG,
        user_directory::{DIRECTORY_MEMBERS, DIRECTORY_WORDS},
    },
};
use ruma::{OwnedUserId, UserId, events::StateEventType, events::room::history_visibility::HistoryVisibility};
use serde::Deserialize;
use tokio::{sync::watch, task::JoinError, time::timeout};

use crate::{profile::Profiles, words::words};

/// The most users in one answer.
const LIMIT_MAX: usize = 100;
/// How many rows of the directory one search looks at.
const ROWS_MAX: usize = 5_000;
/// How many rooms of one user are looked at for their names.
const ROOMS_MAX: usize = 1_000;
/// The most words of a search term that count.
const TERM_WORDS_MAX: usize = 16;
/// How long a search waits for the directory to have everything.
const CATCH_UP: Duration = Duration::from_secs(5);

/// A search that failed.
#[derive(Debug, thiserror::Error)]
pub enum SearchUsersError {
    #[error(transparent)]
    Read(#[from] StoreError),
    #[error("the search was interrupted: {0}")]
    Task(#[from] JoinError),
}

/// A user that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FoundUser {
    pub user_id: OwnedUserId,
    pub display_name: Option<String>,
    pub avatar_url: Option<String>,
}

/// The users that were found, the best first.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FoundUsers {
    pub users: Vec<FoundUser>,
    /// There are more.
    pub limited: bool,
}

#[derive(Clone)]
pub struct UserDirectory {
    rooms: Rooms,
    profiles: Arc<Profiles>,
    /// The directory has everything up to here.
    place: Arc<watch::Sender<Position>>,
}

impl UserDirectory {
    pub fn new(rooms: Rooms, profiles: Arc<Profiles>) -> Self {
        Self { rooms, profiles, place: Arc::new(watch::channel(Position::ZERO).0) }
    }

    fn store(&self) -> &Store {
        self.rooms.store()
    }

    /// Users whose id or name has all the words of `term`, or words that begin so.
    pub async fn search(&self, searcher: &UserId, term: &str, limit: usize) -> Result<FoundUsers, SearchUsersError> {
        self.catch_up().await?;
        let Some(term) = Term::parse(term) else { return Ok(FoundUsers::default()) };
        let (directory, searcher) = (self.clone(), searcher.to_owned());
        tokio::task::spawn_blocking(move || Ok(directory.find(searcher, &term, limit.min(LIMIT_MAX))?)).await?
    }

    async fn catch_up(&self) -> Result<(), StoreError> {
        let newest = self.store().scan(&EVENT_LOG, &(), Direction::Reverse).next().transpose()?;
        let Some((newest, _)) = newest else { return Ok(()) };
        let mut place = self.place.subscribe();
        if timeout(CATCH_UP, place.wait_for(|place| *place >= newest)).await.is_err() {
            tracing::info!("a search for users was answered before the directory had everything");
        }
        Ok(())
    }

    fn find(&self, searcher: OwnedUserId, term: &Term, limit: usize) -> Result<FoundUsers, StoreError> {
        let mut eyes = Eyes {
            directory: self,
            joined: self.rooms.get_joined_rooms(&searcher)?.into_iter().collect(),
            open: HashMap::new(),
            searcher,
        };
        let mut looked_at = HashSet::new();
        let mut found = Vec::new();
        let mut rows = 0;
        // Every word that begins with this one: no character is behind the last one there is.
        let start = (term.rarest.clone(),);
        let end = (format!("{}{}", term.rarest, char::MAX),);
        for row in self.store().scan_range(&DIRECTORY_WORDS, &start, &end, Direction::Forward) {
            let ((_, user), ()) = row?;
            rows += 1;
            if rows > ROWS_MAX {
                break;
            }
            if looked_at.insert(user.clone()) {
                found.extend(eyes.look(user, term)?);
            }
        }
        found.sort_by_cached_key(|(rank, user)| (Reverse(*rank), user.user_id.clone()));
        let limited = found.len() > limit || rows > ROWS_MAX;
        Ok(FoundUsers { users: found.into_iter().take(limit).map(|(_, user)| user).collect(), limited })
    }
}

/// What is searched for.
struct Term {
    words: Vec<String>,
    /// The word that is looked up; the others are compared. The longest, since it is likely to find the fewest.
    rarest: String,
    /// The beginning of the server's name, if a whole user id was typed.
    server: Option<String>,
}

impl Term {
    /// `None` where there is no word in it.
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let (name, server) = match text.strip_prefix('@').map(|id| id.split_once(':')) {
            Some(Some((localpart, server))) => (localpart, Some(server.to_ascii_lowercase())),
            _ => (text, None),
        };
        let mut words = words(name);
        words.truncate(TERM_WORDS_MAX);
        let rarest = words.iter().max_by_key(|word| word.len())?.clone();
        Some(Self { words, rarest, server })
    }

    /// How well the words of a user fit; `None` if one of the term's is missing.
    fn rank(&self, of_user: &BTreeSet<String>) -> Option<Fit> {
        let mut fit = Fit::Words;
        for word in &self.words {
            if of_user.contains(word) {
                continue;
            }
            of_user.range(word.clone()..).next().filter(|next| next.starts_with(word.as_str()))?;
            fit = Fit::Beginnings;
        }
        Some(fit)
    }
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    /// Some words of the term are only the beginnings of the user's.
    Beginnings,
    Words,
}

/// The better, the greater: users who share a room before others, then users with a name.
type Rank = (Fit, bool, bool);

/// What one user may see of others.
struct Eyes<'a> {
    directory: &'a UserDirectory,
    searcher: OwnedUserId,
    joined: HashSet<RoomNid>,
    open: HashMap<RoomNid, bool>,
}

impl Eyes<'_> {
    fn look(&mut self, user: OwnedUserId, term: &Term) -> Result<Option<(Rank, FoundUser)>, StoreError> {
        let directory = self.directory;
        let is_local = user.server_name() == directory.rooms.server_name();
        if term.server.as_ref().is_some_and(|server| !user.server_name().as_str().starts_with(server)) {
            return Ok(None);
        }
        if is_local {
            let account = directory.store().get(&ACCOUNTS, &user)?;
            if account.is_none_or(|account| account.deactivated_at_ms.is_some()) {
                return Ok(None);
            }
        }
        let mut shares_room = false;
        // By room; those open to all come first.
        let mut names: BTreeMap<(bool, RoomNid), (Option<String>, Option<String>)> = BTreeMap::new();
        for row in directory.store().scan(&DIRECTORY_MEMBERS, &(user.clone(),), Direction::Forward).take(ROOMS_MAX) {
            let ((_, room), ()) = row?;
            // With oneself one shares nothing: who searches finds themselves where everybody would.
            let is_shared = user != self.searcher && self.joined.contains(&room);
            let is_open = self.is_open(room)?;
            if !is_shared && !is_open {
                continue;
            }
            let member = directory.rooms.get_member(room, &user)?;
            let Some(member) = member.filter(|member| member.value.membership == "join") else { continue };
            shares_room |= is_shared;
            names.insert((!is_open, room), (member.value.display_name, member.value.avatar_url));
        }
        if names.is_empty() {
            return Ok(None);
        }
        let profile = if is_local {
            directory.profiles.get_membership_profile(&user)?
        } else {
            let named = names.values().find(|(name, _)| name.is_some());
            named.or_else(|| names.values().next()).cloned().unwrap_or_default()
        };
        let mut of_user: BTreeSet<String> = words(user.localpart()).into_iter().collect();
        for (name, _) in names.values().chain([&profile]) {
            of_user.extend(name.as_deref().map(words).unwrap_or_default());
        }
        let Some(fit) = term.rank(&of_user) else { return Ok(None) };
        let (display_name, avatar_url) = profile;
        let rank = (fit, shares_room, display_name.is_some());
        Ok(Some((rank, FoundUser { user_id: user, display_name, avatar_url })))
    }

    /// Whether everybody may know who is in the room.
    fn is_open(&mut self, room: RoomNid) -> Result<bool, StoreError> {
        #[derive(Deserialize)]
        struct JoinRules {
            join_rule: String,
        }
        if let Some(known) = self.open.get(&room) {
            return Ok(*known);
        }
        let rooms = &self.directory.rooms;
        let rules: Option<JoinRules> = rooms.get_state_content(room, &StateEventType::RoomJoinRules, "")?;
        let is_open = rooms.is_server_joined(room, rooms.server_name())?
            && (rules.is_some_and(|rules| rules.join_rule == "public")
                || rooms.get_history_visibility(room)? == HistoryVisibility::WorldReadable);
        self.open.insert(room, is_open);
        Ok(is_open)
    }
}
