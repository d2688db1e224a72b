//! Candidates one below the other, each with some points on one logarithmic axis.

use super::lines::legend;
use super::palette::Mark;
use super::scale::{Scale, label, number};
use super::svg::{Anchor, Ink, Svg, text_width};

/// What kind a point is: the same for all rows.
#[derive(Clone, Debug)]
pub struct Dot {
    /// What the legend says.
    pub name: String,
    /// Its shape.
    pub mark: Mark,
    /// A colour of the palette.
    pub colour: &'static str,
    /// Whether only its rim is drawn.
    pub hollow: bool,
}

/// One candidate.
#[derive(Clone, Debug)]
pub struct Row {
    /// Its name; that of a group if it has no values.
    pub name: String,
    /// A value for each kind of point, where there is one.
    pub values: Vec<Option<f64>>,
    /// What stands behind it.
    pub note: String,
}

/// A picture of rows.
#[derive(Clone, Debug)]
pub struct Rows {
    /// What it shows, for who cannot see it.
    pub title: String,
    /// What the axis is, with its unit.
    pub along: String,
    /// The kinds of points.
    pub dots: Vec<Dot>,
    /// The rows.
    pub rows: Vec<Row>,
}

/// The height of a row, in pixels.
const HEIGHT: f64 = 25.0;

impl Rows {
    /// Draws it so wide.
    pub fn draw(&self, ink: Ink, width: f64) -> String {
        let mut svg = Svg::new(ink, width);
        let entries: Vec<(&str, Mark, &str, bool)> = self
            .dots
            .iter()
            .map(|dot| (dot.name.as_str(), dot.mark, dot.colour, dot.hollow))
            .collect();
        // A single kind is told by the axis.
        let top = if entries.len() > 1 {
            legend(&mut svg, width, &entries) + 14.0
        } else {
            0.0
        };
        let widest = |of: fn(&Row) -> &str| {
            let rows = self.rows.iter().filter(|row| !row.values.is_empty());
            rows.map(|row| text_width(of(row))).fold(0.0, f64::max)
        };
        let left = widest(|row| &row.name) + 14.0;
        let right = width - widest(|row| &row.note) - 16.0;
        let values = self.rows.iter().flat_map(|row| row.values.iter().flatten().copied());
        let along = Scale::log(values, (left, right));
        let bottom = top + HEIGHT * self.rows.len() as f64;
        for tick in along.ticks() {
            let (x, text) = (along.at(tick), label(tick));
            // Not through the names of groups.
            for (at, _) in self.rows.iter().enumerate().filter(|(_, row)| !row.values.is_empty()) {
                let y = top + HEIGHT * at as f64;
                svg.line((x, y), (x, y + HEIGHT), "grid", 1.0);
            }
            svg.text((x, bottom + 17.0), Anchor::Middle, "quiet", &text);
        }
        svg.line((left, bottom), (right, bottom), "quiet", 1.0);
        let axis = format!("{} (logarithmic)", self.along);
        let start = left.min(width - text_width(&axis)).max(0.0);
        svg.text((start, bottom + 37.0), Anchor::Start, "quiet", &axis);
        for (at, row) in self.rows.iter().enumerate() {
            let y = top + HEIGHT * (at as f64 + 0.5);
            if row.values.is_empty() {
                svg.bold((0.0, y + 4.0), Anchor::Start, "text", &row.name);
                continue;
            }
            svg.text((left - 12.0, y + 4.0), Anchor::End, "text", &row.name);
            let held: Vec<(f64, &Dot)> = row
                .values
                .iter()
                .zip(&self.dots)
                .filter_map(|(value, dot)| {
                    value
                        .filter(|value| along.holds(*value))
                        .map(|value| (along.at(value), dot))
                })
                .collect();
            let ends = held
                .iter()
                .fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), (x, _)| {
                    (low.min(*x), high.max(*x))
                });
            if ends.0 < ends.1 {
                svg.line((ends.0, y), (ends.1, y), "quiet", 1.2);
            }
            for (x, dot) in held {
                svg.mark((x, y), dot.mark, dot.colour, dot.hollow);
            }
            svg.text((right + 14.0, y + 4.0), Anchor::Start, "quiet", &row.note);
        }
        svg.finish(bottom + 45.0, &self.title, &self.about())
    }

    /// All of it in words.
    fn about(&self) -> String {
        let rows = self.rows.iter().map(|row| {
            let values = row
                .values
                .iter()
                .zip(&self.dots)
                .filter_map(|(value, dot)| value.map(|value| format!("{} {}", dot.name, number(value))));
            format!("{}: {}", row.name, values.collect::<Vec<_>>().join(", "))
        });
        format!("{}. {}.", self.along, rows.collect::<Vec<_>>().join("; "))
    }
}

#[cfg(test)]
#[expect(clippy::expect_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    fn picture() -> Rows {
        let dot = |name: &str, mark| Dot {
            name: name.to_owned(),
            mark,
            colour: "cluster",
            hollow: false,
        };
        let row = |name: &str, values: &[Option<f64>]| Row {
            name: name.to_owned(),
            values: values.to_vec(),
            note: "1.2 s".to_owned(),
        };
        Rows {
            title: "Latency".to_owned(),
            along: "ms".to_owned(),
            dots: vec![dot("median", Mark::Circle), dot("99.9 %", Mark::Up)],
            rows: vec![
                row("models", &[]),
                row("sync", &[Some(0.2), Some(1200.0)]),
                row("cluster-kernel", &[Some(0.1), None]),
            ],
        }
    }

    #[test]
    fn each_row_has_its_name_its_note_and_only_the_points_it_has() {
        let text = picture().draw(Ink::Light, 700.0);
        // One of each kind in the legend.
        assert_eq!(text.matches("<circle").count(), 3);
        assert_eq!(text.matches("<polygon").count(), 2);
        for wanted in [">sync<", ">models<", ">1.2 s<", ">ms (logarithmic)<", ">99.9 %<"] {
            assert!(text.contains(wanted), "{wanted}");
        }
    }

    #[test]
    fn a_legend_that_is_too_long_goes_on_below() {
        let mut narrow = picture();
        narrow.dots = ["one of the kinds", "another of the kinds", "the last of the kinds"]
            .map(|name| Dot {
                name: name.to_owned(),
                ..narrow.dots[0].clone()
            })
            .to_vec();
        let height = |width| {
            let text = narrow.draw(Ink::Light, width);
            text.split("height=\"")
                .nth(1)
                .and_then(|rest| rest.split('"').next()?.parse::<f64>().ok())
                .expect("a height")
        };
        assert!(height(300.0) > height(900.0));
    }

    #[test]
    fn nothing_to_show_is_no_reason_to_fail() {
        let mut empty = picture();
        empty.rows.clear();
        assert!(!empty.draw(Ink::Light, 360.0).contains("NaN"));
        let mut zeros = picture();
        zeros.rows[1].values = vec![Some(0.0), Some(f64::NAN)];
        zeros.rows[2].values = vec![None, None];
        assert!(!zeros.draw(Ink::Light, 360.0).contains("NaN"));
    }
}
