//! A unit of writing: rows for prepared batch statements, committed together or not at all.
//! Not for reads, and not for writes that depend on what they read (see `Writer::transact`).

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use super::Cell;

/// A statement that writes any number of rows, given as `$1`: a JSON array of arrays.
#[derive(Debug)]
pub struct Statement {
    /// The table it writes. Two statements of one table never share a batch for the same
    /// first cell, since PostgreSQL runs the statements of a batch side by side.
    pub table: &'static str,
    /// How many leading cells identify the row; of rows with the same key the last one wins.
    /// Zero for rows that never repeat.
    pub key: usize,
    /// One text for both databases; `$1` is its only parameter.
    pub sql: &'static str,
}

/// Where a committed job lies in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Committed {
    /// The position that `Cell::Position(0)` became.
    pub first_position: i64,
}

impl Committed {
    /// The position that `Cell::Position(offset)` became.
    pub fn position(self, offset: u32) -> i64 {
        self.first_position + i64::from(offset)
    }
}

type CommitHook = Box<dyn FnOnce(Committed) + Send>;
type FailureHook = Box<dyn FnOnce() + Send>;

/// Rows of one operation on their way to the writer.
#[derive(Default)]
pub struct WriteTx {
    pub(super) rows: Vec<(&'static Statement, Vec<Cell>)>,
    pub(super) positions: u32,
    pub(super) commit_hooks: Vec<CommitHook>,
    pub(super) publish_hooks: Vec<CommitHook>,
    pub(super) failure_hooks: Vec<FailureHook>,
    pub(super) guards: Vec<(Arc<AtomicU64>, u64)>,
}

impl WriteTx {
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a row to what `statement` will write.
    pub fn push(&mut self, statement: &'static Statement, row: Vec<Cell>) {
        self.rows.push((statement, row));
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// A stream position, assigned at commit.
    pub fn next_position(&mut self) -> u32 {
        self.positions += 1;
        self.positions - 1
    }

    /// How many positions the job takes so far.
    pub fn positions(&self) -> u32 {
        self.positions
    }

    /// Has `hook` run right after the commit, in the order of commits, before the new
    /// positions are published. It must not block.
    pub fn after_commit(&mut self, hook: impl FnOnce(Committed) + Send + 'static) {
        self.commit_hooks.push(Box::new(hook));
    }

    /// Has `hook` run when the new positions are published: the place to wake who waits.
    pub fn after_publish(&mut self, hook: impl FnOnce(Committed) + Send + 'static) {
        self.publish_hooks.push(Box::new(hook));
    }

    /// Has `hook` run when the rows could not be committed, before any later job is tried.
    pub fn after_failure(&mut self, hook: impl FnOnce() + Send + 'static) {
        self.failure_hooks.push(Box::new(hook));
    }

    /// Refuses the job when `epoch` no longer is `expected` by the time it would be written:
    /// what it builds upon was not committed.
    pub fn guard(&mut self, epoch: Arc<AtomicU64>, expected: u64) {
        self.guards.push((epoch, expected));
    }

    /// Has the rows of `other` written in the same commit, behind these, or none of both.
    pub fn absorb(&mut self, other: Self) {
        let shift = self.positions;
        let moved = |cell: Cell| match cell {
            Cell::Position(offset) => Cell::Position(offset + shift),
            Cell::Ordering(offset) => Cell::Ordering(offset + shift),
            cell => cell,
        };
        let rows = other.rows.into_iter();
        self.rows.extend(rows.map(|(s, row)| (s, row.into_iter().map(moved).collect())));
        self.positions += other.positions;
        let behind = |hook: CommitHook| -> CommitHook {
            Box::new(move |committed| {
                hook(Committed { first_position: committed.position(shift) });
            })
        };
        self.commit_hooks.extend(other.commit_hooks.into_iter().map(behind));
        self.publish_hooks.extend(other.publish_hooks.into_iter().map(behind));
        self.failure_hooks.extend(other.failure_hooks);
        self.guards.extend(other.guards);
    }

    pub(super) fn is_superseded(&self) -> bool {
        let is_lost =
            |(epoch, expected): &(Arc<AtomicU64>, u64)| epoch.load(Ordering::Acquire) != *expected;
        self.guards.iter().any(is_lost)
    }

    /// An upper bound of its size as JSON, roughly.
    pub(super) fn weight_bytes(&self) -> usize {
        let cell = |cell: &Cell| match cell {
            Cell::Text(text) => text.len() + text.len() / 8 + 4,
            Cell::Bytes(bytes) => bytes.len() * 2 + 4,
            _ => 12,
        };
        self.rows.iter().flat_map(|(_, row)| row).map(cell).sum()
    }
}
