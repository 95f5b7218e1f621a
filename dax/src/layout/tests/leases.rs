//! Long-term pins: refused without a lease; with one, revoked once, given their grace, then named.

use super::*;
use mm::gup::{GupError, PinnedPages, pin_user_pages_longterm};
use mm::lease::{Lease, LeaseState, NAME_BYTES, Why};
use mm::sync::held_by_current;
use std::sync::{Mutex, Weak};

/// Who holds pages for long, and lets go of them when asked if it is told to be good.
struct Holder {
    name: String,
    grace_us: u64,
    good: bool,
    pages: Mutex<Option<PinnedPages>>,
    asked: Mutex<Vec<Why>>,
}

impl Holder {
    fn new(name: &str, grace_ms: u64, good: bool) -> Arc<Self> {
        Arc::new(Self {
            name: name.into(),
            grace_us: grace_ms * 1000,
            good,
            pages: Mutex::default(),
            asked: Mutex::default(),
        })
    }

    fn asked(&self) -> usize {
        self.asked.lock().unwrap().len()
    }

    fn release(&self) {
        let pages = self.pages.lock().unwrap().take();
        drop(pages);
    }

    /// Holds `count` pages of the process from `page` on. Who is asked meanwhile lets go afterwards.
    fn hold(self: &Arc<Self>, process: &Process, page: u64, count: usize) {
        let mut kept = self.pages.lock().unwrap();
        *kept = Some(long(process, page, count, Some(self.clone())).unwrap());
    }
}

impl Lease for Holder {
    fn revoke(&self, why: Why) {
        assert!(held_by_current().is_empty(), "asked under a lock");
        self.asked.lock().unwrap().push(why);
        if self.good {
            self.release();
        }
    }

    fn holder(&self) -> &str {
        &self.name
    }

    fn grace_us(&self) -> u64 {
        self.grace_us
    }
}

fn long(
    process: &Process,
    page: u64,
    count: usize,
    holder: Option<Arc<Holder>>,
) -> Result<PinnedPages, GupError> {
    let lease = holder.map(|h| h as Arc<dyn Lease>);
    pin_user_pages_longterm(&process.space, process.va(page), count, true, lease)
}

/// Breaks and collects the names that were told, in order: those asked, those overdue.
fn told(
    file: &File,
    pages: Range<u64>,
    how: How<'_>,
) -> (Result<(), BreakError>, Vec<String>, Vec<String>) {
    let (asked, overdue) = (RefCell::default(), RefCell::default());
    let name = |lease: &LeaseState| lease.holder.to_string();
    let observer = |event| match event {
        BreakEvent::Revoking { lease } => Vec::push(&mut *asked.borrow_mut(), name(&lease)),
        BreakEvent::Overdue { lease, held } => {
            assert!(held_by_current().is_empty() && held.counts.pinned > 0);
            assert!(lease.grace_end_us.is_some_and(|end| end <= now_us()));
            Vec::push(&mut *overdue.borrow_mut(), name(&lease));
        }
        _ => {}
    };
    let mut report = BreakReport::observed(&observer);
    let done = break_layouts(&file.inode, &file.mapping, pages, how, &mut report);
    let done = done.map(|_idle| ());
    (done, asked.into_inner(), overdue.into_inner())
}

#[test]
fn without_a_lease_a_long_pin_of_a_file_is_refused() {
    let (file, process) = setup(8);
    let refused = long(&process, 5, 2, None).err();
    assert_eq!(refused, Some(GupError::NeedsLease { at: process.va(5) }));
    let text = refused.unwrap().to_string();
    assert!(
        text.contains("needs a lease") && text.contains("give a lease"),
        "{text}"
    );
    assert_eq!(
        (file.counts(5), file.mapping.leases().len()),
        (Counts::IDLE, 0)
    );
    drop(process.pin(5));
}

#[test]
fn a_holder_that_lets_go_when_asked_is_asked_once_and_not_named() {
    let (file, process) = setup(8);
    let good = Holder::new("rdma 1", 10_000, true);
    good.hold(&process, 2, 4);
    let (done, asked, overdue) = told(&file, 4..8, patient());
    assert_eq!(
        (done, asked, overdue),
        (Ok(()), vec!["rdma 1".into()], vec![])
    );
    assert_eq!(
        *good.asked.lock().unwrap(),
        [Why::LayoutBreak { pages: 4..8 }]
    );
    assert!(file.mapping.leases().is_empty());
}

#[test]
fn a_holder_that_does_not_is_named_after_its_grace_and_in_the_error() {
    let (file, process) = setup(8);
    let bad = Holder::new("rdma 2", 30, false);
    bad.hold(&process, 5, 1);
    let start = Instant::now();
    let (done, asked, overdue) = told(&file, 0..8, How::Wait(Wait::for_us(300_000)));
    assert!(
        start.elapsed() >= Duration::from_millis(300),
        "gave up early"
    );
    let Err(BreakError::TimedOut(held)) = done else {
        panic!("{done:?}")
    };
    assert_eq!((held.index, held.counts.pinned), (5, 1));
    assert_eq!(held.holder.as_deref(), Some("rdma 2"));
    assert!(done.unwrap_err().to_string().contains("held by rdma 2"));
    assert_eq!((asked.len(), overdue), (1, vec!["rdma 2".to_string()]));
    // The next one does not ask again, and need not wait for the grace to name it.
    let (_, asked, overdue) = told(&file, 5..6, How::Wait(Wait::for_us(200_000)));
    assert_eq!((asked.len(), overdue.len(), bad.asked()), (0, 1, 1));
}

#[test]
fn a_grace_period_never_makes_a_wait_longer() {
    let (file, process) = setup(8);
    Holder::new("slow", 60_000, false).hold(&process, 5, 1);
    let start = Instant::now();
    let (done, asked, overdue) = told(&file, 0..8, How::Wait(Wait::for_us(20_000)));
    assert!(matches!(done, Err(BreakError::TimedOut(h)) if h.holder.as_deref() == Some("slow")));
    assert!(start.elapsed() < Duration::from_secs(20));
    assert_eq!((asked.len(), overdue.len()), (1, 0));
    let refused = try_break(&file, 0..8, How::NoWait).err().unwrap();
    assert_eq!(refused.held().holder.as_deref(), Some("slow"));
}

#[test]
fn who_does_not_wait_asks_nobody() {
    let (file, process) = setup(8);
    let good = Holder::new("rdma", 10, true);
    good.hold(&process, 5, 1);
    assert!(try_break(&file, 0..8, How::NoWait).is_err());
    let _idle = try_break(&file, 0..5, patient()).unwrap();
    assert_eq!(
        good.asked(),
        0,
        "asked, or asked for pages that it does not hold"
    );
}

#[test]
fn without_a_deadline_the_wait_goes_on_and_the_holder_is_named_at_once() {
    let (file, process) = setup(8);
    let bad = Holder::new("rdma 3", 5, false);
    bad.hold(&process, 5, 1);
    let (tell, hear) = mpsc::channel();
    thread::scope(|s| {
        s.spawn(|| {
            let observer = move |event| {
                if let BreakEvent::Overdue { lease, .. } = event {
                    tell.send(lease.holder.to_string()).unwrap();
                }
            };
            let mut report = BreakReport::observed(&observer);
            let how = How::Wait(Wait::forever());
            let idle = break_layouts(&file.inode, &file.mapping, 0..8, how, &mut report);
            drop(idle.unwrap());
            assert_eq!(
                report.last_held.and_then(|h| h.holder).as_deref(),
                Some("rdma 3")
            );
        });
        let name = hear.recv_timeout(Duration::from_secs(10));
        assert_eq!(name.as_deref(), Ok("rdma 3"));
        bad.release();
        assert!(
            hear.recv_timeout(Duration::from_secs(10)).is_err(),
            "told twice"
        );
    });
}

#[test]
fn several_leases_are_revoked_together() {
    let (file, process) = setup(8);
    let all: Vec<_> = (0..8)
        .map(|page| {
            let holder = Holder::new(&format!("rdma {page}"), 300, false);
            holder.hold(&process, page, 1);
            holder
        })
        .collect();
    let start = Instant::now();
    let (done, asked, overdue) = told(&file, 2..6, How::Wait(Wait::for_us(1_000_000)));
    // One after the other they would need 1200 ms.
    assert!(done.is_err() && start.elapsed() < Duration::from_secs(10));
    let names = ["rdma 2", "rdma 3", "rdma 4", "rdma 5"].map(String::from);
    assert_eq!((&asked[..], &overdue[..]), (&names[..], &names[..]));
    assert_eq!(all.iter().map(|h| h.asked()).sum::<usize>(), 4);
}

#[test]
fn two_breakers_ask_once() {
    let (file, process) = setup(8);
    let bad = Holder::new("rdma", 10, false);
    bad.hold(&process, 5, 1);
    thread::scope(|s| {
        let both = [0..8, 5..6].map(|range| s.spawn(|| told(&file, range, patient())));
        while bad.asked() == 0 {
            thread::sleep(Duration::from_millis(1));
        }
        thread::sleep(Duration::from_millis(30));
        bad.release();
        let told = both.map(|b| b.join().unwrap());
        assert!(told.iter().all(|(done, ..)| done.is_ok()));
        assert_eq!(
            told.iter().map(|(_, asked, _)| asked.len()).sum::<usize>(),
            1
        );
    });
    assert_eq!(bad.asked(), 1);
}

/// The breaker sleeps for the pin of another; its page gets a lease meanwhile, and the pin goes.
#[test]
fn a_lease_taken_during_the_wait_is_revoked() {
    let (file, process) = setup(8);
    let (first, good) = (process.pin(5), Holder::new("late", 10_000, true));
    break_during(&file, 0..8, |_| {
        good.hold(&process, 5, 1);
        drop(first);
    });
    assert_eq!(good.asked(), 1);
}

#[test]
fn a_lease_is_listed_before_the_first_pin_and_until_after_the_last() {
    let (file, process) = setup(8);
    let good = Holder::new(&"é".repeat(NAME_BYTES), 10, true);
    // Beyond the end of the file the pin fails half-way.
    let failed = long(&process, 6, 3, Some(good.clone()));
    assert!(failed.is_err() && file.mapping.leases().is_empty());
    assert_eq!(Arc::strong_count(&good), 1, "kept after the failure");
    let pages = long(&process, 2, 4, Some(good.clone())).unwrap();
    let states: Vec<_> = pages.leases().collect();
    assert_eq!((states.len(), file.mapping.leases().len()), (1, 1));
    assert_eq!(*states[0].holder, *"é".repeat(NAME_BYTES / 2));
    assert!(!states[0].is_revoked() && states[0].grace_us == 10_000);
    let (file, weak): (Weak<File>, _) = (Arc::downgrade(&file), file);
    drop((process, weak));
    let alive = file.upgrade().expect("the pin keeps its file");
    assert!(
        !alive.mapping.leases().has_fresh(&(0..2)) && alive.mapping.leases().has_fresh(&(0..3))
    );
    drop((alive, pages));
    assert!(file.upgrade().is_none());
}

#[test]
fn breaking_a_lease_allocates_nothing() {
    struct Flag(AtomicU32);
    impl Lease for Flag {
        fn revoke(&self, _: Why) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
        fn holder(&self) -> &str {
            "flag"
        }
        fn grace_us(&self) -> u64 {
            100
        }
    }
    let (file, process) = setup(8);
    let flag = Arc::new(Flag(AtomicU32::new(0)));
    let lease: Arc<dyn Lease> = flag.clone();
    let pages = pin_user_pages_longterm(&process.space, process.va(3), 2, true, Some(lease));
    let seen = allocations(|| {
        let overdue = std::cell::Cell::new(0);
        let observer =
            |e| overdue.set(overdue.get() + u32::from(matches!(e, BreakEvent::Overdue { .. })));
        let mut report = BreakReport::observed(&observer);
        let how = How::Wait(Wait::for_us(200_000));
        let ended = break_layouts(&file.inode, &file.mapping, 0..8, how, &mut report);
        assert!(ended.is_err());
        assert_eq!(overdue.get(), 1);
    });
    assert_eq!((seen, flag.0.load(Ordering::Relaxed)), (0, 1));
    drop(pages.unwrap());
}
