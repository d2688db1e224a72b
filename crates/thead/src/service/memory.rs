//! How much memory workers use: held by the kernel where it can be had, looked at where not.

use std::time::Duration;

use thead_core::id::WorkerId;
use thead_core::service::{Input, Order};
use thead_core::worker::Exit;
use tokio::time::Instant;

use super::worker::Worker;
use super::{Service, ServiceEvent};
use crate::command::Command;
use crate::sys::cgroup::{self, Group, Groups};
use crate::sys::stat::ProcessStat;
use crate::sys::tree;

/// How often memory is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// Every so many looks it is seen whom a worker has started since.
const CENSUS: u32 = 5;
/// When a worker that is still there is to be replaced again.
const AGAIN: Duration = Duration::from_secs(60);

/// The processes of one worker.
#[derive(Debug, Default)]
pub(super) struct Meter {
    members: Vec<ProcessStat>,
    looks: u32,
    /// When its replacement was asked for.
    asked: Option<Instant>,
}

/// What is known of memory beyond single workers.
#[derive(Debug, Default)]
pub(super) struct Memory {
    /// Where groups can be made; not known before the first is wanted.
    groups: Option<Option<Groups>>,
    /// When it is to be looked next.
    look: Option<Instant>,
    /// As many processes around us the kernel had ended when it was last seen.
    kills: Option<u64>,
    /// Groups of workers that have ended, with somebody in them.
    left: Vec<Group>,
}

impl Meter {
    /// Resident memory of a worker and of all that it has started, in bytes. What they share counts for each.
    fn resident(&mut self, pid: u32) -> u64 {
        if self.looks.is_multiple_of(CENSUS) {
            let pids = tree::descendants(pid.cast_signed());
            self.members = pids.into_iter().filter_map(|pid| ProcessStat::open(pid).ok()).collect();
        }
        self.looks = self.looks.wrapping_add(1);
        // One that has ended uses nothing.
        self.members
            .iter()
            .filter_map(|member| member.sample().ok())
            .map(|sample| sample.resident)
            .sum()
    }
}

impl Service {
    /// A group for a new worker, if there is a limit and one can be had.
    pub(super) fn memory_group(&mut self, id: WorkerId, command: &Command) -> Option<Group> {
        self.memory.kills = self.memory.kills.or_else(cgroup::own_oom_kills);
        let limit = self.settings.limits.memory?;
        let find = || Groups::find(command.own_cgroup());
        let groups = self.memory.groups.get_or_insert_with(find).as_ref();
        let group = groups.map(|groups| groups.make(id.0, limit)).transpose();
        let group = group.unwrap_or_else(|error| {
            tracing::warn!(%error, "the kernel does not hold the memory of a worker");
            None
        });
        if group.is_none() {
            self.memory.look.get_or_insert_with(|| Instant::now() + LOOK);
        }
        group
    }

    /// Another limit holds.
    pub(super) fn limit_memory_anew(&mut self) {
        let Some(limit) = self.settings.limits.memory else {
            // A group that was made stays, with room for everything.
            for group in self.workers.values().filter_map(|worker| worker.group.as_ref()) {
                let _ = group.set_limit(UNLIMITED);
            }
            return self.memory.look = None;
        };
        let mut looked_at = false;
        for (id, worker) in &self.workers {
            match &worker.group {
                Some(group) => {
                    if let Err(error) = group.set_limit(limit) {
                        self.events.push_back(ServiceEvent::LimitKept {
                            worker: *id,
                            limit: "memory",
                            reason: error.to_string(),
                        });
                    }
                }
                None => looked_at = true,
            }
        }
        if looked_at {
            self.memory.look.get_or_insert_with(|| Instant::now() + LOOK);
        }
    }

    /// When memory is to be looked at.
    pub(super) fn memory_deadline(&self) -> Option<Instant> {
        self.memory.look
    }

    /// Time passed.
    pub(super) fn look_at_memory(&mut self) {
        let now = Instant::now();
        let (Some(limit), Some(_)) = (
            self.settings.limits.memory,
            self.memory.look.filter(|look| *look <= now),
        ) else {
            return;
        };
        self.memory.look = Some(now + LOOK);
        self.memory.left.retain(Group::is_used);
        let mut over = Vec::new();
        for (id, worker) in self.workers.iter_mut().filter(|(_, worker)| worker.group.is_none()) {
            let resident = worker.meter.resident(worker.pid);
            if resident > limit && worker.meter.asked.is_none_or(|asked| now >= asked + AGAIN) {
                worker.meter.asked = Some(now);
                over.push((*id, worker.slot, resident));
            }
        }
        for (worker, slot, resident) in over {
            self.events.push_back(ServiceEvent::OverMemory {
                worker,
                resident,
                limit,
            });
            let ticket = self.next_ticket();
            let order = Order::Renew(slot);
            self.machine.input(super::now(), Input::Order { ticket, order });
        }
    }

    /// Whether the kernel ended a worker for its memory, or for that of all around us.
    pub(super) fn was_out_of_memory(&mut self, id: WorkerId, status: Exit) -> bool {
        let is_kill = matches!(
            status,
            Exit::Signal {
                signal: libc::SIGKILL,
                ..
            }
        );
        let Some(Worker { group, killed, .. }) = self.workers.get(&id).filter(|_| is_kill) else {
            return false;
        };
        if *killed {
            return false;
        }
        if let Some(group) = group {
            return group.oom_kills() > 0;
        }
        let (Some(before), Some(now)) = (self.memory.kills, cgroup::own_oom_kills()) else {
            return false;
        };
        // One at a time: others may have been ended too, whose ends come yet.
        self.memory.kills = Some(now.min(before + 1));
        now > before
    }

    /// A worker has ended; its group is removed when nobody is in it any more.
    pub(super) fn leave_group(&mut self, group: Option<Group>) {
        self.memory.left.retain(Group::is_used);
        self.memory.left.extend(group.filter(Group::is_used));
    }
}

/// More than any machine has, and what both hierarchies understand.
const UNLIMITED: u64 = 1 << 62;
