//! What operators ask of a piece.

use std::path::{Path, PathBuf};

use serde_json::Value;
use thead::control::{DataContent, DataPush, Problem};
use thead::data::{Content, Revision};

use super::keeper::{Answer, Keeper, New, to_json};
use super::source::{self, MEMORY_LIMIT, Shown, content_of, digest, form_of, parse};
use crate::config::Form;
use crate::role::Ask;
use crate::told::problem;

impl Keeper {
    /// What was pushed by hand.
    pub(super) async fn pushed(&self, push: DataPush) -> Result<(New, Option<Shown>), Problem> {
        let invalid = |text: String| problem("invalid", text, None);
        let form = match push.form {
            None => None,
            Some(word) => Some(serde_json::from_value(Value::String(word.clone())).map_err(|_| {
                let hint = "auto, json, yaml, toml, json5, text or memory";
                problem("invalid", format!("{word:?} is no form of data"), Some(hint))
            })?),
        };
        let by = push.from.unwrap_or_else(|| "pushed".into());
        let name = self.plan.name.to_string();
        let one_of = "exactly one of value, text and file is to be given";
        match (push.value, push.text, push.file) {
            (Some(value), None, None) => {
                let content = content_of(&value).map_err(invalid)?;
                let shown = Shown::Bytes(format!("{name}.json"), value.to_string().into_bytes());
                Ok((self.of(content, by, None), Some(shown)))
            }
            (None, Some(text), None) => {
                let path = PathBuf::from(&by);
                let form = self.form(form, &path);
                let bytes = text.into_bytes();
                let digest = self.is_file(&path).then(|| digest(&bytes));
                let content = if form == Form::Memory {
                    Content::memory(&name, &mut &bytes[..], MEMORY_LIMIT).map_err(|error| invalid(error.to_string()))?
                } else {
                    let value = parse(&bytes, form, &path).map_err(invalid)?;
                    content_of(&value).map_err(invalid)?
                };
                let file = path.file_name().map(|file| file.to_string_lossy().into_owned());
                let shown = Shown::Bytes(file.unwrap_or(name), bytes);
                Ok((self.of(content, by, digest), Some(shown)))
            }
            (None, None, Some(file)) => {
                let path = PathBuf::from(file);
                if !path.is_absolute() {
                    let text = format!("{}: the path of a file is to be absolute", path.display());
                    return Err(invalid(text));
                }
                let form = self.form(form, &path);
                let from = path.display().to_string();
                let digest = self.is_file(&path);
                let found = self
                    .blocking(move || source::read(&name, &path, form))
                    .await
                    .map_err(invalid)?;
                let digest = digest.then_some(found.digest);
                Ok((self.of(found.content, from, digest), Some(found.shown)))
            }
            _ => Err(invalid(one_of.into())),
        }
    }

    fn of(&self, content: Content, from: String, digest: Option<u64>) -> New {
        New {
            content,
            from,
            digest,
            of: None,
        }
    }

    /// How a file is read: as it is said, as its name says, or as the piece is configured.
    fn form(&self, said: Option<Form>, path: &Path) -> Form {
        match said.map(|form| form_of(path, form)) {
            Some(form) => form,
            None => match form_of(path, Form::Auto) {
                Form::Auto => self.plan.form,
                form => form,
            },
        }
    }

    fn is_file(&self, path: &Path) -> bool {
        self.plan.file.as_deref() == Some(path)
    }

    /// The content of an older revision.
    pub(super) async fn older(&self, to: Option<Revision>) -> Result<New, Problem> {
        let missing = |text: String| {
            let hint = "thead data history has those that are remembered";
            problem("not-found", text, Some(hint))
        };
        let before = || self.with(|history| history.before());
        let Some(revision) = to.or_else(before) else {
            return Err(missing("nothing else was in force before".into()));
        };
        let name = self.plan.name.to_string();
        let content = self
            .disk(move |history| history.content(&name, revision))
            .await
            .map_err(missing)?;
        Ok(New {
            content,
            from: format!("revision {revision}, by a rollback"),
            digest: None,
            of: Some(revision),
        })
    }

    /// What is asked, and changes nothing.
    pub(super) async fn answer(&self, ask: Ask) -> Answer {
        let missing = |text: String| problem("not-found", text, None);
        match ask {
            Ask::History { .. } => Ok(to_json(&self.with(|history| history.revisions()))),
            Ask::Get { revision, .. } => {
                let wanted = revision.map(Revision);
                let newest = || self.with(|history| history.newest());
                let Some(revision) = wanted.or_else(newest) else {
                    return Err(missing("nothing is in force".into()));
                };
                let name = self.plan.name.to_string();
                let found = self.disk(move |history| {
                    let about = history
                        .revisions()
                        .into_iter()
                        .find(|about| about.revision == revision.0);
                    let about = about.unwrap_or_default();
                    let path = history.file_of(revision)?;
                    if about.memory {
                        let path = Some(path.display().to_string());
                        return Ok(DataContent {
                            about,
                            value: None,
                            path,
                        });
                    }
                    let value = match history.content(&name, revision)? {
                        Content::Value(value) => {
                            serde_json::from_str(value.get()).map_err(|error| error.to_string())?
                        }
                        Content::Memory(_) => Value::Null,
                    };
                    Ok(DataContent {
                        about,
                        value: Some(value),
                        path: None,
                    })
                });
                found.await.map(|content| to_json(&content)).map_err(missing)
            }
            Ask::Status | Ask::Push { .. } | Ask::Rollback { .. } | Ask::Delete { .. } => {
                Err(problem("internal", "nothing is asked", None))
            }
        }
    }
}
