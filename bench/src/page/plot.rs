//! Lines over time, as SVG inside HTML.
//!
//! Only the lines are stretched to the width of the page. Text and strokes keep their size, so a
//! plot is legible on a phone and on a wide screen. Colours come from the page's style sheet.

use std::fmt::Write as _;

use super::{Escaped, Table, number};

const TIME: &str = "Time since the first click (s)";
/// Side of the square in which lines are drawn before the browser stretches it.
const SIDE: f64 = 1000.0;
/// A line of more points is thinned to about this number.
const POINTS: usize = 1000;
/// The most intervals between labels of an axis.
const INTERVALS: f64 = 5.0;
/// The most rows in a plot's table of values.
const ROWS: usize = 20;
/// The style sheet has this many colours.
const COLOURS: usize = 8;

/// A plot. Its horizontal axis is the time since the first click.
#[derive(Debug)]
pub(crate) struct Plot {
    pub(crate) title: &'static str,
    /// The title of the vertical axis, with its unit.
    pub(crate) axis: &'static str,
    pub(crate) lines: Vec<Line>,
}

/// One line: seconds and values.
#[derive(Debug)]
pub(crate) struct Line {
    pub(crate) name: String,
    pub(crate) points: Vec<(f64, f64)>,
}

/// The range of an axis, from 0, and its labels.
struct Axis {
    end: f64,
    step: f64,
}

impl Axis {
    /// A step of 1, 2 or 5 times a power of ten.
    fn new(end: f64) -> Self {
        let least = end / INTERVALS;
        let power = 10_f64.powf(least.log10().floor());
        let step = [1.0, 2.0, 5.0].map(|factor| factor * power).into_iter().find(|step| *step >= least);
        Self { end, step: step.unwrap_or(10.0 * power) }
    }

    /// The same, with a label at its end.
    fn rounded(end: f64) -> Self {
        let axis = Self::new(end);
        Self { end: (axis.end / axis.step).ceil() * axis.step, ..axis }
    }

    /// Labels with their distance from 0, in per cent.
    fn labels(&self) -> impl Iterator<Item = (String, f64)> + '_ {
        let decimals = [(1.0, 0), (0.1, 1), (0.01, 2)].into_iter().find(|(step, _)| self.step >= *step);
        let decimals = decimals.map_or(3, |(_, decimals)| decimals);
        (0_u32..)
            .map(|index| f64::from(index) * self.step)
            .take_while(|value| *value <= self.end * 1.000_001)
            .map(move |value| (number(value, decimals), value / self.end * 100.0))
    }
}

impl Plot {
    pub(super) fn html(&self, number: usize, to: &mut String) {
        let (title, axis) = (Escaped(self.title), Escaped(self.axis));
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let across = Axis::new(points().map(|(at, _)| *at).fold(0.1, f64::max));
        let up = Axis::rounded(points().map(|(_, value)| *value).fold(1.0, f64::max));
        let _ = write!(to, "<figure><figcaption>{title}</figcaption><ul class=legend>");
        for (index, line) in self.lines.iter().enumerate() {
            let _ = write!(to, "<li class=l{}>{}</li>", index % COLOURS, Escaped(&line.name));
        }
        let _ = write!(
            to,
            "</ul><p class=axis aria-hidden=true>{axis}</p><div class=plot>\
             <svg role=img aria-labelledby=\"title-{number} desc-{number}\"><title id=title-{number}>{title}</title>\
             <desc id=desc-{number}>{}</desc><g aria-hidden=true>",
            Escaped(&self.description())
        );
        for (label, at) in up.labels() {
            let y = 100.0 - at;
            let _ = write!(
                to,
                "<line class=grid x1=0 x2=100% y1={y:.2}% y2={y:.2}% /><text class=up y={y:.2}%>{label}</text>"
            );
        }
        for (label, x) in across.labels() {
            let _ = write!(
                to,
                "<line class=grid x1={x:.2}% x2={x:.2}% y1=0 y2=100% /><text class=across x={x:.2}% y=100%>{label}</text>"
            );
        }
        let _ =
            write!(to, "</g><svg viewBox=\"0 0 {SIDE} {SIDE}\" preserveAspectRatio=none aria-hidden=true>");
        for (index, line) in self.lines.iter().enumerate() {
            let _ = write!(to, "<polyline class=l{} points=\"", index % COLOURS);
            for (at, value) in thinned(&line.points) {
                let (x, y) = (at / across.end * SIDE, SIDE - value.max(0.0) / up.end * SIDE);
                let _ = write!(to, "{x:.1},{y:.1} ");
            }
            to.push_str("\"/>");
        }
        let _ = write!(to, "</svg></svg></div><p class=\"axis time\" aria-hidden=true>{TIME}</p>");
        to.push_str("<details><summary>Values</summary>");
        self.values().html(to);
        to.push_str("</details></figure>\n");
    }

    /// The description for readers who cannot see the plot.
    fn description(&self) -> String {
        let mut text = format!("{} over time.", self.axis);
        for Line { name, points } in &self.lines {
            if let Some((at, most)) = points.iter().max_by(|(_, one), (_, other)| one.total_cmp(other)) {
                let last = points.last().map_or(0.0, |(_, value)| *value);
                let [most, at, last] = [*most, *at, last].map(|value| number(value, 1));
                let _ = write!(text, " {name}: highest {most}, at {at} s; at the end {last}.");
            }
        }
        text
    }

    /// Some of the values, at equal distances.
    fn values(&self) -> Table {
        let mut columns = vec![TIME.to_owned()];
        columns.extend(self.lines.iter().map(|line| line.name.clone()));
        let mut table =
            Table { caption: format!("{}: {}", self.title, self.axis), columns, rows: Vec::new() };
        let first = self.lines.first().map_or(&[][..], |line| &line.points);
        for (index, (at, _)) in first.iter().enumerate().step_by(first.len().div_ceil(ROWS).max(1)) {
            let value = |line: &Line| super::maybe(line.points.get(index).map(|(_, value)| *value), 1);
            table.row(&number(*at, 2), self.lines.iter().map(value));
        }
        table
    }
}

/// Keeps the lowest and the highest point of each stretch, so that peaks remain.
fn thinned(points: &[(f64, f64)]) -> Vec<(f64, f64)> {
    if points.len() <= POINTS {
        return points.to_vec();
    }
    let stretches = points.chunks(points.len().div_ceil(POINTS / 2));
    stretches
        .flat_map(|stretch| {
            let by_value = |one: &&(f64, f64), other: &&(f64, f64)| one.1.total_cmp(&other.1);
            let (low, high) = (stretch.iter().min_by(by_value), stretch.iter().max_by(by_value));
            let mut both: Vec<_> = low.into_iter().chain(high).copied().collect();
            both.sort_by(|(one, _), (other, _)| one.total_cmp(other));
            both
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn html(lines: Vec<Line>) -> String {
        let mut to = String::new();
        Plot { title: "Rates", axis: "Per second (1/s)", lines }.html(0, &mut to);
        to
    }

    #[test]
    fn a_plot_of_nothing_is_a_plot() {
        assert!(html(Vec::new()).contains("<svg role=img"));
        assert!(html(vec![Line { name: "none".to_owned(), points: Vec::new() }]).contains("none"));
    }

    #[test]
    fn a_plot_has_labels_a_description_and_a_table() {
        let points = vec![(0.0, 0.0), (2.0, 1200.0), (4.0, 300.0)];
        let html = html(vec![Line { name: "accepted".to_owned(), points }]);
        assert!(html.contains("highest 1,200.0, at 2.0 s; at the end 300.0."), "{html}");
        assert!(
            html.contains(">1,500</text>") && html.contains("points=\"0.0,1000.0 500.0,200.0 "),
            "{html}"
        );
        assert!(html.contains("<th scope=row>4.00</th><td>300.0</td>"), "{html}");
    }

    #[test]
    fn labels_are_round_and_few() {
        for end in [0.1, 0.7, 1.0, 4.2, 9.99, 10.0, 63.0, 12_345.0] {
            let axis = Axis::rounded(end);
            let labels: Vec<_> = axis.labels().collect();
            assert!((3..=6).contains(&labels.len()), "{end}: {labels:?}");
            assert!(axis.end >= end && (labels.last().unwrap().1 - 100.0).abs() < 1e-6, "{end}: {labels:?}");
        }
    }

    #[test]
    fn a_long_line_is_thinned_and_keeps_its_peak() {
        let points: Vec<_> =
            (0..10_000).map(|at| (f64::from(at), f64::from(u8::from(at == 7_777)))).collect();
        let thinned = thinned(&points);
        assert!(thinned.len() <= POINTS && thinned.contains(&(7_777.0, 1.0)));
        assert!(thinned.is_sorted_by(|(one, _), (other, _)| one <= other));
    }
}
