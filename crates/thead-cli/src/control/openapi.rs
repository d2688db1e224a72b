//! What the control socket can be asked, as OpenAPI: put together from the types that it is made of.

use schemars::SchemaGenerator;
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};
use thead::control::{
    Apply, DataContent, DataOutcome, DataPiece, DataPush, DataRevision, DataRollback, Description, Event, LogLine,
    Order, Outcomes, Problem, Service, Version,
};

/// The document; `docs/openapi.json` is a copy.
pub(crate) fn document() -> Value {
    let mut settings = SchemaSettings::draft2020_12();
    settings.definitions_path = "/components/schemas".into();
    let mut schemas = settings.into_generator();
    let mut paths = Map::new();
    for (path, methods) in routes(&mut schemas) {
        paths.insert(path.into(), methods);
    }
    let schemas = schemas.take_definitions(true);
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "thead",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "The control socket of the thead daemon: HTTP/1.1 over a Unix socket that only its owner and \
                root can use. Every problem is an object with `code`, `message` and perhaps `hint`: 400 of a request that \
                means nothing, 404, 405, 408 and 413 of one that came too slowly or is too large, 409 and 422 as they are \
                told below, 429 of one stream too many. Fields may be added; \
                what is there keeps its meaning within /v1.",
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "servers": [{ "url": "http://thead", "description": "by --unix-socket; the host is not looked at" }],
        "paths": paths,
        "components": { "schemas": schemas },
    })
}

type Routes = Vec<(&'static str, Value)>;

fn routes(schemas: &mut SchemaGenerator) -> Routes {
    let problem = answer("Refused; nothing was done.", schemas.subschema_for::<Problem>());
    let read = |summary: &str, parameters: Value, schema: Value| {
        json!({ "get": {
            "summary": summary,
            "parameters": parameters,
            "responses": { "200": answer("As asked.", schema), "404": problem },
        } })
    };
    let outcomes = Value::from(schemas.subschema_for::<Outcomes>());
    let event = Value::from(schemas.subschema_for::<Event>());
    let work = |summary: &str, parameters: Value, body: Value| {
        let streamed = "With `Accept: text/event-stream`: what happens meanwhile as events (Event), and at last one of type \
            `result` (Outcomes), whatever came of it.";
        json!({ "post": {
            "summary": summary,
            "parameters": parameters,
            "requestBody": { "required": true, "content": { "application/json": { "schema": body } } },
            "responses": {
                "200": {
                    "description": format!("Done, all of it. {streamed}"),
                    "content": {
                        "application/json": { "schema": outcomes },
                        "text/event-stream": { "schema": { "type": "string" } },
                    },
                },
                "409": answer("Tried, and not all of it was done.", outcomes.clone()),
                "404": problem,
                "422": problem,
            },
        } })
    };
    let outcome = Value::from(schemas.subschema_for::<DataOutcome>());
    let data = |summary: &str, parameters: Value, body: Value| {
        json!({
            "summary": summary,
            "parameters": parameters,
            "requestBody": { "required": true, "content": { "application/json": { "schema": body } } },
            "responses": {
                "200": answer("Every worker has answered, and none has refused it.", outcome.clone()),
                "409": answer("It was refused, by the check or by a worker.", outcome.clone()),
                "404": problem,
                "422": problem,
            },
        })
    };
    let part = |name: &str| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } });
    let piece = json!([part("service"), part("name")]);
    let content = json!([
        part("service"),
        part("name"),
        query("revision", "integer", "Default: what workers have, or are trying.")
    ]);
    let mut of_piece = read(
        "The content of a revision.",
        content,
        schemas.subschema_for::<DataContent>().into(),
    );
    of_piece["post"] = data(
        "Pushes new data to every worker.",
        piece.clone(),
        schemas.subschema_for::<DataPush>().into(),
    );
    of_piece["delete"] = json!({
        "summary": "Deletes a piece that was pushed by hand, with its history. Workers keep what they have.",
        "parameters": piece,
        "responses": {
            "200": answer("It is not pushed any more.", outcome.clone()),
            "404": problem,
            "422": problem,
        },
    });
    let rollback = data(
        "Pushes the content of an older revision again, under a new number.",
        piece.clone(),
        schemas.subschema_for::<DataRollback>().into(),
    );
    let name = json!([{ "name": "name", "in": "path", "required": true, "schema": { "type": "string" } }]);
    let mut describe = name.clone();
    if let Value::Array(parameters) = &mut describe {
        let text = "Show the values of variables.";
        parameters.push(json!({ "name": "env", "in": "query", "description": text, "schema": { "type": "boolean" } }));
    }
    let since = json!([{ "name": "since", "in": "query", "schema": { "type": "integer" },
        "description": "Begin after the event of this number; 0 is the first that is remembered. `Last-Event-ID` says the \
            same." },
        { "name": "follow", "in": "query", "schema": { "type": "boolean", "default": true },
            "description": "If not, the stream ends with the last event that is remembered." }]);
    let verb = json!([{ "name": "verb", "in": "path", "required": true,
        "schema": schemas.subschema_for::<thead::control::Verb>() }]);
    vec![
        (
            "/v1/version",
            read(
                "What runs behind the socket.",
                json!([]),
                schemas.subschema_for::<Version>().into(),
            ),
        ),
        (
            "/v1/services",
            read(
                "All services and their workers, by name.",
                json!([]),
                json!({ "type": "array", "items": schemas.subschema_for::<Service>() }),
            ),
        ),
        (
            "/v1/services/{name}",
            read(
                "Everything about one service.",
                describe,
                schemas.subschema_for::<Description>().into(),
            ),
        ),
        (
            "/v1/events",
            json!({ "get": {
                "summary": "What happens, as server-sent events. Who reads too slowly misses some, and is told how many.",
                "parameters": since,
                "responses": { "200": {
                    "description": "A stream; each `data` is an Event.",
                    "content": { "text/event-stream": { "schema": event } },
                } },
            } }),
        ),
        (
            "/v1/logs",
            json!({ "get": {
                "summary": "What workers printed, by time, as server-sent events.",
                "parameters": [
                    query("service", "string", "Names, with commas between them; all if there is none."),
                    query("lines", "integer", "So many from the end. Default: 100, or all with `since`."),
                    query("since", "integer", "No older ones; milliseconds since 1970."),
                    query("until", "integer", "No newer ones."),
                    query("grep", "string", "Only in which this regular expression matches."),
                    query("stream", "string", "stdout, stderr, thead; with commas between them."),
                    query("worker", "integer", "Only of the worker in this slot."),
                    query("pid", "integer", "Only of this process."),
                    query("follow", "boolean", "Go on as lines come."),
                    query("after", "string", "Where an earlier answer ended: its last `id`. `Last-Event-ID` says the same."),
                ],
                "responses": { "200": {
                    "description": "Each `data` is a LogLine; an event `error` has a text.",
                    "content": { "text/event-stream": { "schema": schemas.subschema_for::<LogLine>() } },
                }, "422": problem },
            } }),
        ),
        (
            "/v1/data/{service}",
            read(
                "What a service pushes to its workers, and how each stands to it.",
                json!([part("service")]),
                json!({ "type": "array", "items": schemas.subschema_for::<DataPiece>() }),
            ),
        ),
        ("/v1/data/{service}/{name}", of_piece),
        (
            "/v1/data/{service}/{name}/history",
            read(
                "The last revisions, newest first.",
                piece,
                json!({ "type": "array", "items": schemas.subschema_for::<DataRevision>() }),
            ),
        ),
        ("/v1/data/{service}/{name}/rollback", json!({ "post": rollback })),
        (
            "/v1/verbs/{verb}",
            work(
                "Does something to services. It is done to its end whether or not somebody waits for the answer.",
                verb,
                schemas.subschema_for::<Order>().into(),
            ),
        ),
        (
            "/v1/apply",
            work(
                "Puts a configuration in force, or says what that would change.",
                json!([]),
                schemas.subschema_for::<Apply>().into(),
            ),
        ),
        (
            "/v1/shutdown",
            work(
                "Stops all services and ends the daemon; the next daemon starts them again.",
                json!([]),
                json!({ "type": "object" }),
            ),
        ),
    ]
}

fn query(name: &str, kind: &str, description: &str) -> Value {
    json!({ "name": name, "in": "query", "description": description, "schema": { "type": kind } })
}

fn answer(description: &str, schema: impl Into<Value>) -> Value {
    json!({ "description": description, "content": { "application/json": { "schema": schema.into() } } })
}

#[cfg(test)]
mod tests {
    #![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

    use super::*;

    #[test]
    fn the_copy_in_the_documentation_is_current() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/openapi.json");
        let current = format!("{:#}\n", document());
        if std::env::var_os("THEAD_WRITE_DOCS").is_some() {
            std::fs::write(path, &current).unwrap();
        }
        let written = std::fs::read_to_string(path).unwrap_or_default();
        assert!(
            written == current,
            "docs/openapi.json is old; write it anew: THEAD_WRITE_DOCS=1 cargo nextest run -p thead-cli"
        );
    }

    #[test]
    fn every_reference_leads_somewhere() {
        let document = document();
        let text = document.to_string();
        for found in text.split("\"$ref\":\"#").skip(1) {
            let pointer = found.split('"').next().unwrap_or_default();
            assert!(document.pointer(pointer).is_some(), "{pointer} is not there");
        }
    }
}
