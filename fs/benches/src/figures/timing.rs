//! Times of operations, taken in batches.

use std::time::Instant;

use serde::Serialize;

/// Operations that are timed together: a short time, so that most batches end before somebody else gets the CPU; and a multiple of
/// the 256 inodes that the table of inodes grows by, so that each batch of creates pays for as many.
pub const BATCH: usize = 512;

/// Batches of a round: operations of one kind in a row.
pub const BATCHES: usize = 40;

/// Times of batches.
#[derive(Default)]
pub struct Times(Vec<f64>);

/// How long one operation takes.
#[derive(Clone, Copy, Serialize)]
pub struct Spread {
    /// The tenth of the batches that is fastest takes at most this, in nanoseconds for each operation.
    pub fast_ns: f64,
    /// One half of the batches takes at most this.
    pub median_ns: f64,
    /// Batches.
    pub batches: usize,
}

impl Times {
    /// Runs `n` operations and notes the time of one.
    pub fn batch<E>(&mut self, n: usize, run: impl FnOnce() -> Result<(), E>) -> Result<(), E> {
        let start = Instant::now();
        run()?;
        self.0.push(start.elapsed().as_nanos() as f64 / n as f64);
        Ok(())
    }

    /// What was found.
    ///
    /// # Panics
    /// If nothing was timed.
    pub fn spread(&self) -> Spread {
        let mut sorted = self.0.clone();
        sorted.sort_by(f64::total_cmp);
        Spread {
            fast_ns: sorted[sorted.len() / 10],
            median_ns: sorted[sorted.len() / 2],
            batches: sorted.len(),
        }
    }
}
