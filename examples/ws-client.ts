// Follows a company over `/ws`: a plain WebSocket with JSON frames. It reconnects by itself and
// resumes without a gap.

import { fetchUpTo, type Company, type EventData } from "./company.js";

interface Frame {
  event: string;
  data: EventData;
}

/** Close codes after which a client must not come back by itself. */
const FOR_GOOD = [1002, 1007, 1009, 4003, 4009];
const FIRST_PAUSE_MS = 500;
const LONGEST_PAUSE_MS = 30_000;

/** Follows the company until the returned function is called. */
export function follow(company: Company): () => void {
  // The place in the log up to which everything has been seen.
  let cursor: number | undefined;
  let pause = 0;
  let stopped = false;
  let socket: WebSocket | undefined;

  async function connect() {
    if (stopped) return;
    try {
      cursor ??= await company.fetchLists();
      const token = await company.token();
      const address = `${company.realtime.replace(/^http/, "ws")}/ws?last_seq=${cursor}`;
      // Proxies log addresses, but not subprotocols.
      socket = new WebSocket(address, ["bearer", token]);
    } catch (error) {
      console.error("no connection:", error);
      connectLater();
      return;
    }
    listen(socket);
  }

  function connectLater(after?: number) {
    pause = Math.min(LONGEST_PAUSE_MS, pause * 2 || FIRST_PAUSE_MS);
    // A random part of the pause, so that the clients of a node that has stopped do not all
    // come back at once.
    setTimeout(connect, after ?? Math.random() * pause);
  }

  function listen(socket: WebSocket) {
    let reconnectAfter: number | undefined;

    socket.onmessage = ({ data: text }) => {
      const { event, data } = JSON.parse(text) as Frame;
      if (event === "ready") {
        pause = 0;
        // Rooms belong to a connection.
        for (const conversationId of company.conversations) {
          socket.send(JSON.stringify({ event: "conversation:join", data: { conversationId } }));
        }
      } else if (event === "server:closing") {
        reconnectAfter = Number(data["reconnect_after_ms"]);
      } else if (event === "resync") {
        // Too much was missed to be sent. What is newer than `seq` comes on this socket.
        void fetchUpTo(data.seq ?? 0, company);
      } else {
        company.onEvent(event, data);
      }
      // Events come in order. Only a `resync` may lead back: the log was begun anew. The `seq` of an
      // `ack` is no cursor: this socket may not have come there yet.
      if (event !== "ack" && data.seq !== undefined) cursor = data.seq;
    };

    socket.onclose = ({ code, reason }) => {
      if (stopped) return;
      if (FOR_GOOD.includes(code)) company.onEnd(code, reason);
      else connectLater(reconnectAfter);
    };
  }

  void connect();
  return () => {
    stopped = true;
    socket?.close();
  };
}
