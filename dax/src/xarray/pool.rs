//! The nodes of all arrays: type-stable memory.
//!
//! A [`NodePool`] owns chunks of [`Node`]s and never gives one back before the pool itself goes. So a number that once named
//! a node names a node for ever, and a reader that follows a stale number reads some node's atomics, never freed memory; the
//! array's sequence counter then tells it that what it read is void (see [`crate::xarray`]). Chunk k has 16·2^k nodes:
//! the directory is small and fixed, and at most half of the memory is unused.
//!
//! Taking nodes never allocates: [`NodePool::take`] gives all the nodes asked for, or none. [`NodePool::grow`] is the only place
//! that allocates; it runs with no lock held. Giving back cannot fail.

use crate::xarray::node::{NONE, Node};
use alloc::boxed::Box;
use alloc::sync::Arc;
use alloc::vec::Vec;
use mm::mem::{OutOfMemory, check_headroom};
use mm::sync::{SpinLock, class};
use spin::Once;

const FIRST_CHUNK: u32 = 16;
const CHUNKS: usize = 24;

/// The most nodes that one insertion can need: eight to grow the tree upwards, eight to go down again.
pub(crate) const MAX_TAKE: usize = 17;

/// Fixed-size nodes for any number of arrays. Shared by reference count.
pub struct NodePool {
    chunks: [Once<Box<[Node]>>; CHUNKS],
    state: SpinLock<State>,
}

/// The free nodes: those given back, as a list through `Node::next`; and those of the chunks never yet handed out.
struct State {
    free_head: u32,
    free_len: u32,
    fresh: u32,
    total: u32,
    chunks: usize,
}

/// How many nodes a pool has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolStats {
    /// Nodes in all chunks.
    pub total: u32,
    /// Nodes that belong to an array now.
    pub used: u32,
}

/// Nodes taken from a pool and not yet part of an array.
pub(crate) type Taken = arrayvec::ArrayVec<u32, MAX_TAKE>;

impl NodePool {
    /// A pool with room for at least `nodes` nodes before it has to grow.
    ///
    /// Error: no memory for the chunks.
    pub fn new(nodes: u32) -> Result<Arc<Self>, OutOfMemory> {
        let state = State {
            free_head: NONE,
            free_len: 0,
            fresh: 0,
            total: 0,
            chunks: 0,
        };
        let pool = Self {
            chunks: [const { Once::new() }; CHUNKS],
            state: SpinLock::with_class(&class::NODES, state),
        };
        while pool.stats().total < nodes {
            pool.grow()?;
        }
        check_headroom()?;
        Ok(Arc::new(pool))
    }

    /// How many nodes there are and how many are in use.
    pub fn stats(&self) -> PoolStats {
        let state = self.state.lock();
        PoolStats {
            total: state.total,
            used: state.fresh - state.free_len,
        }
    }

    /// The node with this number. `None` only for a number that was never handed out, which a reader may get from a torn walk.
    pub(crate) fn get(&self, number: u32) -> Option<&Node> {
        let chunk = (number / FIRST_CHUNK + 1).ilog2();
        let first = ((1 << chunk) - 1) * FIRST_CHUNK;
        self.chunks
            .get(chunk as usize)?
            .get()?
            .get((number - first) as usize)
    }

    /// Takes `count` nodes, all or none.
    pub(crate) fn take(&self, count: usize) -> Option<Taken> {
        let mut state = self.state.lock();
        if (state.free_len + state.total - state.fresh) < count as u32 {
            return None;
        }
        (0..count).map(|_| self.take_one(&mut state)).collect()
    }

    fn take_one(&self, state: &mut State) -> Option<u32> {
        let number = state.free_head;
        if number == NONE {
            let fresh = state.fresh;
            state.fresh += 1;
            return Some(fresh);
        }
        state.free_head = self.get(number)?.next();
        state.free_len -= 1;
        Some(number)
    }

    /// Gives one node back. Its slots and marks are zero.
    pub(crate) fn give(&self, number: u32) {
        let Some(node) = self.get(number) else { return };
        debug_assert!(node.is_blank(), "a node with content was given back");
        let mut state = self.state.lock();
        node.set_next(state.free_head);
        state.free_head = number;
        state.free_len += 1;
    }

    /// Adds a chunk. If another thread added one meanwhile, that one will do.
    ///
    /// Error: no memory (it leaves the heap's headroom alone), or the directory is full. Locks: none while it allocates.
    pub(crate) fn grow(&self) -> Result<(), OutOfMemory> {
        let chunk = self.state.lock().chunks;
        let slot = self.chunks.get(chunk).ok_or(OutOfMemory)?;
        check_headroom()?;
        let nodes = new_chunk(FIRST_CHUNK << chunk)?;
        let mut state = self.state.lock();
        if state.chunks == chunk {
            state.total += nodes.len() as u32;
            state.chunks += 1;
            slot.call_once(|| nodes);
        }
        Ok(())
    }
}

fn new_chunk(count: u32) -> Result<Box<[Node]>, OutOfMemory> {
    let mut nodes = Vec::new();
    nodes
        .try_reserve_exact(count as usize)
        .map_err(|_| OutOfMemory)?;
    nodes.extend((0..count).map(|_| Node::new()));
    Ok(nodes.into_boxed_slice())
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;

    #[test]
    fn numbers_name_distinct_nodes_across_chunks() {
        let pool = NodePool::new(100).unwrap();
        let total = pool.stats().total;
        let mut seen: Vec<*const Node> = (0..total)
            .map(|n| pool.get(n).unwrap() as *const Node)
            .collect();
        seen.sort();
        seen.dedup();
        assert_eq!(seen.len() as u32, total);
        assert!(pool.get(total).is_none());
    }

    #[test]
    fn taking_is_all_or_nothing() {
        let pool = NodePool::new(1).unwrap();
        let total = pool.stats().total;
        let mut held: Vec<u32> = (0..total - 1).flat_map(|_| pool.take(1).unwrap()).collect();
        assert!(pool.take(2).is_none());
        assert_eq!(pool.stats().used, total - 1);
        held.extend(pool.take(1).unwrap());
        held.sort();
        held.dedup();
        assert_eq!(held.len() as u32, total);
        held.drain(..).for_each(|n| pool.give(n));
        assert_eq!(pool.stats().used, 0);
    }

    #[test]
    fn growing_keeps_old_nodes_in_place() {
        let pool = NodePool::new(1).unwrap();
        let before = pool.get(3).unwrap() as *const Node;
        for _ in 0..4 {
            pool.grow().unwrap();
        }
        assert_eq!(pool.get(3).unwrap() as *const Node, before);
        assert_eq!(pool.stats().total, 16 + 32 + 64 + 128 + 256);
    }
}
