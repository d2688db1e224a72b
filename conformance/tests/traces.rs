//! What happens to a child, and in which order, is what Node says: `scenarios/child-process.json`, played by Node
//! (`scenarios/child-process.js`) and by thead, is the same story.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Stdio as StdStdio;
use std::time::Duration;

use conformance::{Runtime, on, root};
use serde::Deserialize;
use serde_json::Value;
use tempfile::TempDir;
use thead::{
    AbortController, Child, ChildEvent, Command, ExecError, ExitStatus, Failure, Serialization, SpawnError, Stdio,
};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc;

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Scenario {
    name: String,
    spawn: Option<Vec<String>>,
    fork: Option<String>,
    exec: Option<String>,
    exec_file: Option<Vec<String>>,
    exec_file_sync: Option<Vec<String>>,
    #[serde(default)]
    options: Options,
    #[serde(default)]
    on: BTreeMap<String, Vec<Vec<Value>>>,
    #[serde(default)]
    without: Vec<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Options {
    timeout: Option<u64>,
    kill_signal: Option<String>,
    aborted: Option<bool>,
    abort_after: Option<u64>,
    cwd: Option<String>,
    detached: Option<bool>,
    shell: Option<bool>,
    argv0: Option<String>,
    env: Option<BTreeMap<String, String>>,
    stdio: Option<Vec<String>>,
    serialization: Option<String>,
    max_buffer: Option<usize>,
    input: Option<String>,
}

/// Files that the scenarios need.
fn files() -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    for (name, text, mode) in [
        ("plain", "x", 0o644),
        ("no-interpreter", "#!/nonexistent/interpreter\n", 0o755),
        ("no-shebang", "echo from sh\n", 0o755),
    ] {
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    }
    dir
}

fn scenarios(files: &Path) -> Vec<Scenario> {
    let text = std::fs::read_to_string(root().join("scenarios/child-process.json")).unwrap();
    serde_json::from_str(&text.replace("FILES", files.to_str().unwrap())).unwrap()
}

/// The story as Node tells it.
fn by_node(runtime: Runtime, files: &Path) -> BTreeMap<String, Vec<String>> {
    let mut command = std::process::Command::new(runtime.path());
    command.arg(root().join("scenarios/child-process.js")).arg(files);
    let output = command
        .stdin(StdStdio::null())
        .stderr(StdStdio::inherit())
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", output.status);
    serde_json::from_slice(&output.stdout).unwrap()
}

fn number(signal: &str) -> i32 {
    match signal {
        "SIGTERM" => 15,
        "SIGINT" => 2,
        "SIGKILL" => 9,
        _ => panic!("{signal}"),
    }
}

impl Options {
    fn apply(&self, mut command: Command) -> Command {
        if let Some(ms) = self.timeout {
            command = command.timeout(Duration::from_millis(ms));
        }
        if let Some(signal) = &self.kill_signal {
            command = command.kill_signal(number(signal));
        }
        if let Some(cwd) = &self.cwd {
            command = command.current_dir(cwd);
        }
        if self.detached == Some(true) {
            command = command.detached();
        }
        if let Some(name) = &self.argv0 {
            command = command.arg0(name);
        }
        if let Some(env) = &self.env {
            command = command.env_clear();
            for (name, value) in env {
                command = command.env(name, value);
            }
        }
        for (number, stdio) in (0..).zip(self.stdio.iter().flatten()) {
            command = command.fd(number, if stdio == "pipe" { Stdio::Pipe } else { Stdio::Null });
        }
        if let Some(bytes) = self.max_buffer {
            command = command.max_buffer(bytes);
        }
        if let Some(input) = &self.input {
            command = command.input(input.as_bytes());
        }
        command
    }
}

async fn by_thead(scenario: &Scenario, runtime: Runtime, files: &Path) -> Vec<String> {
    let controller = AbortController::new();
    let options = &scenario.options;
    if options.aborted == Some(true) {
        controller.abort();
    }
    let command = if let Some(words) = &scenario.spawn {
        match options.shell {
            Some(true) => Command::shell(&words[0]),
            _ => Command::new(&words[0]).args(&words[1..]),
        }
    } else if let Some(code) = &scenario.fork {
        let script = files.join("script.js");
        std::fs::write(&script, code).unwrap();
        let command = Command::fork_with(runtime.path(), thead::Runtime::Node, &[], script);
        match options.serialization.as_deref() {
            Some("advanced") => command.channel(Serialization::Advanced),
            _ => command,
        }
    } else {
        return waiting(scenario, controller).await;
    };
    let command = (0..3).fold(command, |command, number| command.fd(number, Stdio::Pipe));
    let command = options.apply(command).abort_on(controller.signal());
    match command.spawn() {
        Ok(child) => Play::new(scenario, child, controller).play().await,
        Err(error) => vec![format!("error {} {}", error.code(), syscall(&error, scenario))],
    }
}

/// Node names the program where the directory is missing; thead names the directory.
fn syscall(error: &SpawnError, scenario: &Scenario) -> String {
    match scenario.options.cwd {
        Some(_) => format!("spawn {}", scenario.spawn.as_ref().unwrap()[0]),
        None => error.syscall(),
    }
}

/// A child that the scenario is played with.
struct Play<'a> {
    scenario: &'a Scenario,
    child: Child,
    controller: AbortController,
    trace: Vec<String>,
    later: mpsc::UnboundedSender<()>,
    comes_later: mpsc::UnboundedReceiver<()>,
    printed: mpsc::UnboundedReceiver<(String, Vec<u8>)>,
    all: BTreeMap<String, Vec<u8>>,
}

impl<'a> Play<'a> {
    fn new(scenario: &'a Scenario, mut child: Child, controller: AbortController) -> Self {
        let (sink, printed) = mpsc::unbounded_channel();
        let mut streams: Vec<(String, Box<dyn AsyncRead + Send + Unpin>)> = Vec::new();
        streams.extend(child.stdout.take().map(|pipe| ("stdout".into(), Box::new(pipe) as _)));
        streams.extend(child.stderr.take().map(|pipe| ("stderr".into(), Box::new(pipe) as _)));
        for (number, stream) in std::mem::take(&mut child.streams) {
            streams.push((format!("stream {number}"), Box::new(stream)));
        }
        for (name, mut stream) in streams {
            let sink = sink.clone();
            tokio::spawn(async move {
                let mut piece = vec![0; 1 << 16];
                while let Ok(read @ 1..) = stream.read(&mut piece).await {
                    let _ = sink.send((name.clone(), piece[..read].to_vec()));
                }
            });
        }
        let (later, comes_later) = mpsc::unbounded_channel();
        Self {
            scenario,
            child,
            controller,
            trace: Vec::new(),
            later,
            comes_later,
            printed,
            all: BTreeMap::new(),
        }
    }

    async fn play(mut self) -> Vec<String> {
        loop {
            tokio::select! {
                biased;
                Some((name, bytes)) = self.printed.recv() => self.print(name, &bytes).await,
                Some(()) = self.comes_later.recv() => self.trace.push("later".into()),
                event = self.child.next() => match event {
                    Some(event) => self.hear(event).await,
                    None => break,
                }
            }
        }
        while let Some((name, bytes)) = self.printed.recv().await {
            self.print(name, &bytes).await;
        }
        for name in ["stdout", "stderr", "stream 3"] {
            self.trace.extend(self.all.get(name).map(|bytes| told(name, bytes)));
        }
        let without = |event: &String| {
            !self
                .scenario
                .without
                .iter()
                .any(|name| event.split(' ').next() == Some(name))
        };
        self.trace.into_iter().filter(without).collect()
    }

    async fn print(&mut self, name: String, bytes: &[u8]) {
        let all = self.all.entry(name.clone()).or_default();
        let first = all.is_empty();
        all.extend(bytes);
        if first {
            self.obey(&name).await;
        }
    }

    async fn hear(&mut self, event: ChildEvent) {
        let (name, said) = match event {
            ChildEvent::Spawn => ("spawn", "spawn".into()),
            ChildEvent::Error(error) => ("error", format!("error {}", error.code())),
            ChildEvent::Message { message, .. } => {
                let value: Value = message.parse().unwrap();
                ("message", format!("message {value}"))
            }
            ChildEvent::Disconnect { fault: None, unsent: 0 } => ("disconnect", "disconnect".into()),
            ChildEvent::Exit(status) => ("exit", format!("exit {}", ended(status))),
            ChildEvent::Close(status) => ("close", format!("close {}", ended(status))),
            other => panic!("{other:?}"),
        };
        self.trace.push(said);
        self.obey(name).await;
    }

    async fn obey(&mut self, event: &str) {
        for order in self.scenario.on.get(event).into_iter().flatten() {
            let (what, value) = (order[0].as_str().unwrap(), order.get(1));
            let text = value.and_then(Value::as_str);
            match what {
                "kill" => {
                    let killed = self.child.kill(number(text.unwrap())).is_ok();
                    self.trace.push(format!("kill {killed}"));
                }
                "abort" => self.controller.abort(),
                "end" => self.child.stdin = None,
                // It may have closed its end.
                "write" => drop(
                    self.child
                        .stdin
                        .as_mut()
                        .unwrap()
                        .write_all(text.unwrap().as_bytes())
                        .await,
                ),
                "disconnect" => self.child.disconnect(),
                "after" => {
                    let (later, ms) = (self.later.clone(), value.unwrap().as_u64().unwrap());
                    tokio::spawn(async move {
                        tokio::time::sleep(Duration::from_millis(ms)).await;
                        let _ = later.send(());
                    });
                }
                "send" => {
                    if let Err(error) = self.child.post_message(value.unwrap()).await {
                        self.trace.push(format!("error {}", error.code()));
                    }
                }
                _ => panic!("{what}"),
            }
        }
    }
}

fn ended(status: ExitStatus) -> String {
    match status {
        ExitStatus::Code(code) => format!("code {code}"),
        ExitStatus::Signal { signal, .. } => format!("signal {signal}"),
    }
}

/// What a stream brought, or how much of it.
fn told(name: &str, bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    match bytes.len() {
        length @ 101.. => format!("{name} {length}"),
        _ => format!("{name} {}", Value::from(text)),
    }
}

async fn waiting(scenario: &Scenario, controller: AbortController) -> Vec<String> {
    let sync = scenario.exec_file_sync.is_some();
    let command = match (&scenario.exec, &scenario.exec_file, &scenario.exec_file_sync) {
        (Some(line), ..) => Command::shell(line),
        (_, Some(words), _) | (.., Some(words)) => Command::new(&words[0]).args(&words[1..]),
        _ => panic!("{scenario:?}"),
    };
    let command = scenario.options.apply(command).abort_on(controller.signal());
    let result = if sync {
        command.output_sync()
    } else {
        let ms = scenario.options.abort_after;
        let aborter = async {
            match ms {
                Some(ms) => tokio::time::sleep(Duration::from_millis(ms)).await,
                None => std::future::pending().await,
            }
            controller.abort();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            result = command.output() => result,
            () = aborter => unreachable!(),
        }
    };
    let mut trace = Vec::new();
    let output = match &result {
        Ok(output) => output,
        Err(error) => {
            trace.extend(failed(error, scenario));
            error.output()
        }
    };
    let mut say = |name, bytes: &[u8]| trace.extend((!bytes.is_empty()).then(|| told(name, bytes)));
    say("stdout", &output.stdout);
    if !sync {
        say("stderr", &output.stderr);
    }
    trace
}

/// The error as Node's callback has it.
fn failed(error: &ExecError, scenario: &Scenario) -> Vec<String> {
    let sync = scenario.exec_file_sync.is_some();
    let signal = error
        .signal()
        .map(|signal| format!(" signal {signal}"))
        .unwrap_or_default();
    let said = match error.failure() {
        Failure::Spawn(error) => format!("error {}", error.code()),
        Failure::Exit(ExitStatus::Code(code)) => format!("error {code}"),
        Failure::Timeout(_) if sync => format!("error ETIMEDOUT{signal}"),
        Failure::Exit(_) | Failure::Timeout(_) => format!("error null{signal}"),
        // Node says nothing more of these: `killed` and `signal` are unset.
        Failure::MaxBuffer { .. } => "error ERR_CHILD_PROCESS_STDIO_MAXBUFFER".into(),
        Failure::Aborted => "error ABORT_ERR".into(),
        other => panic!("{other:?}"),
    };
    let mut trace = vec![said];
    if !sync {
        let unset = matches!(error.failure(), Failure::MaxBuffer { .. } | Failure::Aborted);
        if !matches!(error.failure(), Failure::Spawn(_)) {
            trace.push(format!("killed {}", error.killed() && !unset));
        }
        let command = match &scenario.exec {
            // Node leaves its own shell out.
            Some(line) => line.clone(),
            None => error.command().to_owned(),
        };
        trace.push(format!("cmd {command}"));
    }
    trace
}

fn thead_tells_the_same_story_as_node(runtime: Runtime) {
    let files = files();
    let wanted = by_node(runtime, files.path());
    let tokio = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let mut different = Vec::new();
    let scenarios = scenarios(files.path());
    assert!(scenarios.len() >= 25);
    for scenario in &scenarios {
        let trace = tokio.block_on(async {
            let story = by_thead(scenario, runtime, files.path());
            tokio::time::timeout(conformance::PATIENCE, story)
                .await
                .unwrap_or_else(|_| panic!("{:?} does not end", scenario.name))
        });
        // What a runtime prints when it dies is its own.
        if trace != wanted[&scenario.name] {
            different.push(format!(
                "{}\n  Node:  {:?}\n  thead: {trace:?}",
                scenario.name, wanted[&scenario.name]
            ));
        }
    }
    assert!(different.is_empty(), "{}", different.join("\n"));
}

on!(nodes: thead_tells_the_same_story_as_node);
