'use strict';

const { chromium } = require('playwright-core');
const { which } = require('../../scripts/lib/project');

// It must neither ask the network for anything nor need a user's session.
const FLAGS = [
  '--headless',
  '--no-sandbox',
  '--disable-gpu',
  '--disable-quic',
  '--no-first-run',
  '--disable-background-networking',
  '--disable-component-update',
  '--disable-sync',
];

/** In ms: so long that only a fault reaches it. */
const PATIENCE = 90_000;

/**
 * The system's Chromium, which ends with the test.
 *
 * @param {import('ava').ExecutionContext} t
 */
async function launchChromium(t) {
  const executablePath = which('chromium');
  if (!executablePath) {
    throw new Error(
      'This test needs Chromium: install it so that `chromium` is on PATH (Debian: apt-get install chromium).',
    );
  }
  const browser = await chromium.launch({
    executablePath,
    args: FLAGS,
    timeout: PATIENCE,
  });
  t.teardown(() => browser.close());

  /**
   * A tab, the errors that happen in it, and what it asks for.
   *
   * @param {string} url
   */
  async function open(url) {
    const page = await browser.newPage();
    page.setDefaultTimeout(PATIENCE);
    const problems = [];
    const requests = [];
    page.on('pageerror', (error) => problems.push(error.message));
    page.on('request', (request) => requests.push(request.url()));
    await page.goto(url);
    return { page, problems, requests };
  }

  return { open };
}

module.exports = { launchChromium };
