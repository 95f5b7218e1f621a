//! An image filled on the host is read and changed in the machine, and the other way round, byte for byte.

use std::collections::BTreeMap;
use std::fs::{File, FileTimes, Permissions};
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

use libtest_mimic::Failed;
use tests::driver::holdfast;

use crate::Check;
use crate::script::{crc32c, expect};

/// The cases.
pub const CASES: &[(&str, Check)] = &[
    (
        "exchange::a_tree_of_the_host_is_read_and_changed_in_the_machine_and_comes_back",
        host_first,
    ),
    (
        "exchange::a_tree_of_the_machine_comes_out_and_goes_back_changed",
        machine_first,
    ),
];

const MIB: usize = 1 << 20;
/// Seconds since 1970 of the files whose time must not change.
const OLD: u64 = 1_000_000_007;

fn bytes(len: usize) -> Vec<u8> {
    (0..len).map(|n| (n * n / 7 + n / 4096) as u8).collect()
}

fn long_name() -> String {
    "long-".repeat(48)
}

/// 24 directories, one in the other.
fn deep() -> String {
    (0..24)
        .map(|n| format!("d{n}"))
        .collect::<Vec<_>>()
        .join("/")
}

/// Makes a tree with one of each.
fn plant(root: &Path) -> Result<(), Failed> {
    std::fs::create_dir_all(root.join(deep()))?;
    std::fs::write(root.join(deep()).join("leaf"), bytes(5000))?;
    std::fs::write(root.join(long_name()), bytes(4097))?;
    std::fs::write(root.join("large"), bytes(2 * MIB))?;
    std::fs::write(root.join("empty"), "")?;
    std::fs::write(root.join("goes"), "gone soon")?;
    std::fs::write(root.join("moves"), bytes(100))?;
    let sparse = File::create(root.join("sparse"))?;
    sparse.write_all_at(b"first", 0)?;
    sparse.write_all_at(b"last", 8 * MIB as u64 + 3)?;
    symlink("large", root.join("near"))?;
    symlink(
        format!("{}/leaf", deep()),
        root.join("far-link-that-is-not-short"),
    )?;
    std::fs::hard_link(root.join("large"), root.join("second"))?;
    std::fs::write(root.join("private"), "mine\n")?;
    std::fs::set_permissions(root.join("private"), Permissions::from_mode(0o4600))?;
    let old = UNIX_EPOCH + Duration::new(OLD, 123_456_789);
    let times = FileTimes::new().set_modified(old).set_accessed(old);
    File::open(root.join("private"))?.set_times(times)?;
    Ok(())
}

/// What is there: of each name what it is, its mode, and its content.
fn tree(root: &Path) -> Result<BTreeMap<String, (u32, Vec<u8>)>, Failed> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(root)? {
        let entry = entry?;
        let (name, path) = (
            entry.file_name().to_string_lossy().into_owned(),
            entry.path(),
        );
        let meta = entry.metadata()?;
        if meta.is_dir() {
            for (below, what) in tree(&path)? {
                found.insert(format!("{name}/{below}"), what);
            }
        }
        let content = match meta.is_file() {
            true => std::fs::read(&path)?,
            false if meta.is_symlink() => std::fs::read_link(&path)?
                .into_os_string()
                .into_encoded_bytes(),
            false => Vec::new(),
        };
        found.insert(name, (meta.mode(), content));
    }
    Ok(found)
}

/// Fails with the names that differ.
fn same(found: &Path, wanted: &Path) -> Result<(), Failed> {
    let (found, wanted) = (tree(found)?, tree(wanted)?);
    let names = found.keys().chain(wanted.keys());
    let differ: Vec<_> = names
        .filter(|name| found.get(*name) != wanted.get(*name))
        .map(|name| {
            let tell = |tree: &BTreeMap<String, (u32, Vec<u8>)>| {
                let found = tree.get(name);
                found.map(|(mode, bytes)| format!("{mode:o}, {} bytes", bytes.len()))
            };
            format!("{name}: {:?} instead of {:?}", tell(&found), tell(&wanted))
        })
        .collect();
    match differ.is_empty() {
        true => Ok(()),
        false => Err(differ.join("\n").into()),
    }
}

fn fs(words: &[&str]) -> Result<String, Failed> {
    let ran = holdfast(&[&["fs"], words].concat())?;
    match ran.code == Some(0) {
        true => Ok(ran.stdout),
        false => Err(format!("{words:?}: {ran:?}").into()),
    }
}

fn host_first() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let at = |name: &str| folder.path().join(name);
    let path = |name: &str| at(name).display().to_string();
    std::fs::create_dir(at("tree"))?;
    plant(&at("tree"))?;
    let image = path("image");
    fs(&["mkfs", &image, "--size", "128M"])?;
    fs(&["import", &image, &path("tree")])?;
    fs(&["export", &image, &path("unchanged")])?;
    same(&at("unchanged"), &at("tree"))?;
    in_the_machine(&image, &at("tree"))?;
    on_the_host(&at("tree"))?;
    fs(&["fsck", &image])?;
    fs(&["export", &image, &path("back")])?;
    same(&at("back"), &at("tree"))?;
    attributes_are_kept(&at("back"))
}

/// Reads every kind of file, and changes some.
fn in_the_machine(image: &str, tree: &Path) -> Result<(), Failed> {
    let sum =
        |name: &str| -> Result<String, Failed> { Ok(crc32c(&std::fs::read(tree.join(name))?)) };
    let leaf = format!("{}/leaf", deep());
    let commands = [
        ("mount".to_owned(), String::new()),
        (format!("sum /{leaf}"), sum(&leaf)?),
        (format!("sum /{}", long_name()), sum(&long_name())?),
        ("sum /large".into(), sum("large")?),
        ("sum /near".into(), sum("large")?),
        ("sum /far-link-that-is-not-short".into(), sum(&leaf)?),
        ("sum /second".into(), sum("large")?),
        ("sum /sparse".into(), sum("sparse")?),
        ("cat /private".into(), "mine".into()),
        ("write /large 5000 changed".into(), String::new()),
        ("rm /goes".into(), String::new()),
        (format!("mv /moves /{}/moved", deep()), String::new()),
        ("mkdir /made".into(), String::new()),
        ("create /made/zeroes 8192".into(), String::new()),
        ("truncate /sparse 4M".into(), String::new()),
        ("ln /private /made/private".into(), String::new()),
    ];
    let commands: Vec<_> = commands
        .iter()
        .map(|(c, a)| (c.as_str(), a.as_str()))
        .collect();
    expect(&["--pmem", image], 0, &commands).map(drop)
}

/// The same changes, to the tree that was copied.
fn on_the_host(root: &Path) -> Result<(), Failed> {
    let large = File::options().write(true).open(root.join("large"))?;
    large.write_all_at(b"changed", 5000)?;
    std::fs::remove_file(root.join("goes"))?;
    std::fs::rename(root.join("moves"), root.join(deep()).join("moved"))?;
    std::fs::create_dir(root.join("made"))?;
    std::fs::write(root.join("made/zeroes"), vec![0; 8192])?;
    File::options()
        .write(true)
        .open(root.join("sparse"))?
        .set_len(4 * MIB as u64)?;
    std::fs::hard_link(root.join("private"), root.join("made/private"))?;
    Ok(())
}

fn attributes_are_kept(root: &Path) -> Result<(), Failed> {
    let (one, two) = (
        root.join("private").metadata()?,
        root.join("made/private").metadata()?,
    );
    let sparse = root.join("sparse").metadata()?;
    let facts = [
        one.ino() == two.ino(),
        one.mtime() == OLD as i64 && one.mtime_nsec() == 123_456_789,
        root.join("large").metadata()?.nlink() == 2,
        sparse.blocks() * 512 < MIB as u64,
    ];
    match facts == [true; 4] {
        true => Ok(()),
        false => Err(format!("one inode, time, links, holes: {facts:?}").into()),
    }
}

fn machine_first() -> Result<(), Failed> {
    let folder = tempfile::tempdir()?;
    let at = |name: &str| folder.path().join(name);
    let path = |name: &str| at(name).display().to_string();
    let (image, pmem) = (path("image"), format!("{},size=64M", path("image")));
    let deep_file = format!("/{}/f", deep());
    let mut commands = vec!["mkfs".to_owned(), "mount".into()];
    let dirs: Vec<String> = deep().split('/').map(str::to_owned).collect();
    commands.extend((1..=dirs.len()).map(|n| format!("mkdir /{}", dirs[..n].join("/"))));
    let sums = [deep_file.clone(), format!("/{}", long_name())];
    for file in &sums {
        commands.extend([format!("create {file} 2M"), format!("fill {file} 4K 1M 7")]);
    }
    commands.extend(sums.iter().map(|file| format!("sum {file}")));
    let pairs: Vec<_> = commands.iter().map(|c| (c.as_str(), "")).collect();
    let told = expect(&["--pmem", &pmem], 0, &pairs)?;
    fs(&["export", &image, &path("out")])?;
    for (file, answer) in sums
        .iter()
        .zip(&told.answers[commands.len() - sums.len()..])
    {
        let bytes = std::fs::read(folder.path().join(format!("out{file}")))?;
        if !answer.contains(&crc32c(&bytes)) || bytes.len() != 2 * MIB {
            return Err(format!("{file}: the machine's sum is {answer:?}").into());
        }
    }
    std::fs::write(at("out").join("from-the-host"), bytes(70_000))?;
    fs(&["import", &image, &path("out")])?;
    let sum = crc32c(&bytes(70_000));
    let back = [
        ("mount", ""),
        ("sum /from-the-host", sum.as_str()),
        ("umount", ""),
    ];
    expect(&["--pmem", &image], 0, &back)?;
    fs(&["fsck", &image]).map(drop)
}
