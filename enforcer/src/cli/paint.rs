//! Colour and shape of what is printed.

use std::io::IsTerminal;

use atalaya_program::colour;
use comfy_table::{CellAlignment, Table, presets};

/// Whether to colour, and how wide a line may be.
#[derive(Clone, Copy, Debug)]
pub struct Paint {
    colour: bool,
    size: Option<(u16, u16)>,
}

/// What a text stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tone {
    Plain,
    Heading,
    Good,
    /// What somebody should mend: a fault.
    Bad,
}

// === impl Paint ===

impl Paint {
    /// As standard output and the environment allow.
    pub fn of_stdout() -> Self {
        let terminal = std::io::stdout().is_terminal();
        Self {
            colour: colour::is_wanted(&std::io::stdout()),
            size: if terminal { ratatui::crossterm::terminal::size().ok() } else { None },
        }
    }

    /// Whether colour may be used.
    pub fn is_colourful(self) -> bool {
        self.colour
    }

    /// For a text in a tone.
    pub fn paint(self, tone: Tone, text: &str) -> String {
        let code = match tone {
            Tone::Heading => "1",
            Tone::Good => "32",
            Tone::Bad => "31",
            Tone::Plain => return text.to_owned(),
        };
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// The columns of the terminal; `None` where there is no end.
    pub fn columns(self) -> Option<usize> {
        self.size.map(|(columns, _)| usize::from(columns)).filter(|columns| *columns >= 20)
    }

    /// The lines of the terminal; `None` where there is no end.
    pub fn lines(self) -> Option<usize> {
        self.size.map(|(_, lines)| usize::from(lines)).filter(|lines| *lines >= 10)
    }

    /// Without colour, and of this size.
    #[cfg(test)]
    pub fn plain(columns: u16, lines: u16) -> Self {
        Self { colour: false, size: Some((columns, lines)) }
    }

    /// A table as lines, the header first: each row in its tone, a line as wide as the terminal at most.
    pub fn table<const N: usize>(
        self,
        header: [&str; N],
        numbers: &[usize],
        rows: Vec<(Tone, [String; N])>,
    ) -> Vec<String> {
        let mut table = Table::new();
        table.load_style(presets::NOTHING).set_header(header);
        let tones: Vec<Tone> = rows.iter().map(|(tone, _)| *tone).collect();
        for (_, row) in rows {
            table.add_row(row);
        }
        for (place, column) in table.column_iter_mut().enumerate() {
            column.set_padding((0, 2));
            if numbers.contains(&place) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let tones = [Tone::Heading].into_iter().chain(tones);
        tones
            .zip(table.lines())
            .map(|(tone, line)| {
                let line = line.trim_end();
                let line = self.columns().map_or(line.into(), |columns| super::words::cut(line, columns));
                self.paint(tone, &line)
            })
            .collect()
    }

    /// How many rows of the terminal some lines take, that have no colour yet.
    pub fn rows(self, lines: &[String]) -> usize {
        let columns = self.columns().unwrap_or(usize::MAX);
        lines.iter().map(|line| line.chars().count().div_ceil(columns).max(1)).sum()
    }

    /// A paragraph, broken at words: its first line opens with the first text, all others with as many
    /// spaces.
    pub fn paragraph(self, open: &str, text: &str) -> Vec<String> {
        paragraph(self.columns().unwrap_or(usize::MAX), open, text)
    }
}

/// A paragraph of at most so many columns.
pub fn paragraph(columns: usize, open: &str, text: &str) -> Vec<String> {
    let indent = " ".repeat(open.chars().count());
    let mut lines = Vec::new();
    let mut line = open.to_owned();
    let mut length = open.chars().count();
    let mut empty = true;
    for word in text.split_whitespace() {
        let word_length = word.chars().count();
        if !empty && length.saturating_add(1 + word_length) > columns {
            lines.push(std::mem::replace(&mut line, indent.clone()));
            (length, empty) = (indent.len(), true);
        }
        if !empty {
            line.push(' ');
            length += 1;
        }
        line.push_str(word);
        (length, empty) = (length + word_length, false);
    }
    lines.push(line);
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_paragraph_breaks_at_words_and_keeps_its_indent() {
        let lines = Paint::plain(20, 24).paragraph("  ! ", "one two three four, and five");
        assert_eq!(lines, ["  ! one two three", "    four, and five"]);
    }

    #[test]
    fn a_table_is_a_line_a_row_and_no_wider_than_the_terminal() {
        let rows = vec![(Tone::Plain, ["edge".to_owned(), "1,000".to_owned(), "x".repeat(40)])];
        let lines = Paint::plain(20, 24).table(["ROUTER", "OURS", "WHY"], &[1], rows);
        assert_eq!(lines[0], "ROUTER   OURS  WHY");
        assert_eq!(lines[1], "edge    1,000  xxxx…");
    }
}
