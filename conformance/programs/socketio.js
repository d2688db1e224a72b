'use strict';
// A socket.io server as its guide has it, without an adapter: a session lives in one worker. Says who it is, then sends back
// what it gets.
const http = require('http');
const { Server } = require('socket.io');
const answer = require('./answer');

const server = http.createServer(answer);
new Server(server).on('connection', (socket) => {
  socket.emit('who', answer.who);
  socket.on('echo', (data, reply) => reply(data));
});
server.listen(process.env.PORT ?? 0, process.env.HOST);
