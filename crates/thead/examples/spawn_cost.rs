//! What it costs to start a child and see it end, by ours and by the usual ways, in µs: the median of many rounds.
//!
//! `cargo run --release --example spawn_cost`. It pins itself to one processor. Quote ratios, not numbers.
#![expect(clippy::unwrap_used, reason = "a measurement that fails is none")]

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use rustix::process::{WaitId, WaitIdOptions, waitid};
use thead::sys::message::{SocketPair, socketpair};
use thead::sys::spawn::{FdSource, SpawnSpec, reserve, spawn};
use thead::sys::{helper, limit};

/// A program that ends at once, without a loader: what remains is the cost of spawning.
fn tiny(directory: &Path) -> PathBuf {
    if !cfg!(target_arch = "x86_64") {
        return "/bin/true".into();
    }
    // mov edi, 0; mov eax, 60; syscall
    let code = [0xbf, 0, 0, 0, 0, 0xb8, 60, 0, 0, 0, 0x0f, 0x05];
    let (base, headers) = (0x40_0000_u64, 64 + 56_u64);
    let size = headers + code.len() as u64;
    let mut elf = vec![
        0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 62, 0, 1, 0, 0, 0,
    ];
    for word in [base + headers, 64, 0] {
        elf.extend(u64::to_le_bytes(word));
    }
    elf.extend([0, 0, 0, 0, 64, 0, 56, 0, 1, 0, 0, 0, 0, 0, 0, 0]);
    elf.extend([1, 0, 0, 0, 5, 0, 0, 0]);
    for word in [0, base, base, size, size, 0x1000] {
        elf.extend(u64::to_le_bytes(word));
    }
    elf.extend(code);
    let path = directory.join("tiny");
    std::fs::write(&path, elf).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path
}

fn median(rounds: usize, mut run: impl FnMut()) -> f64 {
    run();
    let mut times: Vec<f64> = (0..rounds)
        .map(|_| {
            let start = Instant::now();
            run();
            start.elapsed().as_secs_f64() * 1e6
        })
        .collect();
    times.sort_by(f64::total_cmp);
    times[rounds / 2]
}

fn ours(spec: &SpawnSpec<'_>) {
    let child = spawn(spec).unwrap();
    waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED).unwrap();
}

fn posix_spawn(program: &Path, map: Option<&OwnedFd>) {
    let path = CString::new(program.to_str().unwrap()).unwrap();
    let argv = [path.as_ptr().cast_mut(), std::ptr::null_mut()];
    let env = [std::ptr::null_mut()];
    let mut pid = 0;
    // SAFETY: all pointers lead to live, terminated data; the actions are initialised before use.
    unsafe {
        let mut actions = std::mem::zeroed();
        libc::posix_spawn_file_actions_init(&mut actions);
        if let Some(map) = map {
            libc::posix_spawn_file_actions_adddup2(&mut actions, map.as_raw_fd(), 3);
        }
        let error = libc::posix_spawn(
            &mut pid,
            path.as_ptr(),
            &actions,
            std::ptr::null(),
            argv.as_ptr(),
            env.as_ptr(),
        );
        assert_eq!(error, 0);
        libc::posix_spawn_file_actions_destroy(&mut actions);
        assert_eq!(libc::waitpid(pid, std::ptr::null_mut(), 0), pid);
    }
}

fn command_with_map(program: &Path, map: &OwnedFd) {
    let source = map.as_raw_fd();
    let mut command = Command::new(program);
    command.env_clear();
    // SAFETY: dup2 is async-signal-safe.
    unsafe {
        command.pre_exec(move || match libc::dup2(source, 3) {
            -1 => Err(std::io::Error::last_os_error()),
            _ => Ok(()),
        });
    }
    command.status().unwrap();
}

fn main() {
    helper::run_if_asked();
    reserve(16);
    limit::raise_open_files().unwrap();
    let mut one = rustix::thread::CpuSet::new();
    one.set(0);
    rustix::thread::sched_setaffinity(None, &one).unwrap();
    let scratch = tempfile::tempdir().unwrap();
    let program = tiny(scratch.path());
    let SocketPair {
        child: end,
        parent: _parent,
    } = socketpair(None).unwrap();

    let plain = SpawnSpec::new(&program);
    let mut mapped = plain.clone();
    mapped.fds = vec![
        (0, FdSource::Inherit),
        (1, FdSource::Inherit),
        (2, FdSource::Inherit),
        (3, FdSource::Fd(end.as_fd())),
    ];

    println!("| memory | open | ours | ours, map | posix_spawn | posix_spawn, map | Command | Command, map |");
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
    let mut memory = Vec::new();
    let mut open: Vec<OwnedFd> = Vec::new();
    for (mebibytes, descriptors) in [(8, 0), (8, 1_000), (8, 10_000), (1024, 0), (1024, 10_000)] {
        memory.resize(mebibytes << 20, 1_u8);
        open.truncate(descriptors);
        while open.len() < descriptors {
            open.push(rustix::io::fcntl_dupfd_cloexec(&end, 64).unwrap());
        }
        let rounds = 2_000;
        let by_fork = if mebibytes > 100 { 30 } else { rounds };
        println!(
            "| {mebibytes} MiB | {descriptors} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} | {:.0} |",
            median(rounds, || ours(&plain)),
            median(rounds, || ours(&mapped)),
            median(rounds, || posix_spawn(&program, None)),
            median(rounds, || posix_spawn(&program, Some(&end))),
            median(rounds, || assert!(
                Command::new(&program).env_clear().status().unwrap().success()
            )),
            median(by_fork, || command_with_map(&program, &end)),
        );
    }
}
