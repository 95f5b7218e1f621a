//! Random operations on the file system and on a tree in memory: the same answers, the same tree, and after each mount again.

use std::sync::Arc;

use crate::common::model::{Model, Op, snapshot};
use crate::common::*;
use dax::pmem::RamPmem;
use fs::{Fill, Fs, Kind, mkfs};
use proptest::prelude::*;

fn path() -> impl Strategy<Value = String> {
    let long = "a name so long that it takes more than one slot of a directory".to_string();
    let longest = "z".repeat(255);
    let name = prop_oneof![
        Just("a".to_string()),
        Just("b".into()),
        Just("c".into()),
        Just(long),
        Just(longest)
    ];
    prop::collection::vec(name, 1..4).prop_map(|names| format!("/{}", names.join("/")))
}

/// Where a symbolic link leads: to a path, up and down, or to what is too long for an inode.
fn target() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => path(),
        2 => path().prop_map(|path| path[1..].to_string()),
        1 => path().prop_map(|path| format!("..{path}")),
        1 => path().prop_map(|path| format!("{path}/")),
        1 => (1usize..400, path()).prop_map(|(n, path)| format!("{}{path}", "/.".repeat(n))),
        1 => prop_oneof![Just(0usize), Just(40), Just(41), Just(192), Just(193), Just(4095), Just(4096)]
            .prop_map(|n| "t".repeat(n)),
    ]
}

fn special() -> impl Strategy<Value = Kind> {
    prop_oneof![
        Just(Kind::Fifo),
        Just(Kind::Socket),
        Just(Kind::CharDev),
        Just(Kind::BlockDev)
    ]
}

fn fill() -> impl Strategy<Value = Fill> {
    prop_oneof![
        Just(Fill::Unwritten),
        Just(Fill::Zeroed),
        Just(Fill::KeepSize)
    ]
}

fn op() -> impl Strategy<Value = Op> {
    let at = || prop_oneof![0u64..20_000, (0u64..12).prop_map(|b| b * 4096)];
    let len = || prop_oneof![1u64..200, 1u64..20_000, (1u64..5).prop_map(|b| b * 4096)];
    prop_oneof![
        3 => path().prop_map(Op::Create),
        3 => path().prop_map(Op::Mkdir),
        1 => path().prop_map(Op::Rmdir),
        1 => path().prop_map(Op::Unlink),
        1 => (path(), path()).prop_map(|(a, b)| Op::Link(a, b)),
        2 => (path(), path(), any::<bool>()).prop_map(|(a, b, r)| Op::Rename(a, b, r)),
        1 => (path(), path()).prop_map(|(a, b)| Op::Exchange(a, b)),
        2 => (path(), target()).prop_map(|(p, t)| Op::Symlink(p, t)),
        2 => (path(), any::<u16>(), any::<u32>(), any::<u32>()).prop_map(|(p, m, u, g)| Op::SetAttr(p, m, u, g)),
        1 => (path(), special(), any::<u32>()).prop_map(|(p, k, r)| Op::Special(p, k, r)),
        4 => (path(), at(), len(), any::<u8>()).prop_map(|(p, o, l, s)| Op::Write(p, o, l, s)),
        2 => (path(), at()).prop_map(|(p, s)| Op::Truncate(p, s)),
        2 => (path(), at(), len()).prop_map(|(p, o, l)| Op::Punch(p, o, l)),
        2 => (path(), at(), len(), fill()).prop_map(|(p, o, l, f)| Op::Fallocate(p, o, l, f)),
        2 => (path(), at(), len(), fill()).prop_map(|(p, o, l, f)| Op::ZeroRange(p, o, l, f)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]
    #[test]
    fn answers_as_the_model_does(ops in prop::collection::vec(op(), 1..120)) {
        let ram = Arc::new(RamPmem::new(8 << 20).expect("memory"));
        mkfs(&ram, &options()).expect("mkfs");
        let backing = backing(8 << 20);
        let mut fs = Fs::mount(ram.clone(), backing.clone()).expect("mount");
        let mut model = Model::default();
        for (step, op) in ops.iter().enumerate() {
            prop_assert_eq!(op.run(&fs), model.run(op), "step {}: {:?}", step, op);
            if step % 16 == 15 {
                prop_assert_eq!(snapshot(&fs).expect("walk"), model.snapshot(), "after step {}: {:?}", step, op);
            }
            if step % 40 == 39 {
                drop(fs);
                fs = Fs::mount(ram.clone(), backing.clone()).expect("mount again");
            }
        }
        prop_assert_eq!(snapshot(&fs).expect("walk"), model.snapshot());
        let before = fs.statfs();
        prop_assert!(Fs::unmount(fs).is_ok());
        let fs = Fs::mount(ram, backing).expect("mount at the end");
        prop_assert_eq!(snapshot(&fs).expect("walk"), model.snapshot());
        // What memory called free is what the media says is free.
        let after = fs.statfs();
        prop_assert_eq!(after.space.free + after.reserved, before.space.free + before.reserved + before.quarantined);
        prop_assert_eq!(after.inodes_used, before.inodes_used);
    }
}
