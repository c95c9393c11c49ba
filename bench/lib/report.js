'use strict';

const fs = require('node:fs');
const path = require('node:path');
const { step } = require('../../scripts/lib/steps');
const { plots } = require('./plots');
const { bench } = require('./prepare');
const { tables } = require('./tables');

/** As the rest of the tree is formatted, where the formatter is installed. */
async function pretty(text, parser) {
  try {
    const { format } = require('prettier');
    return await format(text, { parser, singleQuote: true });
  } catch {
    return text;
  }
}

/** Enough digits for every use, and no more. */
function rounded(key, value) {
  return typeof value === 'number' ? Number(value.toPrecision(6)) : value;
}

/**
 * Writes the results, and prints the tables.
 *
 * @param {import('./options').Options} options
 * @param {object} machine
 * @param {any} measured
 */
async function report(options, machine, measured) {
  const { name, rounds, seconds, connections, inFlight } = options;
  const folder = path.join(bench, 'results');
  fs.mkdirSync(folder, { recursive: true });
  const write = async (file, text, parser) => {
    const full = path.join(folder, `${name}${file}`);
    fs.writeFileSync(full, parser ? await pretty(text, parser) : text);
  };

  const conditions = { rounds, seconds, connections, inFlight };
  const { tree, ...rest } = measured;
  const everything = { machine, conditions, ...rest, ...tree };
  await write('.json', JSON.stringify(everything, rounded, 2), 'json');
  const pictures = Object.entries(plots(measured));
  for (const [kind, svg] of pictures) await write(`-${kind}.svg`, svg);

  const { cpu, cores, memory, system, node, rabbitmq } = machine;
  const sections = [
    `${cores} cores of ${cpu}, ${memory}, ${system}, Node ${node}, RabbitMQ ${rabbitmq}; ${connections} connections, ${inFlight} messages in flight when saturated, ${rounds} rounds of ${seconds} s: medians, and from the least to the most.`,
    ...tables(measured).map(({ title, text }) => `## ${title}\n\n${text}`),
    ...(measured.notes.length > 0
      ? [`## Notes\n\n${measured.notes.map((note) => `- ${note}`).join('\n')}`]
      : []),
  ];
  const text = sections.join('\n\n');
  await write('.md', `# Results\n\n${text}\n`, 'markdown');
  console.log(`\n${text}\n`);
  step(`written: bench/results/${name}.json, .md and ${pictures.length} plots`);
}

module.exports = { report };
