//! A report for people: the same figures as text in the terminal and as one HTML file.
//!
//! The file needs no script, no network and no other file. It follows the reader's light or dark
//! mode.

mod plot;

use std::fmt::{self, Display, Formatter, Write as _};
use std::path::Path;

use anyhow::Context as _;
use comfy_table::presets::UTF8_FULL_CONDENSED;
use comfy_table::{CellAlignment, ColumnConstraint, Width};
use domain::clock;

pub(super) use self::plot::{Line, Plot};

const STYLE: &str = include_str!("page/style.css");
/// Values in the terminal are wrapped at this many characters.
const WIDEST: u16 = 90;
/// Stands where there is no value.
const NONE: &str = "–";

/// A report.
#[derive(Debug)]
pub(super) struct Page {
    pub(super) title: &'static str,
    /// The start of the measurement.
    pub(super) at: clock::Timestamp,
    /// Why the figures must not be trusted.
    pub(super) warning: Option<&'static str>,
    /// The few figures that a reader looks for first.
    pub(super) headline: Vec<Figure>,
    pub(super) tables: Vec<Table>,
    pub(super) plots: Vec<Plot>,
    /// Machine, commit and settings, by name.
    pub(super) settings: Vec<(&'static str, String)>,
}

/// A figure with its unit.
#[derive(Debug)]
pub(super) struct Figure {
    pub(super) name: &'static str,
    pub(super) value: String,
    pub(super) unit: &'static str,
}

/// A table whose first column names the row and whose other columns are numbers.
#[derive(Debug)]
pub(super) struct Table {
    caption: String,
    /// With units.
    columns: Vec<String>,
    rows: Vec<(String, Vec<String>)>,
}

impl Table {
    pub(super) fn new<const COUNT: usize>(caption: &str, columns: [&str; COUNT]) -> Self {
        Self { caption: caption.to_owned(), columns: columns.map(str::to_owned).to_vec(), rows: Vec::new() }
    }

    /// Adds a row of as many values as there are columns beside the first one.
    pub(super) fn row(&mut self, name: &str, values: impl IntoIterator<Item = String>) {
        self.rows.push((name.to_owned(), values.into_iter().collect()));
    }

    fn html(&self, to: &mut String) {
        let caption = Escaped(&self.caption);
        let _ = write!(
            to,
            "<div class=scroll role=region tabindex=0 aria-label=\"{caption}\"><table><caption>{caption}</caption><thead><tr>"
        );
        for column in &self.columns {
            let _ = write!(to, "<th scope=col>{}</th>", Escaped(column));
        }
        to.push_str("</tr></thead><tbody>");
        for (name, values) in &self.rows {
            let _ = write!(to, "<tr><th scope=row>{}</th>", Escaped(name));
            for value in values {
                let _ = write!(to, "<td>{}</td>", Escaped(value));
            }
            to.push_str("</tr>");
        }
        to.push_str("</tbody></table></div>\n");
    }
}

impl Display for Table {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let mut table = comfy_table::Table::new();
        table.load_style(UTF8_FULL_CONDENSED);
        table.set_header(&self.columns);
        for (name, values) in &self.rows {
            table.add_row(std::iter::once(name).chain(values));
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        write!(f, "{}\n{table}", self.caption)
    }
}

impl Page {
    /// Prints the tables and the settings. Writes `{name}.html` and, for programs, `{name}.json`
    /// into the folder.
    pub(super) fn write(
        &self,
        folder: &Path,
        name: &str,
        data: &impl serde::Serialize,
    ) -> anyhow::Result<()> {
        println!("{self}");
        std::fs::create_dir_all(folder).with_context(|| format!("make {}", folder.display()))?;
        let json = serde_json::to_vec_pretty(data).context("write the report")?;
        let [page, file] = ["html", "json"].map(|extension| folder.join(format!("{name}.{extension}")));
        std::fs::write(&file, json).with_context(|| format!("write {}", file.display()))?;
        std::fs::write(&page, self.html()).with_context(|| format!("write {}", page.display()))?;
        println!("{} and {name}.json beside it", page.display());
        Ok(())
    }

    fn html(&self) -> String {
        let (title, at) = (Escaped(self.title), self.at.format("%Y-%m-%d %H:%M UTC"));
        let mut to = format!(
            "<!doctype html>\n<html lang=en><head><meta charset=utf-8>\
             <meta name=viewport content=\"width=device-width, initial-scale=1\">\
             <meta name=color-scheme content=\"light dark\"><title>Muster: {title}</title>\
             <style>{STYLE}</style></head><body><main>\n\
             <h1>{title}</h1><p class=when>Measured <time datetime=\"{}\">{at}</time></p>\n",
            self.at.to_rfc3339()
        );
        if let Some(warning) = self.warning {
            let _ = writeln!(to, "<p class=warning><strong>Warning:</strong> {}</p>", Escaped(warning));
        }
        to.push_str("<dl class=headline>");
        for Figure { name, value, unit } in &self.headline {
            let (name, value, unit) = (Escaped(name), Escaped(value), Escaped(unit));
            let _ = write!(to, "<div><dt>{name}</dt><dd>{value} <small>{unit}</small></dd></div>");
        }
        to.push_str("</dl>\n<h2>Figures</h2>\n");
        self.tables.iter().for_each(|table| table.html(&mut to));
        to.push_str("<h2>Over time</h2>\n");
        for (number, plot) in self.plots.iter().enumerate() {
            plot.html(number, &mut to);
        }
        to.push_str("<h2>Machine and settings</h2>\n<dl class=settings>");
        for (name, value) in &self.settings {
            let _ = write!(to, "<div><dt>{}</dt><dd>{}</dd></div>", Escaped(name), Escaped(value));
        }
        to.push_str("</dl>\n</main></body></html>\n");
        to
    }
}

/// The text for the terminal.
impl Display for Page {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "{}", self.title)?;
        if let Some(warning) = self.warning {
            writeln!(f, "Warning: {warning}")?;
        }
        let mut settings = comfy_table::Table::new();
        settings.load_style(UTF8_FULL_CONDENSED);
        for (name, value) in &self.settings {
            settings.add_row([name, value.as_str()]);
        }
        if let Some(column) = settings.column_mut(1) {
            column.set_constraint(ColumnConstraint::UpperBoundary(Width::Fixed(WIDEST)));
        }
        writeln!(f, "{settings}")?;
        self.tables.iter().try_for_each(|table| writeln!(f, "{table}"))
    }
}

/// A number for people, with separated thousands.
pub(super) fn number(value: f64, decimals: usize) -> String {
    if !value.is_finite() {
        return NONE.to_owned();
    }
    let text = format!("{:.decimals$}", value.abs());
    let (whole, fraction) = text.split_at(text.find('.').unwrap_or(text.len()));
    let is_negative = value < 0.0 && text.contains(|digit: char| ('1'..='9').contains(&digit));
    let mut to = if is_negative { "−".to_owned() } else { String::new() };
    for (index, digit) in whole.chars().enumerate() {
        if index > 0 && (whole.len() - index).is_multiple_of(3) {
            to.push(',');
        }
        to.push(digit);
    }
    to + fraction
}

/// A number that may be missing.
pub(super) fn maybe(value: Option<f64>, decimals: usize) -> String {
    value.map_or(NONE.to_owned(), |value| number(value, decimals))
}

/// A whole number for people.
pub(super) fn count(value: impl Into<u64>) -> String {
    number(value.into() as f64, 0)
}

/// Text in HTML, also in a quoted attribute.
struct Escaped<'a>(&'a str);

impl Display for Escaped<'_> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.0.chars().try_for_each(|char| match char {
            '&' => f.write_str("&amp;"),
            '<' => f.write_str("&lt;"),
            '>' => f.write_str("&gt;"),
            '"' => f.write_str("&quot;"),
            char => f.write_char(char),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thousands_are_separated_and_nothing_is_negative_zero() {
        assert_eq!(number(1_234_567.0, 0), "1,234,567");
        assert_eq!((number(-1234.56, 1), number(-0.001, 2)), ("−1,234.6".to_owned(), "0.00".to_owned()));
        assert_eq!((number(999.0, 0), number(f64::NAN, 1)), ("999".to_owned(), NONE.to_owned()));
    }

    #[test]
    fn the_page_and_the_terminal_have_the_same_table_and_text_is_escaped() {
        let mut table = Table::new("Times", ["Stage", "p50 (ms)"]);
        table.row("a < b", ["1.5".to_owned()]);
        let page = Page {
            title: "Rush",
            at: clock::now(),
            warning: Some("a debug build"),
            headline: vec![Figure { name: "Accepted", value: count(5_u32), unit: "per second" }],
            tables: vec![table],
            plots: vec![Plot { title: "Rates", axis: "Per second (1/s)", lines: Vec::new() }],
            settings: vec![("Machine", "2 × \"fast\"".to_owned())],
        };
        let html = page.html();
        for part in [
            "<caption>Times</caption><thead><tr><th scope=col>Stage</th><th scope=col>p50 (ms)</th>",
            "<th scope=row>a &lt; b</th><td>1.5</td>",
            "<dt>Machine</dt><dd>2 × &quot;fast&quot;</dd>",
            "a debug build",
            "prefers-color-scheme: dark",
        ] {
            assert!(html.contains(part), "{part}: {html}");
        }
        assert!(!html.contains("http") && !html.contains("<script"), "{html}");
        let text = page.to_string();
        assert!(
            ["Times", "p50 (ms)", "a < b", "1.5", "fast"].iter().all(|part| text.contains(part)),
            "{text}"
        );
    }
}
