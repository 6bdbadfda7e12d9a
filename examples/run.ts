// Runs one of the clients and prints what it sees, a line for each event: `run.js ws` or
// `run.js socketio`. Settings come from the environment (README.md).

import type { Company } from "./company.js";
import * as socketio from "./socketio-client.js";
import * as ws from "./ws-client.js";

const { GATEWAY = "http://127.0.0.1:4000", REALTIME = "http://127.0.0.1:4001" } = process.env;
const { TOKEN, CONVERSATION } = process.env;
if (!TOKEN) throw new Error("TOKEN must be an access token");

const company: Company = {
  realtime: REALTIME,
  conversations: CONVERSATION ? [CONVERSATION] : [],
  // A page would get a new one here, with its refresh token, where this one is about to expire.
  token: async () => TOKEN,
  fetchLists: async () => {
    const headers = { authorization: `Bearer ${TOKEN}` };
    const answer = await fetch(`${GATEWAY}/api/v1/conversations`, { headers });
    if (!answer.ok) throw new Error(`${answer.status} ${await answer.text()}`);
    const list = (await answer.json()) as { contacts: unknown[]; as_of_seq: number };
    console.log(`${list.contacts.length} conversations as of ${list.as_of_seq}`);
    return list.as_of_seq;
  },
  onEvent: (event, data) => console.log(event, JSON.stringify(data)),
  onEnd: (code, reason) => {
    console.error(`closed for good: ${code} ${reason}`);
    process.exitCode = 1;
  },
};

switch (process.argv[2]) {
  case "ws":
    ws.follow(company);
    break;
  case "socketio":
    await socketio.follow(company);
    break;
  default:
    throw new Error("ws or socketio?");
}
