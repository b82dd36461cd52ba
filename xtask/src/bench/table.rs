//! The table as Markdown, which is also what README shows.

use std::fmt::Write;

use crate::figure::Figure;

const HEADER: [&str; 7] = [
    "figure",
    "measured",
    "",
    "upstream",
    "must reach",
    "reach for",
    "peers in the same run, notes",
];

/// The table, its columns aligned.
pub(crate) fn text(figures: &[Figure]) -> String {
    let mut rows = vec![HEADER.map(str::to_owned)];
    rows.extend(figures.iter().map(row));
    let widths: Vec<usize> = (0..HEADER.len())
        .map(|column| {
            rows.iter()
                .map(|row| row[column].chars().count())
                .max()
                .unwrap_or(0)
        })
        .collect();
    let mut text = String::new();
    for (number, row) in rows.iter().enumerate() {
        for (cell, width) in row.iter().zip(&widths) {
            // Writing to a String cannot fail.
            let _ = write!(text, "| {cell:width$} ");
        }
        text.push_str("|\n");
        if number == 0 {
            for width in &widths {
                let _ = write!(text, "|{}", "-".repeat(width + 2));
            }
            text.push_str("|\n");
        }
    }
    text
}

fn row(figure: &Figure) -> [String; 7] {
    let show = |value: Option<f64>| value.map(|value| figure.unit.show(value)).unwrap_or_default();
    let mut remarks: Vec<String> = figure
        .peers
        .iter()
        .map(|peer| format!("{} {}", peer.name, figure.unit.show(peer.value)))
        .collect();
    if !figure.note.is_empty() {
        remarks.push(figure.note.clone());
    }
    [
        figure.name.clone(),
        figure.unit.show(figure.value),
        figure.verdict().to_owned(),
        show(figure.upstream),
        show(figure.must),
        show(figure.reach),
        remarks.join("; "),
    ]
}
