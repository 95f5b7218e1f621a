//! What may be on the file system after the power was cut.
//!
//! Each thread works alone in its directory, so its files are always what some prefix of its plan made, and at most a part of the one operation that was
//! under way. The prefix is no shorter than what was said to be done. It may be a little longer: the last words of a machine that
//! dies stick in its serial port (`LATE`).
//!
//! Of the operation under way: a name is made, moved or removed, or it is not; a file is cut, or it is not; of an append the beginning may be
//! there; of bytes that are written over, each aligned 8 are old or new.

use std::collections::BTreeMap;

use anyhow::{Context, Result, bail, ensure};
use boot::host_fs::mounted::{Mounted, Node};
use fs::Kind;
use kernel::selftest::powercut::plan::{
    Op, Plan, SLOTS, Slot, THREADS, content, lower_dir, name, session_dir, thread_dir,
};

use super::Done;

/// Operations that may be done although nobody heard of them: what the serial port holds is at most two lines.
const LATE: u32 = 3;
/// Bytes that are stored at once.
const WORD: usize = 8;

/// The files of a thread.
pub type Files = BTreeMap<Slot, Vec<u8>>;

/// What a thread has left: its directories, if they are there, and its files.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Left {
    dirs: u8,
    files: Files,
}

/// What a session has left.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tree(Vec<Left>);

/// What was said about a session.
#[derive(Clone, Copy, Debug)]
pub struct Expected {
    /// What plans and contents follow from.
    pub seed: u64,
    /// The directory.
    pub session: u32,
    /// What was said to be done.
    pub done: Done,
}

/// Reads what a session has left. A name that no plan has is an error.
///
/// # Errors
/// When something cannot be read, or should not be there.
pub fn read(fs: &Mounted, session: u32) -> Result<Tree> {
    let top = session_dir(session);
    let threads: Vec<String> = (0..THREADS).map(|thread| format!("t{thread}")).collect();
    if fs.open(&top).is_ok() {
        only(fs, &top, &threads)?;
    }
    let left = (0..THREADS).map(|thread| read_thread(fs, session, thread));
    Ok(Tree(left.collect::<Result<_>>()?))
}

fn read_thread(fs: &Mounted, session: u32, thread: u8) -> Result<Left> {
    let (top, lower) = (thread_dir(session, thread), lower_dir(session, thread));
    let names: Vec<String> = (0..SLOTS).map(name).collect();
    let mut left = Left::default();
    for (dir, path) in [("", &top), ("d/", &lower)] {
        if fs.open(path).is_err() {
            break;
        }
        left.dirs += 1;
        let here = names.iter().filter_map(|name| name.strip_prefix(dir));
        let here = here.filter(|name| !name.contains('/')).map(str::to_owned);
        let sub = dir.is_empty().then(|| "d".to_owned());
        only(fs, path, &here.chain(sub).collect::<Vec<_>>())?;
    }
    for (slot, name) in names.iter().enumerate() {
        if let Ok(file) = fs.open(&format!("{top}/{name}")) {
            left.files.insert(slot, bytes(&file, name)?);
        }
    }
    Ok(left)
}

/// Refuses a name that is none of `names`.
fn only(fs: &Mounted, path: &str, names: &[String]) -> Result<()> {
    let (dir, mut cookie) = (fs.open(path)?, 0);
    while let Some(entry) = fs.readdir(&dir, cookie)? {
        cookie = entry.cookie;
        let name = String::from_utf8_lossy(entry.name.as_bytes());
        ensure!(
            names.iter().any(|n| *n == name),
            "{path}/{name}: nobody made it"
        );
    }
    Ok(())
}

fn bytes(file: &Node, name: &str) -> Result<Vec<u8>> {
    ensure!(file.kind() == Kind::File, "{name}: not a file");
    let mut bytes = vec![0; file.stat().size as usize];
    let read = file.read(0, &mut bytes)?;
    ensure!(
        read == bytes.len(),
        "{name}: {read} of {} bytes",
        bytes.len()
    );
    Ok(bytes)
}

impl Tree {
    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        let files = self.0.iter().flat_map(|left| left.files.values());
        files.map(|file| file.len() as u64).sum()
    }

    /// Whether nothing has changed.
    ///
    /// # Errors
    /// With the first thread of which something has.
    pub fn same_as(&self, before: &Self) -> Result<()> {
        for (thread, (now, before)) in self.0.iter().zip(&before.0).enumerate() {
            ensure!(
                now == before,
                "thread {thread}: {}",
                difference(now, before)
            );
        }
        Ok(())
    }
}

impl Expected {
    /// Whether that may have been left; returns the operations that were said to be done.
    ///
    /// # Errors
    /// With the first thread of which something is missing, or too much.
    pub fn check(&self, found: &Tree) -> Result<u64> {
        let mut acknowledged = 0;
        for (thread, left) in (0..).zip(&found.0) {
            let done = self.done[usize::from(thread)];
            self.check_thread(thread, done, left).with_context(|| {
                format!("session {}, thread {thread}, done {done:?}", self.session)
            })?;
            acknowledged += done.map_or(0, |number| u64::from(number) + 1);
        }
        Ok(acknowledged)
    }

    fn check_thread(&self, thread: u8, done: Option<u32>, left: &Left) -> Result<()> {
        if done.is_none() && left.files.is_empty() && left.dirs < 2 {
            return Ok(());
        }
        ensure!(left.dirs == 2, "its directories are missing");
        let (mut plan, mut files) = (Plan::new(self.seed, thread), Files::new());
        let (from, mut number) = (done.unwrap_or(0), 0);
        while number <= from + LATE {
            let op = plan.next().context("a plan has no end")?;
            let mut after = files.clone();
            apply(&mut after, op, (self.seed, thread, number + 1));
            if number >= from && may_be(&files, &after, op, &left.files) {
                return Ok(());
            }
            (files, number) = (after, number + 1);
        }
        bail!("{}", self.nearest(thread, from, left))
    }

    /// What is different from the state that was said to be reached.
    fn nearest(&self, thread: u8, number: u32, left: &Left) -> String {
        let mut files = Files::new();
        let mut plan = Plan::new(self.seed, thread);
        for (number, op) in (1..=number).zip(plan.clone()) {
            apply(&mut files, op, (self.seed, thread, number));
        }
        let next = plan.nth(number as usize);
        let expected = Left { dirs: 2, files };
        format!(
            "{}; the next operation is {next:?}",
            difference(left, &expected)
        )
    }
}

fn difference(now: &Left, before: &Left) -> String {
    let slots = (0..SLOTS).filter(|slot| now.files.get(slot) != before.files.get(slot));
    let tell = |slot| {
        let len = |left: &Left| left.files.get(&slot).map(Vec::len);
        let at = first_difference(now.files.get(&slot), before.files.get(&slot));
        format!(
            "file {slot}: {:?} bytes instead of {:?}, from offset {at:?}",
            len(now),
            len(before)
        )
    };
    let told: Vec<String> = slots.map(tell).collect();
    format!(
        "{} directories instead of {}; {}",
        now.dirs,
        before.dirs,
        told.join("; ")
    )
}

fn first_difference(a: Option<&Vec<u8>>, b: Option<&Vec<u8>>) -> Option<usize> {
    a?.iter().zip(b?).position(|(a, b)| a != b)
}

/// Does to `files` what operation `number` of `thread` under `seed` does.
pub fn apply(files: &mut Files, op: Op, (seed, thread, number): (u64, u8, u32)) {
    match op {
        Op::Create(slot) => drop(files.insert(slot, Vec::new())),
        Op::Append { slot, at, len } | Op::Overwrite { slot, at, len } => {
            let file = files.entry(slot).or_default();
            let end = (at + len) as usize;
            file.resize(file.len().max(end), 0);
            content(seed, thread, number, at, &mut file[at as usize..end]);
        }
        Op::Truncate(slot, len) => files.entry(slot).or_default().resize(len as usize, 0),
        Op::Rename(from, to) if from != to => {
            let moved = files.remove(&from).unwrap_or_default();
            files.insert(to, moved);
        }
        Op::Unlink(slot) => drop(files.remove(&slot)),
        Op::Rename(..) | Op::Fsync(_) => {}
    }
}

/// Whether `found` may be what is there when the power goes while `op` leads from `before` to `after`.
fn may_be(before: &Files, after: &Files, op: Op, found: &Files) -> bool {
    let slot = match op {
        Op::Append { slot, .. } | Op::Overwrite { slot, .. } => slot,
        _ => return found == before || found == after,
    };
    let rest = |files: &Files| {
        let mut files = files.clone();
        files.remove(&slot).map(|file| (files, file))
    };
    let (Some((before, old)), Some((_, new)), Some((found, file))) =
        (rest(before), rest(after), rest(found))
    else {
        return false;
    };
    before == found
        && match op {
            Op::Append { .. } => new.starts_with(&file) && file.starts_with(&old),
            _ => mixed(&old, &new, &file),
        }
}

/// Whether each aligned word of `file` is that of `old` or that of `new`.
fn mixed(old: &[u8], new: &[u8], file: &[u8]) -> bool {
    let words = old.chunks(WORD).zip(new.chunks(WORD));
    let each = words.zip(file.chunks(WORD));
    old.len() == file.len()
        && each
            .into_iter()
            .all(|((old, new), word)| word == old || word == new)
}

#[cfg(test)]
#[path = "oracle_tests.rs"]
mod tests;
