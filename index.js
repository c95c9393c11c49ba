'use strict';

const { Client } = require('./lib/client');
const { warnOfCopies } = require('./lib/copies');
const { MessageEnginError, OptionError } = require('./lib/errors');
const { start } = require('./lib/server');

warnOfCopies();

// A name alone: by these does Node know what an ES module may import.
const server = { start };

module.exports = { Client, MessageEnginError, OptionError, server };
