//! The list as PM2 prints it (`pm2 jlist`), for what reads that: one entry a worker, with the fields that readers use.

use serde_json::{Value, json};
use thead::control::{Service, Worker};

pub(super) fn jlist(services: &[Service]) -> Value {
    let mut next = 0;
    let mut entries = Vec::new();
    for service in services {
        let absent = [Worker::default()];
        let workers = if service.workers.is_empty() {
            &absent[..]
        } else {
            &service.workers
        };
        for worker in workers {
            entries.push(entry(service, worker, next));
            next += 1;
        }
    }
    entries.into()
}

fn entry(service: &Service, worker: &Worker, id: u32) -> Value {
    let status = match worker.phase.as_str() {
        "ready" => "online",
        "spawning" | "starting" | "soaking" => "launching",
        "draining" | "terminating" | "killed" => "stopping",
        _ if service.phase == thead::control::Phase::Failed => "errored",
        _ => "stopped",
    };
    // The script, where a runtime runs one, as PM2 has it.
    let is_runtime = |word: &String| thead::Runtime::of_program(word.as_ref()).is_some();
    let (path, args) = match &*service.run {
        [runtime, script, args @ ..] if is_runtime(runtime) && !script.starts_with('-') => (Some(script), args),
        [program, args @ ..] => (Some(program), args),
        [] => (None, &[][..]),
    };
    json!({
        "pid": worker.pid.unwrap_or(0),
        "name": service.name,
        "pm_id": id,
        "monit": { "memory": worker.memory, "cpu": worker.cpu_percent.round() as u32 },
        "pm2_env": {
            "name": service.name,
            "namespace": service.namespace,
            "pm_id": id,
            "status": status,
            "pm_uptime": worker.since.unwrap_or(0),
            "restart_time": worker.restarts,
            "unstable_restarts": 0,
            "instances": service.instances,
            "exec_mode": if service.instances > 1 { "cluster_mode" } else { "fork_mode" },
            "pm_exec_path": path,
            "args": args,
            "NODE_APP_INSTANCE": worker.slot,
        },
    })
}
