//! What commands print: one description of each fact, shown to people as aligned text and to programs as JSON.
//!
//! A command hands [`Fields`] (keys in snake_case with typed values) to its [`Out`]; nothing is formatted twice. In JSON
//! there is one object a line, numbers are numbers in base units; as text, sizes and times are in human units. A whole line
//! goes to the sink at once, so that output of a background job never splits a line; it is marked with the job's number.

use super::number::{human_size, human_time};
use alloc::borrow::Cow;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::sync::Arc;
use alloc::vec::Vec;
use core::fmt::{self, Write};

/// A place that takes whole lines, without their line end; the lines of several threads do not mix.
pub trait LineSink: Send + Sync {
    /// Takes one line.
    fn line(&self, line: &str);
}

/// One value that a command reports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Value {
    /// Nothing to report: `-`, JSON null.
    None,
    /// yes or no.
    Bool(bool),
    /// A plain number: a count, a pfn, an index.
    Count(u64),
    /// A size in bytes; human units in text.
    Bytes(u64),
    /// An address or mask; hexadecimal in text.
    Hex(u64),
    /// A time in microseconds; human units in text.
    Micros(u64),
    /// A number with a fraction, in thousandths; one digit after the point in text.
    Thousandths(u64),
    /// A word or sentence.
    Text(Cow<'static, str>),
    /// Several values.
    List(Vec<Value>),
    /// A nested object.
    Object(Fields),
}

/// Keys in snake_case with their values, in the order of output.
pub type Fields = Vec<(&'static str, Value)>;

impl From<&'static str> for Value {
    fn from(s: &'static str) -> Self {
        Value::Text(Cow::Borrowed(s))
    }
}

impl From<String> for Value {
    fn from(s: String) -> Self {
        Value::Text(Cow::Owned(s))
    }
}

impl From<bool> for Value {
    fn from(b: bool) -> Self {
        Value::Bool(b)
    }
}

impl From<u64> for Value {
    fn from(n: u64) -> Self {
        Value::Count(n)
    }
}

impl From<u32> for Value {
    fn from(n: u32) -> Self {
        Value::Count(n.into())
    }
}

impl From<usize> for Value {
    fn from(n: usize) -> Self {
        Value::Count(n as u64)
    }
}

impl<T: Into<Value>> From<Option<T>> for Value {
    fn from(v: Option<T>) -> Self {
        v.map_or(Value::None, Into::into)
    }
}

/// Text for people.
impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::None => f.write_str("-"),
            Value::Bool(b) => f.write_str(if *b { "yes" } else { "no" }),
            Value::Count(n) => write!(f, "{n}"),
            Value::Bytes(n) => f.write_str(&human_size(*n)),
            Value::Hex(n) => write!(f, "{n:#x}"),
            Value::Micros(n) => f.write_str(&human_time(*n)),
            Value::Thousandths(n) => write!(f, "{}.{}", (n + 50) / 1000, (n + 50) % 1000 / 100),
            Value::Text(s) => f.write_str(s),
            Value::List(list) => joined(f, list.iter(), |f, v| write!(f, "{v}")),
            Value::Object(fields) => {
                joined(f, fields.iter(), |f, (k, v)| write!(f, "{} {v}", label(k)))
            }
        }
    }
}

fn joined<T>(
    f: &mut fmt::Formatter<'_>,
    items: impl Iterator<Item = T>,
    mut write: impl FnMut(&mut fmt::Formatter<'_>, T) -> fmt::Result,
) -> fmt::Result {
    for (i, item) in items.enumerate() {
        f.write_str(if i > 0 { ", " } else { "" })?;
        write(f, item)?;
    }
    Ok(())
}

/// A key as people read it. A time has a unit of its own beside it.
pub fn label(key: &str) -> String {
    key.strip_suffix("_us").unwrap_or(key).replace('_', " ")
}

/// Rows under the same keys: an aligned table as text, one object a row in JSON.
pub struct Table {
    keys: &'static [&'static str],
    rows: Vec<Vec<Value>>,
    when_empty: &'static str,
}

impl Table {
    /// An empty table with these keys; `when_empty` is the line shown as text when no row comes.
    #[must_use]
    pub fn new(keys: &'static [&'static str], when_empty: &'static str) -> Self {
        Table {
            keys,
            rows: Vec::new(),
            when_empty,
        }
    }

    /// Adds a row; a missing value shows as none, one too many is dropped.
    pub fn row(&mut self, values: impl IntoIterator<Item = Value>) {
        let mut row: Vec<Value> = values.into_iter().take(self.keys.len()).collect();
        row.resize(self.keys.len(), Value::None);
        self.rows.push(row);
    }

    fn lines(&self) -> Vec<String> {
        if self.rows.is_empty() {
            return alloc::vec![self.when_empty.to_string()];
        }
        let head = self.keys.iter().map(|k| label(k)).collect();
        let body = self
            .rows
            .iter()
            .map(|r| r.iter().map(Value::to_string).collect());
        let cells: Vec<Vec<String>> = core::iter::once(head).chain(body).collect();
        cells.iter().map(|row| self.aligned(row, &cells)).collect()
    }

    fn aligned(&self, row: &[String], cells: &[Vec<String>]) -> String {
        let mut line = String::new();
        for (col, cell) in row.iter().enumerate() {
            let width = cells
                .iter()
                .map(|r| r[col].chars().count())
                .max()
                .unwrap_or(0);
            let gap = if col > 0 { "  " } else { "" };
            let _ = match self.is_number(col) {
                true => write!(line, "{gap}{cell:>width$}"),
                false => write!(line, "{gap}{cell:<width$}"),
            };
        }
        line.truncate(line.trim_end().len());
        line
    }

    fn is_number(&self, col: usize) -> bool {
        self.rows.iter().all(|r| {
            !matches!(
                r[col],
                Value::Text(_) | Value::List(_) | Value::Object(_) | Value::Bool(_)
            )
        })
    }
}

/// Where a command's output goes and in which form.
#[derive(Clone)]
pub struct Out {
    sink: Arc<dyn LineSink>,
    json: bool,
    job: Option<u32>,
}

impl Out {
    /// Output to `sink`; `job` marks every line as a background job's.
    #[must_use]
    pub fn new(sink: Arc<dyn LineSink>, json: bool, job: Option<u32>) -> Self {
        Out { sink, json, job }
    }

    /// The command was given `--json`.
    #[must_use]
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Reports facts about one thing: lines of `key: value`, or one object.
    pub fn record(&self, fields: Fields) {
        if self.json {
            return self.object(fields);
        }
        let width = fields.iter().map(|(k, _)| label(k).len()).max();
        let width = width.unwrap_or(0);
        for (key, value) in &fields {
            self.text_line(&format!(
                "{:<w$} {value}",
                format!("{}:", label(key)),
                w = width + 1
            ));
        }
    }

    /// Reports facts about one thing in a sentence of the caller's, or as one object.
    pub fn say(&self, fields: Fields, sentence: fmt::Arguments<'_>) {
        match self.json {
            true => self.object(fields),
            false => self.text(&sentence.to_string()),
        }
    }

    /// Reports several things of one kind.
    pub fn table(&self, table: Table) {
        if !self.json {
            return table.lines().iter().for_each(|l| self.text_line(l));
        }
        let keys = table.keys;
        for row in table.rows {
            self.object(keys.iter().copied().zip(row).collect());
        }
    }

    /// Prints text of one or more lines; in JSON an object with the key `text`.
    pub fn text(&self, text: &str) {
        match self.json {
            true => self.object(alloc::vec![("text", text.to_string().into())]),
            false => text.lines().for_each(|l| self.text_line(l)),
        }
    }

    /// Prints a heading of one or more lines, in text only.
    pub fn heading(&self, text: &str) {
        if !self.json {
            text.lines().for_each(|l| self.text_line(l));
        }
    }

    fn object(&self, mut fields: Fields) {
        // A job that is itself about jobs has the key already; no object has a key twice.
        if fields.iter().all(|(key, _)| *key != "job") {
            fields.extend(self.job.map(|j| ("job", Value::from(j))));
        }
        self.sink
            .line(&super::json::to_json(&Value::Object(fields)));
    }

    fn text_line(&self, line: &str) {
        let line = &shown(line);
        match self.job {
            Some(job) => self.sink.line(&format!("[{job}] {line}")),
            None => self.sink.line(line),
        }
    }
}

/// A line without characters that a terminal acts on: a name may hold any.
fn shown(line: &str) -> Cow<'_, str> {
    let acts = |c: char| c.is_control() && c != '\t';
    if !line.contains(acts) {
        return Cow::Borrowed(line);
    }
    let mut text = String::new();
    for c in line.chars() {
        match acts(c) {
            true => text.extend(c.escape_default()),
            false => text.push(c),
        }
    }
    Cow::Owned(text)
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use alloc::vec;
    use std::sync::Mutex;

    /// Collects lines.
    #[derive(Default)]
    pub struct Lines(pub Mutex<Vec<String>>);

    impl LineSink for Lines {
        fn line(&self, line: &str) {
            self.0.lock().unwrap().push(line.into());
        }
    }

    fn printed(json: bool, job: Option<u32>, print: impl Fn(&Out)) -> Vec<String> {
        let lines = Arc::new(Lines::default());
        print(&Out::new(lines.clone(), json, job));
        core::mem::take(&mut *lines.0.lock().unwrap())
    }

    fn sample() -> Table {
        let mut t = Table::new(&["pfn", "name", "metadata_bytes"], "no pages");
        t.row([Value::Count(7), "a".into(), Value::Bytes(4096)]);
        t.row([Value::Count(1234), "long name".into(), Value::Bytes(0)]);
        t
    }

    #[test]
    fn tables_align_numbers_right_and_words_left() {
        let want = [
            " pfn  name       metadata bytes",
            "   7  a                   4 KiB",
            "1234  long name             0 B",
        ];
        assert_eq!(printed(false, None, |o| o.table(sample())), want);
    }

    #[test]
    fn a_table_in_json_is_one_object_a_row_with_numbers_in_base_units() {
        let want = [
            r#"{"pfn":7,"name":"a","metadata_bytes":4096}"#,
            r#"{"pfn":1234,"name":"long name","metadata_bytes":0}"#,
        ];
        assert_eq!(printed(true, None, |o| o.table(sample())), want);
    }

    #[test]
    fn an_empty_table_says_so_to_people_and_nothing_to_programs() {
        let empty = |o: &Out| o.table(Table::new(&["pfn"], "no pages"));
        assert_eq!(printed(false, None, empty), ["no pages"]);
        assert!(printed(true, None, empty).is_empty());
    }

    #[test]
    fn records_align_their_keys() {
        let fields = || {
            vec![
                ("pfn", Value::Count(9)),
                ("waited_us", Value::Micros(1500)),
                ("owner", Value::None),
            ]
        };
        assert_eq!(
            printed(false, None, |o| o.record(fields())),
            ["pfn:    9", "waited: 1.500 ms", "owner:  -"]
        );
        assert_eq!(
            printed(true, None, |o| o.record(fields())),
            [r#"{"pfn":9,"waited_us":1500,"owner":null}"#]
        );
    }

    #[test]
    fn fractions_show_one_digit_rounded_and_keep_three() {
        let text = |n| Value::Thousandths(n).to_string();
        assert_eq!(
            [text(19_949), text(19_950), text(49)],
            ["19.9", "20.0", "0.0"]
        );
        let row = |o: &Out| o.record(vec![("per_op", Value::Thousandths(19_007))]);
        assert_eq!(printed(true, None, row), [r#"{"per_op":19.007}"#]);
    }

    #[test]
    fn what_a_terminal_acts_on_is_shown_and_not_done() {
        let table = |o: &Out| {
            let mut t = Table::new(&["name"], "");
            t.row(["a\u{1b}[2J\nb".into()]);
            o.table(t);
        };
        let lines = printed(false, None, table);
        assert_eq!(lines, ["name", "a\\u{1b}[2J\\nb"]);
    }

    #[test]
    fn no_object_has_a_key_twice() {
        let row = |o: &Out| o.record(vec![("job", 1u32.into())]);
        assert_eq!(printed(true, Some(2), row), [r#"{"job":1}"#]);
    }

    #[test]
    fn a_background_job_marks_its_lines_and_its_objects() {
        let say = |o: &Out| {
            o.say(
                vec![("retries", 3u64.into())],
                format_args!("done\nafter 3"),
            )
        };
        assert_eq!(printed(false, Some(2), say), ["[2] done", "[2] after 3"]);
        assert_eq!(printed(true, Some(2), say), [r#"{"retries":3,"job":2}"#]);
    }
}
