//! The inodes that the kernel on the other side knows.
//!
//! Each answer that names an inode is one look-up more, and the kernel gives them back by `forget`, some at a time. While it has one,
//! it may ask for the inode by number; so the inode is kept in use here, and a file that is unlinked while it is open, or a
//! directory that is removed while somebody stands in it, lives on until the kernel forgets it. The root is never forgotten.
//!
//! One lock over one map; nothing is done under it but counting. An inode is dropped without it: the drop may end a file.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use fs::Ino;

/// Inodes by number, each with the look-ups that the kernel has.
pub struct Nodes<N> {
    known: Mutex<HashMap<Ino, Known<N>>>,
}

struct Known<N> {
    node: Arc<N>,
    lookups: u64,
}

impl<N> Default for Nodes<N> {
    fn default() -> Self {
        let known = Mutex::default();
        Self { known }
    }
}

impl<N> Nodes<N> {
    fn with<R>(&self, f: impl FnOnce(&mut HashMap<Ino, Known<N>>) -> R) -> R {
        // A thread that panicked with the lock has counted or not: the map is whole either way.
        f(&mut self.known.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// The inode of a number that the kernel knows.
    pub fn get(&self, ino: Ino) -> Option<Arc<N>> {
        self.with(|known| known.get(&ino).map(|known| known.node.clone()))
    }

    /// The kernel is about to learn of `node` once more.
    pub fn look_up(&self, ino: Ino, node: &Arc<N>) {
        self.with(|known| {
            let entry = known.entry(ino).or_insert_with(|| Known {
                node: node.clone(),
                lookups: 0,
            });
            entry.lookups = entry.lookups.saturating_add(1);
        });
    }

    /// The kernel gives back `lookups`. Returns the inode if those were the last.
    #[must_use = "dropping it may end the file"]
    pub fn forget(&self, ino: Ino, lookups: u64) -> Option<Arc<N>> {
        self.with(|known| {
            let entry = known.get_mut(&ino)?;
            entry.lookups = entry.lookups.saturating_sub(lookups);
            let over = entry.lookups == 0;
            over.then(|| known.remove(&ino).map(|known| known.node))?
        })
    }

    /// The kernel is gone.
    pub fn clear(&self) {
        // Dropped without the lock.
        let _all = self.with(std::mem::take);
    }
}

#[cfg(test)]
mod tests {
    use super::Nodes;
    use std::sync::Arc;

    #[test]
    fn an_inode_is_kept_until_its_last_look_up_is_given_back() {
        let (nodes, node) = (Nodes::default(), Arc::new("file"));
        (0..3).for_each(|_| nodes.look_up(7, &node));
        assert!(nodes.forget(7, 2).is_none());
        assert_eq!(Arc::strong_count(&node), 2);
        assert!(nodes.get(7).is_some());
        assert!(nodes.forget(7, 1).is_some());
        assert!(nodes.get(7).is_none());
        assert_eq!(Arc::strong_count(&node), 1);
    }

    #[test]
    fn what_was_never_known_is_not_forgotten() {
        assert!(Nodes::<u8>::default().forget(1, 1).is_none());
    }
}
