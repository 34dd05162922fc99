//! The [AsyncAPI 3.0](https://www.asyncapi.com/docs/reference/specification/v3.0.0) document of
//! what peers find on the broker. It has a channel per kind of event and per queue of commands. The
//! schemas are rendered from the types themselves.

use domain::command::{CommandSet, Queue};
use domain::drive::DriveCommand;
use domain::drive::event::Event;
use domain::eligibility::EligibilityCommand;
use domain::event::EventSet;
use domain::member::MemberCommand;
use domain::member::event::MemberEvent;
use domain::stream::StreamKind;
use domain::upkeep::UpkeepCommand;
use schemars::generate::{SchemaGenerator, SchemaSettings};
use schemars::transform::RecursiveTransform;
use schemars::{JsonSchema as _, Schema};
use serde_json::{Map, Value, json};
use shared::bus::CloudEvent;
use shared::bus::cloud_event::batch;
use shared::bus::message::header;
use shared::bus::topology::exchange;

/// Where a document keeps its schemas.
const SCHEMAS: &str = "#/components/schemas";
/// The version of AsyncAPI's AMQP bindings.
const BINDING: &str = "0.3.0";
/// The introduction of the document.
const DESCRIPTION: &str = "\
Muster publishes its decisions as CloudEvents 1.0 (JSON, structured mode) to the topic exchange `muster.events`. A peer \
binds its own queue, `peer.{name}.*`, and reads it. A peer publishes nothing. Events of one drive or one member share a `source` \
and arrive in order: `sequence` counts from 1 without gaps. An event may be delivered more than once, with the same `id`. \
Readers must ignore fields that they do not know: fields may be added, but none are removed.\n\n\
With `EVENTS=batches`, events about registrations are published in batches (CloudEvents JSON batch format) instead of one by \
one. Their routing key is `registration.batch.{drive}`.\n\n\
Commands are shown for reference. Only Muster's API and scheduler publish them. On RabbitMQ, one message of the type \
`application/vnd.muster.bundle` may carry several commands of one lane.";

/// Renders the document.
#[must_use]
pub fn document() -> String {
    let mut generator = SchemaSettings::draft07()
        .for_serialize()
        .with(|settings| settings.definitions_path = SCHEMAS.trim_start_matches('#').into())
        .with_transform(RecursiveTransform(for_readers))
        .into_generator();
    let mut parts = Parts::default();
    parts.events(&mut generator);
    parts.commands::<DriveCommand>(&mut generator);
    parts.commands::<MemberCommand>(&mut generator);
    parts.commands::<EligibilityCommand>(&mut generator);
    parts.commands::<UpkeepCommand>(&mut generator);
    parts.schemas.insert("CommandHeaders".to_owned(), command_headers());
    let document = json!({
        "asyncapi": "3.0.0",
        "info": {
            "title": "Muster",
            "version": env!("CARGO_PKG_VERSION"),
            "description": DESCRIPTION,
            "license": { "name": "Apache-2.0" },
        },
        "servers": {
            "rabbitmq": {
                "host": "{host}",
                "protocol": "amqp",
                "protocolVersion": "0.9.1",
                "description": "The deployment's RabbitMQ (3.10 or later)",
                "variables": { "host": { "default": "localhost:5672" } },
                "security": [{ "type": "userPassword", "description": "A user that the operator made for the peer" }],
            },
        },
        "channels": parts.channels,
        "operations": parts.operations,
        "components": { "messages": parts.messages, "schemas": parts.schemas },
    });
    serde_json::to_string_pretty(&document).expect("JSON can be written")
}

#[derive(Default)]
struct Parts {
    channels: Map<String, Value>,
    operations: Map<String, Value>,
    messages: Map<String, Value>,
    schemas: Map<String, Value>,
}

impl Parts {
    /// Adds the envelope that all events share, and for each kind of event its own fields and
    /// routing keys.
    fn events(&mut self, generator: &mut SchemaGenerator) {
        let drives = self.kinds::<Event>(generator).into_iter().map(|kind| (Event::STREAM, kind));
        let mut kinds: Vec<_> = drives.collect();
        let members = self.kinds::<MemberEvent>(generator).into_iter();
        kinds.extend(members.map(|kind| (MemberEvent::STREAM, kind)));
        let mut batched = Vec::new();
        for (stream, kind) in kinds {
            let name = text(&kind["properties"]["type"]["const"]);
            if name.starts_with("muster.registration.") {
                batched.push(json!({ "$ref": format!("#/components/messages/{name}/payload") }));
            }
            self.messages.insert(
                name.clone(),
                json!({
                    "name": name,
                    "summary": kind["description"],
                    "contentType": "application/cloudevents+json; charset=utf-8",
                    "payload": { "allOf": [{ "$ref": format!("{SCHEMAS}/CloudEvent") }, kind] },
                    "bindings": { "amqp": { "messageType": name, "bindingVersion": BINDING } },
                }),
            );
            for (channel, address) in self.addresses(stream, &name, &kind["properties"]["data"]) {
                self.channel(
                    &channel,
                    &address,
                    (exchange::EVENTS, "topic"),
                    &text(&kind["description"]),
                    &[&name],
                );
            }
        }
        self.batch(&batched);
    }

    /// The schema of each kind of event of a noun. Keeps what these kinds share.
    fn kinds<E: EventSet>(&mut self, generator: &mut SchemaGenerator) -> Vec<Value> {
        let mut envelope = CloudEvent::<E>::json_schema(generator);
        generator.transforms_mut().for_each(|transform| transform.transform(&mut envelope));
        let kinds = envelope.remove("oneOf").unwrap_or_default();
        self.schemas.insert("CloudEvent".to_owned(), envelope.to_value());
        self.schemas.extend(generator.take_definitions(true));
        let Value::Array(kinds) = kinds else { return Vec::new() };
        kinds
    }

    /// Adds the message with several events about registrations, which an operator may allow.
    fn batch(&mut self, items: &[Value]) {
        let summary = "Events about registrations of one drive, in order (where `EVENTS=batches`)";
        self.messages.insert(
            batch::KIND.to_owned(),
            json!({
                "name": batch::KIND,
                "summary": summary,
                "contentType": batch::CONTENT_TYPE,
                "payload": { "type": "array", "minItems": 1, "maxItems": batch::MOST, "items": { "oneOf": items } },
                "bindings": { "amqp": { "messageType": batch::KIND, "bindingVersion": BINDING } },
            }),
        );
        let exchange = (exchange::EVENTS, "topic");
        self.channel(batch::KIND, "registration.batch.{drive_id}", exchange, summary, &[batch::KIND]);
    }

    /// The channels of a kind of event, with their routing keys. A key has the words of the kind,
    /// the drive if the event is in a drive's log, and the member if there is one.
    fn addresses(&self, stream: StreamKind, kind: &str, data: &Value) -> Vec<(String, String)> {
        let mut address = kind.trim_start_matches("muster.").to_owned();
        if stream == StreamKind::Drive {
            address.push_str(".{drive_id}");
        }
        let schema = &self.schemas[text(&data["$ref"]).trim_start_matches(&format!("{SCHEMAS}/"))];
        if schema["properties"].get("member_id").is_none() {
            return vec![(kind.to_owned(), address)];
        }
        let mut all = vec![(kind.to_owned(), format!("{address}.{{member_id}}"))];
        if !schema["required"].as_array().is_some_and(|names| names.contains(&json!("member_id"))) {
            all.push((format!("{kind}.without-member"), address));
        }
        all
    }

    /// Adds the commands of one queue.
    fn commands<S: CommandSet>(&mut self, generator: &mut SchemaGenerator) {
        let schemas = S::schemas(generator);
        self.schemas.extend(generator.take_definitions(true));
        for (kind, schema) in &schemas {
            let reference = schema.get("$ref").map(text).unwrap_or_default();
            let body = &self.schemas[reference.trim_start_matches(&format!("{SCHEMAS}/"))];
            self.messages.insert(
                (*kind).to_owned(),
                json!({
                    "name": kind,
                    "summary": body["description"],
                    "contentType": "application/json",
                    "headers": { "$ref": format!("{SCHEMAS}/CommandHeaders") },
                    "payload": schema,
                    "bindings": { "amqp": { "messageType": kind, "bindingVersion": BINDING } },
                }),
            );
        }
        let queue = S::QUEUE;
        let address = if queue.has_lanes() { format!("{queue}.{{lane}}") } else { queue.to_string() };
        let kinds: Vec<_> = schemas.iter().map(|(kind, _)| *kind).collect();
        self.channel(
            &format!("muster.commands.{queue}"),
            &address,
            (exchange::COMMANDS, "direct"),
            about(queue),
            &kinds,
        );
    }

    fn channel(
        &mut self,
        name: &str,
        address: &str,
        exchange: (&str, &str),
        summary: &str,
        messages: &[&str],
    ) {
        let parameters = address.split('.').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
        let parameters: Map<_, _> = parameters.map(|name| (name.to_owned(), parameter(name))).collect();
        let references = |from: &str| -> Map<String, Value> {
            let reference = |kind: &&str| ((*kind).to_owned(), json!({ "$ref": format!("#/{from}/{kind}") }));
            messages.iter().map(reference).collect()
        };
        let (exchange, kind) = exchange;
        self.channels.insert(
            name.to_owned(),
            json!({
                "address": address,
                "summary": summary,
                "messages": references("components/messages"),
                "parameters": parameters,
                "bindings": {
                    "amqp": {
                        "is": "routingKey",
                        "exchange": { "name": exchange, "type": kind, "durable": true, "autoDelete": false },
                        "bindingVersion": BINDING,
                    },
                },
            }),
        );
        let references: Vec<_> = references(&format!("channels/{name}/messages")).into_values().collect();
        self.operations.insert(
            format!("publish.{name}"),
            json!({ "action": "send", "channel": { "$ref": format!("#/channels/{name}") }, "messages": references }),
        );
    }
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn about(queue: Queue) -> &'static str {
    match queue {
        Queue::Drives => "Everything about one drive, in order",
        Queue::Members => "Everything about one member's own data, in order",
        Queue::Eligibility => "Eligibility checks, in no order",
        Queue::Upkeep => "House-keeping, in no order",
    }
}

fn parameter(name: &str) -> Value {
    json!({ "description": match name {
        "drive_id" => "The drive, as in `source`",
        "member_id" => "The member, as in `subject`",
        _ => "A number below the deployment's `LANES`",
    } })
}

/// The AMQP headers of a command.
fn command_headers() -> Value {
    let text = |description: &str| json!({ "type": "string", "description": description });
    json!({
        "type": "object",
        "description": "Beside AMQP's own `message-id` (the command's id) and `type` (its kind)",
        "properties": {
            (header::ACTOR): text("Who asked: `role:uuid`"),
            (header::ACCEPTED_AT): text("When the API accepted it: RFC 3339, milliseconds"),
            (header::BODY_HASH): text("The SHA-256 of the request's body, in unpadded URL-safe base64"),
            (header::TRACEPARENT): text("The W3C trace context of the publisher"),
        },
        "required": [header::ACTOR, header::ACCEPTED_AT, header::BODY_HASH],
    })
}

/// Descriptions come from the types' documentation. A link becomes a plain word. A description that
/// only points elsewhere in the code is removed.
fn for_readers(schema: &mut Schema) {
    let Some(description) = schema.get("description").map(text) else { return };
    if description.starts_with("See [`") {
        schema.remove("description");
    } else {
        schema.insert("description".to_owned(), description.replace("[`", "`").replace("`]", "`").into());
    }
}
