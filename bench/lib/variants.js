'use strict';

// What is measured, and what it is called.

const PARTS = ['main', 'paced', 'idle', 'workers', 'growth', 'endurance'];

/**
 * @typedef {object} Variant
 * @property {string} label
 * @property {string} color
 * @property {boolean} [main] takes part in the quick form
 * @property {boolean} [growth] takes part in how cost grows
 * @property {boolean} [ours]
 * @property {boolean} [peer] what ours must be better than
 * @property {boolean} [rust] a program of load/
 */

/** @type {Record<string, Variant>} */
const GATEWAYS = {
  'ours-fn': {
    label: 'message-engin, function',
    color: '#2563eb',
    main: true,
    growth: true,
    ours: true,
  },
  'ours-declared': {
    label: 'message-engin, declared key',
    color: '#0d9488',
    main: true,
    growth: true,
    ours: true,
  },
  'ws-amqplib': {
    label: 'ws + amqplib',
    color: '#ea8a0b',
    main: true,
    growth: true,
    peer: true,
  },
  'ws-rabbitmq-client': {
    label: 'ws + rabbitmq-client',
    color: '#a855f7',
    peer: true,
  },
  legacy: {
    label: "the original's design",
    color: '#dc2626',
    main: true,
    growth: true,
    peer: true,
  },
  limit: {
    label: 'bare limit, no Node',
    color: '#8a8f98',
    main: true,
    growth: true,
    rust: true,
  },
};

/** @type {Record<string, Variant>} */
const WORKERS = {
  ours: {
    label: 'message-engin Client',
    color: '#2563eb',
    main: true,
    ours: true,
  },
  amqplib: { label: 'amqplib', color: '#ea8a0b', main: true, peer: true },
  'rabbitmq-client': {
    label: 'rabbitmq-client',
    color: '#a855f7',
    peer: true,
  },
  legacy: {
    label: "the original's client",
    color: '#dc2626',
    main: true,
    peer: true,
  },
  worker: {
    label: 'bare limit, no Node',
    color: '#8a8f98',
    main: true,
    rust: true,
  },
};

module.exports = { GATEWAYS, PARTS, WORKERS };
