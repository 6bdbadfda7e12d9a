// socket.io-client as the web client of the Express backend uses it: io(url, {auth: {token}}) and
// the same event names. Then what the Express backend did not have: resume.
'use strict';
const { io } = require('socket.io-client');
const { config, next, ask, say, run } = require('./lib.js');
const [first, second] = config.realtime;

const open = (url, options = {}) => io(url, { auth: { token: config.token }, forceNew: true, ...options });
const contents = (events) => events.map((e) => e.message.content);

/** Creates `count` messages and returns the events up to the last of them. */
async function burst(socket, name, count) {
  const seen = [];
  const look = (event) => seen.push(event);
  socket.on('message:new', look);
  const last = next(socket, 'message:new', (e) => e.message.content === `${name} ${count}`);
  for (let n = 1; n <= count; n += 1) await say(`${name} ${n}`);
  await last;
  socket.off('message:new', look);
  return seen;
}

run(async (report) => {
  // The library's default: polling first, then an upgrade to a WebSocket. The socket is in the
  // company's room without a join.
  const socket = open(first);
  socket.io.once('open', () => { report.began = socket.io.engine.transport.name; });
  await next(socket, 'connect');
  report.id = socket.id;
  if (socket.io.engine.transport.name === 'polling') await next(socket.io.engine, 'upgrade');
  report.became = socket.io.engine.transport.name;
  const [event] = await burst(socket, 'room', 1);
  report.message = event;

  // Join by object and by plain id. Typing reaches other sockets in the room and not its sender.
  const other = open(second, { transports: ['websocket'] });
  await next(other, 'connect');
  report.joined = await ask(socket, 'conversation:join', { conversationId: config.contact });
  report.joinedByText = await ask(other, 'conversation:join', config.contact);
  let back = 0;
  socket.on('typing:indicator', () => { back += 1; });
  const typing = next(other, 'typing:indicator');
  socket.emit('typing:start', { conversationId: config.contact });
  report.typing = await typing;
  const stopped = next(other, 'typing:indicator', (e) => !e.isTyping);
  report.stopped = [await ask(socket, 'typing:stop', config.contact), await stopped];
  report.typingCameBack = back;
  report.left = await ask(other, 'conversation:leave', { conversationId: config.contact });

  // A read, which a colleague's socket sees.
  const status = next(other, 'message:status', (e) => e.status === 'read');
  report.read = await ask(socket, 'message:read', { conversationId: config.contact });
  report.status = await status;

  // Unknown events are answered by the callback, or by an event `error` without a callback.
  report.unknown = await ask(socket, 'no:such', {});
  report.malformed = await ask(socket, 'conversation:join', { conversationId: 'x' });
  const error = next(socket, 'error');
  socket.emit('no:such');
  report.error = await error;

  report.order = contents(await burst(other, 'order', 30));
  other.disconnect();

  // The connection breaks and messages arrive. The client reconnects by itself with `last_seq`.
  let lastSeq = 0;
  const seen = [];
  const resuming = open(first, { auth: (give) => give({ token: config.token, ...(lastSeq && { last_seq: lastSeq }) }), reconnectionDelay: 1500 });
  resuming.on('message:new', (e) => {
    lastSeq = e.seq;
    seen.push(e);
  });
  await next(resuming, 'connect');
  await burst(resuming, 'before', 2);
  const gone = next(resuming, 'disconnect');
  const again = next(resuming, 'connect');
  resuming.io.engine.close();
  await gone;
  await say('missed 1');
  await say('missed 2');
  await again;
  await burst(resuming, 'after', 1);
  report.resumed = contents(seen);
  resuming.disconnect();

  // The same on another node, over polling alone.
  const polling = open(second, { transports: ['polling'], auth: { token: config.token, last_seq: seen[1].seq } });
  const caught = [];
  polling.on('message:new', (e) => caught.push(e));
  const end = next(polling, 'message:new', (e) => e.message.content === 'after 1');
  await next(polling, 'connect');
  await end;
  report.polled = contents(caught);
  report.pollingJoined = await ask(polling, 'conversation:join', { conversationId: config.contact });
  const indicator = next(polling, 'typing:indicator');
  socket.emit('typing:start', { conversationId: config.contact });
  report.pollingTyping = await indicator;
  report.pollingOrder = contents(await burst(polling, 'polling', 10));
  report.pollingTransport = polling.io.engine.transport.name;
  polling.disconnect();

  // The token in the other places from which it is taken.
  const authorization = `Bearer ${config.token}`;
  report.tokens = [];
  for (const options of [
    { auth: { token: authorization } },
    { query: { token: config.token } },
    { extraHeaders: { authorization } },
    { extraHeaders: { authorization }, transports: ['websocket'] },
    { protocols: ['bearer', config.token], transports: ['websocket'] },
  ]) {
    const client = open(first, { auth: {}, ...options });
    await next(client, 'connect');
    report.tokens.push(client.connected);
    client.disconnect();
  }

  // A refused client is told the reason.
  const refused = async (auth, url = first) => {
    const socket = open(url, { auth });
    const error = await next(socket, 'connect_error');
    socket.disconnect();
    return { message: error.message, data: error.data };
  };
  report.refused = {
    bad: await refused({ token: 'bad' }),
    none: await refused({}),
    expired: await refused({ token: config.expired }),
    auth: await refused({ token: 7 }),
    namespace: await refused({ token: config.token }, `${first}/admin`),
  };

  const left = next(socket, 'disconnect');
  socket.disconnect();
  report.disconnected = await left;

  // A client with too many violations is told, disconnected, and does not reconnect by itself.
  const rude = open(first, { transports: ['websocket'] });
  await next(rude, 'connect');
  const [closing, thrown] = [next(rude, 'closing'), next(rude, 'disconnect')];
  for (let n = 0; n < 400; n += 1) rude.emit('conversation:join', {});
  report.thrown = { closing: await closing, reason: await thrown, active: rude.active };
});
