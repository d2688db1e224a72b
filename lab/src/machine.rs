//! The machine: what can be told of it without naming it, and who runs on which core.

use std::fs;
use std::thread::available_parallelism;

use rustix::thread::sched_getaffinity;

use crate::results::Machine;

/// The cores that this process may use.
pub(crate) fn cores() -> Vec<usize> {
    match sched_getaffinity(None) {
        Ok(set) => (0..rustix::thread::CpuSet::MAX_CPU)
            .filter(|core| set.is_set(*core))
            .collect(),
        Err(_) => (0..available_parallelism().map_or(1, usize::from)).collect(),
    }
}

/// Cores for the servers and for the load. From four on, a quarter is the load's alone; fewer are shared, and both are empty.
pub(crate) fn divide(cores: &[usize]) -> (Vec<usize>, Vec<usize>) {
    if cores.len() < 4 {
        return (Vec::new(), Vec::new());
    }
    let (servers, load) = cores.split_at(cores.len() - cores.len() / 4);
    (servers.to_vec(), load.to_vec())
}

/// Describes it.
pub(crate) fn describe(cores: &[usize], servers: &[usize]) -> Machine {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    // Its first two numbers: what follows is the builder's.
    let kernel: Vec<&str> = kernel.trim().splitn(3, ['.', '-']).take(2).collect();
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu.lines().find_map(|line| line.strip_prefix("model name"));
    let model = model.map_or("unknown processor", |rest| rest.trim_start_matches([' ', '\t', ':']));
    let guest = if cpu.contains(" hypervisor") { ", virtual" } else { "" };
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = memory.lines().find_map(|line| {
        line.strip_prefix("MemTotal:")?
            .trim()
            .strip_suffix(" kB")?
            .parse::<u64>()
            .ok()
    });
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    Machine {
        description: format!(
            "{} cores ({model}{guest}), {} GiB of memory, Linux {}, {}",
            cores.len(),
            (total.unwrap_or(0) + (1 << 19)) >> 20,
            kernel.join("."),
            std::env::consts::ARCH,
        ),
        cores: cores.len(),
        server_cores: if servers.is_empty() { cores.len() } else { servers.len() },
        pinned: !servers.is_empty(),
        load_average: load
            .split(' ')
            .next()
            .and_then(|first| first.parse().ok())
            .unwrap_or(f64::NAN),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_cores_are_shared_and_of_many_a_quarter_is_the_loads() {
        assert_eq!(divide(&[0, 1]), (vec![], vec![]));
        assert_eq!(divide(&[0, 1, 2, 3]), (vec![0, 1, 2], vec![3]));
        assert_eq!(divide(&[4, 5, 6, 7, 8, 9, 10, 11]).1, [10, 11]);
    }

    #[test]
    fn this_machine_has_a_core_and_a_description() {
        let all = cores();
        assert!(!all.is_empty());
        let machine = describe(&all, &[]);
        assert!(machine.description.contains(" cores (") && machine.server_cores == all.len());
    }
}
