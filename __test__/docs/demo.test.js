'use strict';

// The demo as people use it: two tabs of one browser, messages and statuses in
// both, and an orderly end.

const { once } = require('node:events');
const net = require('node:net');
const test = require('ava');
const { launchChromium } = require('../support/chromium');
const { run } = require('../support/children');
const { Peer } = require('../support/peers');
const { until } = require('../support/until');

/** @param {import('ava').ExecutionContext} t */
async function startDemo(t) {
  const demo = run(t, '../../examples/demo/server.js', { PORT: 0 });
  const [, url] = await demo.prints(/^Open (http:\S+) in two tabs/);
  return { demo, url };
}

/**
 * A way to the demo that can be cut.
 *
 * @param {import('ava').ExecutionContext} t
 * @param {string} url
 */
async function detour(t, url) {
  const { hostname, port } = new URL(url);
  const sockets = new Set();
  const cut = () => sockets.forEach((socket) => socket.destroy());
  const proxy = net.createServer((near) => {
    const far = net.connect(Number(port), hostname);
    near.pipe(far).pipe(near);
    for (const [one, other] of [
      [near, far],
      [far, near],
    ]) {
      sockets.add(one);
      one.on('error', () => {});
      one.on('close', () => {
        sockets.delete(one);
        other.destroy();
      });
    }
  });
  proxy.listen(0, '127.0.0.1');
  await once(proxy, 'listening');
  t.teardown(() => {
    proxy.close();
    cut();
  });
  return { cut, url: `http://127.0.0.1:${proxy.address().port}` };
}

/** @param {import('playwright-core').Page} page */
function chat(page) {
  return {
    sees: (text) => page.getByText(text, { exact: true }).first().waitFor(),
    says: async (text) => {
      await page.fill('#text', text);
      await page.click('#send');
    },
    /** Texts of the messages of others, or of one's own. */
    messages: (own) =>
      page
        .locator(own ? '.message.own p' : '.message:not(.own) p')
        .allTextContents(),
    roundTrips: () => page.locator('.message.own .trip').allTextContents(),
    choose: (name) => page.click(`#people button[data-name="${name}"]`),
  };
}

test('messages and statuses in two tabs, and Ctrl-C', async (t) => {
  const { demo, url } = await startDemo(t);
  const browser = await launchChromium(t);
  const tabs = [await browser.open(`${url}/?name=Ada`)];
  const ada = chat(tabs[0].page);
  await ada.sees('You are Ada. Also here: nobody yet');
  // The second one has a name given to it.
  tabs.push(await browser.open(url));
  const heron = chat(tabs[1].page);
  await heron.sees('Connected');
  const name = await tabs[1].page.inputValue('#name');
  t.is(new URL(tabs[1].page.url()).searchParams.get('name'), name);
  await heron.sees(`You are ${name}. Also here: Ada`);
  await ada.sees(`${name} came`);

  const texts = ['hello', '<b>bold?</b> <img src=x onerror=alert(1)>', '☃ ü'];
  for (const text of texts) await ada.says(text);
  await heron.sees(texts[2]);
  t.deepEqual(await heron.messages(), texts);
  t.deepEqual(await ada.messages('own'), texts);
  await until(async () => {
    const trips = await ada.roundTrips();
    return trips.length === 3 && trips.every((it) => /^\d+\.\d ms$/.test(it));
  });
  await heron.says('back to you');
  await ada.sees('back to you');

  await tabs[1].page.close();
  await ada.sees(`${name} left (1001)`);
  for (const { problems, requests } of tabs) {
    t.deepEqual(problems, []);
    t.deepEqual(
      requests.filter((it) => !it.startsWith(url) && it !== 'data:,'),
      [],
    );
  }

  demo.child.kill('SIGINT');
  t.deepEqual(await demo.end(), { code: 0, signal: null });
  t.is(demo.stderr, '');
});

test('a message to one reaches nobody else', async (t) => {
  const { url } = await startDemo(t);
  const browser = await launchChromium(t);
  const { page } = await browser.open(`${url}/?name=Ada`);
  const ada = chat(page);
  const grace = chat((await browser.open(`${url}/?name=Grace`)).page);
  // The name in a cookie does as well as the one in the query.
  const Cookie = 'name=Cy%20D';
  const peer = new Peer(`${url.replace('http', 'ws')}/socket`, {
    headers: { Cookie },
  });
  t.teardown(() => peer.terminate());
  await ada.sees('Cy D came');
  await ada.choose('Grace');
  await ada.says('for Grace');
  await grace.sees('for Grace');
  await grace.sees('Ada to you');
  await ada.choose('');
  await ada.says('for all');
  await grace.sees('for all');
  const told = () => peer.messages.map((text) => JSON.parse(text));
  await until(() => told().some(({ text }) => text === 'for all'));
  t.false(told().some(({ text }) => text === 'for Grace'));

  // Who has left stays chosen, and nothing goes to the others instead.
  await ada.choose('Cy D');
  await peer.close(1000);
  await ada.sees('Cy D left (1000)');
  await ada.says('too late');
  await ada.sees('Cy D is not here');
  t.deepEqual(await grace.messages(), ['for Grace', 'for all']);
});

test('a tab connects again, unless another one has its name', async (t) => {
  const { url } = await startDemo(t);
  const way = await detour(t, url);
  const browser = await launchChromium(t);
  const first = await browser.open(`${way.url}/?name=Ada`);
  const ada = chat(first.page);
  await ada.sees('You are Ada. Also here: nobody yet');
  const welcomes = first.page.getByText('You are Ada. Also here');
  way.cut();
  await until(async () => (await welcomes.count()) === 2);
  await ada.sees('Connected');

  const second = await browser.open(`${way.url}/?name=Ada`);
  await chat(second.page).sees('Connected');
  await ada.sees('Another tab is Ada now');
  await first.page.click('#retry');
  await ada.sees('Connected');
  await chat(second.page).sees('Another tab is Ada now');
  const state = ({ page }) => page.getAttribute('#state', 'data-state');
  t.deepEqual([await state(first), await state(second)], ['open', 'replaced']);
});

test('pages of other sites, and names that are none, are refused', async (t) => {
  const { url } = await startDemo(t);
  const socket = `${url.replace('http', 'ws')}/socket`;
  const refusal = (query, options) =>
    t.throwsAsync(new Peer(`${socket}?${query}`, options).opened);
  const foreign = await refusal('name=Eve', {
    origin: 'http://elsewhere.test',
  });
  t.regex(foreign.message, /403/);
  t.regex((await refusal('')).message, /404/);
  t.regex((await refusal(`name=${'x'.repeat(25)}`)).message, /404/);
});
