//! Generates the AsyncAPI document: which service sends and receives which event on which topic. Names, groups,
//! messages and examples come from the types and the golden events; topic settings come from the services' own.

use clap::{Args, Command};
use serde_json::{Map, Value, json};
use service_kit::messaging::EventsConfig;
use service_kit::messaging::dead_letter::TOPIC_LIMIT_BYTES;
use service_kit::messaging::kafka::TOPIC_SETTINGS;
use shared_events::topic::PARTITIONER;
use shared_events::{Consumer, Event, EventId, Origin, Topic, Topics, envelope};

use crate::golden;
use crate::ordered::Ordered;

const BINDINGS: &str = "0.5.0";

pub(crate) fn text() -> String {
    let body = serde_saphyr::to_string(&Ordered(&document())).unwrap();
    format!("# Made from the types: UPDATE=1 cargo test -p theater-tests --test contract\n{body}")
}

fn document() -> Value {
    json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "theater",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "The events of a choreographed saga: reserving tickets of a movie. Delivery is at least \
                once; a reader must expect any event again, even after newer ones, with the same `ce_id`. First \
                occurrences are in order per reservation, and per movie's `version`. Values grow by optional fields \
                only; skip event types that you don't know. The names of topics and groups begin with \
                KAFKA_TOPIC_PREFIX, `theater.` by default.",
            "license": {"name": "MIT OR Apache-2.0"},
        },
        "defaultContentType": "application/json",
        "servers": {
            "kafka": {
                "host": default_setting("kafka_bootstrap_servers"),
                "protocol": "kafka",
                "description": "Wherever KAFKA_BOOTSTRAP_SERVERS says.",
            },
        },
        "channels": channels(),
        "operations": operations(),
        "components": {"messages": messages()},
    })
}

/// The default of a setting.
fn default_setting(id: &str) -> String {
    let command = EventsConfig::augment_args(Command::new("any"));
    let argument = command.get_arguments().find(|argument| argument.get_id() == id).unwrap();
    argument.get_default_values()[0].to_str().unwrap().to_owned()
}

fn default_topics() -> Topics {
    Topics::new(default_setting("kafka_topic_prefix"))
}

const fn channel_id(topic: Topic) -> &'static str {
    match topic {
        Topic::Reservations => "reservations",
        Topic::Movies => "movies",
    }
}

fn dead_letters_channel_id(topic: Topic) -> String {
    format!("{}DeadLetters", channel_id(topic))
}

fn golden_events() -> impl Iterator<Item = Event> {
    Event::TYPES.iter().map(|event_type| golden::event(event_type))
}

fn reference(to: &str) -> Value {
    json!({"$ref": format!("#/{to}")})
}

fn channels() -> Map<String, Value> {
    let mut channels = Map::new();
    for topic in Topic::ALL {
        let messages: Map<_, _> = golden_events()
            .filter(|event| event.topic() == topic)
            .map(|event| event.event_type())
            .map(|name| (name.to_owned(), reference(&format!("components/messages/{name}"))))
            .collect();
        let description = format!(
            "Facts about {}. All that concerns one movie is in one partition, in which the key's `{PARTITIONER}` puts it.",
            channel_id(topic)
        );
        channels.insert(
            channel_id(topic).to_owned(),
            channel(&default_topics().name(topic), &description, &messages, None),
        );
        let dead_letters =
            Map::from_iter([("DeadLetter".to_owned(), reference("components/messages/DeadLetter"))]);
        let description = format!("What a consumer of {} could not use.", default_topics().name(topic));
        let limit = Some(TOPIC_LIMIT_BYTES);
        channels.insert(
            dead_letters_channel_id(topic),
            channel(&default_topics().dead_letters(topic), &description, &dead_letters, limit),
        );
    }
    channels
}

fn channel(topic: &str, description: &str, messages: &Map<String, Value>, limit: Option<usize>) -> Value {
    let mut configuration = Map::new();
    for (name, value) in TOPIC_SETTINGS {
        // The Kafka binding takes policies as lists and times as numbers.
        let value = value.parse::<i64>().map_or_else(|_| json!([value]), |number| json!(number));
        configuration.insert(name.to_owned(), value);
    }
    if let Some(limit) = limit {
        configuration.insert("max.message.bytes".to_owned(), json!(limit));
    }
    json!({
        "address": topic,
        "description": description,
        "servers": [reference("servers/kafka")],
        "messages": messages,
        "bindings": {"kafka": {
            "topic": topic,
            "partitions": default_setting("kafka_topic_partitions").parse::<u32>().unwrap(),
            "topicConfiguration": configuration,
            "bindingVersion": BINDINGS,
        }},
    })
}

/// For each service: sending its events, receiving events of other services, sending dead letters.
fn operations() -> Map<String, Value> {
    let mut operations = Map::new();
    for topic in Topic::ALL {
        let source = golden_events().find(|event| event.topic() == topic).unwrap().source();
        let service = source.as_str().trim_start_matches('/');
        operations.insert(
            format!("{service}.send.{}", channel_id(topic)),
            json!({
                "action": "send",
                "channel": reference(&format!("channels/{}", channel_id(topic))),
                "description": format!("{service} tells what it decided, in the order in which it did."),
                "bindings": {"kafka": {"bindingVersion": BINDINGS}},
            }),
        );
    }
    for consumer in Consumer::ALL {
        let (service, topic) = (consumer.as_str(), consumer.topic());
        operations.insert(
            format!("{service}.receive.{}", channel_id(topic)),
            json!({
                "action": "receive",
                "channel": reference(&format!("channels/{}", channel_id(topic))),
                "description": format!("{service} applies each event once, and skips what doesn't concern it."),
                "bindings": {"kafka": {
                    "groupId": {"type": "string", "const": default_topics().group(consumer)},
                    "bindingVersion": BINDINGS,
                }},
            }),
        );
        operations.insert(
            format!("{service}.send.{}", dead_letters_channel_id(topic)),
            json!({
                "action": "send",
                "channel": reference(&format!("channels/{}", dead_letters_channel_id(topic))),
                "description": format!("{service} keeps what it could not use."),
                "bindings": {"kafka": {"bindingVersion": BINDINGS}},
            }),
        );
    }
    operations
}

fn messages() -> Map<String, Value> {
    let mut messages: Map<_, _> =
        golden_events().map(|event| (event.event_type().to_owned(), message(&event))).collect();
    let key = json!({"type": "string", "description": "The key of the record that could not be used, if it had one."});
    messages.insert(
        "DeadLetter".to_owned(),
        json!({
            "name": "DeadLetter",
            "title": "DeadLetter",
            "summary": "A record that no retry can help, with its own key, headers and value.",
            "contentType": "application/octet-stream",
            "headers": {"$ref": "./schemas/dead-letter-headers.v1.json"},
            "bindings": {"kafka": {"key": key, "bindingVersion": BINDINGS}},
        }),
    );
    messages
}

fn message(event: &Event) -> Value {
    let name = event.event_type();
    let schema =
        shared_events::schema::events().into_iter().find(|(event_type, _)| *event_type == name).unwrap().1;
    let id = EventId("0192d3f4-7c1a-7000-8000-0000000000e1".to_owned());
    let headers: Map<_, _> = envelope::headers(event, &id, &Origin::default())
        .into_iter()
        .map(|(name, value)| (name.to_owned(), json!(value)))
        .collect();
    json!({
        "name": name,
        "title": name,
        "summary": schema["description"],
        "contentType": "application/json",
        "correlationId": {"description": "The saga.", "location": "$message.header#/correlation_id"},
        "headers": {
            "type": "object",
            "allOf": [{"$ref": "./schemas/headers.v1.json"}],
            "properties": {
                "ce_type": {"const": event.ce_type()},
                "ce_source": {"const": event.source().as_str()},
            },
        },
        "payload": {"$ref": format!("./schemas/{name}.v1.json")},
        "examples": [{"name": "golden", "headers": headers, "payload": golden::json(name)}],
        "bindings": {"kafka": {
            "key": {"type": "string", "format": "uuid", "description": "The `movieId`, always."},
            "bindingVersion": BINDINGS,
        }},
    })
}

#[test]
fn examples_match_their_schemas() {
    let headers = golden::validator(&shared_events::schema::headers());
    for (name, schema) in shared_events::schema::events() {
        let message = message(&golden::event(name));
        let example = &message["examples"][0];
        golden::validator(&schema).validate(&example["payload"]).unwrap();
        headers.validate(&example["headers"]).unwrap();
        golden::validator(&json!({"properties": message["headers"]["properties"]}))
            .validate(&example["headers"])
            .unwrap();
    }
}
