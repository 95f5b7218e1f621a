//! What the kernel does once the machine is up, by its command line: the tour, the shell, or a script.

use crate::console::CONSOLE;
use crate::exit::ExitCode;
use crate::machine::Machine;
use crate::shell::edit::{Terminal, read_lines};
use crate::shell::json::to_json;
use crate::shell::{LineSink, Value, run, run_script};
use crate::{cmdline, fw_cfg, trace};
use alloc::sync::Arc;
use mm::mem::OutOfMemory;
use mm::sync::{SpinLock, Wait};
use protocol::cmdline::Mode;
use protocol::console::{BEGIN, END, TRACE};

/// Runs the session; what it returns becomes the machine's exit code.
pub fn main() -> ExitCode {
    let machine = Machine::discover();
    let sink: Arc<dyn LineSink> = Arc::new(Lines(SpinLock::new(())));
    let line = cmdline();
    let ok = match line.mode {
        Mode::Tour => show_tour(&machine, &sink, line.then_shell),
        Mode::Shell => interact(&machine, &sink),
        Mode::Exec => exec(&machine, &sink),
        Mode::Bench => run(&machine, "bench", &sink),
    };
    let left_well = leave(&machine);
    if ok && left_well {
        ExitCode::Success
    } else {
        ExitCode::Failed
    }
}

/// Leaves the media with nothing to replay. A file system that is still in use is left as after a power failure, which
/// loses nothing.
fn leave(machine: &Machine) -> bool {
    if let Some(mounted) = machine.mounted()
        && let Err(e) = mounted.fs.sync()
    {
        log::error!("the file system could not be made durable: {e}");
        return false;
    }
    if let Err(e) = machine.umount() {
        log::info!("not unmounted: {e}");
    }
    true
}

fn show_tour(machine: &Arc<Machine>, sink: &Arc<dyn LineSink>, then_shell: bool) -> bool {
    let ok = run(machine, "tour", sink);
    if then_shell {
        interact(machine, sink)
    } else {
        ok
    }
}

/// The shell on the console. Commands that fail say so there; the session as a whole is well.
fn interact(machine: &Arc<Machine>, sink: &Arc<dyn LineSink>) -> bool {
    sink.line("Holdfast: `help` lists the commands, `poweroff` ends the machine.");
    read_lines(Console, "holdfast> ", |line| {
        run(machine, line, sink);
        !machine.has_ended()
    });
    true
}

/// Runs the script that the host handed over, its output between two marks.
fn exec(machine: &Arc<Machine>, sink: &Arc<dyn LineSink>) -> bool {
    let script = fw_cfg::read_text(fw_cfg::SCRIPT);
    let traced = cmdline().trace;
    if traced && trace::start().is_err() {
        log::error!("no memory for the event trace");
    }
    sink.line(BEGIN);
    let ok = match script {
        Ok(script) => run_script(machine, &script, sink),
        Err(e) => {
            sink.line(&alloc::format!("error: script: {e} (pass one with exec)"));
            false
        }
    };
    if traced {
        hand_over_trace(sink);
    }
    sink.line(&alloc::format!("{END} {}", u8::from(!ok)));
    ok
}

/// Every event that the rings hold, as a line that is not output.
fn hand_over_trace(sink: &Arc<dyn LineSink>) {
    mm::trace::stop();
    match mm::trace::last(usize::MAX, |_| true) {
        Ok(events) => events.iter().for_each(|event| {
            let json = to_json(&Value::Object(trace::fields(event)));
            sink.line(&alloc::format!("{TRACE}{json}"));
        }),
        Err(OutOfMemory) => log::error!("no memory for the list of events"),
    }
}

/// Whole lines to the console.
struct Lines(SpinLock<()>);

impl LineSink for Lines {
    fn line(&self, line: &str) {
        // The console's own lock covers short pieces only; this one keeps a long line together.
        let _whole = self.0.lock();
        crate::println!("{line}");
    }
}

/// The console as the line editor sees it.
struct Console;

impl Terminal for Console {
    fn read(&mut self, deadline_us: Option<u64>) -> Option<u8> {
        let wait = deadline_us.map_or(Wait::forever(), Wait::until);
        CONSOLE.read(&wait).ok()
    }

    fn write(&mut self, bytes: &[u8]) {
        CONSOLE.write(bytes);
    }
}
