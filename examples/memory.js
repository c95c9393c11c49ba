'use strict';

// Gateway and worker in one process, on the embedded broker: no RabbitMQ.
process.env.AMQP_URL = 'memory:';
require('./server.js');
require('./client.js');
