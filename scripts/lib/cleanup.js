'use strict';

const SIGNALS = /** @type {const} */ ({ SIGHUP: 1, SIGINT: 2, SIGTERM: 15 });

/** @type {Set<() => void>} */
const pending = new Set();

function runAll() {
  for (const cleanup of [...pending].reverse()) {
    pending.delete(cleanup);
    try {
      cleanup();
    } catch (error) {
      console.error(`clean-up failed: ${/** @type {Error} */ (error).message}`);
    }
  }
}

// Without a listener, a signal ends Node at once, and there is no 'exit' event.
const listeners = Object.entries(SIGNALS).map(([signal, number]) => ({
  signal,
  exit: () => process.exit(128 + number),
}));

/** Takes the signals, or gives them back to whoever else is in this process. */
function listen(/** @type {'on' | 'off'} */ verb) {
  process[verb]('exit', runAll);
  for (const { signal, exit } of listeners) process[verb](signal, exit);
}

/**
 * Has something undone when this process ends, whichever way it ends: nothing
 * asynchronous runs any more then.
 *
 * @param {() => void} cleanup
 * @returns {() => void} takes it back
 */
function onExit(cleanup) {
  if (pending.size === 0) listen('on');
  pending.add(cleanup);
  return () => {
    if (pending.delete(cleanup) && pending.size === 0) listen('off');
  };
}

module.exports = { onExit };
