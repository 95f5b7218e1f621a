//! Attributes and times in the words of FUSE.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use fs::{BLOCK_SIZE, Kind, Stat};
use fuser::{FileAttr, FileType, INodeNo, TimeOrNow};

use crate::host_fs::mounted::{now_ns, ns_of};

/// Bytes of the unit in which `stat` counts storage.
const SECTOR: u64 = 512;

/// The attributes of an inode.
pub fn attr(stat: &Stat) -> FileAttr {
    FileAttr {
        ino: INodeNo(stat.ino.into()),
        size: stat.size,
        blocks: stat.blocks * (BLOCK_SIZE / SECTOR),
        atime: time(stat.atime),
        mtime: time(stat.mtime),
        ctime: time(stat.ctime),
        crtime: UNIX_EPOCH,
        kind: file_type(stat.kind),
        perm: stat.mode & 0o7777,
        nlink: stat.nlink,
        uid: stat.uid,
        gid: stat.gid,
        rdev: stat.rdev,
        blksize: BLOCK_SIZE as u32,
        flags: 0,
    }
}

/// What an inode is.
pub const fn file_type(kind: Kind) -> FileType {
    match kind {
        Kind::File => FileType::RegularFile,
        Kind::Dir => FileType::Directory,
        Kind::Symlink => FileType::Symlink,
        Kind::Fifo => FileType::NamedPipe,
        Kind::Socket => FileType::Socket,
        Kind::CharDev => FileType::CharDevice,
        Kind::BlockDev => FileType::BlockDevice,
    }
}

fn time(ns: u64) -> SystemTime {
    UNIX_EPOCH + Duration::from_nanos(ns)
}

/// The time that `utimensat` asks for.
pub fn asked_ns(time: TimeOrNow) -> u64 {
    match time {
        TimeOrNow::SpecificTime(time) => ns_of(time),
        TimeOrNow::Now => now_ns(),
    }
}
