//! The tree against a map of blocks, with small nodes so that it is deep, and with the media's.

use super::plan::Plan;
use super::*;
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// Nodes of 8 entries, so that a few hundred extents make five levels.
const SMALL: Limits = Limits {
    root: 3,
    node: 8,
    soft: 6,
    small: 2,
    joined: 6,
};

/// The media: what stands in which block.
#[derive(Default)]
struct Media {
    nodes: BTreeMap<Block, (u8, Vec<[u64; 2]>)>,
    next: Block,
    /// Most nodes that one change wrote.
    most: usize,
}

/// A file: its map, and what the inode says.
struct File {
    map: ExtentMap,
    root: Vec<[u64; 2]>,
    limits: Limits,
}

impl File {
    fn new(limits: Limits) -> Self {
        let (map, root) = (ExtentMap::new(), Vec::new());
        Self { map, root, limits }
    }

    /// Puts an extent in, or takes blocks away; gives the blocks of the region that went.
    fn change(&mut self, media: &mut Media, range: Range<u64>, new: Option<Extent>) -> Vec<u64> {
        let edit = self.map.edit(range, new, &self.limits);
        let (edit, gone) = edit.expect("memory");
        let gone = gone.iter().flat_map(|r| r.block..r.end()).collect();
        if edit.is_nothing() {
            return gone;
        }
        let cuts = new.is_none();
        // At most half of the root's entries change at once.
        let old = self.root.clone();
        let few = |root: &plan::Root| {
            let kept = root.iter().filter(|entry| old.contains(entry)).count();
            root.len() - kept <= 2
        };
        let mut plan = Plan::new(&self.map, edit, &few, &self.limits).expect("a plan");
        self.map.make_room(&plan).expect("memory");
        let written = plan.new_nodes();
        media.most = media.most.max(written);
        let bound = if cuts { 2 } else { 3 } * usize::from(plan.depth().max(self.map.depth())) + 1;
        assert!(written <= bound, "{written} new nodes, cuts: {cuts}");
        let placed = plan.place(|level, entries| {
            media.next += 1;
            let entries: Vec<_> = entries.collect();
            assert!((1..=self.limits.node).contains(&entries.len()));
            media.nodes.insert(media.next, (level, entries));
            Ok::<_, ()>(media.next)
        });
        placed.expect("room");
        for block in plan.retired() {
            assert!(media.nodes.remove(block).is_some(), "retired twice");
        }
        self.root = plan.root().to_vec();
        assert!(self.root.len() <= self.limits.root);
        let (extents, nodes, depth) = (plan.extents(), plan.nodes(), plan.depth());
        self.map.apply(&mut plan);
        assert_eq!(
            (extents, nodes, depth),
            (self.map.len(), self.map.nodes(), self.map.depth())
        );
        gone
    }

    /// What the media says, read from the root down; checks that the map says the same and that no node is left over.
    fn check(&self, media: &Media) -> Vec<[u64; 2]> {
        let mut at = self.root.clone();
        at.sort_unstable_by_key(|entry| entry[0] & 0xffff_ffff);
        let mut blocks = BTreeSet::new();
        for level in (0..self.map.depth()).rev() {
            let mut below = Vec::new();
            for entry in &at {
                let node = NodeRef::from_words(*entry);
                let (found, entries) = &media.nodes[&node.block];
                assert_eq!((*found, entries.len() as u64), (level, node.count));
                assert_eq!(entries[0][0] & 0xffff_ffff, node.first);
                blocks.insert(node.block);
                below.extend_from_slice(entries);
            }
            at = below;
        }
        let all: BTreeSet<Block> = media.nodes.keys().copied().collect();
        assert_eq!(blocks, all, "nodes that nothing leads to");
        assert_eq!(self.map.node_blocks().collect::<BTreeSet<_>>(), all);
        let extents: Vec<_> = self.map.iter().map(Extent::to_words).collect();
        assert_eq!(at, extents);
        assert_eq!(self.map.len(), extents.len());
        at
    }
}

use core::ops::Range;

/// Block by block.
fn flat(map: &ExtentMap) -> BTreeMap<u64, (u64, bool)> {
    let each = |e: &Extent| {
        let e = *e;
        (0..e.len).map(move |i| (e.file + i, (e.phys + i, e.unwritten)))
    };
    map.iter().flat_map(each).collect()
}

#[derive(Clone, Debug)]
struct Step {
    insert: bool,
    file: u64,
    len: u64,
    unwritten: bool,
    shift: u64,
}

fn steps(span: u64, most: u64, n: usize) -> impl Strategy<Value = Vec<Step>> {
    let len = prop_oneof![8 => 1..most, 1 => 1..span];
    let step = (any::<bool>(), 0..span, len, any::<bool>(), 1u64..4);
    let step = step.prop_map(|(insert, file, len, unwritten, shift)| Step {
        insert,
        file,
        len,
        unwritten,
        shift,
    });
    prop::collection::vec(step, 1..n)
}

fn run(steps: Vec<Step>, limits: Limits, span: u64) -> Result<(), TestCaseError> {
    let mut media = Media::default();
    let mut file = File::new(limits);
    let mut model = BTreeMap::new();
    for step in steps {
        let Step { file: at, len, .. } = step;
        let len = if step.insert { len.min(8) } else { len };
        let gone: Vec<u64> = (at..at + len)
            .filter_map(|b| model.remove(&b))
            .map(|(phys, _)| phys)
            .collect();
        let new = step.insert.then(|| Extent {
            file: at,
            phys: 100_000 * step.shift + at,
            len,
            unwritten: step.unwritten,
        });
        if let Some(new) = new {
            model.extend((0..len).map(|i| (at + i, (new.phys + i, new.unwritten))));
        }
        prop_assert_eq!(file.change(&mut media, at..at + len, new), gone);
        prop_assert_eq!(&flat(&file.map), &model);
        prop_assert_eq!(file.map.blocks(), model.len() as u64);
        file.check(&media);
    }
    for block in 0..span + 10 {
        let before = file.map.before(block).map(|e| e.end() - 1);
        let ends = |b: &u64| b + 1 == block || !model.contains_key(&(b + 1));
        let ended = model.range(..block).map(|(b, _)| *b);
        let expected = ended.rev().find(ends);
        if let (Some(b), Some(x)) = (before, expected) {
            // An extent may end in the middle of what is one run of blocks.
            prop_assert!(b >= x || file.map.at(x) != file.map.at(b), "{} {}", b, x);
        }
        match file.map.at(block) {
            Spot::Extent(e) => prop_assert_eq!(model.get(&block), Some(&(e.phys, e.unwritten))),
            Spot::HoleUntil(end) => {
                prop_assert_eq!(
                    model.range(block..).next().map_or(u64::MAX, |(b, _)| *b),
                    end
                );
            }
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]
    #[test]
    fn behaves_as_a_map_of_blocks(steps in steps(400, 4, 300)) {
        run(steps, SMALL, 400)?;
    }

    #[test]
    fn behaves_as_a_map_of_blocks_with_nodes_of_the_media(steps in steps(60, 20, 60)) {
        run(steps, Limits::MEDIA, 60)?;
    }
}

fn block(file: u64) -> Extent {
    Extent {
        file,
        phys: 3 * file + 1,
        len: 1,
        unwritten: false,
    }
}

/// 60,000 extents: two levels of nodes, a change writes a handful of them, and cuts down to nothing.
#[test]
fn many_thousand_extents_make_a_shallow_tree() {
    let n: u64 = if cfg!(miri) { 2_000 } else { 60_000 };
    let mut media = Media::default();
    let mut file = File::new(Limits::MEDIA);
    for i in 0..n {
        // Half of them in order, the others in between.
        let at = if i < n / 2 {
            2 * i
        } else {
            2 * (i - n / 2) + 1
        };
        file.change(&mut media, at..at + 1, Some(block(at)));
    }
    assert_eq!(file.map.len() as u64, n);
    assert!(file.map.depth() <= 2, "depth {}", file.map.depth());
    assert!(media.most <= 7, "{} nodes in one change", media.most);
    file.check(&media);
    let mut end = n;
    while end > 0 {
        let to = end * 2 / 3;
        file.change(&mut media, to..u64::MAX, None);
        assert_eq!(file.map.len() as u64, to);
        file.check(&media);
        end = to;
    }
    assert_eq!((media.nodes.len(), file.root.len()), (0, 0));
}

/// The plan of no change writes nothing and leaves the map as it is, however deep it is.
#[test]
fn no_change_is_a_plan_too() {
    for n in [0, 2, 40, 400] {
        let mut media = Media::default();
        let mut file = File::new(SMALL);
        (0..n).for_each(|i| drop(file.change(&mut media, i..i + 1, Some(block(i)))));
        let before = file.map.try_clone().expect("memory");
        let (edit, _) = file.map.edit(n + 5..n + 9, None, &SMALL).expect("memory");
        assert!(edit.is_nothing());
        let root = file.root.iter().copied().collect();
        let mut plan = Plan::unchanged(&file.map, root).expect("memory");
        file.map.make_room(&plan).expect("memory");
        let placed = plan.place(|_, _| Err("a new node"));
        assert_eq!((placed, plan.new_nodes()), (Ok(()), 0));
        assert_eq!(plan.root().to_vec(), file.root);
        file.map.apply(&mut plan);
        assert_eq!(file.map, before);
        file.check(&media);
    }
}

/// Appending leaves full nodes behind, not half full ones.
#[test]
fn appended_extents_fill_their_nodes() {
    let mut media = Media::default();
    let mut file = File::new(Limits::MEDIA);
    let n = 222 * 40;
    (0..n).for_each(|i| drop(file.change(&mut media, i..i + 1, Some(block(i)))));
    assert!(file.map.nodes() <= 42, "{}", file.map.nodes());
}

/// What is left after most was taken away does not keep a node each.
#[test]
fn few_extents_of_many_need_few_nodes() {
    let mut media = Media::default();
    let mut file = File::new(Limits::MEDIA);
    let n: u64 = if cfg!(miri) { 1_000 } else { 20_000 };
    (0..n).for_each(|i| drop(file.change(&mut media, i..i + 1, Some(block(i)))));
    for i in (0..n).filter(|i| i % 50 != 0) {
        file.change(&mut media, i..i + 1, None);
    }
    let fewest = n as usize / 50 / 254;
    assert!(file.map.nodes() <= 8 * fewest + 2, "{}", file.map.nodes());
    file.check(&media);
}
