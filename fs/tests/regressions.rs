//! The bugs that crash testing found in file systems for persistent memory, as shapes: what was done when each of them failed, done here under
//! the crash explorer.
//!
//! Sources: the list of bugs and the issues of Chipmunk (23 bugs in NOVA, NOVA-Fortis, PMFS, WineFS and SplitFS), the issues by Silhouette's
//! authors (15 bugs, two of them of speed), ArckFS+'s account of ArckFS (6). Where a list names a bug without saying what was done, the
//! workload is ours and the case says so.

use std::sync::Arc;
use std::thread;

use crate::common::model::Op;
use crate::common::*;
use crate::explorer::act::Act;
use crate::explorer::lab::{Lab, Plan, TORN};
use crate::explorer::region::What;
use crate::explorer::states::Depth;
use crate::explorer::worlds::{self, World};
use dax::pmem::RamPmem;
use fs::{Fill, Fs, fsck};

/// Every operation of the sequence is crashed at all its points, after those before it; the recoveries too.
fn crashed(world: &Arc<World>, acts: &[Act]) {
    let plan = Plan {
        depth: Depth::Normal,
        recovery: 1,
        torn: TORN,
        more: false,
    };
    let mut lab = Lab::new(world, plan);
    for n in 1..=acts.len() {
        let sequence: Vec<&Act> = acts[..n].iter().collect();
        lab.run_acts(&sequence, &format!("{sequence:?}"));
    }
    println!("{}", lab.figures);
    assert!(lab.figures.states > 0);
    if let Some(found) = lab.found {
        panic!("{found}");
    }
}

fn s(path: &str) -> String {
    path.to_string()
}

fn create(path: &str) -> Act {
    Op::Create(s(path)).into()
}

fn mkdir(path: &str) -> Act {
    Op::Mkdir(s(path)).into()
}

fn rmdir(path: &str) -> Act {
    Op::Rmdir(s(path)).into()
}

fn unlink(path: &str) -> Act {
    Op::Unlink(s(path)).into()
}

fn link(old: &str, new: &str) -> Act {
    Op::Link(s(old), s(new)).into()
}

fn rename(old: &str, new: &str) -> Act {
    Op::Rename(s(old), s(new), true).into()
}

fn write(path: &str, off: u64, len: u64) -> Act {
    Op::Write(s(path), off, len, (off % 50) as u8 + len as u8 % 50).into()
}

fn truncate(path: &str, size: u64) -> Act {
    Op::Truncate(s(path), size).into()
}

fn fallocate(path: &str, off: u64, len: u64) -> Act {
    Op::Fallocate(s(path), off, len, Fill::Unwritten).into()
}

/// A case for each shape: the list of operations begins with the tree of the world named.
macro_rules! shapes {
    ($($(#[$about:meta])* $name:ident: $world:ident, [$($act:expr),* $(,)?];)*) => {
        $($(#[$about])* #[test] fn $name() {
            crashed(&worlds::$world(), &[$($act),*]);
        })*
    };
}

// Chipmunk's 23.
shapes! {
    /// NOVA 1: recovery on one CPU read beyond an array after the first create.
    nova_1_the_first_create: ace, [create("/foo")];
    /// NOVA 2 (issue 91): a line of a new inode was not written back; the file could not be reached.
    nova_2_a_new_inode_is_whole: ace, [mkdir("/A"), create("/A/foo")];
    /// NOVA 3 (issue 94): the log of an inode was begun, tail before head, and recovery followed a null pointer.
    nova_3_the_first_content_of_a_file: ace, [create("/foo"), write("/foo", 0, 100)];
    /// NOVA 4: rename deleted the old entry in place, and lost the file.
    nova_4_rename_loses_nothing: own, [rename("/A/foo", "/bar"), rename("/bar", "/A/foo")];
    /// NOVA 5: the log did not say that a directory had moved; its old parent could not be removed.
    nova_5_a_moved_directory_leaves_its_parent: own,
        [rename("/A/sub", "/B/sub"), rmdir("/B/sub"), rmdir("/B")];
    /// NOVA 6 (issue 119): the link count was changed in place before the link was there.
    nova_6_links_and_their_count: ace,
        [create("/bar"), mkdir("/A"), rename("/bar", "/A/bar"), link("/A/bar", "/bar")];
    /// NOVA 7: log entries in the wrong order when a file was changed through two descriptors.
    nova_7_changes_of_one_file_in_turn: own,
        [write("/A/foo", 9000, 500), truncate("/A/foo", 4000), write("/A/foo", 3900, 500)];
    /// NOVA 8 (issue 118 is a relative): blocks counted wrong after ftruncate and fallocate through two descriptors; data lost.
    nova_8_truncate_and_fallocate: own,
        [truncate("/A/foo", 1), fallocate("/A/foo", 4096, 9000), truncate("/A/foo", 64), write("/A/foo", 5000, 10)];
    /// Fortis 1 (issue 120): no fence between a log and its replica; unlink and rmdir left broken directories.
    fortis_1_unlink_and_rmdir: own, [unlink("/A/bar2"), unlink("/bar"), rmdir("/B")];
    /// Fortis 2 (issue 100): a log and its replica were not begun together; a directory could not be added to.
    fortis_2_the_first_entry_of_a_directory: ace, [mkdir("/A"), create("/A/bar"), create("/A/foo")];
    /// Fortis 3 (issue 127): truncate of a file with two links mixed up its checksums, and the link count was lost.
    fortis_3_truncate_of_a_linked_file: ace, [create("/foo"), link("/foo", "/bar"), truncate("/foo", 0)];
    /// Fortis 4 (issue 131): a truncate cut off left data that its checksum did not fit: reading failed.
    fortis_4_a_cut_file_can_be_read: ace, [create("/foo"), write("/foo", 0, 32), truncate("/foo", 1)];
    /// PMFS 1 (PMFS-new issue 6): recovery finished truncates before it had read what was in use.
    pmfs_1_truncate_to_nothing: ace, [create("/foo"), write("/foo", 0, 4096), truncate("/foo", 0)];
    /// PMFS 2: data was not fenced before its metadata; two operations were needed.
    pmfs_2_data_before_its_size: own, [truncate("/A/foo", 0), write("/A/foo", 0, 5000), write("/A/foo", 5000, 5000)];
    /// PMFS 3: memory was misused at the mount after a crash (the list says no more; the workload is ours).
    pmfs_3_mounted_again_and_again: own, [unlink("/frag"), Act::Remount, create("/new"), Act::Remount];
    /// PMFS 4, by the fuzzer: the unaligned edges of a write past the caches were not written back.
    pmfs_4_unaligned_edges: own, [write("/A/foo", 3, 5), write("/A/foo", 4093, 7), write("/A/foo", 8999, 3)];
    /// WineFS 1: journals were read wrongly at recovery; broken directories, wrong link counts.
    winefs_1_names_and_links: ace, [create("/foo"), link("/foo", "/bar"), mkdir("/A"), unlink("/foo")];
    /// WineFS 2 needs two operations (the list says no more; the workload is ours).
    winefs_2_two_writes: ace, [create("/foo"), write("/foo", 0, 5000), write("/foo", 4000, 5000)];
    /// WineFS 3 (issue 9), by the fuzzer: a file made longer by truncate after others had changed it showed old bytes.
    winefs_3_longer_by_truncate: ace,
        [create("/foo"), fallocate("/foo", 0x4ce0, 1), write("/foo", 0, 1), truncate("/foo", 1), write("/foo", 1, 1), truncate("/foo", 64)];
    /// WineFS 4 (issue 5): a write in strict mode was not atomic. Here a write to new storage is; one in place keeps each 8 bytes whole.
    winefs_4_writes: own, [write("/new", 0, 10), write("/A/foo", 0, 9000), write("/pre", 0, 12_288)];
    /// SplitFS 1 (issue 67): replay made the old name again when the new one was there.
    splitfs_1_rename_onto_another: ace, [create("/foo"), create("/bar"), rename("/foo", "/bar")];
    /// SplitFS 2: appends are staged elsewhere and linked in (no account is public; the workload is ours).
    splitfs_2_appends: ace, [create("/foo"), write("/foo", 0, 4096), write("/foo", 4096, 100), write("/foo", 4196, 4096)];
    /// SplitFS 3: its log of operations, replayed in order (no account is public; the workload is ours).
    splitfs_3_a_name_used_again: ace, [create("/foo"), unlink("/foo"), create("/foo"), write("/foo", 0, 10), unlink("/foo")];
}

// Silhouette's 15.
shapes! {
    /// NOVA issue 152: between the record of a truncate and its work, what was cut came back.
    silhouette_1_what_was_cut_stays_away: ace,
        [create("/foo"), write("/foo", 0, 4000), truncate("/foo", 4), truncate("/foo", 4000)];
    /// Truncate was not atomic: size and blocks changed apart.
    silhouette_2_truncate_of_a_file_in_pieces: own, [truncate("/frag", 8192), truncate("/frag", 100_000)];
    /// NOVA issue 125: unlink left the link count of the other name.
    silhouette_3_unlink_one_of_two: ace, [create("/foo"), link("/foo", "/bar"), unlink("/foo")];
    /// rmdir changed the parent and the directory apart.
    silhouette_4_rmdir_and_its_parent: own, [rmdir("/A/sub"), rmdir("/B")];
    /// Two files got one inode number after a crash.
    silhouette_5_numbers_are_given_once: ace, [create("/foo"), Act::Remount, create("/bar"), mkdir("/A"), create("/A/foo")];
    /// NOVA issue 146: an inode in memory was not initialised when its list was read at mount.
    silhouette_6_a_mount_after_a_mount: own, [Act::Remount, write("/A/foo", 0, 100), Act::Remount];
    /// O_APPEND took the size from before the crash.
    silhouette_7_append_after_append: ace, [create("/foo"), write("/foo", 0, 5), write("/foo", 5, 5), Act::Remount, write("/foo", 10, 5)];
    /// NOVA issue 154: a page and the checksum over its address in the wrong order, when a directory or log grew.
    silhouette_8_a_directory_grows: ace, [mkdir("/A"), create("/A/foo"), create("/A/bar")];
    /// WineFS issue 26: an inode on the list of orphans was used again, and recovery cut the new file.
    silhouette_9_an_orphans_number_is_used_again: own, [unlink("/A/foo"), mkdir("/new"), create("/new/f"), write("/new/f", 0, 5000)];
    /// WineFS issues 20 and 22: recovery finished a truncate with times of its own.
    silhouette_10_recovery_makes_no_times: own, [Op::SetAttr(s("/B"), 0o700, 1, 2).into(), rename("/A/sub", "/B/sub")];
    /// Replica and primary of a directory's inode apart, on rename across directories (the workload is ours).
    silhouette_11_two_parents_in_one_rename: own, [rename("/A/foo", "/B/foo"), rename("/B", "/A/B")];
    /// Content of a write and its checksum apart (the workload is ours).
    silhouette_12_overwrite_of_part_of_a_block: own, [write("/A/foo", 4090, 20), write("/A/foo", 100, 9)];
    /// The one bug of ordering: a store not fenced before the commit mark (the workload is ours).
    silhouette_13_new_blocks_before_their_record: own, [write("/new", 0, 6000), Op::Create(s("/fresh")).into(), write("/fresh", 0, 6000)];
}

/// The bugs of speed (NOVA issue 133): a line written back twice for nothing, a fence after a fence.
#[test]
fn silhouette_14_and_15_nothing_is_flushed_or_fenced_twice() {
    let world = worlds::own();
    for act in &world.acts {
        let mut lab = Lab::new(
            &world,
            Plan {
                depth: Depth::Bare,
                recovery: 0,
                torn: TORN,
                more: false,
            },
        );
        let Some(events) = lab.last_events(&[act]) else {
            continue;
        };
        let mut idle = false;
        let mut flushed = std::collections::HashSet::new();
        for event in events {
            match event.what {
                What::Fence => {
                    let free_of_charge = matches!(act, Act::Remount | Act::Sync | Act::Map(..));
                    assert!(
                        !idle || free_of_charge,
                        "{act:?}: a fence with nothing before it"
                    );
                    idle = true;
                    flushed.clear();
                }
                What::Flush(first, last) => {
                    idle = false;
                    let twice = (first..=last).filter(|line| !flushed.insert(*line)).count();
                    assert!(twice <= 4, "{act:?}: {twice} lines are written back twice");
                }
                What::Store(at, _) => {
                    idle = false;
                    flushed.remove(&(at / 8));
                }
                What::Nt(..) => idle = false,
            }
        }
    }
}

// ArckFS+'s 6.
shapes! {
    /// ArckFS: no fence before the commit mark of a create.
    arckfs_1_create: own, [create("/new"), create("/A/new")];
    /// ArckFS: a rename across directories was not atomic.
    arckfs_2_rename_across_directories: own, [rename("/A/foo", "/B/foo"), rename("/B/foo", "/A/foo"), rename("/A", "/B/A")];
}

fn shared() -> (Arc<RamPmem>, Arc<Fs<Arc<RamPmem>>>) {
    let (ram, backing) = formatted(1 << 20);
    let fs = Fs::mount(ram.clone(), backing).expect("mount");
    for dir in ["/a", "/b"] {
        fs.mkdir(dir, 0o755).expect("mkdir");
    }
    (ram, fs)
}

/// Two threads again and again; afterwards the file system is sound.
fn race(one: impl Fn(&Fs<Arc<RamPmem>>) + Sync, two: impl Fn(&Fs<Arc<RamPmem>>) + Sync) {
    let (ram, fs) = shared();
    thread::scope(|scope| {
        for work in [&one as &(dyn Fn(&Fs<Arc<RamPmem>>) + Sync), &two] {
            let fs = &fs;
            scope.spawn(move || (0..300).for_each(|_| work(fs)));
        }
    });
    let report = fsck(&ram);
    assert!(report.is_clean(), "{report}");
}

/// ArckFS: nobody looked whether a directory moves below itself; two renames at a time could each find nothing wrong.
#[test]
fn arckfs_3_no_ring_of_directories() {
    let (_, fs) = shared();
    fs.mkdir("/a/c", 0o755).expect("mkdir");
    assert!(fs.rename("/a", "/a/c/d", true).is_err());
    race(
        |fs| {
            let _ = fs.rename("/a", "/b/a", true);
            let _ = fs.rename("/b/a", "/a", true);
        },
        |fs| {
            let _ = fs.rename("/b", "/a/b", true);
            let _ = fs.rename("/a/b", "/b", true);
        },
    );
}

/// ArckFS: two creates of one name at a time.
#[test]
fn arckfs_4_one_name_is_made_once() {
    let make = |fs: &Fs<Arc<RamPmem>>| {
        let _ = fs.create("/a/f", 0o644);
        let _ = fs.unlink("/a/f");
    };
    race(make, make);
}

/// ArckFS: a name made in a directory that is being removed.
#[test]
fn arckfs_5_nothing_comes_into_a_removed_directory() {
    race(
        |fs| drop((fs.rmdir("/a"), fs.mkdir("/a", 0o755))),
        |fs| drop((fs.create("/a/f", 0o644), fs.unlink("/a/f"))),
    );
}

/// ArckFS: a file found and used while its name was being replaced.
#[test]
fn arckfs_6_a_file_is_used_while_it_is_replaced() {
    race(
        |fs| {
            let _ = fs.create("/a/new", 0o644);
            let _ = fs.rename("/a/new", "/b/f", true);
        },
        |fs| {
            if let Ok(f) = fs.open("/b/f") {
                let _ = fs.write(&f, 0, &[7; 5000]);
                let mut buf = [0; 5000];
                assert!(fs.read(&f, 0, &mut buf).is_ok());
                assert!(buf == [7; 5000]);
            }
        },
    );
}
