//! TOML.

use toml::Spanned;
use toml::de::{DeTable, DeValue};

use super::SyntaxError;
use crate::config::tree::{Entry, Number, Tree, Value};

pub(super) fn parse(text: &str) -> Result<Tree, Vec<SyntaxError>> {
    // It limits the depth itself, at 80.
    let (table, errors) = DeTable::parse_recoverable(text);
    if errors.is_empty() {
        let span = table.span();
        return Ok(Tree {
            span: Some(span),
            value: map(text, table.into_inner())?,
        });
    }
    let errors = errors.into_iter().map(|error| {
        let span = error.span().unwrap_or_default();
        SyntaxError {
            message: message(error.message(), text.get(span.start..).unwrap_or_default()),
            span,
        }
    });
    Err(errors.collect())
}

fn message(message: &str, rest: &str) -> String {
    let word = rest.starts_with(|c: char| c.is_alphabetic());
    // A word without quotes is taken for a number, a boolean or a table's key, whichever its first letter allows.
    if word && (message.starts_with("invalid ") || message.starts_with("string values")) {
        return "text needs quotes".into();
    }
    message.to_owned()
}

fn map(text: &str, table: DeTable<'_>) -> Result<Value, Vec<SyntaxError>> {
    let mut entries = Vec::with_capacity(table.len());
    for (key, value) in table {
        entries.push(Entry {
            key_span: Some(key.span()),
            key: key.into_inner().into_owned(),
            value: tree(text, value)?,
        });
    }
    // As they were written, so that what is wrong is told from the top.
    entries.sort_by_key(|entry| entry.key_span.clone().unwrap_or_default().start);
    Ok(Value::Map(entries))
}

fn tree(text: &str, value: Spanned<DeValue<'_>>) -> Result<Tree, Vec<SyntaxError>> {
    let span = value.span();
    let raw = text.get(span.clone()).unwrap_or_default();
    let wrong = |message: &str| {
        Err(vec![SyntaxError {
            span: span.clone(),
            message: message.to_owned(),
        }])
    };
    let value = match value.into_inner() {
        DeValue::String(text) => Value::Text(text.into_owned()),
        DeValue::Integer(number) => {
            let digits = number.as_str();
            if let Ok(number) = u64::from_str_radix(digits, number.radix()) {
                Value::Number(Number::Unsigned(number), number.to_string())
            } else if let Ok(number) = i64::from_str_radix(digits, number.radix()) {
                Value::Number(Number::Signed(number), number.to_string())
            } else {
                return wrong("a number that is too large");
            }
        }
        DeValue::Float(number) => match number.as_str().parse() {
            Ok(number) => Value::Number(Number::Float(number), raw.to_owned()),
            Err(_) => return wrong("not a number"),
        },
        DeValue::Boolean(value) => Value::Bool(value),
        DeValue::Datetime(_) => Value::Text(raw.to_owned()),
        DeValue::Array(items) => Value::Seq(
            items
                .into_iter()
                .map(|item| tree(text, item))
                .collect::<Result<_, _>>()?,
        ),
        DeValue::Table(table) => map(text, table)?,
    };
    Ok(Tree {
        span: Some(span),
        value,
    })
}
