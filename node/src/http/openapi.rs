//! The OpenAPI 3.1 page, made from the table of routes and the words' own schemas.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use super::routes::{Answer, Body, Route, described_routes};
use super::words::error::ErrorAnswer;

/// A word as the page describes it.
#[derive(Clone)]
pub struct Described {
    name: String,
    schemas: Vec<(String, RefOr<Schema>)>,
}

impl Described {
    /// The word `T` with all words in it.
    #[must_use]
    pub fn of<T: ToSchema>() -> Self {
        let mut schemas = vec![(T::name().into_owned(), <T as PartialSchema>::schema())];
        T::schemas(&mut schemas);
        Self { name: T::name().into_owned(), schemas }
    }

    fn reference(&self) -> Value {
        json!({ "$ref": format!("#/components/schemas/{}", self.name) })
    }

    /// A query's fields as parameters.
    fn parameters(&self) -> Vec<Value> {
        let schema = self.schemas.iter().find(|(name, _)| *name == self.name);
        let schema = schema.and_then(|(_, schema)| serde_json::to_value(schema).ok()).unwrap_or_default();
        let fields = schema.get("properties").and_then(Value::as_object).cloned().unwrap_or_default();
        fields
            .into_iter()
            .map(|(name, mut schema)| {
                let description = schema.as_object_mut().and_then(|schema| schema.remove("description"));
                json!({ "name": name, "in": "query", "required": false, "description": description, "schema": schema })
            })
            .collect()
    }
}

/// The whole page.
#[must_use]
pub fn document() -> Value {
    let mut paths: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
    let mut schemas = BTreeMap::new();
    let mut add = |described: &Described| {
        for (name, schema) in &described.schemas {
            schemas.entry(name.clone()).or_insert_with(|| serde_json::to_value(schema).unwrap_or_default());
        }
    };
    add(&Described::of::<ErrorAnswer>());
    for route in described_routes() {
        if let Body::Json(word) = &route.body {
            add(word);
        }
        if let Answer::Json(word) | Answer::Events(word) | Answer::Log(word) = &route.answer {
            add(word);
        }
        let path = format!("{}{}", route.prefix, route.path);
        paths.entry(path).or_default().insert(route.method.as_str().to_lowercase(), operation(&route));
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "fnode",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "The API of one node. On loopback it needs the token from api.json in the node's data directory.",
            "license": { "name": "Apache-2.0 OR MIT" },
        },
        "security": [{ "token": [] }],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": { "token": { "type": "http", "scheme": "bearer" } },
        },
    })
}

fn operation(route: &Route) -> Value {
    let error = json!({
        "description": "not done, and why",
        "content": { "application/json": { "schema": { "$ref": "#/components/schemas/ErrorAnswer" } } },
    });
    let mut operation = json!({
        "summary": route.summary,
        "operationId": route.operation_id(),
        "parameters": parameters(route),
        "responses": { "200": { "description": "done", "content": answer(&route.answer) }, "default": error },
    });
    let body = match &route.body {
        Body::None => return operation,
        Body::Json(word) => json!({ "application/json": { "schema": word.reference() } }),
        Body::Bytes => bytes(),
    };
    operation["requestBody"] = json!({ "required": true, "content": body });
    operation
}

fn parameters(route: &Route) -> Vec<Value> {
    let names = route.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    let in_path =
        names.map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }));
    in_path.chain(route.query.iter().flat_map(Described::parameters)).collect()
}

fn answer(answer: &Answer) -> Value {
    match answer {
        Answer::Json(word) => json!({ "application/json": { "schema": word.reference() } }),
        Answer::Page => json!({ "application/json": { "schema": { "type": "object" } } }),
        Answer::Bytes => bytes(),
        Answer::Events(word) => json!({ "text/event-stream": { "schema": word.reference() } }),
        Answer::Log(word) => json!({
            "application/octet-stream": {},
            "text/event-stream": { "schema": word.reference() },
        }),
    }
}

fn bytes() -> Value {
    json!({ "application/octet-stream": {} })
}
