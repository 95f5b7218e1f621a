//! How facts are shown: as lines for people, or one JSON object a line. Both are made from one value.

use serde_json::{Map, Value};

/// The form of the output.
#[derive(Clone, Copy, Debug)]
pub struct Form {
    json: bool,
}

impl Form {
    /// JSON, or text.
    pub const fn new(json: bool) -> Self {
        Self { json }
    }

    /// Shows facts about one thing: one line each.
    pub fn record(self, facts: &Value) {
        match facts {
            Value::Object(facts) if !self.json => {
                let width = facts.keys().map(String::len).max().unwrap_or(0);
                for (name, value) in facts {
                    println!("{:width$}  {}", words(name), text(value));
                }
            }
            facts => println!("{facts}"),
        }
    }

    /// Shows one of many things: one line.
    pub fn row(self, facts: &Value) {
        match facts {
            Value::Object(facts) if !self.json => println!("{}", line(facts)),
            facts => println!("{facts}"),
        }
    }
}

fn line(facts: &Map<String, Value>) -> String {
    let cells = facts
        .iter()
        .map(|(name, value)| format!("{} {}", words(name), text(value)));
    cells.collect::<Vec<_>>().join("  ")
}

fn words(name: &str) -> String {
    name.replace('_', " ")
}

fn text(value: &Value) -> String {
    match value {
        Value::Null => "-".into(),
        Value::String(text) => text.clone(),
        Value::Array(list) => list.iter().map(text).collect::<Vec<_>>().join(" "),
        Value::Object(facts) => line(facts),
        value => value.to_string(),
    }
}

/// Bytes as hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::{hex, text};
    use serde_json::json;

    #[test]
    fn values_read_as_people_write_them() {
        assert_eq!(text(&json!([1, null, "a"])), "1 - a");
        assert_eq!(text(&json!({"at_byte": 4096})), "at byte 4096");
        assert_eq!(hex(&[0, 0xfe]), "00fe");
    }
}
