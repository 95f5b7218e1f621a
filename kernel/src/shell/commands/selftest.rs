//! `selftest`: tests that the kernel runs on itself.

use super::{Done, command};
use crate::machine::Machine;
use crate::selftest::{TESTS, powercut, stress};
use crate::shell::error::ArgProblem;
use crate::shell::{Args, Command, On, Out, Table};
use alloc::string::String;
use alloc::sync::Arc;
use stress::Options;

/// How long `stress` runs when nobody says.
const SECONDS: u64 = 30;
/// The longest run, in seconds: a day.
const MOST: u64 = 86_400;

pub const SELFTEST: Command<Machine> = command(
    "selftest",
    "[stress|powercut [SECONDS] [--seed N] [--session N] [--force]]",
    "runs a test of the kernel on itself; without a name lists them",
    "stress: uses the first pmem device that can be written, and must have it to itself: nothing is mounted, and it holds no file \n\
     system (--force overwrites one). Writes to the last sectors of the first disk. The same seed gives the same plans, not the same\n\
     interleaving. Fails when a rule is broken, and when something that could have happened never did. See docs/stress.md.\n\
     powercut: four threads change files in /sN (--session N) of the mounted file system, and say `done THREAD NUMBER` after each\n\
     operation; .ci/powercut kills the machine meanwhile, and checks. See docs/testing.md.",
    selftest,
);

fn selftest(machine: &Arc<Machine>, args: &mut Args, out: &Out) -> Done {
    let seed = args.number_option("--seed")?;
    let force = args.flag("--force");
    let session = args.number_option("--session")?;
    match args.optional() {
        None => {
            args.end()?;
            list(out);
            Ok(())
        }
        Some(name) if name == "stress" => run_stress(machine, seed, force, args, out),
        Some(name) if name == "powercut" => run_powercut(machine, seed, session, args, out),
        Some(word) => Err(args.error(ArgProblem::BadChoice {
            name: "test",
            word,
            choices: "stress or powercut",
        })),
    }
}

fn list(out: &Out) {
    let mut table = Table::new(&["test", "what"], "");
    for (name, what) in TESTS {
        table.row([(*name).into(), (*what).into()]);
    }
    out.table(table);
}

fn run_stress(
    machine: &Arc<Machine>,
    seed: Option<u64>,
    force: bool,
    args: &mut Args,
    out: &Out,
) -> Done {
    let seconds = how_long(args)?;
    let seed = seed.unwrap_or_else(crate::time::now_ns);
    let options = Options {
        seconds,
        seed,
        force,
    };
    stress::run(machine, options, out).on(|| "selftest stress")
}

fn run_powercut(
    machine: &Arc<Machine>,
    seed: Option<u64>,
    session: Option<u64>,
    args: &mut Args,
    out: &Out,
) -> Done {
    let options = powercut::Options {
        seconds: how_long(args)?,
        seed: seed.unwrap_or_else(crate::time::now_ns),
        session: session.unwrap_or(0) as u32,
    };
    powercut::run(machine, options, out).on(|| "selftest powercut")
}

/// The last word of the command: how many seconds it may take.
fn how_long(args: &mut Args) -> Result<u64, crate::shell::CommandError> {
    let seconds = match args.optional() {
        Some(word) => seconds(args, word)?,
        None => SECONDS,
    };
    args.end()?;
    Ok(seconds)
}

fn seconds(args: &Args, word: String) -> Result<u64, crate::shell::CommandError> {
    use crate::shell::number::{NumberError, parse_number};
    args.converted("SECONDS", word, |w| match parse_number(w)? {
        n if n > MOST => Err(NumberError::TooLarge { max: MOST }),
        n => Ok(n.max(1)),
    })
}
