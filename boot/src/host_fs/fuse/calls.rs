//! The calls of FUSE, one by one: each asks the [`Volume`] and answers.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::SystemTime;

use fs::{Kind, NewInode, Owner, RenameMode, SetAttr};
use fuser::{
    BsdFileFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData,
    ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs,
    ReplyWrite, Request, TimeOrNow, WriteFlags,
};

use super::TTL;
use super::attr::{asked_ns, attr};
use super::volume::{Answer, Volume, number};
use crate::host_fs::mounted::Node;
use crate::host_fs::sparse::{Seek, seek};

/// What the kernel may leave to us, or us to it, if it knows how.
const WANTED: [InitFlags; 4] = [
    InitFlags::FUSE_DO_READDIRPLUS,
    InitFlags::FUSE_READDIRPLUS_AUTO,
    InitFlags::FUSE_PARALLEL_DIROPS,
    InitFlags::FUSE_CACHE_SYMLINKS,
];
/// No call needs to know which `open` it belongs to: the kernel holds a look-up while a file is open.
const HANDLE: FileHandle = FileHandle(0);

fn errno(number: nix::errno::Errno) -> Errno {
    Errno::from_i32(number as i32)
}

/// Ends a call that answers with nothing.
fn empty(reply: ReplyEmpty, done: Answer<()>) {
    match done {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(errno(error)),
    }
}

impl Volume {
    fn entry(&self, reply: ReplyEntry, found: Answer<Arc<Node>>) {
        match found {
            Ok(node) => {
                self.told(&node);
                let stat = node.stat();
                reply.entry(&TTL, &attr(&stat), Generation(stat.generation.into()));
            }
            Err(error) => reply.error(errno(error)),
        }
    }
}

fn attributes(reply: ReplyAttr, found: Answer<Arc<Node>>) {
    match found {
        Ok(node) => reply.attr(&TTL, &attr(&node.stat())),
        Err(error) => reply.error(errno(error)),
    }
}

impl Filesystem for Volume {
    fn init(&mut self, _: &Request, config: &mut KernelConfig) -> io::Result<()> {
        for wanted in WANTED {
            // A kernel that does not know it does without.
            let _ = config.add_capabilities(wanted);
        }
        Ok(())
    }

    fn destroy(&mut self) {
        self.end();
    }

    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        self.entry(reply, Self::lookup(self, parent, name));
    }

    fn forget(&self, _: &Request, ino: INodeNo, nlookup: u64) {
        Self::forget(self, ino, nlookup);
    }

    fn getattr(&self, _: &Request, ino: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        attributes(reply, self.node(ino));
    }

    fn setattr(
        &self,
        _: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let set = SetAttr {
            mode: mode.map(permissions),
            uid,
            gid,
            atime: atime.map(asked_ns),
            mtime: mtime.map(asked_ns),
        };
        let node = self.node(ino);
        attributes(reply, node.and_then(|node| self.set(node, size, &set)));
    }

    fn readlink(&self, _: &Request, ino: INodeNo, reply: ReplyData) {
        match self.node(ino).and_then(|node| link_text(&node)) {
            Ok(text) => reply.data(&text),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        let kind = Kind::of_mode(mode as u16).ok_or(nix::errno::Errno::EINVAL);
        let made = kind.and_then(|kind| {
            let new = NewInode {
                rdev,
                ..new_inode(request, kind, mode)
            };
            self.make(parent, name, &new)
        });
        self.entry(reply, made);
    }

    fn symlink(
        &self,
        request: &Request,
        parent: INodeNo,
        link_name: &OsStr,
        target: &Path,
        reply: ReplyEntry,
    ) {
        let text = target.as_os_str().as_bytes();
        let made = self.node(parent).and_then(|dir| {
            let name = link_name.as_bytes();
            self.fs
                .symlink_in(&dir, name, text, owner(request))
                .map_err(number)
        });
        self.entry(reply, made);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let renamed = rename_mode(flags).and_then(|mode| {
            let (from, to) = (self.node(parent)?, self.node(newparent)?);
            let (old, new) = (name.as_bytes(), newname.as_bytes());
            self.fs
                .rename_in(&from, old, &to, new, mode)
                .map_err(number)
        });
        empty(reply, renamed);
    }

    fn link(
        &self,
        _: &Request,
        ino: INodeNo,
        newparent: INodeNo,
        newname: &OsStr,
        reply: ReplyEntry,
    ) {
        let linked = self.node(ino).and_then(|node| {
            let dir = self.node(newparent)?;
            let name = newname.as_bytes();
            self.fs.link_in(&node, &dir, name).map_err(number)?;
            Ok(node)
        });
        self.entry(reply, linked);
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        let new = new_inode(request, Kind::Dir, mode);
        self.entry(reply, self.make(parent, name, &new));
    }

    fn create(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        match self.make(parent, name, &new_inode(request, Kind::File, mode)) {
            Ok(node) => {
                self.told(&node);
                let stat = node.stat();
                let generation = Generation(stat.generation.into());
                reply.created(&TTL, &attr(&stat), generation, HANDLE, FopenFlags::empty());
            }
            Err(error) => reply.error(errno(error)),
        }
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(reply, self.remove(parent, name, Kind::File));
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        empty(reply, self.remove(parent, name, Kind::Dir));
    }

    fn open(&self, _: &Request, ino: INodeNo, _: OpenFlags, reply: ReplyOpen) {
        match self.node(ino) {
            Ok(_) => reply.opened(HANDLE, FopenFlags::FOPEN_KEEP_CACHE),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn read(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let node = self.node(ino);
        match node.and_then(|node| Self::read(self, &node, offset, size as usize)) {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn write(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let node = self.node(ino);
        match node.and_then(|node| self.fs.write(&node, offset, data).map_err(number)) {
            Ok(()) => reply.written(data.len() as u32),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn flush(&self, _: &Request, _: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        reply.ok();
    }

    fn fsync(&self, _: &Request, ino: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        let node = self.node(ino);
        empty(
            reply,
            node.and_then(|node| self.fs.fsync(&node).map_err(number)),
        );
    }

    fn fsyncdir(&self, _: &Request, _: INodeNo, _: FileHandle, _: bool, reply: ReplyEmpty) {
        // An operation on names is durable when it answers.
        reply.ok();
    }

    fn readdir(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectory,
    ) {
        match self.list(ino, offset, &mut reply) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn readdirplus(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        mut reply: ReplyDirectoryPlus,
    ) {
        match self.list_plus(ino, offset, &mut reply) {
            Ok(()) => reply.ok(),
            Err(error) => reply.error(errno(error)),
        }
    }

    fn statfs(&self, _: &Request, _: INodeNo, reply: ReplyStatfs) {
        let now = self.fs.statfs();
        let (free, files) = (now.space.free, now.inodes);
        let block = now.block_size as u32;
        let ffree = files.saturating_sub(now.inodes_used);
        let longest = fs::layout::NAME_MAX as u32;
        reply.statfs(now.blocks, free, free, files, ffree, block, longest, block);
    }

    fn fallocate(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let node = self.node(ino);
        empty(
            reply,
            node.and_then(|node| self.allocate(&node, offset, length, mode)),
        );
    }

    fn lseek(
        &self,
        _: &Request,
        ino: INodeNo,
        _: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        match self.seek(ino, offset, whence) {
            Ok(offset) => reply.offset(offset),
            Err(error) => reply.error(errno(error)),
        }
    }
}

impl Volume {
    fn make(&self, dir: INodeNo, name: &OsStr, new: &NewInode) -> Answer<Arc<Node>> {
        let dir = self.node(dir)?;
        self.fs
            .create_in(&dir, name.as_bytes(), new)
            .map_err(number)
    }

    /// The size first: it is what may fail.
    fn set(&self, node: Arc<Node>, size: Option<u64>, set: &SetAttr) -> Answer<Arc<Node>> {
        if let Some(size) = size {
            self.set_size(&node, size)?;
        }
        if *set != SetAttr::default() {
            self.fs.setattr(&node, set).map_err(number)?;
        }
        Ok(node)
    }

    /// The kernel asks for nothing but data and holes.
    fn seek(&self, ino: INodeNo, offset: i64, whence: i32) -> Answer<i64> {
        let what = match whence {
            nix::libc::SEEK_DATA => Seek::Data,
            nix::libc::SEEK_HOLE => Seek::Hole,
            _ => return Err(nix::errno::Errno::EINVAL),
        };
        let offset = u64::try_from(offset).map_err(|_| nix::errno::Errno::ENXIO)?;
        let found = seek(&*self.node(ino)?, offset, what).ok_or(nix::errno::Errno::ENXIO)?;
        i64::try_from(found).map_err(|_| nix::errno::Errno::EOVERFLOW)
    }
}

const fn permissions(mode: u32) -> u16 {
    (mode & 0o7777) as u16
}

fn owner(request: &Request) -> Owner {
    Owner {
        uid: request.uid(),
        gid: request.gid(),
    }
}

fn new_inode(request: &Request, kind: Kind, mode: u32) -> NewInode {
    NewInode::new(kind, permissions(mode)).owned_by(owner(request))
}

fn link_text(node: &Node) -> Answer<Vec<u8>> {
    let mut text = vec![0; fs::layout::TEXT_MAX];
    let len = node.readlink(&mut text).map_err(number)?;
    text.truncate(len);
    Ok(text)
}

fn rename_mode(flags: RenameFlags) -> Answer<RenameMode> {
    match flags {
        flags if flags.is_empty() => Ok(RenameMode::Replace),
        RenameFlags::RENAME_NOREPLACE => Ok(RenameMode::NoReplace),
        RenameFlags::RENAME_EXCHANGE => Ok(RenameMode::Exchange),
        _ => Err(nix::errno::Errno::EINVAL),
    }
}
