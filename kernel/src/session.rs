//! What the kernel does once the machine is up, by its command line: the tour, the shell, or a script.

use crate::console::CONSOLE;
use crate::exit::ExitCode;
use crate::machine::Machine;
use crate::shell::edit::{Terminal, read_lines};
use crate::shell::{LineSink, run, run_script};
use crate::{cmdline, fw_cfg};
use alloc::sync::Arc;
use mm::sync::{SpinLock, Wait};
use protocol::cmdline::Mode;
use protocol::console::{BEGIN, END};

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
    sink.line(BEGIN);
    let ok = match script {
        Ok(script) => run_script(machine, &script, sink),
        Err(e) => {
            sink.line(&alloc::format!("error: script: {e} (pass one with exec)"));
            false
        }
    };
    sink.line(&alloc::format!("{END} {}", u8::from(!ok)));
    ok
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
