//! The user's keyboard, handed to the guest's shell.
//!
//! On a terminal every key goes through as it is, Ctrl-C included; Ctrl-A is ours: Ctrl-A X leaves, Ctrl-A A sends a Ctrl-A. Elsewhere
//! the bytes go through unchanged, and their end becomes a Ctrl-D, at which the guest's shell ends.

use std::io::{IsTerminal, Read, Write, stdin};

use nix::sys::termios::{InputFlags, LocalFlags, SetArg, Termios, tcgetattr, tcsetattr};

use crate::qemu::{Leaver, write_now};

const CTRL_A: u8 = 1;
const CTRL_D: u8 = 4;

/// While it lives, standard input delivers each key at once, without echo and without signals; output stays as it was.
#[derive(Debug)]
pub struct RawTerminal {
    before: Termios,
}

impl RawTerminal {
    /// Makes standard input raw; `None` when it is no terminal.
    pub fn enter() -> Option<Self> {
        let before = tcgetattr(stdin()).ok()?;
        let mut raw = before.clone();
        raw.input_flags &=
            !(InputFlags::ICRNL | InputFlags::IXON | InputFlags::INLCR | InputFlags::BRKINT);
        raw.local_flags &=
            !(LocalFlags::ICANON | LocalFlags::ECHO | LocalFlags::ISIG | LocalFlags::IEXTEN);
        tcsetattr(stdin(), SetArg::TCSANOW, &raw).ok()?;
        Some(Self { before })
    }
}

impl Drop for RawTerminal {
    fn drop(&mut self) {
        let _ = tcsetattr(stdin(), SetArg::TCSANOW, &self.before); // nothing better can be done about a failure
    }
}

/// What one key press does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Key {
    Send(u8),
    Hold,
    Leave,
}

/// Finds the Ctrl-A commands among the keys.
#[derive(Debug, Default)]
struct Escape {
    after_ctrl_a: bool,
}

impl Escape {
    fn key(&mut self, byte: u8) -> Key {
        match (std::mem::take(&mut self.after_ctrl_a), byte) {
            (false, CTRL_A) => {
                self.after_ctrl_a = true;
                Key::Hold
            }
            (true, b'x' | b'X') => Key::Leave,
            (true, b'a' | b'A' | CTRL_A) => Key::Send(CTRL_A),
            (true, _) => Key::Hold,
            (false, byte) => Key::Send(byte),
        }
    }
}

/// The question for the cursor's position, by which the guest's shell finds out whether it talks to a terminal.
const QUESTION: &[u8] = b"\x1b[6n";

/// Takes that question out of a stream that no terminal sees.
#[derive(Debug, Default)]
pub struct Question {
    matched: usize,
    asked: bool,
}

impl Question {
    /// The bytes without the question; the begin of one is held back until the next bytes tell.
    pub fn take_out(&mut self, bytes: Vec<u8>) -> Vec<u8> {
        let mut rest = Vec::with_capacity(bytes.len() + QUESTION.len());
        for byte in bytes {
            if byte != QUESTION[self.matched] {
                rest.extend(&QUESTION[..std::mem::take(&mut self.matched)]);
            }
            match byte == QUESTION[self.matched] {
                true => self.matched += 1,
                false => rest.push(byte),
            }
            if self.matched == QUESTION.len() {
                (self.matched, self.asked) = (0, true);
            }
        }
        rest
    }

    /// Whether it came.
    pub fn was_asked(&self) -> bool {
        self.asked
    }
}

/// Passes standard input on to the guest until either ends, or until Ctrl-A X, which uses `leaver`.
///
/// Runs in a thread of its own and is left behind there when the guest ends first.
pub fn pass_on(mut to: impl Write, leaver: &Leaver) {
    let mut escape = stdin().is_terminal().then(Escape::default);
    let mut buffer = [0; 256];
    while let Ok(n @ 1..) = stdin().lock().read(&mut buffer) {
        let mut keys = Vec::with_capacity(n);
        for &byte in &buffer[..n] {
            match escape.as_mut().map_or(Key::Send(byte), |e| e.key(byte)) {
                Key::Send(byte) => keys.push(byte),
                Key::Hold => {}
                Key::Leave => return leaver.leave(),
            }
        }
        if write_now(&mut to, &keys).is_err() {
            return;
        }
    }
    let _ = write_now(&mut to, &[CTRL_D]); // a guest that has ended needs no end of input
}

#[cfg(test)]
mod tests {
    use super::{CTRL_A, Escape, Key, Question};

    #[test]
    fn the_question_is_taken_out_wherever_the_pieces_end() {
        let stream = b"a\x1b[31m\x1b\x1b[6nb";
        for step in 1..stream.len() {
            let mut question = Question::default();
            let rest: Vec<u8> = stream
                .chunks(step)
                .flat_map(|c| question.take_out(c.to_vec()))
                .collect();
            assert_eq!(rest, b"a\x1b[31m\x1bb");
            assert!(question.was_asked());
        }
    }

    fn keys(bytes: &[u8]) -> Vec<Key> {
        let mut escape = Escape::default();
        bytes
            .iter()
            .map(|b| escape.key(*b))
            .filter(|k| *k != Key::Hold)
            .collect()
    }

    #[test]
    fn ctrl_a_x_leaves_and_ctrl_c_goes_through() {
        assert_eq!(
            keys(b"x\x03\x01x"),
            [Key::Send(b'x'), Key::Send(3), Key::Leave]
        );
    }

    #[test]
    fn ctrl_a_twice_sends_one() {
        assert_eq!(
            keys(b"\x01\x01x\x01ay\x01?"),
            [CTRL_A, b'x', CTRL_A, b'y'].map(Key::Send)
        );
    }
}
