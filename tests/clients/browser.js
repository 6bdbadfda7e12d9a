// A page in Chromium with an origin of its own: its WebSocket on /ws, and socket.io-client over
// polling and over WebSocket. So the headers that browsers add (Origin, CORS) are tested.
'use strict';
const fs = require('node:fs');
const http = require('node:http');
const path = require('node:path');
const { chromium } = require('playwright-core');
const sparticuz = require('@sparticuz/chromium');
const { config, within, say, run } = require('./lib.js');

const binary = sparticuz.default ?? sparticuz;
const library = path.join(path.dirname(require.resolve('socket.io-client/package.json')), 'dist/socket.io.min.js');

/** Runs in the page: opens sockets and records what they receive. */
function inPage() {
  window.frames_ = [];
  window.openSocket = (address, protocols) => new Promise((resolve, reject) => {
    window.socket = new WebSocket(address, protocols);
    socket.onopen = () => resolve();
    socket.onerror = () => reject(new Error('no socket'));
    socket.onmessage = (e) => frames_.push(JSON.parse(e.data));
    socket.onclose = (e) => { window.ended = { code: e.code, clean: e.wasClean }; };
  });
  window.openClient = (url, auth, transports) => new Promise((resolve, reject) => {
    const client = io(url, { auth, transports, forceNew: true });
    const seen = [];
    client.on('message:new', (e) => seen.push(e.message.content));
    client.on('connect', () => resolve());
    client.on('connect_error', (e) => reject(new Error(`${e.message} ${JSON.stringify(e.data)}`)));
    (window.clients ??= []).push({ client, seen });
  });
}

run(async (report) => {
  const [first] = config.realtime;
  const pages = http.createServer((_, answer) => answer.setHeader('content-type', 'text/html').end('<!doctype html><title>staff</title>'));
  await new Promise((resolve) => pages.listen(0, '127.0.0.1', resolve));
  const browser = await within('Chromium', chromium.launch({
    executablePath: await binary.executablePath(), args: binary.args, headless: true,
  }));
  try {
    const page = await browser.newPage();
    page.setDefaultTimeout(20_000);
    await page.goto(`http://127.0.0.1:${pages.address().port}/`);
    report.browser = await page.evaluate(() => navigator.userAgent);
    report.origin = await page.evaluate(() => location.origin);
    await page.evaluate(inPage);
    await page.addScriptTag({ content: fs.readFileSync(library, 'utf8') });

    await page.evaluate(([address, protocols]) => openSocket(address, protocols), [`${first.replace('http', 'ws')}/ws`, ['bearer', config.token]]);
    report.protocol = await page.evaluate(() => socket.protocol);
    await page.evaluate(([url, auth]) => openClient(url, auth, ['polling']), [first, { token: config.token }]);
    await page.evaluate(([url, auth]) => openClient(url, auth, ['websocket']), [first, { token: config.token }]);
    await say('to the page 1');
    await say('to the page 2');
    await page.waitForFunction(() => frames_.filter((f) => f.event === 'message:new').length === 2 && clients.every((c) => c.seen.length === 2));
    report.frames = await page.evaluate(() => frames_.filter((f) => f.event === 'message:new').map((f) => f.data.message.content));
    report.clients = await page.evaluate(() => clients.map((c) => [c.client.io.engine.transport.name, c.seen]));
    await page.evaluate((contact) => socket.send(JSON.stringify({ event: 'message:read', data: { conversationId: contact }, id: 'r' })), config.contact);
    await page.waitForFunction(() => frames_.some((f) => f.id === 'r'));
    report.read = await page.evaluate(() => frames_.find((f) => f.id === 'r'));
    report.asked = await page.evaluate((contact) => new Promise((resolve) => clients[0].client.emit('conversation:join', contact, resolve)), config.contact);
    await page.evaluate(() => socket.close());
    await page.waitForFunction(() => window.ended);
    report.closed = await page.evaluate(() => window.ended);
    report.refused = await page.evaluate((url) => openClient(url, { token: 'bad' }).catch((e) => e.message), first);
  } finally {
    await browser.close();
    pages.close();
  }
});
