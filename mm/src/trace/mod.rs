//! The event trace: what happened to which page, on which CPU, in which order.
//!
//! One ring of fixed-size events for each CPU, made when the trace is first turned on; recording allocates nothing, takes
//! no lock and may happen in interrupt context, under spin locks and between the steps of a protocol. While the trace is
//! off, [`note`] is one relaxed load and a branch.
//!
//! # How a slot is written
//!
//! A writer takes the next number of its CPU's ring and with it a slot, then owns the slot by a compare-and-exchange of the
//! slot's stamp from even (whole) to odd (being written), and ends with the even stamp of its own number. Several writers may
//! share a ring: an interrupt in the midst of a record, a thread that was moved to another CPU. If they meet in one slot, because
//! the ring went round in the meantime, the later one finds the stamp odd and gives its event up, counted as lost; an older one
//! finds a newer stamp and does the same. A reader takes an event if the stamp is that of its number before and after.
//!
//! # What the order means
//!
//! Events are sorted by time, then by CPU and number. On one CPU the order is that of the ring. Between CPUs it is as good as their
//! clocks: an event is recorded beside the step that it tells of, before or after it, so that two events of two CPUs that lie
//! closer than a record takes may stand in the wrong order.

mod ring;
#[cfg(all(test, not(any(loom, shuttle))))]
mod tests;

use core::fmt;
use core::sync::atomic::{AtomicBool, Ordering};

use alloc::boxed::Box;
use alloc::vec::Vec;
use spin::Once;

use crate::addr::{Pfn, VirtAddr};
use crate::mem::OutOfMemory;
use ring::Ring;

/// Asked for when an event is recorded. No method may take a lock or record an event.
pub trait Source: Sync {
    /// Nanoseconds since an arbitrary start.
    fn now_ns(&self) -> u64;
    /// The processor that runs the caller, from 0.
    fn cpu(&self) -> usize;
    /// The running thread's number; 48 bits of it are kept.
    fn thread(&self) -> u64;
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $kind:ident = $name:literal,)*) => {
        /// What an event tells. The comments say what its `value` is, where it has one.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        #[repr(u8)]
        pub enum Kind {
            $($(#[$doc])* $kind,)*
        }

        impl Kind {
            /// All kinds, in the order of their numbers.
            pub const ALL: &'static [Kind] = &[$(Kind::$kind,)*];

            /// Its name in a dump: a promise to programs.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self {
                    $(Kind::$kind => $name,)*
                }
            }
        }
    };
}

kinds! {
    /// A fault was served by a page of 4 KiB; 1 for a store, else 0.
    Fault = "fault",
    /// The same, of a page of 2 MiB or more.
    FaultLarge = "fault_large",
    /// A fault waited a while because its range is being broken; microseconds.
    FaultDelayed = "fault_delayed",
    /// A mapping was added to a folio; its mappings after that, as far as they were read.
    MapGet = "map_get",
    /// A mapping was dropped from a folio; its mappings after that.
    MapPut = "map_put",
    /// Pins were taken on a folio (a wrong one may still be undone); how many.
    Pin = "pin",
    /// Pins were dropped; how many.
    Unpin = "unpin",
    /// A page-table entry was cleared.
    ZapClear = "zap_clear",
    /// A TLB flush begins; bytes.
    FlushBegin = "flush_begin",
    /// The flush is complete on every CPU; bytes.
    FlushEnd = "flush_end",
    /// The reference of a cleared entry is about to be dropped.
    DropRef = "drop_ref",
    /// A breaker has unmapped its range and reads the counts now.
    BreakZapped = "break_zapped",
    /// A breaker waits for the pins of a page, or for somebody's unmapping of it; its pins.
    BreakWait = "break_wait",
    /// A breaker starts again; how often it did.
    BreakRetry = "break_retry",
    /// A breaker found its range idle.
    BreakIdle = "break_idle",
    /// A breaker gave up; 1 it was not to wait, 2 its time ran out, 3 it was cancelled.
    BreakFailed = "break_failed",
    /// A file page got its entry and its owner.
    EntryInsert = "entry_insert",
    /// The entry of a file page was deleted.
    EntryDelete = "entry_delete",
    /// Freed blocks went into quarantine.
    QuarantineIn = "quarantine_in",
    /// Blocks left quarantine and may be handed out.
    QuarantineOut = "quarantine_out",
    /// Blocks were handed out.
    Alloc = "alloc",
    /// A file without a name came to its end.
    OrphanEnd = "orphan_end",
    /// An inode that nobody used left memory.
    Evict = "evict",
    /// An inter-processor interrupt for a TLB flush was sent; the CPU that gets it.
    IpiSent = "ipi_sent",
    /// A TLB flush was done for another CPU, or only the point of quiescence was passed; bytes.
    IpiAnswered = "ipi_answered",
    /// A program's own remark; its meaning is the program's.
    Mark = "mark",
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// What an event is about; what is 0 is not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct What {
    /// The first frame.
    pub pfn: u64,
    /// How many frames.
    pub pages: u32,
    /// The inode.
    pub inode: u32,
    /// The page of the file.
    pub index: u64,
    /// The virtual address.
    pub va: u64,
    /// See [`Kind`].
    pub value: u64,
}

impl What {
    /// About nothing but a value.
    #[must_use]
    pub fn value(value: u64) -> Self {
        Self {
            value,
            ..Self::default()
        }
    }

    /// About `pages` frames from `pfn` on.
    #[must_use]
    pub fn pages(pfn: Pfn, pages: u64) -> Self {
        Self {
            pfn: pfn.get(),
            pages: u32::try_from(pages).unwrap_or(u32::MAX),
            ..Self::default()
        }
    }

    /// The same, with a virtual address.
    #[must_use]
    pub fn at(self, va: VirtAddr) -> Self {
        Self {
            va: va.as_u64(),
            ..self
        }
    }

    /// The same, with a page of a file; of the inode's number 32 bits are kept.
    #[must_use]
    pub fn file(self, inode: u64, index: u64) -> Self {
        Self {
            inode: inode as u32,
            index,
            ..self
        }
    }

    /// The same, with a value.
    #[must_use]
    pub fn with(self, value: u64) -> Self {
        Self { value, ..self }
    }
}

/// One recorded event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Event {
    /// When, in nanoseconds of the [`Source`]'s clock.
    pub time_ns: u64,
    /// On which CPU.
    pub cpu: u8,
    /// Its place in its CPU's ring.
    pub number: u64,
    /// By which thread.
    pub thread: u64,
    /// What happened.
    pub kind: Kind,
    /// To what.
    pub what: What,
}

impl Event {
    /// Whether it is about the frame `pfn`, among others perhaps.
    #[must_use]
    pub fn concerns(&self, pfn: u64) -> bool {
        let What {
            pfn: first, pages, ..
        } = self.what;
        pfn.checked_sub(first).is_some_and(|n| n < u64::from(pages))
    }
}

struct Trace {
    rings: Box<[Ring]>,
    source: &'static dyn Source,
}

static ON: AtomicBool = AtomicBool::new(false);
static TRACE: Once<Trace> = Once::new();

/// Turns the trace on, from nothing: what was recorded before is forgotten. The first call decides the number of rings (one
/// for each CPU), of events in each, and the source.
///
/// # Errors
/// No memory for the rings.
pub fn start(cpus: usize, events: usize, source: &'static dyn Source) -> Result<(), OutOfMemory> {
    let trace = TRACE.try_call_once(|| {
        let rings = ring::make(cpus.max(1), events.max(1))?;
        Ok(Trace { rings, source })
    })?;
    trace.rings.iter().for_each(Ring::clear);
    // Release: pairs with nothing that must see it at once; `TRACE` itself publishes the rings to `record`.
    ON.store(true, Ordering::Release);
    Ok(())
}

/// Turns the trace off; what was recorded stays readable. Events that are under way may still come.
pub fn stop() {
    // Relaxed: see `start`.
    ON.store(false, Ordering::Relaxed);
}

/// Whether events are recorded.
#[must_use]
pub fn is_on() -> bool {
    // Relaxed: an event more or less at the moment of the change does not matter.
    cfg!(not(loom)) && ON.load(Ordering::Relaxed)
}

/// Records an event if the trace is on; `what` is called only then. Any context.
#[inline(always)]
pub fn note(kind: Kind, what: impl FnOnce() -> What) {
    if is_on() {
        record(kind, what());
    }
}

#[cold]
#[inline(never)]
fn record(kind: Kind, what: What) {
    let Some(Trace { rings, source }) = TRACE.get() else {
        return;
    };
    let (cpu, thread, time_ns) = (source.cpu(), source.thread(), source.now_ns());
    rings[cpu % rings.len()].push(&Event {
        time_ns,
        cpu: cpu as u8,
        number: 0,
        thread,
        kind,
        what,
    });
}

fn rings() -> impl Iterator<Item = &'static Ring> {
    TRACE.get().into_iter().flat_map(|t| t.rings.iter())
}

/// The last `most` events that `wanted` takes, oldest first.
///
/// # Errors
/// No memory for the list.
pub fn last(most: usize, wanted: impl Fn(&Event) -> bool) -> Result<Vec<Event>, OutOfMemory> {
    let mut list = Vec::new();
    for ring in rings() {
        let of_ring = || ring.newest_first().filter(&wanted).take(most);
        list.try_reserve(of_ring().count())
            .map_err(|_| OutOfMemory)?;
        let room = list.capacity() - list.len();
        list.extend(of_ring().take(room));
    }
    list.sort_unstable_by_key(|e: &Event| (e.time_ns, e.cpu, e.number));
    list.drain(..list.len().saturating_sub(most));
    Ok(list)
}

/// How many events of a kind were recorded since the trace was turned on, whether or not they are still in a ring.
#[must_use]
pub fn count(kind: Kind) -> u64 {
    rings().map(|ring| ring.count(kind)).sum()
}

/// How many events were given up because a slot was taken, or have been written over, since the trace was turned on.
#[must_use]
pub fn lost() -> u64 {
    rings().map(Ring::lost).sum()
}
