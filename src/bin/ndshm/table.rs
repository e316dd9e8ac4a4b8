//! Columns that line up.

use std::io::{self, Write};

use console::{Style, measure_text_width};

/// Where the text of a column stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Align {
    Left,
    Right,
}

/// A cell: what stands there and how it looks.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    text: String,
    style: Option<Style>,
}

impl Cell {
    pub(crate) fn new(text: impl Into<String>) -> Self {
        Self { text: text.into(), style: None }
    }

    pub(crate) fn styled(text: impl Into<String>, style: Style) -> Self {
        Self { text: text.into(), style: Some(style) }
    }
}

impl From<String> for Cell {
    fn from(text: String) -> Self {
        Self::new(text)
    }
}

/// Rows under a heading.
#[derive(Debug)]
pub(crate) struct Table<const N: usize> {
    heading: [(&'static str, Align); N],
    rows: Vec<[Cell; N]>,
}

impl<const N: usize> Table<N> {
    pub(crate) fn new(heading: [(&'static str, Align); N]) -> Self {
        Self { heading, rows: Vec::new() }
    }

    pub(crate) fn push(&mut self, row: [Cell; N]) {
        self.rows.push(row);
    }

    /// As wide as it needs to be, with nothing at the ends of lines.
    pub(crate) fn write(&self, out: &mut impl Write, strong: &Style) -> io::Result<()> {
        let widths: [usize; N] = std::array::from_fn(|column| {
            let cells = self.rows.iter().map(|row| measure_text_width(&row[column].text));
            cells.max().unwrap_or(0).max(self.heading[column].0.len())
        });
        let heading = self.heading.map(|(name, _)| Cell::styled(name, strong.clone()));
        for row in std::iter::once(&heading).chain(&self.rows) {
            let mut spaces = 0;
            for (column, cell) in row.iter().enumerate() {
                let padding = widths[column] - measure_text_width(&cell.text);
                let left = self.heading[column].1 == Align::Left;
                spaces += if left { 0 } else { padding };
                if !cell.text.is_empty() {
                    write!(out, "{:spaces$}", "")?;
                    match &cell.style {
                        Some(style) => write!(out, "{}", style.apply_to(&cell.text))?,
                        None => write!(out, "{}", cell.text)?,
                    }
                    spaces = 0;
                }
                spaces += 2 + if left { padding } else { 0 };
            }
            writeln!(out)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_end_with_their_text() {
        let mut table = Table::new([("NAME", Align::Left), ("SIZE", Align::Right), ("NOTE", Align::Left)]);
        table.push(["größe", "7", "x"].map(Cell::new));
        table.push(["a", "12345", ""].map(Cell::new));
        let mut out = Vec::new();
        table.write(&mut out, &Style::new().force_styling(false)).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "NAME    SIZE  NOTE\ngröße      7  x\na      12345\n");
    }
}
