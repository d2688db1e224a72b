//! What processes use, looked at when somebody asks: an idle daemon does nothing.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use thead::control::Service;
use thead::sys::stat::ProcessStat;

/// The last look at each process.
#[derive(Debug, Default)]
pub(crate) struct Sampler {
    last: HashMap<u32, Look>,
}

#[derive(Debug)]
struct Look {
    stat: ProcessStat,
    at: Instant,
    cpu: Duration,
    /// As it was told last.
    percent: f32,
    seen: bool,
}

/// Two looks that are nearer than this say nothing new: the kernel counts in steps of 10 ms.
const NEAR: Duration = Duration::from_millis(200);

impl Sampler {
    /// Fills in memory and processor time of all services.
    pub(crate) fn fill(&mut self, services: &mut [Service]) {
        for look in self.last.values_mut() {
            look.seen = false;
        }
        for service in services {
            service.memory = service.primary.map_or(0, |pid| self.look(pid).0);
            for worker in &mut service.workers {
                if let Some(pid) = worker.pid {
                    let (memory, cpu, percent) = self.look(pid);
                    (worker.memory, worker.cpu_percent) = (memory, percent);
                    worker.cpu_ms = u64::try_from(cpu.as_millis()).unwrap_or(u64::MAX);
                    service.memory += memory;
                }
            }
        }
        self.last.retain(|_, look| look.seen);
    }

    fn look(&mut self, pid: u32) -> (u64, Duration, f32) {
        let now = Instant::now();
        let known = self
            .last
            .get_mut(&pid)
            .and_then(|look| Some((look.stat.sample().ok()?, look)));
        let (sample, look) = match known {
            Some(known) => known,
            None => {
                // A process of the same number that is gone has another file.
                let Ok(stat) = ProcessStat::open(pid.cast_signed()) else {
                    return Default::default();
                };
                let Ok(sample) = stat.sample() else {
                    return Default::default();
                };
                let look = Look {
                    stat,
                    at: now,
                    cpu: sample.cpu,
                    percent: 0.0,
                    seen: true,
                };
                self.last.insert(pid, look);
                return (sample.resident, sample.cpu, 0.0);
            }
        };
        let passed = now - look.at;
        if passed >= NEAR {
            look.percent = 100.0 * (sample.cpu.saturating_sub(look.cpu)).as_secs_f32() / passed.as_secs_f32();
            (look.at, look.cpu) = (now, sample.cpu);
        }
        look.seen = true;
        (sample.resident, sample.cpu, look.percent)
    }
}
