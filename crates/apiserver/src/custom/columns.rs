//! `additionalPrinterColumns`: what `kubectl get` shows of custom resources.

use jiff::Timestamp;
use keelson_api::printers;
use serde_json::{Value, json};

use super::jsonpath::JsonPath;

/// A column.
pub(crate) struct Column {
    definition: Value,
    kind: String,
    path: Option<JsonPath>,
}

impl Column {
    fn new(name: &str, kind: &str, path: &str, given: &Value) -> Self {
        let described = given["description"].as_str().unwrap_or_default();
        let description = if described.is_empty() {
            format!("Custom resource definition column (in JSONPath format): {path}")
        } else {
            described.to_owned()
        };
        Self {
            definition: json!({
                "name": name, "type": kind, "format": given["format"].as_str().unwrap_or_default(),
                "description": description, "priority": given["priority"].as_i64().unwrap_or(0),
            }),
            kind: kind.to_owned(),
            path: JsonPath::parse(path),
        }
    }
}

/// The columns of a version: those it names, or the age.
pub(super) fn columns(version: &Value) -> Vec<Column> {
    let given = version["additionalPrinterColumns"].as_array();
    let given = given.map(Vec::as_slice).unwrap_or_default();
    if given.is_empty() {
        let description = json!({"description": "When the server created this object."});
        return vec![Column::new(
            "Age",
            "date",
            ".metadata.creationTimestamp",
            &description,
        )];
    }
    let text = |column: &Value, field: &str| column[field].as_str().unwrap_or_default().to_owned();
    given
        .iter()
        .map(|c| Column::new(&text(c, "name"), &text(c, "type"), &text(c, "jsonPath"), c))
        .collect()
}

/// `columnDefinitions` of a Table.
pub(crate) fn definitions(columns: &[Column]) -> Value {
    let name = json!({"name": "Name", "type": "string", "format": "name", "description": "Name of the object.", "priority": 0});
    std::iter::once(name)
        .chain(columns.iter().map(|column| column.definition.clone()))
        .collect()
}

/// `cells` of an object's row.
pub(crate) fn cells(columns: &[Column], object: &Value, now: Timestamp) -> Value {
    let name = object["metadata"]["name"].clone();
    std::iter::once(name)
        .chain(columns.iter().map(|column| cell(column, object, now)))
        .collect()
}

fn cell(column: &Column, object: &Value, now: Timestamp) -> Value {
    let found = column.path.as_ref().map(|path| path.find(object));
    let Some(value) = found.and_then(|found| found.first().copied()) else {
        return Value::Null;
    };
    match (column.kind.as_str(), value) {
        (_, Value::Null) => Value::Null,
        ("string", Value::String(_)) => value.clone(),
        ("string", other) => Value::String(other.to_string()),
        ("integer", Value::Number(n)) => {
            #[expect(clippy::cast_possible_truncation, reason = "as upstream shows it")]
            let whole = n.as_i64().or_else(|| n.as_f64().map(|n| n as i64));
            json!(whole)
        }
        ("number", Value::Number(_)) | ("boolean", Value::Bool(_)) => value.clone(),
        ("date", Value::String(text)) => match text.parse::<Timestamp>() {
            Ok(_) => printers::age(&json!({"metadata": {"creationTimestamp": text}}), now),
            Err(_) => json!("<invalid>"),
        },
        _ => Value::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_by_type() {
        let version = json!({"additionalPrinterColumns": [
            {"name": "S", "type": "string", "jsonPath": ".s"}, {"name": "N", "type": "string", "jsonPath": ".n"},
            {"name": "L", "type": "string", "jsonPath": ".l"}, {"name": "I", "type": "integer", "jsonPath": ".f", "priority": 1},
            {"name": "F", "type": "number", "jsonPath": ".f"}, {"name": "B", "type": "boolean", "jsonPath": ".b"},
            {"name": "W", "type": "integer", "jsonPath": ".s"}, {"name": "D", "type": "date", "jsonPath": ".d", "description": "since"},
            {"name": "X", "type": "date", "jsonPath": ".s"}, {"name": "None", "type": "string", "jsonPath": ".none"}]});
        let columns = columns(&version);
        let object = json!({"metadata": {"name": "o"}, "s": "text", "n": 3, "l": [1, "a"], "f": 2.5, "b": true,
            "d": "2020-01-01T00:00:00Z"});
        let now = "2020-01-01T02:00:00Z".parse().unwrap();
        assert_eq!(
            cells(&columns, &object, now),
            json!([
                "o",
                "text",
                "3",
                "[1,\"a\"]",
                2,
                2.5,
                true,
                null,
                "120m",
                "<invalid>",
                null
            ])
        );
        let definitions = definitions(&columns);
        assert_eq!(definitions[4]["priority"], 1);
        assert_eq!(definitions[8]["description"], "since");
        assert_eq!(
            definitions[1]["description"],
            "Custom resource definition column (in JSONPath format): .s"
        );
    }
}
