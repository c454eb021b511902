//! The tree's canonical form, and how it is read and changed.
//!
//! A 16-way radix trie over a bijective mix of the state key's number, which spreads consecutive numbers evenly. A subtree of
//! up to [`LEAF_MAX`] entries is one leaf, sorted by mixed key; a larger one is a branch on the next four bits. So the shape
//! depends on the set of entries alone. A node's name is the first 16 bytes of the SHA-256 of its bytes.
//!
//! Depth is at most 16, for the mix has 64 bits; the recursion below is bounded by that.

use std::{collections::BTreeMap, sync::Arc};

use chappe_store::{DecodeError, EventNid, StateKeyNid, StoreError, tables::state::STATE_NODES};
use sha2::{Digest, Sha256};

use super::{EMPTY, StateRoot};

/// The most entries a leaf has. Part of the canonical form: changing it changes every root.
pub(super) const LEAF_MAX: usize = 16;

/// Branches above each other: one for each four bits of the mixed key.
const DEPTH_MAX: u32 = 16;

const LEAF: u8 = 1;
const BRANCH: u8 = 2;

/// An entry, with the mixed key that is its path from the root.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Entry {
    pub(super) path: u64,
    pub(super) key: StateKeyNid,
    pub(super) event: EventNid,
}

/// A node. Bytes: a kind, then for a leaf its entries (key, event), for a branch the number of entries below it, a bitmap of the
/// children that exist, and their names. Numbers are big-endian.
#[derive(PartialEq, Eq, Debug)]
pub(super) enum Node {
    Leaf(Vec<Entry>),
    Branch(Box<Branch>),
}

#[derive(PartialEq, Eq, Debug)]
pub(super) struct Branch {
    count: u64,
    children: [Option<StateRoot>; 16],
}

impl Branch {
    pub(super) fn child(&self, nibble: usize) -> Option<StateRoot> {
        self.children.get(nibble).copied().flatten()
    }
}

/// Where nodes are read from.
pub(super) trait NodeSource {
    fn load(&self, hash: StateRoot) -> Result<Arc<Node>, StoreError>;
}

/// A bijection on 64 bits in which each bit of the answer depends on every bit of the input.
pub(super) fn path_of(key: StateKeyNid) -> u64 {
    let mut mixed = key.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// The four bits of a path that a branch at this depth looks at.
pub(super) fn nibble(path: u64, depth: u32) -> usize {
    ((path >> (60 - 4 * depth.min(DEPTH_MAX - 1))) & 0xf) as usize
}

fn damaged(message: &str) -> StoreError {
    StoreError::Decode { table: STATE_NODES.name, cause: DecodeError::new(message) }
}

/// Refuses to go deeper than any honest tree goes.
pub(super) fn check_depth(depth: u32) -> Result<(), StoreError> {
    if depth < DEPTH_MAX { Ok(()) } else { Err(damaged("a state tree is too deep")) }
}

impl Node {
    pub(super) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Leaf(entries) => {
                let mut bytes = Vec::with_capacity(1 + entries.len() * 16);
                bytes.push(LEAF);
                for entry in entries {
                    bytes.extend_from_slice(&entry.key.0.to_be_bytes());
                    bytes.extend_from_slice(&entry.event.0.to_be_bytes());
                }
                bytes
            }
            Self::Branch(branch) => {
                let mut bytes = Vec::with_capacity(11 + 16 * 16);
                bytes.push(BRANCH);
                bytes.extend_from_slice(&branch.count.to_be_bytes());
                let bitmap =
                    branch.children.iter().rev().fold(0u16, |bitmap, child| bitmap << 1 | u16::from(child.is_some()));
                bytes.extend_from_slice(&bitmap.to_be_bytes());
                branch.children.iter().flatten().for_each(|child| bytes.extend_from_slice(child));
                bytes
            }
        }
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        match bytes.split_first() {
            Some((&LEAF, rest)) => decode_leaf(rest).map(Self::Leaf),
            Some((&BRANCH, rest)) => decode_branch(rest).map(|branch| Self::Branch(Box::new(branch))),
            _ => Err(DecodeError::new("a state node of an unknown kind")),
        }
    }

    fn hash(&self) -> StateRoot {
        let digest: [u8; 32] = Sha256::digest(self.encode()).into();
        let mut hash = EMPTY;
        hash.copy_from_slice(&digest[..16]);
        hash
    }
}

/// What the bytes of a node come to, for who checks stored nodes.
pub(crate) struct NodeParts {
    /// The name that goes with these bytes.
    pub(crate) name: StateRoot,
    pub(crate) children: Vec<StateRoot>,
    pub(crate) entries: Vec<(StateKeyNid, EventNid)>,
}

impl NodeParts {
    pub(crate) fn read(bytes: &[u8]) -> Result<Self, DecodeError> {
        let node = Node::decode(bytes)?;
        let name = node.hash();
        Ok(match node {
            Node::Leaf(entries) => Self {
                name,
                children: Vec::new(),
                entries: entries.into_iter().map(|entry| (entry.key, entry.event)).collect(),
            },
            Node::Branch(branch) => {
                Self { name, children: branch.children.into_iter().flatten().collect(), entries: Vec::new() }
            }
        })
    }
}

fn decode_leaf(bytes: &[u8]) -> Result<Vec<Entry>, DecodeError> {
    let (entries, rest) = bytes.as_chunks::<16>();
    if !rest.is_empty() || entries.is_empty() || entries.len() > LEAF_MAX {
        return Err(DecodeError::new("a state leaf has the wrong length"));
    }
    let entry = |bytes: &[u8; 16]| {
        let both = u128::from_be_bytes(*bytes);
        let key = StateKeyNid((both >> 64) as u64);
        Entry { path: path_of(key), key, event: EventNid(both as u64) }
    };
    Ok(entries.iter().map(entry).collect())
}

fn decode_branch(bytes: &[u8]) -> Result<Branch, DecodeError> {
    let too_short = || DecodeError::new("a state branch is too short");
    let (count, bytes) = bytes.split_first_chunk::<8>().ok_or_else(too_short)?;
    let (bitmap, bytes) = bytes.split_first_chunk::<2>().ok_or_else(too_short)?;
    let (names, rest) = bytes.as_chunks::<16>();
    let bitmap = u16::from_be_bytes(*bitmap);
    if !rest.is_empty() || names.len() != bitmap.count_ones() as usize {
        return Err(DecodeError::new("a state branch has the wrong length"));
    }
    let mut names = names.iter().copied();
    let mut children = [None; 16];
    for (nibble, child) in children.iter_mut().enumerate() {
        if bitmap >> nibble & 1 == 1 {
            *child = names.next();
        }
    }
    Ok(Branch { count: u64::from_be_bytes(*count), children })
}

pub(super) fn get(source: &impl NodeSource, root: StateRoot, key: StateKeyNid) -> Result<Option<EventNid>, StoreError> {
    let path = path_of(key);
    let mut hash = root;
    for depth in 0.. {
        if hash == EMPTY {
            break;
        }
        match &*source.load(hash)? {
            Node::Leaf(entries) => {
                let found = entries.binary_search_by_key(&path, |entry| entry.path).ok();
                return Ok(found.and_then(|at| entries.get(at)).map(|entry| entry.event));
            }
            Node::Branch(branch) => {
                check_depth(depth)?;
                let Some(child) = branch.child(nibble(path, depth)) else { break };
                hash = child;
            }
        }
    }
    Ok(None)
}

pub(super) fn len(source: &impl NodeSource, root: StateRoot) -> Result<usize, StoreError> {
    if root == EMPTY {
        return Ok(0);
    }
    Ok(match &*source.load(root)? {
        Node::Leaf(entries) => entries.len(),
        Node::Branch(branch) => usize::try_from(branch.count).unwrap_or(usize::MAX),
    })
}

pub(super) fn entries(source: &impl NodeSource, root: StateRoot) -> Result<Vec<(StateKeyNid, EventNid)>, StoreError> {
    let mut found = Vec::new();
    let mut waiting = Vec::new();
    if root != EMPTY {
        waiting.push((root, 0));
    }
    while let Some((hash, depth)) = waiting.pop() {
        match &*source.load(hash)? {
            Node::Leaf(entries) => found.extend(entries.iter().map(|entry| (entry.key, entry.event))),
            Node::Branch(branch) => {
                check_depth(depth)?;
                waiting.extend(branch.children.iter().rev().flatten().map(|child| (*child, depth + 1)));
            }
        }
    }
    Ok(found)
}

/// A new state: its root, and the nodes that it has and its base has not.
pub(super) struct Updated {
    pub(super) root: StateRoot,
    pub(super) fresh: Vec<(StateRoot, Arc<Node>)>,
}

pub(super) fn update(
    source: &impl NodeSource,
    root: StateRoot,
    changes: impl IntoIterator<Item = (StateKeyNid, Option<EventNid>)>,
) -> Result<Updated, StoreError> {
    // Sorted by path, and the last change to a key wins.
    let changes: BTreeMap<u64, (StateKeyNid, Option<EventNid>)> =
        changes.into_iter().map(|(key, event)| (path_of(key), (key, event))).collect();
    let changes: Vec<Change> = changes.into_iter().map(|(path, (key, event))| Change { path, key, event }).collect();
    let mut editor = Editor { source, fresh: Vec::new() };
    if changes.is_empty() {
        return Ok(Updated { root, fresh: editor.fresh });
    }
    let base = (root != EMPTY).then_some(root);
    let edited = editor.edit(base, 0, &changes)?;
    let root = editor.name_of(edited.subtree, base).unwrap_or(EMPTY);
    Ok(Updated { root, fresh: editor.fresh })
}

#[derive(Clone, Copy)]
struct Change {
    path: u64,
    key: StateKeyNid,
    event: Option<EventNid>,
}

/// A changed subtree.
enum Subtree {
    /// At most [`LEAF_MAX`] entries, not a node yet: a leaf may still be merged with its neighbours.
    Few(Vec<Entry>),
    /// A branch, with its name.
    Many(StateRoot),
}

struct Edited {
    subtree: Subtree,
    /// By how many entries it has grown.
    grown: i64,
}

struct Editor<'a, S> {
    source: &'a S,
    fresh: Vec<(StateRoot, Arc<Node>)>,
}

impl<S: NodeSource> Editor<'_, S> {
    fn edit(&mut self, base: Option<StateRoot>, depth: u32, changes: &[Change]) -> Result<Edited, StoreError> {
        let Some(hash) = base else { return Ok(self.edit_leaf(&[], depth, changes)) };
        match &*self.source.load(hash)? {
            Node::Leaf(entries) => Ok(self.edit_leaf(entries, depth, changes)),
            Node::Branch(branch) => self.edit_branch(hash, branch, depth, changes),
        }
    }

    fn edit_leaf(&mut self, old: &[Entry], depth: u32, changes: &[Change]) -> Edited {
        let mut entries: BTreeMap<u64, Entry> = old.iter().map(|entry| (entry.path, *entry)).collect();
        for change in changes {
            match change.event {
                Some(event) => entries.insert(change.path, Entry { path: change.path, key: change.key, event }),
                None => entries.remove(&change.path),
            };
        }
        let entries: Vec<Entry> = entries.into_values().collect();
        let grown = difference(entries.len(), old.len());
        Edited { subtree: self.grow(entries, depth), grown }
    }

    /// The subtree of these entries, which are sorted by path.
    fn grow(&mut self, entries: Vec<Entry>, depth: u32) -> Subtree {
        if entries.len() <= LEAF_MAX {
            return Subtree::Few(entries);
        }
        let mut children = [None; 16];
        for part in entries.chunk_by(|a, b| nibble(a.path, depth) == nibble(b.path, depth)) {
            let Some(first) = part.first() else { continue };
            let subtree = self.grow(part.to_vec(), depth + 1);
            let name = self.name_of(subtree, None);
            if let Some(child) = children.get_mut(nibble(first.path, depth)) {
                *child = name;
            }
        }
        Subtree::Many(self.keep(Node::Branch(Box::new(Branch { count: entries.len() as u64, children })), None))
    }

    fn edit_branch(
        &mut self,
        hash: StateRoot,
        branch: &Branch,
        depth: u32,
        changes: &[Change],
    ) -> Result<Edited, StoreError> {
        check_depth(depth)?;
        let mut edited: [Option<Subtree>; 16] = Default::default();
        let mut grown = 0;
        for part in changes.chunk_by(|a, b| nibble(a.path, depth) == nibble(b.path, depth)) {
            let Some(first) = part.first() else { continue };
            let at = nibble(first.path, depth);
            let child = self.edit(branch.child(at), depth + 1, part)?;
            grown += child.grown;
            if let Some(slot) = edited.get_mut(at) {
                *slot = Some(child.subtree);
            }
        }
        let count = branch.count.saturating_add_signed(grown);
        if count <= LEAF_MAX as u64 {
            return Ok(Edited { subtree: Subtree::Few(self.collapse(branch, edited)?), grown });
        }
        let mut children = branch.children;
        for (child, edited) in children.iter_mut().zip(edited) {
            if let Some(subtree) = edited {
                *child = self.name_of(subtree, *child);
            }
        }
        if children == branch.children {
            return Ok(Edited { subtree: Subtree::Many(hash), grown });
        }
        let name = self.keep(Node::Branch(Box::new(Branch { count, children })), Some(hash));
        Ok(Edited { subtree: Subtree::Many(name), grown })
    }

    /// The entries of a branch that has become small enough for a leaf.
    fn collapse(&self, branch: &Branch, edited: [Option<Subtree>; 16]) -> Result<Vec<Entry>, StoreError> {
        let mut entries = Vec::with_capacity(LEAF_MAX);
        for (child, edited) in branch.children.iter().zip(edited) {
            match (edited, child) {
                (Some(Subtree::Few(few)), _) => entries.extend(few),
                (None, None) => {}
                (None, Some(child)) => match &*self.source.load(*child)? {
                    Node::Leaf(few) => entries.extend_from_slice(few),
                    Node::Branch(_) => return Err(damaged("a state branch counts fewer entries than it has")),
                },
                (Some(Subtree::Many(_)), _) => return Err(damaged("a state branch counts fewer entries than it has")),
            }
        }
        Ok(entries)
    }

    /// The name of a subtree's node; `None` if it is empty. `base` is the node in whose place it comes.
    fn name_of(&mut self, subtree: Subtree, base: Option<StateRoot>) -> Option<StateRoot> {
        match subtree {
            Subtree::Many(hash) => Some(hash),
            Subtree::Few(entries) if entries.is_empty() => None,
            Subtree::Few(entries) => Some(self.keep(Node::Leaf(entries), base)),
        }
    }

    /// Names a node, and keeps it for writing unless it is the one it was made from.
    fn keep(&mut self, node: Node, base: Option<StateRoot>) -> StateRoot {
        let hash = node.hash();
        if base != Some(hash) {
            self.fresh.push((hash, Arc::new(node)));
        }
        hash
    }
}

fn difference(new: usize, old: usize) -> i64 {
    // Both are lengths of lists in memory.
    new as i64 - old as i64
}
