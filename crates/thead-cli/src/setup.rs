//! `startup`, `completions`, `man`: thead made at home on a machine.

use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::{Args, CommandFactory};

use crate::verbs::{FAILED, USAGE};

#[derive(Debug, Args)]
pub(crate) struct StartupArgs {
    /// For this user's own systemd; default for all but root.
    #[arg(long)]
    user: bool,
    /// Only print the unit.
    #[arg(long)]
    print: bool,
    /// Also let systemd start it, now and at each boot.
    #[arg(long, conflicts_with = "print")]
    enable: bool,
    /// Where units are, if not where systemd looks for them.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct ManArgs {
    /// Write a page for each verb into this directory, in place of the first on standard output.
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

const UNIT: &str = "thead.service";

/// The unit: control alone is started, watched and ended by systemd. Services outlive it, and the next control finds them.
fn unit(exe: &Path, user: bool) -> String {
    let mut unit = String::from(
        "[Unit]\nDescription=thead, services that stay up\n\
         After=network-online.target\nWants=network-online.target\nStartLimitIntervalSec=0\n\n\
         [Service]\nType=notify\nNotifyAccess=main\n",
    );
    let _ = writeln!(unit, "ExecStart={} daemon", quoted(exe));
    unit.push_str(
        "# Services live on while the daemon is replaced; `thead daemon stop` ends them.\nKillMode=process\n\
         Restart=always\nRestartSec=1\nWatchdogSec=30\n\
         # A service that is out of memory is restarted by thead, not the daemon by systemd.\nOOMPolicy=continue\n\
         # Each service may have a control group of its own.\nDelegate=yes\nTasksMax=infinity\nLimitNOFILE=1048576\n",
    );
    let target = if user { "default.target" } else { "multi-user.target" };
    let _ = write!(unit, "\n[Install]\nWantedBy={target}\n");
    unit
}

/// As systemd reads words: quoted, with its own marks doubled.
fn quoted(path: &Path) -> String {
    let text = path.display().to_string().replace('%', "%%").replace('$', "$$");
    if text.contains(|c: char| c.is_whitespace() || "\"'\\;".contains(c)) {
        format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
    } else {
        text
    }
}

pub(crate) fn startup(args: &StartupArgs) -> ExitCode {
    match install(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err((problem, code)) => {
            eprintln!("thead: {problem}");
            ExitCode::from(code)
        }
    }
}

fn install(args: &StartupArgs) -> Result<(), (String, u8)> {
    let failed = |text: String| (text, FAILED);
    let user = args.user || !rustix::process::geteuid().is_root();
    let exe = std::env::current_exe().map_err(|error| failed(error.to_string()))?;
    let text = unit(&exe, user);
    if args.print {
        print!("{text}");
        return Ok(());
    }
    let dir = match (&args.dir, user) {
        (Some(dir), _) => dir.clone(),
        (None, false) => PathBuf::from("/etc/systemd/system"),
        (None, true) => {
            let home = std::env::var_os("HOME").ok_or_else(|| ("HOME is not set".to_owned(), USAGE))?;
            let config = std::env::var_os("XDG_CONFIG_HOME").filter(|dir| !dir.is_empty());
            let config = config.map_or_else(|| Path::new(&home).join(".config"), PathBuf::from);
            config.join("systemd/user")
        }
    };
    let path = dir.join(UNIT);
    let with = |error: io::Error| failed(format!("{}: {error}", path.display()));
    std::fs::create_dir_all(&dir).map_err(with)?;
    // Nobody shall start half a unit.
    let new = dir.join(format!(".{UNIT}.new"));
    std::fs::write(&new, &text).map_err(with)?;
    std::fs::rename(&new, &path).map_err(with)?;
    println!("{} is written", path.display());
    verify(&path, user)?;
    let mut systemctl = vec!["systemctl"];
    if user {
        systemctl.push("--user");
    }
    if !args.enable {
        let systemctl = systemctl.join(" ");
        println!("next: {systemctl} daemon-reload && {systemctl} enable --now thead");
        if user {
            println!("to run when nobody is logged in: loginctl enable-linger");
        }
        return Ok(());
    }
    for words in [&["daemon-reload"][..], &["enable", "--now", "thead"]] {
        let done = Command::new(systemctl[0]).args(&systemctl[1..]).args(words).status();
        match done {
            Ok(status) if status.success() => {}
            Ok(status) => return Err(failed(format!("systemctl {}: {status}", words.join(" ")))),
            Err(error) => return Err(failed(format!("systemctl: {error}; is this a system with systemd?"))),
        }
    }
    Ok(())
}

fn verify(path: &Path, user: bool) -> Result<(), (String, u8)> {
    let scope = if user { "--user" } else { "--system" };
    match Command::new("systemd-analyze")
        .args(["verify", "--man=no", scope])
        .arg(path)
        .output()
    {
        Ok(output) if output.status.success() => {
            println!("systemd-analyze finds nothing wrong with it");
            Ok(())
        }
        Ok(output) => {
            let said = String::from_utf8_lossy(&output.stderr);
            Err((
                format!("systemd-analyze does not like it:\n{}", said.trim_end()),
                FAILED,
            ))
        }
        Err(error) => {
            println!("it is not checked: systemd-analyze: {error}");
            Ok(())
        }
    }
}

pub(crate) fn completions(shell: clap_complete::Shell) -> ExitCode {
    let mut text = Vec::new();
    clap_complete::generate(shell, &mut crate::Cli::command(), "thead", &mut text);
    print(&text)
}

pub(crate) fn man(args: &ManArgs) -> ExitCode {
    let command = crate::Cli::command();
    let done = match &args.dir {
        Some(dir) => std::fs::create_dir_all(dir).and_then(|()| clap_mangen::generate_to(command, dir)),
        None => {
            let mut text = Vec::new();
            return match clap_mangen::Man::new(command).render(&mut text) {
                Ok(()) => print(&text),
                Err(_) => ExitCode::from(FAILED),
            };
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("thead: {error}");
            ExitCode::from(FAILED)
        }
    }
}

fn print(text: &[u8]) -> ExitCode {
    // Whoever reads only the first lines has what they wanted.
    let _ = io::stdout().lock().write_all(text);
    ExitCode::SUCCESS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_quoted_as_systemd_reads_it() {
        assert_eq!(quoted(Path::new("/usr/bin/thead")), "/usr/bin/thead");
        assert_eq!(
            quoted(Path::new("/opt/my tools/50%/thead")),
            "\"/opt/my tools/50%%/thead\""
        );
    }

    #[test]
    fn the_definition_of_the_command_line_is_sound() {
        crate::Cli::command().debug_assert();
    }
}
