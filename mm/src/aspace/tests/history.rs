//! Any history of mapping, access, zap, protection and unmapping, in two address spaces on three CPUs, against the
//! rule: a page's mapped count is the number of entries that map it, and whatever a TLB reaches has a count.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const PAGES: u64 = 1024;

#[derive(Clone, Debug)]
enum Op {
    Map {
        space: usize,
        file: usize,
        page: u64,
        pages: u64,
        prot: Prot,
        align: PageSize,
    },
    Unmap {
        space: usize,
        which: usize,
        first: u64,
        pages: u64,
    },
    Access {
        cpu: usize,
        space: usize,
        which: usize,
        page: u64,
        access: Access,
    },
    Zap {
        file: usize,
        page: u64,
        pages: u64,
    },
    Protect {
        space: usize,
        which: usize,
        first: u64,
        pages: u64,
    },
}

fn any_op() -> impl Strategy<Value = Op> {
    let prot = prop_oneof![Just(RW), Just(RO)];
    let align = prop_oneof![Just(PageSize::Size4K), Just(PageSize::Size2M)];
    let access = prop_oneof![Just(Access::Read), Just(Access::Write)];
    let count = || prop_oneof![4 => 1_u64..20, 1 => 400_u64..PAGES];
    prop_oneof![
        2 => (0..2_usize, 0..2_usize, 0..700_u64, count(), prot, align)
            .prop_map(|(space, file, page, pages, prot, align)| Op::Map { space, file, page, pages, prot, align }),
        1 => (0..2_usize, any::<usize>(), 0..PAGES, count())
            .prop_map(|(space, which, first, pages)| Op::Unmap { space, which, first, pages }),
        8 => (0..3_usize, 0..2_usize, any::<usize>(), 0..PAGES, access)
            .prop_map(|(cpu, space, which, page, access)| Op::Access { cpu, space, which, page, access }),
        1 => (0..2_usize, 0..PAGES, count()).prop_map(|(file, page, pages)| Op::Zap { file, page, pages }),
        1 => (0..2_usize, any::<usize>(), 0..PAGES, count())
            .prop_map(|(space, which, first, pages)| Op::Protect { space, which, first, pages }),
    ]
}

/// Two address spaces and two files; the ranges that are mapped, as the test itself keeps them.
struct Case {
    w: World,
    spaces: [Arc<AddressSpace>; 2],
    files: [Arc<TestFile>; 2],
    ranges: [Vec<VaRange>; 2],
}

impl Case {
    /// The first file: small pages and holes. The second: a large folio, then small pages.
    fn new() -> Self {
        let w = World::new();
        let small = w.file(2048, 16);
        let large = TestFile::new(&w.pgmap, 0);
        large.add_block(0, w.pfn(0), PageSize::Size2M);
        (512..530).for_each(|p| large.add_block(p, w.pfn(p), PageSize::Size4K));
        let spaces = [w.space.clone(), w.another_space()];
        Self {
            w,
            spaces,
            files: [small, large],
            ranges: Default::default(),
        }
    }

    fn part(&self, space: usize, which: usize, first: u64, pages: u64) -> Option<VaRange> {
        let ranges = &self.ranges[space];
        let range = ranges.get(which.checked_rem(ranges.len())?)?;
        range.part(first % range.pages(), pages)
    }

    fn apply(&mut self, op: &Op) {
        match *op {
            Op::Map {
                space,
                file,
                page,
                pages,
                prot,
                align,
            } => {
                let object = self.files[file].clone();
                let range = self.spaces[space]
                    .map(object, page, pages, prot, align)
                    .unwrap();
                self.ranges[space].push(range);
            }
            Op::Unmap {
                space,
                which,
                first,
                pages,
            } => self.unmap(space, self.part(space, which, first, pages)),
            Op::Access {
                cpu,
                space,
                which,
                page,
                access,
            } => {
                if let Some(at) = self.part(space, which, page, 1) {
                    // A store into a mapping that forbids it fails; that is as it should be.
                    let _ = self
                        .w
                        .tlb
                        .access_on(cpu, &self.spaces[space], at.start(), access);
                }
            }
            Op::Zap { file, page, pages } => self.files[file].zap(page..page + pages),
            Op::Protect {
                space,
                which,
                first,
                pages,
            } => {
                if let Some(part) = self.part(space, which, first, pages) {
                    self.spaces[space].write_protect(part);
                }
            }
        }
    }

    fn unmap(&mut self, space: usize, part: Option<VaRange>) {
        let Some(part) = part else { return };
        self.spaces[space].unmap(part).unwrap();
        let old = core::mem::take(&mut self.ranges[space]);
        for range in old {
            let Some(cut) = range.intersection(part) else {
                self.ranges[space].push(range);
                continue;
            };
            let before = range.page_of(cut.start());
            self.ranges[space].extend(range.part(0, before));
            self.ranges[space].extend(range.part(before + cut.pages(), range.pages()));
        }
    }

    /// How many entries map each folio, by a walk over everything that is mapped.
    fn entries(&self) -> BTreeMap<Pfn, u32> {
        let mut found = BTreeMap::new();
        for (space, ranges) in self.spaces.iter().zip(&self.ranges) {
            for &range in ranges {
                let mut at = range.start();
                while at < range.end() {
                    let leaf = space.translate(at);
                    if let Some(m) = leaf.filter(|m| m.counted) {
                        *found
                            .entry(self.w.pgmap.folio(m.pfn).unwrap().pfn())
                            .or_default() += 1;
                    }
                    at += leaf.map_or(PAGE_SIZE, |m| m.size.bytes());
                }
            }
        }
        found
    }

    fn check(&self) -> Result<(), TestCaseError> {
        let entries = self.entries();
        for n in (0..1).chain(512..530).chain(2048..2048 + 2 * PAGES) {
            let pfn = self.w.pfn(n);
            let held = self.w.counts(n).mapped;
            prop_assert_eq!(held, entries.get(&pfn).copied().unwrap_or(0), "frame {}", n);
            let pages = if n == 0 { PAGES_2M } else { 1 };
            prop_assert!(
                held > 0 || !self.w.tlb.reaches(pfn, pages),
                "a TLB reaches the idle frame {}",
                n
            );
        }
        self.w.assert_order_kept();
        Ok(())
    }
}

fn config() -> ProptestConfig {
    let cases = if cfg!(miri) { 2 } else { 48 };
    ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn any_history_keeps_the_counts_exact(ops in prop::collection::vec(any_op(), 1..60)) {
        let mut case = Case::new();
        for op in &ops {
            case.apply(op);
            case.check()?;
        }
        let Case { w, spaces, files, .. } = case;
        let mem = w.mem.clone();
        drop(spaces);
        let World { space, pgmap, watch, .. } = w;
        drop(space);
        prop_assert!(files.iter().all(|f| f.state().attachments.is_empty()));
        prop_assert_eq!(pgmap.first_busy(), None);
        prop_assert!(lock(&watch.early).is_empty());
        prop_assert_eq!(mem.live(), 0);
    }
}
