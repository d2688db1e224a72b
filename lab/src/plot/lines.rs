//! Lines along two logarithmic axes, each with its name at its end.

use super::palette::{Mark, style};
use super::scale::{Scale, label, number};
use super::svg::{Anchor, Ink, LETTER, Svg, text_width};

/// One series: its name is a candidate's, which says how it looks.
#[derive(Clone, Debug)]
pub struct Line {
    /// What stands at its end.
    pub name: String,
    /// Along and up. Those that a logarithm has no place for are left out.
    pub points: Vec<(f64, f64)>,
}

/// A picture of lines.
#[derive(Clone, Debug)]
pub struct Lines {
    /// What it shows, for who cannot see it.
    pub title: String,
    /// What is along, with its unit.
    pub along: String,
    /// What is up, with its unit.
    pub up: String,
    /// The series.
    pub lines: Vec<Line>,
    /// Values along that were measured: only these are written at the axis.
    pub steps: Vec<f64>,
}

/// How far apart the names at the ends are at least, in pixels.
const APART: f64 = 15.0;

impl Lines {
    /// Draws it so wide.
    pub fn draw(&self, ink: Ink, width: f64) -> String {
        let all = || self.lines.iter().flat_map(|line| &line.points);
        let names = self.lines.iter().map(|line| text_width(&line.name)).fold(0.0, f64::max);
        let (top, height) = (34.0, if width < 500.0 { 330.0 } else { 400.0 });
        let (bottom, left) = (top + height, 58.0);
        let right = width - names - 26.0;
        let up = Scale::log(all().map(|point| point.1), (bottom, top));
        // The ends are at values that were measured: no room is given to what was not.
        let along = Scale::between(&self.steps, (left + 10.0, right));

        let mut svg = Svg::new(ink, width);
        svg.text(
            (0.0, 14.0),
            Anchor::Start,
            "quiet",
            &format!("{} (logarithmic)", self.up),
        );
        for tick in up.ticks() {
            let y = up.at(tick);
            svg.line((left, y), (right, y), "grid", 1.0);
            svg.text((left - 8.0, y + 4.0), Anchor::End, "quiet", &label(tick));
        }
        svg.line((left, bottom), (right, bottom), "quiet", 1.0);
        let mut free = f64::NEG_INFINITY;
        for step in &self.steps {
            let (x, text) = (along.at(*step), label(*step));
            svg.line((x, bottom), (x, bottom + 5.0), "quiet", 1.0);
            let half = text_width(&text) / 2.0;
            if x - half > free {
                svg.text((x, bottom + 19.0), Anchor::Middle, "quiet", &text);
                free = x + half + 4.0;
            }
        }
        svg.text(
            (left, bottom + 38.0),
            Anchor::Start,
            "quiet",
            &format!("{} (logarithmic)", self.along),
        );

        let drawn: Vec<(&Line, Vec<(f64, f64)>)> = self
            .lines
            .iter()
            .map(|line| {
                let held = line.points.iter().filter(|(x, y)| along.holds(*x) && up.holds(*y));
                (line, held.map(|(x, y)| (along.at(*x), up.at(*y))).collect())
            })
            .collect();
        for (line, points) in &drawn {
            let style = style(&line.name);
            svg.path(points, style.colour, f64::from(style.tenths) / 10.0, style.dash);
        }
        for (line, points) in &drawn {
            let style = style(&line.name);
            for point in points {
                svg.mark(*point, style.mark, style.colour, false);
            }
        }
        let ends: Vec<(&str, (f64, f64))> = drawn
            .iter()
            .filter_map(|(line, points)| Some((line.name.as_str(), *points.last()?)))
            .collect();
        let places = spread(&ends.iter().map(|(_, end)| end.1).collect::<Vec<_>>(), top, bottom);
        for ((name, end), y) in ends.iter().zip(places) {
            let colour = style(name).colour;
            let x = right + 18.0;
            svg.path(&[(end.0 + 6.0, end.1), (x - 8.0, y), (x - 3.0, y)], colour, 0.8, "");
            svg.text((x, y + 4.0), Anchor::Start, colour, name);
        }
        svg.finish(bottom + 46.0, &self.title, &self.about())
    }

    /// The last value of each line in words.
    fn about(&self) -> String {
        let last = self.lines.iter().filter_map(|line| {
            let (x, y) = line.points.last()?;
            Some(format!("{}: {} at {}", line.name, number(*y), label(*x)))
        });
        format!(
            "{} against {}. {}.",
            self.up,
            self.along,
            last.collect::<Vec<_>>().join("; ")
        )
    }
}

/// Where names stand so that none covers another: as near to where they belong as that leaves them, in their order.
fn spread(wanted: &[f64], top: f64, bottom: f64) -> Vec<f64> {
    let mut order: Vec<usize> = (0..wanted.len()).collect();
    order.sort_by(|a, b| wanted[*a].total_cmp(&wanted[*b]));
    let mut places = vec![0.0; wanted.len()];
    // Groups of names that touch: each is centred on where its members belong, and joined to the one it runs into.
    let mut groups: Vec<(f64, usize)> = Vec::new();
    let reach = |centre: f64, count: usize| {
        let half = APART * (count as f64 - 1.0) / 2.0;
        let centre = centre.min(bottom - half).max(top + half);
        (centre, centre - half, centre + half)
    };
    for index in &order {
        let mut group = (wanted[*index], 1);
        while let Some(above) = groups.last().copied() {
            if reach(above.0, above.1).2 + APART <= reach(group.0, group.1).1 {
                break;
            }
            let count = above.1 + group.1;
            let centre = (above.0 * above.1 as f64 + group.0 * group.1 as f64) / count as f64;
            group = (centre, count);
            groups.pop();
        }
        groups.push(group);
    }
    let mut order = order.into_iter();
    for (centre, count) in groups {
        let first = reach(centre, count).1;
        for (at, index) in order.by_ref().take(count).enumerate() {
            places[index] = first + APART * at as f64;
        }
    }
    places
}

/// A legend of marks in one row or more; returns where it ends.
pub(super) fn legend(svg: &mut Svg, width: f64, entries: &[(&str, Mark, &str, bool)]) -> f64 {
    let (mut x, mut y) = (6.0, 12.0);
    for (name, mark, colour, hollow) in entries {
        let room = text_width(name) + 30.0;
        if x + room > width && x > 6.0 {
            (x, y) = (6.0, y + LETTER + 8.0);
        }
        svg.mark((x, y - 4.0), *mark, colour, *hollow);
        svg.text((x + 11.0, y), Anchor::Start, "text", name);
        x += room;
    }
    y
}

#[cfg(test)]
mod tests {
    use super::*;

    fn picture() -> Lines {
        Lines {
            title: "Throughput".to_owned(),
            along: "connections".to_owned(),
            up: "requests/s".to_owned(),
            lines: ["sync", "event", "cluster"]
                .map(|name| Line {
                    name: name.to_owned(),
                    points: vec![(1.0, 97.0), (16.0, 1550.0), (256.0, 9000.0)],
                })
                .to_vec(),
            steps: vec![1.0, 16.0, 256.0],
        }
    }

    #[test]
    fn names_at_the_ends_never_cover_each_other() {
        let cases: [&[f64]; 4] = [
            &[100.0, 100.0, 100.0],
            &[50.0, 52.0, 200.0, 201.0, 202.0],
            &[390.0, 399.0, 400.0, 395.0],
            &[0.0, 1.0, 2.0],
        ];
        for wanted in cases {
            let mut places = spread(wanted, 0.0, 400.0);
            places.sort_by(f64::total_cmp);
            assert!(
                places.windows(2).all(|pair| pair[1] - pair[0] >= APART - 1e-9),
                "{wanted:?}: {places:?}"
            );
            assert!(
                places.iter().all(|place| (0.0..=400.0).contains(place)),
                "{wanted:?}: {places:?}"
            );
        }
    }

    #[test]
    fn names_stay_where_they_belong_when_there_is_room_and_keep_their_order() {
        assert_eq!(spread(&[300.0, 100.0], 0.0, 400.0), [300.0, 100.0]);
        let places = spread(&[101.0, 100.0, 102.0], 0.0, 400.0);
        assert!(places[1] < places[0] && places[0] < places[2], "{places:?}");
    }

    #[test]
    fn only_values_that_were_measured_stand_along_and_every_axis_has_its_unit() {
        let text = picture().draw(Ink::Light, 700.0);
        for wanted in [
            ">1<",
            ">16<",
            ">256<",
            "connections (logarithmic)",
            "requests/s (logarithmic)",
            ">cluster<",
        ] {
            assert!(text.contains(wanted), "{wanted}");
        }
        assert!(!text.contains(">2<") && !text.contains("NaN"));
    }

    #[test]
    fn a_picture_of_nothing_and_of_zeros_can_be_drawn() {
        let mut picture = picture();
        picture.lines[0].points = vec![(1.0, 0.0), (0.0, 5.0)];
        picture.lines[1].points.clear();
        assert!(!picture.draw(Ink::Alone, 360.0).contains("NaN"));
        picture.lines.clear();
        picture.steps.clear();
        assert!(!picture.draw(Ink::Alone, 360.0).contains("NaN"));
    }
}
