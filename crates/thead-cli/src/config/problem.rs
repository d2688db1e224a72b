//! What is told to the operator: where, what, and how to mend it.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use annotate_snippets::{AnnotationKind, Group, Level, Origin, Renderer, Snippet};
use serde::Serialize;

use super::source::Source;

/// Something wrong in a file, or worth knowing.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Problem {
    pub(crate) file: PathBuf,
    /// From 1.
    pub(crate) line: usize,
    /// From 1, in characters.
    pub(crate) column: usize,
    pub(crate) message: String,
    /// What to do about it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) mend: Option<String>,
    #[serde(skip)]
    place: Option<Place>,
}

#[derive(Clone, PartialEq, Eq)]
struct Place {
    text: Arc<str>,
    span: Range<usize>,
}

impl fmt::Debug for Place {
    /// Without the file's text, which may hold what is nobody's business.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.span.fmt(f)
    }
}

impl Problem {
    /// Of a file as a whole.
    pub(crate) fn of_file(file: &Path, message: impl Into<String>, mend: &str) -> Self {
        Self {
            file: file.to_owned(),
            line: 1,
            column: 1,
            message: harmless(&message.into()),
            mend: Some(mend.to_owned()),
            place: None,
        }
    }

    /// Of a place in a file.
    pub(crate) fn at(source: &Source, span: Range<usize>, message: impl Into<String>, mend: Option<String>) -> Self {
        let before = source.text.get(..span.start).unwrap_or_default();
        let line = before.rfind('\n').map_or(0, |end| end + 1);
        Self {
            file: source.path.clone(),
            line: before.matches('\n').count() + 1,
            column: before[line..].chars().count() + 1,
            message: harmless(&message.into()),
            mend: mend.as_deref().map(harmless),
            place: Some(Place {
                text: source.text.clone(),
                span,
            }),
        }
    }

    /// As a compiler would show it.
    fn render(&self, level: Level<'_>, renderer: &Renderer) -> String {
        let file = self.file.display().to_string();
        let mut group = Group::with_title(level.primary_title(self.message.as_str()));
        group = match &self.place {
            Some(place) => {
                // The renderer shows a few lines, but looks at all that it is given.
                let start = place.text[..place.span.start].rfind('\n').map_or(0, |end| end + 1);
                let rest = &place.text[place.span.end..];
                let end = place.span.end + rest.find('\n').unwrap_or(rest.len());
                let span = place.span.start - start..place.span.end - start;
                group.element(
                    Snippet::source(&place.text[start..end])
                        .line_start(self.line)
                        .path(&*file)
                        .annotation(AnnotationKind::Primary.span(span)),
                )
            }
            None => group.element(Origin::path(&*file).line(self.line).char_column(self.column)),
        };
        if let Some(mend) = &self.mend {
            group = group.element(Level::HELP.message(mend.as_str()));
        }
        renderer.render(&[group])
    }
}

impl fmt::Display for Problem {
    /// On one line.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}:{}:{}: {}",
            self.file.display(),
            self.line,
            self.column,
            self.message
        )?;
        match &self.mend {
            Some(mend) => write!(f, "; {mend}"),
            None => Ok(()),
        }
    }
}

/// Text of a file that cannot steer a terminal, on one line.
fn harmless(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        // Controls, and what turns the direction of writing.
        match c.is_control() || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
        {
            true => out.extend(c.escape_default()),
            false => out.push(c),
        }
    }
    out
}

/// Why there is no configuration: at least one problem, in the order of the file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(crate) struct Diagnostics(Vec<Problem>);

/// More than these do not help.
const MOST: usize = 50;

impl Diagnostics {
    /// `None` if there are no problems.
    pub(crate) fn new(mut problems: Vec<Problem>) -> Option<Self> {
        problems.sort_by_key(|problem| (problem.line, problem.column));
        problems.dedup();
        problems.truncate(MOST);
        (!problems.is_empty()).then_some(Self(problems))
    }

    pub(crate) fn problems(&self) -> &[Problem] {
        &self.0
    }

    /// For a terminal, with or without colours.
    pub(crate) fn render(&self, colours: bool) -> String {
        render(&self.0, Level::ERROR, colours)
    }
}

/// Notes for a terminal.
pub(crate) fn render_notes(notes: &[Problem], colours: bool) -> String {
    render(notes, Level::NOTE, colours)
}

fn render(problems: &[Problem], level: Level<'_>, colours: bool) -> String {
    let renderer = if colours { Renderer::styled() } else { Renderer::plain() };
    let all: Vec<_> = problems
        .iter()
        .map(|problem| problem.render(level.clone(), &renderer))
        .collect();
    all.join("\n\n")
}

impl From<Problem> for Diagnostics {
    fn from(problem: Problem) -> Self {
        Self(vec![problem])
    }
}

impl std::error::Error for Diagnostics {}

impl fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.0.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            problem.fmt(f)?;
        }
        Ok(())
    }
}
