//! The errors of the system's operations as the shell shows them: a kind for programs, advice for people.

use crate::machine::{
    AddFailure, MapFailure, MountFailure, PinFailure, RemoveFailure, UmountFailure,
};
use crate::shell::{Failure, Fields, Value};
use crate::virtio::blk::{IoError, SubmitError};
use alloc::borrow::Cow;
use alloc::string::String;
use alloc::vec;
use core::fmt;
use dax::layout::{BreakError, Held};
use dax::pmem::BadRangesFull;
use fs::error::{
    ChangeError, CreateError, LookupError, MountError, ReadError, ReadlinkError, RemoveError,
    RenameError, SetAttrError, TruncateError, UnmountError, WriteError,
};
use fs::{CreateSizedError, Gone, MkfsError, RemovalError, RepairError};
use mm::aspace::{FaultError, MapError};
use mm::gup::GupError;
use mm::pgmap::PgmapError;
use thiserror::Error;

/// What to do about an error of a kind, where there is something.
fn advice_for(kind: &str) -> Option<Cow<'static, str>> {
    let advice = match kind {
        "not_found" => "`ls` shows what is there",
        "not_mounted" => "`mount` mounts one, `mkfs` makes one",
        "exists" => "choose another name, or `rm` it first",
        "no_file_system" => "`mkfs` makes one",
        "already_mounted" | "mounted" => "`umount` it first",
        "busy" => "`pins`, `jobs` and `maps` show who uses it",
        "would_block" | "timed_out" => {
            "release the page, or wait for it without --nowait and --timeout"
        }
        "no_space" => "`df` shows the space, `rm` frees some",
        "read_only" => "`pmem` says why",
        "permission" => "a read-only file system takes no stores; `pmem` says why it is so",
        "is_directory" | "not_file" => "name a file",
        "not_directory" => "name a directory",
        "not_symlink" => "`stat` shows what it is",
        "too_many_symlinks" => "`readlink` shows where each leads",
        "no_inodes" => "`df` shows the inodes, `rm` frees some",
        "not_empty" => "remove what is in it first",
        "corrupt" => "`umount`, then `fsck` tells more; `fsck --repair` mends what it can",
        "no_such_pmem" => "`pmem` lists them",
        "no_pmem" => "start the machine with --pmem",
        "no_such_disk" => "start the machine with --disk",
        "no_such_map" => "`maps` lists them",
        "no_such_pin" => "`pins` lists them",
        "past_eof" => "`stat` shows the size",
        "out_of_memory" => "`mem` shows what is used",
        "gone" | "dying" => "`pmem` shows the device; `pmem add` brings a removed one back",
        "removed" => "`pmem add` brings it back",
        "not_removed" => "`pmem remove` removes it",
        "held" => {
            "release the page, then remove the device again; meanwhile nobody gets anything new of it"
        }
        "needs_lease" => "pin it without --longterm, or add --revoke; `help pin` tells more",
        "media" | "io" => "`badblocks` shows what is bad; writing the bytes whole mends them",
        "unaligned" => "disks transfer sectors of 512 bytes",
        _ => return None,
    };
    Some(advice.into())
}

macro_rules! failure {
    ($($error:ty => $kind:expr;)*) => {$(
        impl Failure for $error {
            fn kind(&self) -> &'static str {
                let kind: fn(&$error) -> &'static str = $kind;
                kind(self)
            }

            fn advice(&self) -> Option<Cow<'static, str>> {
                advice_for(self.kind())
            }
        }
    )*};
}

failure! {
    Gone => |_| "gone";
    ChangeError => |e| match e {
        ChangeError::Gone(e) => e.kind(),
        ChangeError::ReadOnly => "read_only",
        ChangeError::NoSpace { .. } => "no_space",
        ChangeError::NoInodes => "no_inodes",
        ChangeError::TooFragmented(_) => "too_fragmented",
        ChangeError::OutOfMemory(_) => "out_of_memory",
        ChangeError::Corrupt(_) => "corrupt",
        ChangeError::RecordFull(_) => "record_full",
    };
    LookupError => |e| match e {
        LookupError::Gone(e) => e.kind(),
        LookupError::NotFound => "not_found",
        LookupError::NotDir => "not_directory",
        LookupError::Loop => "too_many_symlinks",
        LookupError::Name(_) => "bad_name",
        LookupError::Load(_) => "corrupt",
    };
    CreateError => |e| match e {
        CreateError::Lookup(e) => e.kind(),
        CreateError::Exists => "exists",
        CreateError::Target(_) => "bad_target",
        CreateError::IsDir => "is_directory",
        CreateError::TooManyLinks => "too_many_links",
        CreateError::Change(e) => e.kind(),
    };
    ReadlinkError => |e| match e {
        ReadlinkError::Gone(e) => e.kind(),
        ReadlinkError::NotSymlink => "not_symlink",
        ReadlinkError::Corrupt(_) => "corrupt",
    };
    SetAttrError => |e| match e {
        SetAttrError::Change(e) => e.kind(),
    };
    CreateSizedError => |e| match e {
        CreateSizedError::Create(e) => e.kind(),
        CreateSizedError::Allocate(e) => e.kind(),
    };
    RemoveError => |e| match e {
        RemoveError::Lookup(e) => e.kind(),
        RemoveError::IsDir => "is_directory",
        RemoveError::NotDir => "not_directory",
        RemoveError::NotEmpty => "not_empty",
        RemoveError::Change(e) => e.kind(),
    };
    RenameError => |e| match e {
        RenameError::Lookup(e) => e.kind(),
        RenameError::Exists => "exists",
        RenameError::IsDir => "is_directory",
        RenameError::NotDir => "not_directory",
        RenameError::NotEmpty => "not_empty",
        RenameError::Cycle => "cycle",
        RenameError::TooManyLinks => "too_many_links",
        RenameError::Change(e) => e.kind(),
    };
    ReadError => |e| match e {
        ReadError::Gone(e) => e.kind(),
        ReadError::IsDir => "is_directory",
        ReadError::NotFile => "not_file",
        ReadError::Media { .. } => "media",
    };
    WriteError => |e| match e {
        WriteError::NotFile => "not_file",
        WriteError::FileTooBig => "too_big",
        WriteError::Change(e) => e.kind(),
    };
    BadRangesFull => |_| "bad_ranges_full";
    MkfsError => |e| match e {
        MkfsError::Exists => "file_system_exists",
        MkfsError::ReadOnly => "read_only",
        _ => "mkfs",
    };
    MountFailure => |e| match e {
        MountFailure::Mounted => "already_mounted",
        MountFailure::NoDevice => "removed",
        MountFailure::Mount(MountError::Superblocks { .. }) => "no_file_system",
        MountFailure::Mount(MountError::OutOfMemory(_)) | MountFailure::OutOfMemory(_) | MountFailure::Thread(_) => "out_of_memory",
        MountFailure::Mount(_) => "corrupt",
    };
    RepairError => |e| match e {
        RepairError::ReadOnly => "read_only",
        RepairError::OutOfMemory(_) => "out_of_memory",
        RepairError::Ring(_) | RepairError::Mount(_) => "corrupt",
        RepairError::Change(e) => e.kind(),
        RepairError::Create(e) => e.kind(),
        RepairError::Lookup(e) => e.kind(),
    };
    UmountFailure => |e| match e {
        UmountFailure::NotMounted => "not_mounted",
        UmountFailure::Busy { .. } | UmountFailure::Unmount(UnmountError::Busy(_) | UnmountError::InUse) => "busy",
        UmountFailure::Unmount(UnmountError::Change(e)) => e.kind(),
    };
    AddFailure => |e| match e {
        AddFailure::NotRemoved => "not_removed",
        AddFailure::Pgmap(PgmapError::OutOfMemory) => "out_of_memory",
        AddFailure::Pgmap(_) => "pgmap",
    };
    FaultError => |e| match e {
        FaultError::NoMapping => "no_mapping",
        FaultError::Permission => "permission",
        FaultError::OutOfMemory => "out_of_memory",
        FaultError::NoSpace => "no_space",
        FaultError::Dying => "dying",
        FaultError::TooManyMappings => "too_many_mappings",
        FaultError::Io => "io",
        FaultError::PastEof => "past_eof",
    };
    MapFailure => |e| match e {
        MapFailure::NotFile => "is_directory",
        MapFailure::BadRange | MapFailure::Map(MapError::BadRange) => "bad_range",
        MapFailure::Map(MapError::NoRoom) => "no_room",
        MapFailure::Map(MapError::OutOfMemory) | MapFailure::OutOfMemory(_) => "out_of_memory",
    };
    PinFailure => |e| match e {
        PinFailure::Map(e) => e.kind(),
        PinFailure::Gup(GupError::Fault { why, .. }) => why.kind(),
        PinFailure::Gup(GupError::OutOfMemory) | PinFailure::OutOfMemory(_) => "out_of_memory",
        PinFailure::Gup(GupError::NeedsLease { .. }) => "needs_lease",
        PinFailure::Gup(_) => "gup",
    };
    SubmitError => |e| match e {
        SubmitError::Unaligned { .. } => "unaligned",
        SubmitError::PastEndOfDisk { .. } => "past_end_of_disk",
        SubmitError::PastEndOfPages { .. } => "past_end_of_pages",
        SubmitError::ReadOnly => "disk_read_only",
        SubmitError::Broken => "disk_broken",
        SubmitError::OutOfMemory(_) => "out_of_memory",
    };
    IoError => |_| "io";
}

/// Something that is named by a number or a word and is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum Missing {
    /// No file system is mounted.
    #[error("no file system is mounted")]
    Mount,
    /// There is no persistent memory.
    #[error("there is no persistent memory")]
    Pmem,
    /// There is no device of that name.
    #[error("there is no such pmem device")]
    Device,
    /// There is no disk of that number.
    #[error("there is no such disk")]
    Disk,
    /// There is no mapping of that number.
    #[error("there is no such mapping")]
    Map,
    /// There is no pin of that number.
    #[error("there is no such pin")]
    Pin,
    /// The frame is not part of a pmem device.
    #[error("the frame belongs to no pmem device")]
    Page,
    /// The file has a hole there.
    #[error("the file has no storage there")]
    Storage,
    /// The offset lies outside the mapping.
    #[error("the offset lies outside the mapping")]
    Offset,
    /// The device's file system is mounted.
    #[error("its file system is mounted")]
    Unmounted,
    /// The device is removed, or being removed.
    #[error("the device is removed, or being removed")]
    Removed,
}

failure! {
    Missing => |e| match e {
        Missing::Mount => "not_mounted",
        Missing::Pmem => "no_pmem",
        Missing::Device => "no_such_pmem",
        Missing::Disk => "no_such_disk",
        Missing::Map => "no_such_map",
        Missing::Pin => "no_such_pin",
        Missing::Page => "no_such_page",
        Missing::Storage => "hole",
        Missing::Offset => "bad_offset",
        Missing::Unmounted => "mounted",
        Missing::Removed => "removed",
    };
}

/// A file system with this many problems, after a repair that could do no more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{0} problems are left")]
pub struct Left(pub usize);

impl Failure for Left {
    fn kind(&self) -> &'static str {
        "unsound"
    }
}

/// A file system with this many problems.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{0} problems")]
pub struct Unsound(pub usize);

impl Failure for Unsound {
    fn kind(&self) -> &'static str {
        "unsound"
    }

    fn advice(&self) -> Option<Cow<'static, str>> {
        Some("`fsck --repair` mends what it can".into())
    }
}

impl Failure for RemoveFailure {
    fn kind(&self) -> &'static str {
        match self {
            Self::Removed => "removed",
            Self::Unfinished { error, .. } => match error {
                RemovalError::Held { .. } => "held",
                RemovalError::Inside { .. } => "busy",
                RemovalError::UnderWay => "under_way",
            },
        }
    }

    fn advice(&self) -> Option<Cow<'static, str>> {
        advice_for(self.kind())
    }

    fn details(&self) -> Fields {
        let Self::Unfinished {
            error: RemovalError::Held { page, .. },
            holder,
        } = self
        else {
            return Fields::new();
        };
        vec![
            ("pfn", page.pfn.get().into()),
            ("inode", page.owner.map(|o| o.inode).into()),
            ("index", page.owner.map(|o| o.index).into()),
            ("mapped", page.counts.mapped.into()),
            ("pinned", page.counts.pinned.into()),
            ("holder", Value::from(holder.clone())),
        ]
    }
}

/// A truncate or punch that failed, with the name of who holds the page that was in the way.
#[derive(Debug)]
pub struct CutFailure {
    /// What the file system said.
    pub error: TruncateError,
    /// Who holds the page, where the shell knows.
    pub holder: Option<String>,
}

impl CutFailure {
    fn held(&self) -> Option<&Held> {
        match &self.error {
            TruncateError::Break(e) => Some(e.held()),
            _ => None,
        }
    }
}

impl fmt::Display for CutFailure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.error, &self.holder) {
            // A holder with a lease is named by the error itself.
            (TruncateError::Break(e), Some(holder)) if e.held().holder.is_none() => {
                write!(f, "{e}, held by {holder}")
            }
            (e, _) => write!(f, "{e}"),
        }
    }
}

impl core::error::Error for CutFailure {}

impl Failure for CutFailure {
    fn kind(&self) -> &'static str {
        match &self.error {
            TruncateError::NotFile => "is_directory",
            TruncateError::FileTooBig => "too_big",
            TruncateError::Break(BreakError::WouldBlock(_)) => "would_block",
            TruncateError::Break(BreakError::TimedOut(_)) => "timed_out",
            TruncateError::Break(BreakError::Cancelled(_)) => "cancelled",
            TruncateError::Change(e) => e.kind(),
        }
    }

    fn advice(&self) -> Option<Cow<'static, str>> {
        advice_for(self.kind())
    }

    fn details(&self) -> Fields {
        let Some(held) = self.held() else {
            return Fields::new();
        };
        vec![
            ("pfn", held.pfn.get().into()),
            ("inode", held.inode.into()),
            ("index", held.index.into()),
            ("mapped", held.counts.mapped.into()),
            ("pinned", held.counts.pinned.into()),
            ("holder", Value::from(self.holder.clone())),
        ]
    }
}
