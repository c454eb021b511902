//! A typed table: a name, an id, and the types of its keys and values.

use std::marker::PhantomData;

use crate::{
    key::{Key, KeyWriter},
    record::Value,
};

/// How long most keys are at the most.
const KEY_BYTES: usize = 64;

/// A table of the store. Tables are constants in [`crate::tables`]; the id is the first byte of each key and never changes.
pub struct Table<K, V> {
    pub id: u8,
    pub name: &'static str,
    /// Rows are kept in memory once they have been read.
    pub(crate) is_cached: bool,
    /// So are all rows of a room together.
    pub(crate) is_listed: bool,
    types: PhantomData<fn(K) -> V>,
}

impl<K: Key, V: Value> Table<K, V> {
    pub const fn new(id: u8, name: &'static str) -> Self {
        Self { id, name, is_cached: false, is_listed: false, types: PhantomData }
    }

    /// Keeps the rows in memory that are read one by one: for tables whose rows, or their absence, are read more often than they are written.
    /// Not for those from which ranges are deleted in the ordinary course: each such deletion looks through all that is kept.
    pub const fn cached(self) -> Self {
        Self { is_cached: true, ..self }
    }

    /// Keeps the rows of a room in memory, together, once all of them have been read: for tables whose keys begin with a room, which has few
    /// rows that change seldom.
    pub const fn listed(self) -> Self {
        Self { is_listed: true, ..self }
    }

    pub(crate) fn writer(&self) -> KeyWriter {
        let mut writer = KeyWriter::with_capacity(KEY_BYTES);
        writer.bytes(&[self.id]);
        writer
    }

    pub(crate) fn key(&self, key: &impl Key) -> KeyWriter {
        let mut writer = self.writer();
        key.encode(&mut writer);
        writer
    }
}

/// The smallest key that is greater than every key with this prefix.
pub(crate) fn prefix_end(prefix: &[u8]) -> Vec<u8> {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            break;
        }
    }
    end
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, fs, path::Path};

    use super::*;

    /// The row that docs/STORAGE.md begins with for each table in the sources: id -> (row, file).
    fn scan_sources(tables: &Path) -> Vec<(u8, String, String)> {
        let mut found = Vec::new();
        for entry in fs::read_dir(tables).unwrap() {
            let path = entry.unwrap().path();
            let file = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let source = fs::read_to_string(&path).unwrap();
            for declaration in source.split("pub const ").skip(1) {
                let Some((_, types)) = declaration.split_once(": Table<") else { continue };
                // The next constant is behind the next split, so this is the same declaration.
                let (types, new) =
                    types.split_once("Table::new(").unwrap_or_else(|| panic!("{file}: unusual declaration"));
                let types = types.split_whitespace().collect::<Vec<_>>().join(" ");
                let (key, value) = split_types(types.strip_suffix("> =").unwrap());
                let (id, name) = new.split_once(',').unwrap();
                let name = name.split('"').nth(1).unwrap();
                let id: u8 = id.trim().parse().unwrap();
                found.push((id, format!("| {id} | `{name}` | `{key}` | `{value}` |"), file.clone()));
            }
        }
        found
    }

    /// Splits `K, V` at the comma that is not within brackets.
    fn split_types(types: &str) -> (&str, &str) {
        let mut depth = 0;
        for (at, letter) in types.char_indices() {
            match letter {
                '(' | '<' | '[' => depth += 1,
                ')' | '>' | ']' => depth -= 1,
                ',' if depth == 0 => return (types[..at].trim(), types[at + 1..].trim().trim_end_matches(',')),
                _ => {}
            }
        }
        panic!("no comma between key and value: {types}")
    }

    #[test]
    fn every_table_is_documented_and_has_an_id_of_its_own() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let document = fs::read_to_string(root.join("../../docs/STORAGE.md")).unwrap();
        let tables = scan_sources(&root.join("src/tables"));
        assert!(tables.len() > 20, "the sources are not read right: {} tables found", tables.len());
        let mut seen = BTreeMap::new();
        for (id, row, file) in &tables {
            if let Some(other) = seen.insert(id, row) {
                panic!("two tables of one id: {other} and {row} in {file}.rs");
            }
            let name = row.split('`').nth(1).unwrap();
            assert_eq!(
                tables.iter().filter(|(_, other, _)| other.split('`').nth(1) == Some(name)).count(),
                1,
                "two tables named {name}"
            );
        }
        let (_, document) = document.split_once("\n## Tables\n").unwrap();
        let rows: Vec<_> = document
            .lines()
            .filter(|line| line.trim_start_matches("| ").starts_with(|letter: char| letter.is_ascii_digit()))
            .collect();
        let missing: Vec<_> =
            tables.iter().filter(|(_, row, _)| !rows.iter().any(|line| line.starts_with(row))).collect();
        let missing: Vec<_> = missing.iter().map(|(_, row, file)| format!("{file}: {row} what it is |")).collect();
        assert!(
            missing.is_empty(),
            "docs/STORAGE.md lacks these rows, or has others for their tables:\n{}",
            missing.join("\n")
        );
        let stale: Vec<_> =
            rows.iter().filter(|line| !tables.iter().any(|(_, row, _)| line.starts_with(row))).collect();
        assert!(stale.is_empty(), "docs/STORAGE.md describes tables that are not there: {stale:#?}");
    }

    #[test]
    fn a_prefix_ends_where_its_last_byte_rises() {
        assert_eq!(prefix_end(&[1, 2]), [1, 3]);
        assert_eq!(prefix_end(&[1, 255]), [2]);
        assert_eq!(prefix_end(&[7, 255, 255]), [8]);
    }
}
