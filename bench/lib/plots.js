'use strict';

const { number } = require('./format');
const { bars, lines } = require('./plot');
const { GATEWAYS, WORKERS } = require('./variants');

/** A bar for each of a part's variants that has this number. */
function barsOf(part, name, variants = GATEWAYS) {
  return Object.entries(part ?? {})
    .filter(([, one]) => one[name])
    .map(([who, one]) => {
      const { label, color } = variants[who];
      return { label, color, summary: one[name] };
    });
}

/** A line for each of a part's variants. */
function linesOf(part, name) {
  return Object.entries(part ?? {})
    .map(([who, one]) => {
      const { label, color } = GATEWAYS[who];
      const points = Object.entries(one)
        .filter(([, at]) => at[name])
        .map(([x, at]) => ({ x: Number(x), summary: at[name] }));
      return { label, color, points };
    })
    .filter(({ points }) => points.length > 0);
}

/**
 * @param {object} measured
 * @returns {Record<string, string>} SVG by name
 */
function plots({ tree, paced, weakest }) {
  const found = {};
  const addBars = (name, title, subtitle, groups) => {
    const full = groups.filter((group) => group.bars.length > 0);
    if (full.length > 0) found[name] = bars({ title, subtitle, groups: full });
  };
  const addLines = (name, plot) => {
    if (plot.series.length > 0) found[name] = lines(plot);
  };
  const less = 'less is better; whiskers show the best and the worst round';
  const more = 'more is better; whiskers show the worst and the best round';

  addBars(
    'cpu',
    'CPU of the gateway for a round trip',
    `microseconds, ${less}`,
    [
      { name: 'saturated', bars: barsOf(tree.saturated, 'gatewayCpu') },
      {
        name: `${number(paced)} round trips/s`,
        bars: barsOf(tree.paced, 'gatewayCpu'),
      },
    ],
  );
  addBars('rate', 'Round trips a second', `saturated, ${more}`, [
    { bars: barsOf(tree.saturated, 'rate') },
  ]);
  addBars('handshakes', 'Handshakes a second', `connect, 101, close; ${more}`, [
    { bars: barsOf(tree.handshakes, 'rate') },
  ]);
  addBars(
    'memory',
    'Memory of an idle connection',
    `resident bytes after a message each way, ${less}`,
    [{ bars: barsOf(tree.idle, 'perConnection') }],
  );
  addBars(
    'workers',
    'CPU of the worker for a message',
    `microseconds, ${less}`,
    [
      { name: 'saturated', bars: barsOf(tree.workers, 'workerCpu', WORKERS) },
      {
        name: `${number(paced)} messages/s`,
        bars: barsOf(tree.workersPaced, 'workerCpu', WORKERS),
      },
    ],
  );
  for (const quantile of ['p50', 'p99', 'p999']) {
    const name = { p50: 'p50', p99: 'p99', p999: 'p99.9' }[quantile];
    addLines(`latency-${quantile}`, {
      title: `Latency: ${name}`,
      subtitle:
        'milliseconds from when a message was to be sent, less is better',
      xLabel: `rate, as a share of the weakest peer's ${number(weakest)} round trips/s`,
      xName: (x) => `${x} %`,
      logX: false,
      series: linesOf(tree.shares, quantile),
    });
  }
  const cpu = 'CPU of the gateway for a round trip';
  const us = 'microseconds, saturated, less is better';
  addLines('growth-connections', {
    title: `${cpu}, by connections`,
    subtitle: us,
    xLabel: 'connections',
    series: linesOf(tree.byConnections, 'gatewayCpu'),
  });
  addLines('growth-size', {
    title: `${cpu}, by size`,
    subtitle: us,
    xLabel: 'bytes in a message',
    xName: (x) => (x < 1024 ? `${x}` : `${x / 1024} Ki`),
    series: linesOf(tree.bySize, 'gatewayCpu'),
  });
  addLines('growth-gateways', {
    title: `${cpu}, by gateways`,
    subtitle: `${us}; all gateways together`,
    xLabel: 'gateways, each of which gets every message of a worker',
    logX: false,
    series: linesOf(tree.byGateways, 'gatewayCpu'),
  });
  return found;
}

module.exports = { plots };
