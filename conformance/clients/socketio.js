'use strict';
// node socketio.js PORT CLIENTS MESSAGES TRANSPORT…: socket.io clients, each from an address of its own (127.0.1.N), that say
// so much one after the other, and give up at the first error. Every request of the polling transport has a new connection.
// Prints {clients: [{workers, transport, echoes}], errors: {MESSAGE: n}}; workers: who greeted it, once for each session.
const http = require('http');
const { io } = require('../runtimes/node_modules/socket.io-client');

const [port, clients, messages] = process.argv.slice(2).map(Number);
const transports = process.argv.slice(5);
const errors = {};

async function client(n) {
  const agent = new http.Agent({ keepAlive: false, localAddress: `127.0.1.${n}` });
  const seen = { workers: [], transport: null, echoes: 0 };
  const socket = io(`http://127.0.0.1:${port}`, { agent, transports, forceNew: true });
  const failed = new Promise((_, reject) => {
    socket.on('connect_error', reject);
    socket.io.engine.on('upgradeError', reject);
    socket.on('disconnect', (reason) => reject(new Error(reason)));
  });
  socket.on('who', ({ worker }) => seen.workers.push(worker));
  try {
    for (let message = 0; message < messages; message++) {
      const echo = await Promise.race([socket.emitWithAck('echo', `${n} ${message}`), failed]);
      if (echo === `${n} ${message}`) seen.echoes++;
    }
    seen.transport = socket.io.engine.transport.name;
  } catch (error) {
    const what = `${error.message} ${error.description ?? ''}`;
    errors[what] = (errors[what] ?? 0) + 1;
  }
  failed.catch(() => {});
  socket.disconnect();
  return seen;
}

Promise.all(Array.from({ length: clients }, (_, n) => client(n + 1))).then((clients) => {
  console.log(JSON.stringify({ clients, errors }));
  process.exit();
});
