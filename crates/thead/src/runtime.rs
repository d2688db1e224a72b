//! JavaScript runtimes: which one a program is, and how a script is started under it.

use std::ffi::{OsStr, OsString};
use std::path::Path;

use thead_wire::Dialect;

/// A JavaScript runtime that speaks Node's channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Runtime {
    /// Node.js, 18 to 26.
    Node,
    /// Bun. Its HTTP workers bind the port themselves; see `docs/compatibility.md`.
    Bun,
    /// Deno.
    Deno,
}

impl Runtime {
    /// By the file name of its program: `node`, `nodejs`, `node22`, `bun`, `deno`, with or without a path.
    pub fn of_program(program: &OsStr) -> Option<Self> {
        let name = Path::new(program).file_name()?.to_str()?;
        let stem = name.trim_end_matches(|c: char| c.is_ascii_digit() || c == '.' || c == '-');
        match stem {
            "node" | "nodejs" => Some(Self::Node),
            "bun" => Some(Self::Bun),
            "deno" => Some(Self::Deno),
            _ => None,
        }
    }

    /// The program's usual name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Node => "node",
            Self::Bun => "bun",
            Self::Deno => "deno",
        }
    }

    /// What stands before the script's path so that it runs as under Node.
    pub fn script_prefix(self) -> &'static [&'static str] {
        match self {
            Self::Node | Self::Bun => &[],
            // All rights, as a Node program has them: `deno run -A`.
            Self::Deno => &["run", "-A"],
        }
    }

    /// How it takes handles.
    pub const fn dialect(self) -> Dialect {
        match self {
            Self::Node => Dialect::Pipelined,
            Self::Bun => Dialect::Bun,
            Self::Deno => Dialect::Deno,
        }
    }

    /// Whether a file's name says that a JavaScript runtime runs it.
    pub fn runs(script: &Path) -> bool {
        const EXTENSIONS: [&str; 8] = ["js", "cjs", "mjs", "ts", "cts", "mts", "jsx", "tsx"];
        script
            .extension()
            .and_then(OsStr::to_str)
            .is_some_and(|extension| EXTENSIONS.contains(&extension))
    }

    /// The arguments of its program that run `script`, with `options` of the runtime's before it.
    pub fn arguments(self, options: &[OsString], script: &OsStr) -> Vec<OsString> {
        let prefix = self.script_prefix().iter().map(OsString::from);
        prefix
            .chain(options.iter().cloned())
            .chain([script.to_owned()])
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_runtime_is_known_by_the_name_of_its_program() {
        for (program, runtime) in [
            ("node", Some(Runtime::Node)),
            ("/opt/node-22/bin/node", Some(Runtime::Node)),
            ("nodejs", Some(Runtime::Node)),
            ("node18", Some(Runtime::Node)),
            ("node-22.1", Some(Runtime::Node)),
            ("bun", Some(Runtime::Bun)),
            ("./deno", Some(Runtime::Deno)),
            ("nodemon", None),
            ("python3", None),
            ("", None),
        ] {
            assert_eq!(Runtime::of_program(OsStr::new(program)), runtime, "{program}");
        }
    }

    #[test]
    fn deno_gets_the_rights_of_a_node_program() {
        let arguments = Runtime::Deno.arguments(&["--quiet".into()], OsStr::new("a.ts"));
        assert_eq!(arguments, ["run", "-A", "--quiet", "a.ts"]);
    }
}
