//! From SVG to PNG, with letters that are part of this program: the same pixels on every machine.

use std::sync::Arc;

use resvg::{tiny_skia, usvg};

/// Why a picture cannot be drawn as pixels.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PngError {
    /// It is no SVG that resvg understands.
    #[error("the picture is no SVG: {0}")]
    Svg(#[from] usvg::Error),
    /// It is too large, or has no size.
    #[error("a picture of {width} × {height} pixels cannot be held in memory")]
    Size {
        /// Pixels.
        width: u32,
        /// Pixels.
        height: u32,
    },
    /// The pixels could not be packed.
    #[error("the picture cannot be packed: {0}")]
    Pack(String),
}

/// Draws a picture with two pixels for each of its own, for screens that have them. Its ink must be written out
/// ([`super::Ink::Light`] or [`super::Ink::Dark`]): resvg knows no variables.
///
/// # Errors
/// What is no SVG, and what is too large for memory.
pub fn png(svg: &str) -> Result<Vec<u8>, PngError> {
    let mut fonts = usvg::fontdb::Database::new();
    fonts.load_font_data(dejavu::sans::regular().to_vec());
    fonts.load_font_data(dejavu::sans::bold().to_vec());
    fonts.set_sans_serif_family("DejaVu Sans");
    let options = usvg::Options {
        font_family: "DejaVu Sans".to_owned(),
        fontdb: Arc::new(fonts),
        ..usvg::Options::default()
    };
    let tree = usvg::Tree::from_str(svg, &options)?;
    let (width, height) = ((tree.size().width() * 2.0) as u32, (tree.size().height() * 2.0) as u32);
    let mut pixels = tiny_skia::Pixmap::new(width, height).ok_or(PngError::Size { width, height })?;
    resvg::render(&tree, tiny_skia::Transform::from_scale(2.0, 2.0), &mut pixels.as_mut());
    pixels.encode_png().map_err(|error| PngError::Pack(error.to_string()))
}

#[cfg(test)]
#[expect(clippy::expect_used, reason = "a test fails by panicking")]
mod tests {
    use super::super::{Ink, Line, Lines};
    use super::*;

    #[test]
    fn a_picture_becomes_pixels_of_twice_its_size_with_letters_in_it() {
        let lines = |name: &str| Lines {
            title: String::new(),
            along: "connections".to_owned(),
            up: name.to_owned(),
            lines: vec![Line {
                name: "cluster".to_owned(),
                points: vec![(1.0, 1.0), (2.0, 2.0)],
            }],
            steps: vec![1.0, 2.0],
        };
        let drawn = |name: &str| png(&lines(name).draw(Ink::Light, 400.0)).expect("a picture");
        let bytes = drawn("requests/s");
        assert_eq!(&bytes[1..4], b"PNG");
        // With the rim.
        assert_eq!(u32::from_be_bytes(bytes[16..20].try_into().expect("four bytes")), 824);
        // Only the letters differ: where there is no font, nothing would.
        assert_ne!(bytes, drawn("milliseconds"));
    }

    #[test]
    fn what_is_no_picture_is_refused() {
        assert!(matches!(png("no picture"), Err(PngError::Svg(_))));
    }
}
