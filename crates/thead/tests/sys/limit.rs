//! Processors that the control group grants.

use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use crate::kit::{Census, output, part, until};

/// A new group with a quota of 1.0 processors, by whichever version of control groups there is.
fn group_of_one() -> Option<PathBuf> {
    let name = format!("thead-cores-{}", std::process::id());
    let (v1, v2) = (
        Path::new("/sys/fs/cgroup/cpu").join(&name),
        Path::new("/sys/fs/cgroup").join(&name),
    );
    if std::fs::create_dir(&v1).is_ok() {
        std::fs::write(v1.join("cpu.cfs_period_us"), "100000").ok()?;
        std::fs::write(v1.join("cpu.cfs_quota_us"), "100000").ok()?;
        return Some(v1);
    }
    std::fs::create_dir(&v2).ok()?;
    if std::fs::write(v2.join("cpu.max"), "100000 100000").is_err() {
        std::fs::remove_dir(&v2).ok()?;
        return None;
    }
    Some(v2)
}

#[test]
fn cores_are_those_that_the_control_group_grants() {
    let _census = Census::take();
    let Some(group) = group_of_one() else {
        println!("skipped: no control group with a processor quota that we may write to");
        return;
    };
    let procs = std::fs::OpenOptions::new()
        .write(true)
        .open(group.join("cgroup.procs"))
        .unwrap();
    let mut spec = part("cores");
    spec.cgroups = vec![procs.as_fd()];
    let (text, _, _) = output(spec);
    until("the group is empty", || std::fs::remove_dir(&group).is_ok());
    assert_eq!(text, "1\n");
}
