const http = require('node:http');

let leaving = false;
const server = http.createServer((request, response) => {
  response.setHeader('x-worker', process.pid);
  if (leaving) response.setHeader('connection', 'close');
  response.end('hello from Bun\n');
});
server.listen(process.env.PORT, '127.0.0.1');

// Bun ends at SIGTERM unless it is handled. It closes idle connections at once, and a request may just be on its way on one: for a
// second clients are told first.
process.on('SIGTERM', () => {
  leaving = true;
  setTimeout(() => server.close(() => process.exit(0)), 1000);
});
