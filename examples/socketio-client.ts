// Follows a company over `/socket.io/`, with the library that clients of the Express backend have.
// The library reconnects by itself; with `last_seq` it resumes without a gap.

import { io, type Socket } from "socket.io-client";
import { fetchUpTo, type Company, type EventData } from "./company.js";

interface Closing {
  code: number;
  reason: string;
  reconnect: boolean;
}

/** The pause after a refusal, such as that of an expired token. */
const AFTER_REFUSAL_MS = 5_000;

/** Follows the company. The socket can send events, and `disconnect()` ends it. */
export async function follow(company: Company): Promise<Socket> {
  // The place in the log up to which everything has been seen.
  let cursor = await company.fetchLists();

  const socket = io(company.realtime, {
    // A function, so that a reconnect takes the token and the cursor of that moment.
    auth: async (give) => {
      try {
        give({ token: await company.token(), last_seq: cursor });
      } catch (error) {
        console.error("no token:", error);
        give({});
      }
    },
  });

  socket.on("connect", async () => {
    // Rooms belong to a connection.
    for (const conversationId of company.conversations) {
      const answer = await socket.emitWithAck("conversation:join", { conversationId });
      if (!answer.ok) console.error("conversation:join:", answer.code, answer.message);
    }
  });

  socket.onAny((event: string, data: EventData) => {
    if (event === "resync") {
      // Too much was missed to be sent. What is newer than `seq` comes on this socket.
      void fetchUpTo(data.seq ?? 0, company);
    } else if (event !== "ready" && event !== "closing") {
      company.onEvent(event, data);
    }
    // Events come in order. Only a `resync` may lead back: the log was begun anew.
    if (data.seq !== undefined) cursor = data.seq;
  });

  socket.on("closing", ({ code, reason, reconnect }: Closing) => {
    if (!reconnect) company.onEnd(code, reason);
  });

  socket.on("connect_error", (error: Error & { data?: { code: string } }) => {
    console.error("no connection:", error.data?.code ?? error.message);
    // After a refusal the library does not try again.
    if (!socket.active) setTimeout(() => socket.connect(), AFTER_REFUSAL_MS);
  });

  return socket;
}
