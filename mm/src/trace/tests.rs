use super::ring::Ring;
use super::*;
use crate::addr::Pfn;
use std::thread;

fn event(time_ns: u64, thread: u64, value: u64) -> Event {
    Event {
        time_ns,
        cpu: 3,
        number: 0,
        thread,
        kind: Kind::Pin,
        what: What {
            pfn: value,
            pages: 9,
            inode: 7,
            index: value,
            va: value,
            value,
        },
    }
}

#[test]
fn an_event_comes_back_whole() {
    let ring = Ring::new(4).unwrap();
    let mut sent = event(5, 0xffff_ffff_ffff, u64::MAX);
    ring.push(&sent);
    sent.number = 0;
    assert_eq!(ring.newest_first().collect::<Vec<_>>(), [sent]);
    assert_eq!((ring.count(Kind::Pin), ring.count(Kind::Unpin)), (1, 0));
}

#[test]
fn a_full_ring_keeps_the_newest_and_counts_the_rest() {
    let ring = Ring::new(4).unwrap();
    (0..10).for_each(|n| ring.push(&event(n, 1, n)));
    let times: Vec<_> = ring.newest_first().map(|e| e.time_ns).collect();
    assert_eq!(times, [9, 8, 7, 6]);
    assert_eq!((ring.lost(), ring.count(Kind::Pin)), (6, 10));
    ring.clear();
    assert_eq!(ring.newest_first().count(), 0);
    assert_eq!((ring.lost(), ring.count(Kind::Pin)), (0, 0));
    ring.push(&event(11, 1, 11));
    assert_eq!(ring.newest_first().count(), 1);
}

/// Every word of an event is written by the writer who wrote the others, though the ring is so small that writers meet.
#[test]
fn no_reader_sees_a_mixture() {
    const EACH: u64 = if cfg!(miri) { 200 } else { 30_000 };
    let ring = Ring::new(4).unwrap();
    let whole = |e: &Event| {
        let What {
            pfn,
            index,
            va,
            value,
            ..
        } = e.what;
        (pfn, index, va, e.time_ns, e.thread) == (value, value, value, value, value & 0xffff)
    };
    thread::scope(|s| {
        for writer in 1..4 {
            let ring = &ring;
            s.spawn(move || {
                (0..EACH).for_each(|n| {
                    let mark = n << 16 | writer;
                    ring.push(&event(mark, writer, mark));
                });
            });
        }
        while ring.count(Kind::Pin) < 3 * EACH {
            for e in ring.newest_first() {
                assert!(whole(&e), "{e:?}");
            }
        }
    });
    assert!(ring.newest_first().all(|e| whole(&e)));
    let made = ring.lost() + ring.newest_first().count() as u64;
    assert!(made >= 3 * EACH - 4, "{made}");
}

struct Clock;
static TIME: core::sync::atomic::AtomicU64 = core::sync::atomic::AtomicU64::new(100);

impl Source for Clock {
    fn now_ns(&self) -> u64 {
        TIME.fetch_sub(1, Ordering::Relaxed)
    }
    fn cpu(&self) -> usize {
        2
    }
    fn thread(&self) -> u64 {
        42
    }
}

/// The one test that uses the global trace: other tests of this process may record too, of other pages.
#[test]
fn what_is_noted_is_found_by_its_page_in_the_order_of_time() {
    let page = |n: u64| Pfn::new(0xABC_D000 + n).unwrap();
    note(Kind::Pin, || What::pages(page(0), 1));
    start(2, 1 << 14, &Clock).unwrap();
    note(Kind::Mark, || What::pages(page(0), 4).file(9, 8).with(1));
    note(Kind::Mark, || {
        What::pages(page(3), 1).at(VirtAddr::new(0x4000)).with(2)
    });
    stop();
    note(Kind::Mark, || What::pages(page(3), 1));
    let at = |n: u64| last(10, move |e| e.concerns(page(n).get())).unwrap();
    let values = |n| at(n).iter().map(|e| e.what.value).collect::<Vec<_>>();
    // The clock runs backwards: the second event is the earlier one.
    assert_eq!(values(3), [2, 1]);
    assert_eq!(values(0), [1]);
    assert!(values(4).is_empty());
    let first = at(0)[0];
    assert_eq!((first.cpu, first.thread), (2, 42));
    assert_eq!((first.what.inode, first.what.index), (9, 8));
    assert!(count(Kind::Mark) >= 2);
    assert_eq!(last(1, |e| e.concerns(page(3).get())).unwrap().len(), 1);
}
