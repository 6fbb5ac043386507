//! Responses are compressed, and equal the plain ones when decompressed.

use std::io::Read;

use anyhow::{Context, ensure};
use reqwest::Method;
use serde_json::Value;
use theater_tests::{Api, Environment, Setup};

use super::{constant_headers, send, theater_with_rows};

/// A response's headers, and its body as it was transferred.
async fn fetch_raw(
    api: &Api,
    path: &str,
    accepted: &str,
) -> anyhow::Result<(reqwest::header::HeaderMap, Vec<u8>)> {
    let response = api.request(Method::GET, path).header("accept-encoding", accepted).send().await?;
    let headers = response.headers().clone();
    Ok((headers, response.bytes().await?.to_vec()))
}

fn decompress(coding: &str, bytes: &[u8]) -> anyhow::Result<String> {
    let mut text = String::new();
    match coding {
        "gzip" => flate2::read::GzDecoder::new(bytes).read_to_string(&mut text)?,
        _ => brotli::Decompressor::new(bytes, 4096).read_to_string(&mut text)?,
    };
    Ok(text)
}

pub(crate) async fn responses_are_compressed(environment: &Environment) -> anyhow::Result<()> {
    let (theater, movie, reservation) = theater_with_rows(environment, Setup::default()).await?;
    let api = &theater.api;
    for _ in 0..12 {
        api.publish(1).await?;
    }
    let large = ["/openapi.json", "/docs/swagger-ui.css"];
    for path in ["/movies", "/reservations", "/notifications", "/reservationLists"].iter().chain(&large) {
        let plain = api.get(path).await?;
        ensure!(plain.text.len() >= 1024, "{path}: too small to be worth it: {}", plain.text);
        ensure!(plain.header("vary") == Some("accept-encoding"), "{path}: {plain:?}");
        for (accepted, coding) in [
            ("gzip", "gzip"),
            ("br", "br"),
            ("gzip, deflate, br, zstd", "br"),
            ("br;q=0.1, gzip;q=0.9", "gzip"),
        ] {
            let (headers, bytes) = fetch_raw(api, path, accepted).await?;
            let content_encoding = headers.get("content-encoding").context("it was not compressed")?;
            ensure!(
                content_encoding == coding && headers["vary"] == "accept-encoding",
                "{path} {accepted}: {headers:?}"
            );
            let media_type = headers["content-type"].to_str()?;
            ensure!(plain.header("content-type") == Some(media_type), "{path} {accepted}: {headers:?}");
            ensure!(bytes.len() < plain.text.len() / 2, "{path} {accepted}: {} bytes", bytes.len());
            ensure!(decompress(coding, &bytes)? == plain.text, "{path} {accepted}: another answer");
        }
        for accepted in ["identity", "zstd", "gzip;q=0", "*"] {
            let answer = send(api, Method::GET, path, &[("accept-encoding", accepted)]).await?;
            ensure!(
                answer.text == plain.text && answer.header("content-encoding").is_none(),
                "{path} {accepted}"
            );
        }
        let gzip = [("accept-encoding", "gzip")];
        let (get, head) =
            (send(api, Method::GET, path, &gzip).await?, send(api, Method::HEAD, path, &gzip).await?);
        ensure!(
            constant_headers(&head) == constant_headers(&get) && head.text.is_empty(),
            "{path}: {head:?}, not {get:?}"
        );
    }
    // Not compressed: small responses, and responses with an ETag, which clients send back unchanged in If-Match.
    for path in [format!("/reservations/{reservation}"), format!("/movies/{movie}"), "/nothing".to_owned()] {
        let answer = send(api, Method::GET, &path, &[("accept-encoding", "br")]).await?;
        ensure!(answer.header("content-encoding").is_none() && answer.json().is_ok(), "{answer:?}");
    }
    // A client that refuses plain responses gets small ones compressed, too. One that accepts no coding at all gets 406.
    let (headers, bytes) = fetch_raw(api, "/nothing", "gzip, identity;q=0").await?;
    ensure!(headers["content-encoding"] == "gzip", "{headers:?}");
    let problem: Value = serde_json::from_str(&decompress("gzip", &bytes)?)?;
    ensure!(problem["status"] == 404, "{problem}");
    let path = format!("/movies/{movie}");
    let (headers, _) = fetch_raw(api, &path, "gzip, identity;q=0").await?;
    ensure!(headers["etag"] == "\"1\"" && !headers.contains_key("content-encoding"), "{headers:?}");
    let none = send(api, Method::GET, "/movies", &[("accept-encoding", "identity;q=0")]).await?;
    ensure!(none.status == 406 && none.json()?["type"] == "/problems/not-acceptable", "{none:?}");
    theater.stop().await
}
