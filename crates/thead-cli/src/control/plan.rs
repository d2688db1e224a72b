//! What a change of its configuration means for a service.

use std::path::PathBuf;

use super::state::Saved;
use crate::config::Service;
pub(crate) use crate::config::plan::Effect;
use crate::config::plan::{changed, effect};

/// What has changed, and what that takes.
pub(super) fn compare(old: &Saved, new: &Saved) -> (Effect, Vec<String>) {
    let mut keys = changed(&old.config, &new.config);
    let mut strongest = keys.iter().map(|key| effect(key)).max().unwrap_or(Effect::Nothing);
    if old.base != new.base && starts_from_base(&new.config) {
        strongest = strongest.max(Effect::Reload);
        keys.push("the directory of the file".into());
    }
    if old.group != new.group {
        keys.push("group".into());
    }
    if old.source != new.source {
        keys.push("source".into());
    }
    (strongest, keys)
}

/// Whether a path of the configuration is relative; those of files are not.
fn starts_from_base(config: &Service) -> bool {
    let files = config
        .secret_files
        .values()
        .chain(config.data.values().map(|data| &data.file));
    files.chain(&config.cwd).any(|path: &PathBuf| path.is_relative()) || config.cwd.is_none()
}
