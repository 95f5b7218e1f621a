//! The calls of FUSE, one by one: each asks the [`Volume`] and answers.
#![allow(clippy::too_many_arguments, reason = "the trait's signatures")]

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::time::SystemTime;

use fs::{Kind, NewInode};
use fuser::{
    BsdFileFlags, Errno, FileHandle, Filesystem, FopenFlags, Generation, INodeNo, InitFlags,
    KernelConfig, LockOwner, OpenFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory,
    ReplyDirectoryPlus, ReplyEmpty, ReplyEntry, ReplyLseek, ReplyOpen, ReplyStatfs, ReplyWrite,
    Request, TimeOrNow, WriteFlags,
};

use super::TTL;
use super::attr::attr;
use super::content::{Seek, seek};
use super::volume::{Answer, Volume, number};
use crate::host_fs::mounted::Node;

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
        _mode: Option<u32>,
        _uid: Option<u32>,
        _gid: Option<u32>,
        size: Option<u64>,
        _atime: Option<TimeOrNow>,
        _mtime: Option<TimeOrNow>,
        _: Option<SystemTime>,
        _: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let done = self.node(ino).and_then(|node| {
            size.map_or(Ok(()), |size| self.set_size(&node, size))?;
            Ok(node)
        });
        attributes(reply, done);
    }

    fn mkdir(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        reply: ReplyEntry,
    ) {
        self.entry(reply, self.make(parent, name, Kind::Dir, mode));
    }

    fn create(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        match self.make(parent, name, Kind::File, mode) {
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
    fn make(&self, dir: INodeNo, name: &OsStr, kind: Kind, mode: u32) -> Answer<Arc<Node>> {
        let dir = self.node(dir)?;
        let mode = (mode & 0o7777) as u16;
        self.fs
            .create_in(&dir, name.as_bytes(), &NewInode::new(kind, mode))
            .map_err(number)
    }

    /// The kernel asks for nothing but data and holes.
    fn seek(&self, ino: INodeNo, offset: i64, whence: i32) -> Answer<i64> {
        let what = match whence {
            nix::libc::SEEK_DATA => Seek::Data,
            nix::libc::SEEK_HOLE => Seek::Hole,
            _ => return Err(nix::errno::Errno::EINVAL),
        };
        let offset = u64::try_from(offset).map_err(|_| nix::errno::Errno::ENXIO)?;
        let found = seek(&*self.node(ino)?, offset, what)?;
        i64::try_from(found).map_err(|_| nix::errno::Errno::EOVERFLOW)
    }
}
