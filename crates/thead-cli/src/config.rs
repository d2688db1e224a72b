//! What the operator wrote: files in, a checked [`Config`](model::Config) out.

pub(crate) mod model;
pub(crate) mod value;

pub(crate) use model::*;
pub(crate) use value::*;

/// TEMPORARY
pub(crate) struct Loaded {
    pub(crate) config: Config,
    pub(crate) base: std::path::PathBuf,
    pub(crate) source: std::path::PathBuf,
    pub(crate) notes: Vec<String>,
}
pub(crate) struct Problems(String);
impl Problems {
    pub(crate) fn report(&self, _json: bool) -> std::process::ExitCode {
        eprintln!("{}", self.0);
        2.into()
    }
}
pub(crate) fn is_file(path: &std::path::Path) -> bool {
    path.extension().is_some_and(|e| e == "json")
}
pub(crate) fn load(path: Option<&std::path::Path>) -> Result<Loaded, Problems> {
    let path = std::path::absolute(path.ok_or_else(|| Problems("name a file".into()))?)
        .map_err(|e| Problems(e.to_string()))?;
    let text = std::fs::read_to_string(&path).map_err(|e| Problems(e.to_string()))?;
    let config = serde_json::from_str(&text).map_err(|e| Problems(e.to_string()))?;
    Ok(Loaded {
        config,
        base: path.parent().map(Into::into).unwrap_or_default(),
        source: path,
        notes: vec![],
    })
}
pub(crate) fn nearest<'a>(_: &str, _: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    None
}
