//! HTTP calls with the response that must come back, for tables. Every error response, in every test, must be a problem
//! as in the contract.

use anyhow::{Context, ensure};
use reqwest::{Method, RequestBuilder};
use serde_json::Value;
use theater_tests::Api;
use theater_tests::api::Answer;

/// The media type of every error response.
pub(crate) const PROBLEM: &str = "application/problem+json";

/// How many characters of a body a failure message shows.
const SHOWN_CHARS: usize = 200;

/// A request and its expected response.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    method: Method,
    path: String,
    headers: Vec<(&'static str, Vec<u8>)>,
    body: Option<Vec<u8>>,
    status: u16,
    expected: Expected,
}

#[derive(Clone, Debug, Default)]
struct Expected {
    body: Option<Value>,
    headers: Vec<(&'static str, String)>,
    /// The pointer of each error, and the end of its detail.
    errors: Vec<(String, String)>,
    /// A part of the problem's own detail.
    detail: Option<String>,
}

impl Call {
    /// A call that must be answered with this status.
    pub(crate) fn new(method: Method, path: impl Into<String>, status: u16) -> Self {
        let (headers, expected) = (Vec::new(), Expected::default());
        Self { method, path: path.into(), headers, body: None, status, expected }
    }

    pub(crate) fn get(path: impl Into<String>, status: u16) -> Self {
        Self::new(Method::GET, path, status)
    }

    pub(crate) fn post(path: impl Into<String>, body: &Value, status: u16) -> Self {
        Self::new(Method::POST, path, status).json(body)
    }

    pub(crate) fn patch(path: impl Into<String>, body: &Value, status: u16) -> Self {
        Self::new(Method::PATCH, path, status).json(body)
    }

    pub(crate) fn delete(path: impl Into<String>, status: u16) -> Self {
        Self::new(Method::DELETE, path, status)
    }

    pub(crate) fn json(self, body: &Value) -> Self {
        self.bytes(body.to_string()).send_header("content-type", "application/json")
    }

    pub(crate) fn bytes(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Some(body.into());
        self
    }

    pub(crate) fn send_header(mut self, name: &'static str, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// The whole body, with no other field.
    pub(crate) fn expect_body(mut self, body: Value) -> Self {
        self.expected.body = Some(body);
        self
    }

    pub(crate) fn expect_header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.expected.headers.push((name, value.into()));
        self
    }

    /// One of the problem's `errors`: its pointer, and the end of its detail. They are expected all, in this order.
    pub(crate) fn expect_error(mut self, pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        self.expected.errors.push((pointer.into(), detail.into()));
        self
    }

    pub(crate) fn expect_detail(mut self, part: impl Into<String>) -> Self {
        self.expected.detail = Some(part.into());
        self
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    fn name(&self) -> String {
        let body = self.body.as_deref().map(String::from_utf8_lossy).unwrap_or_default();
        let body: String = body.chars().take(SHOWN_CHARS).collect();
        let path: String = self.path.chars().take(SHOWN_CHARS).collect();
        format!("{} {path} {body}", self.method)
    }

    /// The request, without checks of its response.
    pub(crate) fn request(&self, api: &Api) -> RequestBuilder {
        let mut request = api.request(self.method.clone(), &self.path);
        for (name, value) in &self.headers {
            request = request.header(*name, value.as_slice());
        }
        match &self.body {
            Some(body) => request.body(body.clone()),
            None => request,
        }
    }

    /// Makes the call and compares its response.
    ///
    /// # Errors
    /// If the connection is cut, or the response is not the expected one.
    pub(crate) async fn play(&self, api: &Api) -> anyhow::Result<Answer> {
        let request = self.request(api);
        let name = self.name();
        let answer = Api::send(request).await.with_context(|| name.clone())?;
        let shown: String = answer.text.chars().take(4 * SHOWN_CHARS).collect();
        self.compare(&answer)
            .with_context(|| format!("{name} at {}: {}: {shown}", api.url, answer.status))?;
        Ok(answer)
    }

    fn compare(&self, answer: &Answer) -> anyhow::Result<()> {
        let Expected { body, headers, errors, detail } = &self.expected;
        ensure!(answer.status == self.status, "the status is not {}", self.status);
        for (name, value) in headers {
            let found = answer.header(name);
            ensure!(found == Some(value), "{name} is {found:?}, not {value}");
        }
        ensure!(answer.header("x-request-id").is_some_and(|id| !id.is_empty()), "no request id");
        // The response to HEAD has no body.
        if self.status >= 400 && self.method != Method::HEAD {
            let media_type = answer.header("content-type");
            ensure!(media_type == Some(PROBLEM), "the media type is {media_type:?}");
            let problem = problem(self.status, &answer.text)?;
            let named = &problem.errors;
            let all = named.len() == errors.len()
                && named
                    .iter()
                    .zip(errors)
                    .all(|((at, what), (pointer, end))| at == pointer && what.ends_with(end));
            ensure!(all, "it names {named:?}, not {errors:?}");
            // A client that ignores `errors` finds the field and the bound in the detail.
            for (pointer, detail) in named {
                let included = problem.detail.contains(pointer) && problem.detail.contains(detail);
                ensure!(included, "the detail leaves out {pointer}");
            }
            if let Some(part) = detail {
                ensure!(problem.detail.contains(part), "the detail doesn't say {part:?}");
            }
        }
        if let Some(body) = body {
            let found = answer.json()?;
            ensure!(found == *body, "not {body}");
        }
        Ok(())
    }
}

/// Makes the calls one after another.
///
/// # Errors
/// As [`Call::play`].
pub(crate) async fn play(api: &Api, calls: impl IntoIterator<Item = Call>) -> anyhow::Result<()> {
    for call in calls {
        call.play(api).await?;
    }
    Ok(())
}

/// The parts of a problem that differ between calls.
#[derive(Debug)]
pub(crate) struct Problem {
    pub(crate) detail: String,
    pub(crate) errors: Vec<(String, String)>,
}

/// Parses an RFC 9457 problem. It may have only the fields of the contract, and its status must be the one of HTTP.
///
/// # Errors
/// If it is not such a problem.
pub(crate) fn problem(status: u16, text: &str) -> anyhow::Result<Problem> {
    let body: Value = serde_json::from_str(text).context("the problem is not JSON")?;
    let fields = body.as_object().context("the problem is no object")?;
    for field in fields.keys() {
        ensure!(["type", "title", "status", "detail", "errors"].contains(&field.as_str()), "it has {field}");
    }
    let text = |value: &Value| value.as_str().map(str::to_owned);
    let kind = text(&body["type"]).context("no type")?;
    ensure!(kind.starts_with("/problems/"), "the type is {kind}");
    ensure!(text(&body["title"]).is_some_and(|title| !title.is_empty()), "no title");
    ensure!(body["status"] == status, "its status is {}, HTTP's {status}", body["status"]);
    let mut errors = Vec::new();
    for error in body["errors"].as_array().unwrap_or(&Vec::new()) {
        ensure!(error.as_object().is_some_and(|error| error.len() == 2), "{error}");
        let (pointer, detail) = (text(&error["pointer"]), text(&error["detail"]));
        errors.push((pointer.context("no pointer")?, detail.context("no detail")?));
    }
    Ok(Problem { detail: text(&body["detail"]).unwrap_or_default(), errors })
}
