//! What can be seen of a service at one moment.

use std::time::{Duration, SystemTime};

use thead_core::cluster::ListenAddress;
use thead_core::id::{Generation, WorkerId};
use thead_core::service::{Condition, Failure, Holder, Order};
use thead_core::worker::{Exit, Phase, Slot};

use super::{Service, now};

/// A service at one moment.
#[derive(Clone, Debug)]
pub struct Status {
    /// How it stands.
    pub condition: Condition,
    /// What a restart runs: the newest generation that has served in every slot.
    pub generation: Generation,
    /// How many workers are wanted.
    pub instances: usize,
    /// How many serve.
    pub ready: usize,
    /// What is under way, and for how long.
    pub change: Option<(Order, Duration)>,
    /// Slot 0, 1, …
    pub slots: Vec<SlotStatus>,
    /// All processes, oldest first: those that serve, that come and that leave.
    pub workers: Vec<WorkerStatus>,
    /// The last that ended, newest first.
    pub ended: Vec<Ended>,
}

/// A place in a service at one moment.
#[derive(Clone, Debug)]
pub struct SlotStatus {
    /// Which.
    pub slot: Slot,
    /// Who serves there, or what is waited for.
    pub holder: Holder,
    /// For how long, if it is a delay.
    pub waits: Option<Duration>,
    /// How often its worker was restarted after a death, ever.
    pub restarts: u32,
}

/// A worker at one moment.
#[derive(Clone, Debug)]
pub struct WorkerStatus {
    /// Its name.
    pub worker: WorkerId,
    /// Where it serves, or served.
    pub slot: Slot,
    /// Of which version it is.
    pub generation: Generation,
    /// Its process, once it runs.
    pub pid: Option<u32>,
    /// Where it is in its life.
    pub phase: Phase,
    /// When it was started.
    pub started: Option<SystemTime>,
    /// How long ago, by a clock that nobody sets.
    pub uptime: Duration,
    /// What it says of itself (`STATUS=`).
    pub note: Option<String>,
    /// Another process of it that matters, by its own word (`MAINPID=`).
    pub main: Option<u32>,
    /// What its last probe said, if that failed.
    pub trouble: Option<String>,
    /// What it said to listen on, the first [`ADDRESSES`].
    pub listening: Vec<ListenAddress>,
}

/// Addresses of one worker that are remembered.
pub const ADDRESSES: usize = 16;

/// A worker that has ended.
#[derive(Clone, Debug)]
pub struct Ended {
    /// Who.
    pub worker: WorkerId,
    /// Where.
    pub slot: Slot,
    /// Of which version.
    pub generation: Generation,
    /// What its process was.
    pub pid: u32,
    /// When.
    pub at: SystemTime,
    /// How.
    pub status: Exit,
    /// It had been told to leave, and not for a fault.
    pub expected: bool,
    /// What it did wrong, or what was done to it.
    pub failure: Option<Failure>,
    /// How long it lived.
    pub uptime: Duration,
    /// What it printed last, oldest first.
    pub last_lines: Vec<String>,
    /// What it was doing when it was found stuck, innermost first; of Node workers with the preload.
    pub stack: Vec<String>,
}

/// Workers that have ended and are remembered. Those that failed outlast those that were told to leave.
pub(super) const REMEMBERED: usize = 16;

impl Service {
    /// How it stands now.
    pub fn status(&self) -> Status {
        let (now, wall) = (now(), SystemTime::now());
        let workers = self.machine.workers().map(|view| {
            let uptime = view
                .started
                .map(|started| now.saturating_duration_since(started))
                .unwrap_or_default();
            let worker = self.workers.get(&view.worker);
            WorkerStatus {
                worker: view.worker,
                slot: view.slot,
                generation: view.generation,
                pid: view.pid,
                phase: view.phase,
                started: view.started.and_then(|_| wall.checked_sub(uptime)),
                uptime,
                note: worker.and_then(|worker| worker.note.clone()),
                main: worker.and_then(|worker| worker.main.as_ref()).map(|(pid, _)| *pid),
                trouble: worker.and_then(|worker| worker.trouble.clone()),
                listening: worker.map(|worker| worker.listening.clone()).unwrap_or_default(),
            }
        });
        let slots = self.machine.slots().zip(0..).map(|(holder, number)| SlotStatus {
            slot: Slot(number),
            holder: holder.clone(),
            waits: match holder {
                Holder::Waiting { until } => Some(until.saturating_duration_since(now)),
                _ => None,
            },
            restarts: self.machine.restarts(Slot(number)),
        });
        let workers: Vec<_> = workers.collect();
        Status {
            condition: self.machine.condition(),
            generation: self.machine.generation(),
            instances: self.machine.instances(),
            ready: workers.iter().filter(|worker| worker.phase == Phase::Ready).count(),
            change: self
                .machine
                .change()
                .map(|(order, begun)| (order, now.saturating_duration_since(begun))),
            slots: slots.collect(),
            workers,
            ended: self.ended.iter().cloned().collect(),
        }
    }
}
