//! A primary of Node's `cluster` whose workers are not Node's.

use crate::runtime::Runtime;
use crate::script::Script;

/// Does as it is told on its standard input, and says what happens.
const PRIMARY: &str = "
    const cluster = require('node:cluster');
    const say = (what) => require('node:fs').writeSync(1, JSON.stringify(what) + '\\n');
    // Node has no other way to start a worker that is not run by Node.
    process.execPath = process.env.CHILD;
    cluster.setupPrimary({ exec: 'serves', args: [], execArgv: [] });
    cluster.on('online', (worker) => say({ online: worker.id }));
    cluster.on('listening', (worker, address) => say({ listening: worker.id, at: address }));
    cluster.on('message', (worker, message) => say({ from: worker.id, message }));
    cluster.on('disconnect', (worker) => say({ disconnected: worker.id, asked: worker.exitedAfterDisconnect }));
    cluster.on('exit', (worker, code, signal) =>
        say({ exited: worker.id, end: code ?? signal, asked: worker.exitedAfterDisconnect }));
    require('node:readline').createInterface({ input: process.stdin }).on('line', (line) => {
        const [verb, id] = line.split(' ');
        if (verb === 'fork') cluster.fork();
        if (verb === 'send') cluster.workers[id].send({ to: id });
        if (verb === 'disconnect') cluster.workers[id].disconnect();
        if (verb === 'kill') cluster.workers[id].kill();
    }).on('close', () => cluster.disconnect());
";

/// A primary with so many workers, which are `program serves`. It forks, sends to, disconnects and kills workers when told
/// (`fork`, `disconnect 2`), and lets all go at the end of its input. `policy` is `rr` or `none`.
pub fn node_primary(
    runtime: Runtime,
    policy: &str,
    program: &str,
    variables: &[(&str, &str)],
    workers: usize,
) -> Script {
    let variables = [&[("CHILD", program), ("NODE_CLUSTER_SCHED_POLICY", policy)], variables].concat();
    let mut primary = Script::start(runtime, PRIMARY, &variables);
    for _ in 0..workers {
        primary.say("fork");
    }
    primary
}
