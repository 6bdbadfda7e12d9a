// What both clients are told of the company that they follow.

/** The data of an event. Those of the log have a `seq`. */
export interface EventData {
  seq?: number;
  [name: string]: unknown;
}

/** The company to follow, and the page that shows it. */
export interface Company {
  /** Address of a realtime node, or of the balancer in front of them: `http://…` or `https://…`. */
  realtime: string;
  /** Conversations to join, which is what `typing:indicator` is sent to. */
  conversations: string[];
  /** Gives an access token that is still valid. It is asked for before each connection. */
  token(): Promise<string>;
  /** Loads the lists that the page shows, and gives the least `as_of_seq` of them. */
  fetchLists(): Promise<number>;
  /** Takes an event. Events with a `seq` come in order; none is missing and none comes twice. */
  onEvent(event: string, data: EventData): void;
  /** The server has closed the socket, and the client must not come back by itself. */
  onEnd(code: number, reason: string): void;
}

/** Fetches until the lists contain everything up to `seq`. A `resync` asks for that. */
export async function fetchUpTo(seq: number, company: Company): Promise<void> {
  for (;;) {
    try {
      if ((await company.fetchLists()) >= seq) return;
    } catch (error) {
      console.error("the lists cannot be fetched:", error);
    }
    await new Promise((resolve) => setTimeout(resolve, 500));
  }
}
