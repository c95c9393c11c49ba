'use strict';

/** Three digits that count, with commas between thousands. */
function number(value) {
  if (value === null || value === undefined) return '-';
  const digits =
    value === 0 ? 0 : Math.max(0, 2 - Math.floor(Math.log10(Math.abs(value))));
  return value.toLocaleString('en-US', {
    maximumFractionDigits: Math.min(digits, 3),
  });
}

/**
 * The median, and from where to where the rounds went.
 *
 * @param {import('./stats').Summary | null | undefined} summary
 * @param {number} [scale]
 */
function spread(summary, scale = 1) {
  if (!summary) return '-';
  const { median, min, max, rounds } = summary;
  const middle = number(median * scale);
  if (rounds < 2) return middle;
  return `${middle} (${number(min * scale)} to ${number(max * scale)})`;
}

/**
 * A table of Markdown that can be read as it is: the first column to the left,
 * the others to the right.
 *
 * @param {string[]} head
 * @param {string[][]} rows
 */
function table(head, rows) {
  const widths = head.map((_, column) =>
    Math.max(3, ...[head, ...rows].map((row) => row[column].length)),
  );
  const line = (cells) =>
    `| ${cells
      .map((cell, column) =>
        column ? cell.padStart(widths[column]) : cell.padEnd(widths[column]),
      )
      .join(' | ')} |`;
  const rule = widths.map((width, column) =>
    column ? `${'-'.repeat(width - 1)}:` : '-'.repeat(width),
  );
  return [line(head), line(rule), ...rows.map(line)].join('\n');
}

module.exports = { number, spread, table };
