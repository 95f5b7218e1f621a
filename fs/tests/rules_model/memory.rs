//! Lines of two words, stores on their way to them, and what a crash leaves.

/// Words of a line.
pub const WORDS: usize = 2;

/// How a line may arrive in part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tearing {
    /// Up to any of its stores, in order.
    Prefix,
    /// Any subset of its words; as above besides.
    Words,
}

/// All that is durable.
pub type Image = Vec<[u64; WORDS]>;

#[derive(Clone, Default)]
struct Line {
    /// Word and value, in order.
    stores: Vec<(u8, u64)>,
    /// How many of them each CPU has written back.
    flushed: [usize; 2],
}

/// What is durable, and what is on its way.
#[derive(Clone)]
pub struct Memory {
    base: Image,
    lines: Vec<Line>,
}

impl Memory {
    pub fn new(base: Image) -> Self {
        let lines = vec![Line::default(); base.len()];
        Self { base, lines }
    }

    /// A store, by whichever CPU.
    pub fn store(&mut self, line: usize, word: usize, value: u64) {
        self.lines[line].stores.push((word as u8, value));
    }

    /// What a CPU sees.
    pub fn load(&self, line: usize, word: usize) -> u64 {
        let newest = self.lines[line].stores.iter().rev();
        let mut newest = newest.filter(|(w, _)| usize::from(*w) == word);
        newest
            .next()
            .map_or(self.base[line][word], |(_, value)| *value)
    }

    /// Starts the write-back of a line as it is now.
    pub fn flush(&mut self, cpu: usize, line: usize) {
        let line = &mut self.lines[line];
        line.flushed[cpu] = line.stores.len();
    }

    /// Waits for what this CPU has written back, and for nothing else.
    pub fn fence(&mut self, cpu: usize) {
        for (base, line) in self.base.iter_mut().zip(&mut self.lines) {
            let done = line.flushed[cpu];
            for (word, value) in line.stores.drain(..done) {
                base[usize::from(word)] = value;
            }
            line.flushed = line.flushed.map(|n| n.saturating_sub(done));
        }
    }

    /// Calls `each` with every image that a crash right now may leave.
    pub fn crash(&self, tearing: Tearing, each: &mut dyn FnMut(&Image)) {
        let moving: Vec<usize> = (0..self.lines.len())
            .filter(|line| !self.lines[*line].stores.is_empty())
            .collect();
        let mut image = self.base.clone();
        self.choose(&moving, tearing, &mut image, each);
    }

    fn choose(
        &self,
        moving: &[usize],
        tearing: Tearing,
        image: &mut Image,
        each: &mut dyn FnMut(&Image),
    ) {
        let Some((line, rest)) = moving.split_first() else {
            return each(image);
        };
        for state in self.states(*line, tearing) {
            image[*line] = state;
            self.choose(rest, tearing, image, each);
        }
        image[*line] = self.base[*line];
    }

    /// What a crash may leave of a line.
    fn states(&self, line: usize, tearing: Tearing) -> Vec<[u64; WORDS]> {
        let stores = &self.lines[line].stores;
        let mut state = self.base[line];
        let mut out = vec![state];
        for (word, value) in stores {
            state[usize::from(*word)] = *value;
            if !out.contains(&state) {
                out.push(state);
            }
        }
        if tearing == Tearing::Words {
            let (old, new) = (self.base[line], state);
            for mixed in [[old[0], new[1]], [new[0], old[1]]] {
                if !out.contains(&mixed) {
                    out.push(mixed);
                }
            }
        }
        out
    }
}
