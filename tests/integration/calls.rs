//! Calls in tables: what is sent, and what must come back. Every error, whoever expects it, must be the
//! contract's problem.

use anyhow::{Context, ensure};
use reqwest::{Method, RequestBuilder};
use serde_json::Value;
use theater_tests::Api;
use theater_tests::api::Answer;

/// What every error answer is.
pub(crate) const PROBLEM: &str = "application/problem+json";

/// How much of a body an error message shows.
const SHOWN: usize = 200;

/// One call.
#[derive(Clone, Debug)]
pub(crate) struct Call {
    method: Method,
    path: String,
    headers: Vec<(&'static str, Vec<u8>)>,
    body: Option<Vec<u8>>,
    status: u16,
    answers: Expected,
}

#[derive(Clone, Debug, Default)]
struct Expected {
    body: Option<Value>,
    headers: Vec<(&'static str, String)>,
    /// Each field that must be named, and how its detail ends.
    errors: Vec<(String, String)>,
    /// A part of the problem's detail.
    detail: Option<String>,
}

impl Call {
    /// A call that must be answered with `status`.
    pub(crate) fn new(method: Method, path: impl Into<String>, status: u16) -> Self {
        let (headers, answers) = (Vec::new(), Expected::default());
        Self { method, path: path.into(), headers, body: None, status, answers }
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
        self.bytes(body.to_string()).with("content-type", "application/json")
    }

    pub(crate) fn bytes(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = Some(body.into());
        self
    }

    pub(crate) fn with(mut self, name: &'static str, value: impl Into<Vec<u8>>) -> Self {
        self.headers.push((name, value.into()));
        self
    }

    /// The whole body: no field more, none less.
    pub(crate) fn shows(mut self, body: Value) -> Self {
        self.answers.body = Some(body);
        self
    }

    pub(crate) fn header(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.answers.headers.push((name, value.into()));
        self
    }

    /// A field that the problem names, and how it ends to say what it must be. All of them, in order.
    pub(crate) fn names(mut self, pointer: impl Into<String>, detail: impl Into<String>) -> Self {
        self.answers.errors.push((pointer.into(), detail.into()));
        self
    }

    pub(crate) fn says(mut self, part: impl Into<String>) -> Self {
        self.answers.detail = Some(part.into());
        self
    }

    pub(crate) fn path(&self) -> &str {
        &self.path
    }

    fn name(&self) -> String {
        let body = self.body.as_deref().map(String::from_utf8_lossy).unwrap_or_default();
        let body: String = body.chars().take(SHOWN).collect();
        let path: String = self.path.chars().take(SHOWN).collect();
        format!("{} {path} {body}", self.method)
    }

    /// The request alone.
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

    /// Makes the call, and compares.
    ///
    /// # Errors
    /// A connection that was cut, or another answer than the expected one.
    pub(crate) async fn play(&self, api: &Api) -> anyhow::Result<Answer> {
        let request = self.request(api);
        let name = self.name();
        let answer = Api::send(request).await.with_context(|| name.clone())?;
        let shown: String = answer.text.chars().take(4 * SHOWN).collect();
        self.compare(&answer)
            .with_context(|| format!("{name} at {}: {}: {shown}", api.url, answer.status))?;
        Ok(answer)
    }

    fn compare(&self, answer: &Answer) -> anyhow::Result<()> {
        let Expected { body, headers, errors, detail } = &self.answers;
        ensure!(answer.status == self.status, "the status is not {}", self.status);
        for (name, value) in headers {
            let found = answer.header(name);
            ensure!(found == Some(value), "{name} is {found:?}, not {value}");
        }
        ensure!(answer.header("x-request-id").is_some_and(|id| !id.is_empty()), "no request id");
        // A HEAD's answer has none.
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
            // Who reads no `errors` reads the field and the bound all the same.
            for (pointer, detail) in named {
                let told = problem.detail.contains(pointer) && problem.detail.contains(detail);
                ensure!(told, "the detail leaves out {pointer}");
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

/// Makes the calls one after the other.
///
/// # Errors
/// As [`Call::play`].
pub(crate) async fn play(api: &Api, calls: impl IntoIterator<Item = Call>) -> anyhow::Result<()> {
    for call in calls {
        call.play(api).await?;
    }
    Ok(())
}

/// A problem's telling parts.
#[derive(Debug)]
pub(crate) struct Problem {
    pub(crate) detail: String,
    pub(crate) errors: Vec<(String, String)>,
}

/// Reads an RFC 9457 problem, which must have the contract's fields only, and tell the status as HTTP does.
///
/// # Errors
/// What is wrong with it.
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
