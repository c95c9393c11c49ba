'use strict';

// Plots as SVG, made by hand: bars that lie, and lines over logarithmic axes.
// They have no background, and follow a reader who prefers dark.

const { number } = require('./format');

const WIDTH = 760;
const FONT =
  "ui-sans-serif, system-ui, -apple-system, 'Segoe UI', Roboto, sans-serif";
// Of a digit at 12 px, about.
const CHAR = 6.6;

const escape = (text) =>
  String(text).replace(/[&<>"]/g, (char) => `&#${char.charCodeAt(0)};`);
const px = (value) => Number(value.toFixed(1));

function text(x, y, content, { anchor = 'start', type = '' } = {}) {
  const kind = type ? ` class="${type}"` : '';
  return `<text x="${px(x)}" y="${px(y)}" text-anchor="${anchor}"${kind}>${escape(content)}</text>`;
}

/** @param {number} height */
function picture(title, subtitle, height, parts) {
  return `<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 ${WIDTH} ${height}" width="${WIDTH}" height="${height}" role="img" aria-label="${escape(title)}">
<style>
text { font: 12px ${FONT}; fill: #1f2328; }
.title { font-size: 16px; font-weight: 600; }
.soft { fill: #656d76; }
.line { stroke: #d1d9e0; stroke-width: 1; }
.whisker { stroke: #1f2328; stroke-width: 1; opacity: 0.55; }
@media (prefers-color-scheme: dark) {
text { fill: #e6edf3; }
.soft { fill: #9198a1; }
.line { stroke: #3d444d; }
.whisker { stroke: #e6edf3; }
}
</style>
${text(16, 26, title, { type: 'title' })}
${text(16, 46, subtitle, { type: 'soft' })}
${parts.join('\n')}
</svg>
`;
}

/**
 * @typedef {object} Bar
 * @property {string} label
 * @property {string} color
 * @property {import('./stats').Summary} summary
 *
 * @typedef {object} Group
 * @property {string} [name]
 * @property {Bar[]} bars
 *
 * @param {object} plot
 * @param {string} plot.title
 * @param {string} plot.subtitle
 * @param {Group[]} plot.groups each has a scale of its own
 * @param {number} [plot.scale] what values are multiplied with
 */
function bars({ title, subtitle, groups, scale = 1 }) {
  const labels = groups.flatMap((group) => group.bars.map((bar) => bar.label));
  const left = 24 + Math.max(...labels.map((label) => label.length)) * CHAR;
  const room = WIDTH - left - 90;
  const parts = [];
  let y = 62;
  for (const { name, bars: list } of groups) {
    const most = Math.max(...list.map(({ summary }) => summary.max)) * scale;
    const long = (value) => Math.max(1, (value * scale * room) / most);
    if (name) {
      y += 14;
      parts.push(text(16, y, name, { type: 'soft' }));
      y += 8;
    }
    for (const { label, color, summary } of list) {
      const { median, min, max, rounds } = summary;
      const end = left + long(median);
      parts.push(
        text(left - 8, y + 15, label, { anchor: 'end' }),
        `<rect x="${px(left)}" y="${y + 2}" width="${px(long(median))}" height="18" rx="3" fill="${color}"/>`,
      );
      let right = end;
      if (rounds > 1) {
        right = left + long(max);
        const from = px(left + long(min));
        parts.push(
          `<path d="M${from} ${y + 7}v8M${from} ${y + 11}H${px(right)}M${px(right)} ${y + 7}v8" class="whisker" fill="none"/>`,
        );
      }
      parts.push(text(right + 8, y + 15, number(median * scale)));
      y += 26;
    }
    y += 6;
  }
  return picture(title, subtitle, y + 8, parts);
}

/** Powers of ten, with 2 and 5 between them where there are few. */
function ticks(from, to) {
  const decades = Math.log10(to / from);
  const steps = decades > 2.5 ? [1] : [1, 2, 5];
  const found = [];
  for (let power = -4; power <= 8; power += 1) {
    for (const digit of steps) {
      const value = digit * 10 ** power;
      if (value >= from / 1.0001 && value <= to * 1.0001) found.push(value);
    }
  }
  return found;
}

/** Moves labels apart that would lie over each other. */
function apart(ends, distance) {
  const sorted = [...ends].sort((a, b) => a.y - b.y);
  for (let pass = 0; pass < 20; pass += 1) {
    for (let index = 1; index < sorted.length; index += 1) {
      const [above, below] = [sorted[index - 1], sorted[index]];
      const short = distance - (below.y - above.y);
      if (short > 0) {
        above.y -= short / 2;
        below.y += short / 2;
      }
    }
  }
}

/**
 * @typedef {object} Series
 * @property {string} label
 * @property {string} color
 * @property {{ x: number, summary: import('./stats').Summary }[]} points
 *
 * @param {object} plot
 * @param {string} plot.title
 * @param {string} plot.subtitle
 * @param {string} plot.xLabel
 * @param {Series[]} plot.series
 * @param {(x: number) => string} [plot.xName]
 * @param {boolean} [plot.logX]
 */
function lines({
  title,
  subtitle,
  xLabel,
  series,
  xName = number,
  logX = true,
}) {
  const all = series.flatMap(({ points }) => points);
  const xs = [...new Set(all.map(({ x }) => x))].sort((a, b) => a - b);
  const low = Math.min(...all.map(({ summary }) => summary.min)) / 1.25;
  const high = Math.max(...all.map(({ summary }) => summary.max)) * 1.25;
  const labels = series.map(({ label }) => label.length);
  const [left, right] = [64, WIDTH - 24 - Math.max(...labels) * CHAR];
  const [top, bottom] = [66, 330];
  const xOf = (value) => {
    const at = logX ? Math.log(value) : value;
    const [first, last] = [xs[0], xs[xs.length - 1]].map((x) =>
      logX ? Math.log(x) : x,
    );
    const share = last === first ? 0.5 : (at - first) / (last - first);
    return left + 12 + share * (right - left - 24);
  };
  const yOf = (value) =>
    bottom - (Math.log(value / low) / Math.log(high / low)) * (bottom - top);
  const parts = [];
  for (const value of ticks(low, high)) {
    const y = px(yOf(value));
    parts.push(
      `<path d="M${left} ${y}H${px(right)}" class="line"/>`,
      text(left - 8, y + 4, number(value), { anchor: 'end', type: 'soft' }),
    );
  }
  for (const x of xs) {
    const label = { anchor: 'middle', type: 'soft' };
    parts.push(text(xOf(x), bottom + 20, xName(x), label));
  }
  const middle = { anchor: 'middle', type: 'soft' };
  parts.push(text((left + right) / 2, bottom + 42, xLabel, middle));
  const ends = [];
  for (const { label, color, points } of series) {
    const at = points.map(({ x, summary }) => [
      px(xOf(x)),
      px(yOf(summary.median)),
      summary,
    ]);
    const path = at.map(([x, y]) => `${x} ${y}`).join('L');
    parts.push(
      `<path d="M${path}" fill="none" stroke="${color}" stroke-width="2" stroke-linejoin="round"/>`,
    );
    for (const [x, y, { min, max, rounds }] of at) {
      if (rounds > 1) {
        parts.push(
          `<path d="M${x} ${px(yOf(min))}V${px(yOf(max))}" stroke="${color}" stroke-width="1" opacity="0.5"/>`,
        );
      }
      parts.push(`<circle cx="${x}" cy="${y}" r="3.5" fill="${color}"/>`);
    }
    const last = at[at.length - 1];
    ends.push({ x: last[0], y: last[1], label, color });
  }
  apart(ends, 15);
  for (const { y, label, color } of ends) {
    parts.push(
      `<text x="${px(right + 8)}" y="${px(y + 4)}" style="fill:${color}">${escape(label)}</text>`,
    );
  }
  return picture(title, subtitle, bottom + 58, parts);
}

module.exports = { bars, lines };
