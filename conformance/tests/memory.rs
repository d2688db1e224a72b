//! Workers that use more memory than they may.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use conformance::{Run, Runtime, Thead, client, eventually, on};
use rustix::process::Signal;

/// Grows when it is asked to, by 300 MB in a second, itself or by a child of its own.
const GROWS: &str = "
    const grow = () => {
        const kept = globalThis.kept = [];
        const timer = setInterval(() => kept.push(Buffer.alloc(10 << 20, 1)) > 30 && clearInterval(timer), 30);
    };
    if (process.argv[2] === 'child') return void (setInterval(() => {}, 1000), grow());
    require('node:http').createServer((req, res) => {
        if (req.url === '/grow') grow();
        if (req.url === '/child') require('node:child_process').spawn(process.execPath, [__filename, 'child'], { stdio: 'inherit' });
        res.setHeader('x-pid', process.pid).setHeader('x-worker', require('node:cluster').worker.id).end('hello');
    }).listen(Number(process.env.PORT), '127.0.0.1');
";

/// A worker of Node's has some 50 MB of its own.
fn limited(runtime: Runtime) -> Run {
    Run::script(runtime, GROWS).option("--memory", "200M")
}

/// A machine where no control group can be had: in a mount of its own, none is there.
fn without_groups(run: Run) -> Run {
    let hide = "umount -l /sys/fs/cgroup/memory 2>/dev/null; umount -l /sys/fs/cgroup/unified 2>/dev/null; \
                grep -q 'cgroup2' /proc/self/mountinfo && umount -l /sys/fs/cgroup; exec \"$@\"";
    run.under(["unshare", "--mount", "--propagation", "private", "sh", "-c", hide, "sh"])
}

/// What is left of groups that were made for a thead's workers.
fn groups_of(thead: u32) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut below = vec![PathBuf::from("/sys/fs/cgroup")];
    while let Some(directory) = below.pop() {
        let Ok(entries) = std::fs::read_dir(&directory) else {
            continue;
        };
        for entry in entries
            .flatten()
            .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        {
            if entry
                .file_name()
                .to_str()
                .is_some_and(|name| name.starts_with(&format!("thead-{thead}-")))
            {
                found.push(entry.path());
            }
            below.push(entry.path());
        }
    }
    found
}

/// Whether control groups can be had here, which the tests of them need.
fn has_groups() -> bool {
    let has = thead::sys::cgroup::Groups::find(None).is_some();
    if !has {
        println!("skipped: no memory controller can be had here");
    }
    has
}

fn pids(port: u16) -> BTreeSet<u32> {
    client::until_all(2, || [client::get(port, "/").pid()])
}

fn g20_a_worker_that_the_kernel_ends_for_its_memory_is_replaced_and_told_so(runtime: Runtime) {
    if !has_groups() {
        return;
    }
    let mut thead = limited(runtime).start();
    let port = thead.ready(2);
    let pid = thead.process().pid;
    assert_eq!(groups_of(pid).len(), 2, "each has a group of its own");
    let worker = client::get(port, "/grow").worker();
    let gone = thead.next("exited");
    assert_eq!((gone.number("worker"), gone.number("signal")), (worker, 9));
    assert_eq!(
        gone.text("cause"),
        "used more memory than it may and was ended by the kernel"
    );
    assert_eq!(thead.next("restart").text("message"), gone.text("cause"));
    thead.ready(1);
    assert_eq!(pids(port).len(), 2);
    // One that somebody else kills is told as that.
    conformance::kill(*pids(port).first().unwrap(), Signal::KILL);
    assert_eq!(thead.next("exited").text("cause"), "was ended by signal 9");
    thead.ready(1);
    eventually("the groups of those that have ended are removed", || {
        (groups_of(pid).len() == 2).then_some(())
    });
    thead.stop_cleanly();
    assert_eq!(groups_of(pid), [] as [PathBuf; 0]);
}

fn replaced_new_before_old(mut thead: Thead, path: &'static str) {
    let port = thead.ready(2);
    let before = pids(port);
    let worker = client::get(port, path).worker();
    let over = thead.next("over_memory");
    assert_eq!(over.number("worker"), worker);
    assert!(over.number("resident") > over.number("limit"));
    assert_eq!(thead.next("renew_started").number("worker"), worker);
    let load = std::thread::spawn(move || {
        for _ in 0..200 {
            assert_eq!(client::get(port, "/").status, 200);
            std::thread::sleep(Duration::from_millis(5));
        }
    });
    thead.next("renew_done");
    load.join().unwrap();
    let after = pids(port);
    assert_eq!(after.intersection(&before).count(), 1, "one of them was replaced");
    assert_eq!(thead.all("over_memory").len(), 1, "it is asked for once");
    for gone in thead.all("exited") {
        assert_eq!(gone.json["expected"], true, "{}", gone.json);
    }
    // One that waits for a child of its own does not end by itself.
    thead.stop();
}

fn a_worker_that_grows_is_replaced_new_before_old_where_the_kernel_does_not_hold_it(runtime: Runtime) {
    replaced_new_before_old(without_groups(limited(runtime)).start(), "/grow");
}

fn what_a_worker_has_started_counts_as_its_own(runtime: Runtime) {
    replaced_new_before_old(without_groups(limited(runtime)).start(), "/child");
}

on!(nodes:
    g20_a_worker_that_the_kernel_ends_for_its_memory_is_replaced_and_told_so,
    a_worker_that_grows_is_replaced_new_before_old_where_the_kernel_does_not_hold_it,
);
on!([node22 Node22]: what_a_worker_has_started_counts_as_its_own);
