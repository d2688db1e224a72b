'use strict';
// Two HTTP servers on ports that the system chooses; each tells both ports, as a message to the parent and over HTTP.
const http = require('http');

const ports = [];
for (let n = 0; n < 2; n++) {
  const server = http.createServer((req, res) => res.end(JSON.stringify({ pid: process.pid, ports })));
  server.listen(0, process.env.HOST, () => {
    ports[n] = server.address().port;
    if (ports.filter(Boolean).length === 2 && process.send) process.send({ ports });
  });
}
