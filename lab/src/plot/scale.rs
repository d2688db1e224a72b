//! From values to pixels, and the numbers that stand at an axis.

/// Thousands apart, and three digits that mean something.
pub fn number(value: f64) -> String {
    if !value.is_finite() {
        return "–".to_owned();
    }
    let digits = match value.abs() {
        v if v >= 99.95 || v == 0.0 => 0,
        v if v >= 9.995 => 1,
        v if v >= 0.1 => 2,
        _ => 3,
    };
    let text = format!("{value:.digits$}");
    let (whole, fraction) = text.split_once('.').unwrap_or((&text, ""));
    let bare = whole.trim_start_matches('-');
    let mut out = String::from(if bare.len() < whole.len() { "−" } else { "" });
    for (at, digit) in bare.chars().enumerate() {
        if at > 0 && (bare.len() - at) % 3 == 0 {
            // A narrow space that does not break.
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    if !fraction.is_empty() {
        out.push('.');
        out.push_str(fraction);
    }
    out
}

/// What is counted, thousands apart.
pub fn count(value: f64) -> String {
    let text = number(value.round());
    text.split_once('.').map_or(text.clone(), |(whole, _)| whole.to_owned())
}

/// A round number at an axis: with no more digits than it has.
pub(super) fn label(value: f64) -> String {
    if value >= 10.0 {
        return count(value);
    }
    let text = format!("{value:.6}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}

/// An axis: values on one side, pixels on the other.
#[derive(Clone, Copy, Debug)]
pub struct Scale {
    from: f64,
    to: f64,
    log: bool,
    /// The pixels of `from` and `to`.
    pixels: (f64, f64),
}

impl Scale {
    /// From zero to somewhat more than the greatest value.
    pub fn linear(values: impl IntoIterator<Item = f64>, pixels: (f64, f64)) -> Self {
        let most = values.into_iter().filter(|v| v.is_finite()).fold(0.0, f64::max);
        let step = step(if most > 0.0 { most } else { 1.0 });
        Self {
            from: 0.0,
            to: (most / step).ceil().max(1.0) * step,
            log: false,
            pixels,
        }
    }

    /// Logarithmic: from 1, 2 or 5 times a power of ten to another one, with all values between. Values that are not above
    /// zero have no place on it.
    pub fn log(values: impl IntoIterator<Item = f64>, pixels: (f64, f64)) -> Self {
        let (mut least, mut most) = (f64::INFINITY, 0.0_f64);
        for value in values.into_iter().filter(|v| v.is_finite() && *v > 0.0) {
            least = least.min(value);
            most = most.max(value);
        }
        if most == 0.0 {
            (least, most) = (1.0, 10.0);
        }
        let (from, mut to) = (round(least, f64::floor), round(most, f64::ceil));
        if to <= from {
            to = from * 10.0;
        }
        Self {
            from,
            to,
            log: true,
            pixels,
        }
    }

    /// Logarithmic, from the least of some values to the greatest.
    pub fn between(values: &[f64], pixels: (f64, f64)) -> Self {
        let mut scale = Self::log(values.iter().copied(), pixels);
        let held = || values.iter().copied().filter(|value| scale.holds(*value));
        let (least, most) = (held().fold(f64::INFINITY, f64::min), held().fold(0.0, f64::max));
        if least < most {
            (scale.from, scale.to) = (least, most);
        }
        scale
    }

    /// The pixel of a value; those outside stand at the edge.
    pub fn at(&self, value: f64) -> f64 {
        let part = if self.log {
            (value.max(self.from).ln() - self.from.ln()) / (self.to.ln() - self.from.ln())
        } else {
            (value - self.from) / (self.to - self.from)
        };
        self.pixels.0 + part.clamp(0.0, 1.0) * (self.pixels.1 - self.pixels.0)
    }

    /// Whether a value has a place on it.
    pub fn holds(&self, value: f64) -> bool {
        value.is_finite() && (!self.log || value > 0.0)
    }

    /// The values that are written at it.
    pub fn ticks(&self) -> Vec<f64> {
        if !self.log {
            let step = step(self.to);
            return (0..=(self.to / step).round() as usize)
                .map(|at| at as f64 * step)
                .collect();
        }
        let decades = (self.to / self.from).log10();
        let room = (self.pixels.1 - self.pixels.0).abs();
        // The finest that leaves 45 pixels to each.
        let factors: &[f64] = match room / decades {
            v if v >= 135.0 => &[1.0, 2.0, 5.0],
            v if v >= 45.0 => &[1.0],
            _ => &[],
        };
        let mut ticks = Vec::new();
        let first = self.from.log10().floor() as i32;
        let last = self.to.log10().ceil() as i32;
        for exponent in first..=last {
            let every_second = factors.is_empty();
            if every_second && (exponent - first) % 2 != 0 {
                continue;
            }
            for factor in if every_second { &[1.0] } else { factors } {
                let value = factor * 10_f64.powi(exponent);
                // Binary fractions miss a bound by a hair.
                if value >= self.from * 0.999 && value <= self.to * 1.001 {
                    ticks.push(value);
                }
            }
        }
        ticks
    }
}

/// 1, 2 or 5 times a power of ten, so that four to ten of them make the value.
fn step(most: f64) -> f64 {
    let raw = most / 5.0;
    let power = 10_f64.powf(raw.log10().floor());
    match raw / power {
        part if part < 1.5 => power,
        part if part < 3.5 => 2.0 * power,
        part if part < 7.5 => 5.0 * power,
        _ => 10.0 * power,
    }
}

/// The nearest of 1, 2 and 5 times a power of ten, above or below.
fn round(value: f64, direction: fn(f64) -> f64) -> f64 {
    let power = 10_f64.powf(value.log10().floor());
    let part = value / power;
    let up = direction(0.5) > 0.5;
    let factors = [1.0, 2.0, 5.0, 10.0];
    // Binary fractions miss a bound by a hair.
    let factor = if up {
        factors.into_iter().find(|factor| *factor >= part * 0.999_999)
    } else {
        factors.into_iter().rev().find(|factor| *factor <= part * 1.000_001)
    };
    factor.unwrap_or(1.0) * power
}

#[cfg(test)]
mod tests {
    use super::*;

    fn close(a: &[f64], b: &[f64]) -> bool {
        a.len() == b.len() && a.iter().zip(b).all(|(a, b)| (a - b).abs() < 1e-9 * b.abs().max(1.0))
    }

    #[test]
    fn a_linear_axis_begins_at_zero_and_ends_at_a_round_number() {
        let scale = Scale::linear([130.0, 990.0], (0.0, 100.0));
        assert!(
            close(&scale.ticks(), &[0.0, 200.0, 400.0, 600.0, 800.0, 1000.0]),
            "{:?}",
            scale.ticks()
        );
        assert!((scale.at(500.0) - 50.0).abs() < 1e-9);
    }

    #[test]
    fn a_logarithmic_axis_has_all_values_between_round_numbers() {
        let scale = Scale::log([1.0, 256.0], (0.0, 300.0));
        assert!((scale.at(1.0) - 0.0).abs() < 1e-9 && (scale.at(500.0) - 300.0).abs() < 1e-9);
        assert!(close(&scale.ticks(), &[1.0, 10.0, 100.0]), "{:?}", scale.ticks());
        let fine = Scale::log([1.0, 90.0], (0.0, 400.0));
        assert!(
            close(&fine.ticks(), &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0]),
            "{:?}",
            fine.ticks()
        );
        let equal = Scale::log([10.0, 10.0], (0.0, 100.0));
        assert!((equal.at(10.0)).abs() < 1e-9);
    }

    #[test]
    fn what_is_counted_has_no_fraction() {
        assert_eq!(
            [0.0, 7.0, 34.0, 9_999.0].map(count),
            ["0", "7", "34", "9\u{202f}999"].map(str::to_owned)
        );
    }

    #[test]
    fn labels_have_the_digits_they_need() {
        let texts = [0.1, 0.02, 1.0, 5.0, 10.0, 500.0, 20_000.0].map(label);
        assert_eq!(
            texts,
            ["0.1", "0.02", "1", "5", "10", "500", "20\u{202f}000"].map(str::to_owned)
        );
    }

    #[test]
    fn an_axis_of_steps_ends_at_the_first_and_the_last() {
        let scale = Scale::between(&[1.0, 16.0, 256.0], (0.0, 100.0));
        let places = [1.0, 16.0, 256.0].map(|value| scale.at(value));
        assert!(close(&places, &[0.0, 50.0, 100.0]), "{places:?}");
        assert!(Scale::between(&[7.0], (0.0, 100.0)).at(7.0).is_finite());
    }

    #[test]
    fn what_cannot_be_shown_is_known_and_harms_nothing() {
        let scale = Scale::log([0.0, f64::NAN, 5.0, 50.0], (0.0, 100.0));
        assert!(!scale.holds(0.0) && !scale.holds(f64::NAN) && scale.holds(7.0));
        assert!(Scale::log([], (0.0, 100.0)).at(3.0).is_finite());
        assert!(Scale::linear([], (0.0, 100.0)).at(3.0).is_finite());
    }

    #[test]
    fn numbers_have_three_digits_and_thousands_apart() {
        let texts = [
            0.0,
            0.0123,
            1.234,
            12.34,
            123.4,
            99.97,
            12_345.6,
            1_234_567.0,
            -5.0,
            f64::NAN,
        ]
        .map(number);
        let wanted = [
            "0",
            "0.012",
            "1.23",
            "12.3",
            "123",
            "100",
            "12 346",
            "1 234 567",
            "−5.00",
            "–",
        ];
        assert_eq!(texts, wanted.map(|text| text.replace(' ', "\u{202f}")));
    }
}
