#!/usr/bin/env bash
# io.socket:socket.io-client 2.1.2 (Java, Android): a WebSocket that the server closes with a close frame
# stays "connected" until the ping timeout.
#   expected  the event `disconnect` at once, as in socket.io-client 4.8.1 (JavaScript) on the same server
#   seen      nothing, although the end of TCP follows the frame; `disconnect` comes with "ping timeout".
#             Without a close frame the end of TCP is heard at once, as "transport error" or "transport close"
# Why it matters: a server that says goodbye properly before a restart keeps such a client waiting for
#   pingInterval + pingTimeout (45 s by default); one that just hangs up has it back within a second.
# Guess before the run: both clients hear the close frame at once.
# Needs Node, npm, a JDK and Maven.
set -euo pipefail
folder=$(mktemp -d)
server=
trap 'kill $server 2>/dev/null || true; rm -rf "$folder"' EXIT
cd "$folder"
npm install --silent --no-audit --no-fund socket.io@4.8.1 socket.io-client@4.8.1 >/dev/null
cat >pom.xml <<'XML'
<project><modelVersion>4.0.0</modelVersion><groupId>x</groupId><artifactId>x</artifactId><version>1</version>
<dependencies><dependency><groupId>io.socket</groupId><artifactId>socket.io-client</artifactId><version>2.1.2</version></dependency></dependencies></project>
XML
mvn -q -B -Dmaven.repo.local="$folder/m2" dependency:copy-dependencies -DoutputDirectory=jars >mvn.out 2>&1 || { cat mvn.out; exit 1; }

# Half a second after the connection, the server ends it: `frame` with a close frame and then FIN,
# `fin` with FIN alone. A ping is due after 4 s, and the client waits for it 3 s longer.
cat >server.js <<'JS'
const { Server } = require("socket.io");
const http = require("http").createServer();
const io = new Server(http, { pingInterval: 4000, pingTimeout: 3000 });
io.on("connection", (socket) => setTimeout(() => {
  const ws = socket.conn.transport.socket;
  const tcp = ws._socket;
  if (socket.handshake.query.how === "frame") ws.close(1001);
  tcp.end();
}, 500));
http.listen(0, "127.0.0.1", () => console.log(http.address().port));
JS
cat >client.js <<'JS'
const [url, how] = process.argv.slice(2);
const socket = require("socket.io-client").io(url, { transports: ["websocket"], reconnection: false, query: { how } });
let begin;
socket.on("connect", () => (begin = Date.now()));
socket.on("disconnect", (why) => { console.log(Date.now() - begin, why); process.exit(); });
JS
cat >Client.java <<'JAVA'
import io.socket.client.*;
import java.net.URI;
class Client {
  public static void main(String[] args) throws Exception {
    IO.Options options = IO.Options.builder().setTransports(new String[] {"websocket"})
        .setReconnection(false).setQuery("how=" + args[1]).build();
    Socket socket = IO.socket(URI.create(args[0]), options);
    long[] begin = {0};
    socket.on(Socket.EVENT_CONNECT, x -> begin[0] = System.currentTimeMillis());
    socket.on(Socket.EVENT_DISCONNECT, x -> {
      System.out.println(System.currentTimeMillis() - begin[0] + " " + x[0]);
      System.exit(0);
    });
    socket.connect();
    Thread.sleep(30000);
    System.out.println("30000 no disconnect");
    System.exit(0);
  }
}
JAVA
javac -cp 'jars/*' Client.java
node server.js >port 2>server.err &
server=$!
until [ -s port ]; do sleep 0.1; done
url=http://127.0.0.1:$(cat port)

told() { # client, how; prints milliseconds and reason
  case $1 in
    js) node client.js "$url" "$2" ;;
    java) java -cp 'jars/*:.' Client "$url" "$2" 2>/dev/null ;;
  esac
}
for client in js java; do
  for how in frame fin; do
    said=$(told $client $how)
    echo "$client, $how: disconnect after ${said/ / ms: }"
    at_once=$((${said%% *} < 3000))
    expected=1
    [ $client-$how != java-frame ] || expected=0
    [ $at_once = $expected ] || { echo 'CHANGED'; exit 1; }
  done
done
