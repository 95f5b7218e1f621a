//! Attributes: what a new inode gets, and what `setattr` changes. One record, one fence.
//!
//! Times are nanoseconds since 1970. The time of access is set by whoever makes the inode or calls [`Fs::setattr`], never by reading
//! (as a mount with `noatime` has it): reading stores nothing. A change of attributes moves the time of change; a write in place
//! moves the times in memory, and the next record of the inode, or `fsync`, carries them; a store through a mapping moves them when it
//! is made durable.
//!
//! Who may change what is not decided here: that is for whoever gives access (the kernel behind FUSE, a shell).

use dax::pmem::Pmem;

use crate::change::Edit;
use crate::commit::RecordKind;
use crate::error::SetAttrError;
use crate::fs::Fs;
use crate::inode::{Inode, Stat};
use crate::layout::{Core, INLINE_EXTENTS, Ino, InodeImage, Kind};

/// The permission bits of a mode: set-id and sticky bits included, the type not.
pub(crate) const PERMISSIONS: u16 = 0o7777;
/// The set-group-id bit: what is made in such a directory gets its group, and a directory the bit as well.
const SET_GROUP: u16 = 0o2000;

/// Who owns an inode.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Owner {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
}

/// What a new inode is to be. Symbolic links are made by [`Fs::symlink_in`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NewInode {
    /// What it is.
    pub kind: Kind,
    /// Permission bits; others do not count.
    pub mode: u16,
    /// Whose it is. A directory with the set-group-id bit gives its own group instead.
    pub owner: Owner,
    /// Of a device: its number. Else it does not count.
    pub rdev: u32,
}

impl NewInode {
    /// An inode of user 0 and group 0.
    #[must_use]
    pub const fn new(kind: Kind, mode: u16) -> Self {
        Self {
            kind,
            mode,
            owner: Owner { uid: 0, gid: 0 },
            rdev: 0,
        }
    }

    /// The same for another owner.
    #[must_use]
    pub const fn owned_by(self, owner: Owner) -> Self {
        Self { owner, ..self }
    }

    /// Its image as a child of inode `parent`, which has this mode and this group.
    pub(crate) fn image(
        &self,
        (mode, gid): (u16, u32),
        parent: Ino,
        generation: u32,
        now: u64,
    ) -> InodeImage {
        let is_dir = self.kind == Kind::Dir;
        let grouped = mode & SET_GROUP != 0;
        let inherited = if grouped && is_dir { SET_GROUP } else { 0 };
        let core = Core {
            mode: self.kind.bits() | self.mode & PERMISSIONS | inherited,
            entries: 0,
            depth: 0,
            nlink: if is_dir { 2 } else { 1 },
            mtime: now,
            ctime: now,
            parent: if is_dir { parent } else { 0 },
            size: 0,
            uid: self.owner.uid,
            gid: if grouped { gid } else { self.owner.gid },
            generation,
            extra: if self.kind.is_device() { self.rdev } else { 0 },
            atime: now,
        };
        InodeImage {
            core,
            body: [[0; 2]; INLINE_EXTENTS],
        }
    }
}

/// A change of attributes: what is `None` stays. The time of change follows by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SetAttr {
    /// Permission bits; the type stays what it is.
    pub mode: Option<u16>,
    /// User.
    pub uid: Option<u32>,
    /// Group.
    pub gid: Option<u32>,
    /// Time of access, ns.
    pub atime: Option<u64>,
    /// Time of content, ns.
    pub mtime: Option<u64>,
}

impl SetAttr {
    const fn apply(&self, core: &mut Core) {
        if let Some(mode) = self.mode {
            core.mode = core.mode & !PERMISSIONS | mode & PERMISSIONS;
        }
        if let Some(uid) = self.uid {
            core.uid = uid;
        }
        if let Some(gid) = self.gid {
            core.gid = gid;
        }
        if let Some(atime) = self.atime {
            core.atime = atime;
        }
        if let Some(mtime) = self.mtime {
            core.mtime = mtime;
        }
    }
}

impl<P: Pmem> Fs<P> {
    /// What the clock says that times are taken from, in nanoseconds.
    #[must_use]
    pub fn now(&self) -> u64 {
        self.shared.now()
    }

    /// Changes attributes in one record (1 fence), also of an inode without a name; returns what they are then. Keeps set-id bits
    /// as given. Locks: reaper in passing, commit.
    pub fn setattr(&self, inode: &Inode<P>, set: &SetAttr) -> Result<Stat, SetAttrError> {
        let _inside = self.begin()?;
        let mut state = self.lock();
        let mut edit: Edit = inode.edit();
        set.apply(&mut edit.new);
        edit.new.ctime = self.shared.now();
        let mut tx = state.ring.begin(RecordKind::Attributes);
        inode.put(&mut tx, &edit)?;
        let _ = tx.commit(&self.shared.media);
        inode.adopt(&edit);
        Ok(inode.stat())
    }
}

#[cfg(all(test, not(any(loom, shuttle))))]
mod tests {
    use super::*;
    use crate::error::{CreateError, RenameError};
    use crate::fixture::mounted;
    use dax::pmem::RamPmem;

    #[test]
    fn a_lazy_time_that_comes_during_a_change_stays() {
        let fs = mounted();
        let f = fs.create("/f", 0o644).expect("create");
        f.attr.lock().lazy_mtime = Some(5);
        let edit = f.edit();
        assert_eq!((edit.new.mtime, edit.lazy()), (5, Some(5)));
        f.attr.lock().lazy_mtime = Some(6);
        f.adopt(&edit);
        assert_eq!(f.stat().mtime, 6);
        f.adopt(&f.edit());
        assert_eq!(f.attr.lock().lazy_mtime, None);
    }

    #[test]
    fn links_end_where_their_number_does() {
        let fs = mounted();
        for dir in ["/a", "/b", "/b/d"] {
            fs.mkdir(dir, 0o755).expect("mkdir");
        }
        let f = fs.create("/b/f", 0o644).expect("create");
        let full = |inode: &Inode<RamPmem>| inode.attr.lock().image.core.nlink = u32::MAX;
        full(&f);
        full(&fs.open("/a").expect("open"));
        assert_eq!(fs.link("/b/f", "/g"), Err(CreateError::TooManyLinks));
        let made = fs.mkdir("/a/d", 0o755).err();
        assert_eq!(made, Some(CreateError::TooManyLinks));
        let moved = fs.rename("/b/d", "/a/d", true);
        assert_eq!(moved, Err(RenameError::TooManyLinks));
        fs.create("/a/f", 0o644).expect("a file is no link of it");
        let moved = fs.exchange("/b/d", "/a/f");
        assert_eq!(moved, Err(RenameError::TooManyLinks));
        fs.rename("/b/f", "/a/g", true).expect("nor is another");
        assert!(fs.open("/b/d").is_ok());
    }
}
