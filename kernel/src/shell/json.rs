//! JSON (RFC 8259) from [`Value`]s.

use super::out::{Fields, Value};
use alloc::string::String;
use core::fmt::Write;

/// The value as one line of JSON: no blanks, numbers exact, strings escaped.
#[must_use]
pub fn to_json(value: &Value) -> String {
    let mut json = String::new();
    write_value(&mut json, value);
    json
}

fn write_value(json: &mut String, value: &Value) {
    match value {
        Value::None => json.push_str("null"),
        Value::Bool(b) => json.push_str(if *b { "true" } else { "false" }),
        Value::Count(n) | Value::Bytes(n) | Value::Hex(n) | Value::Micros(n) => {
            write_number(json, *n)
        }
        Value::Thousandths(n) => {
            // Writing to a String cannot fail.
            let _ = write!(json, "{}.{:03}", n / 1000, n % 1000);
        }
        Value::Text(s) => write_string(json, s),
        Value::List(list) => write_list(json, list),
        Value::Object(fields) => write_object(json, fields),
    }
}

fn write_number(json: &mut String, n: u64) {
    // Writing to a String cannot fail.
    let _ = write!(json, "{n}");
}

fn write_list(json: &mut String, list: &[Value]) {
    json.push('[');
    for (i, value) in list.iter().enumerate() {
        json.push_str(if i > 0 { "," } else { "" });
        write_value(json, value);
    }
    json.push(']');
}

fn write_object(json: &mut String, fields: &Fields) {
    json.push('{');
    for (i, (key, value)) in fields.iter().enumerate() {
        json.push_str(if i > 0 { "," } else { "" });
        write_string(json, key);
        json.push(':');
        write_value(json, value);
    }
    json.push('}');
}

fn write_string(json: &mut String, s: &str) {
    json.push('"');
    s.chars().for_each(|c| write_char(json, c));
    json.push('"');
}

fn write_char(json: &mut String, c: char) {
    match c {
        '"' => json.push_str("\\\""),
        '\\' => json.push_str("\\\\"),
        '\n' => json.push_str("\\n"),
        '\r' => json.push_str("\\r"),
        '\t' => json.push_str("\\t"),
        // DEL and the C1 controls are legal in JSON, but a terminal acts on them.
        c if c.is_control() => {
            let _ = write!(json, "\\u{:04x}", u32::from(c));
        }
        c => json.push(c),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    /// What another implementation must read back.
    fn expected(value: &Value) -> serde_json::Value {
        match value {
            Value::None => serde_json::Value::Null,
            Value::Bool(b) => (*b).into(),
            Value::Count(n) | Value::Bytes(n) | Value::Hex(n) | Value::Micros(n) => (*n).into(),
            Value::Thousandths(n) => (*n as f64 / 1000.0).into(),
            Value::Text(s) => s.as_ref().into(),
            Value::List(l) => l.iter().map(expected).collect::<Vec<_>>().into(),
            Value::Object(f) => f
                .iter()
                .map(|(k, v)| ((*k).into(), expected(v)))
                .collect::<serde_json::Map<_, _>>()
                .into(),
        }
    }

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::None),
            any::<bool>().prop_map(Value::Bool),
            any::<u64>().prop_map(Value::Count),
            any::<u32>().prop_map(|n| Value::Thousandths(n.into())),
            ".*".prop_map(Value::from),
            "[\"\\\\\\x00-\\x1f\\x7f-\\u{9f}]*".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::List),
                (inner.clone(), inner)
                    .prop_map(|(a, b)| Value::Object([("a", a), ("b_c", b)].into())),
            ]
        })
    }

    proptest! {
        #[test]
        fn another_reader_reads_back_what_was_written_on_one_line(value in any_value()) {
            let json = to_json(&value);
            prop_assert!(!json.contains(char::is_control));
            prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&json).unwrap(), expected(&value));
        }
    }
}
