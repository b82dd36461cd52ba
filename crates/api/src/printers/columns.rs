//! Columns of tables.

use std::collections::HashMap;
use std::sync::LazyLock;

use crate::gvk::GroupVersionResource;

/// A column of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// The heading.
    pub name: &'static str,
    /// `string`, `integer`, `boolean` or `date`.
    pub kind: &'static str,
    /// `name` where the cell names the object, else empty.
    pub format: &'static str,
    /// 0 is always shown, 1 with `-o wide`.
    pub priority: i32,
}

type Key = (&'static str, &'static str, &'static str);

static COLUMNS: LazyLock<HashMap<Key, Vec<Column>>> = LazyLock::new(|| {
    let lines = include_str!("../data/columns.tsv")
        .lines()
        .filter(|line| !line.starts_with('#'));
    lines.filter_map(parse_line).collect()
});

/// What kinds without columns of their own show.
static DEFAULT: [Column; 2] = [
    Column {
        name: "Name",
        kind: "string",
        format: "name",
        priority: 0,
    },
    Column {
        name: "Created At",
        kind: "date",
        format: "",
        priority: 0,
    },
];

fn parse_line(line: &'static str) -> Option<(Key, Vec<Column>)> {
    let mut parts = line.split('\t');
    let key = (parts.next()?, parts.next()?, parts.next()?);
    Some((key, parts.map(parse_column).collect()))
}

fn parse_column(text: &'static str) -> Column {
    let (text, priority) = text.strip_suffix('+').map_or((text, 0), |text| (text, 1));
    let mut parts = text.split('/');
    let name = parts.next().unwrap_or_default();
    let kind = parts.next().unwrap_or("string");
    let format = parts.next().unwrap_or(if name == "Name" { "name" } else { "" });
    Column {
        name,
        kind,
        format,
        priority,
    }
}

/// The columns of a built-in resource; name and creation time for what has none.
pub fn columns(gvr: &GroupVersionResource) -> &[Column] {
    let known = get(&COLUMNS, &gvr.group, &gvr.version, &gvr.resource);
    known.map_or(&DEFAULT[..], Vec::as_slice)
}

/// Looks up with borrowed text what is keyed by static text.
fn get<'a>(
    map: &'a HashMap<(&'a str, &'a str, &'a str), Vec<Column>>,
    group: &'a str,
    version: &'a str,
    resource: &'a str,
) -> Option<&'a Vec<Column>> {
    map.get(&(group, version, resource))
}
