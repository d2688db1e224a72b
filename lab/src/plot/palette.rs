//! Colours that also those see apart who see few, and marks and dashes for everybody else.

use super::svg::Ink;

/// The shape of a point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mark {
    /// ●
    Circle,
    /// ■
    Square,
    /// ◆
    Diamond,
    /// ▲
    Up,
    /// ▼
    Down,
    /// A vertical bar.
    Bar,
    /// ✖
    Cross,
}

/// How a series looks: never told apart by colour alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Style {
    /// A name of the palette.
    pub colour: &'static str,
    /// The shape of its points.
    pub mark: Mark,
    /// As in `stroke-dasharray`; empty for a solid line.
    pub dash: &'static str,
    /// How wide its line is, in tenths of a pixel.
    pub tenths: u8,
}

/// Name, light, dark. Each has a contrast of at least 4.5 with its ground: a test counts it.
const COLOURS: [(&str, &str, &str); 15] = [
    ("ground", "#ffffff", "#15181d"),
    ("text", "#1b1f24", "#e8eaed"),
    ("quiet", "#59616b", "#a3abb5"),
    ("grid", "#e3e6ea", "#2c323a"),
    ("sync", "#5c5c5c", "#b4b4b4"),
    ("fork", "#b8460e", "#ff9a6b"),
    ("prefork", "#8a6100", "#e5b840"),
    ("threads", "#a8327c", "#f28ac8"),
    ("pool", "#6d4fc2", "#b9a0ff"),
    ("event", "#00735a", "#3fcf9f"),
    ("cluster", "#0b57b0", "#6cb4ff"),
    ("cluster-shared", "#0e6f86", "#5fcbe3"),
    ("cluster-kernel", "#3c4aa8", "#98a6ff"),
    ("good", "#00735a", "#3fcf9f"),
    ("bad", "#b3261e", "#ff8a80"),
];

/// The colours as variables of CSS, light and dark; a test holds them to the table above.
pub const STYLE: &str = ":root{--ground:#ffffff;--text:#1b1f24;--quiet:#59616b;--grid:#e3e6ea;--sync:#5c5c5c;--fork:#b8460e;\
--prefork:#8a6100;--threads:#a8327c;--pool:#6d4fc2;--event:#00735a;--cluster:#0b57b0;--cluster-shared:#0e6f86;\
--cluster-kernel:#3c4aa8;--good:#00735a;--bad:#b3261e}\
@media(prefers-color-scheme:dark){:root{--ground:#15181d;--text:#e8eaed;--quiet:#a3abb5;--grid:#2c323a;--sync:#b4b4b4;\
--fork:#ff9a6b;--prefork:#e5b840;--threads:#f28ac8;--pool:#b9a0ff;--event:#3fcf9f;--cluster:#6cb4ff;\
--cluster-shared:#5fcbe3;--cluster-kernel:#98a6ff;--good:#3fcf9f;--bad:#ff8a80}}";

/// The style of a candidate; peers, which have none of their own, are quiet.
pub fn style(candidate: &str) -> Style {
    let of = |colour, mark, dash, tenths| Style {
        colour,
        mark,
        dash,
        tenths,
    };
    match candidate {
        "sync" => of("sync", Mark::Square, "2 3", 18),
        "fork" => of("fork", Mark::Up, "7 3", 18),
        "prefork" => of("prefork", Mark::Diamond, "", 18),
        "threads" => of("threads", Mark::Down, "9 3 2 3", 18),
        "pool" => of("pool", Mark::Square, "5 3", 18),
        "event" => of("event", Mark::Cross, "", 18),
        "cluster" => of("cluster", Mark::Circle, "", 28),
        "cluster-shared" => of("cluster-shared", Mark::Circle, "6 3", 18),
        "cluster-kernel" => of("cluster-kernel", Mark::Circle, "2 3", 18),
        _ => of("quiet", Mark::Diamond, "3 3", 15),
    }
}

/// A colour as it is written into a picture.
pub(super) fn colour(ink: Ink, name: &str) -> String {
    let (_, light, dark) = COLOURS.iter().find(|(known, ..)| *known == name).unwrap_or(&COLOURS[1]);
    match ink {
        Ink::Page | Ink::Alone => format!("var(--{name})"),
        Ink::Light => (*light).to_owned(),
        Ink::Dark => (*dark).to_owned(),
    }
}

#[cfg(test)]
#[expect(clippy::expect_used, reason = "a test fails by panicking")]
mod tests {
    use super::*;

    /// Relative luminance as WCAG 2.2 defines it.
    fn luminance(hex: &str) -> f64 {
        let part = |at: usize| {
            let value = f64::from(u8::from_str_radix(&hex[at..at + 2], 16).expect("hexadecimal")) / 255.0;
            if value <= 0.040_45 {
                value / 12.92
            } else {
                ((value + 0.055) / 1.055).powf(2.4)
            }
        };
        0.2126 * part(1) + 0.7152 * part(3) + 0.0722 * part(5)
    }

    fn contrast(a: &str, b: &str) -> f64 {
        let (a, b) = (luminance(a), luminance(b));
        (a.max(b) + 0.05) / (a.min(b) + 0.05)
    }

    #[test]
    fn every_colour_can_be_read_on_its_ground() {
        let (_, light, dark) = COLOURS[0];
        for (name, on_light, on_dark) in &COLOURS[1..] {
            if *name != "grid" {
                assert!(
                    contrast(on_light, light) >= 4.5,
                    "{name}: {}",
                    contrast(on_light, light)
                );
                assert!(contrast(on_dark, dark) >= 4.5, "{name}: {}", contrast(on_dark, dark));
            }
        }
    }

    #[test]
    fn the_variables_are_the_table() {
        let list = |of: fn(&(&'static str, &'static str, &'static str)) -> &'static str| {
            let all: Vec<String> = COLOURS.iter().map(|row| format!("--{}:{}", row.0, of(row))).collect();
            all.join(";")
        };
        let (light, dark) = (list(|row| row.1), list(|row| row.2));
        assert_eq!(
            STYLE,
            format!(":root{{{light}}}@media(prefers-color-scheme:dark){{:root{{{dark}}}}}")
        );
    }

    #[test]
    fn no_two_models_look_alike_without_colour() {
        let models = [
            "sync",
            "fork",
            "prefork",
            "threads",
            "pool",
            "event",
            "cluster",
            "cluster-shared",
            "cluster-kernel",
        ];
        for (at, one) in models.iter().enumerate() {
            for other in &models[at + 1..] {
                let (a, b) = (style(one), style(other));
                assert!((a.mark, a.dash) != (b.mark, b.dash), "{one} and {other}");
            }
        }
    }
}
