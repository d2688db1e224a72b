'use strict';
// Lets an unmodified Node program leave without dropping a request, and shows that its event loop turns. `thead` loads this
// file in front of the program, `node --require preload.cjs … script`, in Node 18 to 26. It changes nothing until the primary
// sends one of
//
//   {"cmd":"NODE_THEAD_BEAT","every":MS}, which is answered by {"cmd":"NODE_THEAD_BEAT"} that often, or never again for 0
//   {"cmd":"NODE_THEAD_ENV","env":{NAME:TEXT_OR_NULL}}, which changes process.env
//   {"cmd":"NODE_THEAD_DRAIN","handBack":BOOL,"lameDuck":MS}
//
// An HTTP/1.1 connection over plain TCP or a Unix socket has no state outside the kernel between two requests. So with a
// successor (`handBack`), each one goes back to the primary the moment it is idle,
//
//   {"cmd":"NODE_THEAD_HANDBACK","address":…,"port":…,"family":…} or {…,"path":…}, with the connection as descriptor
//
// and the client never notices. Where that cannot be (TLS, HTTP/2, no successor) clients are asked to leave: "Connection:
// close" on answers, GOAWAY; what is idle after `lameDuck` ms is closed. Upgraded connections and plain `net` servers are
// waited for. When the last connection is gone the worker disconnects as cluster.worker.disconnect() does; nothing here
// ends the process.

// Only the main thread of a cluster worker has both. A grandchild started with our execArgv, or a thread, has not.
const worker = process.channel && require('cluster').worker;
if (worker) watch();

function watch() {
  // child_process.fork() gives process.execArgv to grandchildren: this file is none of theirs.
  const at = process.execArgv.indexOf(__filename);
  if (at > 0) process.execArgv.splice(at - 1, 2);

  // Loaded by Node for the channel already; 'http' and the like are not, and may never be needed.
  const { Server } = require('net');
  const { listen, close } = Server.prototype;
  const { send } = process;
  const beat = heart(send);
  const servers = new Set(); // of WeakRef: a server that the program forgets must not live on here
  const sessions = new Set(); // open HTTP/2 sessions, which Node 18 to 22 keep no list of
  let draining = false;

  Server.prototype.listen = function(...args) {
    let known = false;
    for (const ref of servers) {
      const server = ref.deref();
      if (server === this) known = true;
      else if (!server) servers.delete(ref);
    }
    if (!known) {
      servers.add(new WeakRef(this));
      // The class is not exported; its name is the only mark before the first session.
      if (/^Http2(Secure)?Server$/.test(this.constructor.name)) this.on('session', remember);
    }
    return Reflect.apply(listen, this, args);
  };

  function remember(session) {
    sessions.add(session);
    session.once('close', () => sessions.delete(session));
  }

  // After Node's own listener for the same event: a new connection has reached its server by now.
  process.on('internalMessage', (message, handle) => {
    if (message.cmd === 'NODE_THEAD_DRAIN' && !draining) {
      draining = true;
      // In a later turn: a connection accepted in this one has a resume() pending that would undo our readStop().
      setImmediate(() => drain(message, [...servers].map((ref) => ref.deref()), sessions, { close, send }));
    } else if (message.cmd === 'NODE_THEAD_BEAT') {
      beat(message.every);
    } else if (message.cmd === 'NODE_THEAD_ENV') {
      for (const [name, value] of Object.entries(message.env)) {
        if (value === null) delete process.env[name];
        else process.env[name] = value;
      }
    } else if (message.act === 'newconn' && message.idle && handle) {
      expectNextRequest(handle);
    }
  });
}

// Heartbeats. Whoever debugs the program stops it for as long as he likes: then there are none.
function heart(send) {
  // The program may replace them (tests of time do).
  const { setInterval, clearInterval } = globalThis;
  const debugs = /^--inspect(-brk|-wait)?(=|$)/;
  if (process.execArgv.concat(process.env.NODE_OPTIONS?.split(/\s+/) ?? []).some((option) => debugs.test(option))) {
    return () => {};
  }
  // A worker that hangs is asked for its stack, by SIGUSR1: not on the port that all share who do not say otherwise.
  process.debugPort = 0;
  let timer;
  let written = true;
  const done = () => { written = true; };

  function show() {
    // One at a time: should nobody read them, they do not pile up.
    if (!written || !process.connected) return;
    written = false;
    Reflect.apply(send, process, [{ cmd: 'NODE_THEAD_BEAT' }, undefined, undefined, done]);
  }

  return (every) => {
    clearInterval(timer);
    if (!every) return;
    timer = setInterval(show, every).unref();
    show();
  };
}

// A connection that its last worker gave back waits for its next request, not for its first: after keepAliveTimeout it is
// closed without a word, where Node would answer a fresh one with 408 after headersTimeout, which a client could take for
// the answer to the request it is just sending.
function expectNextRequest(handle) {
  const socket = handle[Object.getOwnPropertySymbols(handle).find((symbol) => symbol.description === 'owner_symbol')];
  if (!socket?._server) return; // refused by the server
  const { keepAliveTimeout = 0, keepAliveTimeoutBuffer = 0, headersTimeout = 0 } = socket._server;
  const limit = Math.min(
    keepAliveTimeout ? keepAliveTimeout + keepAliveTimeoutBuffer : Infinity,
    headersTimeout ? Math.max(headersTimeout - 1000, 1) : Infinity,
  );
  if (limit === Infinity) return;
  // Bytes and not socket.setTimeout(), which would have to be undone in time to not cut a long request.
  setTimeout(() => { if (socket.bytesRead === 0) socket.destroy(); }, limit).unref();
}

const PATIENCE = 5000; // ms; a connection that was never idle for so long is closed after its next answer
const POLL = 20; // ms; for what becomes idle otherwise than by the end of a response
const WINDOW = 64; // connections on their way to the primary; the others are still served here

function drain({ handBack = false, lameDuck = 0 }, known, sessions, { close, send }) {
  const { subscribe } = require('diagnostics_channel');
  const homes = new Map(); // HTTP server → where the primary finds its listener, or undefined
  const leaving = new Set(); // connections on their way to the primary
  const traffic = new WeakMap(); // connection → bytes that went over it when it was last looked at
  const early = new WeakSet(); // connections that were answered before their request had come
  const patience = Date.now() + PATIENCE;
  let waiting = 1; // servers that still have connections, those connections, and this function
  let sweeping = false;
  let nextClose = Date.now() + lameDuck;

  subscribe('http.server.request.start', ({ server, socket, response }) => {
    if (!home(server, socket) || early.has(socket) || Date.now() > patience) response.shouldKeepAlive = false;
  });
  subscribe('http.server.response.finish', ({ request, server, socket }) => {
    if (!home(server, socket)) return;
    // The rest of it may come together with the next request: then it is never idle, and its client is asked to leave.
    if (!request.complete) early.add(socket);
    sweepSoon();
  });

  for (const server of known) {
    if (!server || !(server._handle || server._connections)) continue;
    waiting++;
    server.once('close', done);
    if (!connections(server)) continue;
    homes.set(server, handBack ? address(server) : undefined);
    for (const { socket, incoming } of connections(server).all()) {
      if (!socket) continue;
      isUsed(socket);
      const response = socket._httpMessage;
      // With more requests behind this one, "close" would be a lie about them.
      if (response && response.req === incoming && !home(server, socket)) response.shouldKeepAlive = false;
    }
  }
  // GOAWAY. Not goaway(0, 2 ** 31 - 1) first, by which other servers gain time: Node then ignores new streams all the same,
  // and the client waits for them, where this tells it at once which ones to ask again elsewhere.
  for (const session of sessions) session.close();
  if (handBack) closeServers();
  const timer = setInterval(poll, POLL);
  poll();
  done();

  function done() {
    if (--waiting > 0) return;
    clearInterval(timer);
    worker.disconnect();
  }

  // Not now: Node has not yet let go of the response, nor has the program seen its 'finish'. And not for each of them: a
  // sweep looks at all connections, so it should find room for some.
  function sweepSoon() {
    if (sweeping || leaving.size > WINDOW / 2) return;
    sweeping = true;
    setImmediate(() => {
      sweeping = false;
      for (const server of homes.keys()) sweep(server, connections(server).idle(), false);
    });
  }

  function poll() {
    const late = Date.now() >= nextClose;
    if (late) {
      nextClose = Date.now() + lameDuck;
      closeServers();
      for (const session of sessions) session.close(); // those of the lame-duck
    }
    for (const server of homes.keys()) {
      const fresh = connections(server).all().filter(({ socket }) => socket?.bytesRead === 0);
      sweep(server, new Set(connections(server).idle().concat(fresh)), late); // Node 26 calls fresh ones idle
    }
  }

  // net.Server's own close, on HTTP servers too: theirs also closes idle connections, in the face of the next request.
  function closeServers() {
    for (const server of known) if (server?._handle) Reflect.apply(close, server, []);
  }

  function home(server, socket) {
    // A socket that comes from elsewhere than this server's listener must not go there.
    return socket._server === server && !socket.encrypted && homes.get(server);
  }

  // For connections whose parser is between two requests, or before the first.
  function sweep(server, parsers, late) {
    for (const { socket, incoming } of parsers) {
      if (!socket?._handle || leaving.has(socket)) continue;
      const listener = home(server, socket);
      const response = socket._httpMessage;
      if (response) {
        // A client that pipelines would never let it become idle.
        if (listener && incoming && incoming !== response.req) stopReading(socket);
      } else if (!isQuiet(socket)) {
        continue;
      } else if (!listener) {
        // One that has just answered gets as long to leave as the others had.
        if (late && !isUsed(socket)) socket.destroy();
      } else if (leaving.size < WINDOW) {
        giveBack(socket, listener);
      }
    }
  }

  // Whether anything went over a connection since this was last asked.
  function isUsed(socket) {
    const bytes = socket.bytesRead + socket.bytesWritten;
    const used = bytes !== traffic.get(socket);
    traffic.set(socket, bytes);
    return used;
  }

  function giveBack(socket, listener) {
    waiting++;
    leaving.add(socket);
    socket.setTimeout(0);
    stopReading(socket);
    Reflect.apply(send, process, [{ cmd: 'NODE_THEAD_HANDBACK', ...listener }, socket._handle, () => {
      leaving.delete(socket);
      socket.destroy(); // the descriptor is on its way: this closes our copy and not the connection
      sweepSoon();
      done();
    }]);
  }

  // Where the primary listens for this server: undefined if it does not, or if it would not do.
  function address(server) {
    // Handles of the cluster bring a close() of their own; exclusive and reusePort listeners are the worker's.
    if (!server._handle || !Object.hasOwn(server._handle, 'close')) return undefined;
    // Without Node's own listener the first bytes are not HTTP: something like a PROXY header is taken off first.
    if (!server.listeners('connection').some(({ name }) => name === 'connectionListener')) return undefined;
    const listener = server.address();
    return typeof listener === 'string' ? { path: require('path').resolve(listener) } : listener ?? undefined;
  }
}

// Node: lib/_http_server.js. Parsers of an HTTP server, by state; undefined for other servers.
function connections(server) {
  return server[Object.getOwnPropertySymbols(server).find((key) => key.description === 'http.server.connections')];
}

// Nothing is read that has not been parsed, nothing is answered that has not been sent, and nobody has said goodbye.
function isQuiet(socket) {
  return !socket.readableLength && !socket.readableEnded && !socket.writableLength && !socket.writableEnded;
}

// For good: from here every byte stays in the kernel, for the successor, whoever calls resume().
function stopReading({ _handle: handle }) {
  handle.readStart = () => 0;
  handle.readStop();
}
