//! Power cuts of the whole machine: QEMU is killed at a random moment under load, again and again, on one pmem file.
//!
//! The load ([`kernel::selftest::powercut`]) says after each operation that it is done. After each cut the host looks at the file as the machine
//! left it: fsck finds nothing; a mount, which replays the ring, finds the files of every thread as they were after some operation of
//! its plan that is not before the last one that was said to be done; what older sessions left has not changed by a byte ([`oracle`]).
//! Every other time the host's mount is the recovery; else it works on a private copy, and the next machine recovers by itself,
//! until it is killed, perhaps in the middle of that.
//!
//! What this shows: that each state of the image between two instructions of the guest is one that recovers. What it does not: a killed QEMU loses
//! no store, since every store of the guest is in the host's page cache at once. A flush or fence that is missing is found by the
//! crash explorer of `fs`, and not here.

pub mod machine;
pub mod oracle;

use std::collections::VecDeque;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use boot::host_fs::mounted::{Mounted, leave, mount};
use boot::pmem_file::{Changes, PmemFile};
use kernel::selftest::powercut::plan::{THREADS, session_dir};
use kernel::selftest::stress::dice::Dice;

use self::machine::Cut;
use self::oracle::{Expected, Tree};

/// Sessions whose files stay on the file system.
const KEPT: usize = 3;
/// The longest time from the first word of a load to the cut.
const UNDER_LOAD: Duration = Duration::from_millis(1500);
/// The longest time from the start of QEMU to a cut that does not wait for the load.
const WHILE_STARTING: Duration = Duration::from_millis(1500);

/// A series of cuts on one file.
pub struct Series<'a> {
    image: &'a Path,
    seed: u64,
    dice: Dice,
    kept: VecDeque<(u32, Tree)>,
}

/// What one cut showed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shown {
    /// Operations that were said to be done, and were checked.
    pub acknowledged: u64,
    /// Bytes of files that were compared.
    pub bytes: u64,
    /// Records that the mount replayed.
    pub replayed: u64,
}

impl<'a> Series<'a> {
    /// On a file that holds an empty file system.
    pub fn new(image: &'a Path, seed: u64) -> Self {
        Self {
            image,
            seed,
            dice: Dice::new(seed, u64::MAX),
            kept: VecDeque::new(),
        }
    }

    /// Starts a machine, kills it, and looks.
    ///
    /// # Errors
    /// With what is wrong: the machine did not get as far as it should, or something that was done is not there.
    pub fn cut(&mut self, number: u32) -> Result<Shown> {
        let cut = self.moment();
        let seed = self.seed ^ u64::from(number);
        let done = machine::run_and_kill(self.image, seed, number, cut)?;
        self.fsck("after the cut")?;
        let expected = Expected {
            seed,
            session: number,
            done,
        };
        let recovers = number.is_multiple_of(2);
        let shown = self.look(&expected, recovers)?;
        if recovers {
            self.fsck("after recovery and new operations")?;
        }
        Ok(shown)
    }

    /// One cut in eight comes at any time from the start on: in the firmware, in the mount, in its recovery.
    fn moment(&mut self) -> Cut {
        let at_random = |dice: &mut Dice, most: Duration| {
            Duration::from_micros(dice.below(most.as_micros() as u64))
        };
        match self.dice.one_in(8) {
            true => Cut::AfterStart(at_random(&mut self.dice, WHILE_STARTING)),
            false => Cut::UnderLoad(at_random(&mut self.dice, UNDER_LOAD)),
        }
    }

    fn fsck(&self, when: &str) -> Result<()> {
        let file = PmemFile::open(self.image, Changes::Dropped)?;
        let found = fs::fsck(&file.pmem);
        match found.is_clean() {
            true => Ok(()),
            false => bail!("fsck {when}: {found}"),
        }
    }

    fn look(&mut self, expected: &Expected, recovers: bool) -> Result<Shown> {
        let changes = match recovers {
            true => Changes::Kept,
            false => Changes::Dropped,
        };
        let file = PmemFile::open(self.image, changes)?;
        let fs = mount(&file, self.image)?;
        let replayed = fs.mount_report().replayed.into();
        let looked = self.compare(&fs, expected, recovers);
        if recovers {
            leave(fs, &file, self.image)?;
        }
        let (acknowledged, bytes) = looked?;
        Ok(Shown {
            acknowledged,
            bytes,
            replayed,
        })
    }

    fn compare(&mut self, fs: &Mounted, expected: &Expected, changes: bool) -> Result<(u64, u64)> {
        let mut bytes = 0;
        for (session, tree) in &self.kept {
            let found = oracle::read(fs, *session)?;
            found
                .same_as(tree)
                .with_context(|| format!("session {session}, which had ended before"))?;
            bytes += found.bytes();
        }
        let found = oracle::read(fs, expected.session)?;
        bytes += found.bytes();
        let acknowledged = expected.check(&found)?;
        self.kept.push_back((expected.session, found));
        while changes && self.kept.len() > KEPT {
            if let Some((session, _)) = self.kept.pop_front() {
                remove(fs, &session_dir(session))?;
            }
        }
        Ok((acknowledged, bytes))
    }
}

/// Removes what a session has left.
fn remove(fs: &Mounted, path: &str) -> Result<()> {
    let Ok(dir) = fs.open(path) else {
        return Ok(());
    };
    while let Some(entry) = fs.readdir(&dir, 0)? {
        let name = String::from_utf8_lossy(entry.name.as_bytes()).into_owned();
        let below = format!("{path}/{name}");
        match entry.kind {
            fs::Kind::Dir => remove(fs, &below)?,
            _ => fs.unlink(&below)?,
        }
    }
    drop(dir);
    Ok(fs.rmdir(path)?)
}

/// The last operation of each thread that was said to be done; `None`: not even its directories.
pub type Done = [Option<u32>; THREADS as usize];
