//! The OpenAPI document of the gateway: complete, correct, and available while a service is stopped; and Swagger UI.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, ensure};
use reqwest::{Method, StatusCode};
use serde_json::Value;
use theater_tests::{Api, Environment, Setup, Theater};

/// All paths of the contract and their methods.
const CALLS: [(&str, &str); 16] = [
    ("/", "GET"),
    ("/docs/", "GET"),
    ("/livez", "GET"),
    ("/metrics", "GET"),
    ("/movies", "GET POST"),
    ("/movies/{id}", "GET PATCH"),
    ("/movies/{id}/tickets", "POST"),
    ("/notifications", "GET"),
    ("/openapi.json", "GET"),
    ("/readyz", "GET"),
    ("/reservationLists", "GET"),
    ("/reservationLists/exports", "POST"),
    ("/reservationLists/exports/{id}", "GET"),
    ("/reservationLists/exports/{id}/file", "GET"),
    ("/reservations", "GET POST"),
    ("/reservations/{id}/events", "GET"),
];
const ONE_RESERVATION: (&str, &str) = ("/reservations/{id}", "DELETE GET");

type Calls = BTreeMap<String, BTreeSet<String>>;

pub(crate) async fn every_operation_is_documented(environment: &Environment) -> anyhow::Result<()> {
    let theater = Theater::start(environment, Setup::default()).await?;
    let document = fetch_document(&theater.api).await?;
    ensure!(document["openapi"] == "3.1.0" && document["servers"][0]["url"] == "/", "{document}");
    let calls = calls(&document)?;
    let expected: Calls = CALLS
        .into_iter()
        .chain([ONE_RESERVATION])
        .map(|(path, methods)| (path.to_owned(), methods.split(' ').map(str::to_owned).collect()))
        .collect();
    ensure!(calls == expected, "{calls:#?}");
    // The methods that a path accepts are the documented ones.
    for (path, methods) in &calls {
        let path = path.replace("{id}", "0192f0c1-7c1a-7000-8000-000000000001");
        let answer = Api::send(theater.api.request(Method::TRACE, &path)).await?;
        ensure!(answer.status == StatusCode::METHOD_NOT_ALLOWED, "{path}: {answer:?}");
        let allow = answer.header("allow").context("Allow")?;
        let allowed = allow.split(", ").filter(|method| !["HEAD", "OPTIONS"].contains(method));
        ensure!(allowed.map(str::to_owned).collect::<BTreeSet<_>>() == *methods, "{path}: {allow}");
    }
    let mut ids = BTreeSet::new();
    for operation in operations(&document) {
        let id = operation["operationId"].as_str().context("operationId")?;
        ensure!(ids.insert(id), "{id} is used twice");
        ensure!(operation["summary"].is_string(), "{id} has no summary");
    }
    references_resolve(&document, &document)?;
    errors_and_bodies_have_examples(&document)?;
    theater.stop().await
}

pub(crate) async fn a_stopped_service_stays_in_the_document(environment: &Environment) -> anyhow::Result<()> {
    let mut theater = Theater::start(environment, Setup::default()).await?;
    theater.stop_service("movie").await?;
    let answer = theater.api.get("/openapi.json").await?;
    ensure!(answer.status == StatusCode::SERVICE_UNAVAILABLE, "{answer:?}");
    ensure!(
        answer.header("retry-after").is_some() && answer.text.contains("the movie service"),
        "{answer:?}"
    );
    theater.restart_service("movie").await?;
    let document = fetch_document(&theater.api).await?;
    theater.stop_service("movie").await?;
    ensure!(theater.api.get("/movies").await?.status == StatusCode::SERVICE_UNAVAILABLE);
    ensure!(fetch_document(&theater.api).await? == document);
    theater.stop().await
}

pub(crate) async fn swagger_ui_is_served(environment: &Environment) -> anyhow::Result<()> {
    let theater = Theater::start(environment, Setup::default()).await?;
    let page = theater.api.get("/docs").await?;
    ensure!(page.status == StatusCode::OK && page.header("content-type") == Some("text/html"), "{page:?}");
    ensure!(page.text == theater.api.get("/docs/").await?.text);
    let policy = page.header("content-security-policy").context("a policy")?;
    ensure!(policy.contains("default-src 'none'") && policy.contains("script-src 'self';"), "{policy}");
    ensure!(!page.text.contains("<script>") && !page.text.contains("://"), "{}", page.text);
    // Every file that the page refers to is served.
    let mut files = 0;
    for name in page.text.split(['"', ' ']).filter_map(|word| word.strip_prefix("./")) {
        let file = theater.api.get(&format!("/docs/{name}")).await?;
        ensure!(file.status == StatusCode::OK && !file.text.is_empty(), "{name}: {}", file.status);
        files += 1;
    }
    ensure!(files > 4, "{files} files: {}", page.text);
    let start = theater.api.get("/docs/swagger-initializer.js").await?;
    ensure!(start.text.contains("/openapi.json"), "{start:?}");
    let none = theater.api.get("/docs/nothing.js").await?;
    ensure!(none.status == StatusCode::NOT_FOUND && none.text.contains("/problems/not-found"), "{none:?}");
    theater.stop().await
}

async fn fetch_document(api: &Api) -> anyhow::Result<Value> {
    let answer = api.get("/openapi.json").await?;
    ensure!(answer.status == StatusCode::OK, "{answer:?}");
    ensure!(answer.header("content-type") == Some("application/json"), "{answer:?}");
    answer.json()
}

/// The methods by path.
fn calls(document: &Value) -> anyhow::Result<Calls> {
    let paths = document["paths"].as_object().context("paths")?;
    let methods =
        |item: &Value| item.as_object().map(|item| item.keys().map(|key| key.to_uppercase()).collect());
    Ok(paths.iter().map(|(path, item)| (path.clone(), methods(item).unwrap_or_default())).collect())
}

fn operations(document: &Value) -> impl Iterator<Item = &Value> {
    document["paths"]
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(_, item)| item.as_object())
        .flatten()
        .map(|(_, operation)| operation)
}

/// Every reference resolves.
fn references_resolve(document: &Value, value: &Value) -> anyhow::Result<()> {
    if let Some(reference) = value.get("$ref").and_then(Value::as_str) {
        let pointer = reference.strip_prefix('#').with_context(|| reference.to_owned())?;
        ensure!(document.pointer(pointer).is_some(), "{reference} does not resolve");
    }
    match value {
        Value::Object(fields) => fields.values().try_for_each(|value| references_resolve(document, value)),
        Value::Array(items) => items.iter().try_for_each(|value| references_resolve(document, value)),
        _ => Ok(()),
    }
}

/// Each error response is documented as a problem with an example, and each request body has an example.
fn errors_and_bodies_have_examples(document: &Value) -> anyhow::Result<()> {
    let follow = |value: &Value| -> anyhow::Result<Value> {
        let Some(reference) = value["$ref"].as_str() else { return Ok(value.clone()) };
        document.pointer(&reference[1..]).cloned().with_context(|| reference.to_owned())
    };
    for operation in operations(document) {
        let id = &operation["operationId"];
        if let Some(content) = operation["requestBody"]["content"]["application/json"].as_object() {
            let schema = follow(&content["schema"])?;
            ensure!(schema["examples"][0].is_object(), "{id} has no example of a body");
        }
        for (status, response) in operation["responses"].as_object().context("responses")? {
            let response = follow(response)?;
            ensure!(response["description"].as_str().is_some_and(|text| !text.is_empty()), "{id} {status}");
            ensure!(response["headers"]["X-Request-Id"].is_object(), "{id} {status}: {response}");
            if status.starts_with(['4', '5']) {
                let example = &response["content"]["application/problem+json"]["example"];
                ensure!(example["status"].as_u64() == status.parse().ok(), "{id} {status}: {response}");
            }
        }
    }
    Ok(())
}
