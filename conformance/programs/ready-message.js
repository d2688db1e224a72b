'use strict';
// The contract of PM2: listens at once, is ready READY_AFTER ms later ('ready'), leaves on 'shutdown' or SIGINT.
const http = require('http');
const answer = require('./answer');

const server = http.createServer(answer);
server.listen(process.env.PORT ?? 0, process.env.HOST, () => {
  setTimeout(() => process.send && process.send('ready'), Number(process.env.READY_AFTER ?? 0));
});

function leave() {
  server.close(() => process.exit(0));
  server.closeIdleConnections();
}
process.on('message', (message) => message === 'shutdown' && leave());
process.on('SIGINT', leave);
