'use strict';

const { number, spread, table } = require('./format');
const { median, targets } = require('./targets');
const { GATEWAYS, WORKERS } = require('./variants');

const AGAINST = {
  'ws-amqplib': 'ws+amqplib',
  legacy: 'original',
  limit: 'limit',
};

const labelOf = (name) => GATEWAYS[name]?.label ?? name;

/** How often the value of the other fits into this one. */
function ratios(tree, part, name, who, others = Object.keys(AGAINST)) {
  return others.map((other) => {
    const mine = median(tree, [part, who], name);
    const theirs = median(tree, [part, other], name);
    return mine && theirs ? `${number(mine / theirs)} x` : '-';
  });
}

function costs(tree, part, title) {
  if (!tree[part]) return null;
  const head = [
    'gateway',
    'gateway CPU us',
    ...Object.values(AGAINST).map((other) => `of ${other}`),
    'worker us',
    'broker us',
    'a second',
    'p50 ms',
    'p99 ms',
    'p99.9 ms',
  ];
  const rows = Object.entries(tree[part]).map(([name, one]) => [
    labelOf(name),
    spread(one.gatewayCpu),
    ...ratios(tree, part, 'gatewayCpu', name),
    number(one.workerCpu?.median),
    number(one.brokerCpu?.median),
    spread(one.rate),
    number(one.p50?.median),
    number(one.p99?.median),
    number(one.p999?.median),
  ]);
  return { title, text: table(head, rows) };
}

function shares(tree, weakest) {
  if (!tree.shares) return null;
  const found = Object.keys(Object.values(tree.shares)[0]);
  const head = [
    'gateway',
    ...found.flatMap((share) => [
      `${share} %: CPU us`,
      'p50 ms',
      'p99 ms',
      'p99.9 ms',
    ]),
  ];
  const rows = Object.entries(tree.shares).map(([name, one]) => [
    labelOf(name),
    ...found.flatMap((share) =>
      ['gatewayCpu', 'p50', 'p99', 'p999'].map((what) =>
        number(one[share]?.[what]?.median),
      ),
    ),
  ]);
  const title = `Paced at shares of the weakest peer's ${number(weakest)} round trips/s`;
  return { title, text: table(head, rows) };
}

function idle(tree) {
  if (!tree.idle) return null;
  const head = [
    'gateway',
    'bytes a connection',
    ...Object.values(AGAINST).map((other) => `of ${other}`),
    'process MB',
    'connections',
  ];
  const rows = Object.entries(tree.idle).map(([name, one]) => [
    labelOf(name),
    spread(one.perConnection),
    ...ratios(tree, 'idle', 'perConnection', name),
    number(one.rss.median / 1e6),
    number(one.connections.median),
  ]);
  const title =
    'Resident memory of an idle connection, after a message each way';
  return { title, text: table(head, rows) };
}

function workers(tree) {
  if (!tree.workers) return null;
  const others = ['amqplib', 'legacy', 'worker'];
  const head = [
    'worker',
    'CPU us a message, saturated',
    ...['amqplib', 'original', 'limit'].map((other) => `of ${other}`),
    'a second',
    'CPU us, 2,000/s',
  ];
  const rows = Object.entries(tree.workers).map(([name, one]) => [
    WORKERS[name].label,
    spread(one.workerCpu),
    ...ratios(tree, 'workers', 'workerCpu', name, others),
    spread(one.rate),
    spread(tree.workersPaced?.[name]?.workerCpu),
  ]);
  return {
    title: 'Echo workers, behind the limit gateway',
    text: table(head, rows),
  };
}

function growth(tree, part, title, name, scale = 1) {
  if (!tree[part]) return null;
  const values = Object.keys(Object.values(tree[part])[0]);
  const head = ['gateway', ...values.map((value) => number(Number(value)))];
  const rows = Object.entries(tree[part]).map(([who, one]) => [
    labelOf(who),
    ...values.map((value) => spread(one[value]?.[name], scale)),
  ]);
  return { title, text: table(head, rows) };
}

/** The first look, the last of each kind, and some on the way. */
function endurance(looks) {
  if (!looks) return null;
  const head = ['handshakes', 'messages', 'gateway MB', 'worker MB'];
  const every = Math.ceil(looks.length / 10);
  const rows = looks
    .filter((_, index) => index % every === 0 || index === looks.length - 1)
    .map(({ connections, messages, gateway, worker }) => [
      connections.toLocaleString('en-US'),
      messages.toLocaleString('en-US'),
      number(gateway / 1e6),
      number(worker / 1e6),
    ]);
  const title = 'Resident memory in the long run, after garbage collection';
  return { title, text: table(head, rows) };
}

function goals(tree) {
  const found = targets(tree);
  if (found.length === 0) return null;
  const head = ['what', 'who', 'against', 'ratio', 'wanted', ''];
  const rows = found.map(({ what, who, against, value, wanted, reached }) => [
    what,
    who,
    against,
    number(value),
    wanted,
    reached ? 'yes' : 'NO',
  ]);
  return { title: 'What message-engin must reach', text: table(head, rows) };
}

/**
 * @param {object} measured
 * @returns {{ title: string, text: string }[]}
 */
function tables({ tree, weakest, paced, endurance: looks }) {
  const cpu = 'gateway CPU us a round trip';
  return [
    costs(tree, 'saturated', 'Saturated'),
    costs(tree, 'paced', `Paced at ${number(paced)} round trips/s`),
    shares(tree, weakest),
    costs(tree, 'handshakes', 'Handshakes: connect, 101, close'),
    idle(tree),
    workers(tree),
    growth(tree, 'byConnections', `By connections: ${cpu}`, 'gatewayCpu'),
    growth(tree, 'byConnections', 'By connections: round trips/s', 'rate'),
    growth(tree, 'bySize', `By bytes in a message: ${cpu}`, 'gatewayCpu'),
    growth(tree, 'bySize', 'By bytes in a message: round trips/s', 'rate'),
    growth(
      tree,
      'byGateways',
      `By gateways: ${cpu}, all together`,
      'gatewayCpu',
    ),
    growth(tree, 'byGateways', 'By gateways: broker CPU us', 'brokerCpu'),
    growth(tree, 'byGateways', 'By gateways: round trips/s', 'rate'),
    endurance(looks),
    goals(tree),
  ].filter(Boolean);
}

module.exports = { tables };
