//! Elements of a picture, one after the other.

use std::fmt::{Display, Write as _};

use super::palette::{self, Mark};

/// Where colours come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ink {
    /// Variables that a page around the picture defines, so that it turns dark with the page.
    Page,
    /// Variables that the picture defines itself, by `prefers-color-scheme`.
    Alone,
    /// Written out, light: for what knows no variables.
    Light,
    /// Written out, dark.
    Dark,
}

/// The height of the letters, in pixels.
pub(super) const LETTER: f64 = 12.0;

/// How much room there is around everything, in pixels.
const RIM: f64 = 6.0;

/// How a text stands to its point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Anchor {
    Start,
    Middle,
    End,
}

/// A picture being drawn.
#[derive(Debug)]
pub(super) struct Svg {
    ink: Ink,
    width: f64,
    body: String,
}

/// About how wide a text is, in pixels at the size of axis labels. Errs on the wide side: nothing may overlap.
pub fn text_width(text: &str) -> f64 {
    let letters: f64 = text
        .chars()
        .map(|letter| match letter {
            'i' | 'j' | 'l' | '.' | ',' | ':' | ' ' | '\'' | '|' => 0.36,
            'f' | 'r' | 't' | '(' | ')' | '/' | '-' => 0.44,
            'm' | 'w' | 'M' | 'W' | '%' => 1.0,
            letter if letter.is_uppercase() => 0.74,
            _ => 0.65,
        })
        .sum();
    letters * LETTER
}

/// A number as SVG has it: hundredths of a pixel are enough.
fn short(value: f64) -> String {
    let text = format!("{value:.2}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// A text as XML has it.
pub(super) fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

impl Svg {
    pub(super) fn new(ink: Ink, width: f64) -> Self {
        Self {
            ink,
            width,
            body: String::new(),
        }
    }

    fn add(&mut self, element: impl Display) {
        // A String takes everything.
        let _ = writeln!(self.body, "{element}");
    }

    fn colour(&self, name: &str) -> String {
        palette::colour(self.ink, name)
    }

    pub(super) fn line(&mut self, from: (f64, f64), to: (f64, f64), colour: &str, width: f64) {
        let colour = self.colour(colour);
        self.add(format_args!(
            r#"<path d="M{} {}L{} {}" style="stroke:{colour};stroke-width:{};fill:none"/>"#,
            short(from.0),
            short(from.1),
            short(to.0),
            short(to.1),
            short(width)
        ));
    }

    pub(super) fn path(&mut self, points: &[(f64, f64)], colour: &str, width: f64, dash: &str) {
        let mut way = String::new();
        for (at, (x, y)) in points.iter().enumerate() {
            let _ = write!(way, "{}{} {}", if at == 0 { "M" } else { "L" }, short(*x), short(*y));
        }
        let colour = self.colour(colour);
        let dash = if dash.is_empty() {
            String::new()
        } else {
            format!(";stroke-dasharray:{dash}")
        };
        self.add(format_args!(
            r#"<path d="{way}" style="stroke:{colour};stroke-width:{};fill:none;stroke-linejoin:round{dash}"/>"#,
            short(width)
        ));
    }

    /// A marker, filled unless it is `hollow`, on a rim of the background that keeps it apart from lines.
    pub(super) fn mark(&mut self, at: (f64, f64), mark: Mark, colour: &str, hollow: bool) {
        let (x, y) = at;
        let outline: &[(f64, f64)] = match mark {
            Mark::Circle => &[],
            Mark::Square => &[(-3.6, -3.6), (3.6, -3.6), (3.6, 3.6), (-3.6, 3.6)],
            Mark::Diamond => &[(0.0, -5.2), (5.2, 0.0), (0.0, 5.2), (-5.2, 0.0)],
            Mark::Up => &[(0.0, -5.0), (4.8, 3.6), (-4.8, 3.6)],
            Mark::Down => &[(0.0, 5.0), (4.8, -3.6), (-4.8, -3.6)],
            Mark::Bar => &[(-1.5, -8.0), (1.5, -8.0), (1.5, 8.0), (-1.5, 8.0)],
            Mark::Cross => &[
                (-4.6, -2.6),
                (-2.6, -4.6),
                (0.0, -2.0),
                (2.6, -4.6),
                (4.6, -2.6),
                (2.0, 0.0),
                (4.6, 2.6),
                (2.6, 4.6),
                (0.0, 2.0),
                (-2.6, 4.6),
                (-4.6, 2.6),
                (-2.0, 0.0),
            ],
        };
        let (ink, ground) = (self.colour(colour), self.colour("ground"));
        let (fill, stroke, width) = if hollow { (ground, ink, 2.0) } else { (ink, ground, 1.0) };
        let style = format!("fill:{fill};stroke:{stroke};stroke-width:{}", short(width));
        if outline.is_empty() {
            self.add(format_args!(
                r#"<circle cx="{}" cy="{}" r="4.2" style="{style}"/>"#,
                short(x),
                short(y)
            ));
        } else {
            let points: Vec<String> = outline
                .iter()
                .map(|(dx, dy)| format!("{},{}", short(x + dx), short(y + dy)))
                .collect();
            self.add(format_args!(
                r#"<polygon points="{}" style="{style}"/>"#,
                points.join(" ")
            ));
        }
    }

    pub(super) fn text(&mut self, at: (f64, f64), anchor: Anchor, colour: &str, text: &str) {
        self.words(at, anchor, colour, text, "");
    }

    pub(super) fn bold(&mut self, at: (f64, f64), anchor: Anchor, colour: &str, text: &str) {
        self.words(at, anchor, colour, text, ";font-weight:600");
    }

    fn words(&mut self, at: (f64, f64), anchor: Anchor, colour: &str, text: &str, more: &str) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let colour = self.colour(colour);
        self.add(format_args!(
            r#"<text x="{}" y="{}" text-anchor="{anchor}" style="fill:{colour}{more}">{}</text>"#,
            short(at.0),
            short(at.1),
            escape(text)
        ));
    }

    /// The picture, of this height; `title` is what a screen reader says, `about` what it says on asking.
    pub(super) fn finish(self, height: f64, title: &str, about: &str) -> String {
        // A rim, so that what stands at the edge is not cut.
        let view = format!(
            "{} {} {} {}",
            short(-RIM),
            short(-RIM),
            short(self.width + 2.0 * RIM),
            short(height + 2.0 * RIM)
        );
        let (width, height) = (short(self.width + 2.0 * RIM), short(height + 2.0 * RIM));
        let style = match self.ink {
            Ink::Alone => format!("<style>{}</style>\n", palette::STYLE.replace(":root", "svg")),
            _ => String::new(),
        };
        let ground = match self.ink {
            Ink::Page => String::new(),
            _ => format!(
                "<rect x=\"-{RIM}\" y=\"-{RIM}\" width=\"{width}\" height=\"{height}\" style=\"fill:{}\"/>\n",
                palette::colour(self.ink, "ground")
            ),
        };
        // A picture in a page takes the page's letters; alone it needs a family that is there.
        let family = "system-ui, 'DejaVu Sans', sans-serif";
        format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"{view}\" width=\"{width}\" \
             height=\"{height}\" role=\"img\" style=\"font-family:{family};font-size:{LETTER}px\">\n<title>{}</title>\n\
             <desc>{}</desc>\n{style}{ground}{}</svg>\n",
            escape(title),
            escape(about),
            self.body
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_outside_cannot_open_an_element() {
        let mut svg = Svg::new(Ink::Page, 100.0);
        svg.text((0.0, 0.0), Anchor::Start, "text", "<script>&\"");
        let text = svg.finish(50.0, "a < b", "");
        assert!(
            text.contains("&lt;script&gt;&amp;&quot;") && text.contains("<title>a &lt; b</title>"),
            "{text}"
        );
    }

    #[test]
    fn only_a_picture_alone_brings_its_own_colours_along() {
        let picture = |ink| {
            let mut svg = Svg::new(ink, 100.0);
            svg.line((0.0, 0.0), (1.0, 1.0), "cluster", 1.0);
            svg.finish(50.0, "", "")
        };
        assert!(picture(Ink::Alone).contains("prefers-color-scheme"));
        assert!(!picture(Ink::Page).contains("<style>") && picture(Ink::Page).contains("var(--cluster)"));
        assert!(!picture(Ink::Light).contains("var("), "{}", picture(Ink::Light));
        assert_ne!(picture(Ink::Light), picture(Ink::Dark));
    }

    #[test]
    fn numbers_are_short() {
        assert_eq!(
            [short(1.0), short(0.126), short(-3.5), short(100.0)],
            ["1", "0.13", "-3.5", "100"].map(str::to_owned)
        );
    }
}
