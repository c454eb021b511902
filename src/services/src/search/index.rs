//! The full-text index of messages, room names and topics: which events hold which words.
//!
//! It can always be made again from the events, and so keeps nothing else than what finding them needs. Who may see what it finds
//! is not decided here.

use std::{collections::BTreeSet, fs, io, ops::Bound, path::Path};

use chappe_rooms::Event;
use chappe_store::{EventNid, Position, RoomNid};
use parking_lot::Mutex;
use ruma::{OwnedUserId, events::TimelineEventType};
use serde::Deserialize;
use tantivy::{
    Index, IndexReader, IndexWriter, Order, ReloadPolicy, TantivyDocument, TantivyError, Term,
    collector::{
        TopDocs,
        sort_key::{SortBySimilarityScore, SortByStaticFastValue},
    },
    directory::{MmapDirectory, error::OpenDirectoryError},
    query::{BooleanQuery, ConstScoreQuery, Occur, PhraseQuery, Query, RangeQuery, TermQuery, TermSetQuery},
    schema::{Field, IndexRecordOption, NumericOptions, STRING, Schema, TextFieldIndexing, TextOptions},
};

use super::query::{Key, Terms};
use crate::words::{analyzer, words};

/// Memory for what is not written out yet, in bytes: the least that the index takes.
const WRITER_BYTES: usize = 15_000_000;

const TOKENIZER: &str = "words";

/// An index that failed.
#[derive(Debug, thiserror::Error)]
pub enum IndexError {
    #[error(transparent)]
    Index(#[from] TantivyError),
    #[error("the folder of the index: {0}")]
    Folder(#[from] OpenDirectoryError),
    #[error("the folder of the index: {0}")]
    Io(#[from] io::Error),
}

#[derive(Clone, Copy)]
struct Fields {
    event: Field,
    recency: Field,
    room: Field,
    sender: Field,
    body: Field,
    name: Field,
    topic: Field,
}

pub struct SearchIndex {
    index: Index,
    reader: IndexReader,
    writer: Mutex<IndexWriter>,
    fields: Fields,
}

/// Up to where in the logs events are in the index.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Places {
    /// In the event log.
    pub(super) live: Position,
    /// In the log of what was backfilled.
    pub(super) history: Position,
}

/// Before all that came live.
const LIVE_RECENCY_MIN: u64 = 1 << 62;

/// Where an event stands among others, the greater the newer: what came live by its position, what was backfilled before all that, by
/// when its server says that it was sent.
pub(super) fn recency_of(event: &Event, live: Option<Position>) -> u64 {
    match live {
        Some(position) => live_recency(position),
        // What was sent in one millisecond has some order too, or pages could not go on between the two.
        None => u64::from(event.pdu.origin_server_ts.get()).min((1 << 46) - 1) << 16 | event.nid.0 & 0xffff,
    }
}

pub(super) fn live_recency(position: Position) -> u64 {
    LIVE_RECENCY_MIN.saturating_add(position.0)
}

/// Which events to look for.
pub(super) struct Wanted<'a> {
    pub(super) terms: &'a Terms,
    pub(super) keys: &'a [Key],
    pub(super) rooms: BTreeSet<RoomNid>,
    /// `None`: of anyone.
    pub(super) senders: Option<BTreeSet<OwnedUserId>>,
    /// Not newer than this, by [`recency_of`].
    pub(super) up_to: u64,
}

/// An event that holds the words.
#[derive(Clone, Copy, Debug)]
pub(super) struct Candidate {
    pub(super) event: EventNid,
    /// By [`recency_of`].
    pub(super) recency: u64,
    pub(super) rank: f32,
}

impl SearchIndex {
    /// Opens the index in a folder. One that cannot be read is made anew: nothing is lost with it but the time to fill it.
    pub fn open(path: &Path) -> Result<Self, IndexError> {
        fs::create_dir_all(path)?;
        match Self::open_folder(path) {
            Ok(index) => Ok(index),
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "the search index cannot be read and is made anew");
                fs::remove_dir_all(path)?;
                fs::create_dir_all(path)?;
                Self::open_folder(path)
            }
        }
    }

    fn open_folder(path: &Path) -> Result<Self, IndexError> {
        let (schema, fields) = schema();
        Self::with(Index::open_or_create(MmapDirectory::open(path)?, schema)?, fields)
    }

    /// An index that is gone with the process: for tests.
    pub fn in_memory() -> Result<Self, IndexError> {
        let (schema, fields) = schema();
        Self::with(Index::create_in_ram(schema), fields)
    }

    fn with(index: Index, fields: Fields) -> Result<Self, IndexError> {
        index.tokenizers().register(TOKENIZER, analyzer());
        let writer = index.writer_with_num_threads(1, WRITER_BYTES)?;
        let reader = index.reader_builder().reload_policy(ReloadPolicy::Manual).try_into()?;
        Ok(Self { index, reader, writer: Mutex::new(writer), fields })
    }

    /// Up to where events are in the index; zero for a new one.
    pub(super) fn places(&self) -> Result<Places, IndexError> {
        let payload = self.index.load_metas()?.payload;
        let places = payload.as_deref().and_then(|payload| {
            let (live, history) = payload.split_once(' ')?;
            Some(Places { live: Position(live.parse().ok()?), history: Position(history.parse().ok()?) })
        });
        Ok(places.unwrap_or_default())
    }

    /// Puts an event in, or in again. Events in which there is nothing to find are left out.
    pub(super) fn put(&self, recency: u64, event: &Event) -> Result<(), IndexError> {
        self.delete(event.nid);
        let Some((key, text)) = searchable_text(event) else { return Ok(()) };
        let mut document = TantivyDocument::new();
        document.add_u64(self.fields.event, event.nid.0);
        document.add_u64(self.fields.recency, recency);
        document.add_u64(self.fields.room, event.record.room.0);
        document.add_text(self.fields.sender, &event.pdu.sender);
        document.add_text(self.field(key), text);
        self.writer.lock().add_document(document)?;
        Ok(())
    }

    pub(super) fn delete(&self, event: EventNid) {
        self.writer.lock().delete_term(Term::from_field_u64(self.fields.event, event.0));
    }

    /// Writes out what was put in and deleted, and that this is everything up to `places`. Waits for the disk.
    pub(super) fn commit(&self, places: Places) -> Result<(), IndexError> {
        let mut writer = self.writer.lock();
        let mut prepared = writer.prepare_commit()?;
        prepared.set_payload(&format!("{} {}", places.live.0, places.history.0));
        prepared.commit()?;
        Ok(self.reader.reload()?)
    }

    /// Forgets what was not committed.
    pub(super) fn rollback(&self) -> Result<(), IndexError> {
        self.writer.lock().rollback()?;
        Ok(())
    }

    fn field(&self, key: Key) -> Field {
        match key {
            Key::Body => self.fields.body,
            Key::Name => self.fields.name,
            Key::Topic => self.fields.topic,
        }
    }

    /// The newest events that hold the words, the newest first.
    pub(super) fn newest(&self, wanted: &Wanted<'_>, limit: usize) -> Result<Vec<Candidate>, IndexError> {
        let collector = TopDocs::with_limit(limit).order_by_fast_field::<u64>("recency", Order::Desc);
        let found = self.reader.searcher().search(&self.query(wanted), &collector)?;
        found.into_iter().map(|(_, address)| self.candidate(address, 1.0)).collect()
    }

    /// The events that hold the words best, after the `skip` very best, the best first.
    pub(super) fn best(&self, wanted: &Wanted<'_>, skip: usize, limit: usize) -> Result<Vec<Candidate>, IndexError> {
        // Of events that are equally good, the newest first.
        let order = (SortBySimilarityScore, SortByStaticFastValue::<u64>::for_field("recency"));
        let collector = TopDocs::with_limit(limit).and_offset(skip).order_by(order);
        let found = self.reader.searcher().search(&self.query(wanted), &collector)?;
        found.into_iter().map(|((rank, _), address)| self.candidate(address, rank)).collect()
    }

    fn candidate(&self, address: tantivy::DocAddress, rank: f32) -> Result<Candidate, IndexError> {
        let searcher = self.reader.searcher();
        let columns = searcher.segment_reader(address.segment_ord).fast_fields();
        let number = |name: &str| -> Result<u64, TantivyError> {
            Ok(columns.u64(name)?.first(address.doc_id).unwrap_or_default())
        };
        Ok(Candidate { event: EventNid(number("event")?), recency: number("recency")?, rank })
    }

    fn query(&self, wanted: &Wanted<'_>) -> BooleanQuery {
        let fields = self.fields;
        let mut clauses: Vec<(Occur, Box<dyn Query>)> = Vec::new();
        for word in wanted.terms.iter() {
            let in_keys = wanted.keys.iter().map(|key| word_query(self.field(*key), word));
            clauses.push((Occur::Must, Box::new(BooleanQuery::union(in_keys.collect()))));
        }
        // Where an event stands says nothing of how good it is.
        let mut narrow = |query: Box<dyn Query>| {
            clauses.push((Occur::Must, Box::new(ConstScoreQuery::new(query, 0.0))));
        };
        narrow(Box::new(TermSetQuery::new(wanted.rooms.iter().map(|room| Term::from_field_u64(fields.room, room.0)))));
        if let Some(senders) = &wanted.senders {
            let terms = senders.iter().map(|sender| Term::from_field_text(fields.sender, sender.as_str()));
            narrow(Box::new(TermSetQuery::new(terms)));
        }
        let newest = Term::from_field_u64(fields.recency, wanted.up_to);
        narrow(Box::new(RangeQuery::new(Bound::Unbounded, Bound::Included(newest))));
        BooleanQuery::new(clauses)
    }
}

/// What was written without a space is looked for in a row.
fn word_query(field: Field, word: &[String]) -> Box<dyn Query> {
    let mut terms: Vec<Term> = word.iter().map(|part| Term::from_field_text(field, part)).collect();
    match terms.pop() {
        Some(only) if terms.is_empty() => Box::new(TermQuery::new(only, IndexRecordOption::WithFreqs)),
        Some(last) => {
            terms.push(last);
            Box::new(PhraseQuery::new(terms))
        }
        None => Box::new(tantivy::query::EmptyQuery),
    }
}

fn schema() -> (Schema, Fields) {
    let mut schema = Schema::builder();
    let number = NumericOptions::default().set_indexed().set_fast();
    let indexing = TextFieldIndexing::default()
        .set_tokenizer(TOKENIZER)
        .set_index_option(IndexRecordOption::WithFreqsAndPositions);
    let text = TextOptions::default().set_indexing_options(indexing);
    let fields = Fields {
        event: schema.add_u64_field("event", number.clone()),
        recency: schema.add_u64_field("recency", number.clone()),
        room: schema.add_u64_field("room", number),
        sender: schema.add_text_field("sender", STRING),
        body: schema.add_text_field("body", text.clone()),
        name: schema.add_text_field("name", text.clone()),
        topic: schema.add_text_field("topic", text),
    };
    (schema.build(), fields)
}

#[derive(Deserialize)]
struct Texts {
    body: Option<String>,
    name: Option<String>,
    topic: Option<String>,
    #[serde(rename = "m.topic")]
    topic_block: Option<TopicBlock>,
}

#[derive(Deserialize)]
struct TopicBlock {
    #[serde(rename = "m.text", default)]
    texts: Vec<Representation>,
}

#[derive(Deserialize)]
struct Representation {
    body: String,
    mimetype: Option<String>,
}

impl TopicBlock {
    /// The representation in plain text, which is also what has no type.
    fn into_plain(self) -> Option<String> {
        let is_plain = |text: &Representation| text.mimetype.as_deref().is_none_or(|kind| kind == "text/plain");
        self.texts.into_iter().find(is_plain).map(|text| text.body)
    }
}

/// What an event can be found by.
///
/// Spec: Client-Server API, Server Side Search, `room_events`.
pub(super) fn searchable_text(event: &Event) -> Option<(Key, String)> {
    if !event.is_accepted() || event.record.redacted_because.is_some() {
        return None;
    }
    let texts = || event.pdu.get_content::<Texts>().ok();
    let is_room_state = event.pdu.state_key() == Some("");
    let (key, text) = match &event.pdu.kind {
        TimelineEventType::RoomMessage => (Key::Body, texts()?.body?),
        TimelineEventType::RoomName if is_room_state => (Key::Name, texts()?.name?),
        TimelineEventType::RoomTopic if is_room_state => {
            let texts = texts()?;
            let plain =
                texts.topic_block.and_then(TopicBlock::into_plain).filter(|plain| texts.topic.as_ref() != Some(plain));
            (Key::Topic, [texts.topic, plain].into_iter().flatten().collect::<Vec<_>>().join("\n"))
        }
        _ => return None,
    };
    (!words(&text).is_empty()).then_some((key, text))
}
