//! `fsck`: the check of an unmounted file system, and its repair when asked.

use super::failures::{Left, Unsound};
use super::volume::{device, unused};
use super::{Done, command};
use crate::machine::Machine;
use crate::pmem::Device;
use crate::shell::{Args, Command, CommandError, Fields, On, Out};
use alloc::format;
use alloc::string::ToString;
use alloc::sync::Arc;
use alloc::vec;
use fs::{FsckReport, RepairReport};

pub const FSCK: Command<Machine> = command(
    "fsck",
    "[PMEM] [--repair]",
    "checks the file system of an unmounted pmem device, by default pmem0",
    "Changes nothing without --repair. Fails when something is wrong, or is left so. `records pending` are replayed by the next mount.\n\
     --repair mends what it can and tells each repair: what is damaged is cleared, files without a name go to /lost+found.",
    fsck,
);

fn fsck(machine: &Arc<Machine>, args: &mut Args, out: &Out) -> Done {
    let repair = args.flag("--repair");
    let device = device(machine, args)?;
    args.end()?;
    let name = device.name;
    let what = || format!("fsck {name}");
    let _steady = machine.steady();
    unused(machine, device, what)?;
    let done = match repair {
        true => mend(machine, device, out)?,
        false => RepairReport {
            after: fs::fsck(&*device.memory),
            ..RepairReport::default()
        },
    };
    let mut fields = told(name, &done.after, out);
    if repair {
        fields.insert(1, ("repaired", done.repaired.into()));
    }
    out.record(fields);
    match (done.stopped, done.after.problems.len()) {
        (_, 0) => Ok(()),
        (Some(why), _) => Err(why).on(what),
        (None, left) if repair => Err(Left(left)).on(what),
        (None, found) => Err(Unsound(found)).on(what),
    }
}

/// Repairs, and tells each repair. Under the volume lock.
fn mend(machine: &Machine, device: &Device, out: &Out) -> Result<RepairReport, CommandError> {
    let name = device.name;
    let report = machine.repair(device).on(|| format!("fsck {name}"))?;
    for fix in &report.fixes {
        let fields = vec![("name", name.into()), ("repair", fix.to_string().into())];
        out.say(fields, format_args!("{name}: repaired: {fix}"));
    }
    let untold = report.repaired - report.fixes.len() as u64;
    if untold > 0 {
        let fields = vec![("name", name.into()), ("more_repairs", untold.into())];
        out.say(fields, format_args!("{name}: and {untold} more repairs"));
    }
    Ok(report)
}

/// Tells each problem; returns what was counted.
fn told(name: &'static str, report: &FsckReport, out: &Out) -> Fields {
    for problem in &report.problems {
        let fields = vec![
            ("name", name.into()),
            ("problem", problem.to_string().into()),
        ];
        out.say(fields, format_args!("{name}: {problem}"));
    }
    vec![
        ("name", name.into()),
        ("problems", report.problems.len().into()),
        ("files", report.files.into()),
        ("directories", report.dirs.into()),
        ("orphans", report.orphans.into()),
        ("blocks_used", report.blocks_used.into()),
        ("blocks", report.blocks.into()),
        ("records_pending", report.pending.into()),
        ("records_torn", report.torn.into()),
    ]
}
