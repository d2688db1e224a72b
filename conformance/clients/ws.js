'use strict';
// node ws.js PORT COUNT: that many WebSocket connections. Prints [{worker, echo}]: who answered, and what came back.
const { WebSocket } = require('../runtimes/node_modules/ws');

const [port, count] = process.argv.slice(2).map(Number);

function talk() {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(`ws://127.0.0.1:${port}`, { handshakeTimeout: 30000 });
    let worker;
    socket.on('error', reject);
    socket.on('message', (data) => {
      if (worker === undefined) {
        worker = JSON.parse(data).worker;
        return socket.send('hello');
      }
      socket.close();
      resolve({ worker, echo: data.toString() });
    });
  });
}

(async () => {
  const answers = [];
  while (answers.length < count) answers.push(await talk());
  console.log(JSON.stringify(answers));
})();
