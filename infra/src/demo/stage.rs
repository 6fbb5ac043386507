//! A theater as its users see it: calls, what becomes of them, and the events that pass meanwhile.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use anyhow::{Context, anyhow, bail, ensure};
use reqwest::Client;
use serde_json::Value;
use shared_events::envelope::{CAUSATION_ID, CE_ID, CORRELATION_ID, TRACEPARENT};
use shared_events::{Topic, Topics};
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, timeout_at};

use super::Target;
use super::script::{Call, Expected, Fact, Outcome, Script, Step};
use crate::records::{Record, Records, Start};
use crate::{http, show};

/// How long a theater may take to be ready.
const READY: Duration = Duration::from_secs(30);
/// How long a step may take: past a reservation's own deadline.
const STEP: Duration = Duration::from_secs(45);
const POLL: Duration = Duration::from_millis(100);
const CALL: Duration = Duration::from_secs(15);

pub(super) struct Stage {
    client: Client,
    gateway: String,
    topics: Topics,
    records: Records,
    /// The key of this run's records.
    movie: String,
    /// `ce_id`s, because a relay may publish an event again.
    seen: HashSet<String>,
}

/// What a step still waits for, in order on each topic.
type Awaited<'a> = HashMap<Topic, Vec<&'a Fact>>;

impl Stage {
    /// Begins to watch the topics, and waits until the gateway is ready.
    pub(super) async fn set(target: &Target, script: &Script) -> anyhow::Result<Self> {
        let client = http::client().timeout(CALL).build()?;
        let gateway = target.gateway.clone();
        show::line(&format!(
            "\nPlaying the golden run on {gateway}, events at {}",
            target.broker.bootstrap_servers
        ));
        let deadline = Instant::now() + READY;
        let mut poll = ticks();
        loop {
            poll.tick().await;
            let ready = client.get(format!("{gateway}/readyz")).send().await;
            match ready.and_then(reqwest::Response::error_for_status) {
                Ok(_) => break,
                Err(error) if Instant::now() > deadline => {
                    return Err(error)
                        .with_context(|| format!("the gateway is not ready within {} s", READY.as_secs()));
                }
                Err(_) => {} // not yet
            }
        }
        let topics = Topics::new(target.topic_prefix.clone());
        let names = Topic::ALL.map(|topic| topics.name(topic));
        let records = Records::open(&target.broker, &names, Start::Now).await?;
        let movie = script.movie.to_string();
        Ok(Self { client, gateway, topics, records, movie, seen: HashSet::new() })
    }

    /// Makes the step's call, and waits for its events and outcomes.
    pub(super) async fn play(&mut self, step: &Step) -> anyhow::Result<()> {
        self.call(&step.call).await?;
        let mut awaited = Awaited::new();
        for fact in &step.facts {
            awaited.entry(fact.topic).or_default().push(fact);
        }
        let deadline = Instant::now() + STEP;
        while awaited.values().any(|facts| !facts.is_empty()) {
            let record = timeout_at(deadline, self.records.next()).await;
            let record =
                record.map_err(|_| anyhow!("not within {} s: {}", STEP.as_secs(), describe(&awaited)))??;
            self.take(&record, &mut awaited)?;
        }
        for outcome in &step.outcomes {
            self.until(outcome, deadline).await?;
        }
        Ok(())
    }

    /// Checks that nothing more has been published.
    pub(super) async fn close(&mut self) -> anyhow::Result<()> {
        for record in self.records.up_to_now().await? {
            self.take(&record, &mut Awaited::new())?;
        }
        Ok(())
    }

    async fn call(&self, call: &Call) -> anyhow::Result<()> {
        let body = call.body.as_ref().map(|body| format!(" {body}")).unwrap_or_default();
        show::line(&format!("   > {} {}{body}", call.method, call.path));
        let mut request = self.client.request(call.method.clone(), format!("{}{}", self.gateway, call.path));
        if let Some(body) = &call.body {
            request = request.json(body);
        }
        let (status, text, answer) = answer(request).await?;
        show::line(&format!("   < {status} {text}"));
        ensure!(status == call.status, "expected the status {}, and it was {status}", call.status);
        difference(&call.answer, &answer).map_or(Ok(()), |difference| bail!("the answer: {difference}"))
    }

    /// Shows an event of this run and checks that it is the next one.
    fn take(&mut self, record: &Record, awaited: &mut Awaited<'_>) -> anyhow::Result<()> {
        if record.key.as_deref() != Some(self.movie.as_bytes()) {
            return Ok(()); // another saga's
        }
        show::line(&show::record(record, "   * "));
        let id = record.header(CE_ID).context("the event has no ce_id")?;
        if !self.seen.insert(id.to_owned()) {
            show::line("     (published a second time, which is allowed)");
            return Ok(());
        }
        let value: Value = serde_json::from_slice(record.value.as_deref().unwrap_or_default())
            .with_context(|| format!("the event {id} is not JSON"))?;
        let topic = Topic::ALL.into_iter().find(|topic| self.topics.name(*topic) == record.topic);
        let facts = topic.and_then(|topic| awaited.get_mut(&topic)).filter(|facts| !facts.is_empty());
        let Some(facts) = facts else {
            bail!("expected no event on {}, and there is {}", record.topic, value["eventType"]);
        };
        let fact = facts.remove(0);
        if let Some(difference) = difference(&fact.fields, &value) {
            bail!("expected {} on {}: {difference}", fact.fields["eventType"], record.topic);
        }
        check_headers(record, fact)
    }

    async fn until(&self, outcome: &Outcome, deadline: Instant) -> anyhow::Result<()> {
        let mut poll = ticks();
        loop {
            poll.tick().await;
            let (status, text, answer) =
                answer(self.client.get(format!("{}{}", self.gateway, outcome.path))).await?;
            let difference = match status {
                200 => outcome.expected.difference(&answer),
                status => Some(format!("expected the status 200, and it was {status}")),
            };
            match difference {
                None => {
                    show::line(&format!("   = {}: GET {}\n     {text}", outcome.what, outcome.path));
                    return Ok(());
                }
                Some(difference) if Instant::now() > deadline => {
                    bail!("{} (GET {}): {difference}. It was {text}", outcome.what, outcome.path)
                }
                Some(_) => {} // not yet
            }
        }
    }
}

fn ticks() -> Interval {
    let mut ticks = interval(POLL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

/// The status, and the body as it came and as JSON.
async fn answer(request: reqwest::RequestBuilder) -> anyhow::Result<(u16, String, Value)> {
    let response = request.send().await.context("no answer")?;
    let status = response.status().as_u16();
    let text = response.text().await.context("no answer")?;
    let value = serde_json::from_str(&text).unwrap_or(Value::Null);
    Ok((status, show::text(text.as_bytes()), value))
}

fn describe(awaited: &Awaited<'_>) -> String {
    let facts = awaited.values().flatten().map(|fact| fact.fields.to_string());
    facts.collect::<Vec<_>>().join(", ")
}

impl Expected {
    /// The first thing in `answer` that is not as expected.
    fn difference(&self, answer: &Value) -> Option<String> {
        match self {
            Self::Fields(fields) => difference(fields, answer),
            Self::Items(expected) => {
                let items = answer["items"].as_array().map_or(&[][..], Vec::as_slice);
                if items.len() != expected.len() {
                    return Some(format!("expected {} items, and there are {}", expected.len(), items.len()));
                }
                expected.iter().zip(items).find_map(|(expected, item)| difference(expected, item))
            }
        }
    }
}

/// The first of the `expected` fields that `seen` does not have so.
fn difference(expected: &Value, seen: &Value) -> Option<String> {
    expected.as_object()?.iter().find_map(|(name, value)| match &seen[name] {
        same if same == value => None,
        other => Some(format!("expected `{name}` to be {value}, and it is {other}")),
    })
}

fn check_headers(record: &Record, fact: &Fact) -> anyhow::Result<()> {
    let source = if fact.topic == Topic::Movies { "/movie" } else { "/reservation" };
    let expected = [
        ("ce_specversion", "1.0"),
        ("ce_type", fact.ce_type),
        ("ce_source", source),
        ("ce_subject", &fact.subject.to_string()),
        ("content-type", "application/json"),
        (CORRELATION_ID, &fact.correlation.to_string()),
    ];
    for (name, value) in expected {
        let seen = record.header(name);
        ensure!(seen == Some(value), "expected the header {name} to be {value}, and it is {seen:?}");
    }
    for name in ["ce_time", TRACEPARENT] {
        ensure!(record.header(name).is_some(), "the header {name} is missing");
    }
    // What a call caused has no causing event.
    let by_a_call = fact.ce_type.contains("-placed.") || fact.ce_type.contains("-published.");
    let by_an_event = fact.topic == Topic::Movies && !by_a_call;
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
        let seen = json!({"qty": 55, "version": 2});
        assert_eq!(difference(&json!({"qty": 55}), &seen), None);
        let wrong = difference(&json!({"qty": 54}), &seen).unwrap();
        assert_eq!(wrong, "expected `qty` to be 54, and it is 55");
        assert!(difference(&json!({"count": 1}), &seen).unwrap().contains("null"));
    }

    #[test]
    fn collections_must_match_exactly() {
        let one = json!({"items": [{"id": 1, "x": 2}], "next": null});
        assert_eq!(Expected::Items(vec![json!({"id": 1})]).difference(&one), None);
        assert!(Expected::Items(vec![]).difference(&one).unwrap().contains("expected 0 items"));
        assert!(Expected::Items(vec![json!({"id": 2})]).difference(&one).unwrap().contains("`id`"));
    }
}
