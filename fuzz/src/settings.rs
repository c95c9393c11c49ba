//! Settings from JSON: what does not fit is an error, and what fits says what the JSON said.

use message_engin::broker::topology::{Role, Topology};
use message_engin::config::{BrokerSettings, SocketSettings};
use message_engin::connection::Handle;
use serde_json::{Value as Json, json};

pub fn run(data: &[u8]) {
    let _ = serde_json::from_slice::<BrokerSettings>(data);
    let _ = serde_json::from_slice::<SocketSettings>(data);

    // Fields of the input over settings that are right, so that one odd value is reached at a time.
    let Ok(Json::Object(fields)) = serde_json::from_slice::<Json>(data) else { return };
    let over = |mut settings: Json| {
        for (name, value) in &fields {
            settings[name] = value.clone();
        }
        settings
    };
    let (broker, socket) = (over(broker()), over(socket()));
    let (broker_settings, socket_settings) =
        (serde_json::from_value(broker.clone()), serde_json::from_value(socket.clone()));
    if fields.is_empty() {
        assert!(broker_settings.is_ok() && socket_settings.is_ok(), "{broker_settings:?} {socket_settings:?}");
    }
    if let Ok::<BrokerSettings, _>(settings) = broker_settings {
        assert_eq!(json!(settings.prefetch), broker["prefetch"]);
        assert_eq!(json!(settings.heartbeat), broker["heartbeat"]);
        assert_eq!(json!(settings.connection_timeout), broker["connectionTimeout"]);
        assert_eq!(json!(settings.buffer_size), broker["bufferSize"]);
        assert_eq!(json!(settings.receive_queue), broker["receiveQueue"]);
        assert_eq!(json!(settings.client_properties), broker["clientProperties"]);
        for role in [Role::Gateway, Role::Worker] {
            let plan = Topology::new(&settings, role, "unique");
            assert_eq!(plan.prefetch, settings.prefetch);
        }
    }
    if let Ok::<SocketSettings, _>(settings) = socket_settings {
        assert_eq!(json!(settings.max_received_frame_size), socket["maxReceivedFrameSize"]);
        assert_eq!(json!(settings.max_backpressure), socket["maxBackpressure"]);
        assert_eq!(json!(settings.close_timeout), socket["closeTimeout"]);
        let _ = Handle::new(&settings);
    }
}

pub fn broker() -> Json {
    json!({
        "kind": "amqp", "memoryName": "m", "hosts": [{ "host": "localhost", "port": 5672 }], "vhost": "/",
        "login": "guest", "password": "guest", "authMechanism": "AMQPLAIN", "connectionTimeout": 10000, "heartbeat": 15,
        "noDelay": true, "clientProperties": {}, "reconnect": true, "reconnectBackoffStrategy": "linear",
        "reconnectBackoffTime": 1000, "reconnectExponentialLimit": 120_000, "reconnectJitter": 0.0,
        "delivery": "at-most-once", "queueType": "classic", "deadLetterExchange": null, "queueExpires": 60_000,
        "bufferSize": 16_777_216, "prefetch": 256,
        "receiveExchange": "re", "receiveQueue": "rq", "statusExchange": "se", "statusQueue": "sq",
        "messageExchange": "me", "messageQueue": "mq", "address": "amqp://localhost",
    })
}

pub fn socket() -> Json {
    json!({
        "maxReceivedFrameSize": 65_536, "maxReceivedMessageSize": 1_048_576, "fragmentOutgoingMessages": true,
        "fragmentationThreshold": 900, "keepalive": true, "keepaliveInterval": 20_000,
        "dropConnectionOnKeepaliveTimeout": true, "keepaliveGracePeriod": 10_000, "useNativeKeepalive": false,
        "closeTimeout": 5_000, "binary": true, "slowConsumer": "close", "maxBackpressure": 1_048_576,
        "messageRate": null, "messageKey": null,
    })
}
