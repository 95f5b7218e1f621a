//! Which entries have names of a hash.
//!
//! A hash table that is full is made anew, twice as large, and all of it is moved: too long to wait for under a lock when a directory has
//! a million names. So a directory with more than 4,096 has 64 tables, chosen by some bits of the hash, each of which grows on
//! its own: with a million names the longest move is of 16,000 entries.

use alloc::vec::Vec;

use hashbrown::HashTable;
use mm::mem::OutOfMemory;

use super::Found;

/// Tables of a large directory.
const TABLES: usize = 64;
/// Names that one table may have.
const SMALL: usize = 4096;

#[derive(Debug)]
struct Entry {
    hash: u32,
    found: Found,
}

/// Entries by the hashes of their names.
#[derive(Debug, Default)]
pub(super) struct Names {
    /// None, one, or [`TABLES`].
    tables: Vec<HashTable<Entry>>,
    len: usize,
}

/// The bits of the hash of a name, spread: a table uses the highest and the lowest.
fn spread(hash: u32) -> u64 {
    u64::from(hash).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn spread_of(entry: &Entry) -> u64 {
    spread(entry.hash)
}

fn more(table: &mut HashTable<Entry>) -> Result<(), OutOfMemory> {
    table.try_reserve(1, spread_of).map_err(|_| OutOfMemory)
}

impl Names {
    /// Entries.
    pub const fn len(&self) -> usize {
        self.len
    }

    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    fn place(&self, hash: u32) -> usize {
        // 0 or 1 or a power of two.
        hash as usize & self.tables.len().saturating_sub(1)
    }

    /// Takes the memory for one more entry of this hash.
    pub fn reserve(&mut self, hash: u32) -> Result<(), OutOfMemory> {
        if self.tables.is_empty() || self.len == SMALL && self.tables.len() == 1 {
            self.divide()?;
        }
        let place = self.place(hash);
        more(&mut self.tables[place])
    }

    /// From none to one table, from one to many.
    fn divide(&mut self) -> Result<(), OutOfMemory> {
        let count = if self.tables.is_empty() { 1 } else { TABLES };
        let mut tables = Vec::new();
        tables.try_reserve_exact(count).map_err(|_| OutOfMemory)?;
        tables.resize_with(count, HashTable::new);
        // All that can fail, before anything is moved.
        for table in &mut tables {
            let share = self.len / count * 5 / 4;
            table
                .try_reserve(share, spread_of)
                .map_err(|_| OutOfMemory)?;
        }
        let mut new = Self { tables, len: 0 };
        for table in &mut self.tables {
            for entry in table.drain() {
                new.put(entry);
            }
        }
        *self = new;
        Ok(())
    }

    fn put(&mut self, entry: Entry) {
        let place = self.place(entry.hash);
        self.tables[place].insert_unique(spread(entry.hash), entry, spread_of);
        self.len += 1;
    }

    /// Notes an entry of a slot that had none. Takes no memory if it was reserved.
    pub fn add(&mut self, hash: u32, found: Found) {
        if self.tables.is_empty() {
            self.tables.push(HashTable::new());
        }
        self.put(Entry { hash, found });
    }

    /// Notes what an entry that is there names from now on.
    pub fn replace(&mut self, hash: u32, found: Found) {
        let place = self.place(hash);
        let same = |entry: &Entry| entry.found.slot == found.slot && entry.hash == hash;
        let table = self.tables.get_mut(place);
        if let Some(entry) = table.and_then(|table| table.find_mut(spread(hash), same)) {
            entry.found = found;
        }
    }

    /// Forgets an entry.
    pub fn remove(&mut self, hash: u32, slot: u32) {
        let place = self.place(hash);
        let Some(table) = self.tables.get_mut(place) else {
            return;
        };
        let same = |entry: &Entry| entry.found.slot == slot && entry.hash == hash;
        if let Ok(entry) = table.find_entry(spread(hash), same) {
            entry.remove();
            self.len -= 1;
        }
    }

    /// All entries whose names have this hash.
    pub fn with_hash(&self, hash: u32) -> impl Iterator<Item = Found> {
        let table = self.tables.get(self.place(hash));
        let entries = table
            .into_iter()
            .flat_map(move |t| t.iter_hash(spread(hash)));
        entries.filter(move |e| e.hash == hash).map(|e| e.found)
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use crate::layout::Kind;
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    proptest! {
        /// Many entries of few hashes, and few of many, through the division and back.
        #[test]
        fn behaves_as_a_map(
            grown in 0u32..6000,
            steps in prop::collection::vec((any::<bool>(), 0u32..400, 0u32..30), 1..300),
        ) {
            let (mut names, mut model) = (Names::default(), BTreeMap::new());
            let put = |names: &mut Names, model: &mut BTreeMap<_, _>, hash: u32, slot: u32, ino: u32| {
                let found = Found { slot, ino, kind: Kind::File };
                if model.insert((hash, slot), found).is_some() {
                    names.replace(hash, found);
                } else {
                    names.reserve(hash).expect("memory");
                    names.add(hash, found);
                }
            };
            for i in 0..grown {
                put(&mut names, &mut model, i.wrapping_mul(0x1234_5671), 1000 + i, i);
            }
            for (ino, (insert, hash, slot)) in steps.into_iter().enumerate() {
                if insert {
                    put(&mut names, &mut model, hash, slot, ino as u32);
                } else {
                    names.remove(hash, slot);
                    model.remove(&(hash, slot));
                }
                let mut there: Vec<_> = names.with_hash(hash).collect();
                there.sort_unstable_by_key(|found| found.slot);
                let wanted: Vec<_> = model.range((hash, 0)..=(hash, u32::MAX)).map(|(_, found)| *found).collect();
                prop_assert_eq!(there, wanted);
                prop_assert_eq!((names.len(), names.is_empty()), (model.len(), model.is_empty()));
            }
            // The steps add fewer than 300.
            prop_assert!(grown <= 4096 || names.tables.len() == TABLES);
            prop_assert!(grown > 3700 || names.tables.len() <= 1);
            for ((hash, slot), found) in model {
                prop_assert!(names.with_hash(hash).any(|there| there == found), "{hash} {slot}");
            }
        }
    }
}
