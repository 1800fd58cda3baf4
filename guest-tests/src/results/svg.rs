//! Charts as SVG: on white, in colours that people see who do not see all, with marks and dashes that tell the series
//! apart in print.

use std::fmt::Write as _;

use super::Figures;
use super::chart::{Chart, Label, Point, Style, short};

/// Sizes in pixels.
const PANEL: (f64, f64) = (290.0, 220.0);
const BAR: f64 = 24.0;
/// Around a panel: for the axis at its left, the space to the next, titles above, the axis below.
const LEFT: f64 = 62.0;
const RIGHT: f64 = 18.0;
const TOP: f64 = 78.0;
const BOTTOM: f64 = 50.0;
/// The first line of the legend.
const LEGEND: f64 = 42.0;
/// Left of bars stand their names.
const NAMES: f64 = 190.0;

/// Colours after Okabe and Ito, dashes and marks of the series, in turn.
const LOOKS: [(&str, &str); 8] = [
    ("#d55e00", ""),
    ("#0072b2", "7 3"),
    ("#56b4e9", "2 2"),
    ("#009e73", "9 3 2 3"),
    ("#000000", "4 4"),
    ("#7f7f7f", "1 3"),
    ("#cc79a7", "12 3"),
    ("#b8860b", "5 2 1 2"),
];

/// The picture of a chart.
pub(super) fn draw(chart: &Chart, figures: &Figures) -> String {
    let bars = chart.style == Style::Bars;
    let count = chart.panels.len() as f64;
    let inner = match chart.panels {
        _ if bars => (PANEL.0, BAR * chart.series.len() as f64),
        // Alone it may be as wide as two.
        [_] => (2.0 * PANEL.0, PANEL.1),
        _ => PANEL,
    };
    // Bars are named once, at the left of all.
    let (first, left) = if bars { (NAMES, 24.0) } else { (LEFT, LEFT) };
    let width = first + (count - 1.0) * left + count * (inner.0 + RIGHT);
    let legend = if bars { Vec::new() } else { legend(chart, width) };
    let top = TOP + legend.last().map_or(-22.0, |(_, y)| y - LEGEND);
    let height = top + inner.1 + BOTTOM;
    let mut svg = Svg { text: String::new() };
    let _ = writeln!(
        svg.text,
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         height=\"{height}\" role=\"img\" font-family=\"Helvetica, Arial, sans-serif\" font-size=\"12\">"
    );
    let _ = writeln!(svg.text, "<title>{}</title>", escape(chart.title));
    svg.rect((0.0, 0.0), (width, height), "#ffffff");
    svg.text((14.0, 22.0), "start", "font-size=\"15\" font-weight=\"bold\"", chart.title);
    for (number, (series, &(x, y))) in chart.series.iter().zip(&legend).enumerate() {
        svg.line((x, y), (x + 30.0, y), number);
        svg.mark((x + 15.0, y), number);
        svg.text((x + 36.0, y + 4.0), "start", "", series.name);
    }
    for (number, panel) in chart.panels.iter().enumerate() {
        let origin = (first + number as f64 * (left + inner.0 + RIGHT), top);
        svg.text((origin.0 + inner.0 / 2.0, top - 8.0), "middle", "font-weight=\"bold\"", panel.name);
        let frame = Frame { chart, figures, panel, origin, inner };
        if bars { frame.bars(&mut svg, number == 0) } else { frame.lines(&mut svg, number == 0) }
    }
    svg.text += "</svg>\n";
    svg.text
}

/// Where the names of the series stand, in as many lines as they need.
fn legend(chart: &Chart, width: f64) -> Vec<(f64, f64)> {
    let (mut x, mut y) = (16.0, LEGEND);
    let place = |series: &Label| {
        // Letters of this size are about this wide.
        let needed = 56.0 + 6.6 * series.name.chars().count() as f64;
        if x > 16.0 && x + needed > width {
            (x, y) = (16.0, y + 20.0);
        }
        let here = (x, y);
        x += needed;
        here
    };
    chart.series.iter().map(place).collect()
}

/// Where a panel is, and what it shows.
struct Frame<'a> {
    chart: &'a Chart,
    figures: &'a Figures,
    panel: &'a Label,
    origin: (f64, f64),
    inner: (f64, f64),
}

impl Frame<'_> {
    fn point(&self, series: &Label, tick: &str) -> Option<Point> {
        self.chart.point(self.figures, self.panel, series, tick)
    }

    fn all(&self) -> impl Iterator<Item = Point> {
        let ticks = self.chart.ticks.iter();
        ticks.flat_map(|tick| self.chart.series.iter().filter_map(|series| self.point(series, tick)))
    }

    fn lines(&self, svg: &mut Svg, first: bool) {
        let ((left, top), (width, height)) = (self.origin, self.inner);
        let scale = Scale::over(self.all(), self.chart.style == Style::LogLines);
        let y = |value: f64| top + height * (1.0 - scale.place(value));
        for (value, name) in &scale.ticks {
            svg.rule((left, y(*value)), (left + width, y(*value)));
            svg.text((left - 6.0, y(*value) + 4.0), "end", "", name);
        }
        // What is changed doubles from one to the next: equal steps.
        let steps = self.chart.ticks.len() as f64;
        let x = |number: usize| left + width * (number as f64 + 0.5) / steps;
        for (number, tick) in self.chart.ticks.iter().enumerate() {
            svg.text((x(number), top + height + 18.0), "middle", "", tick);
        }
        svg.text((left + width / 2.0, top + height + 38.0), "middle", "", self.chart.x);
        if first {
            let turn = format!("transform=\"rotate(-90 16 {0})\"", top + height / 2.0);
            svg.text((16.0, top + height / 2.0), "middle", &turn, self.chart.y);
        }
        svg.axes(self.origin, self.inner);
        // Ours is the first and lies on top.
        for (number, series) in self.chart.series.iter().enumerate().rev() {
            let points: Vec<_> = (0..self.chart.ticks.len())
                .filter_map(|at| self.point(series, self.chart.ticks[at]).map(|point| (x(at), point)))
                .collect();
            for pair in points.windows(2) {
                svg.line((pair[0].0, y(pair[0].1.value)), (pair[1].0, y(pair[1].1.value)), number);
            }
            for &(x, point) in &points {
                svg.whisker((x, y(point.low)), (x, y(point.high)), number);
                svg.mark((x, y(point.value)), number);
            }
        }
    }

    fn bars(&self, svg: &mut Svg, first: bool) {
        let ((left, top), (width, height)) = (self.origin, self.inner);
        // Room for the figure at the end of the longest.
        let scale = Scale::over(self.all(), false);
        let x = |value: f64| left + (width - 46.0) * scale.place(value);
        for (value, name) in &scale.ticks {
            svg.rule((x(*value), top), (x(*value), top + height));
            svg.text((x(*value), top + height + 16.0), "middle", "", name);
        }
        svg.text((left + width / 2.0, top + height + 36.0), "middle", "", self.chart.y);
        for (number, series) in self.chart.series.iter().enumerate() {
            let y = top + BAR * (number as f64 + 0.5);
            if first {
                svg.text((left - 8.0, y + 4.0), "end", "", series.name);
            }
            let Some(point) = self.chart.ticks.first().and_then(|tick| self.point(series, tick)) else {
                continue;
            };
            let ours = series.key.starts_with("selfie");
            svg.rect(
                (left, y - 8.0),
                (x(point.value) - left, 16.0),
                if ours { LOOKS[0].0 } else { "#9fb4c4" },
            );
            svg.whisker((x(point.low), y), (x(point.high), y), 4);
            svg.text((x(point.high.max(point.value)) + 6.0, y + 4.0), "start", "", &short(point.value));
        }
        svg.axes(self.origin, self.inner);
    }
}

/// From values to places between 0 and 1.
struct Scale {
    low: f64,
    high: f64,
    log: bool,
    ticks: Vec<(f64, String)>,
}

impl Scale {
    fn over(points: impl Iterator<Item = Point>, log: bool) -> Self {
        let (low, high) = points
            .fold((f64::INFINITY, 0f64), |(low, high), point| (low.min(point.low), high.max(point.high)));
        // Nothing was measured: any scale will do.
        let (low, high) = if high > 0.0 && low > 0.0 { (low, high) } else { (1.0, 10.0) };
        if log {
            let (low, high) = (low.log10().floor(), high.log10().ceil());
            let powers = (0..=12).map(|step| low + f64::from(step)).take_while(|power| *power <= high);
            let ticks = powers.map(|power| 10f64.powf(power)).map(|value| (value, plain(value))).collect();
            return Self { low, high, log, ticks };
        }
        let step = step(high);
        let count = (high / step).ceil();
        let ticks = (0..=10).map(|tick| f64::from(tick) * step).take_while(|value| *value <= count * step);
        Self { low: 0.0, high: count * step, log, ticks: ticks.map(|value| (value, plain(value))).collect() }
    }

    fn place(&self, value: f64) -> f64 {
        let value = if self.log { value.log10() } else { value };
        (value - self.low) / (self.high - self.low)
    }
}

/// A round number of which three to six make `high`.
fn step(high: f64) -> f64 {
    let power = 10f64.powf((high / 3.0).log10().floor());
    let step = [5.0, 2.0, 1.0].into_iter().find(|round| round * power <= high / 3.0);
    step.unwrap_or(1.0) * power
}

/// A number without zeros that say nothing.
fn plain(value: f64) -> String {
    let text = format!("{value:.4}");
    text.trim_end_matches('0').trim_end_matches('.').to_string()
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;")
}

struct Svg {
    text: String,
}

impl Svg {
    fn rect(&mut self, (x, y): (f64, f64), (width, height): (f64, f64), fill: &str) {
        let _ = writeln!(
            self.text,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{width:.1}\" height=\"{height:.1}\" fill=\"{fill}\"/>"
        );
    }

    fn text(&mut self, (x, y): (f64, f64), anchor: &str, more: &str, text: &str) {
        let _ = writeln!(
            self.text,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" fill=\"#222222\" {more}>{}</text>",
            escape(text)
        );
    }

    fn stroke(&mut self, (x1, y1): (f64, f64), (x2, y2): (f64, f64), more: &str) {
        let _ =
            writeln!(self.text, "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" {more}/>");
    }

    /// A line of the grid.
    fn rule(&mut self, from: (f64, f64), to: (f64, f64)) {
        self.stroke(from, to, "stroke=\"#dddddd\"");
    }

    fn axes(&mut self, (x, y): (f64, f64), (width, height): (f64, f64)) {
        self.stroke((x, y), (x, y + height), "stroke=\"#222222\"");
        self.stroke((x, y + height), (x + width, y + height), "stroke=\"#222222\"");
    }

    fn line(&mut self, from: (f64, f64), to: (f64, f64), look: usize) {
        let (colour, dashes) = LOOKS[look % LOOKS.len()];
        self.stroke(
            from,
            to,
            &format!("stroke=\"{colour}\" stroke-width=\"2\" stroke-dasharray=\"{dashes}\""),
        );
    }

    /// From the lowest to the highest round.
    fn whisker(&mut self, from: (f64, f64), to: (f64, f64), look: usize) {
        self.stroke(from, to, &format!("stroke=\"{}\" stroke-opacity=\"0.6\"", LOOKS[look % LOOKS.len()].0));
    }

    fn mark(&mut self, (x, y): (f64, f64), look: usize) {
        let look = look % LOOKS.len();
        let corners: &[(f64, f64)] = match look {
            1 => &[(-4.0, -4.0), (4.0, -4.0), (4.0, 4.0), (-4.0, 4.0)],
            2 => &[(0.0, -5.0), (5.0, 4.0), (-5.0, 4.0)],
            3 => &[(0.0, -5.5), (5.5, 0.0), (0.0, 5.5), (-5.5, 0.0)],
            4 => &[(-5.0, -4.0), (5.0, -4.0), (0.0, 5.0)],
            _ => &[],
        };
        let fill = if look == 5 { "#ffffff" } else { LOOKS[look].0 };
        let shape = if corners.is_empty() {
            format!("<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"4.5\"")
        } else {
            let places: Vec<_> =
                corners.iter().map(|(dx, dy)| format!("{:.1},{:.1}", x + dx, y + dy)).collect();
            format!("<polygon points=\"{}\"", places.join(" "))
        };
        let _ = writeln!(self.text, "{shape} fill=\"{fill}\" stroke=\"{}\"/>", LOOKS[look].0);
    }
}

#[cfg(test)]
mod tests {
    use super::super::chart::tests::SAMPLE;
    use super::*;

    /// Attributes of all elements of a name, as numbers.
    fn attributes(svg: &str, element: &str, name: &str) -> Vec<f64> {
        let (element, name) = (format!("<{element} "), format!(" {name}=\""));
        let elements = svg.split(&element).skip(1);
        let values = elements.filter_map(|rest| rest.split('>').next()?.split(&name).nth(1));
        values.filter_map(|value| value.split('"').next()?.parse().ok()).collect()
    }

    #[test]
    fn more_is_higher_up_and_all_is_inside_the_picture() {
        let mut figures = Figures::new();
        for (key, rounds) in [("ours.1", [10.0, 9.0, 12.0]), ("ours.2", [40.0, 40.0, 55.0])] {
            Point::of(&rounds).unwrap().store(&mut figures, &format!("sample.4k.{key}"));
        }
        for style in [Style::Lines, Style::LogLines] {
            let svg = draw(&Chart { style, ..SAMPLE }, &figures);
            // One of the legend, then one for each tick.
            let marks = attributes(&svg, "circle", "cy");
            assert!(matches!(marks[..], [_, low, high] if low > high), "{marks:?}");
            assert!(svg.contains("&lt;of&gt;") && !svg.contains("<of>"));
            let size = attributes(&svg, "svg", "width")[0].max(attributes(&svg, "svg", "height")[0]);
            for name in ["x1", "x2", "y1", "y2"] {
                let places = attributes(&svg, "line", name);
                assert!(places.iter().all(|place| (0.0..=size).contains(place)), "{name}: {places:?}");
            }
        }
        let svg = draw(&Chart { style: Style::Bars, ticks: &["2"], ..SAMPLE }, &figures);
        assert_eq!(attributes(&svg, "rect", "width").len(), 2);
    }

    #[test]
    fn axes_have_round_numbers_and_hold_all() {
        for high in [0.003, 0.9, 1.0, 7.3, 33.0, 100.0, 450.0, 12345.0] {
            let point = Point { value: high, low: high / 2.0, high };
            let scale = Scale::over([point].into_iter(), false);
            assert!((3..=8).contains(&scale.ticks.len()), "{high}: {:?}", scale.ticks);
            assert!(scale.place(high) <= 1.0 + 1e-9 && scale.place(high) > 0.5);
        }
        assert_eq!(plain(0.5), "0.5");
        assert_eq!(plain(200.0), "200");
        let scale = Scale::over(std::iter::empty(), true);
        assert!(scale.place(5.0).is_finite());
    }
}
