//! Pictures of what was measured, as SVG that this module writes itself: no font metrics, no layout engine, nothing fetched.
//!
//! Two kinds are enough: [`Lines`] for what changes along an axis, [`Rows`] for candidates beside each other. Every picture is
//! drawn for a width, so that a telephone gets one whose letters are as large as on a desk.

mod lines;
mod palette;
#[cfg(feature = "png")]
pub mod png;
mod rows;
mod scale;
mod svg;

pub use lines::{Line, Lines};
pub use palette::{Mark, STYLE, Style, style};
pub use rows::{Dot, Row, Rows};
pub use scale::{Scale, count, number};
pub use svg::{Ink, text_width};
