//! Makes the calls of the golden run, and compares the outcomes and events with the expected ones.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use reqwest::Client;
use serde_json::Value;
use shared_events::envelope::{CAUSATION_ID, CE_ID, CORRELATION_ID, TRACEPARENT};
use shared_events::{Topic, Topics};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, timeout_at};

use super::scenario::{Call, Expected, ExpectedEvent, Outcome, Scenario, Step};
use super::target::Target;
use crate::records::{Record, RecordReader, Start};
use crate::{http, terminal};

/// How long a theater may take to be ready.
const READY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a step may take: longer than a reservation's own deadline.
const STEP_TIMEOUT: Duration = Duration::from_secs(45);
const POLL_INTERVAL: Duration = Duration::from_millis(100);
const CALL_TIMEOUT: Duration = Duration::from_secs(15);

pub(super) struct Runner {
    client: Client,
    gateway: String,
    topics: Topics,
    reader: RecordReader,
    /// The key of this run's records.
    movie: String,
    /// The `ce_id`s read so far: a relay may publish an event again.
    event_ids: HashSet<String>,
}

/// The events that a step still waits for, in the order of each topic.
type AwaitedEvents<'a> = HashMap<Topic, Vec<&'a ExpectedEvent>>;

impl Runner {
    /// Waits until the gateway is ready, and begins to read the topics.
    pub(super) async fn start(target: &Target, scenario: &Scenario) -> anyhow::Result<Self> {
        let client = http::client().timeout(CALL_TIMEOUT).build()?;
        let gateway = target.gateway.clone();
        terminal::print_line(&format!(
            "\nPlaying the golden run on {gateway}, events at {}",
            target.broker.bootstrap_servers
        ));
        let deadline = Instant::now() + READY_TIMEOUT;
        let mut poll = ticks();
        loop {
            poll.tick().await;
            let ready = client.get(format!("{gateway}/readyz")).send().await;
            match ready.and_then(reqwest::Response::error_for_status) {
                Ok(_) => break,
                Err(error) if Instant::now() > deadline => {
                    return Err(error).with_context(|| {
                        format!("the gateway is not ready within {} s", READY_TIMEOUT.as_secs())
                    });
                }
                Err(_) => {} // not yet
            }
        }
        let topics = Topics::new(target.topic_prefix.clone());
        let names = Topic::ALL.map(|topic| topics.name(topic));
        let reader = RecordReader::open(&target.broker, &names, Start::Now).await?;
        let movie = scenario.movie.to_string();
        Ok(Self { client, gateway, topics, reader, movie, event_ids: HashSet::new() })
    }

    /// Makes the step's call, and waits for its events and outcomes.
    pub(super) async fn run(&mut self, step: &Step) -> anyhow::Result<()> {
        self.call(&step.call).await?;
        let mut awaited = AwaitedEvents::new();
        for event in &step.events {
            awaited.entry(event.topic).or_default().push(event);
        }
        let deadline = Instant::now() + STEP_TIMEOUT;
        while awaited.values().any(|events| !events.is_empty()) {
            let record = timeout_at(deadline, self.reader.next()).await;
            let record = record
                .map_err(|_| anyhow!("not within {} s: {}", STEP_TIMEOUT.as_secs(), describe(&awaited)))??;
            self.check_record(&record, &mut awaited)?;
        }
        for outcome in &step.outcomes {
            self.wait_for(outcome, deadline).await?;
        }
        Ok(())
    }

    /// Checks that no further event has been published.
    pub(super) async fn check_no_further_events(&mut self) -> anyhow::Result<()> {
        for record in self.reader.read_to_end().await? {
            self.check_record(&record, &mut AwaitedEvents::new())?;
        }
        Ok(())
    }

    async fn call(&self, call: &Call) -> anyhow::Result<()> {
        let body = call.body.as_ref().map(|body| format!(" {body}")).unwrap_or_default();
        terminal::print_line(&format!("   > {} {}{body}", call.method, call.path));
        let mut request = self.client.request(call.method.clone(), format!("{}{}", self.gateway, call.path));
        if let Some(body) = &call.body {
            request = request.json(body);
        }
        let (status, text, response) = send(request).await?;
        terminal::print_line(&format!("   < {status} {text}"));
        ensure!(status == call.status, "expected the status {}, and it was {status}", call.status);
        difference(&call.response, &response).map_or(Ok(()), |difference| bail!("the answer: {difference}"))
    }

    /// Prints an event of this run, and checks that it is the next expected one.
    fn check_record(&mut self, record: &Record, awaited: &mut AwaitedEvents<'_>) -> anyhow::Result<()> {
        if record.key.as_deref() != Some(self.movie.as_bytes()) {
            return Ok(()); // of another saga
        }
        terminal::print_line(&terminal::format_record(record, "   * "));
        let id = record.header(CE_ID).context("the event has no ce_id")?;
        if !self.event_ids.insert(id.to_owned()) {
            terminal::print_line("     (published a second time, which is allowed)");
            return Ok(());
        }
        let value: Value = serde_json::from_slice(record.value.as_deref().unwrap_or_default())
            .with_context(|| format!("the event {id} is not JSON"))?;
        let topic = Topic::ALL.into_iter().find(|topic| self.topics.name(*topic) == record.topic);
        let expected = topic.and_then(|topic| awaited.get_mut(&topic)).filter(|events| !events.is_empty());
        let Some(expected) = expected else {
            bail!("expected no event on {}, and there is {}", record.topic, value["eventType"]);
        };
        let expected = expected.remove(0);
        if let Some(difference) = difference(&expected.fields, &value) {
            bail!("expected {} on {}: {difference}", expected.fields["eventType"], record.topic);
        }
        check_headers(record, expected)
    }

    /// Polls until the response is as expected.
    async fn wait_for(&self, outcome: &Outcome, deadline: Instant) -> anyhow::Result<()> {
        let mut poll = ticks();
        loop {
            poll.tick().await;
            let (status, text, response) =
                send(self.client.get(format!("{}{}", self.gateway, outcome.path))).await?;
            let difference = match status {
                200 => outcome.expected.difference(&response),
                status => Some(format!("expected the status 200, and it was {status}")),
            };
            match difference {
                None => {
                    terminal::print_line(&format!(
                        "   = {}: GET {}\n     {text}",
                        outcome.title, outcome.path
                    ));
                    return Ok(());
                }
                Some(difference) if Instant::now() > deadline => {
                    bail!("{} (GET {}): {difference}. It was {text}", outcome.title, outcome.path)
                }
                Some(_) => {} // not yet
            }
        }
    }
}

fn ticks() -> Interval {
    let mut ticks = interval(POLL_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// Returns the status, and the body as printable text and as JSON.
async fn send(request: reqwest::RequestBuilder) -> anyhow::Result<(u16, String, Value)> {
    let response = request.send().await.context("no answer")?;
    let status = response.status().as_u16();
    let text = response.text().await.context("no answer")?;
    let value = serde_json::from_str(&text).unwrap_or(Value::Null);
    Ok((status, terminal::escape(text.as_bytes()), value))
}

fn describe(awaited: &AwaitedEvents<'_>) -> String {
    let events = awaited.values().flatten().map(|event| event.fields.to_string());
    events.collect::<Vec<_>>().join(", ")
}

impl Expected {
    /// The first difference in `response`.
    fn difference(&self, response: &Value) -> Option<String> {
        match self {
            Self::Fields(fields) => difference(fields, response),
            Self::Items(expected) => {
                let items = response["items"].as_array().map_or(&[][..], Vec::as_slice);
                if items.len() != expected.len() {
                    return Some(format!("expected {} items, and there are {}", expected.len(), items.len()));
                }
                expected.iter().zip(items).find_map(|(expected, item)| difference(expected, item))
            }
        }
    }
}

/// The first of the `expected` fields that differs in `actual`.
fn difference(expected: &Value, actual: &Value) -> Option<String> {
    expected.as_object()?.iter().find_map(|(name, value)| match &actual[name] {
        same if same == value => None,
        other => Some(format!("expected `{name}` to be {value}, and it is {other}")),
    })
}

fn check_headers(record: &Record, event: &ExpectedEvent) -> anyhow::Result<()> {
    let source = if event.topic == Topic::Movies { "/movie" } else { "/reservation" };
    let expected = [
        ("ce_specversion", "1.0"),
        ("ce_type", event.ce_type),
        ("ce_source", source),
        ("ce_subject", &event.subject.to_string()),
        ("content-type", "application/json"),
        (CORRELATION_ID, &event.correlation.to_string()),
    ];
    for (name, value) in expected {
        let actual = record.header(name);
        ensure!(actual == Some(value), "expected the header {name} to be {value}, and it is {actual:?}");
    }
    for name in ["ce_time", TRACEPARENT] {
        ensure!(record.header(name).is_some(), "the header {name} is missing");
    }
    // An event that a call caused has no causing event.
    let by_a_call = event.ce_type.contains("-placed.") || event.ce_type.contains("-published.");
    let by_an_event = event.topic == Topic::Movies && !by_a_call;
    let causation = record.header(CAUSATION_ID);
    ensure!(
        !by_a_call || causation.is_none(),
        "{CAUSATION_ID} is {causation:?}, and a call caused the event"
    );
    ensure!(!by_an_event || causation.is_some(), "the header {CAUSATION_ID} is missing");
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn differences_name_the_field() {
        let actual = json!({"qty": 55, "version": 2});
        assert_eq!(difference(&json!({"qty": 55}), &actual), None);
        let wrong = difference(&json!({"qty": 54}), &actual).unwrap();
        assert_eq!(wrong, "expected `qty` to be 54, and it is 55");
        assert!(difference(&json!({"count": 1}), &actual).unwrap().contains("null"));
    }

    #[test]
    fn collections_must_match_exactly() {
        let one = json!({"items": [{"id": 1, "x": 2}], "next": null});
        assert_eq!(Expected::Items(vec![json!({"id": 1})]).difference(&one), None);
        assert!(Expected::Items(vec![]).difference(&one).unwrap().contains("expected 0 items"));
        assert!(Expected::Items(vec![json!({"id": 2})]).difference(&one).unwrap().contains("`id`"));
    }
}
