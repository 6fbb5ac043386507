//! The HTTP calls of a vendor and a customer.

use std::time::Duration;

use anyhow::{Context, ensure};
use reqwest::{Client, Method, RequestBuilder, Response, StatusCode};
use serde_json::{Value, json};
use uuid::Uuid;

/// A client of a gateway or of one service.
#[derive(Clone, Debug)]
pub struct Api {
    pub url: String,
    client: Client,
}

/// A response with its whole body.
#[derive(Clone, Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: reqwest::header::HeaderMap,
    pub text: String,
}

impl Answer {
    /// # Errors
    /// If the body isn't JSON.
    pub fn json(&self) -> anyhow::Result<Value> {
        serde_json::from_str(&self.text).with_context(|| format!("{}: {}", self.status, self.text))
    }

    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

impl Api {
    /// # Errors
    /// If the client can't be built.
    pub fn new(url: impl Into<String>) -> anyhow::Result<Self> {
        let client = theater_infra::http::client().timeout(Duration::from_secs(30)).build()?;
        Ok(Self { url: url.into(), client })
    }

    pub fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.client.request(method, format!("{}{path}", self.url))
    }

    /// # Errors
    /// If the connection is refused or cut, or the response takes too long.
    pub async fn send(request: RequestBuilder) -> anyhow::Result<Answer> {
        let response: Response = request.send().await?;
        let (status, headers) = (response.status(), response.headers().clone());
        Ok(Answer { status, headers, text: response.text().await? })
    }

    /// # Errors
    /// As [`Api::send`].
    pub async fn get(&self, path: &str) -> anyhow::Result<Answer> {
        Self::send(self.request(Method::GET, path)).await
    }

    /// # Errors
    /// As [`Api::send`].
    pub async fn post(&self, path: &str, body: &Value) -> anyhow::Result<Answer> {
        Self::send(self.request(Method::POST, path).json(body)).await
    }

    /// # Errors
    /// As [`Api::send`].
    pub async fn delete(&self, path: &str) -> anyhow::Result<Answer> {
        Self::send(self.request(Method::DELETE, path)).await
    }

    /// Publishes a movie with an id of the client's.
    ///
    /// # Errors
    /// If the response isn't 201.
    pub async fn publish(&self, qty: i64) -> anyhow::Result<Uuid> {
        let id = Uuid::now_v7();
        let answer = self.post("/movies", &json!({"id": id, "movieName": "LALALand", "qty": qty})).await?;
        ensure!(answer.status == StatusCode::CREATED, "{}: {}", answer.status, answer.text);
        Ok(id)
    }

    /// Places a reservation with an id of the client's.
    ///
    /// # Errors
    /// If the response isn't 202.
    pub async fn reserve(&self, movie: Uuid, count: i64) -> anyhow::Result<Uuid> {
        let id = Uuid::now_v7();
        let answer = self.post("/reservations", &reservation(id, movie, count)).await?;
        ensure!(answer.status == StatusCode::ACCEPTED, "{}: {}", answer.status, answer.text);
        Ok(id)
    }

    /// # Errors
    /// If the response isn't a reservation.
    pub async fn reservation(&self, id: Uuid) -> anyhow::Result<Value> {
        let answer = self.get(&format!("/reservations/{id}")).await?;
        ensure!(answer.status == StatusCode::OK, "{}: {}", answer.status, answer.text);
        answer.json()
    }

    /// The tickets that are left.
    ///
    /// # Errors
    /// If the response isn't a movie.
    pub async fn tickets_left(&self, movie: Uuid) -> anyhow::Result<i64> {
        let answer = self.get(&format!("/movies/{movie}")).await?;
        ensure!(answer.status == StatusCode::OK, "{}: {}", answer.status, answer.text);
        answer.json()?["qty"].as_i64().context("qty")
    }

    /// A whole collection, read page by page.
    ///
    /// # Errors
    /// If a response isn't a page.
    pub async fn list_all(&self, path: &str) -> anyhow::Result<Vec<Value>> {
        let mut items = Vec::new();
        let separator = if path.contains('?') { '&' } else { '?' };
        let mut cursor = String::new();
        loop {
            let answer = self.get(&format!("{path}{separator}limit=200{cursor}")).await?;
            ensure!(answer.status == StatusCode::OK, "{}: {}", answer.status, answer.text);
            let page = answer.json()?;
            items.extend(page["items"].as_array().context("items")?.iter().cloned());
            match page["next"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return Ok(items),
            }
        }
    }
}

/// The body of a call that places a reservation.
pub fn reservation(id: Uuid, movie: Uuid, count: i64) -> Value {
    json!({"id": id, "userId": "7", "userName": "Jane", "movieId": movie, "count": count})
}
