//! `threads`, `locks`, `uptime`, `mem`, `tour`, `poweroff`, `panic`.

use super::{Done, command};
use crate::machine::Machine;
use crate::shell::{Args, Command, CommandError, On, Out, Table, Value};
use crate::thread::{self, ThreadInfo};
use crate::{mem, tour};
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec;
use alloc::vec::Vec;
use mm::sync::Taken;

pub const THREADS: Command<Machine> =
    command("threads", "", "lists the kernel's threads", "", threads);
pub const LOCKS: Command<Machine> = command(
    "locks",
    "",
    "shows which threads hold which sleeping locks",
    "The order of locks is checked in debug kernels, where a violation is a panic: a machine that runs has had none.",
    locks,
);
pub const UPTIME: Command<Machine> = command("uptime", "", "shows the time since boot", "", uptime);
pub const MEM: Command<Machine> = command("mem", "", "shows the use of RAM", "", memory);
pub const TOUR: Command<Machine> = command(
    "tour",
    "",
    "shows, step by step, why a truncate must wait for DMA",
    "Uses the mounted file system, or mounts or makes one on region 0. Removes its files afterwards.",
    show_tour,
);
pub const POWEROFF: Command<Machine> = command(
    "poweroff",
    "",
    "unmounts and ends the machine",
    "Commands after it do not run.",
    poweroff,
);
pub const PANIC: Command<Machine> = command(
    "panic",
    "",
    "panics, to see what that looks like",
    "",
    panic,
);

/// All threads, in the order of their numbers.
fn all_threads() -> Result<Vec<ThreadInfo>, CommandError> {
    let mut list = thread::threads().on(|| "threads")?;
    list.sort_unstable_by_key(|t| t.id);
    Ok(list)
}

/// The locks that a thread holds, each as `of` shows it.
fn held(thread: &ThreadInfo, of: fn(&Taken) -> Value) -> Value {
    Value::List(thread.held.iter().map(of).collect())
}

fn threads(_: &Arc<Machine>, args: &mut Args, out: &Out) -> Done {
    args.end()?;
    let mut table = Table::new(
        &[
            "thread", "name", "state", "cpu", "ran_us", "switches", "held",
        ],
        "no threads",
    );
    for t in all_threads()? {
        let state = format!("{:?}", t.state).to_lowercase();
        let state = state.split('(').next().unwrap_or_default().to_string();
        let ran = Value::Micros(t.ran_us);
        table.row([
            t.id.get().into(),
            t.name.to_string().into(),
            state.into(),
            t.cpu.into(),
            ran,
            t.switches.into(),
            held(&t, |lock| lock.class.name.into()),
        ]);
    }
    out.table(table);
    Ok(())
}

fn locks(_: &Arc<Machine>, args: &mut Args, out: &Out) -> Done {
    args.end()?;
    let threads = all_threads()?;
    let holding: Vec<_> = threads.iter().filter(|t| !t.held.is_empty()).collect();
    if !holding.is_empty() {
        let mut table = Table::new(&["thread", "name", "held"], "");
        for t in &holding {
            table.row([
                t.id.get().into(),
                t.name.to_string().into(),
                held(t, |lock| format!("{} at {}", lock.class, lock.place).into()),
            ]);
        }
        out.table(table);
    }
    let checked = cfg!(debug_assertions);
    let fields = vec![
        ("threads", threads.len().into()),
        ("holding", holding.len().into()),
        ("checked", checked.into()),
        ("violations", 0_u32.into()),
    ];
    let order = if checked {
        "checked, no violation"
    } else {
        "not checked in a release kernel"
    };
    out.say(
        fields,
        format_args!(
            "{} of {} threads hold a sleeping lock; lock order: {order}",
            holding.len(),
            threads.len()
        ),
    );
    Ok(())
}

fn uptime(_: &Arc<Machine>, args: &mut Args, out: &Out) -> Done {
    args.end()?;
    let up = mm::sync::now_us();
    let cpus = crate::cpu::online();
    let shown: Vec<String> = thread::idle_us().map(|idle| percent(idle, up)).collect();
    let idle = thread::idle_us().map(Value::Micros).collect();
    let up = Value::Micros(up);
    out.say(
        vec![
            ("uptime_us", up.clone()),
            ("cpus", cpus.into()),
            ("idle_us", Value::List(idle)),
        ],
        format_args!(
            "up {up}, {cpus} CPU{}, idle {}",
            if cpus == 1 { "" } else { "s" },
            shown.join(" ")
        ),
    );
    Ok(())
}

/// `part` of `whole` in percent, as text.
fn percent(part: u64, whole: u64) -> String {
    format!("{}%", part.min(whole) * 100 / whole.max(1))
}

fn memory(_: &Arc<Machine>, args: &mut Args, out: &Out) -> Done {
    args.end()?;
    let t = mem::totals();
    out.record(vec![
        ("ram", Value::Bytes(t.ram)),
        ("managed", Value::Bytes(t.managed)),
        ("free", Value::Bytes(t.free)),
        ("heap", Value::Bytes(t.heap)),
        ("heap_used", Value::Bytes(t.heap_used)),
    ]);
    Ok(())
}

fn show_tour(machine: &Arc<Machine>, args: &mut Args, out: &Out) -> Done {
    args.end()?;
    tour::run(machine, out).on(|| "tour")
}

fn poweroff(machine: &Arc<Machine>, args: &mut Args, _: &Out) -> Done {
    args.end()?;
    machine.end();
    Ok(())
}

fn panic(_: &Arc<Machine>, args: &mut Args, _: &Out) -> Done {
    args.end()?;
    panic!("asked for by the command `panic`");
}
