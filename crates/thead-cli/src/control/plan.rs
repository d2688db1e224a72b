//! What a change of its configuration means for a service.

use super::state::Saved;

/// The least that makes a change take effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Effect {
    Nothing,
    /// While it runs.
    Live,
    /// By a new generation.
    Reload,
    /// By another primary.
    Restart,
}

/// What has changed, and what that takes.
pub(super) fn compare(old: &Saved, new: &Saved) -> (Effect, Vec<&'static str>) {
    let (a, b) = (&old.config, &new.config);
    let mut effect = Effect::Nothing;
    let mut keys = Vec::new();
    let mut note = |key: &'static str, changed: bool, needs: Effect| {
        if changed {
            effect = effect.max(needs);
            keys.push(key);
        }
    };
    use Effect::{Live, Nothing, Reload, Restart};
    note("run", a.run != b.run, Reload);
    note("instances", a.instances != b.instances, Live);
    note("env", a.env != b.env, Reload);
    note("secret-files", a.secret_files != b.secret_files, Reload);
    note("cwd", a.cwd != b.cwd || old.base != new.base, Reload);
    note("runtime", a.runtime != b.runtime, Reload);
    note("preload", a.preload != b.preload, Reload);
    note("channel", a.channel != b.channel, Reload);
    note("listen", a.listen != b.listen, Restart);
    note("user", a.user != b.user || a.group != b.group, Restart);
    note("pass-env", a.pass_env != b.pass_env, Restart);
    note("schedule", a.schedule != b.schedule, Restart);
    note("ready", a.ready != b.ready, Reload);
    note("ready-timeout", a.ready_timeout != b.ready_timeout, Live);
    note("live", a.live != b.live, Live);
    note("restart", a.restart != b.restart, Live);
    note("reload", a.reload != b.reload, Live);
    note("stop", a.stop != b.stop, Live);
    note("limit", a.limit != b.limit, Reload);
    note("data", a.data != b.data, Live);
    note("log", a.log != b.log, Live);
    note("after", a.after != b.after, Nothing);
    note("namespace", a.namespace != b.namespace, Nothing);
    note("group", old.group != new.group, Nothing);
    note("source", old.source != new.source, Nothing);
    (effect, keys)
}
