//! `fs mount`: an image as a file system of this machine, by FUSE. Without /dev/fuse there are no such cases.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use libtest_mimic::Failed;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, FallocateFlags, RenameFlags, fallocate, renameat2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, Whence, lseek};
use tests::driver::{command, holdfast};

use crate::Check;

const CASES: &[(&str, Check)] = &[
    ("mount::each_error_has_its_number", numbers),
    ("mount::a_full_file_system_keeps_what_it_has", full),
    (
        "mount::a_file_without_a_name_lives_while_it_is_open",
        unlinked,
    ),
    (
        "mount::a_listing_leaves_open_files_alone",
        listed_while_open,
    ),
    ("mount::rename_replaces_exchanges_or_refuses", renames),
    ("mount::holes_are_found_and_made", holes),
    ("mount::read_only_changes_no_byte", read_only),
    ("mount::one_user_at_a_time", one_user),
    (
        "mount::a_busy_mount_says_so_and_ends_with_its_last_user",
        busy,
    ),
];

/// The cases.
pub fn cases() -> &'static [(&'static str, Check)] {
    match OpenOptions::new().read(true).write(true).open("/dev/fuse") {
        Ok(_) => CASES,
        Err(why) => {
            eprintln!("no cases of `fs mount`: /dev/fuse: {why}");
            &[]
        }
    }
}

/// How long a mount may take to come or go.
const LIMIT: Duration = Duration::from_secs(30);

/// A mounted image.
struct Mounted {
    child: Child,
    folder: tempfile::TempDir,
}

impl Mounted {
    /// Makes an image and mounts it.
    fn new(mkfs: &[&str]) -> Result<Self, Failed> {
        let folder = tempfile::tempdir()?;
        let image = folder.path().join("image").display().to_string();
        well(&[&["mkfs", &image], mkfs].concat())?;
        Self::mount(folder, &[])
    }

    /// Mounts the image in `folder`.
    fn mount(folder: tempfile::TempDir, options: &[&str]) -> Result<Self, Failed> {
        let path = |name: &str| folder.path().join(name).display().to_string();
        let (image, on) = (path("image"), path("on"));
        std::fs::create_dir_all(&on)?;
        let words = [&["fs", "mount", &image, &on], options].concat();
        let mut command = command(&words);
        let child = command.stderr(Stdio::piped()).spawn()?;
        let mounted = Self { child, folder };
        match within(|| mounted.is_there()) {
            true => Ok(mounted),
            false => Err("it was not mounted".into()),
        }
    }

    fn on(&self, name: &str) -> PathBuf {
        self.folder.path().join("on").join(name)
    }

    fn image(&self) -> String {
        self.folder.path().join("image").display().to_string()
    }

    fn is_there(&self) -> bool {
        let on = self.folder.path().join("on").display().to_string();
        let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
        mounts
            .lines()
            .any(|line| line.split(' ').nth(1) == Some(&on))
    }

    fn signal(&self) -> nix::Result<()> {
        kill(Pid::from_raw(self.child.id() as i32), Signal::SIGTERM)
    }

    /// Unmounts by a signal; the check finds nothing. Returns what stands on standard error.
    fn end(mut self) -> Result<String, Failed> {
        let mut ended = None;
        let deadline = Instant::now() + LIMIT;
        while ended.is_none() && Instant::now() < deadline {
            self.signal()?;
            // Another case may have forked while this one had a file open: until that process becomes another, the mount is busy.
            for _ in 0..100 {
                ended = ended.or(self.child.try_wait()?);
                std::thread::sleep(Duration::from_millis(if ended.is_some() { 0 } else { 50 }));
            }
        }
        let status = ended.ok_or("it does not end")?;
        let mut told = String::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            stderr.read_to_string(&mut told)?;
        }
        match status.success() && !self.is_there() {
            true => well(&["fsck", &self.image()]).map(|()| told),
            false => Err(format!("{status}: {told}").into()),
        }
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        if let Ok(None) = self.child.try_wait() {
            // Twice: a failed case may have left a file open.
            let _ = self.signal();
            std::thread::sleep(Duration::from_millis(100));
            let _ = self.signal();
            let _ = self.child.wait();
        }
    }
}

fn well(words: &[&str]) -> Result<(), Failed> {
    let ran = holdfast(&[&["fs"], words].concat())?;
    match ran.code == Some(0) {
        true => Ok(()),
        false => Err(format!("{words:?}: {ran:?}").into()),
    }
}

fn within(fact: impl Fn() -> bool) -> bool {
    let deadline = Instant::now() + LIMIT;
    while !fact() {
        if Instant::now() > deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    true
}

fn check(what: &str, fact: bool) -> Result<(), Failed> {
    match fact {
        true => Ok(()),
        false => Err(format!("not so: {what}").into()),
    }
}

/// Fails unless the error is the one.
fn number<T>(what: &str, done: io::Result<T>, wanted: Errno) -> Result<(), Failed> {
    let found = match done {
        Ok(_) => None,
        Err(why) => why.raw_os_error().map(Errno::from_raw),
    };
    match found == Some(wanted) {
        true => Ok(()),
        false => Err(format!("{what}: {found:?} instead of {wanted:?}").into()),
    }
}

fn numbers() -> Result<(), Failed> {
    let mounted = Mounted::new(&["--size", "8M", "--inodes", "32"])?;
    let on = |name: &str| mounted.on(name);
    std::fs::create_dir_all(on("d/e"))?;
    std::fs::write(on("f"), "text")?;
    symlink("round", on("round"))?;
    let file = File::options().write(true).open(on("f"))?;
    use Errno as E;
    number(
        "a long name",
        File::create(on(&"n".repeat(256))),
        E::ENAMETOOLONG,
    )?;
    number("a missing name", File::open(on("none")), E::ENOENT)?;
    number(
        "a full directory",
        std::fs::remove_dir(on("d")),
        E::ENOTEMPTY,
    )?;
    number("a name twice", std::fs::create_dir(on("f")), E::EEXIST)?;
    number("a file as a directory", File::open(on("f/g")), E::ENOTDIR)?;
    number("a directory to write", File::create(on("d")), E::EISDIR)?;
    number("a ring of links", File::open(on("round")), E::ELOOP)?;
    number("a file too big", file.set_len((16 << 40) + 1), E::EFBIG)?;
    number(
        "a second name of a directory",
        std::fs::hard_link(on("d"), on("g")),
        E::EPERM,
    )?;
    number(
        "below itself",
        std::fs::rename(on("d"), on("d/e/x")),
        E::EINVAL,
    )?;
    let collapse = fallocate(&file, FallocateFlags::FALLOC_FL_COLLAPSE_RANGE, 0, 4096);
    number(
        "no such fallocate",
        collapse.map_err(Into::into),
        E::EOPNOTSUPP,
    )?;
    let inodes = (0..40).try_for_each(|n| File::create(on(&format!("n{n}"))).map(drop));
    number("no inode left", inodes, E::ENOSPC)?;
    drop(file);
    mounted.end().map(drop)
}

fn full() -> Result<(), Failed> {
    let mounted = Mounted::new(&["--size", "8M"])?;
    std::fs::write(mounted.on("kept"), "kept")?;
    let mut file = File::create(mounted.on("large"))?;
    let piece = vec![7; 64 << 10];
    let wrote = (0..1000).try_for_each(|_| file.write_all(&piece));
    number("no space", wrote, Errno::ENOSPC)?;
    let len = file.metadata()?.len();
    drop(file);
    check("nearly all of it was used", len > 6 << 20)?;
    let bytes = std::fs::read(mounted.on("large"))?;
    check("what was written is there", bytes.iter().all(|b| *b == 7))?;
    check(
        "and the rest",
        std::fs::read(mounted.on("kept"))? == b"kept",
    )?;
    std::fs::remove_file(mounted.on("large"))?;
    std::fs::write(mounted.on("again"), &piece)?;
    mounted.end().map(drop)
}

/// One that was there before the mount, and that the kernel has only looked up.
fn unlinked() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name).display().to_string();
    std::fs::write(path("there"), vec![1; 4 << 20])?;
    well(&["mkfs", &path("image"), "--size", "16M"])?;
    well(&["put", &path("image"), &path("there"), "/f"])?;
    let mounted = Mounted::mount(folder, &[])?;
    let path = mounted.on("f");
    let file = File::options().read(true).write(true).open(&path)?;
    std::fs::remove_file(&path)?;
    // Its blocks are not anybody else's meanwhile.
    std::fs::write(mounted.on("other"), vec![2; 4 << 20])?;
    file.write_all_at(&[3; 10], 4095)?;
    let mut bytes = vec![0; 4 << 20];
    file.read_exact_at(&mut bytes, 0)?;
    let ours = bytes
        .iter()
        .enumerate()
        .all(|(at, byte)| *byte == if (4095..4105).contains(&at) { 3 } else { 1 });
    check("the bytes are its own", ours)?;
    check("it has no name", file.metadata()?.nlink() == 0)?;
    drop(file);
    // 4 MiB are in use, and 9 MiB of 16 fit only if the others came back.
    let fits = within(|| std::fs::write(mounted.on("third"), vec![4; 9 << 20]).is_ok());
    check("its blocks came back", fits)?;
    mounted.end().map(drop)
}

/// The second name of an open file is first seen in a listing: the kernel must know it for the same file.
fn listed_while_open() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let tree = folder.path().join("tree");
    std::fs::create_dir(&tree)?;
    std::fs::write(tree.join("one"), "1")?;
    std::fs::hard_link(tree.join("one"), tree.join("two"))?;
    let path = |name: &str| folder.path().join(name).display().to_string();
    well(&["mkfs", &path("image"), "--size", "16M"])?;
    well(&["import", &path("image"), &path("tree")])?;
    let mounted = Mounted::mount(folder, &[])?;
    let file = File::options()
        .read(true)
        .write(true)
        .open(mounted.on("one"))?;
    let names = std::fs::read_dir(mounted.on(""))?.count();
    check("two names", names == 2)?;
    file.write_all_at(b"22", 0)?;
    check("one file", std::fs::read(mounted.on("two"))? == b"22")?;
    drop(file);
    mounted.end().map(drop)
}

fn rename(from: &Path, to: &Path, flags: RenameFlags) -> io::Result<()> {
    Ok(renameat2(AT_FDCWD, from, AT_FDCWD, to, flags)?)
}

fn renames() -> Result<(), Failed> {
    let mounted = Mounted::new(&["--size", "16M"])?;
    let on = |name: &str| mounted.on(name);
    std::fs::create_dir(on("d"))?;
    for name in ["a", "d/b", "c"] {
        std::fs::write(on(name), name)?;
    }
    let refused = rename(&on("a"), &on("d/b"), RenameFlags::RENAME_NOREPLACE);
    number("there is one", refused, Errno::EEXIST)?;
    rename(&on("a"), &on("d/b"), RenameFlags::RENAME_EXCHANGE)?;
    let read = |name| std::fs::read_to_string(on(name));
    check("exchanged", read("a")? == "d/b" && read("d/b")? == "a")?;
    rename(&on("c"), &on("a"), RenameFlags::empty())?;
    check("replaced", read("a")? == "c" && !on("c").exists())?;
    rename(&on("a"), &on("d/new"), RenameFlags::RENAME_NOREPLACE)?;
    check("moved", read("d/new")? == "c")?;
    mounted.end().map(drop)
}

fn holes() -> Result<(), Failed> {
    let mounted = Mounted::new(&["--size", "16M"])?;
    let file = File::create_new(mounted.on("f"))?;
    file.write_all_at(&[1; 4096], 1 << 20)?;
    let seek = |at, what| lseek(&file, at, what);
    check("data after the hole", seek(0, Whence::SeekData)? == 1 << 20)?;
    check("the hole first", seek(0, Whence::SeekHole)? == 0)?;
    let end = (1 << 20) + 4096;
    check("a hole at the end", seek(1 << 20, Whence::SeekHole)? == end)?;
    check(
        "nothing behind",
        seek(end, Whence::SeekData) == Err(Errno::ENXIO),
    )?;
    let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
    fallocate(&file, punch, 1 << 20, 4096)?;
    check("punched", seek(0, Whence::SeekData) == Err(Errno::ENXIO))?;
    check("the size stays", file.metadata()?.len() == end as u64)?;
    fallocate(&file, FallocateFlags::empty(), 0, 2 << 20)?;
    check("longer", file.metadata()?.len() == 2 << 20)?;
    let (zero, keep) = (
        FallocateFlags::FALLOC_FL_ZERO_RANGE,
        FallocateFlags::FALLOC_FL_KEEP_SIZE,
    );
    file.write_all_at(&[5; 20_000], 100)?;
    fallocate(&file, zero, 0, 21_000)?;
    fallocate(&file, zero | keep, (2 << 20) - 10, 1 << 20)?;
    check("the size stays", file.metadata()?.len() == 2 << 20)?;
    fallocate(&file, keep, 4 << 20, 1 << 20)?;
    check("it stays again", file.metadata()?.len() == 2 << 20)?;
    let sectors = file.metadata()?.blocks();
    check("storage behind the end", sectors * 512 >= 4 << 20)?;
    drop(file);
    let zeroes = std::fs::read(mounted.on("f"))?;
    check("all zeroes", zeroes.iter().all(|byte| *byte == 0))?;
    mounted.end().map(drop)
}

fn read_only() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let image = folder.path().join("image").display().to_string();
    well(&["mkfs", &image, "--size", "16M"])?;
    well(&["put", &image, "Cargo.toml", "/f"])?;
    let before = std::fs::read(&image)?;
    let mounted = Mounted::mount(folder, &["--read-only"])?;
    let text = std::fs::read(mounted.on("f"))?;
    check(
        "it is read",
        text == std::fs::read(boot::kernel::workspace().join("Cargo.toml"))?,
    )?;
    number("not made", File::create(mounted.on("g")), Errno::EROFS)?;
    number(
        "not removed",
        std::fs::remove_file(mounted.on("f")),
        Errno::EROFS,
    )?;
    mounted.signal()?;
    check("it goes", within(|| !mounted.is_there()))?;
    check("no byte is another", std::fs::read(&image)? == before)
}

fn one_user() -> Result<(), Failed> {
    let mounted = Mounted::new(&["--size", "16M"])?;
    let image = mounted.image();
    for words in [
        vec!["fs", "ls", &image],
        vec!["fs", "mkfs", &image, "--force"],
        vec!["--pmem", &image, "exec", "mount"],
    ] {
        let ran = holdfast(&words)?;
        let refused = ran.code == Some(5) && ran.stderr.contains("in use");
        check(&format!("{words:?} is refused: {ran:?}"), refused)?;
    }
    mounted.end().map(drop)
}

fn busy() -> Result<(), Failed> {
    let mut mounted = Mounted::new(&["--size", "16M"])?;
    let mut file = File::create(mounted.on("f"))?;
    mounted.signal()?;
    std::thread::sleep(Duration::from_millis(300));
    check("it stays", mounted.is_there())?;
    file.write_all(b"still")?;
    mounted.signal()?;
    check("it is detached", within(|| !mounted.is_there()))?;
    file.write_all(b" here")?;
    drop(file);
    check("it ends", mounted.child.wait()?.success())?;
    let ran = holdfast(&["fs", "get", &mounted.image(), "/f"])?;
    check("all is there", ran.stdout == "still here")
}
