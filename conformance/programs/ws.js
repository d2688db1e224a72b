'use strict';
// A WebSocket server beside plain HTTP: says who it is, then sends back what it gets.
const http = require('http');
const { WebSocketServer } = require('ws');
const answer = require('./answer');

const server = http.createServer(answer);
new WebSocketServer({ server }).on('connection', (socket) => {
  socket.on('error', () => {});
  socket.on('message', (data, binary) => socket.send(data, { binary }));
  socket.send(JSON.stringify(answer.who));
});
server.listen(process.env.PORT ?? 0, process.env.HOST);
