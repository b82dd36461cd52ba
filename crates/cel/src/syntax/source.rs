//! The text of an expression and the rendering of errors in it.

use crate::error::Issue;

/// An expression's text with its lines.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    lines: Vec<String>,
    /// The offset, in characters, at which each line starts.
    starts: Vec<usize>,
}

/// Snippets longer than this are left out of messages.
const MAX_SNIPPET: usize = 16_384;

impl Source {
    /// Splits the text at line feeds.
    pub(crate) fn new(text: &str) -> Self {
        let mut starts = Vec::new();
        let mut at = 0;
        let lines: Vec<String> = text
            .split('\n')
            .map(|line| {
                starts.push(at);
                at += line.chars().count() + 1;
                line.to_owned()
            })
            .collect();
        Self { lines, starts }
    }

    /// Line (from one) and column (from zero) of an offset in characters.
    pub(crate) fn locate(&self, offset: usize) -> (usize, usize) {
        let line = self.starts.partition_point(|start| *start <= offset).max(1);
        (line, offset - self.starts[line - 1])
    }

    /// An issue at an offset, with the line and a caret below it.
    pub(crate) fn issue(&self, offset: usize, message: impl Into<String>) -> Issue {
        let (line, column) = self.locate(offset);
        let snippet = self
            .lines
            .get(line - 1)
            .filter(|text| text.len() <= MAX_SNIPPET)
            .map(|text| {
                let text = text.replace('\t', " ");
                let mut pointer = String::new();
                let mut characters = text.chars();
                for character in characters.by_ref().take(column) {
                    pointer.push(if character.len_utf8() > 1 { '\u{ff0e}' } else { '.' });
                }
                let wide = characters
                    .next()
                    .is_some_and(|character| character.len_utf8() > 1);
                pointer.push(if wide { '\u{ff3e}' } else { '^' });
                (text, pointer)
            });
        Issue {
            line,
            column,
            message: message.into(),
            snippet,
        }
    }
}
