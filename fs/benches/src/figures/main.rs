//! Prints what the file system costs on this machine, and what others cost for the same work through system calls.
//!
//! Figures to compare are taken on a machine that does nothing else; the tables say how busy it was, and how far they spread.

mod copies;
mod mount;
mod operations;
mod peer;
mod timing;
mod units;

use std::path::PathBuf;

use anyhow::Context;
use clap::Parser;
use serde::Serialize;

use peer::PeerArg;

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum Part {
    /// Single operations, and the same on each peer.
    Operations,
    /// Bandwidth of write, and of plain copies to the same memory.
    Copies,
    /// Mounts of a million inodes.
    Mount,
}

/// What the file system costs on this machine, against others.
#[derive(Parser)]
struct Arguments {
    /// A folder of another file system to compare with; a label that ends in "+fsync" is made durable after each operation.
    #[arg(long = "peer", value_name = "LABEL=FOLDER")]
    peers: Vec<PeerArg>,
    /// Measure only this; all by default.
    #[arg(long)]
    only: Vec<Part>,
    /// Write the figures there, for programs; "-" is the standard output, and no tables then.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
}

/// All figures.
#[derive(Serialize)]
struct Figures {
    machine: Machine,
    #[serde(skip_serializing_if = "Option::is_none")]
    operations: Option<operations::Figures>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    copies: Vec<copies::Row>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    mount: Vec<mount::Row>,
    /// When all was done: the one in `machine` is from before.
    load_after: String,
}

/// Where the figures are from.
#[derive(Serialize)]
struct Machine {
    cpu: String,
    cpus: usize,
    /// How a line is written back.
    write_back: String,
    /// How a line is stored past the caches.
    past_the_caches: String,
    kernel: String,
    /// Load averages.
    load: String,
}

fn load() -> String {
    let all = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    all.split(' ').take(3).collect::<Vec<_>>().join(" ")
}

impl Machine {
    fn here() -> Self {
        let info = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        let name = info
            .lines()
            .find_map(|line| line.strip_prefix("model name"));
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            cpu: name
                .unwrap_or("unknown")
                .trim_matches([' ', '\t', ':'])
                .into(),
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            write_back: format!("{:?}", dax::pmem::FlushOp::of_this_cpu()).to_lowercase(),
            past_the_caches: format!("{:?}", dax::pmem::StreamOp::of_this_cpu()).to_lowercase(),
            kernel: kernel.trim().into(),
            load: load(),
        }
    }
}

/// Says on the standard error what goes on.
fn progress(what: &str) {
    eprintln!("... {what}");
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let wants = |part| arguments.only.is_empty() || arguments.only.contains(&part);
    let machine = Machine::here();
    let mut figures = Figures {
        machine,
        operations: None,
        copies: Vec::new(),
        mount: Vec::new(),
        load_after: String::new(),
    };
    if wants(Part::Operations) {
        figures.operations = Some(operations::measure(&arguments.peers)?);
    }
    if wants(Part::Copies) {
        figures.copies = copies::measure();
    }
    if wants(Part::Mount) {
        figures.mount = mount::measure();
    }
    figures.load_after = load();
    match arguments.json.as_deref() {
        Some(file) if file.as_os_str() == "-" => {
            serde_json::to_writer_pretty(std::io::stdout(), &figures)?;
            println!();
        }
        file => {
            figures.print();
            if let Some(file) = file {
                let json = serde_json::to_vec_pretty(&figures)?;
                std::fs::write(file, json)
                    .with_context(|| format!("writing {}", file.display()))?;
            }
        }
    }
    Ok(())
}

impl Figures {
    fn print(&self) {
        let machine = &self.machine;
        println!(
            "{}, {} CPUs, {}, {}, Linux {}; load {} before, {} after\n",
            machine.cpu,
            machine.cpus,
            machine.write_back,
            machine.past_the_caches,
            machine.kernel,
            machine.load,
            self.load_after
        );
        if let Some(operations) = &self.operations {
            operations.print();
        }
        copies::print(&self.copies);
        mount::print(&self.mount);
    }
}
