//! What a run leaves behind, from outside: the page in a real browser, the essay, the words for what goes wrong.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::io::{Read as _, Seek as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use lab::results::Results;
use serde::Deserialize;

fn lab(words: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_thead-lab"));
    command.args(words).stdin(Stdio::null()).output().unwrap()
}

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs")
}

/// The page of the run that the essay is of, in a directory of its own.
fn page(out: &Path) -> String {
    let output = lab(&[
        "--from",
        docs().join("models/results.json").to_str().unwrap(),
        "--out",
        out.to_str().unwrap(),
    ]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    fs::read_to_string(out.join("index.html")).unwrap()
}

/// What a browser tells of the page: asked by [`PROBE`].
#[derive(Debug, Deserialize)]
struct Seen {
    width: f64,
    scroll_width: f64,
    errors: Vec<String>,
    fetched: Vec<String>,
    /// Of each picture that is shown: its width, its height, how many texts it has.
    pictures: Vec<(f64, f64, usize)>,
    /// The least contrast of any text with the page, and which it is.
    contrast: f64,
    faintest: String,
    /// How bright the page is, from 0 to 1.
    brightness: f64,
    /// Texts of a picture that cover each other.
    covered: Vec<String>,
    /// Texts of a picture that stick out of it.
    cut: Vec<String>,
    /// Each table's frame scrolls if the table is wider.
    tables_scroll: bool,
}

/// Looks at the page in a frame, which may be as narrow as a telephone where a window may not.
const PROBE: &str = r#"
const frame = document.querySelector('iframe');
const errors = [];
const looked = () => {
  const page = frame.contentDocument, view = frame.contentWindow;
  const rgb = (text) => text.match(/[\d.]+/g).map(Number);
  const light = (text) => {
    const [r, g, b] = rgb(text).map((v) => v / 255).map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = light(view.getComputedStyle(page.body).backgroundColor);
  const shown = (e) => e.getBoundingClientRect().width > 0;
  const pictures = [...page.querySelectorAll('svg')].filter(shown);
  let contrast = Infinity, faintest = '';
  for (const e of page.querySelectorAll('h1,h2,p,li,span,b,th,td,figcaption,text')) {
    if (!shown(e) || !e.textContent.trim()) continue;
    const style = view.getComputedStyle(e);
    const ink = light(e.tagName === 'text' ? style.fill : style.color);
    const ratio = (Math.max(ink, ground) + 0.05) / (Math.min(ink, ground) + 0.05);
    if (ratio < contrast) [contrast, faintest] = [ratio, e.textContent];
  }
  const covered = [], cut = [];
  for (const picture of pictures) {
    const frame = picture.getBoundingClientRect();
    const texts = [...picture.querySelectorAll('text')].map((e) => [e.textContent, e.getBoundingClientRect()]);
    texts.forEach(([text, box], at) => {
      if (box.left < frame.left - 1 || box.right > frame.right + 1 || box.bottom > frame.bottom + 1) cut.push(text);
      for (const [other, its] of texts.slice(at + 1)) {
        const across = Math.min(box.right, its.right) - Math.max(box.left, its.left);
        const down = Math.min(box.bottom, its.bottom) - Math.max(box.top, its.top);
        if (across > 1 && down > 4) covered.push(`${text} / ${other}`);
      }
    });
  }
  const scrolls = (e) => e.scrollWidth <= e.clientWidth || view.getComputedStyle(e).overflowX === 'auto';
  return {
    width: page.documentElement.clientWidth,
    scroll_width: page.documentElement.scrollWidth,
    errors,
    fetched: view.performance.getEntriesByType('resource').map((e) => e.name),
    pictures: pictures.map((e) => {
      const box = e.getBoundingClientRect();
      return [box.width, box.height, e.querySelectorAll('text').length];
    }),
    contrast, faintest, brightness: ground, covered, cut,
    tables_scroll: [...page.querySelectorAll('.scroll')].every(scrolls),
  };
};
frame.addEventListener('load', () => {
  frame.contentWindow.addEventListener('error', (e) => errors.push(String(e.message)));
  document.title = JSON.stringify(looked());
});
"#;

/// The browser, if there is one.
fn chromium() -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let all = std::env::split_paths(&path).flat_map(|dir| names.map(|name| dir.join(name)));
    let found = all.into_iter().find(|path| path.is_file());
    if found.is_none() {
        println!("there is no Chromium (apt-get install --no-install-recommends chromium): the page is not looked at");
    }
    found
}

/// Opens the page in a frame of such a width and returns what is seen, and what the browser complained of.
fn look(chromium: &Path, page: &str, width: u32, dark: bool) -> (Seen, String) {
    let dir = tempfile::tempdir().unwrap();
    let inner = page.replace('&', "&amp;").replace('"', "&quot;");
    let outer = format!(
        "<!doctype html><meta charset=utf-8><title>waiting</title><body style=margin:0>\
         <iframe style=\"width:{width}px;height:900px;border:0\"></iframe><script>{PROBE}</script>\
         <template srcdoc=\"{inner}\"></template>\
         <script>frame.srcdoc = document.querySelector('template').getAttribute('srcdoc')</script>"
    );
    let file = dir.path().join("outer.html");
    fs::write(&file, outer).unwrap();
    let (mut out, mut complaints) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
    let mut child = Command::new(chromium)
        // No sandbox: tests run as root in containers, and the page is our own.
        .args([
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--hide-scrollbars",
        ])
        .args([
            "--no-first-run",
            "--disable-background-networking",
            "--enable-logging=stderr",
            "--dump-dom",
        ])
        .args([
            "--virtual-time-budget=5000",
            &format!("--window-size={},900", width.max(600)),
        ])
        .arg(format!("--blink-settings=preferredColorScheme={}", u8::from(!dark)))
        .arg(format!("--user-data-dir={}", dir.path().join("profile").display()))
        .arg(format!("file://{}", file.display()))
        .stdin(Stdio::null())
        .stdout(out.try_clone().unwrap())
        .stderr(complaints.try_clone().unwrap())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + Duration::from_secs(100);
    while child.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            child.kill().unwrap();
            child.wait().unwrap();
            panic!("the browser does not end");
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    let (mut dom, mut said) = (String::new(), String::new());
    out.rewind().unwrap();
    out.read_to_string(&mut dom).unwrap();
    complaints.rewind().unwrap();
    complaints.read_to_string(&mut said).unwrap();
    let title = dom
        .split("<title>")
        .nth(1)
        .and_then(|rest| rest.split("</title>").next())
        .unwrap_or_default();
    let title = title.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
    let seen = serde_json::from_str(&title).unwrap_or_else(|error| panic!("{error}: {title}\n{said}"));
    let console: Vec<&str> = said.lines().filter(|line| line.contains("CONSOLE")).collect();
    (seen, console.join("\n"))
}

#[test]
fn the_page_is_readable_in_a_browser_light_and_dark_narrow_and_wide() {
    let Some(chromium) = chromium() else { return };
    let dir = tempfile::tempdir().unwrap();
    let page = page(dir.path());
    for (width, dark) in [(390, false), (390, true), (1280, false), (1280, true)] {
        let (seen, console) = look(&chromium, &page, width, dark);
        let what = format!("{width} px, {}: {seen:?}", if dark { "dark" } else { "light" });
        assert_eq!(console, "", "{what}");
        assert!(seen.errors.is_empty() && seen.fetched.is_empty(), "{what}");
        assert!(
            seen.scroll_width <= seen.width && seen.width <= f64::from(width),
            "it overflows: {what}"
        );
        assert_eq!(seen.pictures.len(), 5, "{what}");
        for (across, down, texts) in &seen.pictures {
            assert!(*across > 300.0 && *down > 150.0 && *texts > 5, "{what}");
        }
        assert!(seen.contrast >= 4.5, "{:?} is faint: {what}", seen.faintest);
        assert!(
            if dark {
                seen.brightness < 0.1
            } else {
                seen.brightness > 0.9
            },
            "{what}"
        );
        assert!(seen.covered.is_empty() && seen.cut.is_empty(), "{what}");
        assert!(seen.tables_scroll, "{what}");
    }
}

#[test]
fn the_essay_and_its_pictures_are_those_of_the_run_beside_them() {
    let text = fs::read(docs().join("models/results.json")).unwrap();
    let mut results: Results = serde_json::from_slice(&text).unwrap();
    results.checks = lab::check::checks(&results);
    let essay = lab::report::essay(&results).unwrap();
    let written = fs::read_to_string(docs().join("models.md")).unwrap();
    assert!(
        essay == written,
        "docs/models.md is old: ./dev lab --from docs/models/results.json --docs"
    );
    let dir = tempfile::tempdir().unwrap();
    page(dir.path());
    for name in ["throughput", "latency", "memory", "formula", "candidates"] {
        let of = |dir: &Path| fs::read_to_string(dir.join(format!("{name}.svg"))).unwrap();
        assert!(
            of(dir.path()) == of(&docs().join("models")),
            "docs/models/{name}.svg is old"
        );
        assert!(docs().join(format!("models/{name}.png")).is_file(), "{name}");
    }
}

#[test]
fn a_run_measures_a_real_server_and_judges_it() {
    let dir = tempfile::tempdir().unwrap();
    let out = dir.path().to_str().unwrap();
    let output = lab(&[
        "--quick",
        "--json",
        "--models",
        "sync,pool",
        "--workloads",
        "io,idle",
        "--idle",
        "100",
        "--out",
        out,
    ]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let results: Results = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(results.candidates("io"), ["sync", "pool"]);
    assert_eq!(results.steps("io"), [1, 16, 256]);
    let sync = &results.cell("io", "sync", 16).unwrap().samples[0];
    assert!(
        sync.answered > 0 && sync.failures.sum() == 0 && sync.per_second <= 103.0,
        "{sync:?}"
    );
    assert_eq!((sync.processes, sync.threads, sync.copies), (1, 1, 1));
    assert!(
        sync.pss_mib > 0.1 && sync.rss_mib >= sync.pss_mib && sync.voluntary > 0.5,
        "{sync:?}"
    );
    // One stands between two clients, so it keeps one connection at most.
    let held = results.cell("idle", "sync", 100).unwrap().samples[0].held;
    assert!(held <= 1, "{held}");
    // Three checks, of which one is of what was not measured.
    let judged: Vec<bool> = results.checks.iter().map(|check| check.holds.is_some()).collect();
    assert_eq!(judged, [false, true, true], "{:?}", results.checks);
    assert!(dir.path().join("index.html").is_file() && dir.path().join("throughput.svg").is_file());
}

#[test]
fn what_cannot_be_measured_is_said_with_what_mends_it() {
    let said = |words: &[&str]| {
        let output = lab(words);
        assert_eq!(output.status.code(), Some(2), "{words:?}: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    };
    let unknown = said(&["--models", "sink"]);
    assert!(
        unknown.contains("\"sink\"") && unknown.contains("cluster-kernel"),
        "{unknown}"
    );
    let unknown = said(&["--workloads", "disk"]);
    assert!(
        unknown.contains("\"disk\"") && unknown.contains("hello-close"),
        "{unknown}"
    );
    let absent = said(&["--from", "/no/such/results.json"]);
    assert!(absent.contains("cannot read /no/such/results.json"), "{absent}");

    let few = Command::new("sh")
        .args([
            "-c",
            "ulimit -n 500; exec \"$0\" --workloads idle --models event",
            env!("CARGO_BIN_EXE_thead-lab"),
        ])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let few = (few.status.code(), String::from_utf8(few.stderr).unwrap());
    assert!(
        few.0 == Some(2) && few.1.contains("10000 connections need") && few.1.contains("--idle"),
        "{few:?}"
    );
}
