// Shared by the scripts: bounded waits, REST calls, and the report on the last line of the output,
// which the test reads.
'use strict';
const LIMIT_MS = 20_000;
const config = JSON.parse(process.env.CONFIG);

/** Rejects with `what` if `promise` is not settled within LIMIT_MS. */
function within(what, promise) {
  let timer;
  const limit = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(`not within ${LIMIT_MS} ms: ${what}`)), LIMIT_MS);
  });
  return Promise.race([promise, limit]).finally(() => clearTimeout(timer));
}

/** Waits for the next event `name` of an emitter that `wanted` accepts. */
function next(emitter, name, wanted = () => true) {
  return within(name, new Promise((resolve) => {
    const look = (...args) => {
      if (!wanted(...args)) return;
      emitter.off(name, look);
      resolve(args[0]);
    };
    emitter.on(name, look);
  }));
}

/** Emits an event with a callback and returns the callback's argument. */
function ask(socket, name, data) {
  return within(`the answer to ${name}`, new Promise((resolve) => socket.emit(name, data, resolve)));
}

/** Creates a customer's message and returns its sequence. */
async function say(content) {
  const body = { contact_id: config.contact, role: 'user', platform: 'facebook', direction: 'inbound', content };
  const answer = await fetch(`${config.gateway}/api/v1/messages`, {
    method: 'POST',
    headers: { authorization: `Bearer ${config.token}`, 'content-type': 'application/json' },
    body: JSON.stringify(body),
  });
  const text = await answer.text();
  if (answer.status !== 201) throw new Error(`${answer.status} ${text}`);
  return JSON.parse(text).seq;
}

/** Runs `main`, which fills the report, and prints the report. */
function run(main) {
  const report = {};
  main(report).then(
    () => {
      console.log(JSON.stringify(report));
      process.exit(0);
    },
    (error) => {
      console.error(error);
      console.error(`so far: ${JSON.stringify(report)}`);
      process.exit(1);
    },
  );
}

module.exports = { config, within, next, ask, say, run };
