//! The OpenAPI document of what is answered here, made from the types of requests and answers.

use std::sync::LazyLock;

use pgx_control::admin::{Body, VERSION, Verb};
use schemars::generate::SchemaSettings;
use serde_json::{Map, Value, json};

/// Words of the requests that only look; all others take POST and the role of an operator.
const LOOKS: [&str; 6] = ["status", "survey", "show", "events", "history", "show-config"];

/// Words of those requests of which there is no dry run: they concern one node alone.
const NOT_REHEARSED: [&str; 8] = [
    "fence",
    "unfence",
    "pause-database",
    "resume-database",
    "reload",
    "restart",
    "rejoin",
    "reinit",
];

/// What is not asked by HTTP, its answer, and what only that is made of.
const NOT_ASKED: &str = "take-over";
const NOT_ANSWERED: &str = "hand-over";
const NOT_ASKED_FOR: [&str; 2] = ["HandOver", "HandedTcp"];

/// The answers of what was done and of what was not.
const DONE: &str = "done";
const REFUSAL: &str = "refused";

/// What load balancers ask, and what an answer of 200 says.
const QUESTIONS: [(&str, &str); 5] = [
    ("primary", "The primary is here, and may serve"),
    ("replica", "A standby is here, and not further behind than `lag`"),
    ("health", "PostgreSQL here, or the proxy where there is none, serves"),
    ("readiness", "Clients who come to this node are served"),
    ("liveness", "This pgx works"),
];

/// The statuses of refusals.
const REFUSED: [(&str, &str); 5] = [
    ("400", "Not a request, or not by this method"),
    ("403", "The certificate does not allow it"),
    ("409", "It was not carried out, and why"),
    ("413", "The request is too long"),
    ("503", "Busy, or waiting for the disk; a retry may work"),
];

/// The document as it is served.
pub(super) fn served() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(text);
    &TEXT
}

/// The document, with a line's end at its end.
pub(crate) fn text() -> String {
    format!("{:#}\n", document())
}

fn document() -> Value {
    let mut settings = SchemaSettings::draft2020_12();
    settings.definitions_path = "/components/schemas".into();
    settings.meta_schema = None;
    let mut generator = settings.into_generator();
    let (verbs, bodies) =
        (generator.root_schema_for::<Verb>(), generator.root_schema_for::<Body>());
    let mut schemas = generator.take_definitions(true);
    NOT_ASKED_FOR.iter().for_each(|name| drop(schemas.remove(*name)));
    let mut paths = Map::new();
    for (word, means) in QUESTIONS {
        paths.insert(format!("/{word}"), json!({ "get": question(word, means) }));
    }
    for variant in variants(verbs.as_value()) {
        let Some(word) = variant["properties"]["verb"]["const"].as_str() else { continue };
        if word == NOT_ASKED {
            continue;
        }
        let fields = Fields::new(&variant, &schemas);
        let looks = LOOKS.contains(&word);
        let mut item = Map::new();
        if looks {
            item.insert("get".to_owned(), operation(word, &variant, &fields.query()));
        }
        let may_be_dry = !looks && !NOT_REHEARSED.contains(&word);
        item.insert("post".to_owned(), operation(word, &variant, &fields.body(may_be_dry)));
        paths.insert(format!("/v1/{word}"), Value::Object(item));
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "pgx",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "What `pgx ctl` can do, and what load balancers ask; see \
                docs/OPERATING.md.",
            "license": { "name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0" },
        },
        "security": [{ "certificate": [] }],
        "paths": paths,
        "components": {
            "responses": answers(&variants(bodies.as_value())),
            "schemas": schemas,
            "securitySchemes": {
                "certificate": {
                    "type": "mutualTLS",
                    "description": "A client certificate of the cluster's authority, whose common \
                        name is in http.viewers or http.operators.",
                },
            },
        },
    })
}

/// The variants of an enum.
fn variants(schema: &Value) -> Vec<Value> {
    schema["oneOf"].as_array().cloned().unwrap_or_default()
}

/// What a request needs beside its word.
struct Fields {
    properties: Map<String, Value>,
    required: Vec<Value>,
}

impl Fields {
    fn new(variant: &Value, schemas: &Map<String, Value>) -> Self {
        let named = variant["$ref"].as_str().and_then(|place| place.rsplit_once('/'));
        let inner = named.and_then(|(_, name)| schemas.get(name));
        let (mut properties, mut required) = (Map::new(), Vec::new());
        for schema in inner.into_iter().chain([variant]) {
            let own = schema["properties"].as_object();
            properties
                .extend(own.into_iter().flatten().map(|(key, one)| (key.clone(), one.clone())));
            required.extend(schema["required"].as_array().into_iter().flatten().cloned());
        }
        properties.remove("verb");
        required.retain(|name| name != "verb");
        Self { properties, required }
    }

    /// In the query of a GET.
    fn query(&self) -> Value {
        let parameters = self.properties.iter().map(|(name, schema)| {
            let is_required = self.required.iter().any(|one| one == name);
            json!({ "name": name, "in": "query", "required": is_required, "schema": schema })
        });
        json!({ "parameters": parameters.collect::<Vec<_>>() })
    }

    /// In the body of a POST, which may ask for a dry run.
    fn body(&self, may_be_dry: bool) -> Value {
        let mut properties = self.properties.clone();
        if may_be_dry {
            let means = "Say what would be done and do nothing.";
            let dry = json!({ "type": "boolean", "default": false, "description": means });
            properties.insert("dry_run".to_owned(), dry);
        }
        let schema = json!({
            "type": "object", "properties": properties, "required": self.required,
        });
        json!({
            "requestBody": {
                "required": !self.required.is_empty(),
                "content": { "application/json": { "schema": schema } },
            },
        })
    }
}

/// The answers by the names that operations refer to: those of refusals are their statuses.
fn answers(bodies: &[Value]) -> Map<String, Value> {
    let answer = |kind: &str, means: &str| {
        let found = bodies.iter().find_map(|body| body["properties"].get(kind));
        let schema = json!({
            "type": "object",
            "properties": { "version": { "const": VERSION }, kind: found },
            "required": ["version", kind],
        });
        json!({ "description": means, "content": { "application/json": { "schema": schema } } })
    };
    let kinds = bodies.iter().filter_map(|body| body["properties"].as_object()?.keys().next());
    let kinds = kinds.filter(|kind| ![REFUSAL, NOT_ANSWERED].contains(&kind.as_str()));
    let given = kinds.map(|kind| {
        let means = if kind == DONE { "It was done, line by line" } else { "What was found" };
        (kind.clone(), answer(kind, means))
    });
    let refused = REFUSED.map(|(status, means)| (status.to_owned(), answer(REFUSAL, means)));
    given.chain(refused).collect()
}

fn operation(word: &str, variant: &Value, takes: &Value) -> Value {
    let (kind, role) = match word {
        "show" => ("table", "viewer"),
        "show-config" => ("config", "viewer"),
        word if LOOKS.contains(&word) => (word, "viewer"),
        _ => (DONE, "operator"),
    };
    let answer = |name: &str| json!({ "$ref": format!("#/components/responses/{name}") });
    let mut responses = Map::from_iter([("200".to_owned(), answer(kind))]);
    responses.extend(REFUSED.map(|(status, _)| (status.to_owned(), answer(status))));
    let means = variant["description"].as_str().unwrap_or_default();
    let mut operation = json!({
        "summary": means.replace('\n', " "),
        "description": format!("Takes the role of {role}."),
        "responses": responses,
    });
    if let (Some(operation), Some(takes)) = (operation.as_object_mut(), takes.as_object()) {
        operation.extend(takes.clone());
    }
    operation
}

fn question(word: &str, means: &str) -> Value {
    let schema = json!({
        "type": "object", "properties": { "why": { "type": "string" } }, "required": ["why"],
    });
    let answer = |means: &str| {
        json!({
            "description": means, "content": { "application/json": { "schema": schema } },
        })
    };
    let lag = json!({
        "name": "lag", "in": "query", "required": false,
        "description": "Bytes that a standby may lack, with kB, MB or GB behind the number.",
        "schema": { "type": "string" },
    });
    json!({
        "summary": means,
        "security": [],
        "parameters": if word == "replica" { json!([lag]) } else { json!([]) },
        "responses": {
            "200": answer(means),
            "400": answer("The question is no good"),
            "503": answer("No, and why"),
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::can_be_rehearsed;
    use crate::http::verbs;

    /// The copy that documentation has.
    const COMMITTED: &str = include_str!("../../../../docs/openapi.json");

    #[test]
    fn documented_copy_is_what_is_served() {
        assert!(COMMITTED == text(), "run: cargo xtask fix");
    }

    #[test]
    fn what_is_documented_is_understood_and_looks_by_get_alone() {
        let document = document();
        let example = |schema: &Value| match schema["type"].as_str() {
            Some("integer") => json!(1),
            Some("boolean") => json!(true),
            Some("string") => json!("any"),
            _ if schema["$ref"].as_str().is_some_and(|name| name.ends_with("/Role")) => {
                json!("voter")
            }
            _ => panic!("no example of {schema}"),
        };
        let paths = document["paths"].as_object().unwrap();
        let words =
            paths.iter().filter_map(|(path, item)| Some((path.strip_prefix("/v1/")?, item)));
        let mut count = 0;
        for (word, item) in words {
            let schema = &item["post"]["requestBody"]["content"]["application/json"]["schema"];
            let required = schema["required"].as_array().unwrap();
            let fields = required.iter().map(|name| {
                let name = name.as_str().unwrap();
                (name.to_owned(), example(&schema["properties"][name]))
            });
            let request = verbs::request(word, fields.collect()).unwrap();
            assert_eq!(request.verb.only_looks(), item.get("get").is_some(), "{word}");
            let offers_dry = schema["properties"].get("dry_run").is_some();
            let expected = can_be_rehearsed(&request.verb) && !request.verb.only_looks();
            assert_eq!(offers_dry, expected, "{word}");
            count += 1;
        }
        assert!(count > 15, "{count} requests");
    }

    #[test]
    fn every_reference_leads_somewhere_and_every_answer_is_known() {
        fn walk(document: &Value, value: &Value) {
            match value {
                Value::Object(all) => {
                    if let Some(place) = all.get("$ref").and_then(Value::as_str) {
                        let place = place.strip_prefix('#').unwrap();
                        assert!(document.pointer(place).is_some(), "{place} leads nowhere");
                    }
                    if let Some(kinds) = all.get("properties").and_then(Value::as_object) {
                        assert!(kinds.values().all(|kind| !kind.is_null()), "{value}");
                    }
                    all.values().for_each(|value| walk(document, value));
                }
                Value::Array(all) => all.iter().for_each(|value| walk(document, value)),
                _ => {}
            }
        }
        let document = document();
        walk(&document, &document);
    }
}
