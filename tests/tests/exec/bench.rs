//! The benchmarks: that they run, that what they count repeats, and that it stays within its budget. Nothing here looks at a time.

use libtest_mimic::Failed;
use serde_json::Value;
use tests::driver::{Ran, holdfast};

use crate::Check;

/// The cases.
pub const CASES: &[(&str, Check)] = &[
    (
        "bench::instructions_repeat_and_stay_within_their_budgets",
        instructions,
    ),
    ("bench::times_are_reported_where_nothing_counts", times),
    ("bench::a_name_that_nothing_has_is_an_error", unknown),
];

/// The most instructions for one operation: about twice what was measured, or what Linux takes where that is less.
const BUDGETS: &[(&str, f64)] = &[
    ("gup.fast.4k.x512", 40.0),
    ("unpin.4k.x512", 40.0),
    ("zap.4k", 120.0),
    ("truncate.mapped.4k", 889.0),
    ("pgmap.new.512g", 4000.0),
    ("mmap.with.10000", 4000.0),
    ("heap.with.10000.holes", 1000.0),
];

fn instructions() -> Result<(), Failed> {
    let names: Vec<&str> = BUDGETS.iter().map(|(name, _)| *name).collect();
    let (ran, report) = bench(&["--icount", &names.join(",")])?;
    if report["repeatable"] != Value::Bool(true) || report["machine"]["cpus"] != 1 {
        return Err(format!("a second machine counted otherwise: {report}: {ran:?}").into());
    }
    for (name, most) in BUDGETS {
        let figure = figure(&report, name)?;
        let per_op = figure["instructions_per_op"].as_f64();
        if !per_op.is_some_and(|n| n > 0.0 && n <= *most) {
            return Err(format!("{name}: more than {most} instructions: {figure}").into());
        }
        if figure["instructions"] != figure["instructions_again"] || !figure["ns_per_op"].is_null()
        {
            return Err(format!("{name}: {figure}").into());
        }
    }
    Ok(())
}

fn times() -> Result<(), Failed> {
    let (_, report) = bench(&["switch.yield,shootdown.cpus2"])?;
    for name in ["switch.yield", "shootdown.cpus2"] {
        let figure = figure(&report, name)?;
        if !figure["ns_per_op"].is_f64() || !figure["instructions"].is_null() {
            return Err(format!("{name}: {figure}").into());
        }
    }
    let flush = figure(&report, "shootdown.cpus2")?;
    match flush["ipis"].as_u64() >= flush["ops"].as_u64() && report["repeatable"].is_null() {
        true => Ok(()),
        false => Err(format!("the other CPU was not interrupted for each flush: {report}").into()),
    }
}

fn unknown() -> Result<(), Failed> {
    for (filter, code) in [("no.such.figure", 1), ("a;b", 2)] {
        let ran = holdfast(&["bench", filter])?;
        if ran.code != Some(code) || !ran.stdout.is_empty() {
            return Err(format!("{filter}: wanted {code}: {ran:?}").into());
        }
    }
    Ok(())
}

/// Runs `bench` to its good end; its table must have a row for each figure of its file.
fn bench(words: &[&str]) -> Result<(Ran, Value), Failed> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("figures.json").display().to_string();
    let ran = holdfast(&[&["bench", "--json", &file], words].concat())?;
    if ran.code != Some(0) {
        return Err(format!("{ran:?}").into());
    }
    let report: Value = serde_json::from_str(&std::fs::read_to_string(file)?)?;
    let figures = report["figures"].as_array().map_or(0, Vec::len);
    match figures > 0 && ran.stdout.lines().count() == figures + 1 {
        true => Ok((ran, report)),
        false => Err(format!("{figures} figures: {ran:?}").into()),
    }
}

fn figure<'a>(report: &'a Value, name: &str) -> Result<&'a Value, Failed> {
    let figures = report["figures"].as_array().ok_or("no figures")?;
    let found = figures.iter().find(|f| f["name"] == name);
    found.ok_or_else(|| format!("no figure {name}: {report}").into())
}
