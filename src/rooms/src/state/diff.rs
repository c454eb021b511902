//! The difference of two state trees, at the cost of what differs.

use std::sync::Arc;

use chappe_store::{EventNid, StateKeyNid, StoreError};

use super::{
    EMPTY, StateRoot,
    tree::{Entry, Node, NodeSource, check_depth, nibble},
};

/// One key whose entry differs between two states.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StateChange {
    pub key: StateKeyNid,
    pub old: Option<EventNid>,
    pub new: Option<EventNid>,
}

/// One side of a comparison: a node, or some entries of a leaf that is compared with a branch.
enum Side {
    Node(StateRoot),
    Entries(Vec<Entry>),
}

impl Side {
    fn of(root: Option<StateRoot>) -> Self {
        match root {
            Some(root) if root != EMPTY => Self::Node(root),
            _ => Self::Entries(Vec::new()),
        }
    }
}

enum Loaded {
    Node(Arc<Node>),
    Entries(Vec<Entry>),
}

impl Loaded {
    fn entries(&self) -> Option<&[Entry]> {
        match self {
            Self::Entries(entries) => Some(entries),
            Self::Node(node) => match &**node {
                Node::Leaf(entries) => Some(entries),
                Node::Branch(_) => None,
            },
        }
    }

    /// What this side has below a branch's child.
    fn child(&self, at: usize, depth: u32) -> Side {
        if let Self::Node(node) = self
            && let Node::Branch(branch) = &**node
        {
            return Side::of(branch.child(at));
        }
        let entries = self.entries().unwrap_or_default();
        Side::Entries(entries.iter().filter(|entry| nibble(entry.path, depth) == at).copied().collect())
    }
}

/// The keys whose entries differ, in order of path.
pub(super) fn diff(source: &impl NodeSource, a: StateRoot, b: StateRoot) -> Result<Vec<StateChange>, StoreError> {
    let load = |side: Side| -> Result<Loaded, StoreError> {
        Ok(match side {
            Side::Node(hash) => Loaded::Node(source.load(hash)?),
            Side::Entries(entries) => Loaded::Entries(entries),
        })
    };
    let mut changes = Vec::new();
    let mut waiting = vec![(Side::of(Some(a)), Side::of(Some(b)), 0)];
    while let Some((a, b, depth)) = waiting.pop() {
        match (&a, &b) {
            (Side::Node(a), Side::Node(b)) if a == b => continue,
            (Side::Entries(a), Side::Entries(b)) if a == b => continue,
            _ => {}
        }
        let (a, b) = (load(a)?, load(b)?);
        if let (Some(a), Some(b)) = (a.entries(), b.entries()) {
            diff_entries(a, b, &mut changes);
            continue;
        }
        check_depth(depth)?;
        for at in (0..16).rev() {
            waiting.push((a.child(at, depth), b.child(at, depth), depth + 1));
        }
    }
    Ok(changes)
}

/// Merges two lists that are sorted by path.
fn diff_entries(mut a: &[Entry], mut b: &[Entry], changes: &mut Vec<StateChange>) {
    loop {
        let (old, new) = match (a.first(), b.first()) {
            (None, None) => return,
            (Some(old), Some(new)) if old.path == new.path => (Some(old), Some(new)),
            (Some(old), Some(new)) if old.path < new.path => (Some(old), None),
            (Some(old), None) => (Some(old), None),
            (_, new) => (None, new),
        };
        let Some(key) = old.or(new).map(|entry| entry.key) else { return };
        if old.is_some() {
            a = a.get(1..).unwrap_or_default();
        }
        if new.is_some() {
            b = b.get(1..).unwrap_or_default();
        }
        let (old, new) = (old.map(|entry| entry.event), new.map(|entry| entry.event));
        if old != new {
            changes.push(StateChange { key, old, new });
        }
    }
}
