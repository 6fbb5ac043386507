//! The API's description through the gateway: whole, true, and there while a service is away.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, ensure};
use reqwest::{Method, StatusCode};
use serde_json::Value;
use theater_tests::{Api, Environment, Setup, Theater};

/// What the contract names, and nothing else.
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

pub(crate) async fn every_call_is_described(environment: &Environment) -> anyhow::Result<()> {
    let theater = Theater::start(environment, Setup::default()).await?;
    let whole = described(&theater.api).await?;
    ensure!(whole["openapi"] == "3.1.0" && whole["servers"][0]["url"] == "/", "{whole}");
    let calls = calls(&whole)?;
    let expected: Calls = CALLS
        .into_iter()
        .chain([ONE_RESERVATION])
        .map(|(path, methods)| (path.to_owned(), methods.split(' ').map(str::to_owned).collect()))
        .collect();
    ensure!(calls == expected, "{calls:#?}");
    // What a path really takes is what its description says.
    for (path, methods) in &calls {
        let path = path.replace("{id}", "0192f0c1-7c1a-7000-8000-000000000001");
        let answer = Api::send(theater.api.request(Method::TRACE, &path)).await?;
        ensure!(answer.status == StatusCode::METHOD_NOT_ALLOWED, "{path}: {answer:?}");
        let allow = answer.header("allow").context("Allow")?;
        let allowed = allow.split(", ").filter(|method| !["HEAD", "OPTIONS"].contains(method));
        ensure!(allowed.map(str::to_owned).collect::<BTreeSet<_>>() == *methods, "{path}: {allow}");
    }
    let mut ids = BTreeSet::new();
    for operation in operations(&whole) {
        let id = operation["operationId"].as_str().context("operationId")?;
        ensure!(ids.insert(id), "{id} stands twice");
        ensure!(operation["summary"].is_string(), "{id} has no summary");
    }
    resolved(&whole, &whole)?;
    examples(&whole)?;
    theater.stop().await
}

pub(crate) async fn a_service_that_is_away_stays_described(environment: &Environment) -> anyhow::Result<()> {
    let mut theater = Theater::start(environment, Setup::default()).await?;
    theater.stop_service("movie").await?;
    let answer = theater.api.get("/openapi.json").await?;
    ensure!(answer.status == StatusCode::SERVICE_UNAVAILABLE, "{answer:?}");
    ensure!(
        answer.header("retry-after").is_some() && answer.text.contains("the movie service"),
        "{answer:?}"
    );
    theater.start_again("movie").await?;
    let whole = described(&theater.api).await?;
    theater.stop_service("movie").await?;
    ensure!(theater.api.get("/movies").await?.status == StatusCode::SERVICE_UNAVAILABLE);
    ensure!(described(&theater.api).await? == whole);
    theater.stop().await
}

pub(crate) async fn people_can_read_it(environment: &Environment) -> anyhow::Result<()> {
    let theater = Theater::start(environment, Setup::default()).await?;
    let page = theater.api.get("/docs").await?;
    ensure!(page.status == StatusCode::OK && page.header("content-type") == Some("text/html"), "{page:?}");
    ensure!(page.text == theater.api.get("/docs/").await?.text);
    let policy = page.header("content-security-policy").context("a policy")?;
    ensure!(policy.contains("default-src 'none'") && policy.contains("script-src 'self';"), "{policy}");
    ensure!(!page.text.contains("<script>") && !page.text.contains("://"), "{}", page.text);
    // Whatever the page names is there.
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

async fn described(api: &Api) -> anyhow::Result<Value> {
    let answer = api.get("/openapi.json").await?;
    ensure!(answer.status == StatusCode::OK, "{answer:?}");
    ensure!(answer.header("content-type") == Some("application/json"), "{answer:?}");
    answer.json()
}

/// The methods by path.
fn calls(whole: &Value) -> anyhow::Result<Calls> {
    let paths = whole["paths"].as_object().context("paths")?;
    let methods =
        |item: &Value| item.as_object().map(|item| item.keys().map(|key| key.to_uppercase()).collect());
    Ok(paths.iter().map(|(path, item)| (path.clone(), methods(item).unwrap_or_default())).collect())
}

fn operations(whole: &Value) -> impl Iterator<Item = &Value> {
    whole["paths"]
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(_, item)| item.as_object())
        .flatten()
        .map(|(_, operation)| operation)
}

/// Every reference leads somewhere.
fn resolved(whole: &Value, value: &Value) -> anyhow::Result<()> {
    if let Some(reference) = value.get("$ref").and_then(Value::as_str) {
        let pointer = reference.strip_prefix('#').with_context(|| reference.to_owned())?;
        ensure!(whole.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
    match value {
        Value::Object(fields) => fields.values().try_for_each(|value| resolved(whole, value)),
        Value::Array(items) => items.iter().try_for_each(|value| resolved(whole, value)),
        _ => Ok(()),
    }
}

/// Each call tells its errors as problems with an example; each body has an example.
fn examples(whole: &Value) -> anyhow::Result<()> {
    let follow = |value: &Value| -> anyhow::Result<Value> {
        let Some(reference) = value["$ref"].as_str() else { return Ok(value.clone()) };
        whole.pointer(&reference[1..]).cloned().with_context(|| reference.to_owned())
    };
    for operation in operations(whole) {
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
