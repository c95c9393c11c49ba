'use strict';

const { Client } = require('./lib/client');
const { MessageEnginError, OptionError } = require('./lib/errors');
const { start } = require('./lib/server');

module.exports = { Client, MessageEnginError, OptionError, server: { start } };
