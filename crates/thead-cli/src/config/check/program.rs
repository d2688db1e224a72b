//! The program of a service, and what can be asked of it.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use thead::Runtime;

use super::Check;
use crate::config::model::{Ready, Schedule};
use crate::program::{Place, Program, ProgramError};

impl Check<'_> {
    pub(super) fn program(&mut self) {
        let service = self.service;
        if let Some(runtime) = &service.runtime {
            self.runtime(runtime);
        }
        let words: Vec<OsString> = service.run.words().iter().map(OsString::from).collect();
        let search = self.search_path();
        let place = Place {
            cwd: service.cwd.as_deref().unwrap_or(Path::new(".")),
            path: search.as_deref(),
            runtime: service.runtime.as_deref().map(Path::as_os_str),
        };
        match place.resolve(&words) {
            Ok(program) => {
                for note in &program.notes {
                    let path = self.at(["run"]);
                    self.checked.note(path, note.as_str(), None);
                }
                self.suits(&program);
            }
            Err(ProgramError::Missing(what, place)) => {
                let message = format!("{what:?} does not exist (looked for it in {place})");
                self.error(["run"], message, "check the path, and `cwd`");
            }
            Err(ProgramError::NotExecutable { path, reason, mend }) => {
                self.error(["run"], format!("{path:?} cannot be executed: {reason}"), mend);
            }
            Err(ProgramError::Refused { what, mend }) => self.error(["run"], what, mend),
        }
    }

    fn runtime(&mut self, runtime: &Path) {
        let mend = "name a program called node, bun or deno";
        if Runtime::of_program(runtime.as_os_str()).is_none() {
            let message = format!("{} is no runtime that thead knows by its file name", runtime.display());
            self.error(["runtime"], message, mend);
        } else if let Err(errno) = thead::sys::path::resolve(
            runtime.as_os_str(),
            self.search_path().as_deref(),
            self.service.cwd.as_deref(),
        ) {
            let message = format!("{} cannot be run: {}", runtime.display(), std::io::Error::from(errno));
            self.error(["runtime"], message, "install it, or check its path");
        }
    }

    /// Whether what is asked of the program is what such a program can do.
    fn suits(&mut self, program: &Program) {
        let service = self.service;
        let runtime = program.script.as_ref().map(|script| script.runtime);
        let channel = runtime.is_some() || service.channel;
        if let (Ready::Listening | Ready::Message, false) = (&service.ready, channel) {
            let message = "this program has no channel, over which it could say that it is ready";
            let mend =
                "use { http = ... }, { tcp = ... } or \"notify\"; or set `channel` if it is made with thead's library";
            self.error(["ready"], message, mend);
        }
        let beats = service
            .live
            .heartbeat
            .is_some_and(|every| every.duration() > std::time::Duration::ZERO);
        let mend = "ask it by live.http, live.tcp or live.exec instead";
        match runtime {
            Some(Runtime::Node) if beats && !service.preload => {
                let message = "Node shows that its event loop turns by thead's preload, which is turned off";
                self.error(
                    ["live", "heartbeat"],
                    message,
                    "let `preload` be true, or leave the heartbeat out",
                );
            }
            Some(runtime @ (Runtime::Bun | Runtime::Deno)) if beats => {
                let message = format!("a script under {} has no heartbeat", runtime.name());
                self.error(["live", "heartbeat"], message, mend);
            }
            _ => {}
        }
        let hears = runtime == Some(Runtime::Node) && service.preload;
        if !hears && !service.hot_env.is_empty() {
            let message = "only Node with thead's preload can have other variables while it runs";
            let mend = "leave it out, so that a change of `env` is a reload; or push what changes as `data`";
            self.error(["hot-env"], message, mend);
        }
        if runtime == Some(Runtime::Deno) && matches!(service.schedule, Schedule::Shared | Schedule::Kernel) {
            let path = self.at(["schedule"]);
            let message = "Deno cannot accept from a socket that workers share: connections go round-robin";
            self.checked.note(path, message, None);
        }
        if !channel && service.listen.is_empty() && service.schedule != Schedule::default() {
            let path = self.at(["schedule"]);
            let message = "this program listens itself, so thead has no connections to give out";
            self.checked.note(
                path,
                message,
                Some("give it a socket by `listen`, or leave `schedule` out"),
            );
        }
        if runtime.is_none() {
            self.script();
            self.shell();
        }
    }

    /// The script of another interpreter.
    fn script(&mut self) {
        const INTERPRETERS: [&str; 7] = ["python", "ruby", "perl", "php", "bash", "sh", "dash"];
        let [program, script, ..] = self.service.run.words() else {
            return;
        };
        let name = Path::new(program)
            .file_name()
            .and_then(OsStr::to_str)
            .unwrap_or_default();
        let name = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.');
        let cwd = self.service.cwd.as_deref().unwrap_or(Path::new("."));
        if INTERPRETERS.contains(&name) && !script.starts_with('-') && !cwd.join(script).exists() {
            let message = format!("the script {script:?} does not exist in {}", cwd.display());
            self.error(["run"], message, "check the path, and `cwd`");
        }
    }

    /// A shell that stays between thead and the program.
    fn shell(&mut self) {
        let [program, option, line, ..] = self.service.run.words() else {
            return;
        };
        let name = Path::new(program)
            .file_name()
            .and_then(OsStr::to_str)
            .unwrap_or_default();
        let lasting = !line.split_whitespace().any(|word| word == "exec");
        if ["sh", "bash", "dash", "zsh"].contains(&name) && option == "-c" && lasting {
            let path = self.at(["run"]);
            let message = "the worker is the shell: signals go to it, and it may not pass them on";
            let mend = "let the shell end with exec: sh -c 'cd app && exec node server.js'";
            self.checked.note(path, message, Some(mend));
        }
    }
}
