//! The machine and what is installed on it.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::Failure;

/// The Node that serves, and that peers run under.
pub(crate) const NODE: &str = "node22";

/// The workspace.
pub(crate) fn root() -> &'static Path {
    let own = Path::new(env!("CARGO_MANIFEST_DIR"));
    own.parent().unwrap_or(own)
}

/// A script of the peers'.
pub(crate) fn script(name: &str) -> PathBuf {
    root().join("bench/peers").join(name)
}

/// A runtime that `conformance/setup` installed.
pub(crate) fn runtime(name: &str) -> PathBuf {
    root().join("conformance/runtimes/bin").join(name)
}

/// The program `thead`, built with the same profile as this one.
pub(crate) fn thead() -> Result<PathBuf, Failure> {
    let path = std::env::current_exe()?.with_file_name("thead");
    if !path.is_file() {
        return Err("there is no thead beside thead-bench: start this by bench/run, which builds both".into());
    }
    Ok(path)
}

/// Installs PM2 as `package-lock.json` pins it, unless it is there.
pub(crate) fn install_peers() -> Result<(), Failure> {
    let peers = root().join("bench/peers");
    let (lock, mark) = (
        peers.join("package-lock.json"),
        peers.join("node_modules/installed.json"),
    );
    let wanted = fs::read(&lock)?;
    if fs::read(&mark).is_ok_and(|installed| installed == wanted) {
        return Ok(());
    }
    println!("installing PM2 into bench/peers/node_modules");
    let status = Command::new("npm")
        .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund", "--loglevel=error"])
        .current_dir(&peers)
        .stdin(Stdio::null())
        .status()
        .map_err(|error| format!("npm is needed, from any Node.js (Debian: apt-get install npm): {error}"))?;
    if !status.success() {
        return Err("npm could not install PM2; its message is above".into());
    }
    Ok(fs::write(mark, wanted)?)
}

/// What can be told of the machine without naming it.
pub(crate) fn describe() -> String {
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let kernel: Vec<&str> = kernel.trim().splitn(3, ['.', '-']).take(2).collect();
    let cpu = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find_map(|line| line.strip_prefix("model name"))
        .map_or("unknown", |rest| rest.trim_start_matches([' ', '\t', ':']));
    let virtual_machine = if cpu.contains(" hypervisor") { ", virtual" } else { "" };
    let memory = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kibibytes: u64 = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.trim().strip_suffix(" kB")?.parse().ok())
        .unwrap_or(0);
    format!(
        "{cores} cores ({model}{virtual_machine}), {} GiB of memory, Linux {}, {}",
        (kibibytes + (1 << 19)) >> 20,
        kernel.join("."),
        std::env::consts::ARCH,
    )
}

/// How many processes wanted to run in the last minute, on average.
pub(crate) fn load_average() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ')
        .next()
        .and_then(|first| first.parse().ok())
        .unwrap_or(f64::NAN)
}

/// The version of a runtime, without its "v".
pub(crate) fn version(runtime: &Path) -> Result<String, Failure> {
    let output = Command::new(runtime).arg("--version").output()?;
    Ok(String::from_utf8(output.stdout)?
        .trim()
        .trim_start_matches('v')
        .to_owned())
}
