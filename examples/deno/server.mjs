import http from 'node:http';
import process from 'node:process';

let leaving = false;
const server = http.createServer((request, response) => {
  response.setHeader('x-worker', process.pid);
  if (leaving) response.setHeader('connection', 'close');
  response.end('hello from Deno\n');
});
server.listen(process.env.PORT, '127.0.0.1');

// A worker that is told to leave closes its server, which closes idle connections at once, and a request may just be on its way
// on one: for a second clients are told first.
const closeIdleConnections = server.closeIdleConnections.bind(server);
server.closeIdleConnections = () => {
  leaving = true;
  setTimeout(closeIdleConnections, 1000);
};
