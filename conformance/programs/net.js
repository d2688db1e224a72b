'use strict';
// A plain TCP server: says who it is in one line of JSON, then sends back what it gets.
const net = require('net');
const { who } = require('./answer');

net.createServer((socket) => {
  socket.on('error', () => {});
  socket.write(JSON.stringify(who) + '\n');
  socket.pipe(socket);
}).listen(process.env.SOCKET ?? process.env.PORT ?? 0, process.env.HOST);
