//! Bars as SVG, legible in light and dark.

use std::fmt::Write as _;
use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};

use super::comparisons::Comparison;
use super::{Time, three_digits};

/// Also that of the chart in the project's README.
const STYLE: &str = include_str!("chart.css");

const WIDTH: f64 = 760.0;
/// Where bars begin; labels end before it.
const LEFT: f64 = 216.0;
/// What is kept free for the number behind the longest bar.
const RIGHT: f64 = 132.0;
const MARGIN: f64 = 24.0;
const HEADING: f64 = 32.0;
const BAR: f64 = 16.0;
const GAP: f64 = 6.0;

/// The file that a chart goes to.
pub(super) struct Chart<'p> {
    path: &'p Path,
    file: File,
}

impl<'p> Chart<'p> {
    pub(super) fn create(path: &'p Path) -> Result<Self> {
        let file = File::create(path).with_context(|| cannot_write(path))?;
        Ok(Self { path, file })
    }

    pub(super) fn draw(&mut self, comparisons: &[Comparison]) -> Result<()> {
        self.file.write_all(svg(comparisons).as_bytes()).with_context(|| cannot_write(self.path))
    }
}

fn cannot_write(path: &Path) -> String {
    format!("cannot write the chart {}", path.display())
}

/// A panel for each comparison, on a scale of its own.
fn svg(comparisons: &[Comparison]) -> String {
    let mut body = String::new();
    let mut y = MARGIN;
    for Comparison { what, ours, rivals } in comparisons {
        line(&mut body, format_args!(r#"<text class="heading" x="{MARGIN}" y="{}">{what}</text>"#, y + 14.0));
        y += HEADING;
        let top = y;
        let longest = rivals.iter().map(|(_, theirs)| *theirs).chain([*ours]).max().unwrap_or(*ours);
        let mut bar = |label: &str, class: &str, time: Duration, shown: String| {
            let length = (WIDTH - LEFT - RIGHT) * time.as_secs_f64() / longest.as_secs_f64().max(1e-9);
            let (length, baseline) = (length.max(1.5), y + BAR - 4.0);
            line(&mut body, format_args!(r#"<text class="label" x="{}" y="{baseline}">{label}</text>"#, LEFT - 8.0));
            let rect =
                format_args!(r#"<rect class="{class}" x="{LEFT}" y="{y}" width="{length:.1}" height="{BAR}" rx="2"/>"#);
            line(&mut body, rect);
            let x = LEFT + length + 8.0;
            line(&mut body, format_args!(r#"<text class="faint" x="{x:.1}" y="{baseline}">{shown}</text>"#));
            y += BAR + GAP;
        };
        bar("ndshm", "ours", *ours, Time(*ours).to_string());
        for (name, theirs) in rivals {
            let ratio = three_digits(theirs.as_secs_f64() / ours.as_secs_f64().max(1e-9));
            bar(name, "bar", *theirs, format!("{}, {ratio}×", Time(*theirs)));
        }
        let (top, bottom) = (top - 4.0, y - GAP + 4.0);
        line(&mut body, format_args!(r#"<line class="axis" x1="{LEFT}" y1="{top}" x2="{LEFT}" y2="{bottom}"/>"#));
        y += MARGIN - GAP;
    }
    let (width, height) = (WIDTH - 1.0, y - 1.0);
    format!(
        r#"<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{y}" viewBox="0 0 {WIDTH} {y}" role="img">
<title>Times of ndshm and of what one would use instead; shorter is better</title>
<style>
{STYLE}</style>
<rect class="ground" x="0.5" y="0.5" width="{width}" height="{height}" rx="6"/>
{body}</svg>
"#
    )
}

fn line(body: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    let _ = writeln!(body, "{text}");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_long_as_their_times_and_nothing_has_to_be_escaped() {
        let ms = Duration::from_millis;
        let comparisons =
            [Comparison { what: "hand over".to_owned(), ours: ms(1), rivals: vec![("pipe", ms(10)), ("TCP", ms(5))] }];
        let svg = svg(&comparisons);
        let lengths = ["41.2", "412.0", "206.0"].map(|width| svg.contains(&format!("width=\"{width}\"")));
        assert_eq!(lengths, [true; 3], "{svg}");
        assert!(svg.contains("10.0 ms, 10.0×"), "{svg}");
        assert_eq!(svg.matches("<text").count(), svg.matches("</text>").count());
    }
}
