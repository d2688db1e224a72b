//! Writes the seeds of all targets as files, one directory per target, for `cargo-fuzz`.

#![expect(clippy::unwrap_used, reason = "a tool for who works on thead")]

use std::path::PathBuf;

fn main() {
    let Some(root) = std::env::args_os().nth(1).map(PathBuf::from) else {
        panic!("usage: corpus DIRECTORY");
    };
    for target in fuzz::TARGETS {
        let directory = root.join(target.name);
        std::fs::create_dir_all(&directory).unwrap();
        let seeds = (target.seeds)();
        for (at, seed) in seeds.iter().enumerate() {
            std::fs::write(directory.join(format!("seed-{at:04}")), seed).unwrap();
        }
        println!("{}: {} seeds", target.name, seeds.len());
    }
}
