//! From a [`Command`] to a process.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;

use thead_wire::Dialect;
use thead_wire::env::ChannelEnv;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;

use super::{Command, SpawnError};
use crate::channel::{Channel, PATIENCE, Port};
use crate::child::{Born, Child};
use crate::parent::THEAD_CHANNEL;
use crate::stdio::Ends;
use crate::sys;
use crate::sys::helper::Report;
use crate::sys::pidfd;
use crate::sys::reclaim::SocketId;
use crate::sys::spawn::{SpawnSpec, Spawned};
use crate::sys::tree::Tree;
use crate::watch::{Care, collect_left, watch as watch_over};

/// The first that is no standard stream: of sockets that are passed in, else of the channel, as with Node's `fork()`.
pub(crate) const FIRST_FD: i32 = 3;

const LISTEN_FDS: &str = "LISTEN_FDS";
const LISTEN_FDNAMES: &str = "LISTEN_FDNAMES";
/// Would have to name another process than `LISTEN_PID`.
const LISTEN_PIDFDID: &str = "LISTEN_PIDFDID";

/// A process that was just started.
pub(crate) struct Launched {
    pub(crate) pid: u32,
    pub(crate) pidfd: Arc<OwnedFd>,
    pub(crate) channel: Option<MadeChannel>,
    /// Our ends of its streams, by the child's number.
    pub(crate) streams: Vec<(i32, OwnedFd)>,
}

/// The parent's side of a new channel.
pub(crate) struct MadeChannel {
    pub(crate) port: Port,
    pub(crate) channel: Channel,
    /// The child's number of its end, and which socket that is.
    pub(crate) end: (i32, SocketId),
}

impl Command {
    /// Starts it. Must be called within a Tokio runtime.
    ///
    /// # Errors
    /// [`SpawnError`]; nothing was started.
    pub fn spawn(&self) -> Result<Child, SpawnError> {
        let Launched {
            pid,
            pidfd,
            channel,
            streams,
        } = self.launch(None)?;
        let (sink, reports) = mpsc::unbounded_channel();
        let (port, channel) = channel.map(|made| (made.port, made.channel)).unzip();
        let tree = Tree::new(pid, pidfd.clone(), self.session, self.cgroup.clone());
        let (exit, exited) = watch::channel(None);
        let care = Care {
            exit: Some(exit),
            ..self.care(pid)
        };
        tokio::spawn(watch_over((), port, pidfd.clone(), sink, care));
        let child = Child::new(Born {
            pid,
            tree,
            channel,
            reports,
            exited,
            streams,
            kill_on_drop: self.kill_on_drop,
        });
        if child.is_err() {
            // It runs, and nobody would know.
            let _ = pidfd::send_signal(&*pidfd, libc::SIGKILL);
        }
        Ok(child?)
    }

    /// What ends it, beginning now.
    pub(crate) fn care(&self, pid: u32) -> Care {
        Care {
            pid,
            deadline: self.timeout.map(|timeout| Instant::now() + timeout),
            abort: self.abort.clone(),
            signal: self.kill_signal,
            kill_on_drop: self.kill_on_drop,
            exit: None,
        }
    }

    /// Starts it, as a cluster worker if it gets an id and has a channel.
    pub(crate) fn launch(&self, unique_id: Option<u32>) -> Result<Launched, SpawnError> {
        collect_left();
        let mut spec = SpawnSpec::new(&self.program);
        spec.arg0.clone_from(&self.arg0);
        spec.args.clone_from(&self.args);
        if let (Some((at, first)), Some(id)) = (self.inspect, unique_id) {
            spec.args
                .insert(at, format!("--inspect-port={}", nth_port(first, id)).into());
        }
        spec.cwd.clone_from(&self.cwd);
        spec.session = self.session;
        spec.death_signal = self.death_signal;
        spec.credentials.clone_from(&self.credentials);
        spec.limits.clone_from(&self.limits);
        spec.nice = self.nice;
        spec.umask = self.umask;
        spec.env = self.environment();
        spec.own_pid.clone_from(&self.own_pid);
        // One that has groups with controllers below it has no processes of its own.
        let is_outer = |outer: &&PathBuf| self.also_cgroup.as_ref().is_some_and(|inner| inner.starts_with(outer));
        let outer = self.cgroup.iter().filter(|outer| !is_outer(outer));
        let cgroups = outer.chain(&self.also_cgroup).map(|directory| {
            let entry = directory.join("cgroup.procs");
            let open = File::options().write(true).open(&entry);
            open.map_err(|error| io::Error::new(error.kind(), format!("{}: {error}", entry.display())))
        });
        let cgroups = cgroups.collect::<io::Result<Vec<_>>>()?;
        spec.cgroups.extend(cgroups.iter().map(AsFd::as_fd));

        self.pass_listeners(&mut spec)?;
        let streams = self.stdio.iter().map(|(number, stdio)| Ends::make(*number, stdio));
        let streams = streams.collect::<io::Result<Vec<_>>>()?;
        spec.fds.extend(streams.iter().map(Ends::source));

        let mut made = None;
        let pair = self
            .channel
            .map(|_| sys::message::socketpair(Some(sys::message::NODE_BUFFER)))
            .transpose()?;
        let (ours, theirs) = pair.map(|pair| (pair.parent, pair.child)).unzip();
        if let (Some(config), Some(ours), Some(theirs)) = (self.channel, ours, &theirs) {
            let mut number = FIRST_FD + self.listeners.len() as i32;
            while self.stdio.contains_key(&number) {
                number += 1;
            }
            let env = ChannelEnv {
                fd: number,
                serialization: config.serialization,
                unique_id,
            };
            spec.env
                .extend(env.variables().map(|(name, value)| (name.into(), value.into())));
            spec.fds.push((number, sys::spawn::FdSource::Fd(theirs.as_fd())));
            let end = (number, SocketId::of(theirs)?);
            // A runtime that is known needs no name for what it does not look at.
            if matches!(config.dialect, Dialect::Careful | Dialect::Thead) {
                spec.env.push((THEAD_CHANNEL.into(), end.1.to_string().into()));
            }
            let (port, channel) = Port::new(ours, config, PATIENCE)?;
            made = Some(MadeChannel { port, channel, end });
        }
        let Spawned { pid, pidfd, report } = sys::spawn::spawn(&spec)?;
        if let Some(report) = report {
            await_report(&report, &pidfd)?;
        }
        drop(spec);
        Ok(Launched {
            pid: pid.unsigned_abs(),
            pidfd: Arc::new(pidfd),
            channel: made,
            streams: streams.into_iter().filter_map(Ends::into_ours).collect(),
        })
    }

    /// systemd: `sd_listen_fds(3)`, `sd_listen_fds_with_names(3)`.
    fn pass_listeners<'fd>(&'fd self, spec: &mut SpawnSpec<'fd>) -> Result<(), SpawnError> {
        if self.listeners.is_empty() {
            return Ok(());
        }
        let refuse = |name: &String, reason| SpawnError::Listener {
            name: name.clone(),
            reason,
        };
        for ((name, socket), number) in self.listeners.iter().zip(FIRST_FD..) {
            let is_plain = |byte: u8| matches!(byte, b' '..=b'~') && byte != b':';
            if name.len() > 255 || !name.bytes().all(is_plain) {
                return Err(refuse(name, "LISTEN_FDNAMES has no room for such a name"));
            }
            if self.stdio.contains_key(&number) {
                return Err(refuse(name, "its descriptor is given to something else"));
            }
            spec.fds.push((number, sys::spawn::FdSource::Fd(socket.as_fd())));
        }
        let names: Vec<_> = self.listeners.iter().map(|(name, _)| name.as_str()).collect();
        let ours = [LISTEN_FDS, LISTEN_FDNAMES, LISTEN_PIDFDID];
        spec.env.retain(|(name, _)| !ours.iter().any(|ours| name == ours));
        spec.env.extend([
            (LISTEN_FDS.into(), names.len().to_string().into()),
            (LISTEN_FDNAMES.into(), names.join(":").into()),
        ]);
        spec.own_pid.push("LISTEN_PID");
        Ok(())
    }

    /// The parent's variables, changed as asked, without those that only the channel may set.
    fn environment(&self) -> Vec<(OsString, OsString)> {
        let parents = std::env::vars_os().filter(|(name, _)| self.inherit_env && !self.env.contains_key(name));
        let own = self
            .env
            .iter()
            .filter_map(|(name, value)| Some((name.clone(), value.clone()?)));
        let channels = |name: &OsStr| name.to_str().is_some_and(ChannelEnv::owns);
        parents.chain(own).filter(|(name, _)| !channels(name)).collect()
    }
}

/// Waits the millisecond until a child has become another user, or could not.
fn await_report(report: &Report, pidfd: &OwnedFd) -> Result<(), SpawnError> {
    let readable = |fd: &dyn AsFd| -> io::Result<()> {
        let mut fds = [rustix::event::PollFd::from_borrowed_fd(
            fd.as_fd(),
            rustix::event::PollFlags::IN,
        )];
        match rustix::event::poll(&mut fds, None) {
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    };
    let outcome = loop {
        match report.poll() {
            Some(outcome) => break outcome,
            None => readable(report)?,
        }
    };
    if outcome.is_err() {
        // It ends by itself, and nobody else knows of it.
        while pidfd::try_wait(pidfd)?.is_none() {
            readable(pidfd)?;
        }
    }
    Ok(outcome?)
}

/// The port of a debugger that these options ask for. A worker's port counts on from it, as under Node's cluster; there the
/// primary itself has the first, which here is the first worker's.
///
/// Node: `lib/internal/cluster/primary.js`, `createWorkerProcess`.
pub(super) fn inspect_port(options: &[OsString]) -> Option<u16> {
    let mut values = options.iter().filter_map(|option| {
        let option = option.to_str()?;
        let (flag, value) = option.split_once('=').unwrap_or((option, ""));
        let known = [
            "--inspect",
            "--inspect-brk",
            "--inspect-wait",
            "--inspect-port",
            "--debug-port",
        ]
        .contains(&flag);
        known
            .then(|| value.rsplit(':').next()?.parse().ok())
            .map(|port: Option<u16>| port.unwrap_or(9229))
    });
    values.next_back()
}

/// Past the last port it goes on at 1024. Port 0, any, stays.
fn nth_port(first: u16, id: u32) -> u32 {
    let nth = u32::from(first) + id.saturating_sub(1);
    match nth {
        _ if first == 0 => 0,
        ..=65_535 => nth,
        _ => 1024 + (nth - 65_536) % (65_536 - 1024),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_worker_has_a_port_of_its_own_for_the_debugger() {
        let port = |options: &[&str]| inspect_port(&options.iter().map(OsString::from).collect::<Vec<_>>());
        assert_eq!(port(&["--require", "a"]), None);
        assert_eq!(port(&["--inspect"]), Some(9229));
        assert_eq!(port(&["--inspect=0.0.0.0:4000"]), Some(4000));
        assert_eq!(port(&["--inspect-brk", "--inspect-port=5000"]), Some(5000));
        assert_eq!([1, 2, 9].map(|id| nth_port(65_530, id)), [65_530, 65_531, 1026]);
        assert_eq!(nth_port(0, 3), 0);
    }
}
