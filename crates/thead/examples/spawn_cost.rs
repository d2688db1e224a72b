//! What it costs to start a child, by ours and by the usual ways, in µs: the call itself / until the child has ended.
//!
//! `cargo run --release --example spawn_cost`. It pins itself to one processor and takes the tenth percentile of many
//! rounds, for other work on the machine only adds. Quote ratios, not numbers.
#![expect(clippy::unwrap_used, reason = "a measurement that fails is none")]

use std::ffi::CString;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

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

/// `run` starts a child, waits for its end, and tells when it had been started.
fn cost(rounds: usize, mut run: impl FnMut() -> Instant) -> String {
    run();
    let (mut calls, mut wholes) = (Vec::new(), Vec::new());
    for _ in 0..rounds {
        let start = Instant::now();
        let started = run();
        wholes.push(start.elapsed());
        calls.push(started - start);
    }
    let typical = |mut times: Vec<Duration>| {
        times.sort();
        times[rounds / 10].as_micros()
    };
    format!("{} / {}", typical(calls), typical(wholes))
}

fn ours(spec: &SpawnSpec<'_>) -> Instant {
    let child = spawn(spec).unwrap();
    let started = Instant::now();
    waitid(WaitId::PidFd(child.pidfd.as_fd()), WaitIdOptions::EXITED).unwrap();
    started
}

fn standard(command: &mut Command) -> Instant {
    let mut child = command.env_clear().spawn().unwrap();
    let started = Instant::now();
    assert!(child.wait().unwrap().success());
    started
}

fn posix_spawn(program: &Path, map: Option<&OwnedFd>) -> Instant {
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
        let started = Instant::now();
        libc::posix_spawn_file_actions_destroy(&mut actions);
        assert_eq!(libc::waitpid(pid, std::ptr::null_mut(), 0), pid);
        started
    }
}

fn command_with_map(program: &Path, map: &OwnedFd) -> Instant {
    let source = map.as_raw_fd();
    let mut command = Command::new(program);
    // SAFETY: dup2 is async-signal-safe.
    unsafe {
        command.pre_exec(move || match libc::dup2(source, 3) {
            -1 => Err(std::io::Error::last_os_error()),
            _ => Ok(()),
        });
    }
    standard(&mut command)
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
            "| {mebibytes} MiB | {descriptors} | {} | {} | {} | {} | {} | {} |",
            cost(rounds, || ours(&plain)),
            cost(rounds, || ours(&mapped)),
            cost(rounds, || posix_spawn(&program, None)),
            cost(rounds, || posix_spawn(&program, Some(&end))),
            cost(rounds, || standard(&mut Command::new(&program))),
            cost(by_fork, || command_with_map(&program, &end)),
        );
    }
}
