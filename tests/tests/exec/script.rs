//! Scripts whose answers are told apart: between two commands stands one whose answer is known.

use libtest_mimic::Failed;
use serde_json::Value;
use tests::driver::{Ran, exec};

const MARK: &str = "help sleep --json";
const MARKED: &str = r#"{"usage":"sleep MS","summary":"waits that many milliseconds","help":""}"#;

/// What a script did.
pub struct Told {
    /// What each command printed, in order; a job's lines stand where they came.
    pub answers: Vec<String>,
    /// The whole run.
    pub ran: Ran,
}

impl Told {
    /// The objects that a command printed.
    pub fn objects(&self, command: usize) -> Result<Vec<Value>, Failed> {
        let answer = self.answers.get(command).map_or("", String::as_str);
        let lines = answer.lines().map(serde_json::from_str);
        let parsed: Result<_, _> = lines.collect();
        parsed.map_err(|why| format!("command {command}: {why}: {answer:?}: {:?}", self.ran).into())
    }

    /// The only object that a command printed.
    pub fn object(&self, command: usize) -> Result<Value, Failed> {
        match &self.objects(command)?[..] {
            [object] => Ok(object.clone()),
            other => Err(format!("command {command}: wanted one object, got {other:?}").into()),
        }
    }
}

/// Runs commands on one machine. A file holds the script: it may be longer than a command line.
pub fn tell(options: &[&str], commands: &[impl AsRef<str>]) -> Result<Told, Failed> {
    let mut script = String::new();
    for command in commands {
        let command = command.as_ref();
        let end = if command.ends_with('&') { "" } else { ";" };
        script += &format!("{command} {end}{MARK}\n");
    }
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("script");
    std::fs::write(&file, script)?;
    let words = ["exec", "--file", &file.display().to_string()];
    let ran = tests::driver::holdfast(&[options, &words].concat())?;
    let mut answers = vec![String::new()];
    for line in ran.stdout.lines() {
        match line == MARKED {
            true => answers.push(String::new()),
            false => *answers.last_mut().ok_or("no answer")? += &format!("{line}\n"),
        }
    }
    answers.pop();
    match answers.len() == commands.len() {
        true => Ok(Told { answers, ran }),
        false => Err(format!("{} answers: {ran:?}", answers.len()).into()),
    }
}

/// Runs commands on one machine, and compares each answer and the exit code: an answer must have the part that stands beside the
/// command, and must be an error when, and only when, that part begins with `error`.
pub fn expect(options: &[&str], code: i32, pairs: &[(&str, &str)]) -> Result<Told, Failed> {
    let commands: Vec<&str> = pairs.iter().map(|pair| pair.0).collect();
    let told = tell(options, &commands)?;
    let wrong: Vec<String> = pairs
        .iter()
        .zip(&told.answers)
        .filter(|((_, part), answer)| !has(answer, part))
        .map(|((command, part), answer)| format!("{command}: wanted {part:?}, got {answer:?}"))
        .collect();
    match wrong.is_empty() && told.ran.code == Some(code) {
        true => Ok(told),
        false => Err(format!("{}\n{:?}", wrong.join("\n"), told.ran).into()),
    }
}

fn has(answer: &str, part: &str) -> bool {
    let error = answer.contains("error: ") || answer.contains("{\"error\":");
    match part.strip_prefix("error") {
        Some(rest) => error && answer.contains(rest.trim_start_matches(": ")),
        None => !error && answer.contains(part),
    }
}

/// Runs one script as it is.
pub fn raw(script: &str, code: i32, part: &str) -> Result<(), Failed> {
    let ran = exec(&[], script)?;
    match ran.code == Some(code) && ran.stdout.contains(part) {
        true => Ok(()),
        false => Err(format!("{script:?}: wanted {code} and {part:?}: {ran:?}").into()),
    }
}

/// Fails, naming the fact, unless it is so.
pub fn check(fact: &str, is_so: bool, told: &Told) -> Result<(), Failed> {
    match is_so {
        true => Ok(()),
        false => Err(format!("not so: {fact}: {:?}", told.ran).into()),
    }
}

/// CRC-32C, in the digits of `sum`.
pub fn crc32c(bytes: &[u8]) -> String {
    let crc = crc::Crc::<u32>::new(&crc::CRC_32_ISCSI).checksum(bytes);
    format!("{crc:08x}")
}

/// What a scratch disk holds from a sector on.
pub fn pattern(sector: u64, bytes: u64) -> Vec<u8> {
    let offsets = (sector * 512..sector * 512 + bytes).step_by(8);
    offsets
        .flat_map(|at| protocol::pattern::word(at).to_le_bytes())
        .collect()
}
