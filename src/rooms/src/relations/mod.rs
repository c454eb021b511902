//! How events relate to each other: what an event says of it, and the lists of what relates to an event.
//!
//! [`stage`] keeps the lists and the counts of threads in the batch of each event; [`read`] pages through them; [`bundle`] sums them up
//! for clients. Relations across rooms, and those that break the form, are none.
//!
//! Spec: Client-Server API, Forming relationships between events.

use chappe_protocol::pdu::Pdu;
use ruma::{OwnedEventId, UserId};
use serde::Deserialize;

mod bundle;
mod read;
mod stage;
#[cfg(test)]
mod tests;

pub use bundle::Audience;
pub use read::{RelationPage, RelationQuery, ThreadPage, ThreadQuery};
pub(crate) use stage::ThreadStage;

pub(crate) const ANNOTATION: &str = "m.annotation";
pub(crate) const REFERENCE: &str = "m.reference";
pub(crate) const REPLACE: &str = "m.replace";
pub const THREAD: &str = "m.thread";

/// Longest relation type that is taken for one, in bytes.
const REL_TYPE_BYTES_MAX: usize = 255;

/// What an event says it relates to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Relation {
    pub rel_type: String,
    pub target: OwnedEventId,
    /// What is annotated with.
    pub key: Option<String>,
}

#[derive(Deserialize)]
pub(crate) struct RelatesTo {
    rel_type: String,
    event_id: OwnedEventId,
    #[serde(default)]
    key: Option<serde_json::Value>,
}

/// The relation of an event, in the form of the specification.
pub fn relation_of(pdu: &Pdu) -> Option<Relation> {
    #[derive(Deserialize)]
    struct Content {
        #[serde(rename = "m.relates_to")]
        relates_to: RelatesTo,
    }
    if pdu.is_state() || !pdu.content().get().contains("m.relates_to") {
        return None;
    }
    checked(pdu.get_content::<Content>().ok()?.relates_to)
}

/// Keys of tables hold neither zero bytes nor texts of any length.
pub(crate) fn checked(relates_to: RelatesTo) -> Option<Relation> {
    let RelatesTo { rel_type, event_id, key } = relates_to;
    let is_sound = !rel_type.is_empty()
        && rel_type.len() <= REL_TYPE_BYTES_MAX
        && !rel_type.contains('\0')
        && !event_id.as_str().contains('\0');
    let key = key.and_then(|key| key.as_str().map(str::to_owned));
    is_sound.then_some(Relation { rel_type, target: event_id, key })
}

/// One of a target's lists of what relates to it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum List<'a> {
    All,
    /// Of one relation type.
    Type(&'a str),
    /// Of one sender and one relation type, by time.
    Sender(&'a UserId, &'a str),
}

impl List<'_> {
    /// The list's name in the table's key. User ids hold no space, so that no two lists share a name.
    pub(crate) fn name(self) -> String {
        match self {
            Self::All => String::new(),
            Self::Type(rel_type) => format!("t{rel_type}"),
            Self::Sender(user, rel_type) => format!("s{user} {rel_type}"),
        }
    }
}
