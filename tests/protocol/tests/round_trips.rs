//! Both directions of each format agree.

use protocol::case::{Case, Listed};
use protocol::cmdline::{CommandLine, Mode};
use protocol::console::Line;
use protocol::control::{FromGuest, FromHost, Unescaped};
use protocol::exit::Exit;
use protocol::pattern;

#[test]
fn a_message_with_newlines_stays_on_one_line_and_comes_back() {
    let text = "at a.rs:1\nleft \\ right\r\n";
    let line = FromGuest::Panic(text).to_string();
    assert!(!line.contains(['\n', '\r']));
    let Some(FromGuest::Panic(escaped)) = FromGuest::parse(&line) else {
        panic!("{line}")
    };
    assert_eq!(Unescaped(escaped).to_string(), text);
}

#[test]
fn an_empty_log_message_comes_back() {
    assert_eq!(
        FromGuest::parse(&FromGuest::Log("").to_string()),
        Some(FromGuest::Log(""))
    );
}

#[test]
fn orders_come_back() {
    for order in [FromHost::Run(0), FromHost::Run(u32::MAX), FromHost::Exit] {
        assert_eq!(FromHost::parse(&order.to_string()), Some(order));
    }
    assert_eq!(FromHost::parse("run"), None);
    assert_eq!(FromHost::parse("run x"), None);
}

#[test]
fn a_command_line_comes_back_and_unknown_words_are_told() {
    let line = CommandLine {
        mode: Mode::Exec,
        then_shell: true,
        log: "debug",
        trace: true,
    };
    let text = format!("{line} colour=blue then=dinner");
    let mut unknown = Vec::new();
    assert_eq!(CommandLine::parse(&text, |w| unknown.push(w)), line);
    assert_eq!(unknown, ["colour=blue", "then=dinner"]);
}

#[test]
fn exit_statuses_are_odd_and_come_back() {
    for exit in [Exit::Success, Exit::Failed, Exit::Panicked] {
        assert_eq!(exit.qemu_status() & 1, 1);
        assert_eq!(Exit::from_qemu_status(exit.qemu_status()), Some(exit));
    }
    assert_eq!(Exit::from_qemu_status(0), None);
    assert_eq!(Exit::from_qemu_status(1), None);
}

#[test]
fn the_pattern_is_each_words_offset_xor_the_key() {
    let mut buf = [0; 64];
    pattern::fill(4096, &mut buf);
    assert_eq!(buf[8..16], (4104u64 ^ pattern::KEY).to_le_bytes());
    assert_eq!(pattern::first_difference(4096, &buf), None);
    assert_eq!(pattern::first_difference(4104, &buf), Some(0));
    buf[33] ^= 1;
    assert_eq!(pattern::first_difference(4096, &buf), Some(33));
}

#[test]
fn the_pattern_at_an_odd_offset_is_the_same_disk() {
    let (mut whole, mut part) = ([0; 32], [0; 13]);
    pattern::fill(0, &mut whole);
    pattern::fill(5, &mut part);
    assert_eq!(whole[5..18], part);
}

#[test]
fn console_lines_are_told_apart() {
    assert_eq!(Line::parse("\u{1}BEGIN\r"), Line::Begin);
    assert_eq!(Line::parse("\u{1}END 1"), Line::End(Some(1)));
    assert_eq!(Line::parse("\u{1}END"), Line::End(None));
    assert_eq!(Line::parse("\u{2}warn: x"), Line::Log("warn: x"));
    assert_eq!(Line::parse(" \u{1}BEGIN"), Line::Text(" \u{1}BEGIN"));
}

#[test]
fn a_record_without_its_magic_is_no_case() {
    assert_eq!(Listed::parse(&[0; protocol::case::RECORD]), None);
    assert_eq!(Listed::parse(&[]), None);
    assert_eq!(size_of::<Case>(), protocol::case::RECORD);
    assert_eq!(
        protocol::case::RECORD % 8,
        0,
        "records must lie side by side"
    );
}
