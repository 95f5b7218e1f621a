//! Any history of counts against a map of counts.

use super::*;

#[derive(Clone, Copy, Debug)]
enum Op {
    Associate,
    Dissociate,
    Map,
    Unmap,
    Pin(u32),
    Unpin(u32),
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        3 => Just(Op::Associate),
        1 => Just(Op::Dissociate),
        3 => Just(Op::Map),
        2 => Just(Op::Unmap),
        3 => (1_u32..600).prop_map(Op::Pin),
        2 => (1_u32..600).prop_map(Op::Unpin),
    ]
}

/// What a pgmap should be: the associated folios and their counts.
#[derive(Default)]
struct Model(HashMap<(u64, PageSize), Counts>);

impl Model {
    fn overlaps(&self, pfn: u64, size: PageSize) -> bool {
        self.0
            .keys()
            .any(|&(p, s)| p < pfn + size.pages() && pfn < p + s.pages())
    }

    fn pages_with(&self, wanted: impl Fn(&Counts) -> bool) -> u64 {
        self.0
            .iter()
            .filter(|(_, c)| wanted(c))
            .map(|((_, s), _)| s.pages())
            .sum()
    }
}

fn step(map: &Pgmap, model: &mut Model, op: Op, pfn: Pfn, size: PageSize) {
    let key = (pfn.get(), size);
    if let Op::Associate = op {
        let free = !model.overlaps(pfn.get(), size);
        let known = model.0.contains_key(&key);
        assert_eq!(
            map.associate(pfn, size, owner(pfn.get())).is_ok(),
            free || known
        );
        model.0.entry(key).or_default();
        if !free && !known {
            model.0.remove(&key);
        }
        return;
    }
    let Some(counts) = model.0.get_mut(&key) else {
        return;
    };
    let folio = map.folio(pfn).unwrap();
    assert_eq!((folio.pfn(), folio.size()), (pfn, size));
    match op {
        Op::Map => {
            map.map_get(&folio).unwrap();
            counts.mapped += 1;
        }
        Op::Unmap if counts.mapped > 0 => {
            map.map_put(&folio);
            counts.mapped -= 1;
        }
        Op::Pin(n) => {
            let idle = counts.is_idle();
            assert_eq!(
                map.try_pin(&folio, n),
                if idle { Err(PinError::Idle) } else { Ok(()) }
            );
            counts.pinned += if idle { 0 } else { n };
        }
        Op::Unpin(n) if counts.pinned > 0 => {
            let n = n.min(counts.pinned);
            map.unpin(&folio, n);
            counts.pinned -= n;
        }
        Op::Dissociate => {
            let idle = counts.is_idle();
            assert_eq!(map.dissociate(folio).is_ok(), idle);
            if idle {
                model.0.remove(&key);
            }
        }
        _ => {}
    }
}

fn compare(map: &Pgmap, model: &Model) {
    let stats = map.stats();
    assert_eq!(stats.pages - stats.idle, model.pages_with(|c| !c.is_idle()));
    assert_eq!(stats.mapped, model.pages_with(|c| c.mapped > 0));
    assert_eq!(stats.pinned, model.pages_with(|c| c.pinned > 0));
    let first = model
        .0
        .iter()
        .filter(|(_, c)| c.pinned > 0)
        .map(|((p, _), c)| (Pfn::new(*p).unwrap(), *c));
    assert_eq!(map.first_pinned(map.range()), first.min_by_key(|(p, _)| *p));
    for (&(pfn, size), counts) in &model.0 {
        let last = map
            .folio(Pfn::new(pfn + size.pages() - 1).unwrap())
            .unwrap();
        assert_eq!(
            (last.pfn().get(), last.size(), last.counts()),
            (pfn, size, *counts)
        );
        assert_eq!(last.owner(), Some(owner(pfn)));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(if cfg!(miri) { 3 } else { 150 }))]
    /// A range that starts 2 MiB- but not 1 GiB-aligned, and ends nowhere in particular, against a map of counts.
    #[test]
    fn agrees_with_a_model(ops in prop::collection::vec((op(), 0_usize..6, 0_usize..3), 1..150)) {
        let base = scratch_range(4 * GIG).start();
        let range = PfnRange::new(base.checked_add(0xFE00).unwrap(), 2 * GIG + 777).unwrap();
        let map: Arc<Pgmap> = Pgmap::new("model", range, None).unwrap();
        let mut model = Model::default();
        for (op, which, size) in ops {
            let size = PageSize::ALL[size];
            // A few places of each size, which overlap those of the other sizes.
            let page = GIG + [0, 1, 600, 1024, 1025, 2000][which];
            let pfn = base.checked_add(page).unwrap().align_down(size);
            step(&map, &mut model, op, pfn, size);
        }
        compare(&map, &model);
        for ((pfn, _), counts) in &model.0 {
            let folio = map.folio(Pfn::new(*pfn).unwrap()).unwrap();
            (0..counts.mapped).for_each(|_| map.map_put(&folio));
            if counts.pinned > 0 {
                map.unpin(&folio, counts.pinned);
            }
        }
        prop_assert_eq!(map.stats().idle, range.pages());
        prop_assert_eq!(map.remove(|| {}, &Wait::until(0)), Ok(()));
    }
}
