//! Is a configuration one that can run? What its types cannot say is looked at here, on this machine.

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::Path;

use super::address::{Address, HttpUrl};
use super::cron;
use super::format::Spot;
use super::model::{Config, Service};
use super::tree::{Step, steps};
use super::typed::Finding;
use super::value::Name;
use thead::sys::user;

mod order;
mod program;
mod variable;

pub(crate) use variable::is_ours;

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Checked {
    pub(crate) errors: Vec<Finding>,
    /// What is worth knowing, but stops nothing.
    pub(crate) notes: Vec<Finding>,
}

/// Looks at a configuration whose paths are absolute.
pub(crate) fn check(config: &Config) -> Checked {
    let mut checked = Checked::default();
    checked.names(config);
    for (name, service) in &config.service {
        let mut check = Check {
            name,
            service,
            checked: &mut checked,
        };
        check.service();
    }
    checked.addresses(config);
    order::check(config, &mut checked);
    checked
}

impl Checked {
    fn error(&mut self, path: impl Into<Vec<Step>>, message: impl Into<String>, mend: impl Into<String>) {
        self.errors.push(Finding {
            path: path.into(),
            spot: Spot::Value,
            message: message.into(),
            mend: Some(mend.into()),
        });
    }

    fn key_error(&mut self, path: impl Into<Vec<Step>>, message: impl Into<String>, mend: impl Into<String>) {
        self.error(path, message, mend);
        if let Some(finding) = self.errors.last_mut() {
            finding.spot = Spot::Key;
        }
    }

    fn note(&mut self, path: impl Into<Vec<Step>>, message: impl Into<String>, mend: Option<&str>) {
        self.notes.push(Finding {
            path: path.into(),
            spot: Spot::Value,
            message: message.into(),
            mend: mend.map(str::to_owned),
        });
    }

    /// Verbs take a service, a namespace or `all` at the same place.
    fn names(&mut self, config: &Config) {
        for name in config.service.keys().filter(|name| name.as_str() == ALL) {
            self.key_error(
                steps!["service", name.as_str()],
                format!("the name `{ALL}` is taken: verbs take it for every service"),
                "call the service something else",
            );
        }
        self.namespace(config, steps!["namespace"], config.namespace.as_ref());
        for (name, service) in &config.service {
            let path = steps!["service", name.as_str(), "namespace"];
            self.namespace(config, path, service.namespace.as_ref());
        }
    }

    fn namespace(&mut self, config: &Config, path: impl Into<Vec<Step>>, namespace: Option<&Name>) {
        let message = match namespace {
            Some(name) if name.as_str() == ALL => format!("the name `{ALL}` is taken: verbs take it for every service"),
            Some(name) if config.service.contains_key(name) => {
                format!("the name `{name}` is taken: a service has it, and verbs take either")
            }
            _ => return,
        };
        self.error(path, message, "call the namespace something else");
    }

    /// No two sockets at one place.
    fn addresses(&mut self, config: &Config) {
        let mut bound: HashMap<_, Vec<(&Name, &Name, Address)>> = HashMap::new();
        for (service, options) in &config.service {
            for (socket, url) in &options.listen {
                let at = steps!["service", service.as_str(), "listen", socket.as_str()];
                let address = match Address::parse(url) {
                    Ok(address) => address,
                    Err(reason) => {
                        self.errors.push(told(at, &reason));
                        continue;
                    }
                };
                let place = match &address {
                    Address::Tcp(address) => ('t', address.port),
                    Address::Udp(address) => ('u', address.port),
                    Address::Unix(_) | Address::Abstract(_) => ('p', 0),
                };
                let others = bound.entry(place).or_default();
                if let Some((other, name, its)) = others.iter().find(|(_, _, its)| its.collides(&address)) {
                    let message = match *other == service {
                        true => format!("{address} collides with {its}, which is `listen.{name}`"),
                        false => {
                            format!("{address} collides with {its}, which is `listen.{name}` of the service `{other}`")
                        }
                    };
                    self.error(at, message, "give each socket an address of its own");
                }
                others.push((service, socket, address));
            }
        }
    }
}

/// What verbs take for every service.
const ALL: &str = "all";

/// A reason that has its advice behind a semicolon.
fn told(path: impl Into<Vec<Step>>, reason: &str) -> Finding {
    Finding {
        path: path.into(),
        spot: Spot::Value,
        message: reason.to_owned(),
        mend: None,
    }
}

/// One service.
struct Check<'a> {
    name: &'a Name,
    service: &'a Service,
    checked: &'a mut Checked,
}

impl Check<'_> {
    /// `service.NAME` and what follows.
    fn at<const N: usize>(&self, keys: [&str; N]) -> Vec<Step> {
        let mut path = steps!["service", self.name.as_str()].to_vec();
        path.extend(keys.map(Step::from));
        path
    }

    fn error<const N: usize>(&mut self, keys: [&str; N], message: impl Into<String>, mend: impl Into<String>) {
        let path = self.at(keys);
        self.checked.error(path, message, mend);
    }

    /// If a text is not what it should be.
    fn parsed<T, const N: usize>(&mut self, keys: [&str; N], result: Result<T, String>) {
        if let Err(reason) = result {
            let path = self.at(keys);
            self.checked.errors.push(told(path, &reason));
        }
    }

    fn service(&mut self) {
        let before = self.checked.errors.len();
        let there = self.directory();
        if there {
            self.program();
        }
        self.variables();
        self.user();
        self.files();
        self.probes();
        self.times();
        self.amounts();
        if self.checked.errors.len() == before {
            self.life();
        }
    }

    /// What the library would refuse when the service is started.
    fn life(&mut self) {
        if let Err(error) = crate::launch::life_of(self.name, self.service, true).validate() {
            // The library has it with what else there is about leaving.
            let setting = error.setting().replace("stop.drain", "reload.drain");
            let mut path = steps!["service", self.name.as_str()].to_vec();
            path.extend(setting.split('.').map(Step::from));
            let message = error.to_string().replace("stop.drain", "reload.drain");
            self.checked.error(path, message, "write a value within these bounds");
        }
    }

    fn directory(&mut self) -> bool {
        let Some(cwd) = &self.service.cwd else {
            return true;
        };
        match cwd.metadata() {
            Ok(found) if found.is_dir() => return true,
            // Whoever may not look may still run it as another user.
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => return false,
            Ok(_) => self.error(
                ["cwd"],
                format!("{} is no directory", cwd.display()),
                "name a directory",
            ),
            Err(error) => {
                let message = format!("the directory {} cannot be used: {error}", cwd.display());
                self.error(
                    ["cwd"],
                    message,
                    "make it, or name another; a relative path begins at the file's directory",
                );
            }
        }
        false
    }

    fn user(&mut self) {
        let look_up = |found: std::io::Result<bool>, what: String| match found {
            Ok(true) => None,
            Ok(false) => Some(format!("there is no {what}")),
            Err(error) => Some(format!("the {what} cannot be looked up: {error}")),
        };
        if let Some(name) = &self.service.user {
            let found = user::user(name).map(|found| found.is_some());
            if let Some(message) = look_up(found, format!("user {name:?}")) {
                self.error(["user"], message, "make it (useradd --system), or name another");
            }
        }
        if let Some(name) = &self.service.group {
            let found = user::group(name).map(|found| found.is_some());
            if let Some(message) = look_up(found, format!("group {name:?}")) {
                self.error(["group"], message, "make it (groupadd), or name another");
            }
        }
    }

    /// Files that are read when a worker starts.
    fn files(&mut self) {
        for (variable, file) in &self.service.secret_files {
            self.file(["secret-files", variable], file, false);
        }
        for (name, data) in &self.service.data {
            self.file(["data", name.as_str()], &data.file, true);
            if let Some(check) = &data.check {
                self.finds(&["data", name.as_str(), "check"], check);
            }
        }
    }

    fn file(&mut self, keys: [&str; 2], file: &Path, directory_too: bool) {
        let place = file.display();
        match file.metadata() {
            Ok(found) if found.is_file() || (directory_too && found.is_dir()) => {}
            Ok(_) => self.error(keys, format!("{place} is no file"), "name a file"),
            // Secrets are often for root alone, who is not the one that checks.
            Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {}
            Err(error) => {
                let mend = "put it there, or name another; a relative path begins at the file's directory";
                self.error(keys, format!("{place} cannot be read: {error}"), mend);
            }
        }
    }

    fn times(&mut self) {
        let service = self.service;
        if let Some(pattern) = &service.restart.cron {
            self.parsed(["restart", "cron"], cron::parse(pattern));
        }
        let backoff = service.restart.backoff;
        if backoff.first > backoff.max {
            let message = format!(
                "the first delay, {}, is longer than the longest, {}",
                backoff.first, backoff.max
            );
            self.error(["restart", "backoff"], message, "raise `max`, or lower `first`");
        }
        let zero = super::value::Span::secs(0);
        for (keys, span) in [
            (&["ready-timeout"][..], Some(service.ready_timeout)),
            (&["live", "interval"], Some(service.live.interval)),
            (&["live", "timeout"], Some(service.live.timeout)),
            (
                &["restart", "intensity", "period"],
                Some(service.restart.intensity.period),
            ),
            (&["restart", "max-age"], service.restart.max_age),
            (&["log", "max-age"], service.log.max_age),
        ] {
            if span == Some(zero) {
                let mut path = steps!["service", self.name.as_str()].to_vec();
                path.extend(keys.iter().map(|key| Step::from(*key)));
                self.checked.error(
                    path,
                    format!("`{}` is no time at all", keys.join(".")),
                    "write how long, such as \"10s\"",
                );
            }
        }
    }

    fn amounts(&mut self) {
        let service = self.service;
        if service.live.failures == 0 {
            self.error(
                ["live", "failures"],
                "no probe has to fail",
                "write how many must fail in a row, 1 or more",
            );
        }
        if service.reload.surge == 0 && service.reload.max_unavailable == 0 {
            let message = "a reload could neither add a worker nor take one away";
            self.error(["reload"], message, "let `surge` or `max-unavailable` be 1 or more");
        }
        let limit = service.limit;
        if let Some(memory) = limit.memory.filter(|memory| memory.bytes() < 1 << 20) {
            let message = format!("{memory} is less memory than any process needs");
            self.error(["limit", "memory"], message, "was a unit meant? \"512M\", say");
        }
        if let Some(files) = limit.open_files.filter(|files| *files < 16) {
            let message = format!("no process gets along with {files} open files");
            self.error(["limit", "open-files"], message, "leave it out, or write more");
        }
        if limit.processes == Some(0) {
            self.error(
                ["limit", "processes"],
                "a worker is a process itself",
                "leave it out, or write 1 or more",
            );
        }
        if limit.nice.is_some_and(|nice| !(-20..=19).contains(&nice)) {
            self.error(["limit", "nice"], "niceness is from -20 to 19", "write such a number");
        }
        let log = &service.log;
        if log.max_size.bytes() < 4096 {
            let message = format!("a log file of {} would be put aside at each line", log.max_size);
            self.error(["log", "max-size"], message, "was a unit meant? \"50M\", say");
        } else if log.total < log.max_size {
            let message = format!(
                "all log files together, {}, are less than one of {}",
                log.total, log.max_size
            );
            self.error(["log"], message, "raise `total`, or lower `max-size`");
        }
    }

    fn probes(&mut self) {
        use super::model::Ready;
        let service = self.service;
        match &service.ready {
            Ready::Http(url) => self.parsed(["ready", "http"], HttpUrl::parse(url)),
            Ready::Tcp(address) => self.parsed(["ready", "tcp"], port(address)),
            Ready::Exec(command) => self.finds(&["ready", "exec"], command),
            Ready::Auto | Ready::Listening | Ready::Message | Ready::Notify | Ready::Delay(_) => {}
        }
        let live = &service.live;
        if let Some(url) = &live.http {
            self.parsed(["live", "http"], HttpUrl::parse(url));
        }
        if let Some(address) = &live.tcp {
            self.parsed(["live", "tcp"], port(address));
        }
        if let Some(command) = &live.exec {
            self.finds(&["live", "exec"], command);
        }
    }

    /// Whether a command's program is there.
    fn finds(&mut self, keys: &[&str], command: &super::value::Argv) {
        let Some(program) = command.words().first() else {
            return;
        };
        let search = self.search_path();
        let found = thead::sys::path::resolve(program.as_ref(), search.as_deref(), self.service.cwd.as_deref());
        if let Err(errno) = found {
            let mut path = steps!["service", self.name.as_str()].to_vec();
            path.extend(keys.iter().map(|key| Step::from(*key)));
            let message = format!("the program {program:?} cannot be run: {}", std::io::Error::from(errno));
            self.checked.error(path, message, "install it, or check its path");
        }
    }

    /// The PATH of the workers.
    fn search_path(&self) -> Option<OsString> {
        let own = self.service.env.get("PATH").map(OsString::from);
        own.or_else(|| std::env::var_os("PATH"))
    }
}

/// An address that can be asked, so one with a port.
fn port(address: &str) -> Result<(), String> {
    match super::address::HostPort::parse(address)?.port {
        0 => Err(format!("{address:?} has the port 0, which nothing listens on")),
        _ => Ok(()),
    }
}
