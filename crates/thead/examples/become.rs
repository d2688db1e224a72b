//! Runs a command as another user: `become UID GID PROGRAM [ARGS]`. Needs root.

use std::process::ExitCode;

fn main() -> ExitCode {
    // First of all: a child that is to become somebody else runs this program once more on its way.
    thead::sys::helper::run_if_asked();
    let words: Vec<String> = std::env::args().skip(1).collect();
    let [uid, gid, program, args @ ..] = &words[..] else {
        eprintln!("become UID GID PROGRAM [ARGS]");
        return ExitCode::from(2);
    };
    let (Ok(uid), Ok(gid)) = (uid.parse(), gid.parse()) else {
        eprintln!("a user and a group are numbers");
        return ExitCode::from(2);
    };
    match thead::Command::new(program).args(args).uid(uid).gid(gid).output_sync() {
        Ok(output) => {
            print!("{}", output.text());
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}
