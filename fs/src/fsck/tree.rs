//! Passes 4 and 5: directories, the tree they make, and the links that it needs.

use alloc::vec::Vec;

use dax::pmem::Pmem;
use mm::mem::OutOfMemory;

use super::{Check, Pass, Problem, Stray};
use crate::dir::{Dir, Name};
use crate::layout::{BLOCK_SIZE, DENTRY_SIZE, Dentry, Ino, Kind, ROOT, slots_for};
use crate::media_inode::{Corrupt, DentryFault};

/// Slots of a block of a directory.
const SLOTS: u64 = BLOCK_SIZE / DENTRY_SIZE;

/// Hash and slot of each entry of one directory.
type Names = Vec<(u32, u32)>;

impl<P: Pmem> Check<'_, P> {
    pub(super) fn directory(&mut self, ino: Ino) {
        if self.info(ino).is_none_or(|info| info.kind != Kind::Dir) {
            return;
        }
        let Ok(loaded) = self.ground.load(ino) else {
            return;
        };
        let dir = Dir {
            ground: self.ground,
            ino,
            map: &loaded.map,
        };
        // What has no storage was told by pass 2; an impossible size must not take for ever.
        let blocks = (loaded.inode.core.size / BLOCK_SIZE).min(loaded.map.blocks());
        let mut names = Names::new();
        let mut slot = 0;
        while u64::from(slot) < blocks * SLOTS {
            slot += self.slot(&dir, slot, &mut names);
        }
        self.duplicates(&dir, names);
    }

    /// Checks the entry in `slot`; returns how many slots it takes.
    fn slot(&mut self, dir: &Dir<'_, P>, slot: u32, names: &mut Names) -> u32 {
        let (dentry, name) = match dir.entry(slot) {
            Ok(Some(found)) => found,
            // Told by pass 2.
            Err(Corrupt::DirHole { .. }) => return SLOTS as u32,
            Ok(None) => return 1,
            Err(corrupt) => {
                self.report.add(Pass::Tree, corrupt);
                return 1;
            }
        };
        if names.try_reserve(1).is_err() {
            self.report.add(Pass::Tree, OutOfMemory);
        } else {
            names.push((dentry.hash, slot));
        }
        let offset = place(dir, slot);
        if Name::new(name.as_bytes()).is_err() {
            let dir = dir.ino;
            self.report
                .add(Pass::Tree, Problem::Name { dir, slot, offset });
        }
        self.named(dir.ino, (slot, offset), &dentry);
        slots_for(dentry.len.into()) as u32
    }

    /// Names with equal hashes are compared; equal names, the later one is told.
    fn duplicates(&mut self, dir: &Dir<'_, P>, mut names: Names) {
        names.sort_unstable();
        for group in names
            .chunk_by(|a, b| a.0 == b.0)
            .filter(|group| group.len() > 1)
        {
            for (at, (_, slot)) in group.iter().enumerate().skip(1) {
                let same = group[..at]
                    .iter()
                    .find(|(_, other)| same_name(dir, *other, *slot));
                if let Some((_, first)) = same {
                    let problem = Problem::Duplicate {
                        dir: dir.ino,
                        first: *first,
                        slot: *slot,
                        offset: place(dir, *slot),
                    };
                    self.report.add(Pass::Tree, problem);
                }
            }
        }
    }

    /// An entry of `dir`, at slot and offset, names an inode.
    fn named(&mut self, dir: Ino, (slot, offset): (u32, u64), dentry: &Dentry) {
        let ino = dentry.ino;
        let wrong = |fault| Corrupt::Dentry {
            dir,
            slot,
            offset,
            fault,
        };
        let Some(info) = self.info(ino).copied() else {
            return self
                .report
                .add(Pass::Tree, wrong(DentryFault::Dangling(ino)));
        };
        if info.kind != dentry.kind {
            self.report.add(Pass::Tree, wrong(DentryFault::Kind(ino)));
        }
        let stray = Stray {
            dir,
            slot,
            offset,
            ino,
        };
        match info.kind {
            Kind::Dir if info.parent == dir && ino != ROOT => self.child(&stray),
            Kind::Dir if self.strays.try_reserve(1).is_ok() => self.strays.push(stray),
            Kind::Dir => self.report.add(Pass::Tree, OutOfMemory),
            _ => self.count(ino),
        }
    }

    fn count(&mut self, ino: Ino) {
        if let Some(info) = self.info(ino) {
            info.names = info.names.saturating_add(1);
        }
    }

    /// A directory stands where an entry says, unless it stands somewhere already.
    fn child(&mut self, entry: &Stray) {
        let Stray {
            dir,
            slot,
            offset,
            ino,
        } = *entry;
        if ino == ROOT || self.info(ino).is_none_or(|info| info.names > 0) {
            let problem = Problem::SecondName {
                dir,
                slot,
                offset,
                ino,
            };
            return self.report.add(Pass::Tree, problem);
        }
        self.count(ino);
        self.edge(dir, ino);
    }

    /// Directories that do not name the directory which holds them: the entry counts if there is no better one.
    fn strays(&mut self) {
        for entry in core::mem::take(&mut self.strays) {
            let Some(info) = self.info(entry.ino).copied() else {
                continue;
            };
            if info.names == 0 && entry.ino != ROOT {
                let problem = Problem::Parent {
                    ino: entry.ino,
                    offset: self.offset(entry.ino),
                    found: info.parent,
                    expected: entry.dir,
                };
                self.report.add(Pass::Tree, problem);
            }
            self.child(&entry);
        }
    }

    fn edge(&mut self, dir: Ino, child: Ino) {
        if let Some(parent) = self.info(dir) {
            parent.subdirs += 1;
        }
        if self.edges.try_reserve(1).is_err() {
            return self.report.add(Pass::Tree, OutOfMemory);
        }
        self.edges.push((dir, child));
    }

    /// Walks down from the root; what is not reached is wrong, and so is what stands in a ring.
    pub(super) fn tree(&mut self) {
        self.strays();
        let offset = self.offset(ROOT);
        match self.info(ROOT).copied() {
            Some(root) if root.kind == Kind::Dir => {
                if root.parent != ROOT {
                    let (found, expected) = (root.parent, ROOT);
                    let problem = Problem::Parent {
                        ino: ROOT,
                        offset,
                        found,
                        expected,
                    };
                    self.report.add(Pass::Tree, problem);
                }
            }
            _ => return self.report.add(Pass::Tree, Problem::NoRoot { offset }),
        }
        let Ok(reached) = self.reached() else {
            return self.report.add(Pass::Tree, OutOfMemory);
        };
        for ino in 1..self.inodes.len() as Ino {
            let Some(info) = self.info(ino).copied() else {
                continue;
            };
            let lost = match info.kind {
                Kind::Dir => !reached[ino as usize],
                _ => info.names == 0,
            };
            if lost {
                let problem = Problem::Unreachable {
                    ino,
                    offset: self.offset(ino),
                    named: info.names > 0,
                };
                self.report.add(Pass::Tree, problem);
            }
        }
    }

    /// Which directories the root leads to.
    fn reached(&mut self) -> Result<Vec<bool>, OutOfMemory> {
        self.edges.sort_unstable();
        let (mut reached, mut todo) = (Vec::new(), Vec::new());
        reached
            .try_reserve_exact(self.inodes.len())
            .map_err(|_| OutOfMemory)?;
        todo.try_reserve_exact(self.edges.len() + 1)
            .map_err(|_| OutOfMemory)?;
        reached.resize(self.inodes.len(), false);
        todo.push(ROOT);
        while let Some(dir) = todo.pop() {
            if core::mem::replace(&mut reached[dir as usize], true) {
                continue;
            }
            let from = self.edges.partition_point(|(parent, _)| *parent < dir);
            let below = self.edges[from..]
                .iter()
                .take_while(|(parent, _)| *parent == dir);
            todo.extend(below.map(|(_, child)| *child));
        }
        Ok(reached)
    }

    /// Pass 5.
    pub(super) fn links(&mut self) {
        for ino in 1..self.inodes.len() as Ino {
            let Some(info) = self.info(ino).copied() else {
                continue;
            };
            let expected = match info.kind {
                // Its name (the root's is its own `..`), its `.`, and the `..` of each directory in it.
                Kind::Dir => info.subdirs.saturating_add(2),
                _ => info.names,
            };
            // Without a name it has been told already.
            if info.nlink != expected && (info.names > 0 || ino == ROOT) {
                let (offset, found) = (self.offset(ino), info.nlink);
                let problem = Problem::Links {
                    ino,
                    offset,
                    found,
                    expected,
                };
                self.report.add(Pass::Links, problem);
            }
        }
    }
}

/// Byte offset of a slot that was read.
fn place<P: Pmem>(dir: &Dir<'_, P>, slot: u32) -> u64 {
    dir.addr(slot, 0).map_or(0, |at| at.offset())
}

fn same_name<P: Pmem>(dir: &Dir<'_, P>, a: u32, b: u32) -> bool {
    match (dir.entry(a), dir.entry(b)) {
        (Ok(Some((_, a))), Ok(Some((_, b)))) => a.as_bytes() == b.as_bytes(),
        _ => false,
    }
}
