//! Workers of a service: their start, their end, and what is done to them in between.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use thead_core::cluster::ListenAddress;
use thead_core::id::{Generation, WorkerId};
use thead_core::probe::Watch;
use thead_core::service::{Event, Input};
use thead_core::worker::{Exit, Slot};
use thead_wire::notify::{NOTIFY_SOCKET, WATCHDOG_PID, WATCHDOG_USEC};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::health::Beats;
use super::memory::Meter;
use super::status::{Ended, REMEMBERED};
use super::{Drain, Program, Ready, Service, Sockets, now};
use crate::command::{Command, FIRST_FD};
use crate::inspect;
use crate::notify::NotifySocket;
use crate::output::{Origin, Stream, Tail};
use crate::stdio::Stdio;
use crate::sys::cgroup::Group;
use crate::sys::pidfd::{self, ExitStatus};

/// What a supervisor tells one process by its environment: systemd's variables.
const OUR_OWN: [&str; 7] = [
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "LISTEN_PID",
    "LISTEN_PIDFDID",
    "NOTIFY_SOCKET",
    "WATCHDOG_PID",
    "WATCHDOG_USEC",
];

/// What is given to workers on top of the lame-duck time, so that they take what was accepted at its end.
const LAST_OFFERS: Duration = Duration::from_millis(100);

/// A worker whose process has not ended.
#[derive(Debug)]
pub(super) struct Worker {
    pub(super) slot: Slot,
    pub(super) pid: u32,
    pub(super) program: Arc<Program>,
    /// What it printed last.
    pub(super) tail: Tail,
    pub(super) listening: Vec<ListenAddress>,
    pub(super) watch: Watch,
    /// How it shows that it is alive.
    pub(super) beats: Beats,
    /// The probe that runs.
    pub(super) probe: Option<AbortHandle>,
    /// What the last probe said that failed.
    pub(super) trouble: Option<String>,
    /// What it says of itself.
    pub(super) note: Option<String>,
    /// Another process of it that matters, by its own word.
    pub(super) main: Option<(u32, std::os::fd::OwnedFd)>,
    /// What it was doing when it was found stuck, innermost first.
    pub(super) stack: Vec<String>,
    /// It was asked for that, and Node has talked about it.
    pub(super) asked: bool,
    /// What holds its memory, if anything does.
    pub(super) group: Option<Group>,
    pub(super) meter: Meter,
    /// It was sent SIGKILL by us.
    pub(super) killed: bool,
}

impl Drop for Worker {
    fn drop(&mut self) {
        if let Some(probe) = &self.probe {
            probe.abort();
        }
    }
}

impl Service {
    /// From now on a generation runs this.
    pub(super) fn adopt(&mut self, generation: Generation, mut program: Program) {
        // What this process was told by its own supervisor is not for its workers.
        program.command = program.command.env_keep_back(&OUR_OWN);
        if self.lines.is_some() {
            let command = program.command.stdin(Stdio::Null);
            program.command = command.stdout(Stdio::Pipe).stderr(Stdio::Pipe);
        }
        if program.command.has_channel() {
            for (listen, number) in program.listen.iter().zip(FIRST_FD..) {
                if let Sockets::Shared(socket) = &listen.sockets {
                    self.primary.inherit(number, socket.clone());
                }
            }
        }
        self.programs.insert(generation, Arc::new(program));
    }

    pub(super) fn spawn(&mut self, worker: WorkerId, slot: Slot, generation: Generation, gated: bool) {
        let input = match self.try_spawn(worker, slot, generation, gated) {
            Ok((pid, channel)) => Input::Started { worker, pid, channel },
            Err(reason) => Input::SpawnFailed { worker, reason },
        };
        self.machine.input(now(), input);
    }

    fn try_spawn(
        &mut self,
        worker: WorkerId,
        slot: Slot,
        generation: Generation,
        gated: bool,
    ) -> Result<(u32, bool), String> {
        let program = self
            .programs
            .get(&generation)
            .ok_or("its program is not known")?
            .clone();
        let beats = Beats::of(&program);
        let mut command = self.told_how_to_speak(&program, program.command_for(slot))?;
        command = self.settings.limits.on(command);
        for (name, value) in &self.settings.env {
            command = match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        if !program.command.has_channel() {
            command = self.with_data(command);
        }
        let group = self.memory_group(worker, &command);
        if let Some(group) = &group {
            command = command.also_cgroup(group.directory());
        }
        let forked = self.primary.fork_as(worker, Some(slot), &command, gated);
        let forked = forked.map_err(|error| reason_of(&error))?;
        let mut tail = Tail::default();
        if let Some(lines) = &self.lines {
            for (stream, pipe) in [(Stream::Stdout, forked.stdout), (Stream::Stderr, forked.stderr)] {
                let Some(pipe) = pipe else { continue };
                let from = Origin {
                    worker,
                    slot,
                    pid: forked.pid,
                    stream,
                };
                match tail.capture(from, pipe, lines.clone()) {
                    Ok(capture) => drop(tokio::spawn(capture)),
                    // Closed at once, so that the worker is not held up.
                    Err(error) => tracing::warn!(%worker, %error, "what a worker prints is not read"),
                }
            }
        }
        // The first that it is sent: nothing else has had its channel yet.
        self.data.join(worker, self.primary.channel(worker).cloned());
        let channel = program.command.has_channel();
        let pid = forked.pid;
        let watch = Watch::new(now(), self.watching(beats));
        self.workers.insert(
            worker,
            Worker {
                slot,
                pid,
                program,
                tail,
                listening: Vec::new(),
                watch,
                beats,
                probe: None,
                trouble: None,
                note: None,
                main: None,
                stack: Vec::new(),
                asked: false,
                group,
                meter: Meter::default(),
                killed: false,
            },
        );
        self.ask_for_beats(worker);
        self.obey_watch(worker);
        Ok((pid, channel))
    }

    /// With what the program needs to say how it is.
    fn told_how_to_speak(&mut self, program: &Program, command: Command) -> Result<Command, String> {
        if !program.notify {
            return Ok(command);
        }
        if self.notices.is_none() {
            match NotifySocket::new() {
                Ok(socket) => self.notices = Some(socket),
                // There is no other way to be ready.
                Err(error) if self.settings.life.ready == Ready::Message => {
                    return Err(format!("failed to make its {NOTIFY_SOCKET}: {error}"));
                }
                Err(error) => tracing::warn!(%error, "workers have no {NOTIFY_SOCKET}"),
            }
        }
        let Some(socket) = &self.notices else {
            return Ok(command);
        };
        let command = command.env(NOTIFY_SOCKET, socket.address());
        let heartbeat = self.watching(Beats::Notices).heartbeat;
        Ok(match heartbeat.filter(|period| !period.is_zero()) {
            Some(period) => command
                .env(WATCHDOG_USEC, (period * 2).as_micros().to_string())
                .env_own_pid(WATCHDOG_PID),
            None => command,
        })
    }

    /// Keeps what may be asked about one that has ended.
    pub(super) fn remember(&mut self, event: &Event) {
        let Event::Exited {
            worker: id,
            slot,
            generation,
            status,
            expected,
            failure,
            uptime,
        } = event
        else {
            return;
        };
        let Some(mut worker) = self.workers.remove(id) else {
            return;
        };
        let mut last_lines = worker.tail.last_lines();
        if worker.asked {
            last_lines.retain(|line| !inspect::is_chatter(line));
        }
        self.ended.push_front(Ended {
            worker: *id,
            slot: *slot,
            generation: *generation,
            pid: worker.pid,
            at: SystemTime::now(),
            status: *status,
            expected: *expected,
            failure: failure.clone(),
            uptime: *uptime,
            last_lines,
            stack: std::mem::take(&mut worker.stack),
        });
        self.leave_group(worker.group.take());
        if self.ended.len() > REMEMBERED {
            let asked_for = self.ended.iter().rposition(|ended| ended.expected);
            self.ended.remove(asked_for.unwrap_or(REMEMBERED));
        }
    }

    pub(super) fn drain(&mut self, worker: WorkerId, successor: bool) {
        let Some(drain) = self.workers.get(&worker).map(|worker| worker.program.drain) else {
            return;
        };
        let lame_duck = self.settings.lame_duck;
        if self.settings.stop_message
            && let Some(channel) = self.primary.channel(worker)
        {
            // One whose channel has ended hears the rest of it.
            let _ = channel.send("shutdown");
        }
        match (drain, successor) {
            // The signal is all that can be said to it: what it has to finish, it finishes until it is killed.
            (Drain::Signal, _) => self.machine.input(now(), Input::Drained { worker }),
            (Drain::HandBack, true) => self.primary.hand_back(worker, lame_duck),
            (Drain::Disconnect, true) => self.primary.disconnect(worker),
            (Drain::HandBack, false) => {
                self.primary.lame_duck(worker, lame_duck + LAST_OFFERS);
                self.lame_duck.get_or_insert_with(|| Instant::now() + lame_duck);
            }
            // Nothing tells such a worker's clients to leave, so there is nothing to wait for.
            (Drain::Disconnect, false) => self.lame_duck = Some(Instant::now()),
        }
    }

    /// The end of the lame-duck time.
    pub(super) fn close(&mut self) {
        self.primary.close_listeners();
        for (id, worker) in &self.workers {
            if worker.program.drain == Drain::Disconnect {
                self.primary.disconnect(*id);
            }
        }
    }

    /// It gets nothing new, and a signal.
    pub(super) fn end(&mut self, worker: WorkerId, signal: i32) {
        self.primary.retire(worker);
        self.kill(worker, signal);
    }

    /// Sends a signal to a worker, and to the process that it calls its main one.
    pub(super) fn kill(&mut self, worker: WorkerId, signal: i32) {
        if let Some(worker) = self.workers.get_mut(&worker) {
            worker.killed |= signal == libc::SIGKILL;
        }
        // One that has just ended cannot be told anything; its exit is on its way.
        let _ = self.primary.kill(worker, signal);
        if let Some((_, main)) = self.workers.get(&worker).and_then(|worker| worker.main.as_ref()) {
            let _ = pidfd::send_signal(main, signal);
        }
    }
}

pub(super) fn exit(status: ExitStatus) -> Exit {
    match status {
        ExitStatus::Code(code) => Exit::Code(code),
        ExitStatus::Signal { signal, core } => Exit::Signal { signal, core },
    }
}

fn reason_of(error: &dyn std::error::Error) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}
