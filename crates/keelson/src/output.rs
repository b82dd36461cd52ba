//! Printing for people and for programs.

use std::io::{IsTerminal, Write};

use keelson_cluster::progress::Step;
use serde::Serialize;

/// Prints an error with its causes, each on a line.
pub(crate) fn print_error(error: &anyhow::Error) {
    eprintln!("error: {error}");
    let mut shown = error.to_string();
    for cause in error.chain().skip(1) {
        let text = cause.to_string();
        if !shown.contains(&text) {
            eprintln!("  because: {text}");
            shown = text;
        }
    }
}

/// Prints a step of a long command to standard error.
pub(crate) fn print_step(step: &Step) {
    let mark = if std::io::stderr().is_terminal() {
        "\u{1b}[32m✓\u{1b}[0m"
    } else {
        "✓"
    };
    let seconds = std::time::Duration::from_millis(step.after_ms).as_secs_f64();
    eprintln!("{mark} {:<48} {seconds:>6.2} s", step.done);
}

/// Prints a value as JSON to standard output.
pub(crate) fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    let mut stdout = std::io::stdout().lock();
    serde_json::to_writer_pretty(&mut stdout, value)?;
    writeln!(stdout)?;
    Ok(())
}

/// Prints a line to standard output. A reader that has gone away (`keelson status | head`) ends the program quietly.
pub(crate) fn print_line(line: impl std::fmt::Display) {
    if writeln!(std::io::stdout(), "{line}").is_err() {
        std::process::exit(0);
    }
}

/// Prints rows under headings, columns aligned as kubectl aligns them.
pub(crate) fn print_table(headings: &[&str], rows: &[Vec<String>]) {
    let mut widths: Vec<usize> = headings.iter().map(|heading| heading.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let cells: Vec<_> = cells
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:<width$}"))
            .collect();
        print_line(cells.join("   ").trim_end());
    };
    line(&mut headings.iter().copied());
    for row in rows {
        line(&mut row.iter().map(String::as_str));
    }
}
