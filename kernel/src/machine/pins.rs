//! The pins of the shell: short ones, and long-term ones with a lease.
//!
//! A long-term pin's lease says what the shell does when it is asked to let go: end the pin, or nothing, so that a stubborn holder can be
//! watched. The request may come while the pin is still being taken: [`PinLease::asked`] remembers it.

use super::{Holder, Inode, Machine, PinFailure, Window};
use alloc::format;
use alloc::string::String;
use alloc::sync::{Arc, Weak};
use mm::gup::PinnedPages;
use mm::lease::{Lease, Why};
use mm::mem::OutOfMemory;
use mm::sync::atomic::{AtomicBool, Ordering};

/// What the holder of a long-term pin does when it is asked to let go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It ends the pin.
    Drop,
    /// Nothing.
    Ignore,
}

impl Answer {
    /// Its word.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Drop => "drop",
            Self::Ignore => "ignore",
        }
    }
}

/// For how long a pin is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Term {
    /// For a transfer.
    Short,
    /// For ever, without a way to end it.
    Long,
    /// For ever, with a lease.
    Leased {
        /// What happens when it is revoked.
        answer: Answer,
        /// The grace period, in microseconds.
        grace_us: u64,
    },
}

/// The lease of a long-term pin of the shell.
pub struct PinLease {
    machine: Weak<Machine>,
    id: u32,
    name: String,
    grace_us: u64,
    answer: Answer,
    asked: AtomicBool,
}

impl PinLease {
    /// What it does when it is revoked.
    pub fn answer(&self) -> Answer {
        self.answer
    }
}

impl Lease for PinLease {
    fn revoke(&self, _why: Why) {
        if self.answer == Answer::Ignore {
            return;
        }
        // Release: pairs with the Acquire in `add_pin`. Should the pin not be listed yet, who lists it finds the flag, since the
        // list's lock orders the two.
        self.asked.store(true, Ordering::Release);
        if let Some(machine) = self.machine.upgrade() {
            machine.remove_pin(self.id.into());
        }
    }

    fn holder(&self) -> &str {
        &self.name
    }

    fn grace_us(&self) -> u64 {
        self.grace_us
    }
}

/// A pin of the shell.
pub struct Pin {
    /// Its number, from 1.
    pub id: u32,
    /// The file's name when it was pinned.
    pub path: String,
    /// Where in the file it begins, in bytes.
    pub offset: u64,
    /// Bytes.
    pub length: u64,
    /// The pages.
    pub pages: PinnedPages,
    /// The lease of a long-term pin.
    pub lease: Option<Arc<PinLease>>,
}

impl Machine {
    /// Pins a range of a file until [`Machine::remove_pin`], or until its lease is revoked; returns its number and how many pages
    /// it has.
    ///
    /// # Errors
    /// See [`PinFailure`].
    pub fn add_pin(
        self: &Arc<Self>,
        path: String,
        inode: &Arc<Inode>,
        (offset, length): (u64, u64),
        term: Term,
    ) -> Result<(u32, u64), PinFailure> {
        let (named, lease) = self.lease(term).unzip();
        let window = Window::open(inode, offset, length)?;
        let pages = match term {
            Term::Short => window.pin(true)?,
            Term::Long | Term::Leased { .. } => {
                window.pin_longterm(lease.clone().map(|l| l as Arc<dyn Lease>))?
            }
        };
        drop(window);
        let id = named.unwrap_or_else(|| self.pin_number());
        let count = pages.pages();
        self.list_pin(Pin {
            id,
            path,
            offset,
            length,
            pages,
            lease: lease.clone(),
        })?;
        // Acquire: pairs with the Release in `PinLease::revoke`.
        if lease.is_some_and(|l| l.asked.load(Ordering::Acquire)) {
            self.remove_pin(id.into());
        }
        Ok((id, count))
    }

    fn pin_number(&self) -> u32 {
        // Relaxed: the number only has to be unique.
        self.next_pin.fetch_add(1, Ordering::Relaxed)
    }

    /// The number of a pin with a lease, which names it, and the lease.
    fn lease(self: &Arc<Self>, term: Term) -> Option<(u32, Arc<PinLease>)> {
        let Term::Leased { answer, grace_us } = term else {
            return None;
        };
        let id = self.pin_number();
        let lease = Arc::new(PinLease {
            machine: Arc::downgrade(self),
            id,
            name: format!("{}", Holder::Pin(id)),
            grace_us,
            answer,
            asked: AtomicBool::new(false),
        });
        Some((id, lease))
    }

    fn list_pin(&self, pin: Pin) -> Result<(), OutOfMemory> {
        let id = pin.id;
        self.holders.enter(Holder::Pin(id), &pin.pages)?;
        let mut pin = Some(pin);
        let room = {
            let mut pins = self.pins.lock();
            pins.try_reserve(1).map(|()| pins.extend(pin.take()))
        };
        room.map_err(|_| {
            self.holders.leave(Holder::Pin(id));
            OutOfMemory
        })
    }

    /// Ends a pin; returns what it was, with its pages unpinned.
    pub fn remove_pin(&self, id: u64) -> Option<(String, u64, u64)> {
        let pin = {
            let mut pins = self.pins.lock();
            let at = pins.iter().position(|p| u64::from(p.id) == id)?;
            pins.remove(at)
        };
        let Pin {
            id,
            path,
            offset,
            length,
            pages,
            lease,
        } = pin;
        self.holders.leave(Holder::Pin(id));
        drop((pages, lease));
        self.reap();
        Some((path, offset, length))
    }

    /// Calls `each` with every pin, under the list's lock: it must not sleep.
    pub fn pins(&self, mut each: impl FnMut(&Pin)) {
        self.pins.lock().iter().for_each(&mut each);
    }
}
