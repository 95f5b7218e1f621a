//! A machine under load, and its end.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use boot::kernel::Profile;
use boot::options::MachineOptions;
use boot::qemu::{Event, Qemu};
use boot::session::{Session, Task};
use clap::{Args, FromArgMatches};
use kernel::selftest::powercut::plan::{THREADS, acknowledged};

use super::Done;

/// How long a load may take to its first word.
const START_LIMIT: Duration = Duration::from_secs(90);
/// Seconds of the load; it never gets there.
const FOR_EVER: u32 = 3600;

/// When the machine is killed.
#[derive(Clone, Copy, Debug)]
pub enum Cut {
    /// So long after QEMU was started.
    AfterStart(Duration),
    /// So long after the load said for the first time that something is done.
    UnderLoad(Duration),
}

/// Starts a machine on the file, kills it, and returns what it had said is done.
///
/// # Errors
/// When it does not start, ends by itself, or says nothing.
pub fn run_and_kill(image: &Path, seed: u64, session: u32, cut: Cut) -> Result<Done> {
    let mut qemu = load(image, seed, session)?.start()?;
    let mut output = Vec::new();
    match cut {
        Cut::AfterStart(time) => wait(&mut qemu, time, &mut output, |_| false).map(drop)?,
        Cut::UnderLoad(time) => {
            if !wait(&mut qemu, START_LIMIT, &mut output, has_begun)? {
                bail!("no word in {START_LIMIT:?}: {}", text(&output));
            }
            wait(&mut qemu, time, &mut output, |_| false)?;
        }
    }
    qemu.kill();
    // What was on its way when it died was said, too.
    while let Event::Output(bytes) = qemu.next(None)? {
        output.extend(bytes);
    }
    Ok(done(&text(&output)))
}

fn load(image: &Path, seed: u64, session: u32) -> Result<Session> {
    let command = MachineOptions::augment_args(clap::Command::new("machine").no_binary_name(true));
    let file = image.display().to_string();
    let matches =
        command.try_get_matches_from(["--cpus", "2", "--memory", "256M", "--pmem", &file])?;
    let options = MachineOptions::from_arg_matches(&matches)?;
    let script = format!("mount; selftest powercut {FOR_EVER} --seed {seed} --session {session}");
    Ok(Session {
        options,
        task: Task::Exec(script),
        profile: Profile::Release,
        limit: None,
        gdb: false,
        log: "warn".into(),
        trace: None,
        raw: Vec::new(),
    })
}

/// Reads output for `time`, or until `enough`; returns whether it was.
fn wait(
    qemu: &mut Qemu,
    time: Duration,
    output: &mut Vec<u8>,
    enough: impl Fn(&[u8]) -> bool,
) -> Result<bool> {
    let deadline = Instant::now() + time;
    while !enough(output) {
        match qemu.next(Some(deadline))? {
            Event::Output(bytes) => output.extend(bytes),
            Event::TimedOut => return Ok(false),
            Event::Ended(end) => bail!("the machine ended by itself: {end:?}: {}", text(output)),
            Event::Left => bail!("nobody leaves"),
        }
    }
    Ok(true)
}

fn text(output: &[u8]) -> String {
    String::from_utf8_lossy(output).into_owned()
}

fn has_begun(output: &[u8]) -> bool {
    done(&text(output)).iter().any(Option::is_some)
}

/// The last number that each thread said; a line that was cut off counts for nothing.
fn done(output: &str) -> Done {
    let mut done = [None; THREADS as usize];
    let whole = output.rsplit_once('\n').map_or("", |(whole, _)| whole);
    for (thread, number) in whole
        .lines()
        .filter_map(|line| acknowledged(line.trim_end()))
    {
        let last = &mut done[usize::from(thread)];
        *last = (*last).max(Some(number));
    }
    done
}

#[cfg(test)]
mod tests {
    use super::done;

    #[test]
    fn a_line_that_was_cut_off_counts_for_nothing() {
        let said = "mounted\r\ndone 1 0\r\ndone 1 12\r\ndone 0 3\r\ndone 1 13";
        assert_eq!(done(said), [Some(3), Some(12), None, None]);
        assert_eq!(done("done 1 0"), [None; 4]);
    }
}
