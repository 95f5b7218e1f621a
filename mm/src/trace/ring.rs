//! One ring. The argument stands at the head of the parent module.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU64, Ordering, fence};

use super::{Event, Kind, What};
use crate::mem::{OutOfMemory, check_headroom};

const WORDS: usize = 7;
const KINDS: usize = Kind::ALL.len();

/// One event's place: a cache line.
#[repr(align(64))]
struct Slot {
    /// 0: never written. Odd: being written. Even: holds the event of number `stamp / 2 - 1`.
    stamp: AtomicU64,
    words: [AtomicU64; WORDS],
}

const _: () = assert!(size_of::<Slot>() == 64);

/// The events of one CPU.
pub(super) struct Ring {
    slots: Box<[Slot]>,
    /// Numbers handed out.
    next: AtomicU64,
    /// The first number of this recording.
    base: AtomicU64,
    /// Events given up.
    given_up: AtomicU64,
    counts: [AtomicU64; KINDS],
}

/// Makes `rings` rings of `slots` events each.
pub(super) fn make(rings: usize, slots: usize) -> Result<Box<[Ring]>, OutOfMemory> {
    let mut all = Vec::new();
    all.try_reserve_exact(rings).map_err(|_| OutOfMemory)?;
    for _ in 0..rings {
        check_headroom()?;
        all.push(Ring::new(slots)?);
    }
    Ok(all.into_boxed_slice())
}

impl Ring {
    pub(super) fn new(slots: usize) -> Result<Self, OutOfMemory> {
        let mut list = Vec::new();
        list.try_reserve_exact(slots).map_err(|_| OutOfMemory)?;
        list.resize_with(slots, || Slot {
            stamp: AtomicU64::new(0),
            words: [const { AtomicU64::new(0) }; WORDS],
        });
        Ok(Self {
            slots: list.into_boxed_slice(),
            next: AtomicU64::new(0),
            base: AtomicU64::new(0),
            given_up: AtomicU64::new(0),
            counts: [const { AtomicU64::new(0) }; KINDS],
        })
    }

    /// Forgets all events. What is recorded meanwhile may be counted or not.
    pub(super) fn clear(&self) {
        // Relaxed, all four: the numbers only tell which events are wanted.
        self.base
            .store(self.next.load(Ordering::Relaxed), Ordering::Relaxed);
        self.given_up.store(0, Ordering::Relaxed);
        self.counts
            .iter()
            .for_each(|c| c.store(0, Ordering::Relaxed));
    }

    fn slot(&self, number: u64) -> &Slot {
        &self.slots[(number % self.slots.len() as u64) as usize]
    }

    /// Writes an event; its `number` is set here.
    pub(super) fn push(&self, event: &Event) {
        // Relaxed: the number only has to be unique; the slot's stamp orders the words.
        self.counts[event.kind as usize].fetch_add(1, Ordering::Relaxed);
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        if !self.slot(number).write(number, event) {
            self.given_up.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn count(&self, kind: Kind) -> u64 {
        // Relaxed: a number for people.
        self.counts[kind as usize].load(Ordering::Relaxed)
    }

    pub(super) fn lost(&self) -> u64 {
        // Relaxed: a number for people.
        let made = self.numbers().count() as u64;
        made.saturating_sub(self.slots.len() as u64) + self.given_up.load(Ordering::Relaxed)
    }

    fn numbers(&self) -> core::ops::Range<u64> {
        // Relaxed: an event whose number is not seen yet comes with the next call.
        self.base.load(Ordering::Relaxed)..self.next.load(Ordering::Relaxed)
    }

    /// The events that are still here, the newest first.
    pub(super) fn newest_first(&self) -> impl Iterator<Item = Event> {
        let numbers = self.numbers();
        let oldest = numbers.end.saturating_sub(self.slots.len() as u64);
        let here = numbers.start.max(oldest)..numbers.end;
        here.rev().filter_map(|n| self.slot(n).read(n))
    }
}

impl Slot {
    /// Writes the event of `number`, unless somebody writes here or something newer stands here.
    fn write(&self, number: u64, event: &Event) -> bool {
        let whole = 2 * (number + 1);
        // Acquire: pairs with the Release below, so that the words of the former event are written before ours.
        let owned = self
            .stamp
            .fetch_update(Ordering::Acquire, Ordering::Relaxed, |old| {
                (old % 2 == 0 && old < whole).then_some(whole - 1)
            });
        if owned.is_err() {
            return false;
        }
        // Release: pairs with the Acquire fence in `read`: who reads one of our words sees the odd stamp.
        fence(Ordering::Release);
        for (word, value) in self.words.iter().zip(pack(event)) {
            word.store(value, Ordering::Relaxed);
        }
        // Release: pairs with the Acquire load in `read`: who sees the stamp sees our words.
        self.stamp.store(whole, Ordering::Release);
        true
    }

    /// The event of `number`, if it is here and whole.
    fn read(&self, number: u64) -> Option<Event> {
        let whole = 2 * (number + 1);
        // Acquire: pairs with the Release store in `write`.
        if self.stamp.load(Ordering::Acquire) != whole {
            return None;
        }
        let words = core::array::from_fn(|i| self.words[i].load(Ordering::Relaxed));
        // Acquire: pairs with the Release fence in `write`.
        fence(Ordering::Acquire);
        if self.stamp.load(Ordering::Relaxed) != whole {
            return None;
        }
        unpack(words, number)
    }
}

fn pack(event: &Event) -> [u64; WORDS] {
    let Event {
        time_ns,
        cpu,
        thread,
        kind,
        what,
        ..
    } = *event;
    let who = thread << 16 | u64::from(cpu) << 8 | kind as u64;
    let sizes = u64::from(what.inode) << 32 | u64::from(what.pages);
    [
        time_ns, who, what.pfn, sizes, what.index, what.va, what.value,
    ]
}

fn unpack(words: [u64; WORDS], number: u64) -> Option<Event> {
    let [time_ns, who, pfn, sizes, index, va, value] = words;
    let kind = *Kind::ALL.get((who & 0xff) as usize)?;
    let what = What {
        pfn,
        pages: sizes as u32,
        inode: (sizes >> 32) as u32,
        index,
        va,
        value,
    };
    Some(Event {
        time_ns,
        cpu: (who >> 8) as u8,
        number,
        thread: who >> 16,
        kind,
        what,
    })
}
