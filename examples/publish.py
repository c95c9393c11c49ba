# Sends a message to alice's browser, through the gateways.
import json
import os
import uuid

import pika

url = os.environ.get("AMQP_URL", "amqp://localhost/%2F")
exchange = os.environ.get("MESSAGE_EXCHANGE", "messageExchange")

connection = pika.BlockingConnection(pika.URLParameters(url))
channel = connection.channel()
# Waits for the broker's answer to each message.
channel.confirm_delivery()
channel.basic_publish(
    exchange=exchange,
    # A fanout exchange ignores it.
    routing_key="",
    body=json.dumps({"to": "alice", "text": "hello from Python"}),
    properties=pika.BasicProperties(
        content_type="application/json",
        headers={"from": "publish.py"},
        message_id=str(uuid.uuid4()),
        delivery_mode=2,
    ),
)
connection.close()
