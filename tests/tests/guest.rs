//! The cases inside the machine: one line each.
//!
//! With `HOLDFAST_SELFTEST=1` the list is instead that of the cases which must fail, with one that passes among them; a case of the
//! usual list runs this program so and looks at what it prints.

use std::process::{Command, ExitCode};
use std::sync::Arc;

use boot::kernel::{self, Profile};
use libtest_mimic::{Arguments, Failed, Trial};
use tests::fleet::Fleet;
use tests::list::{self, Case};

const SELFTEST: &str = "HOLDFAST_SELFTEST";
const MUST_FAIL: &str = "harness::fails::";

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    match trials() {
        Ok(trials) => libtest_mimic::run(&arguments, trials).exit_code(),
        Err(why) => {
            eprintln!("the test kernel cannot be built or read: {why:#}");
            ExitCode::FAILURE
        }
    }
}

fn trials() -> anyhow::Result<Vec<Trial>> {
    let elf = kernel::build(kernel::Program::Guest, Profile::Release)?;
    std::env::set_current_dir(kernel::workspace())?; // file names in a case's machine start there
    let fleet = Arc::new(Fleet::new(&elf));
    let selftest = std::env::var_os(SELFTEST).is_some();
    let cases = list::read(&elf)?;
    let wanted = cases
        .into_iter()
        .filter(|case| case.name.starts_with(MUST_FAIL) == selftest);
    let mut trials: Vec<Trial> = wanted.map(|case| trial(&fleet, case)).collect();
    if !selftest {
        trials.push(Trial::test(
            "harness::each_kind_of_failure_is_one_line_and_the_run_goes_on",
            failures_are_told,
        ));
    }
    Ok(trials)
}

fn trial(fleet: &Arc<Fleet>, case: Case) -> Trial {
    let fleet = fleet.clone();
    Trial::test(case.name.clone(), move || Ok(fleet.run(&case)?))
}

fn failures_are_told() -> Result<(), Failed> {
    let mut command = Command::new(std::env::current_exe()?);
    let output = command
        .env(SELFTEST, "1")
        .args(["--test-threads=1", "--color=never"])
        .output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    check(&text, output.status.success()).map_err(|why| format!("{why}\n{text}").into())
}

fn check(text: &str, success: bool) -> Result<(), String> {
    let told = |line: &str| text.lines().filter(|l| l.starts_with(line)).count();
    let one = |line: String| {
        if told(&line) == 1 {
            Ok(())
        } else {
            Err(format!("{} lines {line:?}", told(&line)))
        }
    };
    for case in [
        "by_a_panic",
        "by_a_triple_fault",
        "by_an_endless_loop",
        "by_no_panic",
    ] {
        one(format!("test {MUST_FAIL}{case} "))?;
    }
    let failed = text
        .lines()
        .filter(|l| l.starts_with("test ") && l.ends_with("FAILED"))
        .count();
    if failed != 4 || success {
        return Err(format!("{failed} lines FAILED, exit {success}"));
    }
    for part in [
        "this case panics\non two lines",
        "log: said before the panic",
        "a triple fault",
        "no answer in 2s",
    ] {
        if !text.contains(part) {
            return Err(format!("{part:?} is not told"));
        }
    }
    one(format!("test {MUST_FAIL}not_at_all "))
}
