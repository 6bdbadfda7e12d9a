// socket.io-client as the old web client uses it: io(url, {auth: {token}}) and the old event names, then what is new.
'use strict';
const { io } = require('socket.io-client');
const { config, next, ask, say, run } = require('./lib.js');
const [first, second] = config.realtime;

const open = (url, options = {}) => io(url, { auth: { token: config.token }, forceNew: true, ...options });
const contents = (events) => events.map((e) => e.message.content);

/** Posts so many and waits until the socket has seen the last; what it saw. */
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
  // As the library comes: polling first, then it changes to a WebSocket. In the company's room without asking.
  const socket = open(first);
  socket.io.once('open', () => { report.began = socket.io.engine.transport.name; });
  await next(socket, 'connect');
  report.id = socket.id;
  if (socket.io.engine.transport.name === 'polling') await next(socket.io.engine, 'upgrade');
  report.became = socket.io.engine.transport.name;
  const [event] = await burst(socket, 'room', 1);
  report.message = event;

  // Joining, by the object and by the plain id; typing reaches those who joined and does not come back.
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

  // Reading, seen by the colleague.
  const status = next(other, 'message:status', (e) => e.status === 'read');
  report.read = await ask(socket, 'message:read', { conversationId: config.contact });
  report.status = await status;

  // What is not understood is said, to the callback or as an event.
  report.unknown = await ask(socket, 'no:such', {});
  report.malformed = await ask(socket, 'conversation:join', { conversationId: 'x' });
  const error = next(socket, 'error');
  socket.emit('no:such');
  report.error = await error;

  report.order = contents(await burst(other, 'order', 30));
  other.disconnect();

  // The connection breaks; meanwhile there are messages. The client comes back by itself and names what it has.
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

  // Who does not get in is told why.
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
    auth: await refused({ token: config.token, last_seq: 'yesterday' }),
    namespace: await refused({ token: config.token }, `${first}/admin`),
  };

  const left = next(socket, 'disconnect');
  socket.disconnect();
  report.disconnected = await left;

  // Who cannot behave is told so, thrown out, and does not come back by itself.
  const rude = open(first, { transports: ['websocket'] });
  await next(rude, 'connect');
  const [closing, thrown] = [next(rude, 'closing'), next(rude, 'disconnect')];
  for (let n = 0; n < 400; n += 1) rude.emit('no:such');
  report.thrown = { closing: await closing, reason: await thrown, active: rude.active };
});
