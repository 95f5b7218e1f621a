//! `pmem remove`, `pmem add`: a device goes out of service, and comes back.

use super::volume::device;
use super::{Done, cut};
use crate::machine::{Machine, Removed};
use crate::shell::{Args, On, Out, Value};
use alloc::format;
use alloc::sync::Arc;
use alloc::vec;
use dax::layout::How;
use mm::sync::Wait;

/// `pmem remove [PMEM] [--nowait] [--timeout MS]`; the first word is taken.
pub fn remove(machine: &Arc<Machine>, args: &mut Args, out: &Out) -> Done {
    let wait = match cut::how(args)? {
        How::NoWait => Wait::until(0),
        How::Wait(wait) => wait,
    };
    let device = device(machine, args)?;
    args.end()?;
    let removed = machine.remove_device(device, &wait);
    let Removed {
        name,
        took_us,
        file_system,
    } = removed.on(|| format!("pmem remove {}", device.name))?;
    let took = Value::Micros(took_us);
    let fields = vec![
        ("name", name.into()),
        ("took_us", took.clone()),
        ("file_system", file_system.into()),
    ];
    let with = if file_system {
        " with its file system"
    } else {
        ""
    };
    out.say(fields, format_args!("{name}: removed{with} after {took}"));
    Ok(())
}

/// `pmem add [PMEM]`; the first word is taken.
pub fn add(machine: &Arc<Machine>, args: &mut Args, out: &Out) -> Done {
    let device = device(machine, args)?;
    args.end()?;
    let name = device.name;
    machine
        .add_device(device)
        .on(|| format!("pmem add {name}"))?;
    out.say(
        vec![("name", name.into())],
        format_args!("{name}: back in service"),
    );
    Ok(())
}
