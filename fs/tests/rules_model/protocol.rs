//! A file system of two numbers, a data block and a metadata block, whose changes go through a ring of records.

use super::memory::{Image, Memory};

/// A rule, or a part of one, that can be left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// In-place stores only after the record's fence.
    R1,
    /// A record counts only if all its lines arrived: by their tags.
    R2,
    /// A slot is reused only when its targets are durable.
    R3,
    /// Blocks written directly are fenced before the record that publishes them.
    R4,
    /// A block freed by an operation is not reused within it.
    R5,
    /// A freed metadata block waits until the persistent floor has passed its record.
    R6,
    /// Replay in order.
    R7,
    /// After a crash the next number exceeds every tag seen, torn ones included.
    R8,
    /// A record counts only if its checksum is right.
    Checksum,
    /// A checkpoint writes back itself what another CPU stored.
    HandOver,
    /// Recovery overwrites the slot of a torn record, durably, before anything else is stored.
    Void,
    /// A target is left out of the write-back only if the next record stores it anew.
    Anew,
}

/// Who writes back what was stored in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteBack {
    /// A checkpoint, when the ring is full: as late as can be.
    Checkpoint,
    /// The next record, together with itself, but for what it stores anew: as the file system does. Wants a ring of two.
    Next,
}

/// The operations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op {
    /// Changes both numbers.
    SetBoth,
    /// Makes the metadata block.
    NewMeta,
    /// Changes it, by a record that targets it.
    UpdateMeta,
    FreeMeta,
    /// Makes the data block, written directly.
    NewData,
    FreeData,
    /// A new data block for the old one.
    Replace,
    /// The data block goes, a metadata block comes, in one record.
    DataToMeta,
    /// Data in place.
    Overwrite,
}

pub const OPS: [Op; 9] = [
    Op::DataToMeta,
    Op::SetBoth,
    Op::NewMeta,
    Op::UpdateMeta,
    Op::FreeMeta,
    Op::NewData,
    Op::FreeData,
    Op::Replace,
    Op::Overwrite,
];

/// What a user sees: both numbers, the data, the metadata (0: none).
pub type View = [u64; 4];

const X: usize = 0;
const Y: usize = 1;
/// Which block the data is in, and the metadata.
const DATA: usize = 2;
const META: usize = 3;
const FLOOR: usize = 4;
/// Block 1 is line 5.
const BLOCKS: usize = 4;
const BLOCK_COUNT: usize = 2;
const RING: usize = BLOCKS + 1 + BLOCK_COUNT;

/// A change of a cell, in one word.
const fn change(cell: usize, value: u64) -> u64 {
    (cell as u64 + 1) << 32 | value
}

const fn unpack(word: u64) -> Option<(usize, u64)> {
    match word >> 32 {
        0 => None,
        cell => Some((cell as usize - 1, word & 0xffff_ffff)),
    }
}

/// An ideal checksum of two changes.
const fn sum(first: u64, second: u64) -> u64 {
    let mixed = first.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ second.rotate_left(17);
    mixed.wrapping_mul(0xbf58_476d_1ce4_e5b9) >> 32
}

/// How the model is set up.
#[derive(Clone, Copy)]
pub struct Setup {
    /// Records in the ring.
    pub slots: u64,
    /// Rules that are left out.
    pub without: &'static [Rule],
    /// Operations alternate between two CPUs.
    pub two_cpus: bool,
    pub write_back: WriteBack,
}

impl Setup {
    fn has(&self, rule: Rule) -> bool {
        !self.without.contains(&rule)
    }

    /// An empty file system.
    pub fn empty(&self) -> Image {
        vec![[0; 2]; RING + 2 * self.slots as usize]
    }
}

/// The running file system.
#[derive(Clone)]
pub struct Model {
    pub setup: Setup,
    memory: Memory,
    cpu: usize,
    seq: u64,
    floor: u64,
    /// Records whose targets may not be durable.
    out: Vec<(u64, Vec<(usize, u64)>)>,
    free: Vec<u64>,
    quarantine: Vec<u64>,
    /// What users see now.
    pub view: View,
    /// The memory after each step of the last operation.
    pub steps: Vec<Memory>,
}

/// A whole record, or with a rule left out a part of one.
struct Found {
    seq: u64,
    changes: [u64; 2],
}

fn find(setup: &Setup, image: &Image) -> Vec<Found> {
    let mut found = Vec::new();
    for slot in 0..setup.slots as usize {
        let [a, b] = [image[RING + 2 * slot], image[RING + 2 * slot + 1]];
        let (seq, changes) = (a[1] & 0xffff_ffff, [a[0], b[0]]);
        if a[1] == 0 {
            continue;
        }
        let tags = !setup.has(Rule::R2) || a[1] & 0xffff_ffff == b[1] & 0xffff_ffff;
        let right = sum(changes[0], changes[1]);
        let sums = !setup.has(Rule::R2)
            || !setup.has(Rule::Checksum)
            || (a[1] >> 32 == right && b[1] >> 32 == right);
        if tags && sums {
            found.push(Found { seq, changes });
        }
    }
    found.sort_by_key(|found| found.seq);
    if !setup.has(Rule::R7) {
        found.reverse();
    }
    found
}

/// Recovers an image: what it is afterwards; every store that was made, in order.
pub fn recover(setup: &Setup, image: &Image) -> (Image, Vec<(usize, u64)>) {
    let mut out = image.clone();
    let mut stores = Vec::new();
    for found in find(setup, image) {
        if found.seq > image[FLOOR][0] {
            for (cell, value) in found.changes.into_iter().filter_map(unpack) {
                out[cell][0] = value;
                stores.push((cell, value));
            }
        }
    }
    (out, stores)
}

/// Empties the slots whose record did not become whole.
fn void_torn(setup: &Setup, image: &mut Image, crashed: &Image) {
    let whole: Vec<u64> = find(setup, crashed).iter().map(|found| found.seq).collect();
    for slot in image[RING..].chunks_mut(2) {
        if !whole.contains(&(slot[0][1] & 0xffff_ffff)) {
            slot.fill([0; 2]);
        }
    }
}

/// What a user finds in a recovered image.
pub fn view(image: &Image) -> View {
    let behind = |cell: usize| match image[cell][0] {
        0 => 0,
        block => image[BLOCKS + block as usize][0],
    };
    [image[X][0], image[Y][0], behind(DATA), behind(META)]
}

impl Model {
    /// Mounts an image after its recovery.
    pub fn boot(setup: Setup, crashed: &Image) -> Self {
        let (mut image, _) = recover(&setup, crashed);
        let whole = find(&setup, crashed).iter().map(|found| found.seq).max();
        let newest = whole.unwrap_or(0).max(crashed[FLOOR][0]);
        let torn = crashed[RING..]
            .iter()
            .map(|line| line[1] & 0xffff_ffff)
            .max();
        let seen = torn.unwrap_or(0).max(newest);
        image[FLOOR][0] = newest;
        if setup.has(Rule::Void) {
            void_torn(&setup, &mut image, crashed);
        }
        let used = [image[DATA][0], image[META][0]];
        Self {
            setup,
            cpu: 0,
            seq: if setup.has(Rule::R8) { seen } else { newest },
            floor: newest,
            out: Vec::new(),
            free: (1..=BLOCK_COUNT as u64)
                .filter(|b| !used.contains(b))
                .collect(),
            quarantine: Vec::new(),
            view: view(&image),
            steps: Vec::new(),
            memory: Memory::new(image),
        }
    }

    fn step(&mut self) {
        self.steps.push(self.memory.clone());
    }

    fn store(&mut self, line: usize, word: usize, value: u64) {
        self.memory.store(line, word, value);
        self.step();
    }

    fn flush(&mut self, line: usize) {
        self.memory.flush(self.cpu, line);
    }

    fn fence(&mut self) {
        self.memory.fence(self.cpu);
        self.step();
    }

    fn load(&self, cell: usize) -> u64 {
        self.memory.load(cell, 0)
    }

    /// Makes all targets durable; `persist`: and the floor too, so that quarantine ends.
    fn checkpoint(&mut self, persist: bool) {
        if self.setup.has(Rule::HandOver) {
            let targets: Vec<usize> = self.out.iter().flat_map(|(_, w)| w).map(|w| w.0).collect();
            targets.into_iter().for_each(|line| self.flush(line));
        }
        self.fence();
        self.floor = self.out.last().map_or(self.floor, |(seq, _)| *seq);
        self.out.clear();
        if persist {
            self.store(FLOOR, 0, self.floor);
            self.flush(FLOOR);
            self.fence();
            self.free.append(&mut self.quarantine);
        }
    }

    fn allocate(&mut self, freeing: u64) -> Option<u64> {
        if !self.setup.has(Rule::R5) && freeing != 0 {
            return Some(freeing);
        }
        if self.free.is_empty() && !self.quarantine.is_empty() {
            self.checkpoint(true);
        }
        self.free.pop()
    }

    fn release(&mut self, block: u64, meta: bool) {
        if meta && self.setup.has(Rule::R6) {
            self.quarantine.push(block);
        } else {
            self.free.push(block);
        }
    }

    /// Writes back what the last record stored in place and `writes` do not.
    fn write_back_last(&mut self, writes: &[(usize, u64)]) {
        if !self.setup.has(Rule::R3) {
            return;
        }
        let last = self.out.pop().map_or(Vec::new(), |(_, last)| last);
        let stored = |cell: usize| writes.iter().any(|(new, _)| *new == cell);
        let any = last.iter().any(|(cell, _)| stored(*cell));
        for (cell, _) in last {
            let anew = if self.setup.has(Rule::Anew) {
                stored(cell)
            } else {
                any
            };
            if !anew {
                self.flush(cell);
            }
        }
    }

    fn commit(&mut self, writes: &[(usize, u64)]) {
        let slots = self.setup.slots;
        let checkpoints = self.setup.write_back == WriteBack::Checkpoint;
        if checkpoints && self.out.len() as u64 >= slots && self.setup.has(Rule::R3) {
            self.checkpoint(false);
        }
        self.seq += 1;
        let line = RING + 2 * (self.seq % slots) as usize;
        let word = |i: usize| {
            writes
                .get(i)
                .map_or(0, |(cell, value)| change(*cell, *value))
        };
        let changes = [word(0), word(1)];
        let tag = self.seq | sum(changes[0], changes[1]) << 32;
        for (half, changed) in changes.into_iter().enumerate() {
            self.store(line + half, 0, changed);
            self.store(line + half, 1, tag);
            self.flush(line + half);
        }
        if !checkpoints {
            self.write_back_last(writes);
        }
        if self.setup.has(Rule::R1) {
            self.fence();
        }
        for (cell, value) in writes {
            self.store(*cell, 0, *value);
            if !self.setup.has(Rule::HandOver) {
                self.flush(*cell);
            }
        }
        if !self.setup.has(Rule::R1) {
            self.fence();
        }
        self.out.push((self.seq, writes.to_vec()));
        let more = self.out.len().saturating_sub(slots as usize);
        self.out.drain(..more);
    }

    /// Writes a block that no record names yet.
    fn write_block(&mut self, block: u64, content: u64) {
        let line = BLOCKS + block as usize;
        self.store(line, 0, content);
        self.flush(line);
        if self.setup.has(Rule::R4) {
            self.fence();
        }
    }

    /// Does an operation, numbered `n`; what users see afterwards, or `None` if there is nothing to do.
    pub fn run(&mut self, op: Op, n: u64) -> Option<View> {
        self.steps.clear();
        self.cpu = if self.setup.two_cpus {
            (n % 2) as usize
        } else {
            0
        };
        let mut new = self.view;
        let (data, meta) = (self.load(DATA), self.load(META));
        let none = |block: u64| (block == 0).then_some(());
        let some = |block: u64| (block != 0).then_some(block);
        match op {
            Op::SetBoth => {
                [new[0], new[1]] = [n; 2];
                self.commit(&[(X, n), (Y, n)]);
            }
            Op::NewMeta => {
                none(meta)?;
                let block = self.allocate(0)?;
                new[3] = 1000 + n;
                self.write_block(block, new[3]);
                self.commit(&[(META, block)]);
            }
            Op::UpdateMeta => {
                let line = BLOCKS + some(meta)? as usize;
                new[3] = 1000 + n;
                self.commit(&[(line, new[3])]);
            }
            Op::FreeMeta => {
                let block = some(meta)?;
                new[3] = 0;
                self.commit(&[(META, 0)]);
                self.release(block, true);
            }
            Op::NewData => {
                none(data)?;
                let block = self.allocate(0)?;
                new[2] = n;
                self.write_block(block, n);
                self.commit(&[(DATA, block)]);
            }
            Op::FreeData => {
                let block = some(data)?;
                new[2] = 0;
                self.commit(&[(DATA, 0)]);
                self.release(block, false);
            }
            Op::Replace => {
                let old = some(data)?;
                let block = self.allocate(old)?;
                new[2] = n;
                self.write_block(block, n);
                self.commit(&[(DATA, block)]);
                if block != old {
                    self.release(old, false);
                }
            }
            Op::DataToMeta => {
                none(meta)?;
                let old = some(data)?;
                let block = self.allocate(old)?;
                [new[2], new[3]] = [0, 1000 + n];
                self.write_block(block, new[3]);
                self.commit(&[(DATA, 0), (META, block)]);
                if block != old {
                    self.release(old, false);
                }
            }
            Op::Overwrite => {
                let line = BLOCKS + some(data)? as usize;
                new[2] = n;
                self.store(line, 0, n);
                self.flush(line);
                self.fence();
            }
        }
        Some(new)
    }
}
